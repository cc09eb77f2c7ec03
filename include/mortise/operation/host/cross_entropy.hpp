// Cross entropy on the host. Vectors run across positions or samples where classes are few, across classes where they are many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <mortise/detail/math.hpp>
#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/operation/cross_entropy_args.hpp>

namespace mortise {

namespace detail {

/// Up to here a vector of samples is turned around in a local array, so that no sum runs across lanes.
inline constexpr std::size_t few_classes = 64;
/// With so many positions every vector of them is whole.
inline constexpr std::size_t most_lanes = 16;

/// Few classes, or many positions: vectors along samples or positions.
template <class T>
struct cross_entropy_kernel {
  static constexpr int most_bytes = 32;
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
    constexpr std::size_t w = static_cast<std::size_t>(V::width);
    std::size_t const classes = a.classes;
    V largest = V::load(x);
    for (std::size_t c = 1; c < classes; ++c) largest = max(largest, V::load(x + c * stride));
    V sum(T(0));
    V smooth(T(0));
    for (std::size_t c = 0; c < classes; ++c) {
      V const shifted = V::load(x + c * stride) - largest;
      V const e = exp(shifted);
      sum = sum + e;
      if (dx != nullptr) e.store(dx + c * stride);
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
    V const on = V::load(active);
    V const hard = V(T(1) - a.smoothing) * V::load(own);
    T const share = a.smoothing / static_cast<T>(classes);
    V loss = hard * (log_sum - (V::load(at_target) - largest));
    if (a.smoothing != T(0)) loss = fma(V(share), V(all_weights) * log_sum - smooth, loss);
    select(on > zero, loss, zero).store(losses);
    if (dx == nullptr) return;

    V const keep = V(a.scale) * on;
    V const factor = keep * (hard + V(share * all_weights)) / sum;
    for (std::size_t c = 0; c < classes; ++c) {
      V g = V::load(dx + c * stride) * factor;
      if (a.smoothing != T(0)) g = g - keep * V(share * weight_of(a, c));
      select(on > zero, g, zero).store(dx + c * stride);
    }
    for (std::size_t i = 0; i < w; ++i)
      if (target[i] != a.ignored) dx[static_cast<std::size_t>(target[i]) * stride + i] -= a.scale * (T(1) - a.smoothing) * own[i];
  }

  /// A vector of positions where a sample has that many, the last one overlapping the one before; else up to a vector of columns through a
  /// local array with the classes outermost, whose missing lanes are ignored.
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    args const a = given;
    alignas(64) T turned[few_classes * w];
    alignas(64) T gradient[few_classes * w];
    std::int64_t target[w];
    T losses[w];
    std::size_t const classes = a.classes, positions = a.positions;
    bool const direct = positions >= w;
    // Columns from `at` on, and the first that another step begins with. Samples with one position lie `classes` apart.
    std::size_t const lane_step = positions == 1 ? classes : 1;
    for (std::size_t at = first_sample * positions; at < last_sample * positions;) {
      std::size_t const position = at % positions, left = positions == 1 ? last_sample - at : positions - position, rows = left < w ? left : w;
      std::size_t const column = direct ? at + rows - w : at;
      std::size_t const base = (column / positions * classes) * positions + column % positions;
      T const* from = a.x + base;
      T* to = a.dx == nullptr ? nullptr : a.dx + base;
      if (!direct) {
        for (std::size_t c = 0; c < classes; ++c)
          for (std::size_t i = 0; i < w; ++i) turned[c * w + i] = i < rows ? from[i * lane_step + c * positions] : T(0);
        from = turned;
        if (to != nullptr) to = gradient;
      }
      std::size_t const lanes = direct ? w : rows;
      for (std::size_t i = 0; i < w; ++i) target[i] = i < lanes ? a.target[column + i] : a.ignored;
      columns<V>(a, weight_sum, from, direct ? positions : w, target, to, losses);
      for (std::size_t i = 0; i < lanes; ++i) a.losses[column + i] = losses[i];
      if (to == gradient)
        for (std::size_t c = 0; c < classes; ++c)
          for (std::size_t i = 0; i < rows; ++i) a.dx[base + i * lane_step + c * positions] = gradient[c * w + i];
      at += rows;
    }
  }
};

/// Many classes of few positions: vectors along the classes.
template <class T>
struct cross_entropy_rows_kernel {
  static constexpr int most_bytes = 32;
  cross_entropy_args<T> const& given;
  T weight_sum;  // of all classes
  std::size_t first_sample;
  std::size_t last_sample;

  using args = cross_entropy_args<T>;

  static MORTISE_INLINE T weight_of(args const& a, std::size_t c) { return a.weight == nullptr ? T(1) : static_cast<T>(a.weight[c]); }

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    args const a = given;
    for (std::size_t column = first_sample * a.positions; column < last_sample * a.positions; ++column) row<V>(a, column);
  }

 private:
  template <class V>
  MORTISE_INLINE void row(args const& a, std::size_t column) const {
    constexpr std::size_t w = static_cast<std::size_t>(V::width);
    std::size_t const classes = a.classes, step = a.positions, base = column / step * classes * step + column % step;
    T const* const x = a.x + base;
    T* const dx = a.dx == nullptr ? nullptr : a.dx + base;
    std::int64_t const t = a.target[column];
    if (t == a.ignored) {
      a.losses[column] = T(0);
      if (dx != nullptr)
        for (std::size_t c = 0; c < classes; ++c) dx[c * step] = T(0);
      return;
    }
    // The last vector may be part of one: its other lanes hold minus infinity, which adds nothing to any sum.
    T part[w];
    auto const load = [&](T const* p, std::size_t from, T other) MORTISE_LAMBDA_INLINE {
      if (step == 1 && from + w <= classes) return V::load(p + from);
      for (std::size_t i = 0; i < w; ++i) part[i] = from + i < classes ? p[(from + i) * step] : other;
      return V::load(part);
    };
    auto const store = [&](V const& v, std::size_t at) MORTISE_LAMBDA_INLINE {
      if (step == 1 && at + w <= classes) return v.store(dx + at);
      v.store(part);
      for (std::size_t i = 0; i < w && at + i < classes; ++i) dx[(at + i) * step] = part[i];
    };
    auto const weights_at = [&](std::size_t from) MORTISE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < w; ++i) part[i] = from + i < classes ? weight_of(a, from + i) : T(0);
      return V::load(part);
    };
    T const lowest = -std::numeric_limits<T>::infinity();
    V best(lowest);
    for (std::size_t c = 0; c < classes; c += w) best = max(best, load(x, c, lowest));
    T const largest = max_lanes(best);

    V sums(T(0));
    V smooths(T(0));
    V const shift(largest);
    V const none(T(0));
    for (std::size_t c = 0; c < classes; c += w) {
      V const shifted = load(x, c, lowest) - shift;
      V const e = exp(shifted);
      sums = sums + e;
      if (dx != nullptr) store(e, c);
      if (a.smoothing != T(0)) {
        V const weight = weights_at(c);
        smooths = fma(weight, select(weight > none, shifted, none), smooths);  // zero times minus infinity is no number
      }
    }
    T const sum = sum_lanes(sums);
    T const log_sum = log(sum);
    T const hard = (T(1) - a.smoothing) * weight_of(a, static_cast<std::size_t>(t));
    T const share = a.smoothing / static_cast<T>(classes);
    T loss = hard * (log_sum - (x[static_cast<std::size_t>(t) * step] - largest));
    if (a.smoothing != T(0)) loss += share * (weight_sum * log_sum - sum_lanes(smooths));
    a.losses[column] = loss;
    if (dx == nullptr) return;

    V const factors(a.scale * (hard + share * weight_sum) / sum);
    V const shares(a.scale * share);
    for (std::size_t c = 0; c < classes; c += w) {
      V g = load(dx, c, T(0)) * factors;
      if (a.smoothing != T(0)) g = g - shares * weights_at(c);
      store(g, c);
    }
    dx[static_cast<std::size_t>(t) * step] -= a.scale * hard;
  }
};

}  // namespace detail

/// Classes and positions are those of the arguments, so that only one of the two kernels is compiled.
template <std::size_t Classes, std::size_t Positions, class T>
void cross_entropy(host const& device, cross_entropy_args<T> const& a) {
  constexpr bool along_classes = Classes > detail::few_classes && Positions < detail::most_lanes;
  using kernel = std::conditional_t<along_classes, detail::cross_entropy_rows_kernel<T>, detail::cross_entropy_kernel<T>>;
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
    detail::for_this_cpu(kernel{a, weight_sum, first, first + piece < a.batch ? first + piece : a.batch});
  });
}

}  // namespace mortise
