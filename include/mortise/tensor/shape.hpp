// Shapes twice: `shape`, a value for constexpr loops, and `extents<1, 28, 28>`, a type for signatures.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <ostream>
#include <string>
#include <utility>

#include <mortise/config.hpp>

namespace mortise {

/// Up to 8 axes, outermost first; row-major. Rank 0 is a scalar with one element. A structural type: usable as template argument on the host.
struct shape {
  static constexpr std::size_t max_rank = 8;

  std::size_t axes[max_rank] = {};
  std::size_t rank = 0;

  constexpr shape() = default;
  constexpr shape(std::initializer_list<std::size_t> list) {
    for (std::size_t const n : list) push_back(n);
  }

  constexpr void push_back(std::size_t n) {
    if (rank == max_rank) throw "mortise::shape: more than 8 axes";
    axes[rank++] = n;
  }
  constexpr std::size_t operator[](std::size_t axis) const { return axes[axis]; }
  constexpr std::size_t& operator[](std::size_t axis) { return axes[axis]; }
  constexpr std::size_t size() const { return rank; }
  constexpr std::size_t const* begin() const { return axes; }
  constexpr std::size_t const* end() const { return axes + rank; }
  constexpr std::size_t back() const { return axes[rank - 1]; }

  /// Number of elements.
  constexpr std::size_t elements() const {
    std::size_t n = 1;
    for (std::size_t i = 0; i < rank; ++i) n *= axes[i];
    return n;
  }
  /// This shape behind a leading axis of `n`: a batch of it.
  constexpr shape with_batch(std::size_t n) const {
    shape r;
    r.push_back(n);
    for (std::size_t i = 0; i < rank; ++i) r.push_back(axes[i]);
    return r;
  }
  /// This shape without its leading axis.
  constexpr shape without_batch() const {
    shape r;
    for (std::size_t i = 1; i < rank; ++i) r.push_back(axes[i]);
    return r;
  }

  friend constexpr bool operator==(shape const&, shape const&) = default;
};

/// "(1, 28, 28)"
inline std::string to_string(shape const& s) {
  std::string text = "(";
  for (std::size_t i = 0; i < s.rank; ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(s[i]);
  }
  return text + ")";
}
inline std::ostream& operator<<(std::ostream& out, shape const& s) { return out << to_string(s); }

/// A shape as a type.
template <std::size_t... Axes>
struct extents {
  static constexpr std::size_t rank = sizeof...(Axes);
  static constexpr std::size_t elements = (std::size_t{1} * ... * Axes);
  static constexpr shape value{Axes...};
  static_assert(rank <= shape::max_rank, "mortise::extents: at most 8 axes");
  static_assert(((Axes > 0) && ...), "mortise::extents: every axis must have at least one element; the batch is not part of it");

  template <std::size_t Axis>
  static constexpr std::size_t axis = value.axes[Axis];
};

namespace detail {
template <shape S, class Axes>
struct extents_of_value;
template <shape S, std::size_t... I>
struct extents_of_value<S, std::integer_sequence<std::size_t, I...>> {
  using type = extents<S.axes[I]...>;
};
// A class of its own, not part of the alias below: g++ 12 crashes on `S.rank` of a dependent S there.
template <shape S>
struct extents_of_shape : extents_of_value<S, std::make_index_sequence<S.rank>> {};
}  // namespace detail

/// The type of a shape value: `extents_for<shape{2, 3}>` is `extents<2, 3>`.
template <shape S>
using extents_for = typename detail::extents_of_shape<S>::type;

}  // namespace mortise
