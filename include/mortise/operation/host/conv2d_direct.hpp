// Convolution of small maps: loops over the taps, no product of matrices.
//
// Forward puts neighbouring outputs of one map into the lanes of a vector. The input is first copied once per tap column, so that the flat
// index of an output is also its flat index in each copy: every geometry (stride, dilation, padding, rows narrower than a vector) becomes
// loads at  flat index + offset of the tap.
//
// Both gradients put samples into the lanes: a block of W samples is transposed to (channel, row, column, W), then every loop has full
// width whatever the geometry, and taps that fall into the padding cost nothing. A block that lacks samples has zeros in their lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <mortise/detail/simd.hpp>
#include <mortise/operation/window2d.hpp>

namespace mortise::detail {

/// A geometry as run-time values: one kernel serves all layers, which the compiler thanks us for. Channels are those of one group.
struct conv2d_sizes {
  std::size_t in_c, in_h, in_w, out_c, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;

  constexpr std::size_t kernel() const { return kernel_h * kernel_w; }
  constexpr std::size_t taps() const { return in_c * kernel(); }
  constexpr std::size_t positions() const { return out_h * out_w; }
  constexpr std::size_t in_group() const { return in_c * in_h * in_w; }
  constexpr std::size_t out_group() const { return out_c * out_h * out_w; }
  constexpr std::size_t padded_h() const { return in_h + 2 * pad_h; }
  constexpr std::size_t padded_w() const { return in_w + 2 * pad_w; }
  /// Rows of a copy of the input: those that the outputs of one phase (row modulo stride) reach.
  constexpr std::size_t copied_rows() const { return out_h + (kernel_h - 1) * dilation_h / stride_h; }
};

template <class G>
constexpr conv2d_sizes conv2d_sizes_of() {
  return {G::group_in, G::in_h, G::in_w, G::group_out, G::out_h, G::out_w, G::kernel_h, G::kernel_w, G::stride_h, G::stride_w,
          G::pad_h, G::pad_w, G::dilation_h, G::dilation_w, G::groups};
}

/// Rows of a register tile over `n` channels: little waste, and enough rows to hide the latency of the multiply-adds.
constexpr int conv2d_tile_rows(std::size_t n, int most) {
  int best = 1;
  std::size_t least = static_cast<std::size_t>(-1);
  for (int rows = 1; rows <= most && static_cast<std::size_t>(rows) <= n; ++rows) {
    std::size_t const cost = (n + static_cast<std::size_t>(rows) - 1) / static_cast<std::size_t>(rows) * static_cast<std::size_t>(rows < 4 ? 4 : rows);
    if (cost <= least) least = cost, best = rows;
  }
  return best;
}

inline constexpr std::size_t conv2d_lanes = 16;       // samples of a block at most (float, AVX-512)
inline constexpr std::size_t conv2d_row_tile = 2;     // neighbouring inputs in a register tile of the input gradient
inline constexpr std::size_t conv2d_most_pieces = 8;  // pieces of a batch that have scratch memory of their own

constexpr std::size_t conv2d_round_up(std::size_t elements) { return (elements + 15) / 16 * 16; }

/// Samples that a vector of T holds on this machine.
template <class T>
inline std::size_t samples_in_vector() {
  return (std::size_t{16} << static_cast<int>(current_instruction_set())) / sizeof(T);
}

// ---- copies ------------------------------------------------------------------------------------------------------------------------

/// Copies `rows` rows of `n` elements, which lie `every` apart in `from`; writes nothing else.
template <int W, class T>
MORTISE_INLINE void copy_rows(T* to, std::size_t to_step, T const* from, std::size_t from_step, std::size_t every, std::size_t rows, std::size_t n) {
  constexpr std::size_t width = static_cast<std::size_t>(W);
  if (every == 1 && n >= width) {
    for (; rows != 0; --rows, to += to_step, from += from_step) {
      for (std::size_t i = 0; i < n - width; i += width) simd<T, W>::load(from + i).store(to + i);
      simd<T, W>::load(from + (n - width)).store(to + (n - width));
    }
  } else {
    for (; rows != 0; --rows, to += to_step, from += from_step)
      for (std::size_t i = 0; i < n; ++i) to[i] = from[i * every];
  }
}

/// Lanes that are turned at once: more than 32 bytes would make the longest code of all, for little.
template <int W, class T>
inline constexpr int turned_lanes = W * static_cast<int>(sizeof(T)) > 32 ? 32 / static_cast<int>(sizeof(T)) : W;

/// Where the elements of a map lie in a padded block of samples: `rows` rows of `columns`, from `at` on; in vectors.
struct padded_place {
  std::size_t columns, rows, skip_row, skip_map, at;
};

/// (samples, n) to (n, `lanes`) at the places told; lanes without a sample become zero. Turns W of each at once.
template <int W, class T>
MORTISE_INLINE void samples_to_lanes(T const* from, std::size_t sample_step, std::size_t samples, std::size_t n, T* to, std::size_t lanes,
                                     padded_place const& place) {
  constexpr std::size_t width = static_cast<std::size_t>(W);
  using vec = simd<T, W>;
  alignas(64) T const none[width] = {};
  bool const unbroken = (place.skip_row | place.skip_map) == 0;
  std::size_t const columns = unbroken ? n : place.columns, rows = place.rows;
  for (std::size_t lane = 0; lane < lanes; lane += width) {
    T* at = to + place.at * lanes + lane;
    std::size_t column = 0, row = 0;
    for (std::size_t i = 0, count; i < n; i += count) {
      if (n >= width) {
        // What is left of a row goes through `part`; the last vector of all is read from before its place.
        count = columns - column < width ? columns - column : width;
        std::size_t const first = i + width <= n ? i : n - width;
        typename vec::reg block[W];
        MORTISE_UNROLL(16)
        for (std::size_t s = 0; s < width; ++s) block[s] = vec::load(lane + s < samples ? from + (lane + s) * sample_step + first : none).v;
        transpose_lanes<W>(block);
        alignas(64) T part[width * width];
        T* const out = count == width ? at : part;
        std::size_t const step = count == width ? lanes : width;
        MORTISE_UNROLL(16)
        for (std::size_t s = 0; s < width; ++s) vec{block[s]}.store(out + s * step);
        if (count != width)
          for (std::size_t s = 0; s < count; ++s) vec::load(part + (i - first + s) * width).store(at + s * lanes);
      } else {
        count = 1;
        for (std::size_t s = 0; s < width; ++s) at[s] = lane + s < samples ? from[(lane + s) * sample_step + i] : T{0};
      }
      at += count * lanes;
      if ((column += count) == columns) {
        column = 0;
        at += place.skip_row * lanes;
        if (++row == rows) row = 0, at += place.skip_map * lanes;
      }
    }
  }
}

/// (n, `lanes`) to (samples, n). Turns W of each at once.
template <int W, class T>
MORTISE_INLINE void lanes_to_samples(T const* from, std::size_t lanes, std::size_t n, T* to, std::size_t sample_step, std::size_t samples) {
  constexpr std::size_t width = static_cast<std::size_t>(W);
  using vec = simd<T, W>;
  if (n < width) {
    for (std::size_t s = 0; s < samples; ++s)
      for (std::size_t i = 0; i < n; ++i) to[s * sample_step + i] = from[i * lanes + s];
    return;
  }
  for (std::size_t lane = 0; lane < samples; lane += width)
    for (std::size_t i = 0; i < n; i += width) {
      std::size_t const first = i + width <= n ? i : n - width;  // the last vector overlaps the one before
      typename vec::reg block[W];
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) block[s] = vec::load(from + (first + s) * lanes + lane).v;
      transpose_lanes<W>(block);
      alignas(64) T none[width];
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) vec{block[s]}.store(lane + s < samples ? to + (lane + s) * sample_step + first : none);
    }
}

// Both as tasks of their own: for vectors of `lanes` elements, which may be wider than those of the copy that runs.

template <class T>
struct samples_to_lanes_task {
  static constexpr int most_bytes = 32;
  T const* from;
  std::size_t sample_step, samples, n;
  T* to;
  std::size_t lanes;
  padded_place place;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    samples_to_lanes<Bytes / static_cast<int>(sizeof(T))>(from, sample_step, samples, n, to, lanes, place);
  }
};

template <class T>
struct lanes_to_samples_task {
  static constexpr int most_bytes = 32;
  T const* from;
  std::size_t lanes, n;
  T* to;
  std::size_t sample_step, samples;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    lanes_to_samples<Bytes / static_cast<int>(sizeof(T))>(from, lanes, n, to, sample_step, samples);
  }
};

// ---- forward -----------------------------------------------------------------------------------------------------------------------

/// What one copy of the input takes of each channel: of every row of its phase the columns that its tap meets, without the padding.
struct conv2d_copied {
  std::uint32_t to, from, rows, columns;
};

constexpr std::size_t conv2d_direct_map(conv2d_sizes const& s) { return s.copied_rows() * s.out_w; }
constexpr std::size_t conv2d_direct_copies(conv2d_sizes const& s) { return s.kernel_w * s.stride_h * s.in_c * conv2d_direct_map(s); }
/// Scratch of one piece: copies of the image (and what the last vectors read beyond them), the offsets of the taps, what the copies take.
constexpr std::size_t conv2d_direct_forward_scratch(conv2d_sizes const& s) {
  return conv2d_round_up(conv2d_direct_copies(s)) + 4 * conv2d_lanes + conv2d_round_up(2 * s.kernel()) + conv2d_round_up(4 * s.kernel_w * s.stride_h);
}

/// Where the outputs' inputs lie in the copies, for each tap, and what each copy takes, by (tap column, phase).
inline void conv2d_direct_tables(conv2d_sizes const& s, std::uint32_t* offset, conv2d_copied* copied) {
  std::size_t const map = conv2d_direct_map(s), copy = s.stride_h * s.in_c * map;
  for (std::size_t i = 0; i < s.kernel_h; ++i)
    for (std::size_t j = 0; j < s.kernel_w; ++j) {
      std::size_t const row = i * s.dilation_h;
      offset[i * s.kernel_w + j] = static_cast<std::uint32_t>(j * copy + row % s.stride_h * s.in_c * map + row / s.stride_h * s.out_w);
    }
  // Places first, first + step, ... of a padded side: which of them, of `most`, lie in the n elements after the padding.
  auto const inside = [](std::size_t first, std::size_t step, std::size_t pad, std::size_t n, std::size_t most) {
    std::size_t const begin = first >= pad ? 0 : (pad - first + step - 1) / step, end = first >= pad + n ? 0 : (pad + n - first - 1) / step + 1;
    std::pair<std::size_t, std::size_t> const r{begin, end < most ? end : most};
    return r.first < r.second ? r : std::pair<std::size_t, std::size_t>{0, 0};
  };
  for (std::size_t j = 0; j < s.kernel_w; ++j)
    for (std::size_t phase = 0; phase < s.stride_h; ++phase, ++copied) {
      auto const [top, bottom] = inside(phase, s.stride_h, s.pad_h, s.in_h, s.copied_rows());
      auto const [left, right] = inside(j * s.dilation_w, s.stride_w, s.pad_w, s.in_w, s.out_w);
      bool const none = top == bottom || left == right;
      std::size_t const row = phase + top * s.stride_h - s.pad_h, column = j * s.dilation_w + left * s.stride_w - s.pad_w;
      copied->to = static_cast<std::uint32_t>((j * s.stride_h + phase) * s.in_c * map + top * s.out_w + left);
      copied->from = none ? 0 : static_cast<std::uint32_t>(row * s.in_w + column);
      copied->rows = none ? 0 : static_cast<std::uint32_t>(bottom - top);
      copied->columns = static_cast<std::uint32_t>(right - left);
    }
}

/// Tiles of 6 channels by 2 vectors for every layer: 12 sums, 2 inputs and a weight of the 16 registers of AVX2; 8 loads, of which 2 may cross
/// a cache line, for 12 multiply-adds. One function serves all layers. 2 by 4 has no channel twice where their number is even, but half of its
/// loads are inputs: 8 % faster for 16 channels whose rows are whole vectors, 5 to 30 % slower where rows begin anywhere (10 or 28 wide).
template <class T>
struct conv2d_direct_forward {
  conv2d_sizes const& s;
  T const* x;
  T const* weight;
  T const* bias;
  T* y;
  T* copies;
  std::uint32_t const* offset;
  conv2d_copied const* copied;
  std::size_t samples;
  bool relu;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T)), Rows = for_old_processors<Bytes> ? 2 : 6, Vectors = for_old_processors<Bytes> ? 1 : 2;
    constexpr std::size_t step = static_cast<std::size_t>(Vectors * W), rows = static_cast<std::size_t>(Rows);
    std::size_t const positions = s.positions();
    for (std::size_t n = 0; n < samples * s.groups; ++n) {
      make_copies<(W < 8 ? W : 8)>(x + n * s.in_group());
      std::size_t const group = n % s.groups * s.out_c;
      for (std::size_t p = 0; p < positions; p += step) {
        // The last tile overlaps the one before, so that only maps smaller than a tile have partial stores.
        std::size_t const at = p + step <= positions || positions < step ? p : positions - step;
        for (std::size_t o = 0; o < s.out_c; o += rows)
          tile<W, Rows, Vectors>(copies + at, weight + (group + o) * s.taps(), bias == nullptr ? nullptr : bias + group + o,
                                 y + (n * s.out_c + o) * positions + at, s.out_c - o - 1);
      }
    }
  }

 private:
  template <int W>
  MORTISE_INLINE void make_copies(T const* from) const {
    std::size_t const map = conv2d_direct_map(s);
    for (std::size_t i = 0; i < s.kernel_w * s.stride_h; ++i) {
      conv2d_copied const c = copied[i];
      for (std::size_t channel = 0; channel < s.in_c; ++channel)
        copy_rows<W>(copies + c.to + channel * map, s.out_w, from + c.from + channel * s.in_h * s.in_w, s.stride_h * s.in_w, s.stride_w, c.rows, c.columns);
    }
  }

  /// Channels past `last` repeat it.
  template <int W, int Rows, int Vectors>
  MORTISE_INLINE void tile(T const* from, T const* w, T const* b, T* to, std::size_t last) const {
    using vec = simd<T, W>;
    constexpr std::size_t wide = static_cast<std::size_t>(Vectors * W);
    typename vec::reg sum[Rows][Vectors];  // raw registers: an array of objects with a constructor would live in memory
    T const* row[Rows];
    MORTISE_UNROLL(8)
    for (std::size_t i = 0; i < static_cast<std::size_t>(Rows); ++i) {
      std::size_t const channel = i < last ? i : last;
      row[i] = w + channel * s.taps();
      vec const start{b == nullptr ? T{0} : b[channel]};
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) sum[i][v] = start.v;
    }
    std::size_t const kernel = s.kernel(), map = conv2d_direct_map(s);
    std::size_t k = 0;
    for (std::size_t c = s.in_c; c != 0; --c, from += map)
      for (std::size_t t = 0; t < kernel; ++t, ++k) {
        T const* const source = from + offset[t];
        typename vec::reg in[Vectors];
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) in[v] = vec::load(source + v * W).v;
        MORTISE_UNROLL(8)
        for (int i = 0; i < Rows; ++i) {
          typename vec::reg const a = vec{row[i][k]}.v;
          MORTISE_UNROLL(4)
          for (int v = 0; v < Vectors; ++v) add_product(sum[i][v], a, in[v]);
        }
      }
    if (relu) {
      MORTISE_UNROLL(8)
      for (int i = 0; i < Rows; ++i) {
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) sum[i][v] = max(vec{}, vec{sum[i][v]}).v;  // in this order NaN stays
      }
    }
    std::size_t const positions = s.positions();
    alignas(64) T part[static_cast<std::size_t>(Rows) * wide];
    MORTISE_UNROLL(8)
    for (std::size_t i = 0; i < static_cast<std::size_t>(Rows); ++i) {
      T* const at = positions < wide ? part + i * wide : to + (i < last ? i : last) * positions;
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) vec{sum[i][v]}.store(at + v * W);
    }
    if (positions < wide)
      for (std::size_t i = 0; i < static_cast<std::size_t>(Rows) && i <= last; ++i)
        for (std::size_t e = 0; e < positions; ++e) to[i * positions + e] = part[i * wide + e];
  }
};

// ---- gradient of the input -----------------------------------------------------------------------------------------------------------

constexpr std::size_t conv2d_direct_dy_width(conv2d_sizes const& s) { return s.out_w + 2 * (conv2d_row_tile - 1); }
/// dy of a block with zero columns left and right, dx of a block, the taps of a tile.
constexpr std::size_t conv2d_direct_backward_input_scratch(conv2d_sizes const& s) {
  return (s.out_c * s.out_h * conv2d_direct_dy_width(s) + s.in_group()) * s.groups * conv2d_lanes + conv2d_round_up(4 * s.kernel());
}

/// The taps by which inputs q, q + stride, ... of row r, a tile of them, meet outputs: for each its place in dy and in the kernel. Returns their
/// number. A function of its own, since there is nothing for vectors in it.
[[gnu::noinline]] inline std::size_t conv2d_direct_input_taps(conv2d_sizes const& s, std::size_t r, std::size_t q, std::size_t lanes, std::uint32_t* taps) {
  constexpr std::size_t tile_w = conv2d_row_tile;
  std::size_t const dy_w = conv2d_direct_dy_width(s);
  std::size_t count = 0;
  for (std::size_t i = 0; i < s.kernel_h; ++i) {
    std::size_t const row = r + s.pad_h - i * s.dilation_h;  // wraps where negative
    if (r + s.pad_h < i * s.dilation_h || row % s.stride_h != 0 || row / s.stride_h >= s.out_h) continue;
    for (std::size_t j = 0; j < s.kernel_w; ++j) {
      std::size_t const column = q + s.pad_w + (tile_w - 1) * s.stride_w - j * s.dilation_w;
      if (q + s.pad_w + (tile_w - 1) * s.stride_w < j * s.dilation_w || column % s.stride_w != 0) continue;
      std::size_t const first = column / s.stride_w;  // in the padded dy
      if (first > s.out_w + tile_w - 2) continue;
      taps[2 * count] = static_cast<std::uint32_t>((row / s.stride_h * dy_w + first) * lanes);
      taps[2 * count + 1] = static_cast<std::uint32_t>(i * s.kernel_w + j);
      ++count;
    }
  }
  return count;
}

template <class T, int Rows>
struct conv2d_direct_backward_input {
  conv2d_sizes const& s;
  T const* weight;
  T const* dy;  // (groups * out_c, out_h, dy width, W)
  T* dx;        // (groups * in_c, in_h, in_w, W)
  std::uint32_t* taps;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    constexpr std::size_t rows = static_cast<std::size_t>(Rows), width = static_cast<std::size_t>(W);
    for (std::size_t r = 0; r < s.in_h; ++r)
      for (std::size_t residue = 0; residue < s.stride_w && residue < s.in_w; ++residue)
        for (std::size_t q = residue; q < s.in_w; q += conv2d_row_tile * s.stride_w) {
          std::size_t const count = conv2d_direct_input_taps(s, r, q, width, taps);
          for (std::size_t group = 0; group < s.groups; ++group)
            for (std::size_t c = 0; c < s.in_c; c += rows) {
              std::size_t const first = c + rows <= s.in_c ? c : s.in_c - rows;
              tile<W>(weight + (group * s.out_c * s.in_c + first) * s.kernel(), dy + group * s.out_c * s.out_h * conv2d_direct_dy_width(s) * width, count,
                      dx + (((group * s.in_c + first) * s.in_h + r) * s.in_w + q) * width, (s.in_w - q - 1) / s.stride_w + 1);
            }
        }
  }

 private:
  template <int W>
  MORTISE_INLINE void tile(T const* w, T const* from, std::size_t count, T* to, std::size_t stored) const {
    using vec = simd<T, W>;
    constexpr int tile_w = static_cast<int>(conv2d_row_tile);
    typename vec::reg sum[Rows][tile_w];
    MORTISE_UNROLL(8)
    for (int i = 0; i < Rows; ++i) {
      MORTISE_UNROLL(4)
      for (int v = 0; v < tile_w; ++v) sum[i][v] = vec{}.v;
    }
    std::size_t const kernel = s.kernel(), map = s.out_h * conv2d_direct_dy_width(s) * static_cast<std::size_t>(W), next = s.taps();
    for (std::size_t o = s.out_c; o != 0; --o, from += map, w += next)
      for (std::size_t t = 0; t < count; ++t) {
        T const* const source = from + taps[2 * t];
        T const* const a = w + taps[2 * t + 1];
        typename vec::reg in[tile_w];
        MORTISE_UNROLL(4)
        for (int v = 0; v < tile_w; ++v) in[v] = vec::load(source + v * W).v;
        MORTISE_UNROLL(8)
        for (int i = 0; i < Rows; ++i) {
          typename vec::reg const factor = vec{a[static_cast<std::size_t>(i) * kernel]}.v;
          MORTISE_UNROLL(4)
          for (int v = 0; v < tile_w; ++v) add_product(sum[i][v], factor, in[v]);
        }
      }
    MORTISE_UNROLL(8)
    for (int i = 0; i < Rows; ++i) {
      MORTISE_UNROLL(4)
      for (int v = 0; v < tile_w; ++v)
        if (static_cast<std::size_t>(v) < stored)
          vec{sum[i][v]}.store(to + (static_cast<std::size_t>(i) * s.in_h * s.in_w + static_cast<std::size_t>(v) * s.stride_w) * static_cast<std::size_t>(W));
    }
  }
};

// ---- gradient of the weight ------------------------------------------------------------------------------------------------------------

inline constexpr std::size_t conv2d_most_rows = 8;

/// x of a block with its padding, dy of a few channels of a block.
constexpr std::size_t conv2d_direct_backward_weight_scratch(conv2d_sizes const& s) {
  return s.groups * s.in_c * s.padded_h() * s.padded_w() * conv2d_lanes + conv2d_most_rows * s.positions() * conv2d_lanes;
}

/// Rows of a register tile of the weight's gradient with `columns` columns, in a copy with vectors of `bytes`.
constexpr int conv2d_weight_rows(int columns, int bytes, bool old) {
  int const most = old ? 1 : (bytes == 64 ? 24 : 12) / columns;
  return most < 1 ? 1 : most < static_cast<int>(conv2d_most_rows) ? most : static_cast<int>(conv2d_most_rows);
}
/// The same on this machine.
inline std::size_t conv2d_weight_rows_here(int columns) {
  int const bytes = 16 << static_cast<int>(current_instruction_set());
  return static_cast<std::size_t>(conv2d_weight_rows(columns, bytes, for_old_processors<16> && bytes == 16));
}

/// dweight += x dy and dbias += dy for the output channels [skip, rows) of one block of samples.
/// Sliding, where stride and dilation along a row are 1: neighbouring outputs share all inputs but one, which stay in registers.
template <class T, int Columns, bool Sliding>
struct conv2d_direct_backward_weight {
  conv2d_sizes const& s;
  T const* x;   // (in_c, padded_h, padded_w, W) of the channels' group
  T const* dy;  // (rows, out_h, out_w, W)
  T* dweight;   // of the first channel
  T* dbias;
  std::size_t rows, skip;  // at most conv2d_weight_rows; the first `skip` are done
  bool accumulate;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T)), Rows = conv2d_weight_rows(Columns, Bytes, for_old_processors<Bytes>);
    constexpr std::size_t width = static_cast<std::size_t>(W), columns = static_cast<std::size_t>(Columns);
    bias<W>();
    T const* from = x;
    for (std::size_t c = 0; c < s.in_c; ++c, from += s.padded_h() * s.padded_w() * width)
      for (std::size_t i = 0; i < s.kernel_h; ++i)
        for (std::size_t j = 0; j < s.kernel_w; j += columns) {
          std::size_t const left = j + columns <= s.kernel_w ? j : s.kernel_w - columns;
          alignas(64) T sums[static_cast<std::size_t>(Rows * Columns)][width];
          tile<W, Rows>(from + (i * s.dilation_h * s.padded_w() + left * s.dilation_w) * width, sums);
          for (std::size_t m = skip; m < rows; ++m)
            for (std::size_t t = j - left; t < columns; ++t) {
              T const sum = sum_lanes(simd<T, W>::load(sums[m * columns + t]));
              T& to = dweight[m * s.taps() + c * s.kernel() + i * s.kernel_w + left + t];
              to = accumulate ? to + sum : sum;
            }
        }
  }

 private:
  template <int W>
  MORTISE_INLINE void bias() const {
    using vec = simd<T, W>;
    constexpr std::size_t width = static_cast<std::size_t>(W);
    std::size_t const positions = s.positions();
    for (std::size_t m = skip; m < rows; ++m) {
      typename vec::reg part[4] = {vec{}.v, vec{}.v, vec{}.v, vec{}.v};
      T const* const from = dy + m * positions * width;
      std::size_t p = 0;
      for (; p + 4 <= positions; p += 4) {
        MORTISE_UNROLL(4)
        for (std::size_t v = 0; v < 4; ++v) part[v] += vec::load(from + (p + v) * width).v;
      }
      for (; p < positions; ++p) part[0] += vec::load(from + p * width).v;
      T const sum = sum_lanes(vec{(part[0] + part[1]) + (part[2] + part[3])});
      dbias[m] = accumulate ? dbias[m] + sum : sum;
    }
  }

  template <int W, int Rows>
  MORTISE_INLINE void tile(T const* from, T (&sums)[Rows * Columns][W]) const {
    using vec = simd<T, W>;
    constexpr std::size_t width = static_cast<std::size_t>(W);
    typename vec::reg sum[Rows * Columns];
    MORTISE_UNROLL(24)
    for (int i = 0; i < Rows * Columns; ++i) sum[i] = vec{}.v;
    T const* g[Rows];  // rows past the last repeat it
    MORTISE_UNROLL(8)
    for (std::size_t m = 0; m < static_cast<std::size_t>(Rows); ++m) g[m] = dy + (m < rows ? m : rows - 1) * s.positions() * width;
    std::size_t const step = s.stride_w * width, tap = s.dilation_w * width;
    std::size_t at = 0;
    for (std::size_t p = 0; p < s.out_h; ++p, from += s.stride_h * s.padded_w() * width) {
      T const* source = from;
      typename vec::reg in[Columns];
      if constexpr (Sliding) {
        MORTISE_UNROLL(8)
        for (int t = 1; t < Columns; ++t) in[t] = vec::load(source + static_cast<std::size_t>(t - 1) * width).v;
      }
      for (std::size_t q = 0; q < s.out_w; ++q, source += step, at += width) {
        MORTISE_UNROLL(8)
        for (int t = 0; t < Columns - 1; ++t) {
          if constexpr (Sliding) in[t] = in[t + 1];
          else in[t] = vec::load(source + static_cast<std::size_t>(t) * tap).v;
        }
        in[Columns - 1] = vec::load(source + static_cast<std::size_t>(Columns - 1) * tap).v;
        MORTISE_UNROLL(8)
        for (int m = 0; m < Rows; ++m) {
          typename vec::reg const d = vec::load(g[m] + at).v;
          MORTISE_UNROLL(8)
          for (int t = 0; t < Columns; ++t) add_product(sum[m * Columns + t], d, in[t]);
        }
      }
    }
    MORTISE_UNROLL(24)
    for (int i = 0; i < Rows * Columns; ++i) vec{sum[i]}.store(sums[i]);
  }
};

}  // namespace mortise::detail
