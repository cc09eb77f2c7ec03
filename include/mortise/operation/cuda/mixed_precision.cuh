// Casts with a dynamic loss scale on CUDA. Contract: operation/mixed_precision.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/mixed_precision.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

template <class T>
struct scaled_elements {
  float const* from;
  loss_scale_state* state;
  T* to;
  __device__ void operator()(std::uint64_t i) const {
    if (i == 0) state->overflow = 0;
    to[i] = static_cast<T>(from[i] * state->scale);
  }
};
template <class T>
struct unscaled_elements {
  T const* from;
  loss_scale_state* state;
  float* to;
  __device__ void operator()(std::uint64_t i) const {
    float const v = static_cast<float>(from[i]);
    if (!(v - v == 0)) atomicOr(&state->overflow, 1);
    to[i] = v / state->scale;
  }
};
struct found_overflow {
  float const* from;
  loss_scale_state* state;
  __device__ void operator()(std::uint64_t i) const {
    if (!(from[i] - from[i] == 0)) atomicOr(&state->overflow, 1);
  }
};
struct no_overflow {
  loss_scale_state* state;
  __device__ void operator()(std::uint64_t) const { state->overflow = 0; }
};
struct next_loss_scale {
  loss_scale_rule rule;
  loss_scale_state* state;
  __device__ void operator()(std::uint64_t) const {
    if (rule.growth_interval == 0) {
      state->overflow = 0;
    } else if (state->overflow != 0) {
      state->scale *= rule.backoff_factor;
      state->growth_tracker = 0;
    } else if (++state->growth_tracker == rule.growth_interval) {
      state->scale *= rule.growth_factor;
      state->growth_tracker = 0;
    }
  }
};

}  // namespace detail

template <class T>
void scale_output_gradient(cuda const& device, std::size_t n, float const* from, loss_scale_state* state, T* to) {
  detail::for_each_index(device, n, detail::scaled_elements<T>{from, state, to});
}
template <class T>
void unscale_gradients(cuda const& device, std::size_t n, T const* from, loss_scale_state* state, float* to) {
  detail::for_each_index(device, n, detail::unscaled_elements<T>{from, state, to});
}
inline void find_overflow(cuda const& device, std::size_t n, float const* gradients, loss_scale_state* state) {
  detail::for_each_index(device, 1, detail::no_overflow{state});
  detail::for_each_index(device, n, detail::found_overflow{gradients, state});
}
inline void advance_loss_scale(cuda const& device, loss_scale_rule const& rule, loss_scale_state* state) {
  detail::for_each_index(device, 1, detail::next_loss_scale{rule, state});
}

}  // namespace mortise
