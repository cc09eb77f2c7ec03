// Losses that compare element with element, and negative log likelihood, on CUDA: value and gradient stay on the device. Contracts:
// operation/pointwise_loss.hpp, operation/nll.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/cross_entropy.cuh>
#include <mortise/operation/pointwise_loss.hpp>

namespace mortise {

namespace detail {

/// One block a piece: gradient of its elements and the sum of their losses.
template <class Formula, class T>
__global__ void __launch_bounds__(block_threads) pointwise_loss_pieces(Formula formula, std::uint64_t n, T const* x, T const* y, T scale, T* dx, T* parts) {
  __shared__ T shared[8];
  std::uint64_t const first = std::uint64_t{blockIdx.x} * sum_piece, end = first + sum_piece, last = end < n ? end : n;
  T sum{};
  for (std::uint64_t i = first + threadIdx.x; i < last; i += block_threads) {
    T loss{}, slope{};
    formula(static_cast<std::size_t>(i), x[i], y[i], loss, slope);
    sum += loss;
    if (dx != nullptr) dx[i] = scale * slope;
  }
  sum = row_team<static_cast<int>(block_threads)>::sum(sum, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <class T>
struct nll_elements {
  T const* x;
  std::int64_t const* target;
  std::int64_t ignored;
  double const* weight;
  cross_entropy_scale<T> const* common;
  std::uint64_t classes, positions;
  T* dx;
  T* losses;
  __device__ void operator()(std::uint64_t e) const {  // over (batch, classes, positions)
    std::uint64_t const position = e % positions, c = e / positions % classes, row = e / positions / classes * positions + position;
    std::int64_t const t = target[row];
    bool const counts = t != ignored, valid = static_cast<std::uint64_t>(t) < classes, own = valid && c == static_cast<std::uint64_t>(t);
    T const w = own && weight != nullptr ? static_cast<T>(weight[t]) : T(1);
    if (dx != nullptr) dx[e] = !counts ? T{} : !valid ? layout_of<T>::nan : own ? -w * common->scale : T{};
    if (own && counts) losses[row] = -w * x[e];
    else if (c == 0 && !counts) losses[row] = T{};
    else if (c == 0 && !valid) losses[row] = layout_of<T>::nan;
  }
};

}  // namespace detail

template <class Formula, class T>
void pointwise_loss(cuda const& device, Formula const& formula, std::size_t count, T const* x, T const* y, T scale, T* dx, T* value, T*,
                    std::size_t scratch_offset = 0) {
  std::size_t const pieces = (count + detail::sum_piece - 1) / detail::sum_piece;
  std::size_t const own = (pieces * sizeof(T) + 255) / 256 * 256;
  T* const parts = reinterpret_cast<T*>(static_cast<unsigned char*>(device.context().scratch(scratch_offset + own)) + scratch_offset);
  device.launch(&detail::pointwise_loss_pieces<Formula, T>, dim3{static_cast<unsigned>(pieces)}, dim3{detail::block_threads}, 0, formula, count, x, y, scale,
                dx, parts);
  detail::sum_on_device<detail::identity_of>(device, static_cast<T const*>(parts), pieces, scale, static_cast<T const*>(nullptr), value, scratch_offset + own);
}

}  // namespace mortise
