// Layer normalisation on the host. See operation/normalization.hpp for the contract.
#pragma once

#include <cstddef>

#include <mortise/detail/math.hpp>
#include <mortise/operation/map.hpp>

namespace mortise {

namespace detail {

/// A row in vectors, the last one filled up with zeros.
template <class V, class T, class F>
MORTISE_INLINE void for_each_vector(std::size_t width, F const& f) {
  constexpr std::size_t w = V::width;
  std::size_t i = 0;
  for (; i + w <= width; i += w) f(i, w);
  if (i < width) f(i, width - i);
}
template <class V, class T>
MORTISE_INLINE V load_some(T const* p, std::size_t lanes) {
  return lanes == static_cast<std::size_t>(V::width) ? V::load(p) : V::load_first(p, lanes);
}
template <class V, class T>
MORTISE_INLINE void store_some(V const& v, T* p, std::size_t lanes) {
  if (lanes == static_cast<std::size_t>(V::width)) v.store(p);
  else v.store_first(p, lanes);
}

template <class T>
struct layer_norm_kernel {
  T const* x;
  T const* weight;  // or null
  T const* bias;    // or null
  T* y;
  T* mean;  // or null
  T* rstd;  // or null
  double eps;
  std::size_t rows, width;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    double const n = static_cast<double>(width);
    std::size_t const whole = width / (2 * w) * (2 * w);
    for (std::size_t r = 0; r < rows; ++r) {
      T const* const from = x + r * width;
      T* const to = y + r * width;
      V sums[2];
      for (std::size_t i = 0; i < whole; i += 2 * w) {
        sums[0] += V::load(from + i);
        sums[1] += V::load(from + i + w);
      }
      for_each_vector<V, T>(width - whole, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
        sums[0] += load_some<V>(from + whole + i, lanes);
      });
      T const center = static_cast<T>(static_cast<double>(sum_lanes(sums[0] + sums[1])) / n);
      // Squares around the rounded mean, and what its rounding left.
      V const c{center};
      V residuals[2], squares[2];
      for (std::size_t i = 0; i < whole; i += 2 * w) {
        V const d = V::load(from + i) - c, e = V::load(from + i + w) - c;
        residuals[0] += d;
        residuals[1] += e;
        squares[0] = fma(d, d, squares[0]);
        squares[1] = fma(e, e, squares[1]);
      }
      for_each_vector<V, T>(width - whole, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
        V d = load_some<V>(from + whole + i, lanes) - c;
        if (lanes != w) d = first_lanes(d, lanes);
        residuals[0] += d;
        squares[0] = fma(d, d, squares[0]);
      });
      double const residual = static_cast<double>(sum_lanes(residuals[0] + residuals[1]));
      double const around = static_cast<double>(sum_lanes(squares[0] + squares[1])) - residual * residual / n;
      T const m = static_cast<T>(static_cast<double>(center) + residual / n);
      T const s = static_cast<T>(1 / __builtin_sqrt((around > 0 ? around / n : 0) + eps));
      if (mean != nullptr) mean[r] = m;
      if (rstd != nullptr) rstd[r] = s;
      V const vm{m}, vs{s};
      if (weight != nullptr && bias != nullptr) {
        for_each_vector<V, T>(width, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
          V const u = (load_some<V>(from + i, lanes) - vm) * vs;
          store_some(fma(u, load_some<V>(weight + i, lanes), load_some<V>(bias + i, lanes)), to + i, lanes);
        });
      } else {
        for_each_vector<V, T>(width, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
          V u = (load_some<V>(from + i, lanes) - vm) * vs;
          if (weight != nullptr) u *= load_some<V>(weight + i, lanes);
          store_some(u, to + i, lanes);
        });
      }
    }
  }
};

/// dx, and this block's part of dweight and dbias. With u = (x - m) s and g = dy weight:  dx = s (g - mean(g) - u mean(g u))
template <class T>
struct layer_norm_backward_kernel {
  T const* dy;
  T const* x;
  T const* weight;  // or null
  T const* mean;
  T const* rstd;
  T* dweight;  // (width) or null
  T* dbias;    // (width) or null
  T* dx;       // or null
  std::size_t rows, width;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    if (dweight != nullptr)
      for (std::size_t i = 0; i < width; ++i) dweight[i] = T{};
    if (dbias != nullptr)
      for (std::size_t i = 0; i < width; ++i) dbias[i] = T{};
    for (std::size_t r = 0; r < rows; ++r) {
      T const* const from = x + r * width;
      T const* const gradient = dy + r * width;
      V const m{mean[r]}, s{rstd[r]};
      V plain, weighted;
      for_each_vector<V, T>(width, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
        V const u = (load_some<V>(from + i, lanes) - m) * s, d = load_some<V>(gradient + i, lanes);  // d is 0 beyond the row's end
        V const g = weight == nullptr ? d : d * load_some<V>(weight + i, lanes);
        plain += g;
        weighted = fma(g, u, weighted);
        if (dweight != nullptr) store_some(fma(d, u, load_some<V>(dweight + i, lanes)), dweight + i, lanes);
        if (dbias != nullptr) store_some(d + load_some<V>(dbias + i, lanes), dbias + i, lanes);
      });
      if (dx == nullptr) continue;
      T* const to = dx + r * width;
      T const n = static_cast<T>(width);
      V const a{sum_lanes(plain) / n}, b{sum_lanes(weighted) / n};
      for_each_vector<V, T>(width, [&](std::size_t i, std::size_t lanes) MORTISE_LAMBDA_INLINE {
        V const u = (load_some<V>(from + i, lanes) - m) * s, d = load_some<V>(gradient + i, lanes);
        V const g = weight == nullptr ? d : d * load_some<V>(weight + i, lanes);
        store_some(s * (g - fma(u, b, a)), to + i, lanes);
      });
    }
  }
};

}  // namespace detail

/// Memory for the parts of dweight and dbias that blocks of rows sum for themselves.
struct layer_norm_workspace {
  /// Rows of a block: about 8192 elements, so that the parts cost little.
  static constexpr std::size_t block_rows(std::size_t width) { return width >= 2048 ? 4 : width <= 32 ? 256 : 8192 / width; }
  static constexpr std::size_t fixed(std::size_t width) { return 2 * width; }
  static constexpr std::size_t per_row(std::size_t width) { return (2 * width + block_rows(width) - 1) / block_rows(width); }
};

template <class T>
void layer_norm_forward(host const& device, std::size_t rows, std::size_t width, T const* x, T const* weight, T const* bias, double eps, T* y, T* mean,
                        T* rstd) {
  detail::for_each_row_block(device, rows, width, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::layer_norm_kernel<T>{x + first * width, weight, bias, y + first * width, mean == nullptr ? nullptr : mean + first,
                                                      rstd == nullptr ? nullptr : rstd + first, eps, count, width});
  });
}

template <class T>
void layer_norm_backward(host const& device, std::size_t rows, std::size_t width, T const* dy, T const* x, T const* weight, T const* mean, T const* rstd,
                         T* dweight, T* dbias, T* dx, T* workspace) {
  std::size_t const block = layer_norm_workspace::block_rows(width), blocks = (rows + block - 1) / block;
  for_each_piece(device, blocks, [=](std::size_t piece) {
    std::size_t const first = piece * block, count = rows - first < block ? rows - first : block;
    T* const part = workspace + piece * 2 * width;
    detail::for_this_cpu(detail::layer_norm_backward_kernel<T>{dy + first * width, x + first * width, weight, mean + first, rstd + first,
                                                               dweight == nullptr ? nullptr : part, dbias == nullptr ? nullptr : part + width,
                                                               dx == nullptr ? nullptr : dx + first * width, count, width});
  });
  // The blocks' parts are joined in pairs of neighbours, so that rounding grows with the logarithm of the rows.
  for (std::size_t distance = 1; distance < blocks; distance *= 2)
    for (std::size_t b = 0; b + distance < blocks; b += 2 * distance)
      if (dweight != nullptr || dbias != nullptr)
        detail::for_this_cpu(detail::add_kernel<T>{workspace + b * 2 * width, workspace + (b + distance) * 2 * width, workspace + b * 2 * width, 2 * width});
  if (dweight != nullptr) device.copy(dweight, workspace, width * sizeof(T));
  if (dbias != nullptr) device.copy(dbias, workspace + width, width * sizeof(T));
}

}  // namespace mortise
