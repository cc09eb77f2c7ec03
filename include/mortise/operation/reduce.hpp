// Sums over a flat range that have the same bits for every thread count: fixed pieces, fixed tree.
#pragma once

#include <cstddef>
#include <cstring>

#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>

namespace mortise {

/// Elements of one piece. Its sum runs in four vectors of partial sums: an addend takes part in about 16384 / (4 lanes) + 6 additions, so
/// the relative error of a sum of squares is below (16384 / (4 lanes) + 6 + log2(pieces)) eps.
inline constexpr std::size_t reduction_piece = 16384;

/// Elements of workspace that a reduction of n elements wants.
constexpr std::size_t reduction_workspace(std::size_t n) { return (n + reduction_piece - 1) / reduction_piece; }

namespace detail {

struct identity_map {
  template <class V>
  static MORTISE_INLINE V of(V const& x) {
    return x;
  }
};
struct square_map {
  template <class V>
  static MORTISE_INLINE V of(V const& x) {
    return x * x;
  }
};

template <class Map, class T>
struct sum_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  std::size_t n;
  T* result;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    V a, b, c, d;
    T const* const p = x;
    std::size_t i = 0;
    for (; i + 4 * w <= n; i += 4 * w) {
      a += Map::of(V::load(p + i));
      b += Map::of(V::load(p + i + w));
      c += Map::of(V::load(p + i + 2 * w));
      d += Map::of(V::load(p + i + 3 * w));
    }
    for (; i + w <= n; i += w) a += Map::of(V::load(p + i));
    if (i < n) {
      T rest[w] = {};
      std::memcpy(rest, p + i, (n - i) * sizeof(T));
      b += Map::of(V::load(rest));
    }
    *result = sum_lanes((a + b) + (c + d));
  }
};

/// Pairwise: neighbours, then neighbours of those. Overwrites x.
template <class T>
T tree_sum(T* x, std::size_t n) {
  if (n == 0) return T(0);
  for (; n > 1; n = (n + 1) / 2) {
    for (std::size_t i = 0; i + 1 < n; i += 2) x[i / 2] = x[i] + x[i + 1];
    if (n % 2 == 1) x[n / 2] = x[n - 1];
  }
  return x[0];
}

template <class Map, class T>
T sum_mapped(host const& device, T const* x, std::size_t n, T* workspace) {
  std::size_t const pieces = reduction_workspace(n);
  for_each_piece(device, pieces, [&](std::size_t piece) {
    std::size_t const first = piece * reduction_piece;
    for_this_cpu(sum_kernel<Map, T>{x + first, first + reduction_piece < n ? reduction_piece : n - first, workspace + piece});
  });
  return tree_sum(workspace, pieces);
}

}  // namespace detail

/// x[0] + ... + x[n - 1]. `workspace` has reduction_workspace(n) elements.
template <class T>
T sum(host const& device, T const* x, std::size_t n, T* workspace) {
  return detail::sum_mapped<detail::identity_map>(device, x, n, workspace);
}

/// x[0]^2 + ... + x[n - 1]^2
template <class T>
T sum_of_squares(host const& device, T const* x, std::size_t n, T* workspace) {
  return detail::sum_mapped<detail::square_map>(device, x, n, workspace);
}

}  // namespace mortise
