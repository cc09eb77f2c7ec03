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

/// Parts that fit beside everything else in the 4 KiB that a kernel's arguments have on every device.
template <class Function>
inline constexpr int parts_per_launch = sizeof(update_part<Function>) >= 1536 ? 2 : static_cast<int>(3072 / sizeof(update_part<Function>));

template <unsigned Used, int Slots, class Function, class T>
struct update_elements {
  update_part<Function> parts[parts_per_launch<Function>];
  int part_count;
  T* parameters;
  T const* gradients;
  T* slots[Slots == 0 ? 1 : Slots];
  T const* squared_norm;  // of the gradients, or null
  std::int32_t const* skip;  // nothing changes where this is not 0; or null
  __device__ void operator()(std::uint64_t position) const {
    if (skip != nullptr && *skip != 0) return;
    int at = 0;  // the last part that begins at or before this position: the same in nearly all warps
    for (int step = part_count; step > 1;) {
      step = (step + 1) / 2;
      if (at + step < part_count && parts[at + step].begin <= position) at += step;
    }
    std::uint64_t const i = parts[at].first + (position - parts[at].begin);
    T values[Slots == 0 ? 1 : Slots] = {};
    for (int s = 0; s < Slots; ++s)
      if ((Used >> s & 1u) != 0) values[s] = slots[s][i];
    T const parameter = parameters[i];
    Function f = parts[at].function;
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

/// One launch for as many parts as its arguments hold (50 of Adam's), and then another.
template <unsigned Used, class Function, class T, std::size_t Slots>
void update_parts(cuda const& device, update_part<Function> const* parts, std::size_t part_count, std::size_t count, update_arrays<T, Slots> const& arrays,
                  T const* squared_norm = nullptr, std::int32_t const* skip = nullptr) {
  constexpr std::size_t most = detail::parts_per_launch<Function>;
  for (std::size_t first = 0; first < part_count; first += most) {
    std::size_t const n = part_count - first < most ? part_count - first : most;
    std::size_t const begin = parts[first].begin;
    detail::update_elements<Used, static_cast<int>(Slots), Function, T> f{};
    for (std::size_t i = 0; i < most; ++i) {
      f.parts[i] = parts[first + (i < n ? i : 0)];
      f.parts[i].begin -= begin;
    }
    f.part_count = static_cast<int>(n);
    f.parameters = arrays.parameters;
    f.gradients = arrays.gradients;
    if constexpr (Slots != 0)
      for (std::size_t s = 0; s < Slots; ++s) f.slots[s] = (Used >> s & 1u) != 0 ? arrays.slots[s] : nullptr;
    f.squared_norm = squared_norm;
    f.skip = skip;
    detail::for_each_index(device, (first + n < part_count ? parts[first + n].begin : count) - begin, f);
  }
}

}  // namespace mortise
