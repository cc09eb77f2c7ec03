// One array for every sample of a batch, on CUDA. Contract: operation/repeat.hpp; sums run in the tree of all column sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/cuda/reduce.cuh>
#include <mortise/operation/repeat.hpp>

namespace mortise {

namespace detail {

/// One thread an element of w, for a few samples: w is read once for them.
template <class T>
struct add_to_samples {
  T const* x;
  T const* w;
  T* y;
  std::uint64_t batch, n;
  __device__ void operator()(std::uint64_t i) const {
    std::uint64_t const at = i % n, first = i / n * rows_of_thread, end = first + rows_of_thread < batch ? first + rows_of_thread : batch;
    T const add = w[at];
    for (std::uint64_t b = first; b < end; ++b) y[b * n + at] = x[b * n + at] + add;
  }
};

}  // namespace detail

template <class T>
void add_to_each(cuda const& device, std::size_t batch, std::size_t n, T const* x, T const* w, T* y) {
  detail::for_each_index(device, detail::row_groups(batch) * n, detail::add_to_samples<T>{x, w, y, batch, n});
}
template <class T>
void sum_of_each(cuda const& device, std::size_t batch, std::size_t n, T const* x, T* sums) {
  detail::column_sums<T>(device, batch, n, x, sums);
}

}  // namespace mortise
