// A checkpoint is the whole run: parameters, buffers, optimizer, schedule, sampler, counters, and the caller's own values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/schedule/schedules.hpp>
#include <mortise/train/state_dict.hpp>
#include <mortise/train/state_visitor.hpp>

namespace mortise {

/// One of the caller's own values in a checkpoint: a number, a boolean, a string, or a vector of numbers.
///
///     mt::checkpoint run{net, opt, loader, progress, mt::own{"patience", patience}, mt::own{"losses", losses}};
template <class T>
struct own {
  std::string_view name;
  T& value;
  own(std::string_view n, T& v) : name{n}, value{v} {}
};

namespace detail {

template <class P>
inline constexpr bool is_own = false;
template <class T>
inline constexpr bool is_own<own<T>> = true;

/// An optimizer: named slots with the layout of the parameters.
template <class P>
concept HasSlots = requires(P& p) {
  P::rule_type::slots;
  p.slot(std::size_t{0});
  p.slot_name(std::size_t{0});
  p.updates(std::size_t{0});
};

struct no_visitor {
  template <class T>
  void operator()(std::string_view, T&) const {}
};

/// Anything with scalars to describe and a place for them in a checkpoint.
template <class P>
concept Described = requires(P& p) {
  { P::state_name } -> std::convertible_to<std::string_view>;
  p.describe(no_visitor{});
};

/// Where the tensors of a part stand, and its scalars.
template <class P>
constexpr std::string_view tensors_key() {
  if constexpr (requires { P::state_name; }) return P::state_name;
  else return "model_state_dict";
}
template <class P>
std::string scalars_prefix() {
  if constexpr (requires { P::state_name; }) return "mortise." + std::string{P::state_name};
  else return "mortise.model";
}

/// "optimizer_state_dict.param_groups" parts of a dotted name become lists; this finds or makes the dict that the last part belongs in.
inline archive_value& nested(archive_value& root, std::string_view& name) {
  archive_value* at = &root;
  for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.')) {
    std::string_view const part = name.substr(0, dot);
    std::string_view const next = name.substr(dot + 1);
    bool const list_follows = !next.empty() && next[0] >= '0' && next[0] <= '9';
    if (at->is_list()) {
      std::size_t index = 0;
      for (char const c : part) index = index * 10 + static_cast<std::size_t>(c - '0');
      while (at->size() <= index) at->push_back(archive_value::dict());
      at = &(*at)[index];
    } else {
      if (!at->contains(part)) at->set(part, list_follows ? archive_value::list() : archive_value::dict());
      at = at->find(part);
    }
    name = next;
  }
  return *at;
}

struct nested_writer {
  archive_value& root;
  template <class T>
  void operator()(std::string_view name, T const& value) const {
    archive_value& dict = nested(root, name);
    dict.set(name, to_archive(value));
  }
};
struct nested_reader {
  archive_value const* root;
  std::string prefix;
  load_report& report;
  std::vector<pending_value>& pending;
  template <class T>
  void operator()(std::string_view name, T& value) const {
    std::size_t const dot = name.rfind('.');
    std::string_view const last = dot == std::string_view::npos ? name : name.substr(dot + 1);
    archive_value const* at = root;
    std::string full = prefix;
    if (dot != std::string_view::npos) {
      if (at != nullptr) at = at->find_path(name.substr(0, dot));
      full += name.substr(0, dot + 1);
    }
    state_reader{at, std::move(full), report, pending}(last, value);
  }
};

/// The number that PyTorch gives to each of our trainable parameters: it counts through the groups, in order.
template <class Optimizer>
std::vector<std::vector<std::size_t>> parameters_of_groups(Optimizer const&) {
  std::vector<std::vector<std::size_t>> groups(Optimizer::group_count);
  for (std::size_t i = 0; i < Optimizer::parameter_count; ++i) groups[Optimizer::group_of(i)].push_back(i);
  return groups;
}

inline constexpr std::string_view group_prefix = "param_groups.";

/// PyTorch's optimizer.state_dict(): {"state": {0: {"step", slots...}, ...}, "param_groups": [{settings, "params"}, ...], "param_names"}.
/// A parameter that was never updated has no entry in "state", as in PyTorch.
template <class Optimizer>
archive_value optimizer_tree(Optimizer& o) {
  using T = typename Optimizer::element;
  auto const& table = std::remove_cvref_t<decltype(o.model())>::parameter_table;
  std::size_t const slots = o.slot_count();
  std::vector<std::byte const*> data(slots);
  std::vector<std::shared_ptr<void const>> owners(slots);
  for (std::size_t s = 0; s < slots; ++s) data[s] = on_host(o.model().device(), o.slot(s).data(), o.slot(s).size(), owners[s]);

  archive_value tree = archive_value::dict();
  archive_value state = archive_value::dict();
  archive_value names = archive_value::list();
  o.describe([&](std::string_view name, auto const& value) {
    if (starts_with(name, group_prefix)) nested_writer{tree}(name, value);
  });
  auto const groups = parameters_of_groups(o);
  std::int64_t number = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    archive_value numbers = archive_value::list();
    for (std::size_t const i : groups[g]) {
      auto const& p = table[i];
      if (o.updates(i) != 0) {
        archive_value entry = archive_value::dict();
        entry.set("step", scalar_tensor(static_cast<float>(o.updates(i))));
        for (std::size_t s = 0; s < slots; ++s) {
          tensor_ref t;
          t.type = element_type_of<T>;
          t.shape = to_vector(p.extents);
          t.data = data[s] + p.offset * sizeof(T);
          t.owner = owners[s];
          entry.set(o.slot_name(s), std::move(t));
        }
        state.append(number, std::move(entry));
      }
      names.push_back(std::string{p.name});
      numbers.push_back(number++);
    }
    std::string const key = std::string{group_prefix} + std::to_string(g) + ".params";
    std::string_view last = key;
    archive_value& group = nested(tree, last);
    group.set(last, std::move(numbers));
  }
  tree.set("state", std::move(state));
  tree.set("param_names", std::move(names));
  return tree;
}

/// PyTorch's "step" of a parameter: an int, or a tensor of rank 0.
inline std::int64_t step_of(load_plan const& plan, archive_value const* entry) {
  archive_value const* const step = entry == nullptr ? nullptr : entry->find("step");
  if (step == nullptr) return 0;
  if (step->is_number()) return step->as_int();
  if (!step->is_tensor()) return 0;
  std::size_t const at = step->as_tensor().entry;
  tensor_info const& info = plan.in.tensors().at(at);
  if (info.count() != 1 || !(is_float_type(info.type) || is_integer_type(info.type))) return 0;
  std::vector<std::byte> const raw = plan.in.read_entry(at);
  std::int64_t whole = 0;
  if (is_float_type(info.type)) {
    double value = 0;
    convert(info.type, raw.data(), element_type::f64, reinterpret_cast<std::byte*>(&value), 1);
    if (value >= 0 && value < 0x1p53) whole = static_cast<std::int64_t>(value);
  } else if (info.type == element_type::i64) {
    std::memcpy(&whole, raw.data(), sizeof(whole));
  } else if (info.type != element_type::u64) {
    convert(info.type, raw.data(), element_type::i64, reinterpret_cast<std::byte*>(&whole), 1);
  }
  return whole;
}

/// Matches an optimizer with PyTorch's tree (null: the file has none), and with our own counters (null: the run is PyTorch's).
template <class Optimizer>
void match_optimizer(load_plan& plan, archive_value const* tree, archive_value const* ours, Optimizer& o) {
  using T = typename Optimizer::element;
  auto const& table = std::remove_cvref_t<decltype(o.model())>::parameter_table;
  std::string const root = "optimizer_state_dict.";
  if (tree == nullptr) {
    plan.report.missing.push_back("optimizer_state_dict");
    return;
  }
  archive_value const* const state = tree->find("state");
  auto const groups = parameters_of_groups(o);
  std::size_t number = 0;
  archive_value updates = archive_value::tuple();
  for (std::size_t i = 0; i < Optimizer::parameter_count; ++i) updates.push_back(0);
  std::int64_t most_updates = 0;
  for (auto const& group : groups) {
    for (std::size_t const i : group) {
      auto const& p = table[i];
      archive_value const* entry = state == nullptr ? nullptr : state->find(number);
      if (entry == nullptr && state != nullptr) entry = state->find(std::to_string(number));
      std::string const prefix = root + "state." + std::to_string(number) + ".";
      ++number;
      for (std::size_t s = 0; s < o.slot_count(); ++s) {
        T* const to = o.slot(s).data() + p.offset;
        archive_value const* const found = entry == nullptr ? nullptr : entry->find(o.slot_name(s));
        if (entry == nullptr || (found != nullptr && found->is_none())) {
          plan.transfers.push_back({no_entry, element_type_of<T>, element_type_of<T>, p.size, to, {}});
          continue;
        }
        std::string name = prefix + std::string{o.slot_name(s)};
        if (found == nullptr || !found->is_tensor()) {
          plan.report.missing.push_back(std::move(name));
          continue;
        }
        std::size_t const at = found->as_tensor().entry;
        tensor_info const& info = plan.in.tensors()[at];
        if (!same_shape(info, p.extents) || !converts(info.type, element_type_of<T>)) {
          plan.report.mismatched.push_back({std::move(name), tensor_text(element_type_of<T>, p.extents), tensor_text(info.type, info.shape)});
          continue;
        }
        plan.transfers.push_back({at, info.type, element_type_of<T>, p.size, to, {}});
        plan.report.loaded.push_back(std::move(name));
      }
      std::int64_t const step = step_of(plan, entry);
      updates[i] = archive_value{step};
      if (step > most_updates) most_updates = step;
    }
  }
  if (state != nullptr && state->size() > number)
    plan.report.unexpected.push_back(root + "state: " + std::to_string(state->size()) + " parameters, this optimizer has " + std::to_string(number));
  archive_value const* const file_groups = tree->find("param_groups");
  if (file_groups != nullptr && file_groups->size() != Optimizer::group_count)
    plan.report.mismatched.push_back({root + "param_groups", std::to_string(Optimizer::group_count) + " groups", std::to_string(file_groups->size()) + " groups"});
  plan.derived.push_back(std::make_unique<archive_value>(archive_value::dict({{"step", most_updates}, {"updates", std::move(updates)}})));
  archive_value const* const derived = plan.derived.back().get();
  o.describe([&](std::string_view name, auto& value) {
    if (starts_with(name, group_prefix)) nested_reader{tree, root, plan.report, plan.values}(name, value);
    else if (ours != nullptr) state_reader{ours, "mortise.optimizer.", plan.report, plan.values}(name, value);
    else if (derived->contains(name)) state_reader{derived, root, plan.report, plan.values}(name, value);
  });
}

}  // namespace detail

/// References to all that makes up a run. Save it, and load it into a run that was constructed in the same way: killed anywhere, the run
/// goes on with the bits of one that was never interrupted.
///
/// A part is a model, an optimizer, an object with `state_name` and `describe` (loader, scheduler, progress, ...), or `own{"name", value}`.
/// A schedule, a pure function of the step, may stand among them and has nothing to save. At most one of each kind; parts must outlive the
/// checkpoint. The file has PyTorch's habitual layout: "model_state_dict", "optimizer_state_dict" {"state", "param_groups"},
/// "scheduler_state_dict", "epoch", ...
template <class... Parts>
class checkpoint {
 public:
  explicit checkpoint(Parts&&... parts) : parts_{std::forward<Parts>(parts)...} {}

  /// The run as a tree. Borrows memory of the parts that live on the host.
  archive_value tree() const {
    archive_value root = archive_value::dict();
    std::apply([&](auto const&... part) { (write_part(root, part), ...); }, parts_);
    root.set("format_version", 1);
    detail::nested_writer{root}("mortise.version", std::string{MORTISE_VERSION});
    return root;
  }

  /// Loads a run; see mortise::load.
  load_report load_from(archive_reader const& in, load_options const& options) {
    detail::load_plan plan{in, options};
    archive_value const& root = in.tree();
    std::apply([&](auto&... part) { (match_part(plan, root, part), ...); }, parts_);
    plan.check_and_stage();
    bool done = false;
    std::apply([&](auto&... part) { (commit_on_device_of(plan, part, done), ...); }, parts_);
    if (!done) plan.commit(host{});
    return plan.report;
  }

 private:
  template <class P>
  static void write_part(archive_value& root, P const& part_reference) {
    auto& part = const_cast<std::remove_const_t<P>&>(part_reference);  // describe hands out references for both directions
    using T = std::remove_cvref_t<P>;
    if constexpr (detail::is_own<T>) {
      if (root.find("user") == nullptr) root.set("user", archive_value::dict());
      root.find("user")->set(part.name, detail::to_archive(part.value));
    } else if constexpr (Stateful<T>) {
      claim(root, detail::tensors_key<T>());
      root.set(detail::tensors_key<T>(), state_dict(part));
      part.describe([&](std::string_view name, auto const& value) {
        detail::nested_writer{root}(detail::scalars_prefix<T>() + "." + std::string{name}, value);
      });
    } else if constexpr (detail::HasSlots<T>) {
      claim(root, "optimizer_state_dict");
      root.set("optimizer_state_dict", detail::optimizer_tree(part));
      part.describe([&](std::string_view name, auto const& value) {
        if (!detail::starts_with(name, detail::group_prefix)) detail::nested_writer{root}("mortise.optimizer." + std::string{name}, value);
      });
    } else if constexpr (detail::Described<T>) {
      constexpr std::string_view key = T::state_name;
      if constexpr (key.empty()) {
        part.describe(detail::nested_writer{root});
      } else {
        claim(root, key);
        archive_value dict = archive_value::dict();
        part.describe(detail::nested_writer{dict});
        root.set(key, std::move(dict));
      }
    } else {
      static_assert(Schedule<T>,  // a pure function of the step: nothing to save
                    "mortise::checkpoint: this part is neither a model, an optimizer, nor an object with `state_name` and `describe`; wrap plain "
                    "values in mortise::own{\"name\", value}");
    }
  }

  static void claim(archive_value const& root, std::string_view key) {
    if (root.contains(key))
      throw usage_error("mortise::checkpoint: two parts want the key \"" + std::string{key} + "\"; a checkpoint holds one of each kind");
  }

  template <class P>
  void match_part(detail::load_plan& plan, archive_value const& root, P& part) {
    using T = std::remove_cvref_t<P>;
    if constexpr (detail::is_own<T>) {
      detail::state_reader{root.find("user"), "user.", plan.report, plan.values}(part.name, part.value);
    } else if constexpr (Stateful<T>) {
      std::string const scalars = detail::scalars_prefix<T>();
      if constexpr (detail::tensors_key<T>() == "model_state_dict") plan.match(detail::find_model_dict(root), detail::targets_of(part), "", plan.options);
      else plan.match(root.find(T::state_name), detail::targets_of(part), std::string{T::state_name} + ".", load_options{});
      archive_value const* const ours = root.find_path(scalars);
      // A PyTorch run has no such part: seed and counters stay what they are.
      if (ours != nullptr) part.describe(detail::state_reader{ours, scalars + ".", plan.report, plan.values});
    } else if constexpr (detail::HasSlots<T>) {
      detail::match_optimizer(plan, root.find("optimizer_state_dict"), root.find_path("mortise.optimizer"), part);
    } else if constexpr (detail::Described<T>) {
      constexpr std::string_view key = T::state_name;
      if constexpr (key.empty()) part.describe(detail::nested_reader{&root, "", plan.report, plan.values});
      else part.describe(detail::nested_reader{root.find(key), std::string{key} + ".", plan.report, plan.values});
    }
  }

  template <class P>
  static void commit_on_device_of(detail::load_plan& plan, P& part, bool& done) {
    using T = std::remove_cvref_t<P>;
    if (done) return;
    if constexpr (Stateful<T>) {
      plan.commit(part.device());
      done = true;
    } else if constexpr (detail::HasSlots<T>) {
      plan.commit(part.model().device());
      done = true;
    }
  }

  std::tuple<Parts...> parts_;
};
template <class... P>
checkpoint(P&&...) -> checkpoint<P...>;

/// Saves a run: format by extension, atomic and durable. io_error leaves the old file as it was.
template <class... P>
void save(std::string const& path, checkpoint<P...> const& run, save_options const& options = {}) {
  save_archive(path, run.tree(), options);
}
template <class Format, class... P>
void save(std::string const& path, checkpoint<P...> const& run, save_options const& options = {}) {
  save_archive<Format>(path, run.tree(), options);
}
/// Loads a run. Throws archive_error, io_error or load_error (with all names that do not fit), and has then changed nothing.
template <class... P>
load_report load(archive_reader const& in, checkpoint<P...>& run, load_options const& options = {}) {
  return run.load_from(in, options);
}
template <class... P>
load_report load(std::string const& path, checkpoint<P...>& run, load_options const& options = {}) {
  return run.load_from(open_archive(path), options);
}

}  // namespace mortise
