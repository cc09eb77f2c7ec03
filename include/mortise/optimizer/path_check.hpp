// A path that matches no parameter is a compile error, with the names that are nearest.
#pragma once

#include <array>
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

/// The three parameters whose names resemble a path most, best first; with fewer parameters some come twice.
template <class Table>
constexpr std::array<std::size_t, 3> nearest_parameters(Table const& table, std::string_view path) {
  std::array<std::size_t, 3> found{};
  for (std::size_t n = 0; n < 3 && n < table.size(); ++n) {
    auto const position = [&](std::size_t i) {  // of the i-th parameter that is not found yet
      for (std::size_t at = 0;; ++at) {
        bool known = false;
        for (std::size_t k = 0; k < n; ++k) known = known || found[k] == at;
        if (!known && i-- == 0) return at;
      }
    };
    found[n] = position(nearest_name(table.size() - n, [&](std::size_t i) { return std::string_view{table[position(i)].name}; }, path));
  }
  for (std::size_t n = table.size(); n < 3; ++n) found[n] = found[0];
  return found;
}

/// The arguments are the report: the path as written, and the names of parameters that resemble it most.
template <class Path, class... NearestNames>
constexpr void path_names_parameters() {
  static_assert(sizeof(Path) == 0,
                "mortise: the path matches no parameter; paths are PyTorch's names, as net.parameter takes them: \"features\" or \"features.*\" "
                "for all under it, \"**.bias\" for all that end so; the path and the nearest names stand beside this message");
}

template <class Model, std::size_t Parameter>
using nearest_parameter = nearest_of<fixed_text<std::string_view{Model::parameter_table[Parameter].name}.size()>(Model::parameter_table[Parameter].name.data())>;

template <class Model, fixed_string P>
constexpr bool check_path() {
  constexpr auto const& table = Model::parameter_table;
  if constexpr (table.size() == 0) {
    path_names_parameters<path_of<P>>();
  } else if constexpr (!matches_any(table, P.view())) {
    constexpr auto near = nearest_parameters(table, P.view());
    path_names_parameters<path_of<P>, nearest_parameter<Model, near[0]>, nearest_parameter<Model, near[1]>, nearest_parameter<Model, near[2]>>();
  }
  return true;
}

}  // namespace mortise::detail
