// A path that matches no parameter is a compile error, with the name that is nearest.
#pragma once

#include <cstddef>
#include <string_view>

#include <mortise/detail/fixed_string.hpp>
#include <mortise/detail/words.hpp>
#include <mortise/optimizer/path_pattern.hpp>

namespace mortise::detail {

template <class Table>
constexpr bool matches_any(Table const& table, std::string_view pattern) {
  for (std::size_t i = 0; i < table.size(); ++i)
    if (path_matches(pattern, table[i].name)) return true;
  return false;
}

/// The arguments are the report: the path as written, and the name of a parameter that resembles it most.
template <class Path, class NearestName>
constexpr void path_names_parameters() {
  static_assert(sizeof(Path) == 0,
                "mortise: the path matches no parameter; paths are PyTorch's names, as net.parameter takes them: \"features\" or \"features.*\" "
                "for all under it, \"**.bias\" for all that end so; the path and the nearest name stand beside this message");
}

template <class Model, fixed_string P>
constexpr bool check_path() {
  constexpr auto const& table = Model::parameter_table;
  if constexpr (!matches_any(table, P.view())) {
    constexpr std::size_t near = nearest_name(table.size(), [](std::size_t i) { return std::string_view{Model::parameter_table[i].name}; }, P.view());
    constexpr std::string_view name = table.size() == 0 ? std::string_view{} : std::string_view{table[near].name};
    path_names_parameters<path_of<P>, nearest_of<fixed_text<name.size()>(name.data())>>();
  }
  return true;
}

}  // namespace mortise::detail
