// Elementwise work, copies between devices, and filling, on CUDA. Contracts: operation/map.hpp, operation/random.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/map.hpp>
#include <mortise/operation/random.hpp>
#include <mortise/tensor/buffer.hpp>

namespace mortise {

namespace detail {

template <class T>
struct add_elements {
  T const* a;
  T const* b;
  T* y;
  __device__ void operator()(std::uint64_t i) const { y[i] = a[i] + b[i]; }
};
template <class T>
struct scale_elements {
  T factor;
  T* y;
  __device__ void operator()(std::uint64_t i) const { y[i] = y[i] * factor; }
};
template <class T>
struct copy_row_elements {
  T const* from;
  std::uint64_t from_stride;
  T* to;
  std::uint64_t to_stride;
  std::uint64_t width;
  __device__ void operator()(std::uint64_t i) const { to[i / width * to_stride + i % width] = from[i / width * from_stride + i % width]; }
};
template <class From, class To>
struct convert_elements_on_device {
  From const* from;
  To* to;
  __device__ void operator()(std::uint64_t i) const { to[i] = static_cast<To>(from[i]); }
};

template <class T>
struct fill_constant {
  T value;
  T* y;
  __device__ void operator()(std::uint64_t i) const { y[i] = value; }
};
/// The same bits as on the host: products and sums are rounded one by one, whatever the compiler would fuse.
template <class T>
struct fill_uniform {
  random_stream stream;
  double a, range;
  T* y;
  __device__ void operator()(std::uint64_t i) const {
    y[i] = static_cast<T>(static_cast<float>(__dadd_rn(a, __dmul_rn(range, static_cast<double>(stream.uniform(i))))));
  }
};
template <class T>
struct fill_normal {
  random_stream stream;
  double mean, deviation;
  T* y;
  __device__ void operator()(std::uint64_t i) const {
    y[i] = static_cast<T>(static_cast<float>(__dadd_rn(mean, __dmul_rn(deviation, static_cast<double>(stream.normal(i))))));
  }
};

}  // namespace detail

template <class T>
void elementwise_add(cuda const& device, std::size_t n, T const* a, T const* b, T* y) {
  detail::for_each_index(device, n, detail::add_elements<T>{a, b, y});
}
template <class T>
void elementwise_scale(cuda const& device, std::size_t n, T factor, T* y) {
  detail::for_each_index(device, n, detail::scale_elements<T>{factor, y});
}
template <class T>
void copy_rows(cuda const& device, std::size_t rows, std::size_t width, T const* from, std::size_t from_stride, T* to, std::size_t to_stride) {
  detail::for_each_index(device, rows * width, detail::copy_row_elements<T>{from, from_stride, to, to_stride, width});
}

template <class From, class To>
void transfer_elements(host const&, cuda const& to_device, std::size_t n, From const* from, To* to) {
  if (n == 0) return;
  if constexpr (std::is_same_v<From, To>) {
    to_device.copy(to, from, n * sizeof(To));
  } else {
    std::vector<To> converted(n);
    for (std::size_t i = 0; i < n; ++i) converted[i] = static_cast<To>(from[i]);
    to_device.copy(to, converted.data(), n * sizeof(To));
  }
  to_device.synchronize();  // `from` may be gone when this returns
}
template <class From, class To>
void transfer_elements(cuda const& from_device, host const&, std::size_t n, From const* from, To* to) {
  if (n == 0) return;
  if constexpr (std::is_same_v<From, To>) {
    from_device.copy(to, from, n * sizeof(To));
    from_device.synchronize();
  } else {
    std::vector<From> raw(n);
    from_device.copy(raw.data(), from, n * sizeof(From));
    from_device.synchronize();
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<To>(raw[i]);
  }
}
/// Also between two CUDA devices, with peer access or without.
template <class From, class To>
void transfer_elements(cuda const& from_device, cuda const& to_device, std::size_t n, From const* from, To* to) {
  if (n == 0) return;
  if (from_device == to_device) {
    if constexpr (std::is_same_v<From, To>) to_device.copy(to, from, n * sizeof(To));
    else detail::for_each_index(to_device, n, detail::convert_elements_on_device<From, To>{from, to});
    return;
  }
  from_device.synchronize();
  auto const bring = [&](From* target) {
    MORTISE_CUDA(cudaMemcpyPeerAsync(target, to_device.ordinal, from, from_device.ordinal, n * sizeof(From), to_device.stream()));
  };
  if constexpr (std::is_same_v<From, To>) {
    bring(to);
  } else {
    buffer<From, cuda> const here{to_device, n};
    bring(here.data());
    detail::for_each_index(to_device, n, detail::convert_elements_on_device<From, To>{here.data(), to});
  }
  to_device.synchronize();  // `from` may be freed on its own stream
}

template <class T>
void fill_elements(cuda const& device, int how, double a, double b, random_stream const& stream, std::size_t n, T* y) {
  if (how == 0) detail::for_each_index(device, n, detail::fill_constant<T>{static_cast<T>(static_cast<float>(a)), y});
  else if (how == 1) detail::for_each_index(device, n, detail::fill_uniform<T>{stream, a, b - a, y});
  else detail::for_each_index(device, n, detail::fill_normal<T>{stream, a, b, y});
}

}  // namespace mortise
