// Activations, element by element.
#pragma once

#include <cstddef>

#include <mortise/operation/map.hpp>

namespace mortise {

namespace detail {

template <class T>
struct relu_kernel {
  T const* x;
  T* y;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) {
      V const v = V::load(x + i);
      select(v <= zero, zero, v).store(y + i);
    }
    for (; i < n; ++i) y[i] = x[i] <= T{} ? T{} : x[i];
  }
};

template <class T>
struct relu_backward_kernel {
  T const* y;
  T const* dy;
  T* dx;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) select(V::load(y + i) <= zero, zero, V::load(dy + i)).store(dx + i);
    for (; i < n; ++i) dx[i] = y[i] <= T{} ? T{} : dy[i];
  }
};

}  // namespace detail

/// y = max(x, 0), n elements; NaN stays NaN. y may be x.
template <class T>
void relu_forward(host const& device, std::size_t n, T const* x, T* y) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::relu_kernel<T>{x + first, y + first, count});
  });
}

/// dx = dy where y > 0, else 0. dx may be dy.
template <class T>
void relu_backward(host const& device, std::size_t n, T const* y, T const* dy, T* dx) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::relu_backward_kernel<T>{y + first, dy + first, dx + first, count});
  });
}

}  // namespace mortise
