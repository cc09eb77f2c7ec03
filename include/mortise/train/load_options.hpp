// How names in a file become names in a model.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/optimizer/path_pattern.hpp>

namespace mortise {

/// Options of `load`. Names of the file go through strip_prefix, then rename, then add_prefix, before they meet the model's.
///
/// A rename is a whole name, a prefix that ends with '.', or a pattern: `*` stands for letters without a dot, `**` for anything, and what
/// they stood for is put in the place of the `*` and `**` of the new name, in order. The first rename that fits a name is the only one.
///
///     {.strip_prefix = "module.", .rename = {{"fc.", "classifier.4."}, {"blocks.*.mlp.**", "layers.*.feed_forward.**"}}}
///
/// A rename or an `only` that fits no name at all is a mistake, and a load_error, strict or not.
struct load_options {
  bool strict = true;                                           ///< any missing, unexpected or mismatched name is a load_error
  std::string strip_prefix = {};                                ///< removed where a name starts with it: "module."
  std::vector<std::pair<std::string, std::string>> rename = {};  ///< {"fc.", "classifier.4."}
  std::string add_prefix = {};
  std::vector<std::string> only = {};                           ///< if given: only the model's names under these paths (see path_matches) are loaded
  /// The pages of a mapped file (map_file) become the parameters of a model on the host, without a copy, where the file has them in one piece
  /// as the model has (save_options::mappable); report.adopted tells. Processes share the pages until one writes to them, by training,
  /// say, and gets its own; the file never changes. Views of the parameters that were taken before are no longer of this model.
  bool adopt = false;
};

namespace detail {

template <class = void>
bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

/// Does the pattern mean the whole name? `captured`: what each wildcard stood for.
template <class = void>
MORTISE_COLD bool capture(std::string_view pattern, std::string_view name, std::vector<std::string_view>& captured) {
  while (!pattern.empty() && pattern[0] != '*') {
    if (name.empty() || name[0] != pattern[0]) return false;
    pattern.remove_prefix(1);
    name.remove_prefix(1);
  }
  if (pattern.empty()) return name.empty();
  bool const deep = starts_with(pattern, "**");
  std::string_view const rest = pattern.substr(deep ? 2 : 1);
  for (std::size_t length = 0;; ++length) {
    captured.push_back(name.substr(0, length));
    if (capture(rest, name.substr(length), captured)) return true;
    captured.pop_back();
    if (length == name.size() || (!deep && name[length] == '.')) return false;
  }
}

/// The new name with what the wildcards of the old one stood for.
template <class = void>
MORTISE_COLD std::string fill_in(std::string_view pattern, std::vector<std::string_view> const& captured) {
  std::string text;
  std::size_t next = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '*') {
      text += pattern[i];
      continue;
    }
    if (i + 1 < pattern.size() && pattern[i + 1] == '*') ++i;
    text += captured[next++];
  }
  return text;
}

template <class = void>
MORTISE_COLD std::size_t wildcards(std::string_view pattern) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '*') continue;
    ++n;
    if (i + 1 < pattern.size() && pattern[i + 1] == '*') ++i;
  }
  return n;
}

/// The names of a file on their way into a model; remembers which renames were of use.
class name_map {
 public:
  /// Throws usage_error for a rename whose two sides have different numbers of wildcards.
  explicit name_map(load_options const& options) : options_{options}, used_(options.rename.size(), 0) {
    for (auto const& [from, to] : options.rename)
      if (wildcards(from) != wildcards(to))
        throw usage_error("mortise::load: .rename = {{\"" + from + "\", \"" + to + "\"}}: the old name has " + std::to_string(wildcards(from)) +
                          " wildcards, the new one " + std::to_string(wildcards(to)) + "; each `*` of the one goes where that of the other stands");
  }

  std::string operator()(std::string name) {
    if (!options_.strip_prefix.empty() && starts_with(name, options_.strip_prefix)) name.erase(0, options_.strip_prefix.size());
    for (std::size_t i = 0; i < used_.size(); ++i) {
      auto const& [from, to] = options_.rename[i];
      bool const is_prefix = !from.empty() && from.back() == '.';
      std::vector<std::string_view> captured;
      if (!(is_prefix ? capture(from + "**", name, captured) : capture(from, name, captured))) continue;
      name = fill_in(is_prefix ? to + "**" : to, captured);
      used_[i] = 1;
      break;
    }
    return options_.add_prefix + name;
  }
  /// The first rename that no name needed, or null.
  std::string const* unused() const {
    for (std::size_t i = 0; i < used_.size(); ++i)
      if (used_[i] == 0) return &options_.rename[i].first;
    return nullptr;
  }

 private:
  load_options const& options_;
  std::vector<char> used_;
};

template <class = void>
bool is_wanted(std::string_view name, load_options const& options) {
  if (options.only.empty()) return true;
  for (auto const& path : options.only)
    if (path_matches(path, name)) return true;
  return false;
}

}  // namespace detail
}  // namespace mortise
