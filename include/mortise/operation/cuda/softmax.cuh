// Softmax on CUDA: a warp or a block a row, each row read once. Contract: operation/softmax.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/math.hpp>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/softmax.hpp>
#include <mortise/tensor/float16.hpp>

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
    using A = arithmetic_type<T>;
    __shared__ A shared[8];
    A* const kept = reinterpret_cast<A*>(memory);
    T const* const from = x + row * width;
    T* const to = y + row * width;
    std::uint64_t const n = active ? width : 0;
    A top = -layout_of<A>::infinity;
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const v = static_cast<A>(from[i]);
      if (cached) kept[i] = v;
      top = v > top || v != v ? v : top;
    }
    top = Team::max(top, shared);
    A sum{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const e = exp((cached ? kept[i] : static_cast<A>(from[i])) - top);
      if (cached && !Log) kept[i] = e;
      sum += e;
    }
    sum = Team::sum(sum, shared);
    A const last = Log ? log(sum) : A(1) / sum;
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const v = cached ? kept[i] : static_cast<A>(from[i]);
      to[i] = static_cast<T>(Log ? (v - top) - last : (cached ? v : exp(v - top)) * last);
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
    using A = arithmetic_type<T>;
    __shared__ A shared[8];
    A* const kept = reinterpret_cast<A*>(memory);
    std::uint64_t const at = row * width, n = active ? width : 0;
    A sum{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const g = static_cast<A>(dy[at + i]), p = static_cast<A>(y[at + i]);
      if (cached) kept[i] = g, kept[width + i] = p;
      sum = Log ? sum + g : fma(g, p, sum);
    }
    sum = Team::sum(sum, shared);
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const g = cached ? kept[i] : static_cast<A>(dy[at + i]), p = cached ? kept[width + i] : static_cast<A>(y[at + i]);
      dx[at + i] = static_cast<T>(Log ? fma(-exp(p), sum, g) : p * (g - sum));
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
    using A = arithmetic_type<T>;
    A top = static_cast<A>(x[at]);
    for (std::uint64_t i = 1; i < width; ++i) {
      A const v = static_cast<A>(x[at + i * inner]);
      top = v > top || v != v ? v : top;
    }
    A sum{};
    for (std::uint64_t i = 0; i < width; ++i) sum += exp(static_cast<A>(x[at + i * inner]) - top);
    A const last = Log ? log(sum) : A(1) / sum;
    for (std::uint64_t i = 0; i < width; ++i) {
      A const v = static_cast<A>(x[at + i * inner]) - top;
      y[at + i * inner] = static_cast<T>(Log ? v - last : exp(v) * last);
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
    using A = arithmetic_type<T>;
    A sum{};
    for (std::uint64_t i = 0; i < width; ++i) {
      A const g = static_cast<A>(dy[at + i * inner]), p = static_cast<A>(y[at + i * inner]);
      sum = Log ? sum + g : fma(g, p, sum);
    }
    for (std::uint64_t i = 0; i < width; ++i) {
      A const g = static_cast<A>(dy[at + i * inner]), p = static_cast<A>(y[at + i * inner]);
      dx[at + i * inner] = static_cast<T>(Log ? fma(-exp(p), sum, g) : p * (g - sum));
    }
  }
};

template <bool Log, class T>
void run_softmax(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* x, T* y) {
  if (inner == 1) for_each_row(device, outer, width, width * sizeof(arithmetic_type<T>), softmax_row<Log, T>{x, y, width});
  else for_each_index(device, outer * inner, softmax_column<Log, T>{x, y, width, inner});
}
template <bool Log, class T>
void run_softmax_backward(cuda const& device, std::size_t outer, std::size_t width, std::size_t inner, T const* y, T const* dy, T* dx) {
  if (inner == 1) for_each_row(device, outer, width, 2 * width * sizeof(arithmetic_type<T>), softmax_backward_row<Log, T>{y, dy, dx, width});
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
