// Explicit vectors without intrinsics, and the choice of instruction set at run time.
//
// A kernel is a function object with  `template <int Bytes> MORTISE_INLINE void operator()() const`,  written once over vectors of
// `Bytes` bytes.  `for_this_cpu(kernel)` runs the copy that fits the processor: each copy is inlined into a function of its own that
// carries the target attribute, so users who compile at -O2 without -march get AVX2 and AVX-512 code all the same, and no intrinsics
// header (0.5 s of compile time) is needed.  Helpers that a kernel calls must be MORTISE_INLINE, all the way down: a function that is
// not inlined is compiled for the baseline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include <mortise/config.hpp>

/// Unrolls the following loop completely (n at least its trip count), so that an array of vectors indexed by it stays in registers.
#if defined(__CUDACC__)
#pragma nv_diag_suppress 1675  // nvcc hands `#pragma GCC unroll` on to the host compiler, but warns each time
#endif
#define MORTISE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define MORTISE_UNROLL(n) MORTISE_PRAGMA(unroll n)
#else
#define MORTISE_UNROLL(n) MORTISE_PRAGMA(GCC unroll n)
#endif

/// Before a hot loop: starts it near a cache line's beginning. Where the loop of a matrix product falls otherwise, by the chance of what
/// precedes it, was measured to cost up to 15 % while the core's other thread is busy.
#if defined(__x86_64__) && !defined(__CUDACC__)
#define MORTISE_ALIGN_LOOP asm volatile(".p2align 6")
#else
#define MORTISE_ALIGN_LOOP static_cast<void>(0)
#endif

/// Whether kernels exist for several instruction sets. Not in nvcc's units: its front end loses the attributes of lambdas, and a lambda that is
/// not inlined takes and returns wide vectors by other conventions than its caller. There, what the unit is compiled for is used
/// (-Xcompiler=-march=native).
#if defined(__x86_64__) && !defined(__CUDACC__)
#define MORTISE_X86_DISPATCH 1
#else
#define MORTISE_X86_DISPATCH 0
#endif

/// MORTISE_TEST_WIDE_VECTORS (clang): processors with AVX2 run the copies of 512 bits, each vector as two. Tests thus run these copies' logic on
/// machines that lack AVX-512.
#if defined(MORTISE_TEST_WIDE_VECTORS)
#define MORTISE_AVX512 "avx2,fma,bmi,bmi2"
#else
#define MORTISE_AVX512 "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,bmi,bmi2"
#endif

/// Lambdas inside kernels must be inlined too: `[](...) MORTISE_LAMBDA_INLINE { ... }`.
#define MORTISE_LAMBDA_INLINE __attribute__((always_inline))

namespace mortise::detail {

enum class instruction_set : int { baseline, avx2, avx512 };

#if MORTISE_X86_DISPATCH
MORTISE_COLD inline instruction_set find_instruction_set() noexcept {
  auto best = instruction_set::baseline;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = instruction_set::avx2;
#if defined(MORTISE_TEST_WIDE_VECTORS)
  if (best == instruction_set::avx2) best = instruction_set::avx512;
#endif
  if (best == instruction_set::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    best = instruction_set::avx512;
  if (char const* asked = std::getenv("MORTISE_ISA")) {
    auto const wanted = std::strcmp(asked, "baseline") == 0 ? instruction_set::baseline
                        : std::strcmp(asked, "avx2") == 0   ? instruction_set::avx2
                                                            : instruction_set::avx512;
    if (wanted < best) best = wanted;
  }
  return best;
}
#endif

/// The best instruction set of this processor, or a lower one named by MORTISE_ISA=baseline|avx2|avx512. Different sets round
/// differently (fused multiply-add, length of partial sums), so resuming with the same bits needs the same set.
/// Inlined wherever a kernel is run, so that only the check for the first call is.
inline instruction_set current_instruction_set() {
#if MORTISE_X86_DISPATCH
  static instruction_set const chosen = find_instruction_set();
  return chosen;
#else
  return instruction_set::baseline;
#endif
}

#if MORTISE_X86_DISPATCH
template <class Kernel>
[[gnu::noinline, gnu::target(MORTISE_AVX512)]] void run_avx512(Kernel const& kernel) {
  kernel.template operator()<64>();
}
template <class Kernel>
[[gnu::noinline, gnu::target("avx2,fma,bmi,bmi2")]] void run_avx2(Kernel const& kernel) {
  kernel.template operator()<32>();
}
#endif
template <class Kernel>
[[gnu::noinline]] void run_baseline(Kernel const& kernel) {
  kernel.template operator()<16>();
}

// The same for tables of functions: `Body::run<Bytes>(argument)` as an ordinary function of one instruction set.
#if MORTISE_X86_DISPATCH
template <class Body, class Argument>
[[gnu::noinline, gnu::target(MORTISE_AVX512)]] void call_avx512(Argument const& a) {
  Body::template run<64>(a);
}
template <class Body, class Argument>
[[gnu::noinline, gnu::target("avx2,fma,bmi,bmi2")]] void call_avx2(Argument const& a) {
  Body::template run<32>(a);
}
#endif
template <class Body, class Argument>
[[gnu::noinline]] void call_baseline(Argument const& a) {
  Body::template run<16>(a);
}

/// The bytes of a kernel's vectors at most: 64, or what `Kernel::most_bytes` says. A kernel that moves about as much as it computes, or that is
/// short beside the products and convolutions around it, says 32: each copy costs compile time, and 512 bits would gain it next to nothing.
template <class Kernel>
consteval int most_bytes_of() {
  if constexpr (requires { Kernel::most_bytes; }) return Kernel::most_bytes;
  else return 64;
}

/// Runs `kernel` with the widest vectors that this processor has.
template <class Kernel>
inline void for_this_cpu(Kernel const& kernel) {
#if MORTISE_X86_DISPATCH
  switch (current_instruction_set()) {
    case instruction_set::avx512:
      if constexpr (most_bytes_of<Kernel>() == 64) return run_avx512(kernel);
      [[fallthrough]];
    case instruction_set::avx2: return run_avx2(kernel);
    default: break;
  }
#endif
  run_baseline(kernel);
}

/// Whether a copy only serves x86 processors without AVX2, from before 2013 (2015 for AMD's): it must be right, and quick to compile. Its register
/// tiles are small.
template <int Bytes>
inline constexpr bool for_old_processors = MORTISE_X86_DISPATCH == 1 && Bytes == 16;

/// `Width` lanes of T. All arithmetic is lane by lane; vectors go by reference, since passing them by value has no stable ABI.
template <class T, int Width>
struct simd {
  typedef T reg __attribute__((vector_size(Width * sizeof(T))));
  typedef T memory __attribute__((vector_size(Width * sizeof(T)), aligned(sizeof(T)), may_alias));
  using integer = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  typedef integer bits __attribute__((vector_size(Width * sizeof(T))));
  /// A truth value for each lane: all bits or none. A class, since returning bare vectors draws -Wpsabi wherever they are compared.
  struct mask {
    bits v;
    MORTISE_INLINE friend mask operator&(mask const& a, mask const& b) { return {a.v & b.v}; }
    MORTISE_INLINE friend mask operator|(mask const& a, mask const& b) { return {a.v | b.v}; }
    MORTISE_INLINE friend mask operator!(mask const& a) { return {~a.v}; }
  };
  static constexpr int width = Width;
  using value_type = T;

  reg v;

  MORTISE_INLINE simd() : v{} {}
  /// A plain loop on purpose, and kept one: g++ 12 makes one broadcast of it, but of `s - reg{}`, `reg{s, s, ...}` or an unrolled loop (which
  /// -O3 would make of it, and the baseline -O2 too) one move per lane, since those are taken apart before the function is inlined where the
  /// target has such vectors. A matrix product took twice its time at -O3.
  MORTISE_INLINE simd(T s) {
#if defined(__clang__)
    v = s - reg{};  // at -O1 its loop stays one, and parts a product from the sum that it would be fused with
#else
    reg r{};  // initialised: -Wmaybe-uninitialized at -O1
    MORTISE_UNROLL(1)
    for (int i = 0; i < Width; ++i) r[i] = s;
    v = r;
#endif
  }
  MORTISE_INLINE explicit simd(reg const& r) : v(r) {}

  MORTISE_INLINE static simd load(T const* p) {
    reg const r = *reinterpret_cast<memory const*>(p);  // a copy: no reference may be bound to what is not aligned for it
    return simd{r};
  }
  MORTISE_INLINE void store(T* p) const { *reinterpret_cast<memory*>(p) = v; }
#if defined(__x86_64__) && !defined(__clang__) && !defined(__CUDACC__)  // those judge an assembler operand by the surrounding function
  static constexpr bool masked_moves = sizeof(reg) == 64;
#else
  static constexpr bool masked_moves = false;
#endif
  /// The first `n` lanes from memory, zero in the others; reads nothing past them.
  MORTISE_INLINE static simd load_first(T const* p, std::size_t n) {
    simd r;
    // By assembler: the compiler's own masked moves need the intrinsics header, and the loop below is ten times slower.
    if constexpr (masked_moves) {
#if defined(__x86_64__)
      if constexpr (sizeof(T) == 4)
        asm("vmovups %1, %0%{%2%}%{z%}" : "=v"(r.v) : "m"(*reinterpret_cast<memory const*>(p)), "Yk"(static_cast<unsigned short>((1u << n) - 1)));
      else
        asm("vmovupd %1, %0%{%2%}%{z%}" : "=v"(r.v) : "m"(*reinterpret_cast<memory const*>(p)), "Yk"(static_cast<unsigned char>((1u << n) - 1)));
#endif
    } else {
      for (std::size_t i = 0; i < n; ++i) r.v[i] = p[i];
    }
    return r;
  }
  /// Writes the first `n` lanes and nothing past them.
  MORTISE_INLINE void store_first(T* p, std::size_t n) const {
    if constexpr (masked_moves) {
#if defined(__x86_64__)
      if constexpr (sizeof(T) == 4)
        asm("vmovups %1, %0%{%2%}" : "+m"(*reinterpret_cast<memory*>(p)) : "v"(v), "Yk"(static_cast<unsigned short>((1u << n) - 1)));
      else
        asm("vmovupd %1, %0%{%2%}" : "+m"(*reinterpret_cast<memory*>(p)) : "v"(v), "Yk"(static_cast<unsigned char>((1u << n) - 1)));
#endif
    } else {
      for (std::size_t i = 0; i < n; ++i) p[i] = v[i];
    }
  }
  MORTISE_INLINE T operator[](int lane) const { return v[lane]; }

  MORTISE_INLINE friend simd operator+(simd const& a, simd const& b) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
    return simd{a.v + b.v};
  }
  MORTISE_INLINE friend simd operator-(simd const& a, simd const& b) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
    return simd{a.v - b.v};
  }
  MORTISE_INLINE friend simd operator*(simd const& a, simd const& b) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
    return simd{a.v * b.v};
  }
  MORTISE_INLINE friend simd operator/(simd const& a, simd const& b) { return simd{a.v / b.v}; }
  MORTISE_INLINE friend simd operator-(simd const& a) { return simd{-a.v}; }
  MORTISE_INLINE simd& operator+=(simd const& b) { return *this = *this + b; }
  MORTISE_INLINE simd& operator*=(simd const& b) { return *this = *this * b; }

  MORTISE_INLINE friend mask operator<(simd const& a, simd const& b) { return {a.v < b.v}; }
  MORTISE_INLINE friend mask operator>(simd const& a, simd const& b) { return {a.v > b.v}; }
  MORTISE_INLINE friend mask operator<=(simd const& a, simd const& b) { return {a.v <= b.v}; }
  MORTISE_INLINE friend mask operator>=(simd const& a, simd const& b) { return {a.v >= b.v}; }
  MORTISE_INLINE friend mask operator==(simd const& a, simd const& b) { return {a.v == b.v}; }
};

/// Says that a loaded vector is used from its register. With -march=native g++ 12 otherwise reads it from memory again for each use, sixteen
/// loads instead of seven for the twelve multiply-adds of a tile.
template <class Reg>
MORTISE_INLINE void keep_in_register([[maybe_unused]] Reg& r) {
#if defined(__x86_64__) && !defined(__clang__) && !defined(__CUDACC__)
  asm("" : "+v"(r));
#endif
}

// The same vocabulary on scalars, so that one generic body serves vectors, tails and CUDA threads.

/// a * b + c, fused where the instruction set fuses.
template <class T, int W>
MORTISE_INLINE simd<T, W> fma(simd<T, W> const& a, simd<T, W> const& b, simd<T, W> const& c) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  return simd<T, W>{a.v * b.v + c.v};
}
/// Lane by lane `m ? a : b`.
template <class T, int W>
MORTISE_INLINE simd<T, W> select(typename simd<T, W>::mask const& m, simd<T, W> const& a, simd<T, W> const& b) {
  return simd<T, W>{m.v ? a.v : b.v};
}
template <class T, int W>
MORTISE_INLINE simd<T, W> max(simd<T, W> const& a, simd<T, W> const& b) {
  return simd<T, W>{a.v > b.v ? a.v : b.v};
}
template <class T, int W>
MORTISE_INLINE simd<T, W> min(simd<T, W> const& a, simd<T, W> const& b) {
  return simd<T, W>{a.v < b.v ? a.v : b.v};
}
/// sum += a * b on bare registers, fused where the instruction set fuses. In unrolled loops it compiles faster than fma, which wraps each operand.
template <class Reg>
MORTISE_INLINE void add_product(Reg& sum, Reg const& a, Reg const& b) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  sum += a * b;
}

/// to[i] = lane Lanes::from(i) of a and b, one after the other. `to` may have fewer lanes.
template <class Lanes, class Reg, class To, std::size_t... I>
MORTISE_INLINE void shuffle(Reg const& a, Reg const& b, To& to, std::index_sequence<I...>) {
#if !defined(__CUDACC__)
  to = __builtin_shufflevector(a, b, Lanes::from(static_cast<int>(I))...);
#else  // nvcc does not carry a pack through __builtin_shufflevector
  constexpr int w = static_cast<int>(sizeof(Reg) / sizeof(a[0]));
  if constexpr (sizeof...(I) == static_cast<std::size_t>(w)) {
    typedef std::conditional_t<sizeof(a[0]) == 8, std::int64_t, std::int32_t> indices __attribute__((vector_size(sizeof(Reg))));
    to = __builtin_shuffle(a, b, indices{Lanes::from(static_cast<int>(I))...});
  } else {
    ((to[I] = Lanes::from(static_cast<int>(I)) < w ? a[Lanes::from(static_cast<int>(I)) % w] : b[Lanes::from(static_cast<int>(I)) % w]), ...);
  }
#endif
}
/// Element 2 i is lane i of a, element 2 i + 1 is lane i of b, for the lower (Half = 0) or the upper half of each block of `Block` of W lanes.
template <int W, int Block, int Half>
struct interleaved_lanes {
  static constexpr int from(int lane) { return lane / Block * Block + Half * Block / 2 + lane % Block / 2 + (lane % 2 == 0 ? 0 : W); }
};
/// The lanes whose index has bit `Bit` not set (Upper = 0) or set, a's to where that bit is not set and b's to where it is.
template <int W, int Bit, int Upper>
struct gathered_blocks {
  static constexpr int from(int lane) { return (lane & Bit) == 0 ? lane + Upper * Bit : W + lane - Bit + Upper * Bit; }
};
template <int First>
struct lanes_from {
  static constexpr int from(int lane) { return First + lane; }
};

/// Transposes each block of `Block` lanes of each `Block` rows, by perfect shuffles of its rows.
template <int Block, int W, class Reg>
MORTISE_INLINE void transpose_blocks(Reg (&row)[W]) {
  constexpr auto lanes = std::make_index_sequence<static_cast<std::size_t>(W)>{};
  MORTISE_UNROLL(4)
  for (int step = 1; step < Block; step *= 2) {
    Reg next[W];
    MORTISE_UNROLL(8)
    for (int i = 0; i < W / 2; ++i) {
      int const block = i / (Block / 2) * Block, place = i % (Block / 2);
      shuffle<interleaved_lanes<W, Block, 0>>(row[block + place], row[block + place + Block / 2], next[block + 2 * place], lanes);
      shuffle<interleaved_lanes<W, Block, 1>>(row[block + place], row[block + place + Block / 2], next[block + 2 * place + 1], lanes);
    }
    MORTISE_UNROLL(16)
    for (int i = 0; i < W; ++i) row[i] = next[i];
  }
}

/// W vectors of W lanes: within 16 bytes, where a processor interleaves in one instruction, then such blocks change places.
template <int W, class Reg>
MORTISE_INLINE void transpose_lanes(Reg (&row)[W]) {
  constexpr int in_block = 16 / (static_cast<int>(sizeof(Reg)) / W), block = in_block < W ? in_block : W;
  transpose_blocks<block>(row);
  if constexpr (block < W) {
    static_assert(2 * block == W, "more than 32 bytes are not turned at once");
    constexpr auto lanes = std::make_index_sequence<static_cast<std::size_t>(W)>{};
    MORTISE_UNROLL(8)
    for (int i = 0; i < block; ++i) {
      Reg const a = row[i], b = row[i + block];
      shuffle<gathered_blocks<W, block, 0>>(a, b, row[i], lanes);
      shuffle<gathered_blocks<W, block, 1>>(a, b, row[i + block], lanes);
    }
  }
}

/// Sum of the lanes, always in the same tree: halves, quarters, ...
template <class T, int W>
MORTISE_INLINE T sum_lanes(simd<T, W> const& a) {
  if constexpr (W == 1) {
    return a[0];
  } else if constexpr (W <= 4) {
    T sum[2] = {a[0], a[1]};
    if constexpr (W == 4) sum[0] += a[2], sum[1] += a[3];
    return sum[0] + sum[1];
  } else {
    constexpr auto half = std::make_index_sequence<static_cast<std::size_t>(W / 2)>{};
    typename simd<T, W / 2>::reg low, high;
    shuffle<lanes_from<0>>(a.v, a.v, low, half);
    shuffle<lanes_from<W / 2>>(a.v, a.v, high, half);
    return sum_lanes(simd<T, W / 2>{low + high});
  }
}
template <class T, int W>
MORTISE_INLINE T max_lanes(simd<T, W> const& a) {
  T best = a[0];
  for (int i = 1; i < W; ++i) best = a[i] > best ? a[i] : best;
  return best;
}

#if defined(__CUDACC__)
/// One lane without a vector. nvcc takes no vector in a function that is also for devices, as all generic arithmetic is, so in its units
/// the kernels that call such arithmetic run lane by lane.
template <class T>
struct simd<T, 1> {
  using reg = T;
  using integer = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  using mask = bool;
  static constexpr int width = 1;
  using value_type = T;

  T v;

  MORTISE_INLINE MORTISE_HD simd() : v{} {}
  MORTISE_INLINE MORTISE_HD simd(T s) : v{s} {}
  MORTISE_INLINE MORTISE_HD static simd load(T const* p) { return simd{*p}; }
  MORTISE_INLINE MORTISE_HD void store(T* p) const { *p = v; }
  MORTISE_INLINE MORTISE_HD static simd load_first(T const* p, std::size_t n) { return n == 0 ? simd{} : simd{*p}; }
  MORTISE_INLINE MORTISE_HD void store_first(T* p, std::size_t n) const {
    if (n != 0) *p = v;
  }
  MORTISE_INLINE MORTISE_HD T operator[](int) const { return v; }

  MORTISE_INLINE MORTISE_HD friend simd operator+(simd const& a, simd const& b) { return simd{a.v + b.v}; }
  MORTISE_INLINE MORTISE_HD friend simd operator-(simd const& a, simd const& b) { return simd{a.v - b.v}; }
  MORTISE_INLINE MORTISE_HD friend simd operator*(simd const& a, simd const& b) { return simd{a.v * b.v}; }
  MORTISE_INLINE MORTISE_HD friend simd operator/(simd const& a, simd const& b) { return simd{a.v / b.v}; }
  MORTISE_INLINE MORTISE_HD friend simd operator-(simd const& a) { return simd{-a.v}; }
  MORTISE_INLINE MORTISE_HD simd& operator+=(simd const& b) { return *this = *this + b; }
  MORTISE_INLINE MORTISE_HD simd& operator*=(simd const& b) { return *this = *this * b; }
  MORTISE_INLINE MORTISE_HD friend bool operator<(simd const& a, simd const& b) { return a.v < b.v; }
  MORTISE_INLINE MORTISE_HD friend bool operator>(simd const& a, simd const& b) { return a.v > b.v; }
  MORTISE_INLINE MORTISE_HD friend bool operator<=(simd const& a, simd const& b) { return a.v <= b.v; }
  MORTISE_INLINE MORTISE_HD friend bool operator>=(simd const& a, simd const& b) { return a.v >= b.v; }
  MORTISE_INLINE MORTISE_HD friend bool operator==(simd const& a, simd const& b) { return a.v == b.v; }
};
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> fma(simd<T, 1> const& a, simd<T, 1> const& b, simd<T, 1> const& c) {
  return {a.v * b.v + c.v};
}
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> select(bool m, simd<T, 1> const& a, simd<T, 1> const& b) {
  return m ? a : b;
}
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> max(simd<T, 1> const& a, simd<T, 1> const& b) {
  return a.v > b.v ? a : b;
}
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> min(simd<T, 1> const& a, simd<T, 1> const& b) {
  return a.v < b.v ? a : b;
}
#endif

/// The vector of a kernel that calls generic arithmetic: `Bytes` wide where the compiler allows it.
template <class T, int Bytes>
#if defined(__CUDACC__)
using arithmetic_simd = simd<T, 1>;
#else
using arithmetic_simd = simd<T, Bytes / static_cast<int>(sizeof(T))>;
#endif

}  // namespace mortise::detail
