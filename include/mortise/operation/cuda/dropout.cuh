// Dropout on CUDA: the bits of the host. Contract: operation/dropout.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/dropout.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

template <class T>
struct four {
  T v[4];
};

/// Four elements that share a block of random numbers; accesses of 16 bytes (float) keep whole sectors together.
template <class T>
struct dropout_fours {
  T const* x;
  T* y;
  std::uint8_t* keep;  // or null
  random_stream random;
  std::uint32_t first_block;
  std::uint32_t threshold;
  arithmetic_type<T> scale;
  __device__ void operator()(std::uint64_t i) const {
    using vector = std::conditional_t<sizeof(T) == 2, ushort4, std::conditional_t<sizeof(T) == 4, float4, double4>>;
    static_assert(sizeof(vector) == sizeof(four<T>));
    philox4x32::block_type const bits = random.block(first_block + static_cast<std::uint32_t>(i));
    vector v = reinterpret_cast<vector const*>(x)[i];
    T* const e = reinterpret_cast<T*>(&v);
    uchar4 k;
    unsigned char* const kept = reinterpret_cast<unsigned char*>(&k);
    for (int j = 0; j < 4; ++j) {
      bool const stays = bits.words[j] >= threshold;
      e[j] = stays ? static_cast<T>(static_cast<arithmetic_type<T>>(e[j]) * scale) : T{};
      kept[j] = stays ? 1 : 0;
    }
    reinterpret_cast<vector*>(y)[i] = v;
    if (keep != nullptr) reinterpret_cast<uchar4*>(keep)[i] = k;
  }
};
/// One element: the beginnings, ends and odd places.
template <class T>
struct dropout_elements {
  T const* x;
  T* y;
  std::uint8_t* keep;
  random_stream random;
  std::uint64_t first;
  std::uint64_t threshold;
  arithmetic_type<T> scale;
  __device__ void operator()(std::uint64_t i) const {
    bool const stays = random.bits(first + i) >= threshold;
    y[i] = stays ? static_cast<T>(static_cast<arithmetic_type<T>>(x[i]) * scale) : T{};
    if (keep != nullptr) keep[i] = stays ? 1 : 0;
  }
};
template <class T>
struct dropout_backward_elements {
  T const* dy;
  T* dx;
  std::uint8_t const* keep;
  arithmetic_type<T> scale;
  __device__ void operator()(std::uint64_t i) const {
    T const g = dy[i];
    dx[i] = keep[i] != 0 ? static_cast<T>(static_cast<arithmetic_type<T>>(g) * scale) : T{};
  }
};

}  // namespace detail

template <class T>
void dropout_forward(cuda const& device, std::size_t n, double p, random_stream const& random, std::uint64_t first, T const* x, T* y,
                     std::uint8_t* keep) {
  std::uint64_t const threshold = detail::dropout_threshold(p);
  auto const scale = detail::dropout_scale<arithmetic_type<T>>(p);
  std::size_t fours = 0;
  if (threshold >> 32 == 0 && first % 4 == 0 && detail::aligned_to(x, 4 * sizeof(T)) && detail::aligned_to(y, 4 * sizeof(T)) && detail::aligned_to(keep, 4)) {
    fours = n / 4;
    detail::for_each_index(device, fours, detail::dropout_fours<T>{x, y, keep, random, static_cast<std::uint32_t>(first / 4),
                                                                   static_cast<std::uint32_t>(threshold), scale});
  }
  std::size_t const done = 4 * fours;
  detail::for_each_index(device, n - done, detail::dropout_elements<T>{x + done, y + done, keep == nullptr ? nullptr : keep + done, random, first + done,
                                                                       threshold, scale});
}
template <class T>
void dropout_backward(cuda const& device, std::size_t n, double p, T const* dy, std::uint8_t const* keep, T* dx) {
  detail::for_each_index(device, n, detail::dropout_backward_elements<T>{dy, dx, keep, detail::dropout_scale<arithmetic_type<T>>(p)});
}

}  // namespace mortise
