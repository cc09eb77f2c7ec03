// Attention on CUDA: cuBLAS for the products (one batched call a head and product), one kernel for all rows of probabilities. Contract:
// operation/attention.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/math.hpp>
#include <mortise/operation/attention.hpp>
#include <mortise/operation/cuda/gemm.cuh>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

template <class T>
struct attention_softmax_row {
  using A = arithmetic_type<T>;
  T* p;
  std::uint64_t length;
  A scale;
  int causal;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ A shared[8];
    A* const kept = reinterpret_cast<A*>(memory);
    T* const own = p + row * length;
    std::uint64_t const n = active ? length : 0, seen = active && causal != 0 ? row % length + 1 : n;
    A top = -layout_of<A>::infinity;
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      A const v = static_cast<A>(own[i]);
      if (cached) kept[i] = v;
      top = v > top || v != v ? v : top;
    }
    top = Team::max(top, shared);
    A sum{};
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      A const e = exp(((cached ? kept[i] : static_cast<A>(own[i])) - top) * scale);
      if (cached) kept[i] = e;
      sum += e;
    }
    A const share = A(1) / Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size)
      own[i] = static_cast<T>(i >= seen ? A{} : (cached ? kept[i] : exp((static_cast<A>(own[i]) - top) * scale)) * share);
  }
};

template <class T>
struct attention_softmax_backward_row {
  using A = arithmetic_type<T>;
  T const* p;
  T* dp;
  std::uint64_t length;
  A scale;
  int causal;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ A shared[8];
    A* const kept = reinterpret_cast<A*>(memory);
    std::uint64_t const at = row * length, n = active ? length : 0, seen = active && causal != 0 ? row % length + 1 : n;
    A sum{};
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      A const g = static_cast<A>(dp[at + i]), share = static_cast<A>(p[at + i]);
      if (cached) kept[i] = g, kept[length + i] = share;
      sum = fma(g, share, sum);
    }
    sum = Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      if (i >= seen) {
        dp[at + i] = T{};
        continue;
      }
      A const g = cached ? kept[i] : static_cast<A>(dp[at + i]), share = cached ? kept[length + i] : static_cast<A>(p[at + i]);
      dp[at + i] = static_cast<T>(scale * share * (g - sum));
    }
  }
};

}  // namespace detail

template <class T>
void attention_forward(cuda const& device, attention_size const& s, T const* qkv, T* p, T* context) {
  std::size_t const n = s.length, d = s.width, row = s.row(), sample = n * row, squares = s.heads * s.square();
  for (std::size_t h = 0; h < s.heads; ++h) {
    T const* const q = qkv + h * d;
    gemm_batched<false, true, T>(device, s.batch, n, n, d, q, 3 * row, 3 * sample, q + row, 3 * row, 3 * sample, p + h * s.square(), n, squares);
  }
  using A = arithmetic_type<T>;
  detail::for_each_row(device, s.batch * s.heads * n, n, n * sizeof(A),
                       detail::attention_softmax_row<T>{p, n, detail::attention_scale<A>(s), s.causal ? 1 : 0});
  for (std::size_t h = 0; h < s.heads; ++h)
    gemm_batched<false, false, T>(device, s.batch, n, d, n, p + h * s.square(), n, squares, qkv + 2 * row + h * d, 3 * row, 3 * sample,
                                  context + h * d, row, sample);
}

template <class T>
void attention_backward(cuda const& device, attention_size const& s, T const* qkv, T const* p, T const* dcontext, T* dqkv, T* workspace) {
  std::size_t const n = s.length, d = s.width, row = s.row(), sample = n * row, squares = s.heads * s.square();
  for (std::size_t h = 0; h < s.heads; ++h) {
    T const* const v = qkv + 2 * row + h * d;
    T const* const dc = dcontext + h * d;
    gemm_batched<false, true, T>(device, s.batch, n, n, d, dc, row, sample, v, 3 * row, 3 * sample, workspace + h * s.square(), n, squares);
    gemm_batched<true, false, T>(device, s.batch, n, d, n, p + h * s.square(), n, squares, dc, row, sample, dqkv + 2 * row + h * d, 3 * row, 3 * sample);
  }
  using A = arithmetic_type<T>;
  detail::for_each_row(device, s.batch * s.heads * n, n, 2 * n * sizeof(A),
                       detail::attention_softmax_backward_row<T>{p, workspace, n, detail::attention_scale<A>(s), s.causal ? 1 : 0});
  for (std::size_t h = 0; h < s.heads; ++h) {
    T const* const dp = workspace + h * s.square();
    T const* const q = qkv + h * d;
    T* const dq = dqkv + h * d;
    gemm_batched<false, false, T>(device, s.batch, n, d, n, dp, n, squares, q + row, 3 * row, 3 * sample, dq, 3 * row, 3 * sample);
    gemm_batched<true, false, T>(device, s.batch, n, d, n, dp, n, squares, q, 3 * row, 3 * sample, dq + row, 3 * row, 3 * sample);
  }
}

}  // namespace mortise
