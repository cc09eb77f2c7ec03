// Sorting by position: one merge sort for lists of every kind. <algorithm>'s sorts would be compiled anew for each list and each order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <mortise/config.hpp>

namespace mortise::detail {

/// Does position `a` of a list come before position `b`?
class position_order {
 public:
  /// before(a, b) compares positions. Borrowed: must outlive this.
  template <class Before>
  position_order(Before const& before)
      : before_{&before}, call_{[](void const* f, std::uint32_t a, std::uint32_t b) -> bool { return (*static_cast<Before const*>(f))(a, b); }} {}
  bool operator()(std::uint32_t a, std::uint32_t b) const { return call_(before_, a, b); }

 private:
  void const* before_;
  bool (*call_)(void const*, std::uint32_t, std::uint32_t);
};

/// Positions 0 to count - 1, sorted; positions of which none comes before the other stay in order.
template <class = void>
MORTISE_COLD std::vector<std::uint32_t> sorted_positions(std::size_t count, position_order before) {
  std::vector<std::uint32_t> order(count);
  for (std::size_t i = 0; i != count; ++i) order[i] = static_cast<std::uint32_t>(i);
  std::vector<std::uint32_t> merged(count < 2 ? 0 : count);
  for (std::size_t width = 1; width < count; width *= 2) {
    for (std::size_t start = 0; start < count; start += 2 * width) {
      std::size_t const middle = start + width < count ? start + width : count;
      std::size_t const end = middle + width < count ? middle + width : count;
      std::size_t a = start;
      std::size_t b = middle;
      for (std::size_t to = start; to != end; ++to) merged[to] = b == end || (a != middle && !before(order[b], order[a])) ? order[a++] : order[b++];
    }
    order.swap(merged);
  }
  return order;
}

/// Moves items in place, cycle by cycle: order[k] says who belongs at k.
template <class T>
void reorder(std::vector<T>& items, std::vector<std::uint32_t> order) {
  for (std::uint32_t k = 0; k != order.size(); ++k) {
    if (order[k] == k) continue;
    T first = std::move(items[k]);
    std::uint32_t at = k;
    while (order[at] != k) {
      std::uint32_t const from = std::exchange(order[at], at);
      items[at] = std::move(items[from]);
      at = from;
    }
    items[at] = std::move(first);
    order[at] = at;
  }
}

/// The first of the numbers 0 to count of which is_less(number) does not hold, where it holds of those before: a binary search.
template <class IsLess>
std::size_t first_not_less(std::size_t count, IsLess const& is_less) {
  std::size_t first = 0;
  while (count != 0) {
    std::size_t const half = count / 2;
    bool const less = is_less(first + half);
    if (less) first += half + 1;
    count = less ? count - half - 1 : half;
  }
  return first;
}

}  // namespace mortise::detail
