// How names in a file become names in a model.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mortise {

/// Options of `load`. Names of the file go through strip_prefix, then rename, then add_prefix, before they meet the model's.
struct load_options {
  bool strict = true;                                           ///< any missing, unexpected or mismatched name is a load_error
  std::string strip_prefix = {};                                ///< removed where a name starts with it: "module."
  std::vector<std::pair<std::string, std::string>> rename = {};  ///< whole names, or prefixes that end with '.': {"fc.", "classifier.4."}
  std::string add_prefix = {};
  std::vector<std::string> only = {};                           ///< if given: only the model's names that start with one of these are loaded
};

namespace detail {

inline bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

/// The name in the model of `name` in the file.
inline std::string renamed(std::string name, load_options const& options) {
  if (!options.strip_prefix.empty() && starts_with(name, options.strip_prefix)) name.erase(0, options.strip_prefix.size());
  for (auto const& [from, to] : options.rename) {
    bool const is_prefix = !from.empty() && from.back() == '.';
    if (is_prefix ? starts_with(name, from) : name == from) {
      name.replace(0, from.size(), to);
      break;
    }
  }
  return options.add_prefix + name;
}

inline bool is_wanted(std::string_view name, load_options const& options) {
  if (options.only.empty()) return true;
  for (auto const& start : options.only)
    if (starts_with(name, start)) return true;
  return false;
}

}  // namespace detail
}  // namespace mortise
