// An update rule bound to a model's flat arrays.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/operation/reduce.hpp>
#include <mortise/operation/update.hpp>
#include <mortise/optimizer/group.hpp>
#include <mortise/optimizer/update_rule.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

namespace detail {

template <class Spec>
inline constexpr bool is_spec = is_group<Spec> || is_freeze<Spec> || is_no_weight_decay<Spec> || is_layer_wise<Spec>;

[[noreturn]] MORTISE_COLD inline void throw_group_range(std::size_t group, std::size_t count) {
  throw usage_error("mortise::optimizer: there is no parameter group " + std::to_string(group) + "; this optimizer has " + std::to_string(count) +
                    " (group 0 holds all parameters that no group<\"path\"> names)");
}
[[noreturn]] MORTISE_COLD inline void throw_no_learning_rate() {
  throw usage_error("mortise::optimizer: the rule has no learning rate; put mortise::scale_by_learning_rate at the end of the chain, or visit \"lr\" in the "
                    "rule's settings(visit)");
}

[[noreturn]] MORTISE_COLD inline void throw_setting_range(std::string_view name, double value, char const* range) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  throw usage_error("mortise::optimizer: " + std::string{name} + " is " + text + "; it must be " + range);
}
/// PyTorch's limits. Throws usage_error.
MORTISE_COLD inline void check_setting(std::string_view name, double value) {
  for (std::string_view const positive : {"lr", "eps", "weight_decay", "momentum", "alpha", "lr_decay", "momentum_decay", "max_norm"})
    if (name == positive && !(value >= 0)) throw_setting_range(name, value, "at least 0");
  if (name == "rho" && !(value >= 0 && value <= 1)) throw_setting_range(name, value, "from 0 to 1");
  if (name == "betas" && !(value >= 0 && value < 1)) throw_setting_range(name, value, "from 0 to below 1");
}
template <class Rule>
MORTISE_COLD void check_settings(Rule& rule) {
  double momentum = 1, dampening = 0;
  bool nesterov = false;
  visit_settings(rule, [&](std::string_view name, auto& value) {
    using setting = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::is_same_v<setting, bool>) {
      if (name == "nesterov") nesterov = value;
    } else if constexpr (requires { value[1]; }) {
      check_setting(name, value[0]);
      check_setting(name, value[1]);
    } else if constexpr (std::is_convertible_v<setting, double>) {
      double const v = static_cast<double>(value);
      check_setting(name, v);
      if (name == "momentum") momentum = v;
      if (name == "dampening") dampening = v;
    }
  });
  if (nesterov && (momentum <= 0 || dampening != 0))
    throw usage_error("mortise::optimizer: nesterov needs a momentum above 0 and no dampening");
}

}  // namespace detail

/// Which elements of the flat arrays an optimizer works on.
struct optimizer_window {
  std::size_t first = 0;
  std::size_t count = 0;
};

/// Updates a model's trainable parameters from its gradients by `Rule`: one fused pass over the flat arrays, nothing allocated.
///
///     mt::optimizer opt{net, mt::sgd{.lr = 0.01f, .momentum = 0.9f}, mt::group<"features">{.lr = 0.001f}, mt::freeze<"features.0">{}};
///
/// Group 0 holds what no group names, group 1 is the first one that is written, and so on; mt::summary(net, opt) lists who is in which.
/// After the rule also come no_weight_decay and layer_wise_lr_decay (optimizer/group.hpp). Slots lie in one buffer, each with the layout of the
/// trainable parameters; only those that the settings need exist. The model must outlive the optimizer and stay where it is.
template <class Model, UpdateRule Rule, class... Specs>
class optimizer {
  static_assert((detail::is_spec<Specs> && ...),
                "mortise::optimizer: after the model and the rule come groups: mortise::group<\"path\">{...}, mortise::freeze<\"path\">{}, "
                "mortise::no_weight_decay<>{} or mortise::layer_wise_lr_decay<>{.decay = ...}");
  static_assert((std::size_t{0} + ... + (detail::is_layer_wise<Specs> ? 1 : 0)) <= 1,
                "mortise::optimizer: layer_wise_lr_decay stands here twice; a parameter belongs to one layer");
  static_assert((detail::spec_fits<Model, Specs>::value && ...));

 public:
  using element = typename Model::element;
  using device_type = typename Model::device_type;
  using rule_type = Rule;

  static constexpr std::size_t element_count = Model::trainable_count;
  /// Trainable parameters: the first entries of the model's parameter table.
  static constexpr std::size_t parameter_count = [] {
    std::size_t n = 0;
    for (std::size_t i = 0; i < Model::parameter_table.size(); ++i) n += Model::parameter_table[i].trainable ? 1 : 0;
    return n;
  }();

 private:
  static constexpr auto assignment = detail::assign_groups<parameter_count, Specs...>(Model::parameter_table);

 public:
  static constexpr std::size_t group_count = assignment.group_count;
  /// Group 0 and those that are written as group<...>; the groups behind them are parts of these.
  static constexpr std::size_t written_group_count = (std::size_t{1} + ... + (detail::is_group<Specs> ? 1 : 0));
  /// The group that `group` is a part of.
  static constexpr std::size_t written_group(std::size_t group) { return assignment.groups[group].written; }

  explicit optimizer(Model& model, Rule const& rule = {}, Specs const&... specs)
      : optimizer{model, optimizer_window{0, element_count}, rule, specs...} {}
  /// Keeps state for, and updates, the elements of `window` alone: one of several processes that share the work. `slot` is then the window's.
  optimizer(Model& model, optimizer_window const& window, Rule const& rule, Specs const&... specs)
      : model_{&model}, window_{window}, groups_{copies_of(rule, std::make_index_sequence<group_count>{})} {
    [[maybe_unused]] std::uint32_t next = 1;
    (apply(specs, next), ...);
    (apply_everywhere(specs), ...);
    for (Rule& r : groups_) detail::check_settings(r);
    parts_.reserve(parameter_count);
    frozen_ = assignment.frozen;
    fit_slots();
    if constexpr (detail::needs_gradient_norm<Rule>())
      norm_workspace_ = buffer<element, device_type>{model.device(), reduction_workspace(element_count) + parameter_count};
  }

  optimizer(optimizer&&) noexcept = default;
  optimizer& operator=(optimizer&&) noexcept = default;  // no copies: two optimizers of one model would both own its state

  /// One update of all parameters that are not frozen.
  void step() {
    if (!ranges_are_current()) [[unlikely]]
      find_ranges();
    if (needed_slots() != allocated_) [[unlikely]]
      fit_slots();
    device_type const& device = model_->device();
    arrays_.parameters = model_->parameters().data() + window_.first;
    arrays_.gradients = model_->gradients().data() + window_.first;
    [[maybe_unused]] element norm{};
    if constexpr (norm_on_device) squared_gradient_norm_on(device);
    else if constexpr (detail::needs_gradient_norm<Rule>()) norm = gradient_norm();
    run_passes(device, norm, std::make_index_sequence<masks.size()>{});
    for (std::size_t r = 0; r < range_count_; ++r) {
      range& part = ranges_[r];
      if (part.frozen) continue;
      ++part.updates;
      for (std::size_t i = part.first_parameter; i < part.last_parameter; ++i) ++updates_[i];
    }
    ++steps_;
  }

  /// Fills the gradients with zeros. Not needed between steps: backward overwrites them.
  void zero_grad() { model_->device().fill_zero(model_->gradients().data(), element_count * sizeof(element)); }

  // ---- settings ---------------------------------------------------------------------------------------------------------------------

  /// The rule of a group, to read or change its settings: opt.rule(1).weight_decay = 0.
  Rule& rule(std::size_t group = 0) {
    if (group >= group_count) detail::throw_group_range(group, group_count);
    return groups_[group];
  }
  Rule const& rule(std::size_t group = 0) const { return const_cast<optimizer&>(*this).rule(group); }

  double learning_rate(std::size_t group = 0) const { return const_cast<optimizer&>(*this).rate_of(group); }
  /// Throws usage_error when the group or the rule's learning rate does not exist.
  void set_learning_rate(double lr, std::size_t group = 0) { rate_of(group) = lr; }

  /// The group of a trainable parameter, by its position in the model's parameter table.
  static constexpr std::size_t group_of(std::size_t parameter) { return assignment.group[parameter]; }
  bool is_frozen(std::size_t parameter) const { return frozen_[parameter]; }
  /// What a group is, in words: `"features", no weight decay, 2 layers from the end`.
  static std::string group_text(std::size_t group) {
    auto const& key = assignment.groups[group];
    std::string text = "the rest";
    [[maybe_unused]] std::uint32_t number = 0;
    [[maybe_unused]] auto const look = [&]<class Spec>(std::type_identity<Spec>) {
      if (detail::is_group<Spec> && ++number == key.written) text = detail::spec_paths<Spec>::text();
    };
    (look(std::type_identity<Specs>{}), ...);
    if (key.no_decay) text += ", no weight decay";
    if (key.distance != 0) text += ", " + std::to_string(key.distance) + (key.distance == 1 ? " layer" : " layers") + " from the end";
    return text;
  }

  /// From now on these parameters keep their bits; their state stays where it is.
  template <fixed_string... Paths>
  void freeze() {
    static_assert((detail::check_path<Model, Paths>() && ...));
    for (std::size_t i = 0; i < parameter_count; ++i)
      if (detail::path_list<Paths...>::match(Model::parameter_table[i].name)) frozen_[i] = true;
  }
  /// These parameters are updated again: with the state that they had, or anew (zero slots, updates counted from 1).
  template <fixed_string... Paths>
  void unfreeze(bool start_anew = false) {
    static_assert((detail::check_path<Model, Paths>() && ...));
    for (std::size_t i = 0; i < parameter_count; ++i) {
      auto const& p = Model::parameter_table[i];
      if (!detail::path_list<Paths...>::match(p.name) || !frozen_[i]) continue;
      frozen_[i] = false;
      if (!start_anew) continue;
      updates_[i] = 0;
      std::size_t const first = p.offset > window_.first ? p.offset : window_.first;
      std::size_t const end = p.offset + p.size < window_.first + window_.count ? p.offset + p.size : window_.first + window_.count;
      if (first >= end) continue;
      for (std::size_t s = 0; s < slot_count(); ++s)
        model_->device().fill_zero(slot(s).data() + (first - window_.first), (end - first) * sizeof(element));
    }
  }

  // ---- state ------------------------------------------------------------------------------------------------------------------------

  /// Calls of step().
  std::int64_t steps() const { return steps_; }
  /// Updates of a trainable parameter: PyTorch's state[i]["step"]. Fewer than steps() when it was frozen for a while.
  std::int64_t updates(std::size_t parameter) const { return updates_[parameter]; }

  /// The slots that the settings need, each a flat array with the layout of the trainable parameters.
  std::size_t slot_count() const {
    std::size_t n = 0;
    for (std::size_t i = 0; i < Rule::slots; ++i) n += allocated_ >> i & 1u;
    return n;
  }
  /// PyTorch's name of the i-th of them: "exp_avg".
  std::string_view slot_name(std::size_t i) const { return detail::slot_name<Rule>(rule_slot(i)); }
  view<element> slot(std::size_t i) { return {arrays_.slots[rule_slot(i)], shape{window_.count}}; }
  view<element const> slot(std::size_t i) const { return {arrays_.slots[rule_slot(i)], shape{window_.count}}; }
  /// A slot by name; throws usage_error when there is none.
  view<element> state(std::string_view name) {
    std::string have;
    for (std::size_t i = 0; i < slot_count(); ++i) {
      if (slot_name(i) == name) return slot(i);
      have += (i == 0 ? "" : ", ") + std::string{slot_name(i)};
    }
    throw usage_error("mortise::optimizer::state: no slot \"" + std::string{name} + "\"; there " +
                      (have.empty() ? "are none with these settings" : "is " + have));
  }
  std::size_t state_bytes() const { return slots_.bytes(); }

  /// Every scalar of the state by name: "step", "updates", "frozen", "param_groups.0.lr", "param_groups.0.betas", ... The references stay
  /// valid as long as the optimizer.
  template <class Visitor>
  void describe(Visitor&& visit) {
    visit(std::string_view{"step"}, steps_);
    visit(std::string_view{"updates"}, updates_);
    visit(std::string_view{"frozen"}, frozen_);
    for (std::size_t g = 0; g < group_count; ++g) {
      std::string const prefix = "param_groups." + std::to_string(g) + ".";
      detail::visit_settings(groups_[g], [&](std::string_view name, auto& value) {
        std::string full = prefix;
        full += name;
        if constexpr (requires { value.value; }) visit(std::string_view{full}, value.value);
        else visit(std::string_view{full}, value);
      });
    }
  }

  Model& model() { return *model_; }
  Model const& model() const { return *model_; }

 private:
  /// Neighbouring parameters that are updated alike.
  struct range {
    std::size_t first = 0;
    std::size_t count = 0;
    std::size_t first_parameter = 0;
    std::size_t last_parameter = 0;
    std::int64_t updates = 0;
    std::uint32_t group = 0;
    bool frozen = false;
  };

  static constexpr auto masks = detail::slot_masks<Rule>();

  /// Writes a group's settings into all groups that are parts of the one they are written for.
  template <class Spec>
  void apply(Spec const& spec, std::uint32_t& next) {
    if constexpr (detail::is_group<Spec>) {
      for (std::size_t i = 0; i < group_count; ++i)
        if (assignment.groups[i].written == next) detail::apply_group(spec, groups_[i]);
      ++next;
    }
  }

  /// The same for what holds in all groups; comes after the groups' own settings.
  template <class Spec>
  void apply_everywhere(Spec const& spec) {
    for (std::size_t i = 0; i < group_count; ++i) {
      [[maybe_unused]] auto const& key = assignment.groups[i];
      if constexpr (detail::is_no_weight_decay<Spec>) {
        if (key.no_decay) detail::apply_group(group<"no_weight_decay">{.weight_decay = 0}, groups_[i]);
      } else if constexpr (detail::is_layer_wise<Spec>) {
        if (key.distance != 0) rate_of(i) *= detail::integer_power(spec.decay, key.distance);
      }
    }
  }

  double& rate_of(std::size_t group) {
    double* found = nullptr;
    detail::visit_settings(rule(group), [&](std::string_view name, auto& value) {
      using setting = std::remove_cvref_t<decltype(value)>;
      if constexpr (std::is_same_v<setting, detail::decimal>) {
        if (name == "lr" && found == nullptr) found = &value.value;
      } else if constexpr (std::is_same_v<setting, double>) {
        if (name == "lr" && found == nullptr) found = &value;
      }
    });
    if (found == nullptr) detail::throw_no_learning_rate();
    return *found;
  }

  /// False after freeze, unfreeze, and after a checkpoint was loaded through describe's references.
  bool ranges_are_current() const {
    if (range_count_ == 0) return parameter_count == 0;
    for (std::size_t r = 0; r < range_count_; ++r) {
      range const& part = ranges_[r];
      for (std::size_t i = part.first_parameter; i < part.last_parameter; ++i)
        if (frozen_[i] != part.frozen || updates_[i] != part.updates) return false;
    }
    return true;
  }
  MORTISE_COLD void find_ranges() {
    range_count_ = 0;
    for (std::size_t i = 0; i < parameter_count; ++i) {
      auto const& p = Model::parameter_table[i];
      range* const last = range_count_ == 0 ? nullptr : &ranges_[range_count_ - 1];
      if (last != nullptr && last->group == assignment.group[i] && last->frozen == frozen_[i] && last->updates == updates_[i] &&
          last->first + last->count == p.offset) {
        last->count += p.size;
        last->last_parameter = i + 1;
      } else {
        ranges_[range_count_++] = {p.offset, p.size, i, i + 1, updates_[i], assignment.group[i], frozen_[i]};
      }
    }
  }

  unsigned needed_slots() const {
    unsigned mask = 0;
    for (auto const& rule : groups_) mask |= detail::used_slots(rule);
    return mask;
  }
  /// Allocates the slots that the settings need; those that exist keep their values.
  MORTISE_COLD void fit_slots() {
    unsigned const needed = needed_slots();
    std::size_t count = 0;
    for (std::size_t i = 0; i < Rule::slots; ++i) count += needed >> i & 1u;
    buffer<element, device_type> fresh{model_->device(), count * window_.count};
    std::size_t next = 0;
    for (std::size_t i = 0; i < Rule::slots; ++i) {
      element* const old = arrays_.slots[i];
      if ((needed >> i & 1u) == 0) {
        arrays_.slots[i] = nullptr;
        continue;
      }
      element* const place = fresh.data() + next++ * window_.count;
      if (old != nullptr) model_->device().copy(place, old, window_.count * sizeof(element));
      arrays_.slots[i] = place;
    }
    model_->device().synchronize();
    slots_ = std::move(fresh);
    allocated_ = needed;
  }
  /// The rule's number of the i-th allocated slot.
  std::size_t rule_slot(std::size_t i) const {
    for (std::size_t s = 0; s < Rule::slots; ++s)
      if ((allocated_ >> s & 1u) != 0 && i-- == 0) return s;
    return 0;
  }

  /// Elsewhere than on the host the norm stays where it is computed: reading it would wait for the device.
  static constexpr bool norm_on_device = detail::needs_gradient_norm<Rule>() && !std::is_same_v<typename device_type::space, host_space>;

  /// Calls f(first, count) for each longest stretch of gradients that are not frozen, whatever groups they belong to.
  template <class F>
  void for_each_live_stretch(F const& f) const {
    for (std::size_t r = 0; r < range_count_;) {
      std::size_t const first = ranges_[r].first;
      bool const frozen = ranges_[r].frozen;
      std::size_t end = first;
      for (; r < range_count_ && ranges_[r].frozen == frozen && ranges_[r].first == end; ++r) end += ranges_[r].count;
      if (!frozen) f(first, end - first);
    }
  }
  void squared_gradient_norm_on(device_type const& device) {
    bool first = true;
    for_each_live_stretch([&](std::size_t begin, std::size_t count) {
      add_sum_of_squares(device, model_->gradients().data() + begin, count, norm_workspace_.data(), first);
      first = false;
    });
  }

  /// 2-norm of the gradients of all parameters that are not frozen.
  element gradient_norm() {
    element total{};
    for_each_live_stretch([&](std::size_t begin, std::size_t count) {
      total += sum_of_squares(model_->device(), model_->gradients().data() + begin, count, norm_workspace_.data());
    });
    return detail::sqrt(total);
  }

  static constexpr bool skips_overflows = requires(Model& m) { m.overflow(); };

  using update_function = detail::update_function<Rule, element>;

  /// One pass for all ranges whose rules use the same slots: nearly always one in all.
  template <std::size_t... I>
  void run_passes(device_type const& device, [[maybe_unused]] element norm, std::index_sequence<I...>) {
    [[maybe_unused]] auto const pass = [&]<unsigned Used>(std::integral_constant<unsigned, Used>) {
      parts_.clear();
      std::size_t begin = 0;
      for (std::size_t r = 0; r < range_count_; ++r) {
        range const& part = ranges_[r];
        Rule const& rule = groups_[part.group];
        if (part.frozen || detail::used_slots(rule) != Used) continue;
        std::size_t const first = part.first > window_.first ? part.first - window_.first : 0;
        std::size_t const end = part.first + part.count > window_.first ? part.first + part.count - window_.first : 0;
        std::size_t const last = end < window_.count ? end : window_.count;
        if (first >= last) continue;
        parts_.push_back({rule.template at<element>(update_step{part.updates + 1}), first, begin});
        if constexpr (detail::needs_gradient_norm<Rule>() && !norm_on_device) parts_.back().function.set_gradient_norm(norm);
        begin += last - first;
      }
      if (parts_.empty()) return;
      if constexpr (skips_overflows)  // a network that computes in 16 bits: the device decides whether to update
        update_parts<Used>(device, parts_.data(), parts_.size(), begin, arrays_, norm_on_device ? norm_workspace_.data() : nullptr, model_->overflow());
      else if constexpr (norm_on_device) update_parts<Used>(device, parts_.data(), parts_.size(), begin, arrays_, norm_workspace_.data());
      else update_parts<Used>(device, parts_.data(), parts_.size(), begin, arrays_);
    };
    (pass(std::integral_constant<unsigned, masks[I]>{}), ...);
  }

  /// Copies, not assignments: g++ 12 takes the assignment of a chain's tuple for one that writes beyond it.
  template <std::size_t... I>
  static std::array<Rule, group_count> copies_of(Rule const& rule, std::index_sequence<I...>) {
    return {{(static_cast<void>(I), rule)...}};
  }

  Model* model_;
  optimizer_window window_;
  std::array<Rule, group_count> groups_{};
  std::int64_t steps_ = 0;
  std::array<std::int64_t, parameter_count == 0 ? 1 : parameter_count> updates_{};
  std::array<bool, parameter_count == 0 ? 1 : parameter_count> frozen_{};
  std::array<range, parameter_count == 0 ? 1 : parameter_count> ranges_{};
  std::size_t range_count_ = 0;
  std::vector<update_part<update_function>> parts_{};  // scratch of one step
  update_arrays<element, Rule::slots> arrays_{};
  buffer<element, device_type> slots_{};
  buffer<element, device_type> norm_workspace_{};
  unsigned allocated_ = 0;
};

template <class Model, class Rule, class... Specs>
optimizer(Model&, Rule, Specs...) -> optimizer<Model, Rule, Specs...>;

// PyTorch's habit, Adam(net.parameters()): one mistake, one error.
template <class T, UpdateRule Rule, class... Specs>
class optimizer<view<T>, Rule, Specs...> {
  static_assert(sizeof(T) == 0, "mortise::optimizer: it takes the model and not its parameters: mt::optimizer opt{net, mt::adam{}}");

 public:
  optimizer(view<T>, Rule const&, Specs const&...) {}
  void step() {}
  void zero_grad() {}
};
template <class T, class Rule, class... Specs>
optimizer(view<T>, Rule, Specs...) -> optimizer<view<T>, Rule, Specs...>;

}  // namespace mortise
