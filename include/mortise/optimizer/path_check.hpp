// A path that matches no parameter is a compile error, with the name that is nearest.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include <mortise/detail/fixed_string.hpp>
#include <mortise/optimizer/path_pattern.hpp>

namespace mortise::detail {

template <class Table>
constexpr bool matches_any(Table const& table, std::string_view pattern) {
  for (std::size_t i = 0; i < table.size(); ++i)
    if (path_matches(pattern, table[i].name)) return true;
  return false;
}

/// How many letters must change to make one text of the other, at most 40 each.
constexpr std::size_t edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, 40);
  b = b.substr(0, 40);
  std::size_t row[41] = {};
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t const above = row[j];
      std::size_t best = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      best = best < above + 1 ? best : above + 1;
      best = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
      row[j] = best;
      diagonal = above;
    }
  }
  return row[b.size()];
}
/// The parameter that resembles a pattern most: by its letters, also against the beginnings of the name, since "featurs" means a module.
template <class Table>
constexpr std::size_t nearest_name(Table const& table, std::string_view pattern) {
  std::size_t best = 0;
  std::size_t least = static_cast<std::size_t>(-1);
  for (std::size_t i = 0; i < table.size(); ++i) {
    std::string_view const name = table[i].name;
    for (std::size_t end = 0; end != std::string_view::npos;) {
      end = name.find('.', end == 0 ? 0 : end + 1);
      std::size_t const d = edit_distance(pattern, name.substr(0, end));
      if (d < least) {
        least = d;
        best = i;
      }
    }
  }
  return best;
}

// clang prints the characters of a class-type argument as numbers, but those of a pack as letters.
template <char... Letters>
struct letters {};
template <class Model, std::size_t Parameter, class Indices>
struct name_letters;
template <class Model, std::size_t Parameter, std::size_t... I>
struct name_letters<Model, Parameter, std::index_sequence<I...>> {
  using type = letters<std::string_view{Model::parameter_table[Parameter].name}[I]...>;
};
template <class Model, std::size_t Parameter>
using letters_of_parameter =
    typename name_letters<Model, Parameter, std::make_index_sequence<std::string_view{Model::parameter_table[Parameter].name}.size()>>::type;
template <fixed_string P, class Indices = std::make_index_sequence<P.size()>>
struct path_letters;
template <fixed_string P, std::size_t... I>
struct path_letters<P, std::index_sequence<I...>> {
  using type = letters<P.text[I]...>;
};

/// The arguments are the report: the path as written, and the parameter whose name is nearest.
template <bool Matches, class Path, class NearestName>
struct path_names_parameters {
  static_assert(Matches,
                "mortise::group: the path matches no parameter; paths are PyTorch's names, as net.parameter takes them: \"features\" or "
                "\"features.*\" for all under it, \"**.bias\" for all that end so. The path and the nearest name stand in the instantiation note");
  static constexpr bool value = true;
};

template <class Model, fixed_string P>
constexpr bool check_path() {
  constexpr bool matches = matches_any(Model::parameter_table, P.view());
  if constexpr (matches) return true;
  else
    return path_names_parameters<matches, typename path_letters<P>::type,
                                 letters_of_parameter<Model, nearest_name(Model::parameter_table, P.view())>>::value;
}

}  // namespace mortise::detail
