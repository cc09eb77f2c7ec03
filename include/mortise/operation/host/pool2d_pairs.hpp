// Maximum over windows of 2 x 2 with stride 2, the pool of most small networks: pairs of rows, even and odd columns in the lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <mortise/detail/simd.hpp>

namespace mortise::detail {

/// `maps` maps of (in_h, in_w) to (in_h / 2, in_w / 2); an odd last row or column belongs to no window. in_w is at least 8.
struct pool2d_pairs_sizes {
  std::size_t maps, in_h, in_w;
};

template <int W>
struct pool2d_bytes {
  typedef std::uint8_t value __attribute__((vector_size(W)));
  typedef std::uint8_t memory __attribute__((vector_size(W), aligned(1), may_alias));
};

/// Of two vectors side by side the lanes with even (Odd = 0) or odd index.
template <int Odd>
struct every_second_lane {
  static constexpr int from(int lane) { return 2 * lane + Odd; }
};

/// Calls f.template chunk<width>() with the widest vector that a row of outputs fills; it must have at least 4.
template <int W, class F>
MORTISE_INLINE void with_row_width(std::size_t out_w, F const& f) {
  if constexpr (W <= 4) f.template chunk<W>();
  else if (out_w >= static_cast<std::size_t>(W)) f.template chunk<W>();
  else with_row_width<W / 2>(out_w, f);
}

template <class T>
struct max_pool2d_pairs_forward {
  static constexpr int most_bytes = 32;
  pool2d_pairs_sizes s;
  T const* x;
  T* y;
  std::uint8_t* index;  // or null
  bool relu;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    with_row_width<Bytes / static_cast<int>(sizeof(T))>(s.in_w / 2, *this);
  }

  template <int W>
  MORTISE_INLINE void chunk() const {
    std::size_t const out_h = s.in_h / 2, out_w = s.in_w / 2, width = static_cast<std::size_t>(W);
    std::size_t to = 0;
    for (std::size_t m = 0; m < s.maps; ++m)
      for (std::size_t p = 0; p < out_h; ++p, to += out_w) {
        T const* const row = x + (m * s.in_h + 2 * p) * s.in_w;
        for (std::size_t q = 0; q < out_w; q += width) {
          std::size_t const at = q + width <= out_w ? q : out_w - width;  // may overlap the ones before: the same values again
          columns<W>(row + 2 * at, to + at);
        }
      }
  }

 private:
  template <int W>
  MORTISE_INLINE void columns(T const* row, std::size_t to) const {
    using vec = simd<T, W>;
    using reg = typename vec::reg;
    using bits = typename vec::bits;
    constexpr auto lanes = std::make_index_sequence<static_cast<std::size_t>(W)>{};
    reg v[4];
    MORTISE_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      T const* const from = row + static_cast<std::size_t>(r) * s.in_w;
      reg const left = vec::load(from).v, right = vec::load(from + W).v;
      shuffle<every_second_lane<0>>(left, right, v[2 * r], lanes);
      shuffle<every_second_lane<1>>(left, right, v[2 * r + 1], lanes);
    }
    reg best = v[0];
    bits place = {};
    MORTISE_UNROLL(4)
    for (int k = 1; k < 4; ++k) {
      bits const wins = (v[k] > best) | (v[k] != v[k]);
      best = wins ? v[k] : best;
      place = wins ? bits{} + k : place;
    }
    if (relu) {
      bits const clipped = best <= reg{};
      best = clipped ? reg{} : best;
      place = clipped ? bits{} + 255 : place;
    }
    vec{best}.store(y + to);
    if (index != nullptr)
      *reinterpret_cast<typename pool2d_bytes<W>::memory*>(index + to) = __builtin_convertvector(place, typename pool2d_bytes<W>::value);
  }
};

template <class T>
struct max_pool2d_pairs_backward {
  static constexpr int most_bytes = 32;
  pool2d_pairs_sizes s;
  T const* dy;
  std::uint8_t const* index;
  T* dx;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    with_row_width<Bytes / static_cast<int>(sizeof(T))>(s.in_w / 2, *this);
  }

  template <int W>
  MORTISE_INLINE void chunk() const {
    std::size_t const out_h = s.in_h / 2, out_w = s.in_w / 2, width = static_cast<std::size_t>(W);
    std::size_t from = 0;
    for (std::size_t m = 0; m < s.maps; ++m) {
      T* const map = dx + m * s.in_h * s.in_w;
      for (std::size_t p = 0; p < out_h; ++p, from += out_w) {
        T* const row = map + 2 * p * s.in_w;
        for (std::size_t q = 0; q < out_w; q += width) {
          std::size_t const at = q + width <= out_w ? q : out_w - width;
          columns<W>(row + 2 * at, from + at);
        }
        if (s.in_w % 2 != 0) row[s.in_w - 1] = row[2 * s.in_w - 1] = T{0};
      }
      if (s.in_h % 2 != 0)
        for (std::size_t q = 0; q < s.in_w; ++q) map[(s.in_h - 1) * s.in_w + q] = T{0};
    }
  }

 private:
  template <int W>
  MORTISE_INLINE void columns(T* row, std::size_t from) const {
    using vec = simd<T, W>;
    using reg = typename vec::reg;
    using bits = typename vec::bits;
    constexpr auto lanes = std::make_index_sequence<static_cast<std::size_t>(W)>{};
    reg const g = vec::load(dy + from).v;
    typename pool2d_bytes<W>::value const bytes = *reinterpret_cast<typename pool2d_bytes<W>::memory const*>(index + from);
    bits const place = __builtin_convertvector(bytes, bits);
    MORTISE_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      reg const left = place == bits{} + 2 * r ? g : reg{}, right = place == bits{} + 2 * r + 1 ? g : reg{};
      reg low, high;
      shuffle<interleaved_lanes<W, W, 0>>(left, right, low, lanes);
      shuffle<interleaved_lanes<W, W, 1>>(left, right, high, lanes);
      vec{low}.store(row + static_cast<std::size_t>(r) * s.in_w);
      vec{high}.store(row + static_cast<std::size_t>(r) * s.in_w + W);
    }
  }
};

}  // namespace mortise::detail
