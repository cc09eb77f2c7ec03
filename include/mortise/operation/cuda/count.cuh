// Counting on CUDA: sums of integers, which have no order. Contract: operation/count.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/count.hpp>
#include <mortise/operation/cuda/launch.cuh>

namespace mortise {

namespace detail {

__device__ inline void count_one(std::int64_t* counter) {
  static_assert(sizeof(unsigned long long) == sizeof(std::int64_t));
  atomicAdd(reinterpret_cast<unsigned long long*>(counter), 1ull);
}

/// As among_largest and position_of_largest, which nvcc takes for host functions.
template <class T>
struct top_k_counter {
  T const* scores;
  std::int64_t const* targets;
  std::uint64_t classes, k;
  std::int64_t* counts;
  __device__ void operator()(std::uint64_t sample) const {
    auto const own = static_cast<std::uint64_t>(targets[sample]);
    if (own >= classes) return;
    T const* const row = scores + sample * classes;
    T const score = row[own];
    count_one(counts + 1);
    if (score != score) return;
    std::uint64_t before = 0;
    for (std::uint64_t i = 0; i < classes; ++i) before += row[i] > score || (row[i] == score && i < own) ? 1 : 0;
    if (before < k) count_one(counts);
  }
};

template <class T>
struct prediction_counter {
  T const* scores;
  std::int64_t const* targets;
  std::uint64_t classes;
  std::int64_t* counts;
  __device__ void operator()(std::uint64_t sample) const {
    auto const own = static_cast<std::uint64_t>(targets[sample]);
    if (own >= classes) return;
    T const* const row = scores + sample * classes;
    std::uint64_t best = 0;
    for (std::uint64_t i = 1; i < classes; ++i)
      if (row[i] > row[best] || row[best] != row[best]) best = i;
    count_one(counts + own * classes + best);
  }
};

template <class T>
__global__ void add_weighted_value(T const* value, double weight, double* sums) {
  sums[0] += weight * static_cast<double>(*value);
  sums[1] += weight;
}

}  // namespace detail

template <class T>
void count_top_k(cuda const& device, std::size_t batch, std::size_t classes, T const* scores, std::int64_t const* targets, std::size_t k,
                 std::int64_t* counts) {
  detail::for_each_index(device, batch, detail::top_k_counter<T>{scores, targets, classes, k, counts});
}
template <class T>
void count_predictions(cuda const& device, std::size_t batch, std::size_t classes, T const* scores, std::int64_t const* targets, std::int64_t* counts) {
  detail::for_each_index(device, batch, detail::prediction_counter<T>{scores, targets, classes, counts});
}
template <class T>
void add_weighted(cuda const& device, T const* value, double weight, double* sums) {
  device.launch(&detail::add_weighted_value<T>, dim3{1}, dim3{1}, 0, value, weight, sums);
}

}  // namespace mortise
