// Activations on CUDA: the host's arithmetic, one thread an element. Contracts: operation/activation.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/activation.hpp>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

template <class T>
struct relu_elements {
  T const* x;
  T* y;
  __device__ void operator()(std::uint64_t i) const {
    T const v = x[i];
    y[i] = v <= T{} ? T{} : v;
  }
};
template <class T>
struct relu_backward_elements {
  T const* y;
  T const* dy;
  T* dx;
  __device__ void operator()(std::uint64_t i) const {
    T const v = y[i], g = dy[i];  // both, whatever the first one is: lanes that skip a load leave sectors half used
    dx[i] = v <= T{} ? T{} : g;
  }
};
template <class Rule, class T>
struct activation_elements {
  Rule rule;
  T const* x;
  T* y;
  __device__ void operator()(std::uint64_t i) const { y[i] = static_cast<T>(rule.value(static_cast<arithmetic_type<T>>(x[i]))); }
};
template <class Rule, class T>
struct activation_slope_elements {
  Rule rule;
  T const* x;
  T* y;
  T* slope;
  __device__ void operator()(std::uint64_t i) const {
    arithmetic_type<T> d{};
    y[i] = static_cast<T>(rule.both(static_cast<arithmetic_type<T>>(x[i]), d));
    slope[i] = static_cast<T>(d);
  }
};
template <int From, class Rule, class T>
struct activation_backward_elements {
  Rule rule;
  T const* values;
  T const* dy;
  T* dx;
  __device__ void operator()(std::uint64_t i) const {
    auto const v = static_cast<arithmetic_type<T>>(values[i]);
    arithmetic_type<T> slope = v;
    if constexpr (From == static_cast<int>(slope_source::output)) slope = rule.slope_at_output(v);
    else if constexpr (From == static_cast<int>(slope_source::input)) slope = rule.slope_at_input(v);
    dx[i] = static_cast<T>(static_cast<arithmetic_type<T>>(dy[i]) * slope);
  }
};

}  // namespace detail

template <class T>
void relu_forward(cuda const& device, std::size_t n, T const* x, T* y) {
  detail::for_each_index(device, n, detail::relu_elements<T>{x, y});
}
template <class T>
void relu_backward(cuda const& device, std::size_t n, T const* y, T const* dy, T* dx) {
  detail::for_each_index(device, n, detail::relu_backward_elements<T>{y, dy, dx});
}
template <class Rule, class T>
void activation_forward(cuda const& device, std::size_t n, Rule const& rule, T const* x, T* y) {
  detail::for_each_index(device, n, detail::activation_elements<Rule, T>{rule, x, y});
}
template <class Rule, class T>
void activation_forward(cuda const& device, std::size_t n, Rule const& rule, T const* x, T* y, T* slope) {
  detail::for_each_index(device, n, detail::activation_slope_elements<Rule, T>{rule, x, y, slope});
}
template <detail::slope_source From, class Rule, class T>
void activation_backward(cuda const& device, std::size_t n, Rule const& rule, T const* values, T const* dy, T* dx) {
  detail::for_each_index(device, n, detail::activation_backward_elements<static_cast<int>(From), Rule, T>{rule, values, dy, dx});
}

}  // namespace mortise
