// Losses on CUDA: value and gradient stay on the device. Contracts: loss/*.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mortise/loss/bce_with_logits_loss.hpp>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/loss/nll_loss.hpp>
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

/// Losses with settings that live in host memory.
template <class Out, class T>
void compute_loss(Out, cross_entropy_loss const& loss, cuda const& device, std::size_t batch, T const* x, std::int64_t const* y, T* dx, T* value,
                  T* workspace) {
  cross_entropy_on_device(device, loss.template arguments<Out>(batch, x, y, dx, workspace), loss.weight, loss.reduction == reduction::mean,
                          loss.reduction == reduction::batchmean ? 1 / static_cast<double>(batch) : 1.0, value);
}

template <class Out, class T>
void compute_loss(Out, nll_loss const& loss, cuda const& device, std::size_t batch, T const* x, std::int64_t const* y, T* dx, T* value, T* workspace) {
  constexpr std::size_t classes = Out::value[0], positions = detail::positions_of(Out::value);
  if (!loss.weight.empty() && loss.weight.size() != classes) detail::throw_weight_count("nll_loss", "weight", loss.weight.size(), classes);
  auto const [weight, common, used] = detail::class_settings<T>(device, loss.weight);
  std::size_t const n = batch * positions;
  device.launch(&detail::cross_entropy_scale_kernel<T>, dim3{1}, dim3{detail::block_threads}, 0, y, n, classes, loss.ignore_index, weight,
                loss.reduction == reduction::mean ? 1 : 0, loss.reduction == reduction::batchmean ? 1 / static_cast<double>(batch) : 1.0, common);
  detail::for_each_index(device, n * classes, detail::nll_elements<T>{x, y, loss.ignore_index, weight, common, classes, positions, dx, workspace});
  detail::sum_on_device<detail::identity_of>(device, static_cast<T const*>(workspace), n, T(1), static_cast<T const*>(&common->scale), value, used);
}

template <class Out, class T>
void compute_loss(Out, bce_with_logits_loss const& loss, cuda const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T*) {
  constexpr std::size_t classes = Out::value.rank == 0 ? 1 : Out::value.back();
  if (!loss.pos_weight.empty() && loss.pos_weight.size() != classes)
    detail::throw_weight_count("bce_with_logits_loss", "pos_weight", loss.pos_weight.size(), classes);
  auto const [weight, common, used] = detail::class_settings<T>(device, loss.pos_weight);
  static_cast<void>(common);
  constexpr std::size_t per_sample = Out::value.elements();
  pointwise_loss(device, detail::bce_with_logits_formula<T>{weight, classes}, batch * per_sample, x, y,
                 static_cast<T>(detail::reduction_scale(loss.reduction, batch, per_sample)), dx, value, static_cast<T*>(nullptr), used);
}

}  // namespace mortise
