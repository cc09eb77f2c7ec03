// Words for compile errors: texts as template arguments that each compiler prints as text, and the name that resembles another most.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include <mortise/detail/fixed_string.hpp>

namespace mortise::detail {

#if defined(__clang__)
// clang 14 prints the characters of a class-type argument as numbers, but those of a pack as letters.
template <char... Letters>
struct path {};
template <char... Letters>
struct nearest {};
template <fixed_string Text, class Indices>
struct letters_of;
template <fixed_string Text, std::size_t... I>
struct letters_of<Text, std::index_sequence<I...>> {
  using as_path = path<Text.text[I]...>;
  using as_nearest = nearest<Text.text[I]...>;
};
template <fixed_string Text>
using path_of = typename letters_of<Text, std::make_index_sequence<Text.size()>>::as_path;
template <fixed_string Text>
using nearest_of = typename letters_of<Text, std::make_index_sequence<Text.size()>>::as_nearest;
#else
template <fixed_string Text>
struct path {};
template <fixed_string Text>
struct nearest {};
template <fixed_string Text>
using path_of = path<Text>;
template <fixed_string Text>
using nearest_of = nearest<Text>;
#endif

/// A sentence in a report. g++ prints the text of an argument; clang prints numbers, but the text that a function was called with in a
/// constant expression that failed: `in_words` is there for that.
template <fixed_string Text>
struct remedy {};
constexpr bool in_words(char const* what_to_do) { return what_to_do == nullptr ? true : throw what_to_do; }

template <std::size_t Size>
constexpr auto fixed_text(char const* text) {
  char copy[Size + 1] = {};
  for (std::size_t i = 0; i < Size; ++i) copy[i] = text[i];
  return fixed_string<Size + 1>{copy};
}
constexpr std::size_t text_length(char const* text) { return text == nullptr ? 0 : std::string_view{text}.size(); }

/// How many letters must change to make one text of the other, of at most 40 each.
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

/// The one of name_at(0) ... name_at(count - 1) that resembles `wanted` most: by its letters, also by those of its beginnings, since
/// "featurs" means a module.
template <class NameAt>
constexpr std::size_t nearest_name(std::size_t count, NameAt const& name_at, std::string_view wanted) {
  std::size_t best = 0;
  std::size_t least = static_cast<std::size_t>(-1);
  for (std::size_t i = 0; i < count; ++i) {
    std::string_view const name = name_at(i);
    for (std::size_t end = 0; end != std::string_view::npos;) {
      end = name.find('.', end == 0 ? 0 : end + 1);
      std::size_t const d = edit_distance(wanted, name.substr(0, end));
      if (d < least) {
        least = d;
        best = i;
      }
    }
  }
  return best;
}

}  // namespace mortise::detail
