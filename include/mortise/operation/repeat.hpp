// One array for every sample of a batch: added to each, and the sum that is its gradient.
#pragma once

#include <cstddef>

#include <mortise/operation/host/gemm_kernels.hpp>
#include <mortise/operation/map.hpp>

namespace mortise {

/// y[b][i] = x[b][i] + w[i].   x, y (batch, n), y may be x   w (n)
template <class T>
void add_to_each(host const& device, std::size_t batch, std::size_t n, T const* x, T const* w, T* y) {
  detail::for_each_row_block(device, batch, n, [=](std::size_t first, std::size_t count) {
    for (std::size_t b = first; b < first + count; ++b) detail::for_this_cpu(detail::add_kernel<T>{x + b * n, w, y + b * n, n});
  });
}

/// sums[i] = x[0][i] + x[1][i] + ..., in this order.   x (batch, n)   sums (n)
template <class T>
void sum_of_each(host const&, std::size_t batch, std::size_t n, T const* x, T* sums) {
  detail::gemm_kernels_for_this_cpu<T>().column_sum({batch, n, x, sums});
}

}  // namespace mortise
