// Register tiles of the matrix product, one copy per instruction set.
//
// Every tile computes the same thing: `Rows` x `Vectors * W` sums over k, each one chain of fused multiply-adds in ascending k. One operand
// ("p") is read a scalar at a time and broadcast, so it may lie in memory anyhow; the other ("q") is read a vector at a time. Because an
// element's value is that one chain whatever tile it falls in, neither tile shapes, nor blocking, nor threads can change its bits.
#pragma once

#include <cstddef>
#include <utility>

#include <mortise/detail/simd.hpp>

namespace mortise::detail {

// The instructions of a tile, by assembler where that is possible: g++ 12 sees a broadcast in the loop that `simd` makes of it, but that is
// half of a tile's compile time; and it sums into the registers of either factor, which in the tile of 6 by 2 costs moves and spills.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__CUDACC__)
#define MORTISE_TILE_ASSEMBLER 1
#else
#define MORTISE_TILE_ASSEMBLER 0
#endif

/// r = *p in every lane.
template <class T, int W>
MORTISE_INLINE void broadcast(T const* p, typename simd<T, W>::reg& r) {
#if MORTISE_TILE_ASSEMBLER
  if constexpr (W * sizeof(T) >= 32) {
    if constexpr (sizeof(T) == 4) asm volatile("vbroadcastss %1, %0" : "=v"(r) : "m"(*p));
    else asm volatile("vbroadcastsd %1, %0" : "=v"(r) : "m"(*p));
    return;
  }
#endif
  r = simd<T, W>{*p}.v;
}

/// sum += a b.
template <class T, int W>
MORTISE_INLINE void multiply_add(typename simd<T, W>::reg& sum, typename simd<T, W>::reg const& a, typename simd<T, W>::reg const& b) {
#if MORTISE_TILE_ASSEMBLER
  if constexpr (W * sizeof(T) >= 32) {
    if constexpr (sizeof(T) == 4) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    else asm volatile("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return;
  }
#endif
  add_product(sum, a, b);
}

/// y, or 0 where it is less or not a number.
template <class T, int W>
MORTISE_INLINE void relu_in_place(typename simd<T, W>::reg& y) {
#if MORTISE_TILE_ASSEMBLER
  if constexpr (W * sizeof(T) >= 32) {
    if constexpr (sizeof(T) == 4) asm("vmaxps %1, %0, %0" : "+v"(y) : "v"(typename simd<T, W>::reg{}));
    else asm("vmaxpd %1, %0, %0" : "+v"(y) : "v"(typename simd<T, W>::reg{}));
    return;
  }
#endif
  y = max(simd<T, W>{y}, simd<T, W>{}).v;
}

/// One tile. c(i, j) = sum over k of p(i, k) q(k, j), with bias and relu where asked for.
template <class T>
struct tile_task {
  std::size_t k;
  T const* p;  // (rows, k): p[i * p_row + k]
  std::size_t p_row;
  T const* q;  // (k, columns): q[k * q_step + j]
  std::size_t q_step;
  T* c;        // c[i * c_row + j]
  std::size_t c_row;
  std::size_t rows;      // 1 to Rows, others repeat the last one
  bool accumulate;       // the chains start from c
  bool finish;           // whether biases and relu are applied
  bool relu;
  T const* column_bias;  // along j
  T const* row_bias;     // along i: row_bias[i * row_bias_step]
  std::size_t row_bias_step;
};

/// Four steps at a time, p at constant distances from its rows' pointers: what is left is loads and multiply-adds.
///
/// For AVX2 4 rows by 3 vectors: 12 sums, 3 vectors of q and a scalar are the 16 registers, and 7 loads go with 12 multiply-adds. 6 by 2 has 8
/// loads and reads half as much again of p, which large products find in the third cache: they lost 5 to 10 %.
/// One call a tile: with the loop over tiles inside, g++ 12 has the sums and the loop compete for registers, and keeps two of them in memory.
template <class T, int Rows, int Vectors>
struct tile_kernel {
  template <int Bytes>
  MORTISE_INLINE static void run(tile_task<T> const& t) {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    using vec = simd<T, W>;
    // Raw registers: the compiler turns an array of them into registers, but not an array of objects with a constructor.
    typename vec::reg sum[Rows][Vectors];
    std::size_t const rows = t.rows;
    T const* p[Rows];
    p[0] = t.p;
    MORTISE_UNROLL(16)
    for (std::size_t i = 1; i < Rows; ++i) p[i] = p[i - 1] + (i < rows ? t.p_row : 0);
    if (t.accumulate) {
      T const* c = t.c;
      MORTISE_UNROLL(16)
      for (std::size_t i = 0; i < Rows; ++i) {
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) sum[i][v] = *reinterpret_cast<typename vec::memory const*>(c + v * W);
        c += i + 1 < rows ? t.c_row : 0;
      }
    } else {
      MORTISE_UNROLL(16)
      for (int i = 0; i < Rows; ++i) {
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) sum[i][v] = typename vec::reg{};
      }
    }
    T const* q = t.q;
    std::size_t const q_step = t.q_step;
    std::size_t at = 0;
    MORTISE_ALIGN_LOOP;
    // Not for x86's oldest processors: their copy costs every program's compile time.
    if constexpr (Bytes != 16 || !MORTISE_X86_DISPATCH) {
      for (std::size_t const whole = t.k / 4 * 4; at < whole; at += 4) {
        asm("" : "+r"(at));  // or g++ keeps an index for each of the four
        MORTISE_UNROLL(4)
        for (std::size_t u = 0; u < 4; ++u, q += q_step) step<W>(p, at + u, q, sum);
      }
    }
    for (; at < t.k; ++at, q += q_step) step<W>(p, at, q, sum);
    if (t.finish) finish<W>(t, sum);
    T* c = t.c;
    MORTISE_UNROLL(16)
    for (std::size_t i = 0; i < Rows; ++i) {
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) *reinterpret_cast<typename vec::memory*>(c + v * W) = sum[i][v];
      c += i + 1 < rows ? t.c_row : 0;
    }
  }

 private:
  template <int W>
  MORTISE_INLINE static void step(T const* const (&p)[Rows], std::size_t at, T const* q, typename simd<T, W>::reg (&sum)[Rows][Vectors]) {
    using vec = simd<T, W>;
    typename vec::reg a, b[Vectors];
    MORTISE_UNROLL(4)
    for (int v = 0; v < Vectors; ++v) b[v] = *reinterpret_cast<typename vec::memory const*>(q + v * W);
    MORTISE_UNROLL(4)
    for (int v = 0; v < Vectors; ++v) keep_in_register(b[v]);
    MORTISE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      broadcast<T, W>(p[i] + at, a);
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) multiply_add<T, W>(sum[i][v], a, b[v]);
    }
  }

  template <int W>
  MORTISE_INLINE static void finish(tile_task<T> const& t, typename simd<T, W>::reg (&sum)[Rows][Vectors]) {
    using vec = simd<T, W>;
    typename vec::reg row, column[Vectors];
    MORTISE_UNROLL(4)
    for (int v = 0; v < Vectors; ++v) column[v] = *reinterpret_cast<typename vec::memory const*>(t.column_bias + v * W);
    T const* row_bias = t.row_bias;
    MORTISE_UNROLL(16)
    for (std::size_t i = 0; i < Rows; ++i) {
      broadcast<T, W>(row_bias, row);
      row_bias += i + 1 < t.rows ? t.row_bias_step : 0;
      MORTISE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) sum[i][v] = sum[i][v] + column[v] + row;
    }
    if (t.relu) {
      MORTISE_UNROLL(16)
      for (int i = 0; i < Rows; ++i) {
        MORTISE_UNROLL(4)
        for (int v = 0; v < Vectors; ++v) relu_in_place<T, W>(sum[i][v]);
      }
    }
  }
};

/// to[k * to_row + j], for a tile to read: columns past the last, up to `width` of them in all, repeat or are zero.
template <class T>
struct pack_task {
  std::size_t k;
  std::size_t columns;
  T const* from;
  std::size_t from_row;  // copied: from[k * from_row + j]; transposed: from[j * from_row + k]
  T* to;
  std::size_t to_row;    // copied: is `width`
  std::size_t width;     // a multiple of the vector's
  std::size_t panel;     // copied: where the next panel begins, if there are more columns than fit one
};

/// Row by row through all panels: rows lie pages apart, and the few lines of a single panel would each cost a page's translation.
template <class T>
struct pack_copied {
  template <int Bytes>
  MORTISE_INLINE static void run(pack_task<T> const& t) {
    constexpr std::size_t W = Bytes / sizeof(T);
    std::size_t const width = t.width;
    for (std::size_t k = 0; k < t.k; ++k) {
      T const* from = t.from + k * t.from_row;
      T* to = t.to + k * width;
      std::size_t left = t.columns;
      for (; left >= width; left -= width, from += width, to += t.panel)
        for (std::size_t j = 0; j < width; j += W) simd<T, static_cast<int>(W)>::load(from + j).store(to + j);
      if (left != 0)
        for (std::size_t j = 0; j < width; ++j) to[j] = j < left ? from[j] : T{0};
    }
  }
};

template <class T>
struct pack_transposed {
  template <int Bytes>
  MORTISE_INLINE static void run(pack_task<T> const& t) {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    using vec = simd<T, W>;
    std::size_t const to_row = t.to_row;
    for (std::size_t j = 0; j < t.width; j += W) {
      T const* row[W];
      for (std::size_t i = 0; i < W; ++i) row[i] = t.from + (j + i < t.columns ? j + i : t.columns - 1) * t.from_row;
      T* const to = t.to + j;
      for (std::size_t k = 0; t.k < W && k < t.k; ++k)
        for (std::size_t i = 0; i < W; ++i) to[k * to_row + i] = row[i][k];
      for (std::size_t k = 0; t.k >= W && k < t.k; k += W) {
        // The last block begins where it still fits, and copies again what it shares with the one before.
        std::size_t const from = k < t.k - W ? k : t.k - W;
        T* line = to + from * to_row;
        typename vec::reg block[W];
        MORTISE_UNROLL(16)
        for (int i = 0; i < W; ++i) block[i] = vec::load(row[i] + from).v;
        transpose_lanes<W>(block);
        MORTISE_UNROLL(16)
        for (int i = 0; i < W; ++i, line += to_row) vec{block[i]}.store(line);
      }
    }
  }
};

/// c(j) = sum over k of x(k) w(j, k), with nothing packed: lanes of partial sums along k, then a fixed tree.
///
/// For one row, where reading w once is the floor, and for few columns (then w is the many rows, x one column's weights), which would leave
/// lanes of a tile idle. Not the chain of a tile: who calls this must decide by shapes alone.
template <class T>
struct dot_task {
  std::size_t n, k;
  T const* x;
  T const* w;
  std::size_t w_row;
  T* c;  // c[j * c_step]
  std::size_t c_step;
  T const* bias;  // bias[j * bias_step], or null
  std::size_t bias_step;
  bool relu;
  bool accumulate;
};

template <class T>
struct dot_kernel {
  template <int Bytes>
  MORTISE_INLINE static void run(dot_task<T> const& t) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    constexpr int sums = Bytes == 64 ? 16 : 8, groups = sums / 4;
    using vec = simd<T, W>;
    std::size_t const n = t.n, blocks = t.k / W;
    // Columns in groups of four, of which the last begin where they still fit. Fewer than four columns: one at a time, in all of a group's places.
    bool const few = n < 4;
    std::size_t const w_row = few ? 0 : t.w_row, w_row_3 = 3 * w_row, stride = few ? 1 : sums;
    std::size_t const rest = t.k % W;
    for (std::size_t j0 = 0; j0 < n; j0 += stride) {
      bool const whole = !few && n - j0 >= sums && t.c_step == 1 && t.bias_step == 1;
      auto const group = [&](std::size_t g) MORTISE_LAMBDA_INLINE { return few ? j0 : whole || j0 + 4 * g < n - 4 ? j0 + 4 * g : n - 4; };
      T const* w[groups];
      MORTISE_UNROLL(4)
      for (std::size_t g = 0; g < groups; ++g) w[g] = t.w + group(g) * t.w_row;
      typename vec::reg sum[sums];
      MORTISE_UNROLL(16)
      for (int s = 0; s < sums; ++s) sum[s] = typename vec::reg{};
      T const* x = t.x;
      for (std::size_t block = blocks; block != 0; --block, x += W) {
        typename vec::reg const a = *reinterpret_cast<typename vec::memory const*>(x);
        MORTISE_UNROLL(16)
        for (int s = 0; s < sums; ++s) {
          // Sixteen pointers would not fit the registers: four, and what an address can add. Four lines ahead, since the hardware follows
          // fewer streams.
          if (s % 4 == 0) asm("" : "+r"(w[s / 4]));
          T const* const from = w[s / 4] + (s % 4 == 3 ? w_row_3 : static_cast<std::size_t>(s % 4) * w_row);
          __builtin_prefetch(from + 256 / sizeof(T));
          sum[s] = a * *reinterpret_cast<typename vec::memory const*>(from) + sum[s];
          if (s % 4 == 3) w[s / 4] += W;
        }
      }
      // Folding pairs of vectors, the far half first, leaves sum s of each group of W in lane s.
      constexpr auto lanes_of_vector = std::make_index_sequence<static_cast<std::size_t>(W)>{};
      MORTISE_UNROLL(4)
      for (int half = W / 2; half > 0; half /= 2) {
        MORTISE_UNROLL(16)
        for (int s = 0; s < sums; ++s)
          if (s % W < half) {
            typename vec::reg low, high;
            shuffle<interleaved_lanes<W, W, 0>>(sum[s], sum[s + half], low, lanes_of_vector);
            shuffle<interleaved_lanes<W, W, 1>>(sum[s], sum[s + half], high, lanes_of_vector);
            sum[s] = low + high;
          }
      }
      if (rest == 0 && whole) {
        MORTISE_UNROLL(4)
        for (int s = 0; s < sums; s += W) {
          vec y{sum[s]};
          T* const c = t.c + j0 + s;
          if (t.accumulate) y = vec::load(c) + y;
          if (t.bias != nullptr) y += vec::load(t.bias + j0 + s);
          if (t.relu) y = max(y, vec{});
          y.store(c);
        }
        continue;
      }
      alignas(64) T result[sums];
      MORTISE_UNROLL(4)
      for (int s = 0; s < sums; s += W) *reinterpret_cast<typename vec::memory*>(result + s) = sum[s];
      std::size_t const end = few ? j0 + 1 : n - j0 < sums ? n : j0 + sums;
      for (std::size_t j = j0; j < end; ++j) {
        std::size_t const first = group((j - j0) / 4), s = (j - j0) / 4 * 4 + (j - first);
        T y = result[s];
        for (std::size_t k = t.k - rest; k < t.k; ++k) y += t.x[k] * t.w[j * t.w_row + k];
        T* const c = t.c + j * t.c_step;
        if (t.accumulate) y += *c;
        if (t.bias != nullptr) y += t.bias[j * t.bias_step];
        *c = t.relu && !(y > T{0}) ? T{0} : y;
      }
    }
  }
};

/// sums[j] = from[0][j] + from[1][j] + ..., in that order.
template <class T>
struct column_sum_task {
  std::size_t rows, columns;
  T const* from;
  T* sums;
};

template <class T>
struct column_sum_kernel {
  template <int Bytes>
  MORTISE_INLINE static void run(column_sum_task<T> const& t) {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    std::size_t j = 0;
    for (; j + 4 * W <= t.columns; j += 4 * W) some<simd<T, W>, 4, W>(t, j);
    for (; j + W <= t.columns; j += W) some<simd<T, W>, 1, W>(t, j);
    for (; j < t.columns; ++j) {
      T sum = T{0};
      for (std::size_t i = 0; i < t.rows; ++i) sum += t.from[i * t.columns + j];
      t.sums[j] = sum;
    }
  }

 private:
  template <class V, int Count, int W>
  MORTISE_INLINE static void some(column_sum_task<T> const& t, std::size_t j) {
    V sum[Count];
    for (std::size_t i = 0; i < t.rows; ++i) {
      MORTISE_UNROLL(4)
      for (int v = 0; v < Count; ++v) sum[v] += V::load(t.from + i * t.columns + j + static_cast<std::size_t>(v * W));
    }
    MORTISE_UNROLL(4)
    for (int v = 0; v < Count; ++v) sum[v].store(t.sums + j + static_cast<std::size_t>(v * W));
  }
};

/// The kernels of one instruction set, as a table, so that the loops around them are compiled once.
template <class T>
struct gemm_kernels {
  using tile = void (*)(tile_task<T> const&);

  std::size_t lanes;    // of a vector
  std::size_t rows;     // of a tile
  std::size_t vectors;  // of the wider tile
  tile tiles[2];        // 2 or `vectors` vectors: a single one would not fill the multipliers
  void (*copied)(pack_task<T> const&);
  void (*transposed)(pack_task<T> const&);
  void (*dot)(dot_task<T> const&);
  void (*column_sum)(column_sum_task<T> const&);
};

#define MORTISE_GEMM_KERNELS(call, bytes, rows, vectors, moved)                                                          \
  {bytes / sizeof(T), rows, vectors,                                                                                     \
   {call<tile_kernel<T, rows, 2>, tile_task<T>>, call<tile_kernel<T, rows, vectors>, tile_task<T>>},                     \
   moved<pack_copied<T>, pack_task<T>>, moved<pack_transposed<T>, pack_task<T>>,                                         \
   call<dot_kernel<T>, dot_task<T>>, moved<column_sum_kernel<T>, column_sum_task<T>>}

template <class T>
inline gemm_kernels<T> const& gemm_kernels_for_this_cpu() {
#if MORTISE_X86_DISPATCH
  // What only moves elements would gain little from vectors of 64 bytes, and costs every program's compile time.
  static constexpr gemm_kernels<T> avx512 MORTISE_GEMM_KERNELS(call_avx512, 64, 8, 3, call_avx2);
  static constexpr gemm_kernels<T> avx2 MORTISE_GEMM_KERNELS(call_avx2, 32, 4, 3, call_avx2);
  switch (current_instruction_set()) {
    case instruction_set::avx512: return avx512;
    case instruction_set::avx2: return avx2;
    default: break;
  }
#endif
#if defined(__x86_64__)
  // For processors of before 2013: one tile stands for both, since each costs every program's compile time.
  static constexpr gemm_kernels<T> baseline MORTISE_GEMM_KERNELS(call_baseline, 16, 4, 2, call_baseline);
#else
  static constexpr gemm_kernels<T> baseline MORTISE_GEMM_KERNELS(call_baseline, 16, 4, 3, call_baseline);
#endif
  return baseline;
}

#undef MORTISE_GEMM_KERNELS
#undef MORTISE_TILE_ASSEMBLER

}  // namespace mortise::detail
