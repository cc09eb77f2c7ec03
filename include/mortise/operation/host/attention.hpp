// Attention on the host: one piece of work for each head of each sample. See operation/attention.hpp for the contract.
#pragma once

#include <cmath>
#include <cstddef>

#include <mortise/detail/math.hpp>
#include <mortise/operation/attention_size.hpp>
#include <mortise/operation/gemm.hpp>
#include <mortise/operation/softmax.hpp>

namespace mortise {

namespace detail {

/// Rows of products q k become probabilities: softmax(scale * row), over the first r + 1 elements of row r when `causal`.
template <class T>
struct attention_softmax_kernel {
  T* p;
  std::size_t length;
  T scale;
  bool causal;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    V const factor{scale};
    for (std::size_t r = 0; r < length; ++r) {
      T* const row = p + r * length;
      std::size_t const seen = causal ? r + 1 : length, whole = seen / w * w, rest = seen - whole;
      V const top{row_maximum<V>(row, seen)};
      V sum;
      for (std::size_t i = 0; i < whole; i += w) {
        V const e = exp((V::load(row + i) - top) * factor);
        e.store(row + i);
        sum += e;
      }
      if (rest != 0) {
        V const e = exp((V::load_first(row + whole, rest) - top) * factor);
        e.store_first(row + whole, rest);
        sum += first_lanes(e, rest);
      }
      V const share = V{T(1)} / V{sum_lanes(sum)};
      for (std::size_t i = 0; i < whole; i += w) (V::load(row + i) * share).store(row + i);
      for (std::size_t i = whole; i < seen; ++i) row[i] = row[i] * share[0];
      for (std::size_t i = seen; i < length; ++i) row[i] = T{};
    }
  }
};

/// dp becomes the gradient of the products q k: scale * p * (dp - sum p dp), row by row. Where p is 0 it is 0.
template <class T>
struct attention_softmax_backward_kernel {
  T const* p;
  T* dp;
  std::size_t length;
  T scale;
  bool causal;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    V const factor{scale};
    for (std::size_t r = 0; r < length; ++r) {
      T const* const share = p + r * length;
      T* const row = dp + r * length;
      std::size_t const seen = causal ? r + 1 : length, whole = seen / w * w, rest = seen - whole;
      V sum;
      for (std::size_t i = 0; i < whole; i += w) sum = fma(V::load(row + i), V::load(share + i), sum);
      if (rest != 0) sum = fma(V::load_first(row + whole, rest), V::load_first(share + whole, rest), sum);
      V const total{sum_lanes(sum)};
      for (std::size_t i = 0; i < whole; i += w) (factor * V::load(share + i) * (V::load(row + i) - total)).store(row + i);
      if (rest != 0) (factor * V::load_first(share + whole, rest) * (V::load_first(row + whole, rest) - total)).store_first(row + whole, rest);
      for (std::size_t i = seen; i < length; ++i) row[i] = T{};
    }
  }
};

/// Calls body(sample, head) for each pair, on several threads where that pays.
template <class Body>
void for_each_head(host const& device, attention_size const& s, Body const& body) {
  std::size_t const heads = s.batch * s.heads;
  bool const large = 4 * heads * s.square() * s.width >= gemm_parallel_flops;
  for_each_piece(large ? device : host{1}, heads, [&](std::size_t i) { body(i / s.heads, i % s.heads); });
}

template <class T>
T attention_scale(attention_size const& s) {
  return static_cast<T>(1 / std::sqrt(static_cast<double>(s.width)));
}

}  // namespace detail

template <class T>
void attention_forward(host const& device, attention_size const& s, T const* qkv, T* p, T* context) {
  std::size_t const n = s.length, d = s.width, stride = 3 * s.row();
  detail::for_each_head(device, s, [=](std::size_t sample, std::size_t head) {
    host const here{1};
    T const* const q = qkv + sample * n * stride + head * d;
    T* const own = p + (sample * s.heads + head) * s.square();
    gemm<false, true, T>(here, n, n, d, q, stride, q + s.row(), stride, own, n);
    detail::for_this_cpu(detail::attention_softmax_kernel<T>{own, n, detail::attention_scale<T>(s), s.causal});
    gemm<false, false, T>(here, n, d, n, own, n, q + 2 * s.row(), stride, context + sample * n * s.row() + head * d, s.row());
  });
}

template <class T>
void attention_backward(host const& device, attention_size const& s, T const* qkv, T const* p, T const* dcontext, T* dqkv, T* workspace) {
  std::size_t const n = s.length, d = s.width, stride = 3 * s.row();
  detail::for_each_head(device, s, [=](std::size_t sample, std::size_t head) {
    host const here{1};
    T const* const q = qkv + sample * n * stride + head * d;
    T* const dq = dqkv + sample * n * stride + head * d;
    T const* const own = p + (sample * s.heads + head) * s.square();
    T* const dp = workspace + (sample * s.heads + head) * s.square();
    T const* const dc = dcontext + sample * n * s.row() + head * d;
    gemm<false, true, T>(here, n, n, d, dc, s.row(), q + 2 * s.row(), stride, dp, n);
    gemm<true, false, T>(here, n, d, n, own, n, dc, s.row(), dq + 2 * s.row(), stride);
    detail::for_this_cpu(detail::attention_softmax_backward_kernel<T>{own, dp, n, detail::attention_scale<T>(s), s.causal});
    gemm<false, false, T>(here, n, d, n, dp, n, q + s.row(), stride, dq, stride);
    gemm<true, false, T>(here, n, d, n, dp, n, q, stride, dq + s.row(), stride);
  });
}

}  // namespace mortise
