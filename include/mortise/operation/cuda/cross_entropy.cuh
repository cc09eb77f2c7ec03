// Cross entropy on CUDA. Contract: operation/cross_entropy.hpp. A class index that is out of range gives a loss and a gradient of NaN, since
// a step on a device cannot stop to complain; nothing is read or written out of bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mortise/detail/math.hpp>
#include <mortise/operation/cross_entropy.hpp>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/cuda/reduce.cuh>

namespace mortise {

namespace detail {

/// What all targets of a batch have in common, on the device.
template <class T>
struct cross_entropy_scale {
  T scale;         // of the gradient and of the loss: 1 / total weight for a mean
  T weight_sum;    // of all classes
};

/// mode 0: mean; otherwise `given` is the scale. One block.
template <class T>
__global__ void __launch_bounds__(block_threads) cross_entropy_scale_kernel(std::int64_t const* target, std::uint64_t n, std::uint64_t classes, std::int64_t ignored,
                                                                 double const* weight, int mean, double given, cross_entropy_scale<T>* result) {
  __shared__ double shared[8];
  double total = 0, all = 0;
  if (mean != 0)
    for (std::uint64_t i = threadIdx.x; i < n; i += block_threads) {
      std::int64_t const t = target[i];
      if (t == ignored) continue;
      if (static_cast<std::uint64_t>(t) >= classes) total += 1;  // its loss is NaN whatever it counts
      else total += weight == nullptr ? 1 : weight[t];
    }
  if (weight != nullptr)
    for (std::uint64_t c = threadIdx.x; c < classes; c += block_threads) all += weight[c];
  total = row_team<static_cast<int>(block_threads)>::sum(total, shared);
  all = row_team<static_cast<int>(block_threads)>::sum(all, shared);
  if (threadIdx.x == 0) *result = {static_cast<T>(mean != 0 ? 1 / total : given), static_cast<T>(weight == nullptr ? static_cast<double>(classes) : all)};
}

/// Scores of a column of classes, `stride` apart.
template <class T>
struct cross_entropy_row {
  T const* x;
  std::int64_t const* target;
  T* dx;  // or null
  T* losses;
  double const* weight;  // or null
  cross_entropy_scale<T> const* common;
  std::int64_t ignored;
  T smoothing;
  std::uint64_t classes, positions;
  bool cached = false;

  __device__ T weight_of(std::uint64_t c) const { return weight == nullptr ? T(1) : static_cast<T>(weight[c]); }

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ T shared[8];
    T* const kept = reinterpret_cast<T*>(memory);
    std::uint64_t const base = active ? row / positions * classes * positions + row % positions : 0, n = active ? classes : 0;
    T top = -layout_of<T>::infinity;
    for (std::uint64_t c = Team::rank(); c < n; c += Team::size) {
      T const v = x[base + c * positions];
      if (cached) kept[c] = v;
      top = v > top || v != v ? v : top;
    }
    top = Team::max(top, shared);
    T sum{}, smooth{};
    for (std::uint64_t c = Team::rank(); c < n; c += Team::size) {
      T const shifted = (cached ? kept[c] : x[base + c * positions]) - top;
      sum += exp(shifted);
      if (smoothing != T(0)) smooth = fma(weight_of(c), shifted, smooth);
    }
    sum = Team::sum(sum, shared);
    if (smoothing != T(0)) smooth = Team::sum(smooth, shared);
    if (!active) return;

    std::int64_t const t = target[row];
    bool const counts = t != ignored, valid = static_cast<std::uint64_t>(t) < classes;
    T const all_weights = common->weight_sum, scale = common->scale;
    T const log_sum = log(sum);
    T const own = counts && valid ? weight_of(static_cast<std::uint64_t>(t)) : T(0);
    T const hard = (T(1) - smoothing) * own, share = smoothing / static_cast<T>(classes);
    if (Team::rank() == 0) {
      T loss{};
      if (counts && valid) {
        loss = hard * (log_sum - (x[base + static_cast<std::uint64_t>(t) * positions] - top));
        if (smoothing != T(0)) loss += share * (all_weights * log_sum - smooth);
      } else if (counts) {
        loss = layout_of<T>::nan;
      }
      losses[row] = loss;
    }
    if (dx == nullptr) return;
    T const factor = scale * (hard + share * all_weights) / sum;
    for (std::uint64_t c = Team::rank(); c < n; c += Team::size) {
      T g{};
      if (counts && valid) {
        g = exp((cached ? kept[c] : x[base + c * positions]) - top) * factor;
        if (smoothing != T(0)) g -= scale * share * weight_of(c);
        if (c == static_cast<std::uint64_t>(t)) g -= scale * hard;
      } else if (counts) {
        g = layout_of<T>::nan;
      }
      dx[base + c * positions] = g;
    }
  }
};

/// Settings of a loss on classes, at the beginning of the scratch memory; `used` bytes of it.
template <class T>
struct class_settings_on_device {
  double const* weight;  // or null
  cross_entropy_scale<T>* common;
  std::size_t used;
};
template <class T>
class_settings_on_device<T> class_settings(cuda const& device, std::vector<double> const& weight) {
  std::size_t const used = 256 + (weight.size() * sizeof(double) + 255) / 256 * 256;
  auto* const memory = static_cast<unsigned char*>(device.context().scratch(used));
  auto* const on_device = reinterpret_cast<double*>(memory + 256);
  if (!weight.empty()) device.copy(on_device, weight.data(), weight.size() * sizeof(double));
  return {weight.empty() ? nullptr : on_device, reinterpret_cast<cross_entropy_scale<T>*>(memory), used};
}

}  // namespace detail

/// Loss and gradient with everything on the device: `mean` divides by the targets' total weight, otherwise `scale` multiplies.
/// a.weight and a.scale are not used.
template <class T>
void cross_entropy_on_device(cuda const& device, cross_entropy_args<T> const& a, std::vector<double> const& class_weight, bool mean, double scale, T* value) {
  std::size_t const n = a.batch * a.positions;
  auto const [weight, common, used] = detail::class_settings<T>(device, class_weight);
  device.launch(&detail::cross_entropy_scale_kernel<T>, dim3{1}, dim3{detail::block_threads}, 0, a.target, n, a.classes, a.ignored, weight, mean ? 1 : 0,
                scale, common);
  detail::for_each_row(device, n, a.classes, a.classes * sizeof(T),
                       detail::cross_entropy_row<T>{a.x, a.target, a.dx, a.losses, weight, common, a.ignored, a.smoothing, a.classes, a.positions});
  detail::sum_on_device<detail::identity_of>(device, static_cast<T const*>(a.losses), n, T(1), static_cast<T const*>(&common->scale), value, used);
}

}  // namespace mortise
