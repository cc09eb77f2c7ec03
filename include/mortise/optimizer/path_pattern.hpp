// Which parameters a path means: "features", "features.*.weight", "**.bias", "**.conv*.weight".
#pragma once

#include <cstddef>
#include <string_view>

#include <mortise/config.hpp>

namespace mortise {

namespace detail {

/// One component against one component; `*` stands for any letters.
constexpr bool component_matches(std::string_view pattern, std::string_view text) {
  // Greedy with one point to return to: linear in practice, no recursion.
  std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// Cuts the first component off; leaves the rest without its dot.
constexpr std::string_view take_component(std::string_view& path) {
  std::size_t const dot = path.find('.');
  std::string_view const first = path.substr(0, dot);
  path = dot == std::string_view::npos ? std::string_view{} : path.substr(dot + 1);
  return first;
}

}  // namespace detail

/// Does `pattern` mean the parameter `name`? Both are components joined with dots. `*` is any one component (or any letters within one),
/// `**` any number of components, also none. A pattern that ends early means everything under it: "features" is "features.**".
constexpr bool path_matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return true;
  std::string_view const wanted = detail::take_component(pattern);
  if (wanted == "**") {
    for (;;) {
      if (path_matches(pattern, name)) return true;
      if (name.empty()) return false;
      detail::take_component(name);
    }
  }
  if (name.empty()) return false;
  std::string_view const have = detail::take_component(name);
  return detail::component_matches(wanted, have) && path_matches(pattern, name);
}

}  // namespace mortise
