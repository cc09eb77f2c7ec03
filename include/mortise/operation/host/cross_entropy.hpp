// Cross entropy on the host. Vectors run across positions or samples where classes are few, across classes where they are many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mortise/detail/math.hpp>
#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/operation/cross_entropy_args.hpp>

namespace mortise {

namespace detail {

/// Up to here a vector of samples is turned around in a local array, so that no sum runs across lanes.
inline constexpr std::size_t few_classes = 64;

template <class T>
struct cross_entropy_kernel {
  cross_entropy_args<T> const& given;
  T weight_sum;  // of all classes
  std::size_t first_sample;
  std::size_t last_sample;

  using args = cross_entropy_args<T>;

  static MORTISE_INLINE T weight_of(args const& a, std::size_t c) { return a.weight == nullptr ? T(1) : static_cast<T>(a.weight[c]); }

  /// One vector of columns: class c of lane i is x[c * stride + i], and the like for dx. `target` and `losses` have V::width entries.
  template <class V>
  static MORTISE_INLINE void columns(args const& a, T all_weights, T const* x, std::size_t stride, std::int64_t const* target, T* dx,
                                     T* losses) {
    constexpr std::size_t w = static_cast<std::size_t>(lanes_of<V>::width);
    std::size_t const classes = a.classes;
    V largest = load<V>(x);
    for (std::size_t c = 1; c < classes; ++c) largest = max(largest, load<V>(x + c * stride));
    V sum(T(0));
    V smooth(T(0));
    for (std::size_t c = 0; c < classes; ++c) {
      V const shifted = load<V>(x + c * stride) - largest;
      V const e = exp(shifted);
      sum = sum + e;
      if (dx != nullptr) store(e, dx + c * stride);
      if (a.smoothing != T(0)) smooth = fma(V(weight_of(a, c)), shifted, smooth);
    }
    V const log_sum = log(sum);

    // Per lane: weight of the target, 0 where it is ignored.
    T own[w];
    T at_target[w];
    T active[w];
    for (std::size_t i = 0; i < w; ++i) {
      bool const counts = target[i] != a.ignored;
      std::size_t const t = counts ? static_cast<std::size_t>(target[i]) : 0;
      active[i] = counts ? T(1) : T(0);
      own[i] = counts ? weight_of(a, t) : T(0);
      at_target[i] = x[t * stride + i];
    }
    V const zero(T(0));
    V const on = load<V>(active);
    V const hard = V(T(1) - a.smoothing) * load<V>(own);
    T const share = a.smoothing / static_cast<T>(classes);
    V loss = hard * (log_sum - (load<V>(at_target) - largest));
    if (a.smoothing != T(0)) loss = fma(V(share), V(all_weights) * log_sum - smooth, loss);
    store(select(on > zero, loss, zero), losses);
    if (dx == nullptr) return;

    V const keep = V(a.scale) * on;
    V const factor = keep * (hard + V(share * all_weights)) / sum;
    for (std::size_t c = 0; c < classes; ++c) {
      V g = load<V>(dx + c * stride) * factor;
      if (a.smoothing != T(0)) g = g - keep * V(share * weight_of(a, c));
      store(select(on > zero, g, zero), dx + c * stride);
    }
    for (std::size_t i = 0; i < w; ++i)
      if (target[i] != a.ignored) dx[static_cast<std::size_t>(target[i]) * stride + i] -= a.scale * (T(1) - a.smoothing) * own[i];
  }

  template <class V>
  static MORTISE_INLINE V load(T const* p) {
    if constexpr (std::is_same_v<V, T>) return *p;
    else return V::load(p);
  }
  template <class V>
  static MORTISE_INLINE void store(V const& v, T* p) {
    if constexpr (std::is_same_v<V, T>) *p = v;
    else v.store(p);
  }

  /// Few classes: `rows` samples side by side, through a local array with the classes outermost.
  template <class V>
  static MORTISE_INLINE void samples(args const& a, T all_weights, std::size_t sample, std::size_t rows) {
    constexpr std::size_t w = V::width;
    T turned[few_classes * w];
    T gradient[few_classes * w];
    std::int64_t target[w];
    T losses[w];
    std::size_t const classes = a.classes;
    T const* const x = a.x + sample * classes;
    if (rows < w)
      for (std::size_t i = 0; i < classes * w; ++i) turned[i] = T(0);
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t c = 0; c < classes; ++c) turned[c * w + i] = x[i * classes + c];
    for (std::size_t i = 0; i < w; ++i) target[i] = i < rows ? a.target[sample + i] : a.ignored;
    columns<V>(a, all_weights, turned, w, target, a.dx != nullptr ? gradient : nullptr, losses);
    for (std::size_t i = 0; i < rows; ++i) a.losses[sample + i] = losses[i];
    if (a.dx == nullptr) return;
    T* const dx = a.dx + sample * classes;
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t c = 0; c < classes; ++c) dx[i * classes + c] = gradient[c * w + i];
  }

  /// Many classes: vectors along them.
  template <class V>
  static MORTISE_INLINE void row(args const& a, T all_weights, std::size_t sample) {
    constexpr std::size_t w = V::width;
    std::size_t const classes = a.classes;
    T const* const x = a.x + sample * classes;
    T* const dx = a.dx == nullptr ? nullptr : a.dx + sample * classes;
    std::int64_t const t = a.target[sample];
    if (t == a.ignored) {
      a.losses[sample] = T(0);
      if (dx != nullptr)
        for (std::size_t c = 0; c < classes; ++c) dx[c] = T(0);
      return;
    }
    V best = V::load(x);
    std::size_t c = w;
    for (; c + w <= classes; c += w) best = max(best, V::load(x + c));
    T largest = max_lanes(best);
    for (; c < classes; ++c) largest = x[c] > largest ? x[c] : largest;

    V sums(T(0));
    V smooths(T(0));
    V const shift(largest);
    T weights[w];
    auto const weights_at = [&](std::size_t from) MORTISE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < w; ++i) weights[i] = weight_of(a, from + i);
      return V::load(weights);
    };
    for (c = 0; c + w <= classes; c += w) {
      V const shifted = V::load(x + c) - shift;
      V const e = exp(shifted);
      sums = sums + e;
      if (dx != nullptr) e.store(dx + c);
      if (a.smoothing != T(0)) smooths = fma(weights_at(c), shifted, smooths);
    }
    T sum = sum_lanes(sums);
    T smooth = sum_lanes(smooths);
    for (; c < classes; ++c) {
      T const shifted = x[c] - largest;
      T const e = exp(shifted);
      sum += e;
      if (dx != nullptr) dx[c] = e;
      if (a.smoothing != T(0)) smooth += weight_of(a, c) * shifted;
    }
    T const log_sum = log(sum);
    T const hard = (T(1) - a.smoothing) * weight_of(a, static_cast<std::size_t>(t));
    T const share = a.smoothing / static_cast<T>(classes);
    T loss = hard * (log_sum - (x[t] - largest));
    if (a.smoothing != T(0)) loss += share * (all_weights * log_sum - smooth);
    a.losses[sample] = loss;
    if (dx == nullptr) return;

    T const factor = a.scale * (hard + share * all_weights) / sum;
    V const factors(factor);
    if (a.smoothing != T(0)) {
      V const shares(a.scale * share);
      for (c = 0; c + w <= classes; c += w) (V::load(dx + c) * factors - shares * weights_at(c)).store(dx + c);
      for (; c < classes; ++c) dx[c] = dx[c] * factor - a.scale * share * weight_of(a, c);
    } else {
      for (c = 0; c + w <= classes; c += w) (V::load(dx + c) * factors).store(dx + c);
      for (; c < classes; ++c) dx[c] *= factor;
    }
    dx[t] -= a.scale * hard;
  }

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    args const a = given;
    if (a.positions == 1 && a.classes <= few_classes) {
      for (std::size_t s = first_sample; s < last_sample; s += w) samples<V>(a, weight_sum, s, last_sample - s < w ? last_sample - s : w);
    } else if (a.positions == 1) {
      for (std::size_t s = first_sample; s < last_sample; ++s) row<V>(a, weight_sum, s);
    } else {
      for (std::size_t s = first_sample; s < last_sample; ++s) {
        T const* const x = a.x + s * a.classes * a.positions;
        T* const dx = a.dx == nullptr ? nullptr : a.dx + s * a.classes * a.positions;
        std::int64_t const* const target = a.target + s * a.positions;
        T* const losses = a.losses + s * a.positions;
        std::size_t i = 0;
        for (; i + w <= a.positions; i += w)
          columns<V>(a, weight_sum, x + i, a.positions, target + i, dx == nullptr ? nullptr : dx + i, losses + i);
        for (; i < a.positions; ++i)
          columns<T>(a, weight_sum, x + i, a.positions, target + i, dx == nullptr ? nullptr : dx + i, losses + i);
      }
    }
  }
};

}  // namespace detail

template <class T>
void cross_entropy(host const& device, cross_entropy_args<T> const& a) {
  T weight_sum(static_cast<T>(a.classes));
  if (a.weight != nullptr) {
    double sum = 0;
    for (std::size_t c = 0; c < a.classes; ++c) sum += a.weight[c];
    weight_sum = static_cast<T>(sum);
  }
  // Whole vectors of samples in a piece, about 16384 scores of them.
  std::size_t const per_sample = a.classes * a.positions;
  std::size_t const samples = (16384 / per_sample + 16) & ~std::size_t{15};
  std::size_t const piece = a.positions == 1 ? samples : per_sample >= 16384 ? 1 : samples;
  for_each_piece(device, (a.batch + piece - 1) / piece, [&](std::size_t p) {
    std::size_t const first = p * piece;
    detail::for_this_cpu(detail::cross_entropy_kernel<T>{a, weight_sum, first, first + piece < a.batch ? first + piece : a.batch});
  });
}

}  // namespace mortise
