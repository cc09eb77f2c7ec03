// An optimizer's pass on CUDA: one kernel over the flat arrays. Contract: operation/update.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/cuda/reduce.cuh>
#include <mortise/operation/reduce.hpp>
#include <mortise/operation/update.hpp>

namespace mortise {

namespace detail {

template <unsigned Used, int Slots, class Function, class T>
struct update_elements {
  Function function;
  T* parameters;
  T const* gradients;
  T* slots[Slots == 0 ? 1 : Slots];
  T const* squared_norm;  // of the gradients, or null
  __device__ void operator()(std::uint64_t i) const {
    T values[Slots == 0 ? 1 : Slots] = {};
    for (int s = 0; s < Slots; ++s)
      if ((Used >> s & 1u) != 0) values[s] = slots[s][i];
    T const parameter = parameters[i];
    Function f = function;
    if constexpr (requires { f.set_gradient_norm(T{}); })
      if (squared_norm != nullptr) f.set_gradient_norm(sqrt(*squared_norm));
    parameters[i] = parameter - f(parameter, gradients[i], values);
    for (int s = 0; s < Slots; ++s)
      if ((Used >> s & 1u) != 0) slots[s][i] = values[s];
  }
};

template <class T>
__global__ void add_scalar(T const* from, T* to) {
  *to += *from;
}

}  // namespace detail

/// *result = x[0]^2 + ... or, unless `first`, += it; the result has room for two elements. Nothing waits.
template <class T>
void add_sum_of_squares(cuda const& device, T const* x, std::size_t n, T* result, bool first) {
  detail::sum_on_device<detail::square_of>(device, x, n, T(1), static_cast<T const*>(nullptr), first ? result : result + 1);
  if (!first) device.launch(&detail::add_scalar<T>, dim3{1}, dim3{1}, 0, result + 1, result);
}

template <unsigned Used, class Function, class T, std::size_t Slots>
void update(cuda const& device, Function const& function, update_arrays<T, Slots> const& arrays, std::size_t first, std::size_t count,
            T const* squared_norm = nullptr) {
  detail::update_elements<Used, static_cast<int>(Slots), Function, T> f{function, arrays.parameters + first, arrays.gradients + first, {}, squared_norm};
  for (std::size_t s = 0; s < Slots; ++s)
    if ((Used >> s & 1u) != 0) f.slots[s] = arrays.slots[s] + first;
  detail::for_each_index(device, count, f);
}

}  // namespace mortise
