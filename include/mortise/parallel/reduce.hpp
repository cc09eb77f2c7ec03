// The order in which shards are summed, and the sums.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
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

/// y = a + b, one of a row of additions over equally long arrays; a, and with it y, on device `owner`, b on `other`.
template <class T>
struct array_addition {
  T const* a;
  T const* b;
  T* y;
  std::size_t owner = 0, other = 0;
};

/// Runs the additions for n elements from `from` on, one after the other, block by block, so that sums of sums stay in the cache.
template <class T>
void run_additions(host const& device, std::size_t from, std::size_t n, std::vector<array_addition<T>> const& additions) {
  constexpr std::size_t block = 4096;
  if (additions.empty()) return;
  for_each_range(device, n, [&](std::size_t first, std::size_t count) {
    for (std::size_t done = 0; done < count; done += block) {
      std::size_t const at = from + first + done, size = count - done < block ? count - done : block;
      for (auto const& x : additions) for_this_cpu(add_kernel<T>{x.a + at, x.b + at, x.y + at, size});
    }
  });
}

/// Additions of ranges while devices still compute. On the host whoever is there adds; other kinds of devices specialise this.
template <class D, class T>
class range_adder {
 public:
  /// Before a step: so many ranges of these devices' arrays, `elements` in all.
  void begin(std::vector<D> const&, std::size_t, std::size_t) {}
  /// What device d was asked so far makes range r final. Called for one device at a time, in the order of the ranges.
  void mark(std::size_t, std::size_t) {}
  /// Range r, n elements from `first` on, is final on all devices. `worker` adds, or orders the additions.
  void add(D const& worker, std::size_t, std::size_t first, std::size_t n, std::vector<array_addition<T>> const& additions) {
    run_additions(worker, first, n, additions);
  }
  /// What devices are asked from now on finds the sums.
  void end() noexcept {}
};

/// Cuts a flat array into ranges from its end, and knows which are final on how many of the devices: the last to arrive adds, so nobody waits.
class range_arrivals {
 public:
  /// A new step of `devices` over n elements, in ranges of `size`.
  void begin(std::size_t n, std::size_t size, std::size_t devices) {
    n_ = n;
    size_ = size;
    devices_ = devices;
    if (count() > capacity_) {
      arrived_ = std::make_unique<std::atomic<std::size_t>[]>(count());
      capacity_ = count();
    }
    for (std::size_t r = 0; r < count(); ++r) arrived_[r].store(0, std::memory_order_relaxed);
  }
  std::size_t count() const { return (n_ + size_ - 1) / size_; }
  std::size_t first(std::size_t r) const { return n_ > (r + 1) * size_ ? n_ - (r + 1) * size_ : 0; }
  std::size_t size(std::size_t r) const { return n_ - r * size_ - first(r); }
  /// One device more has range r; true for the last one, which sees what all of them wrote.
  bool arrive(std::size_t r) { return arrived_[r].fetch_add(1, std::memory_order_acq_rel) + 1 == devices_; }

 private:
  std::unique_ptr<std::atomic<std::size_t>[]> arrived_;
  std::size_t capacity_ = 0;
  std::size_t n_ = 0, size_ = 1, devices_ = 0;
};

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
