// Softmax on the host. See operation/softmax.hpp for the contract.
#pragma once

#include <cstddef>

#include <mortise/detail/math.hpp>
#include <mortise/operation/map.hpp>

namespace mortise {

namespace detail {

/// The maximum of a row of `width` elements.
template <class V, class T>
MORTISE_INLINE T row_maximum(T const* x, std::size_t width) {
  constexpr std::size_t w = V::width;
  T best = x[0];
  std::size_t i = 0;
  if (width >= w) {
    V most = V::load(x);
    for (i = w; i + w <= width; i += w) most = max(V::load(x + i), most);
    best = max_lanes(most);
  }
  for (; i < width; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

template <bool Log, class T>
struct softmax_rows_kernel {
  T const* x;
  T* y;
  std::size_t rows, width;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    std::size_t const whole = width / w * w, rest = width - whole;
    for (std::size_t r = 0; r < rows; ++r) {
      T const* const from = x + r * width;
      T* const to = y + r * width;
      V const top{row_maximum<V>(from, width)};
      V sum;
      for (std::size_t i = 0; i < whole; i += w) {
        V const e = exp(V::load(from + i) - top);
        if constexpr (!Log) e.store(to + i);
        sum += e;
      }
      if (rest != 0) {
        V const e = exp(V::load_first(from + whole, rest) - top);
        if constexpr (!Log) e.store_first(to + whole, rest);
        sum += first_lanes(e, rest);
      }
      V const total{sum_lanes(sum)};
      if constexpr (Log) {
        V const shift = log(total);
        for (std::size_t i = 0; i < whole; i += w) ((V::load(from + i) - top) - shift).store(to + i);
        if (rest != 0) ((V::load_first(from + whole, rest) - top) - shift).store_first(to + whole, rest);
      } else {
        V const factor = V{T(1)} / total;
        for (std::size_t i = 0; i < whole; i += w) (V::load(to + i) * factor).store(to + i);
        for (std::size_t i = whole; i < width; ++i) to[i] = to[i] * factor[0];
      }
    }
  }
};

template <bool Log, class T>
struct softmax_rows_backward_kernel {
  T const* y;
  T const* dy;
  T* dx;
  std::size_t rows, width;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    std::size_t const whole = width / w * w, rest = width - whole;
    for (std::size_t r = 0; r < rows; ++r) {
      T const* const p = y + r * width;
      T const* const g = dy + r * width;
      T* const to = dx + r * width;
      V sum;
      for (std::size_t i = 0; i < whole; i += w) sum = Log ? sum + V::load(g + i) : fma(V::load(g + i), V::load(p + i), sum);
      if (rest != 0) {
        V const gs = V::load_first(g + whole, rest);
        sum = Log ? sum + gs : fma(gs, V::load_first(p + whole, rest), sum);
      }
      V const total{sum_lanes(sum)};
      auto const gradient = [&](V const& ps, V const& gs) MORTISE_LAMBDA_INLINE {
        if constexpr (Log) return fma(-exp(ps), total, gs);
        else return ps * (gs - total);
      };
      for (std::size_t i = 0; i < whole; i += w) gradient(V::load(p + i), V::load(g + i)).store(to + i);
      if (rest != 0) gradient(V::load_first(p + whole, rest), V::load_first(g + whole, rest)).store_first(to + whole, rest);
    }
  }
};

/// The axis is not the last one: neighbours in memory belong to different sums, one for each lane.
template <bool Log, class T>
struct softmax_columns_kernel {
  T const* x;
  T* y;
  std::size_t outer, width, inner;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    for (std::size_t o = 0; o < outer; ++o)
      for (std::size_t column = 0; column < inner; column += w) {
        std::size_t const lanes = inner - column < w ? inner - column : w;
        T const* const from = x + o * width * inner + column;
        T* const to = y + o * width * inner + column;
        auto const value = [&](T const* p) MORTISE_LAMBDA_INLINE { return lanes == w ? V::load(p) : V::load_first(p, lanes); };
        auto const put = [&](V const& v, T* p) MORTISE_LAMBDA_INLINE {
          if (lanes == w) v.store(p);
          else v.store_first(p, lanes);
        };
        V top = value(from);
        for (std::size_t i = 1; i < width; ++i) top = max(value(from + i * inner), top);
        V sum;
        for (std::size_t i = 0; i < width; ++i) {
          V const e = exp(value(from + i * inner) - top);
          if constexpr (!Log) put(e, to + i * inner);
          sum += e;
        }
        V const last = Log ? log(sum) : V{T(1)} / sum;
        for (std::size_t i = 0; i < width; ++i) put(Log ? (value(from + i * inner) - top) - last : value(to + i * inner) * last, to + i * inner);
      }
  }
};

template <bool Log, class T>
struct softmax_columns_backward_kernel {
  T const* y;
  T const* dy;
  T* dx;
  std::size_t outer, width, inner;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    for (std::size_t o = 0; o < outer; ++o)
      for (std::size_t column = 0; column < inner; column += w) {
        std::size_t const lanes = inner - column < w ? inner - column : w, at = o * width * inner + column;
        auto const value = [&](T const* p) MORTISE_LAMBDA_INLINE { return lanes == w ? V::load(p) : V::load_first(p, lanes); };
        V sum;
        for (std::size_t i = 0; i < width; ++i) {
          V const g = value(dy + at + i * inner);
          sum = Log ? sum + g : fma(g, value(y + at + i * inner), sum);
        }
        for (std::size_t i = 0; i < width; ++i) {
          std::size_t const e = at + i * inner;
          V const p = value(y + e), g = value(dy + e);
          V const d = Log ? fma(-exp(p), sum, g) : p * (g - sum);
          if (lanes == w) d.store(dx + e);
          else d.store_first(dx + e, lanes);
        }
      }
  }
};

template <bool Log, class T>
void run_softmax(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  for_each_row_block(device, outer, width * inner, [=](std::size_t first, std::size_t count) {
    std::size_t const at = first * width * inner;
    if (inner == 1) for_this_cpu(softmax_rows_kernel<Log, T>{x + at, y + at, count, width});
    else for_this_cpu(softmax_columns_kernel<Log, T>{x + at, y + at, count, width, inner});
  });
}

template <bool Log, class T>
void run_softmax_backward(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  for_each_row_block(device, outer, width * inner, [=](std::size_t first, std::size_t count) {
    std::size_t const at = first * width * inner;
    if (inner == 1) for_this_cpu(softmax_rows_backward_kernel<Log, T>{y + at, dy + at, dx + at, count, width});
    else for_this_cpu(softmax_columns_backward_kernel<Log, T>{y + at, dy + at, dx + at, count, width, inner});
  });
}

}  // namespace detail

template <class T>
void softmax_forward(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  detail::run_softmax<false>(device, outer, width, inner, x, y);
}
template <class T>
void softmax_backward(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  detail::run_softmax_backward<false>(device, outer, width, inner, y, dy, dx);
}
template <class T>
void log_softmax_forward(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  detail::run_softmax<true>(device, outer, width, inner, x, y);
}
template <class T>
void log_softmax_backward(host const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  detail::run_softmax_backward<true>(device, outer, width, inner, y, dy, dx);
}

}  // namespace mortise
