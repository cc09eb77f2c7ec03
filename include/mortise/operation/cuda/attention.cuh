// Attention on CUDA: cuBLAS for the products (one batched call a head and product), one kernel for all rows of probabilities. Contract:
// operation/attention.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/math.hpp>
#include <mortise/operation/attention.hpp>
#include <mortise/operation/cuda/gemm.cuh>
#include <mortise/operation/cuda/launch.cuh>

namespace mortise {

namespace detail {

template <class T>
struct attention_softmax_row {
  T* p;
  std::uint64_t length;
  T scale;
  int causal;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ T shared[8];
    T* const kept = reinterpret_cast<T*>(memory);
    T* const own = p + row * length;
    std::uint64_t const n = active ? length : 0, seen = active && causal != 0 ? row % length + 1 : n;
    T top = -layout_of<T>::infinity;
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      T const v = own[i];
      if (cached) kept[i] = v;
      top = v > top || v != v ? v : top;
    }
    top = Team::max(top, shared);
    T sum{};
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      T const e = exp(((cached ? kept[i] : own[i]) - top) * scale);
      if (cached) kept[i] = e;
      sum += e;
    }
    T const share = T(1) / Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size)
      own[i] = i >= seen ? T{} : (cached ? kept[i] : exp((own[i] - top) * scale)) * share;
  }
};

template <class T>
struct attention_softmax_backward_row {
  T const* p;
  T* dp;
  std::uint64_t length;
  T scale;
  int causal;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ T shared[8];
    T* const kept = reinterpret_cast<T*>(memory);
    std::uint64_t const at = row * length, n = active ? length : 0, seen = active && causal != 0 ? row % length + 1 : n;
    T sum{};
    for (std::uint64_t i = Team::rank(); i < seen; i += Team::size) {
      T const g = dp[at + i], share = p[at + i];
      if (cached) kept[i] = g, kept[length + i] = share;
      sum = fma(g, share, sum);
    }
    sum = Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      if (i >= seen) {
        dp[at + i] = T{};
        continue;
      }
      T const g = cached ? kept[i] : dp[at + i], share = cached ? kept[length + i] : p[at + i];
      dp[at + i] = scale * share * (g - sum);
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
  detail::for_each_row(device, s.batch * s.heads * n, n, n * sizeof(T),
                       detail::attention_softmax_row<T>{p, n, detail::attention_scale<T>(s), s.causal ? 1 : 0});
  for (std::size_t h = 0; h < s.heads; ++h)
    gemm_batched<false, false, T>(device, s.batch, n, d, n, p + h * s.square(), n, squares, qkv + 2 * row + h * d, 3 * row, 3 * sample, context + h * d, row,
                                            sample);
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
  detail::for_each_row(device, s.batch * s.heads * n, n, 2 * n * sizeof(T),
                       detail::attention_softmax_backward_row<T>{p, workspace, n, detail::attention_scale<T>(s), s.causal ? 1 : 0});
  for (std::size_t h = 0; h < s.heads; ++h) {
    T const* const dp = workspace + h * s.square();
    T const* const q = qkv + h * d;
    T* const dq = dqkv + h * d;
    gemm_batched<false, false, T>(device, s.batch, n, d, n, dp, n, squares, q + row, 3 * row, 3 * sample, dq, 3 * row, 3 * sample);
    gemm_batched<true, false, T>(device, s.batch, n, d, n, dp, n, squares, q, 3 * row, 3 * sample, dq + row, 3 * row, 3 * sample);
  }
}

}  // namespace mortise
