// Why the names of a file and of a model differ, in words: a prefix, another name for a part, the head of another task.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/errors.hpp>
#include <mortise/config.hpp>
#include <mortise/detail/order.hpp>

namespace mortise::detail {

/// A tensor that only one side has.
struct unmatched_name {
  std::string name;
  std::string what;  // type and shape
};

/// Finds what turns names of the file into names of the model. Looks at a few candidates only, so that its cost is linear in both lists.
template <class = void>
class basic_name_advisor {
 public:
  /// missing: what the file lacks; unexpected: what the model lacks.
  basic_name_advisor(std::vector<unmatched_name> missing, std::vector<unmatched_name> unexpected)
      : missing_{std::move(missing)}, unexpected_{std::move(unexpected)}, explained_(unexpected_.size(), 0), taken_(missing_.size(), 0) {
    auto const before = [this](std::uint32_t a, std::uint32_t b) { return missing_[a].name < missing_[b].name; };
    by_name_ = sorted_positions(missing_.size(), before);
  }

  /// "all 62 names match after removing `module.`; pass {.strip_prefix = "module."}", or nothing.
  MORTISE_COLD std::string text() {
    if (missing_.empty() || unexpected_.empty()) return {};
    std::size_t const names = unexpected_.size();
    std::vector<change> changes;
    for (std::size_t explained = 0; changes.size() < 4 && explained < names;) {
      change const best = best_change();
      if (best.count == 0) break;
      explained += accept(best);
      changes.push_back(best);
    }
    std::size_t explained = 0;
    for (char const e : explained_) explained += e != 0 ? 1u : 0u;
    bool const whole_model = explained >= 4 && explained == missing_.size();  // one of several networks in the file
    if (2 * explained <= names && !whole_model) return {};                    // a chance likeness, such as two biases of one size
    std::string text = explained == names ? (names == 1 ? "the one name that is left over matches" : "all " + std::to_string(names) + " names match")
                                          : std::to_string(explained) + " of " + std::to_string(names) + " names match";
    if (changes.size() == 1 && changes[0].to.empty()) return text + " after removing `" + changes[0].from + "`; pass {.strip_prefix = \"" + changes[0].from + "\"}";
    if (changes.size() == 1 && changes[0].from.empty()) return text + " after adding `" + changes[0].to + "`; pass {.add_prefix = \"" + changes[0].to + "\"}";
    text += " after renaming";
    std::string list;
    for (change const& c : changes) {
      text += (&c == &changes[0] ? " `" : ", `") + c.from + "` to `" + c.to + "`";
      list += (list.empty() ? "{\"" : ", {\"") + c.from + "\", \"" + c.to + "\"}";
    }
    return text + "; pass {.rename = {" + list + "}}";
  }

 private:
  /// Replaces the beginning `from` of a name by `to`; both are empty or end with '.'.
  struct change {
    std::string from;
    std::string to;
    std::size_t count = 0;
  };

  unmatched_name const* find(std::string const& name) const {
    std::size_t const at = first_not_less(by_name_.size(), [this, &name](std::size_t i) { return missing_[by_name_[i]].name < name; });
    return at != by_name_.size() && missing_[by_name_[at]].name == name ? &missing_[by_name_[at]] : nullptr;
  }
  bool explains(change const& c, unmatched_name const& u) const {
    if (std::string_view{u.name}.substr(0, c.from.size()) != c.from) return false;
    unmatched_name const* const m = find(c.to + u.name.substr(c.from.size()));
    return m != nullptr && m->what == u.what && taken_[static_cast<std::size_t>(m - missing_.data())] == 0;
  }
  MORTISE_COLD change best_change() const {
    std::vector<change> candidates;
    std::size_t tried = 0;
    for (std::size_t i = 0; i < unexpected_.size() && tried < 4; ++i) {
      if (explained_[i] != 0) continue;
      ++tried;
      for (std::uint32_t const at : by_name_) {
        unmatched_name const& m = missing_[at];
        if (m.what != unexpected_[i].what || candidates.size() == 64) continue;
        change c = difference(unexpected_[i].name, m.name);
        bool known = c.from == c.to;
        for (change const& k : candidates) known = known || (k.from == c.from && k.to == c.to);
        if (!known) candidates.push_back(std::move(c));
      }
    }
    change best;
    for (change& c : candidates) {
      for (std::size_t i = 0; i < unexpected_.size(); ++i) c.count += explained_[i] == 0 && explains(c, unexpected_[i]) ? 1u : 0u;
      bool const simpler = c.from.size() + c.to.size() < best.from.size() + best.to.size();
      if (c.count > best.count || (c.count == best.count && simpler)) best = c;
    }
    return best;
  }
  /// What is before the components that both names end with.
  MORTISE_COLD static change difference(std::string_view from, std::string_view to) {
    std::size_t same = 0;
    while (same < from.size() && same < to.size() && from[from.size() - 1 - same] == to[to.size() - 1 - same]) ++same;
    // Whole components only: the common ending starts behind a dot, or is all of a name.
    while (same > 0) {
      auto const starts = [&](std::string_view name) { return name.size() == same || name[name.size() - 1 - same] == '.'; };
      if (starts(from) && starts(to)) break;
      --same;
    }
    if (same == 0) return {};
    return {std::string{from.substr(0, from.size() - same)}, std::string{to.substr(0, to.size() - same)}, 0};
  }
  std::size_t accept(change const& c) {
    std::size_t n = 0;
    std::vector<std::size_t> matched;
    for (std::size_t i = 0; i < unexpected_.size(); ++i) {
      if (explained_[i] != 0 || !explains(c, unexpected_[i])) continue;
      explained_[i] = 1;
      matched.push_back(static_cast<std::size_t>(find(c.to + unexpected_[i].name.substr(c.from.size())) - missing_.data()));
      ++n;
    }
    for (std::size_t const m : matched) taken_[m] = 1;  // two names of the file cannot become one
    return n;
  }

  std::vector<unmatched_name> missing_, unexpected_;
  std::vector<std::uint32_t> by_name_{};  // of missing_
  std::vector<char> explained_, taken_;
};
using name_advisor = basic_name_advisor<>;

/// "`classifier.4` has another shape in the file: the head of another task", when all mismatches are in one module.
template <class = void>
MORTISE_COLD std::string head_advice(load_report const& report) {
  if (report.mismatched.empty() || report.loaded.empty()) return {};
  auto const module_of = [](std::string const& name) { return name.substr(0, name.rfind('.') == std::string::npos ? 0 : name.rfind('.')); };
  std::string const module = module_of(report.mismatched[0].name);
  for (load_mismatch const& m : report.mismatched)
    if (module_of(m.name) != module) return {};
  load_mismatch const& first = report.mismatched[0];
  return "only `" + module + "` has another shape (" + first.name + ": file " + first.found + ", model " + first.expected +
         "), as the head of another task has; pass {.strict = false} to load everything else and train that layer anew";
}

}  // namespace mortise::detail
