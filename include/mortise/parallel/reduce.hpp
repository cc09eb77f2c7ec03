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

}  // namespace mortise::detail

namespace mortise {

/// Copies n elements between two devices of one kind. `issuer`, one of the two, does the work, in the order of its own. Waits for nothing.
/// Other kinds of devices overload this and what follows.
template <class T>
void copy_across(host const& issuer, host const&, host const&, std::size_t n, T const* from, T* to) {
  issuer.copy(to, from, n * sizeof(T));
}

/// What `later` is asked from now on begins when what `earlier` was asked so far is done.
inline void order_work(host const&, host const&) {}

/// n elements as the host can read them: `data` itself, or a copy in `storage` where another device has them.
template <class T>
T const* readable_on_host(host const&, T const* data, std::size_t, std::vector<T>&) {
  return data;
}

/// Prepares devices for copies between them, where there is something to prepare.
template <class D>
void connect(std::vector<D> const&) {}

/// Refuses what the devices of a team cannot read: batches come from the host's memory.
template <class T>
void check_batch_memory(host const&, std::size_t, T const*) {}

}  // namespace mortise
