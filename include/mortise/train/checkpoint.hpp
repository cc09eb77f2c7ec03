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
template <class = void>
MORTISE_COLD archive_value& nested(archive_value& root, std::string_view& name) {
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

/// A model that computes in 16 bits.
template <class M>
concept HasLossScaler = requires(M& m) { m.scaler(); };

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
  bool keep_if_absent = false;
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
    state_reader{at, std::move(full), report, pending, keep_if_absent}(last, value);
  }
};

/// The number that PyTorch gives to each of our trainable parameters: it counts through the groups, in order.
template <class Optimizer>
MORTISE_COLD std::vector<std::vector<std::size_t>> parameters_of_groups(Optimizer const&) {
  std::vector<std::vector<std::size_t>> groups(Optimizer::group_count);
  for (std::size_t i = 0; i < Optimizer::parameter_count; ++i) groups[Optimizer::group_of(i)].push_back(i);
  return groups;
}

inline constexpr std::string_view group_prefix = "param_groups.";

/// PyTorch's optimizer.state_dict(): {"state": {0: {"step", slots...}, ...}, "param_groups": [{settings, "params"}, ...], "param_names"}.
/// A parameter that was never updated has no entry in "state", as in PyTorch.
template <class Optimizer>
MORTISE_COLD archive_value optimizer_tree(Optimizer& o) {
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
template <class = void>
MORTISE_COLD std::int64_t step_of(load_plan const& plan, archive_value const* entry) {
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

/// The groups' settings; PyTorch may keep a rate in a tensor of rank 0 (capturable), which becomes its number.
template <class = void>
MORTISE_COLD archive_value plain_settings(load_plan const& plan, archive_value const& tree) {
  archive_value groups = archive_value::list();
  archive_value const* const list = tree.find("param_groups");
  for (std::size_t g = 0; list != nullptr && g < list->size(); ++g) {
    archive_value group = archive_value::dict();
    for (std::size_t i = 0; (*list)[g].is_dict() && i < (*list)[g].size(); ++i) {
      archive_value const& v = (*list)[g][i];
      if (v.is_tensor() && plan.in.tensors().at(v.as_tensor().entry).count() == 1 && is_float_type(v.as_tensor().type)) {
        double number = 0;
        convert(v.as_tensor().type, plan.in.read_entry(v.as_tensor().entry).data(), element_type::f64, reinterpret_cast<std::byte*>(&number), 1);
        group.append((*list)[g].keys()[i], number);
      } else if (!v.is_dict() && !v.is_tensor()) {
        group.append((*list)[g].keys()[i], v);
      }
    }
    groups.push_back(std::move(group));
  }
  return archive_value::dict({{"param_groups", std::move(groups)}});
}

/// A part of a run under the first of the usual keys that the file has; null where it has none.
struct found_part {
  archive_value const* value = nullptr;
  std::string key{};
};
template <class = void>
MORTISE_COLD found_part find_part(archive_value const& root, std::string_view ours) {
  constexpr std::string_view usual[][4] = {{"optimizer_state_dict", "optimizer", "optim", "optimizer_states"},
                                           {"scheduler_state_dict", "lr_scheduler", "scheduler", "lr_scheduler_state_dict"}};
  if (archive_value const* found = root.find(ours)) return {found, std::string{ours}};
  for (auto const& keys : usual)
    if (ours == keys[0])
      for (std::string_view const key : keys)
        if (archive_value const* found = root.find(key); found != nullptr && found->is_dict()) return {found, std::string{key}};
  return {nullptr, std::string{ours}};
}

/// A parameter of a file's optimizer: its key in "state", and its name where the file tells.
struct numbered_parameter {
  archive_key key;
  std::string name{};
};

/// The parameters of each group of a file's optimizer. PyTorch numbers them through the groups; files before 1.4 have addresses there.
/// Names: ours beside the groups, those of PyTorch 2.7 and newer within.
template <class = void>
MORTISE_COLD std::vector<std::vector<numbered_parameter>> file_parameters(archive_value const& tree) {
  std::vector<std::vector<numbered_parameter>> groups;
  archive_value const* const list = tree.find("param_groups");
  archive_value const* const names = tree.find("param_names");
  std::size_t number = 0;
  for (std::size_t g = 0; list != nullptr && g < list->size(); ++g) {
    std::vector<numbered_parameter> group;
    archive_value const* const keys = (*list)[g].find("params");
    archive_value const* const group_names = (*list)[g].find("param_names");
    for (std::size_t i = 0; keys != nullptr && i < keys->size(); ++i, ++number) {
      archive_value const& k = (*keys)[i];
      numbered_parameter p{k.is_int() ? archive_key{k.as_int()} : archive_key{k.is_string() ? k.as_string() : std::string{}}};
      if (group_names != nullptr && i < group_names->size() && (*group_names)[i].is_string()) p.name = (*group_names)[i].as_string();
      else if (names != nullptr && number < names->size() && (*names)[number].is_string()) p.name = (*names)[number].as_string();
      group.push_back(std::move(p));
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

/// Tells for each of our parameters which of the file's it is. `ours`: names by group; `all`: every parameter of the model in PyTorch's
/// order, frozen ones included, which a script that passed `net.parameters()` counts too. Null where the file has none.
template <class = void>
MORTISE_COLD std::vector<std::vector<archive_key const*>> match_parameters(load_plan& plan, std::string const& root,
                                                                                   std::vector<std::vector<numbered_parameter>> const& file,
                                                                                   std::vector<std::vector<std::string>> const& ours,
                                                                                   std::vector<std::string> const& all) {
  std::vector<std::vector<archive_key const*>> matched;
  name_map map{plan.options};
  bool named = true;
  std::size_t count = 0;
  for (auto const& group : file)
    for (numbered_parameter const& p : group) {
      named = named && !p.name.empty();
      ++count;
    }
  for (std::size_t g = 0; g < ours.size(); ++g) {
    std::vector<archive_key const*> keys(ours[g].size(), nullptr);
    bool const counts_all = ours.size() == 1 && file.size() == 1 && count == all.size() && count != ours[0].size();
    if (count != 0 && named) {
      for (std::size_t i = 0; i < keys.size(); ++i) {
        for (auto const& group : file)
          for (numbered_parameter const& p : group)
            if (keys[i] == nullptr && map(p.name) == ours[g][i]) keys[i] = &p.key;
        if (keys[i] == nullptr) plan.report.missing.push_back(root + "state of " + ours[g][i]);
      }
    } else if (counts_all) {
      for (std::size_t i = 0; i < keys.size(); ++i)
        for (std::size_t k = 0; k < all.size(); ++k)
          if (all[k] == ours[g][i]) keys[i] = &file[0][k].key;
    } else if (g < file.size() && file[g].size() == keys.size()) {
      for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = &file[g][i].key;
    } else if (g < file.size()) {
      plan.report.mismatched.push_back({root + "param_groups." + std::to_string(g) + ".params", std::to_string(keys.size()) + " parameters",
                                        std::to_string(file[g].size()) + " parameters"});
    }
    matched.push_back(std::move(keys));
  }
  return matched;
}

/// "3 groups of 2, 2, 2 parameters"
template <class Groups>
MORTISE_COLD std::string groups_in_words(Groups const& groups) {
  std::string sizes;
  for (auto const& g : groups) sizes += (sizes.empty() ? "" : ", ") + std::to_string(g.size());
  return std::to_string(groups.size()) + (groups.size() == 1 ? " group of " : " groups of ") + sizes + " parameters";
}

/// "the optimizer of the file keeps exp_avg, exp_avg_sq and this one momentum_buffer: ...". entry: what the file has of one parameter.
template <class Optimizer>
MORTISE_COLD std::string another_optimizer(archive_value const& entry, Optimizer const& o) {
  std::string theirs, mine;
  for (std::size_t i = 0; i < entry.size(); ++i)
    if (entry[i].is_tensor() && !(entry.keys()[i] == archive_key{"step"})) theirs += (theirs.empty() ? "" : ", ") + entry.keys()[i].to_string();
  for (std::size_t s = 0; s < o.slot_count(); ++s) mine += (mine.empty() ? "" : ", ") + std::string{o.slot_name(s)};
  return "the optimizer of the file keeps " + (theirs.empty() ? "nothing" : theirs) + " for each parameter and this one " + mine +
         ": it is another one, or has other settings; make this one alike";
}

/// Matches an optimizer with PyTorch's tree (null: the file has none), and with our own counters (null: the run is PyTorch's).
template <class Optimizer>
MORTISE_COLD void match_optimizer(load_plan& plan, found_part const& part, archive_value const* ours, Optimizer& o) {
  using T = typename Optimizer::element;
  using model_type = std::remove_cvref_t<decltype(o.model())>;
  auto const& table = model_type::parameter_table;
  std::string const root = part.key + ".";
  archive_value const* const tree = part.value;
  if (tree == nullptr) {
    plan.report.missing.push_back(part.key);
    if (plan.report.advice.empty())
      plan.report.advice = "the file holds no optimizer: it is a model's weights and not a run; load it into the model alone, mt::load(path, net)";
    return;
  }
  archive_value const* const state = tree->find("state");
  auto const groups = parameters_of_groups(o);
  std::vector<std::vector<std::string>> names;
  for (auto const& group : groups) {
    names.emplace_back();
    for (std::size_t const i : group) names.back().emplace_back(table[i].name);
  }
  std::vector<std::string> all;
  for (auto const& s : model_type::state_table)
    if (s.what == state_entry::kind::parameter) all.emplace_back(s.name);
  auto const in_file = file_parameters(*tree);
  auto const keys = match_parameters(plan, root, in_file, names, all);

  archive_value updates = archive_value::tuple();
  for (std::size_t i = 0; i < Optimizer::parameter_count; ++i) updates.push_back(0);
  std::int64_t most_updates = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t k = 0; k < groups[g].size(); ++k) {
      std::size_t const i = groups[g][k];
      auto const& p = table[i];
      archive_key const* const key = keys[g][k];
      archive_value const* entry = state == nullptr || key == nullptr ? nullptr : state->find(*key);
      if (entry == nullptr && state != nullptr && key != nullptr) entry = state->find(key->to_string());
      std::string const prefix = root + "state." + (key == nullptr ? "?" : key->to_string()) + ".";
      bool has_slots = false;
      for (std::size_t s = 0; s < o.slot_count(); ++s) {
        T* const to = o.slot(s).data() + p.offset;
        archive_value const* const found = entry == nullptr ? nullptr : entry->find(o.slot_name(s));
        if (entry == nullptr || (found != nullptr && found->is_none())) {
          plan.transfers.push_back({no_entry, element_type_of<T>, element_type_of<T>, p.size, to});
          continue;
        }
        std::string name = prefix + std::string{o.slot_name(s)};
        if (found == nullptr || !found->is_tensor()) {
          plan.report.missing.push_back(std::move(name));
          if (plan.report.advice.empty()) plan.report.advice = another_optimizer(*entry, o);
          continue;
        }
        std::size_t const at = found->as_tensor().entry;
        tensor_info const& info = plan.in.tensors()[at];
        if (!same_shape(info, p.extents) || !converts(info.type, element_type_of<T>)) {
          plan.report.mismatched.push_back({std::move(name), tensor_text(element_type_of<T>, p.extents), tensor_text(info.type, info.shape)});
          continue;
        }
        has_slots = true;
        plan.transfers.push_back({at, info.type, element_type_of<T>, p.size, to});
        plan.report.loaded.push_back(std::move(name));
      }
      std::int64_t step = step_of(plan, entry);
      // PyTorch's SGD does not count; all that matters there is whether the buffer has begun.
      if (step == 0 && has_slots && entry != nullptr && !entry->contains("step")) step = 1;
      updates[i] = archive_value{step};
      if (step > most_updates) most_updates = step;
    }
  }
  if (in_file.size() != Optimizer::group_count && !in_file.empty())
    plan.report.mismatched.push_back({root + "param_groups", std::to_string(Optimizer::group_count) + " groups", std::to_string(in_file.size()) + " groups"});
  if (!plan.report.mismatched.empty() && starts_with(plan.report.mismatched.back().name, root + "param_groups") && plan.report.advice.empty())
    plan.report.advice = "the optimizer of the file has " + groups_in_words(in_file) + ", this one " + groups_in_words(groups) +
                         "; make the groups alike with mt::group<\"path\">, or load the model alone";
  plan.derived.push_back(std::make_unique<archive_value>(archive_value::dict({{"step", most_updates}, {"updates", std::move(updates)}})));
  archive_value const* const derived = plan.derived.back().get();
  plan.derived.push_back(std::make_unique<archive_value>(plain_settings(plan, *tree)));
  archive_value const* const settings = plan.derived.back().get();
  o.describe([&](std::string_view name, auto& value) {
    // A setting that PyTorch did not know when the file was written (maximize, say) keeps its value; a rate it always knew.
    bool const optional = ours == nullptr && (name.size() < 3 || name.substr(name.size() - 3) != ".lr");
    if (starts_with(name, group_prefix)) nested_reader{settings, root, plan.report, plan.values, optional}(name, value);
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
  MORTISE_COLD archive_value tree() const {
    archive_value root = archive_value::dict();
    std::apply([&](auto const&... part) { (write_part(root, part), ...); }, parts_);
    root.set("format_version", checkpoint_version);
    detail::nested_writer{root}("mortise.version", std::string{MORTISE_VERSION});
    return root;
  }

  /// Runs f, which writes a file, where the first part that belongs to several processes says so.
  template <class F>
  void on_one_process(F const& f) const {
    bool done = false;
    [[maybe_unused]] auto const look = [&](auto const& part) {
      if constexpr (requires { part.on_one_process(f); })
        if (!std::exchange(done, true)) part.on_one_process(f);
    };
    std::apply([&](auto const&... part) { (look(part), ...); }, parts_);
    if (!done) f();
  }

  /// Loads a run; see mortise::load.
  MORTISE_COLD load_report load_from(archive_reader const& in, load_options const& options) {
    detail::load_plan plan{in, options};
    if (options.adopt) plan.report.not_adopted = "a run is there to go on, and would copy every page; load the model alone";
    archive_value const& root = in.tree();
    check_version(in, root);
    std::apply([&](auto&... part) { (match_part(plan, root, part), ...); }, parts_);
    bool done = false;
    std::apply([&](auto&... part) { (run_on_device_of(plan, part, done), ...); }, parts_);
    if (!done) plan.run(host{});
    return plan.report;
  }

 private:
  template <class P>
  MORTISE_COLD static void write_part(archive_value& root, P const& part_reference) {
    auto& part = const_cast<std::remove_const_t<P>&>(part_reference);  // describe hands out references for both directions
    using T = std::remove_cvref_t<P>;
    if constexpr (detail::is_own<T>) {
      if (root.find("user") == nullptr) root.set("user", archive_value::dict());
      if (root.find("user")->contains(part.name))
        throw usage_error("mortise::checkpoint: two values are named \"" + std::string{part.name} + "\"; give each mortise::own a name of its own");
      root.find("user")->set(part.name, detail::to_archive(part.value));
    } else if constexpr (Stateful<T>) {
      claim(root, detail::tensors_key<T>());
      root.set(detail::tensors_key<T>(), state_dict(part));
      if constexpr (detail::tensors_key<T>() == "model_state_dict") {
        std::vector<std::string> const lines = detail::architecture_of(part);
        if (!lines.empty()) detail::nested_writer{root}("mortise.model.architecture", lines);
      }
      part.describe([&](std::string_view name, auto const& value) {
        detail::nested_writer{root}(detail::scalars_prefix<T>() + "." + std::string{name}, value);
      });
      if constexpr (detail::HasLossScaler<T>) {
        archive_value dict = archive_value::dict();
        part.describe_scaler(detail::nested_writer{dict});
        root.set("scaler_state_dict", std::move(dict));
      }
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

  MORTISE_COLD static void claim(archive_value const& root, std::string_view key) {
    if (root.contains(key))
      throw usage_error("mortise::checkpoint: two parts want the key \"" + std::string{key} + "\"; a checkpoint holds one of each kind");
  }

  MORTISE_COLD static void check_version(archive_reader const& in, archive_value const& root) {
    archive_value const* const version = root.find("format_version");
    if (root.find("mortise") != nullptr && version != nullptr && version->is_int() && version->as_int() > checkpoint_version)
      throw archive_error{in.name(), archive_error::no_offset,
                          "the checkpoint has version " + std::to_string(version->as_int()) + ", this library reads up to " +
                              std::to_string(checkpoint_version) + "; it was written by a newer mortise"};
  }

  template <class P>
  MORTISE_COLD void match_part(detail::load_plan& plan, archive_value const& root, P& part) {
    using T = std::remove_cvref_t<P>;
    // A PyTorch run has counters of its own or none: what it does not have stays as it is.
    bool const foreign = root.find("mortise") == nullptr;
    if constexpr (detail::is_own<T>) {
      archive_value const* const user = root.find("user");
      detail::state_reader{user == nullptr && foreign ? &root : user, foreign ? "" : "user.", plan.report, plan.values}(part.name, part.value);
    } else if constexpr (Stateful<T>) {
      std::string const scalars = detail::scalars_prefix<T>();
      if constexpr (detail::tensors_key<T>() == "model_state_dict") {
        detail::compare_architecture(plan, part);
        plan.match(detail::find_model_dict(root), detail::targets_of(part), "", plan.options);
      } else {
        plan.match(root.find(T::state_name), detail::targets_of(part), std::string{T::state_name} + ".", load_options{});
      }
      archive_value const* const ours = root.find_path(scalars);
      if (ours != nullptr) part.describe(detail::state_reader{ours, scalars + ".", plan.report, plan.values});
      // A run in float has no loss scaler: it starts with its own.
      if constexpr (detail::HasLossScaler<T>)
        if (archive_value const* const scaler = root.find("scaler_state_dict"); scaler != nullptr)
          part.describe_scaler(detail::state_reader{scaler, "scaler_state_dict.", plan.report, plan.values});
    } else if constexpr (detail::HasSlots<T>) {
      detail::match_optimizer(plan, detail::find_part(root, "optimizer_state_dict"), root.find_path("mortise.optimizer"), part);
    } else if constexpr (detail::Described<T>) {
      constexpr std::string_view key = T::state_name;
      if constexpr (key.empty()) {
        part.describe(detail::nested_reader{&root, "", plan.report, plan.values, foreign});
      } else {
        detail::found_part const found = detail::find_part(root, key);
        bool const required = !foreign || key == "scheduler_state_dict";
        if (found.value == nullptr && required) plan.report.missing.push_back(found.key);
        else part.describe(detail::nested_reader{found.value, found.key + ".", plan.report, plan.values, foreign});
      }
    }
  }

  template <class P>
  static void run_on_device_of(detail::load_plan& plan, P& part, bool& done) {
    using T = std::remove_cvref_t<P>;
    if (done) return;
    if constexpr (Stateful<T>) {
      plan.run(part.device());
      done = true;
    } else if constexpr (detail::HasSlots<T>) {
      plan.run(part.model().device());
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
  auto const tree = run.tree();
  run.on_one_process([&] { save_archive(path, tree, options); });
}
template <class Format, class... P>
void save(std::string const& path, checkpoint<P...> const& run, save_options const& options = {}) {
  auto const tree = run.tree();
  run.on_one_process([&] { save_archive<Format>(path, tree, options); });
}
/// Loads a run. Throws archive_error, io_error or load_error (with all names that do not fit), and has then changed nothing.
template <class... P>
load_report load(archive_reader const& in, checkpoint<P...>& run, load_options const& options = {}) {
  return run.load_from(in, options);
}
template <class... P>
load_report load(archive_reader const& in, checkpoint<P...>&& run, load_options const& options = {}) {
  return run.load_from(in, options);
}
template <class... P>
load_report load(std::string const& path, checkpoint<P...>& run, load_options const& options = {}) {
  return run.load_from(open_archive(path), options);
}
template <class... P>
load_report load(std::string const& path, checkpoint<P...>&& run, load_options const& options = {}) {
  return run.load_from(open_archive(path), options);
}

}  // namespace mortise
