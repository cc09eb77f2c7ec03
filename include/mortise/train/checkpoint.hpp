// A checkpoint is the whole run: parameters, buffers, optimizer, schedule, sampler, counters, and the caller's own values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/config.hpp>
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
  p.slot_count();
  p.slot_name(std::size_t{0});
  p.slot(std::size_t{0});
  p.steps();
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

}  // namespace detail

/// References to all that makes up a run. Save it, and load it into a run that was constructed in the same way: killed anywhere, the run
/// goes on with the bits of one that was never interrupted.
///
/// A part is a model, an optimizer, an object with `state_name` and `describe` (loader, scheduler, progress, ...), or `own{"name", value}`.
/// At most one of each kind; parts must outlive the checkpoint. The file has PyTorch's habitual layout: "model_state_dict",
/// "optimizer_state_dict" {"state", "param_groups"}, "scheduler_state_dict", "epoch", ...
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
    std::apply([&](auto&... part) { (commit_part(plan, part), ...); }, parts_);
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
      claim(root, "model_state_dict");
      root.set("model_state_dict", state_dict(part));
      part.describe([&](std::string_view name, auto const& value) {
        detail::nested_writer{root}("mortise.model." + std::string{name}, value);
      });
    } else if constexpr (detail::HasSlots<T>) {
      claim(root, "optimizer_state_dict");
      root.set("optimizer_state_dict", optimizer_tree(part));
      detail::nested_writer{root}("mortise.optimizer.steps", part.steps());
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
      static_assert(detail::is_own<T>,
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
      plan.match(detail::find_model_dict(root), detail::targets_of(part), "", plan.options);
      archive_value const* const ours = root.find_path("mortise.model");
      // A PyTorch run has no such part: seed and counters stay what they are.
      if (ours != nullptr) part.describe(detail::state_reader{ours, "mortise.model.", plan.report, plan.values});
    } else if constexpr (detail::HasSlots<T>) {
      match_optimizer(plan, root.find("optimizer_state_dict"), root.find_path("mortise.optimizer"), part);
    } else if constexpr (detail::Described<T>) {
      constexpr std::string_view key = T::state_name;
      if constexpr (key.empty()) part.describe(detail::nested_reader{&root, "", plan.report, plan.values});
      else part.describe(detail::nested_reader{root.find(key), std::string{key} + ".", plan.report, plan.values});
    }
  }

  template <class P>
  void commit_part(detail::load_plan& plan, P& part) {
    using T = std::remove_cvref_t<P>;
    if constexpr (Stateful<T>) plan.commit(part.device());
    static_cast<void>(plan);
    static_cast<void>(part);
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
