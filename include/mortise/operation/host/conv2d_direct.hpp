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

/// Copies `rows` rows of `n` elements; writes nothing else.
template <int W, class T>
MORTISE_INLINE void copy_rows(T* to, std::size_t to_step, T const* from, std::size_t from_step, std::size_t rows, std::size_t n) {
  if constexpr (W == 1) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < n; ++i) to[r * to_step + i] = from[r * from_step + i];
  } else {
    constexpr std::size_t width = static_cast<std::size_t>(W);
    if (n < width) return copy_rows<W / 2>(to, to_step, from, from_step, rows, n);
    for (std::size_t r = 0; r < rows; ++r, to += to_step, from += from_step) {
      for (std::size_t i = 0; i < n - width; i += width) simd<T, W>::load(from + i).store(to + i);
      simd<T, W>::load(from + (n - width)).store(to + (n - width));
    }
  }
}

/// Element 2 i is lane i of a, element 2 i + 1 is lane i of b, for the lower (Half = 0) or the upper half of the lanes.
template <int W, int Half, class Reg, std::size_t... I>
MORTISE_INLINE void interleave(Reg const& a, Reg const& b, Reg& to, std::index_sequence<I...>) {
#if !defined(__CUDACC__)
  to = __builtin_shufflevector(a, b, (Half * W / 2 + static_cast<int>(I / 2) + (I % 2 == 0 ? 0 : W))...);
#else  // nvcc does not carry a pack through __builtin_shufflevector
  ((to[I] = I % 2 == 0 ? a[Half * W / 2 + I / 2] : b[Half * W / 2 + I / 2]), ...);
#endif
}

/// W vectors of W lanes: log2(W) perfect shuffles of the whole.
template <int W, class Reg>
MORTISE_INLINE void transpose_lanes(Reg (&row)[W]) {
  MORTISE_UNROLL(4)
  for (int step = 1; step < W; step *= 2) {
    Reg next[W];
    MORTISE_UNROLL(8)
    for (int i = 0; i < W / 2; ++i) {
      interleave<W, 0>(row[i], row[i + W / 2], next[2 * i], std::make_index_sequence<static_cast<std::size_t>(W)>{});
      interleave<W, 1>(row[i], row[i + W / 2], next[2 * i + 1], std::make_index_sequence<static_cast<std::size_t>(W)>{});
    }
    MORTISE_UNROLL(16)
    for (int i = 0; i < W; ++i) row[i] = next[i];
  }
}

/// Where element (channel, row, column) of a map lies in a padded block of samples; steps through it in row-major order.
struct padded_cursor {
  std::size_t in_w, in_h, skip_row, skip_map;  // skips in vectors
  std::size_t at, column = 0, row = 0;

  MORTISE_INLINE void next() {
    ++at;
    if (++column == in_w) {
      column = 0;
      at += skip_row;
      if (++row == in_h) row = 0, at += skip_map;
    }
  }
};

/// (samples, n) to (n, W) at the places that the cursor tells; lanes without a sample become zero.
template <int W, class T>
MORTISE_INLINE void samples_to_lanes(T const* from, std::size_t sample_step, std::size_t samples, std::size_t n, T* to, padded_cursor place) {
  constexpr std::size_t width = static_cast<std::size_t>(W);
  std::size_t i = 0;
  for (; i + width <= n; i += width) {
    typename simd<T, W>::reg block[W];
    if (samples == width) {
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) block[s] = simd<T, W>::load(from + s * sample_step + i).v;
    } else {
      alignas(64) T rows[width][width] = {};
      for (std::size_t s = 0; s < samples; ++s) simd<T, W>::load(from + s * sample_step + i).store(rows[s]);
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) block[s] = simd<T, W>::load(rows[s]).v;
    }
    transpose_lanes<W>(block);
    MORTISE_UNROLL(16)
    for (std::size_t s = 0; s < width; ++s) {
      simd<T, W>{block[s]}.store(to + place.at * width);
      place.next();
    }
  }
  for (; i < n; ++i) {
    for (std::size_t s = 0; s < width; ++s) to[place.at * width + s] = s < samples ? from[s * sample_step + i] : T{0};
    place.next();
  }
}

/// (n, W) to (samples, n).
template <int W, class T>
MORTISE_INLINE void lanes_to_samples(T const* from, std::size_t n, T* to, std::size_t sample_step, std::size_t samples) {
  constexpr std::size_t width = static_cast<std::size_t>(W);
  std::size_t i = 0;
  for (; i + width <= n; i += width) {
    typename simd<T, W>::reg block[W];
    MORTISE_UNROLL(16)
    for (std::size_t s = 0; s < width; ++s) block[s] = simd<T, W>::load(from + (i + s) * width).v;
    transpose_lanes<W>(block);
    if (samples == width) {
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) simd<T, W>{block[s]}.store(to + s * sample_step + i);
    } else {
      alignas(64) T rows[width][width];
      MORTISE_UNROLL(16)
      for (std::size_t s = 0; s < width; ++s) simd<T, W>{block[s]}.store(rows[s]);
      for (std::size_t s = 0; s < samples; ++s) simd<T, W>::load(rows[s]).store(to + s * sample_step + i);
    }
  }
  for (; i < n; ++i)
    for (std::size_t s = 0; s < samples; ++s) to[s * sample_step + i] = from[i * width + s];
}

template <class T>
struct samples_to_lanes_task {
  T const* from;
  std::size_t sample_step, samples, n;
  T* to;
  padded_cursor place;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    samples_to_lanes<Bytes / static_cast<int>(sizeof(T))>(from, sample_step, samples, n, to, place);
  }
};

template <class T>
struct lanes_to_samples_task {
  T const* from;
  std::size_t n;
  T* to;
  std::size_t sample_step, samples;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    lanes_to_samples<Bytes / static_cast<int>(sizeof(T))>(from, n, to, sample_step, samples);
  }
};

// ---- forward -----------------------------------------------------------------------------------------------------------------------

constexpr std::size_t conv2d_direct_image(conv2d_sizes const& s) {
  return s.pad_h + s.pad_w == 0 ? 0 : conv2d_round_up(s.in_c * s.padded_h() * s.padded_w());
}
/// Scratch of one piece: the padded image, its copies (and what the last vectors read beyond them), the offsets of the taps.
constexpr std::size_t conv2d_direct_forward_scratch(conv2d_sizes const& s) {
  return conv2d_direct_image(s) + conv2d_round_up(s.kernel_w * s.stride_h * s.in_c * s.copied_rows() * s.out_w) + 4 * conv2d_lanes +
         conv2d_round_up(2 * s.kernel());
}

/// Tiles of 6 channels by 2 vectors for every layer: 12 sums, 2 inputs and a weight of the 16 registers of AVX2; 8 loads, of which 2 may cross
/// a cache line, for 12 multiply-adds. One function serves all layers. 2 by 4 has no channel twice where their number is even, but half of its
/// loads are inputs: 8 % faster for 16 channels whose rows are whole vectors, 5 to 30 % slower where rows begin anywhere (10 or 28 wide).
template <class T>
struct conv2d_direct_forward {
  conv2d_sizes s;
  T const* x;
  T const* weight;
  T const* bias;
  T* y;
  T* scratch;
  std::size_t samples;
  bool relu;

  static constexpr int Rows = 6, Vectors = 2;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    constexpr std::size_t step = static_cast<std::size_t>(Vectors * W);
    T* const image = scratch;
    T* const copies = image + conv2d_direct_image(s);
    std::size_t const copy = s.stride_h * s.in_c * s.copied_rows() * s.out_w, positions = s.positions();
    auto* const offset = reinterpret_cast<std::uint32_t*>(copies + conv2d_round_up(s.kernel_w * copy) + 4 * conv2d_lanes);
    for (std::size_t i = 0; i < s.kernel_h; ++i)
      for (std::size_t j = 0; j < s.kernel_w; ++j) {
        std::size_t const row = i * s.dilation_h;
        offset[i * s.kernel_w + j] = static_cast<std::uint32_t>(j * copy + row % s.stride_h * s.in_c * s.copied_rows() * s.out_w + row / s.stride_h * s.out_w);
      }
    for (std::size_t i = 0; i < conv2d_direct_image(s); ++i) image[i] = T{0};

    for (std::size_t n = 0; n < samples; ++n)
      for (std::size_t group = 0; group < s.groups; ++group) {
        make_copies<W>(x + (n * s.groups + group) * s.in_group(), image, copies);
        for (std::size_t p = 0; p < positions; p += step) {
          // The last tile overlaps the one before, so that only maps smaller than a tile have partial stores.
          std::size_t const at = p + step <= positions || positions < step ? p : positions - step;
          for (std::size_t o = 0; o < s.out_c; o += static_cast<std::size_t>(Rows)) {
            std::size_t const channel = group * s.out_c + o;
            tile<W>(copies + at, offset, weight + channel * s.taps(), bias == nullptr ? nullptr : bias + channel,
                    y + (n * s.groups * s.out_c + channel) * positions + at, s.out_c - o - 1);
          }
        }
      }
  }

 private:
  template <int W>
  MORTISE_INLINE void make_copies(T const* from, T* image, T* copies) const {
    if (conv2d_direct_image(s) != 0) {
      for (std::size_t c = 0; c < s.in_c; ++c)
        copy_rows<W>(image + (c * s.padded_h() + s.pad_h) * s.padded_w() + s.pad_w, s.padded_w(), from + c * s.in_h * s.in_w, s.in_w, s.in_h, s.in_w);
      from = image;
    }
    std::size_t const rows = s.copied_rows(), height = s.padded_h(), width = s.padded_w();
    for (std::size_t j = 0; j < s.kernel_w; ++j)
      for (std::size_t phase = 0; phase < s.stride_h; ++phase) {
        // Rows phase, phase + stride, ... of the padded image; a phase may have fewer than the others.
        std::size_t const present = height <= phase ? 0 : (height - phase - 1) / s.stride_h + 1;
        std::size_t const wanted = present < rows ? present : rows;
        for (std::size_t c = 0; c < s.in_c; ++c) {
          T* const to = copies + ((j * s.stride_h + phase) * s.in_c + c) * rows * s.out_w;
          T const* const source = from + (c * height + phase) * width + j * s.dilation_w;
          if (s.stride_w == 1) {
            copy_rows<W>(to, s.out_w, source, s.stride_h * width, wanted, s.out_w);
          } else {
            for (std::size_t r = 0; r < wanted; ++r)
              for (std::size_t q = 0; q < s.out_w; ++q) to[r * s.out_w + q] = source[r * s.stride_h * width + q * s.stride_w];
          }
        }
      }
  }

  /// Channels past `last` repeat it.
  template <int W>
  MORTISE_INLINE void tile(T const* from, std::uint32_t const* offset, T const* w, T const* b, T* to, std::size_t last) const {
    using vec = simd<T, W>;
    typename vec::reg sum[Rows][Vectors];  // raw registers: an array of objects with a constructor would live in memory
    T const* row[Rows];
    T* out[Rows];
    std::size_t const positions = s.positions();
    MORTISE_UNROLL(8)
    for (std::size_t i = 0; i < static_cast<std::size_t>(Rows); ++i) {
      std::size_t const channel = i < last ? i : last;
      row[i] = w + channel * s.taps();
      out[i] = to + channel * positions;
      vec const start{b == nullptr ? T{0} : b[channel]};
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) sum[i][v] = start.v;
    }
    std::size_t const kernel = s.kernel(), map = s.copied_rows() * s.out_w;
    std::size_t k = 0;
    for (std::size_t c = s.in_c; c != 0; --c, from += map)
      for (std::size_t t = 0; t < kernel; ++t, ++k) {
        T const* const source = from + offset[t];
        typename vec::reg in[Vectors];
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) in[v] = vec::load(source + v * W).v;
        MORTISE_UNROLL(8)
        for (int i = 0; i < Rows; ++i) {
          vec const a{row[i][k]};
          MORTISE_UNROLL(4)
          for (int v = 0; v < Vectors; ++v) sum[i][v] = fma(a, vec{in[v]}, vec{sum[i][v]}).v;
        }
      }
    if (relu) {
      MORTISE_UNROLL(8)
      for (int i = 0; i < Rows; ++i) {
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) sum[i][v] = max(vec{}, vec{sum[i][v]}).v;  // in this order NaN stays
      }
    }
    std::size_t const stored = positions < static_cast<std::size_t>(Vectors * W) ? positions : static_cast<std::size_t>(Vectors * W);
    MORTISE_UNROLL(8)
    for (int i = 0; i < Rows; ++i) {
      alignas(64) T part[Vectors * W];
      T* const at = stored < static_cast<std::size_t>(Vectors * W) ? part : out[i];
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) vec{sum[i][v]}.store(at + v * W);
      if (at == part)
        for (std::size_t e = 0; e < stored; ++e) out[i][e] = part[e];
    }
  }
};

// ---- gradient of the input -----------------------------------------------------------------------------------------------------------

constexpr std::size_t conv2d_direct_dy_width(conv2d_sizes const& s) { return s.out_w + 2 * (conv2d_row_tile - 1); }
/// dy of a block with zero columns left and right, dx of a block, the taps of a tile.
constexpr std::size_t conv2d_direct_backward_input_scratch(conv2d_sizes const& s) {
  return (s.out_c * s.out_h * conv2d_direct_dy_width(s) + s.in_group()) * s.groups * conv2d_lanes + conv2d_round_up(4 * s.kernel());
}

template <class T, int Rows>
struct conv2d_direct_backward_input {
  conv2d_sizes s;
  T const* weight;
  T const* dy;  // (groups * out_c, out_h, dy width, W)
  T* dx;        // (groups * in_c, in_h, in_w, W)
  std::uint32_t* taps;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    constexpr std::size_t tile_w = conv2d_row_tile;
    std::size_t const dy_w = conv2d_direct_dy_width(s), kernel = s.kernel();
    for (std::size_t r = 0; r < s.in_h; ++r)
      for (std::size_t residue = 0; residue < s.stride_w && residue < s.in_w; ++residue)
        for (std::size_t q = residue; q < s.in_w; q += tile_w * s.stride_w) {
          // The tile is inputs q, q + stride, ... of row r. A tap counts where it leads one of them to an output.
          std::size_t count = 0;
          for (std::size_t i = 0; i < s.kernel_h; ++i) {
            std::size_t const row = r + s.pad_h - i * s.dilation_h;  // wraps where negative
            if (r + s.pad_h < i * s.dilation_h || row % s.stride_h != 0 || row / s.stride_h >= s.out_h) continue;
            for (std::size_t j = 0; j < s.kernel_w; ++j) {
              std::size_t const column = q + s.pad_w + (tile_w - 1) * s.stride_w - j * s.dilation_w;
              if (q + s.pad_w + (tile_w - 1) * s.stride_w < j * s.dilation_w || column % s.stride_w != 0) continue;
              std::size_t const first = column / s.stride_w;  // in the padded dy
              if (first > s.out_w + tile_w - 2) continue;
              taps[2 * count] = static_cast<std::uint32_t>((row / s.stride_h * dy_w + first) * static_cast<std::size_t>(W));
              taps[2 * count + 1] = static_cast<std::uint32_t>(i * s.kernel_w + j);
              ++count;
            }
          }
          for (std::size_t group = 0; group < s.groups; ++group)
            for (std::size_t c = 0; c < s.in_c; c += static_cast<std::size_t>(Rows)) {
              std::size_t const first = c + static_cast<std::size_t>(Rows) <= s.in_c ? c : s.in_c - static_cast<std::size_t>(Rows);
              tile<W>(weight + (group * s.out_c * s.in_c + first) * kernel,
                      dy + group * s.out_c * s.out_h * dy_w * static_cast<std::size_t>(W), count,
                      dx + (((group * s.in_c + first) * s.in_h + r) * s.in_w + q) * static_cast<std::size_t>(W), (s.in_w - q - 1) / s.stride_w + 1);
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
          vec const factor{a[static_cast<std::size_t>(i) * kernel]};
          MORTISE_UNROLL(4)
          for (int v = 0; v < tile_w; ++v) sum[i][v] = fma(factor, vec{in[v]}, vec{sum[i][v]}).v;
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

/// The sums of the lanes of `N` vectors, each in the tree of sum_lanes.
template <int N, class T, int W>
MORTISE_INLINE void sum_lanes_of(typename simd<T, W>::reg const (&v)[N], T* sums) {
  using reg = typename simd<T, W>::reg;
  MORTISE_UNROLL(8)
  for (int block = 0; block < N; block += W) {
    reg part[W];
    MORTISE_UNROLL(16)
    for (int i = 0; i < W; ++i) part[i] = block + i < N ? v[block + i < N ? block + i : 0] : reg{};
    MORTISE_UNROLL(4)
    for (int half = W / 2; half > 0; half /= 2) {
      MORTISE_UNROLL(8)
      for (int i = 0; i < half; ++i) {
        reg low, high;
        interleave<W, 0>(part[i], part[i + half], low, std::make_index_sequence<static_cast<std::size_t>(W)>{});
        interleave<W, 1>(part[i], part[i + half], high, std::make_index_sequence<static_cast<std::size_t>(W)>{});
        part[i] = low + high;
      }
    }
    alignas(64) T all[W];
    simd<T, W>{part[0]}.store(all);
    for (int i = 0; i < W && block + i < N; ++i) sums[block + i] = all[i];
  }
}

/// dweight += x dy and dbias += dy for the output channels [first + skip, first + Rows) of one block of samples.
template <class T, int Columns>
struct conv2d_direct_backward_weight {
  conv2d_sizes s;
  T const* x;   // (groups * in_c, padded_h, padded_w, W)
  T const* dy;  // (groups * out_c, out_h, out_w) of the block's first sample
  std::size_t samples;
  T* dy_lanes;  // (Rows, out_h, out_w, W)
  T* dweight;
  T* dbias;
  bool accumulate;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    constexpr int most = (Bytes == 64 ? 24 : 12) / Columns;
    constexpr int Rows = most < 1 ? 1 : most > 8 ? 8 : most;
    constexpr std::size_t width = static_cast<std::size_t>(W), columns = static_cast<std::size_t>(Columns);
    std::size_t const rows = static_cast<std::size_t>(Rows) < s.out_c ? static_cast<std::size_t>(Rows) : s.out_c;  // others repeat the last
    using vec = simd<T, W>;
    std::size_t const positions = s.positions(), map = s.padded_h() * s.padded_w() * width;
    for (std::size_t group = 0; group < s.groups; ++group)
      for (std::size_t o = 0; o < s.out_c; o += rows) {
        std::size_t const first = group * s.out_c + (o + rows <= s.out_c ? o : s.out_c - rows);
        std::size_t const skip = group * s.out_c + o - first;  // rows that the tile before has done
        samples_to_lanes<W>(dy + first * positions, s.groups * s.out_group(), samples, rows * positions, dy_lanes,
                            padded_cursor{positions, rows, 0, 0, 0});
        for (std::size_t i = skip; i < rows; ++i) {
          typename vec::reg part[4] = {vec{}.v, vec{}.v, vec{}.v, vec{}.v};
          T const* const from = dy_lanes + i * positions * width;
          std::size_t p = 0;
          for (; p + 4 <= positions; p += 4) {
            MORTISE_UNROLL(4)
            for (std::size_t v = 0; v < 4; ++v) part[v] += vec::load(from + (p + v) * width).v;
          }
          for (; p < positions; ++p) part[0] += vec::load(from + p * width).v;
          T const sum = sum_lanes(vec{(part[0] + part[1]) + (part[2] + part[3])});
          dbias[first + i] = accumulate ? dbias[first + i] + sum : sum;
        }
        T const* from = x + group * s.in_c * map;
        for (std::size_t c = 0; c < s.in_c; ++c, from += map)
          for (std::size_t i = 0; i < s.kernel_h; ++i)
            for (std::size_t j = 0; j < s.kernel_w; j += columns) {
              std::size_t const left = j + columns <= s.kernel_w ? j : s.kernel_w - columns;
              T sums[Rows * Columns];
              tile<W, Rows>(from + (i * s.dilation_h * s.padded_w() + left * s.dilation_w) * width, rows - 1, sums);
              for (std::size_t m = skip; m < rows; ++m)
                for (std::size_t t = j - left; t < columns; ++t) {
                  T& to = dweight[(first + m) * s.taps() + c * s.kernel() + i * s.kernel_w + left + t];
                  to = accumulate ? to + sums[m * columns + t] : sums[m * columns + t];
                }
            }
      }
  }

 private:
  template <int W, int Rows>
  MORTISE_INLINE void tile(T const* from, std::size_t last, T* sums) const {
    using vec = simd<T, W>;
    constexpr std::size_t width = static_cast<std::size_t>(W);
    typename vec::reg sum[Rows * Columns];
    MORTISE_UNROLL(24)
    for (int i = 0; i < Rows * Columns; ++i) sum[i] = vec{}.v;
    T const* g[Rows];
    MORTISE_UNROLL(8)
    for (std::size_t m = 0; m < static_cast<std::size_t>(Rows); ++m) g[m] = dy_lanes + (m < last ? m : last) * s.positions() * width;
    std::size_t const step = s.stride_w * width, tap = s.dilation_w * width, row = s.stride_h * s.padded_w() * width;
    std::size_t at = 0;
    if (Columns > 1 && step == width && tap == width) {
      // Neighbouring outputs share all inputs but one: they stay in registers, which change their roles from output to output.
      for (std::size_t p = 0; p < s.out_h; ++p, from += row) {
        T const* source = from;
        typename vec::reg in[Columns];
        MORTISE_UNROLL(8)
        for (int t = 0; t < Columns - 1; ++t) in[t] = vec::load(source + static_cast<std::size_t>(t) * width).v;
        for (std::size_t q = s.out_w; q != 0;) {
          MORTISE_UNROLL(8)
          for (int u = 0; u < Columns; ++u) {
            in[(u + Columns - 1) % Columns] = vec::load(source + static_cast<std::size_t>(Columns - 1) * width).v;
            MORTISE_UNROLL(8)
            for (int m = 0; m < Rows; ++m) {
              vec const d = vec::load(g[m] + at);
              MORTISE_UNROLL(8)
              for (int t = 0; t < Columns; ++t) sum[m * Columns + t] = fma(d, vec{in[(u + t) % Columns]}, vec{sum[m * Columns + t]}).v;
            }
            source += width;
            at += width;
            if (--q == 0) break;
          }
        }
      }
      return sum_lanes_of<Rows * Columns, T, W>(sum, sums);
    }
    for (std::size_t p = 0; p < s.out_h; ++p, from += row) {
      T const* source = from;
      for (std::size_t q = 0; q < s.out_w; ++q, source += step, at += width) {
        typename vec::reg in[Columns];
        MORTISE_UNROLL(8)
        for (int t = 0; t < Columns; ++t) in[t] = vec::load(source + static_cast<std::size_t>(t) * tap).v;
        MORTISE_UNROLL(8)
        for (int m = 0; m < Rows; ++m) {
          vec const d = vec::load(g[m] + at);
          MORTISE_UNROLL(8)
          for (int t = 0; t < Columns; ++t) sum[m * Columns + t] = fma(d, vec{in[t]}, vec{sum[m * Columns + t]}).v;
        }
      }
    }
    sum_lanes_of<Rows * Columns, T, W>(sum, sums);
  }
};

}  // namespace mortise::detail
