// Elementwise work that containers and models need themselves.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

namespace detail {

/// Elements in one piece of an elementwise operation: large enough to pay for a thread, small enough to share the work.
inline constexpr std::size_t map_piece = 32768;

/// Runs body(first, count) on fixed pieces of [0, n).
template <class Body>
inline void for_each_range(host const& device, std::size_t n, Body const& body) {
  std::size_t const pieces = (n + map_piece - 1) / map_piece;
  if (pieces <= 1) {
    if (n != 0) body(std::size_t{0}, n);
    return;
  }
  for_each_piece(device, pieces, [&](std::size_t piece) {
    std::size_t const first = piece * map_piece;
    body(first, first + map_piece < n ? map_piece : n - first);
  });
}

/// Calls body(first row, rows) on fixed blocks of rows with about map_piece elements.
template <class Body>
inline void for_each_row_block(host const& device, std::size_t rows, std::size_t width, Body const& body) {
  std::size_t const block = width >= map_piece ? 1 : map_piece / width;
  if (rows <= block) {
    if (rows != 0) body(std::size_t{0}, rows);
    return;
  }
  for_each_piece(device, (rows + block - 1) / block, [&](std::size_t piece) {
    std::size_t const first = piece * block;
    body(first, rows - first < block ? rows - first : block);
  });
}

/// The lanes below n, zero in the others: for sums over the last elements of a row.
template <class V>
MORTISE_INLINE V first_lanes(V const& v, std::size_t n) {
  if constexpr (V::width == 1) {  // nvcc's host pass
    return n == 0 ? V{} : v;
  } else {
    V r;
    for (std::size_t i = 0; i < n; ++i) r.v[i] = v.v[i];
    return r;
  }
}

template <class T>
struct add_kernel {
  static constexpr int most_bytes = 32;
  T const* a;
  T const* b;
  T* y;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = detail::simd<T, Bytes / static_cast<int>(sizeof(T))>;
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) (V::load(a + i) + V::load(b + i)).store(y + i);
    for (; i < n; ++i) y[i] = a[i] + b[i];
  }
};

template <class T>
struct scale_kernel {
  static constexpr int most_bytes = 32;
  T factor;
  T* y;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = detail::simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const f{factor};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) (V::load(y + i) * f).store(y + i);
    for (; i < n; ++i) y[i] = y[i] * factor;
  }
};

}  // namespace detail

/// y = a + b, n elements; y may be a or b.
template <class T>
void elementwise_add(host const& device, std::size_t n, T const* a, T const* b, T* y) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::add_kernel<T>{a + first, b + first, y + first, count});
  });
}

/// y = factor * y, n elements.
template <class T>
void elementwise_scale(host const& device, std::size_t n, T factor, T* y) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::scale_kernel<T>{factor, y + first, count});
  });
}

/// Copies `rows` rows of `width` elements between arrays with their own strides.
template <class T>
void copy_rows(host const& device, std::size_t rows, std::size_t width, T const* from, std::size_t from_stride, T* to, std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r) device.copy(to + r * to_stride, from + r * from_stride, width * sizeof(T));
}

/// Copies n elements from one device to another, converting them.
template <class From, class To>
void transfer_elements(host const&, host const& to_device, std::size_t n, From const* from, To* to) {
  if constexpr (std::is_same_v<From, To>) {
    to_device.copy(to, from, n * sizeof(To));
  } else {
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
  }
}

/// A copy of what a view of `device`'s memory shows. Waits for the device.
template <class D, class T>
std::vector<std::remove_const_t<T>> to_host(D const& device, view<T> const& from) {
  using value = std::remove_const_t<T>;
  std::vector<value> values(from.size());
  transfer_elements<value, value>(device, host{}, values.size(), from.data(), values.data());
  return values;
}

}  // namespace mortise
