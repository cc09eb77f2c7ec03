// Softmax on CUDA: a warp or a block a row, each row read once. Contract: operation/softmax.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/math.hpp>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/softmax.hpp>

namespace mortise {

namespace detail {

template <bool Log, class T>
struct softmax_row {
  T const* x;
  T* y;
  std::uint64_t width;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ T shared[8];
    T* const kept = reinterpret_cast<T*>(memory);
    T const* const from = x + row * width;
    T* const to = y + row * width;
    std::uint64_t const n = active ? width : 0;
    T top = -layout_of<T>::infinity;
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const v = from[i];
      if (cached) kept[i] = v;
      top = v > top || v != v ? v : top;
    }
    top = Team::max(top, shared);
    T sum{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const e = exp((cached ? kept[i] : from[i]) - top);
      if (cached && !Log) kept[i] = e;
      sum += e;
    }
    sum = Team::sum(sum, shared);
    T const last = Log ? log(sum) : T(1) / sum;
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const v = cached ? kept[i] : from[i];
      to[i] = Log ? (v - top) - last : (cached ? v : exp(v - top)) * last;
    }
  }
};

template <bool Log, class T>
struct softmax_backward_row {
  T const* y;
  T const* dy;
  T* dx;
  std::uint64_t width;
  bool cached = false;

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    __shared__ T shared[8];
    T* const kept = reinterpret_cast<T*>(memory);
    std::uint64_t const at = row * width, n = active ? width : 0;
    T sum{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const g = dy[at + i], p = y[at + i];
      if (cached) kept[i] = g, kept[width + i] = p;
      sum = Log ? sum + g : fma(g, p, sum);
    }
    sum = Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const g = cached ? kept[i] : dy[at + i], p = cached ? kept[width + i] : y[at + i];
      dx[at + i] = Log ? fma(-exp(p), sum, g) : p * (g - sum);
    }
  }
};

/// The axis is not the last one: one thread a column, neighbours in memory side by side.
template <bool Log, class T>
struct softmax_column {
  T const* x;
  T* y;
  std::uint64_t width, inner;
  __device__ void operator()(std::uint64_t c) const {
    std::uint64_t const at = c / inner * width * inner + c % inner;
    T top = x[at];
    for (std::uint64_t i = 1; i < width; ++i) {
      T const v = x[at + i * inner];
      top = v > top || v != v ? v : top;
    }
    T sum{};
    for (std::uint64_t i = 0; i < width; ++i) sum += exp(x[at + i * inner] - top);
    T const last = Log ? log(sum) : T(1) / sum;
    for (std::uint64_t i = 0; i < width; ++i) {
      T const v = x[at + i * inner] - top;
      y[at + i * inner] = Log ? v - last : exp(v) * last;
    }
  }
};
template <bool Log, class T>
struct softmax_backward_column {
  T const* y;
  T const* dy;
  T* dx;
  std::uint64_t width, inner;
  __device__ void operator()(std::uint64_t c) const {
    std::uint64_t const at = c / inner * width * inner + c % inner;
    T sum{};
    for (std::uint64_t i = 0; i < width; ++i) sum = Log ? sum + dy[at + i * inner] : fma(dy[at + i * inner], y[at + i * inner], sum);
    for (std::uint64_t i = 0; i < width; ++i) {
      T const g = dy[at + i * inner], p = y[at + i * inner];
      dx[at + i * inner] = Log ? fma(-exp(p), sum, g) : p * (g - sum);
    }
  }
};

template <bool Log, class T>
void run_softmax(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  if (inner == 1) for_each_row(device, outer, width, width * sizeof(T), softmax_row<Log, T>{x, y, width});
  else for_each_index(device, outer * inner, softmax_column<Log, T>{x, y, width, inner});
}
template <bool Log, class T>
void run_softmax_backward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  if (inner == 1) for_each_row(device, outer, width, 2 * width * sizeof(T), softmax_backward_row<Log, T>{y, dy, dx, width});
  else for_each_index(device, outer * inner, softmax_backward_column<Log, T>{y, dy, dx, width, inner});
}

}  // namespace detail

template <class T>
void softmax_forward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  detail::run_softmax<false>(device, outer, width, inner, x, y);
}
template <class T>
void softmax_backward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  detail::run_softmax_backward<false>(device, outer, width, inner, y, dy, dx);
}
template <class T>
void log_softmax_forward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  detail::run_softmax<true>(device, outer, width, inner, x, y);
}
template <class T>
void log_softmax_backward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  detail::run_softmax_backward<true>(device, outer, width, inner, y, dy, dx);
}

}  // namespace mortise
