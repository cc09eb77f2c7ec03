// The order in which shards are summed, and the sums.
#pragma once

#include <cstddef>
#include <vector>

#include <mortise/device/host.hpp>
#include <mortise/operation/map.hpp>

namespace mortise::detail {

/// A node of the tree over S shards: the sum of shards [index 2^level, (index + 1) 2^level), as far as there are so many.
///
/// The tree sums neighbours, then neighbours of those; who has no neighbour moves up as it is. It depends on S alone: whoever holds which
/// shards, the same additions happen in it.
template <class T>
struct partial_sum {
  unsigned level = 0;
  std::size_t index = 0;
  T* data = nullptr;
  std::size_t owner = 0;  // a device, or a spare array: for the caller

  /// Moves up while there is no neighbour on the right to wait for.
  constexpr void climb(std::size_t shards) {
    while (!is_root(shards) && index % 2 == 0 && ((index + 1) << level) >= shards) up();
  }
  constexpr bool is_root(std::size_t shards) const { return index == 0 && (std::size_t{1} << level) >= shards; }
  constexpr bool completes(partial_sum const& left) const { return index % 2 == 1 && left.level == level && left.index + 1 == index; }
  constexpr void up() {
    ++level;
    index /= 2;
  }
};

/// Adds `node` to a row of partial sums, oldest first, and makes every addition that has become possible: add(left, right, is_root) leaves
/// the sum where left is, and may set `left.data`. Afterwards the last of the row is what `node` became.
template <class T, class Add>
void join_partial_sums(std::vector<partial_sum<T>>& row, partial_sum<T> node, std::size_t shards, Add const& add) {
  node.climb(shards);
  while (!row.empty() && node.completes(row.back())) {
    partial_sum<T> left = row.back();
    row.pop_back();
    left.up();
    left.climb(shards);
    add(left, node, left.is_root(shards));
    node = left;
  }
  row.push_back(node);
}

/// y = a + b, one of a row of additions over equally long arrays.
template <class T>
struct array_addition {
  T const* a;
  T const* b;
  T* y;
};

/// Runs the additions one after the other, block by block, so that sums of sums stay in the cache.
template <class T>
void run_additions(host const& device, std::size_t n, std::vector<array_addition<T>> const& additions) {
  constexpr std::size_t block = 4096;
  if (additions.empty()) return;
  for_each_range(device, n, [&](std::size_t first, std::size_t count) {
    for (std::size_t done = 0; done < count; done += block) {
      std::size_t const at = first + done, size = count - done < block ? count - done : block;
      for (auto const& x : additions) for_this_cpu(add_kernel<T>{x.a + at, x.b + at, x.y + at, size});
    }
  });
}

/// Copies n elements between two devices of one kind, in the order of work on both: after what was asked of either before.
template <class T>
void copy_across(host const&, host const& to_device, std::size_t n, T const* from, T* to) {
  to_device.copy(to, from, n * sizeof(T));
}

}  // namespace mortise::detail
