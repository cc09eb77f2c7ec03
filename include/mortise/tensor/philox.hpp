// Random numbers without a generator: every number is a pure function of what it is for and which one it is.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (Philox4x32-10).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/detail/simd.hpp>

namespace mortise {

/// Philox4x32-10: a bijection of 128-bit counters, chosen by a 64-bit key, whose outputs pass as random.
struct philox4x32 {
  // Not std::array, whose members nvcc would not call in a kernel without an extra flag.
  struct block_type {
    std::uint32_t words[4];
    MORTISE_HD constexpr std::uint32_t operator[](std::size_t lane) const { return words[lane]; }
    friend constexpr bool operator==(block_type const&, block_type const&) = default;
  };
  struct key_type {
    std::uint32_t words[2];
  };

  static constexpr std::uint32_t multiplier_0 = 0xD2511F53u;
  static constexpr std::uint32_t multiplier_1 = 0xCD9E8D57u;
  static constexpr std::uint32_t weyl_0 = 0x9E3779B9u;  // golden ratio
  static constexpr std::uint32_t weyl_1 = 0xBB67AE85u;  // sqrt(3) - 1
  static constexpr int rounds = 10;

  /// Four words of 32 random bits.
  static MORTISE_HD constexpr block_type block(block_type counter, key_type key) {
    std::uint32_t c0 = counter.words[0], c1 = counter.words[1], c2 = counter.words[2], c3 = counter.words[3];
    std::uint32_t k0 = key.words[0], k1 = key.words[1];
    for (int round = 0; round < rounds; ++round) {
      std::uint64_t const p0 = std::uint64_t{multiplier_0} * c0;
      std::uint64_t const p1 = std::uint64_t{multiplier_1} * c2;
      c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<std::uint32_t>(p1);
      c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<std::uint32_t>(p0);
      k0 += weyl_0;
      k1 += weyl_1;
    }
    return {{c0, c1, c2, c3}};
  }
};

/// What a stream is for, as a number: FNV-1a (64 bits) of a path such as "features.3" or "sampler".
constexpr std::uint64_t stream_id(std::string_view path) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char const c : path) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

namespace detail {

// Explicit, so that no compiler setting decides whether a product is rounded before it is added.
MORTISE_HD inline double fused_multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return ::fma(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

/// sqrt(-2 log((n + 1) / 2^32)): the radius of Box and Muller's pair. Absolute error below 2^-48.
MORTISE_HD inline double box_muller_radius(std::uint32_t bits) {
  std::uint64_t n = std::uint64_t{bits} + 1;
  double exponent = 0;
  for (int shift = 32; shift > 0; shift /= 2) {  // n becomes 1.xxx * 2^32
    if ((n >> (33 - shift)) == 0) {
      n <<= shift;
      exponent -= shift;
    }
  }
  double mantissa = static_cast<double>(n) * 0x1p-32;  // exact
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    exponent += 1;
  }
  // log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716: the series' 12th term is below 2^-60.
  double const s = (mantissa - 1.0) / (mantissa + 1.0);
  double const s2 = s * s;
  double series = 1.0 / 23;
  constexpr double terms[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0};
  for (double const term : terms) series = fused_multiply_add(series, s2, term);
  double const log_mantissa = 2.0 * s * series;
  double const log = fused_multiply_add(exponent, 0.69314718055994531, log_mantissa);
  double const square = log < 0 ? -2.0 * log : 0.0;
#if defined(__CUDA_ARCH__)
  return ::sqrt(square);
#else
  return __builtin_sqrt(square);
#endif
}

/// cos and sin of 2 pi bits / 2^32. Absolute error below 2^-50.
MORTISE_HD inline void box_muller_angle(std::uint32_t bits, double& cosine, double& sine) {
  std::uint32_t const quadrant = (bits + 0x20000000u) >> 30;
  double const x = static_cast<double>(static_cast<std::int32_t>(bits - (quadrant << 30))) * (6.283185307179586 * 0x1p-32);
  double const x2 = x * x;
  constexpr double sine_terms[] = {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                                   -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0,        1.0};
  constexpr double cosine_terms[] = {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0,
                                     -1.0 / 720.0,         1.0 / 24.0,        -1.0 / 2.0,       1.0};
  double s = 1.0 / 355687428096000.0;
  for (double const term : sine_terms) s = fused_multiply_add(s, x2, term);
  s *= x;
  double c = 1.0 / 20922789888000.0;
  for (double const term : cosine_terms) c = fused_multiply_add(c, x2, term);
  cosine = quadrant == 0 ? c : quadrant == 1 ? -s : (quadrant & 3u) == 2 ? -c : (quadrant & 3u) == 3 ? s : c;
  sine = quadrant == 0 ? s : quadrant == 1 ? c : (quadrant & 3u) == 2 ? -s : (quadrant & 3u) == 3 ? -c : s;
}

}  // namespace detail

/// An endless row of random numbers, each found by its index; nothing advances, so the order of execution cannot matter.
///
/// Element i is lane i % 4 of the Philox4x32-10 block with
///     counter = {i / 4, step, low half of stream, high half of stream}
///     key     = {low half of seed, high half of seed}
/// Resumed runs depend on this layout as on a file format: it does not change. `i` is below 2^34; `seed` is the run's, `stream` says what
/// the numbers are for (`stream_id`), `step` counts training steps or epochs.
struct random_stream {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::uint32_t step = 0;

  MORTISE_HD constexpr philox4x32::block_type block(std::uint32_t index) const {
    return philox4x32::block({{index, step, static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}},
                             {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
  }

  /// 32 random bits.
  MORTISE_HD constexpr std::uint32_t bits(std::uint64_t i) const { return block(static_cast<std::uint32_t>(i >> 2)).words[i & 3]; }

  /// Multiples of 2^-24 in [0, 1): the upper 24 bits.
  MORTISE_HD constexpr float uniform(std::uint64_t i) const { return to_uniform(bits(i)); }
  static MORTISE_HD constexpr float to_uniform(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

  /// Normal with mean 0 and variance 1. Elements 2k and 2k + 1 are Box and Muller's pair from the bits of 2k (radius) and 2k + 1 (angle).
  /// Computed from correctly rounded operations only, so that hosts and CUDA devices agree in every bit. |normal| is at most 6.67.
  MORTISE_HD float normal(std::uint64_t i) const {
    philox4x32::block_type const words = block(static_cast<std::uint32_t>(i >> 2));
    double cosine = 0, sine = 0;
    detail::box_muller_angle(words.words[(i & 2) + 1], cosine, sine);
    double const radius = detail::box_muller_radius(words.words[i & 2]);
    return static_cast<float>(radius * ((i & 1) != 0 ? sine : cosine));
  }

  friend constexpr bool operator==(random_stream const&, random_stream const&) = default;
};

namespace detail {

/// `Bytes / 8` successive Philox blocks in the lanes of vectors, from block `index` on: `4 * Bytes / 8` words to `out`.
/// For use inside kernels of `for_this_cpu`.
template <int Bytes, class Word = std::uint64_t>  // a parameter, since g++ 12 takes a dependent vector size on dependent types only
struct philox_lanes {
  static constexpr int blocks = Bytes / 8;
  static constexpr int words = 4 * blocks;
  // 64-bit lanes that hold 32-bit words, since the product of two words needs 64 bits.
  typedef Word reg __attribute__((vector_size(Bytes)));
  typedef Word memory __attribute__((vector_size(Bytes), aligned(4), may_alias));

  MORTISE_INLINE static void product(reg& result, reg const& a, reg const& b) {  // of the low halves of the lanes
#if defined(__x86_64__) && !defined(__clang__)
    // g++ 12 does not see that the upper halves are zero; without this each product costs three, and additions.
    if constexpr (Bytes == 16) {
      result = a;
      asm("pmuludq %1, %0" : "+x"(result) : "x"(b));
    } else {
      asm("vpmuludq %2, %1, %0" : "=v"(result) : "v"(a), "v"(b));
    }
#else
    result = (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
  }

  MORTISE_INLINE static void generate(random_stream const& from, std::uint32_t index, std::uint32_t* out) {
    constexpr std::uint64_t low = 0xffffffffu;
    reg c0, c1, c2, c3, p0, p1;
    for (int lane = 0; lane < blocks; ++lane) c0[lane] = index + static_cast<std::uint32_t>(lane);
    c1 = reg{} + std::uint64_t{from.step};
    c2 = reg{} + (from.stream & low);
    c3 = reg{} + (from.stream >> 32);
    reg const m0 = reg{} + std::uint64_t{philox4x32::multiplier_0};
    reg const m1 = reg{} + std::uint64_t{philox4x32::multiplier_1};
    std::uint32_t k0 = static_cast<std::uint32_t>(from.seed);
    std::uint32_t k1 = static_cast<std::uint32_t>(from.seed >> 32);
    // The upper halves of c1 and c3 hold what a product left there; only low halves are ever read.
    for (int round = 0; round < philox4x32::rounds; ++round) {
      product(p0, c0, m0);
      product(p1, c2, m1);
      c0 = (p1 >> 32) ^ c1 ^ (reg{} + std::uint64_t{k0});
      c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ (reg{} + std::uint64_t{k1});
      c3 = p0;
      k0 += philox4x32::weyl_0;
      k1 += philox4x32::weyl_1;
    }
    reg const first = (c0 & low) | (c1 << 32);
    reg const second = (c2 & low) | (c3 << 32);
    reg lower, upper;  // words in the order of the blocks
    if constexpr (Bytes == 16) {
      lower = __builtin_shufflevector(first, second, 0, 2);
      upper = __builtin_shufflevector(first, second, 1, 3);
    } else if constexpr (Bytes == 32) {
      lower = __builtin_shufflevector(first, second, 0, 4, 1, 5);
      upper = __builtin_shufflevector(first, second, 2, 6, 3, 7);
    } else {
      lower = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
      upper = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
    }
    *reinterpret_cast<memory*>(out) = lower;
    *reinterpret_cast<memory*>(out + words / 2) = upper;
  }
};

struct fill_bits_kernel {
  random_stream from;
  std::uint32_t first_block;
  std::size_t n;
  std::uint32_t* out;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using lanes = philox_lanes<Bytes>;
    constexpr std::size_t words = lanes::words;
    std::uint32_t index = first_block;
    std::size_t i = 0;
    for (; i + words <= n; i += words, index += lanes::blocks) lanes::generate(from, index, out + i);
    if (i < n) {
      std::uint32_t rest[words];
      lanes::generate(from, index, rest);
      std::memcpy(out + i, rest, (n - i) * sizeof(std::uint32_t));
    }
  }
};

}  // namespace detail

/// out[k] = from.bits(first + k) for k < n, in vectors: the same numbers on every instruction set. One thread; callers that cut a range
/// into pieces get the same numbers whatever the cut.
inline void fill_bits(random_stream const& from, std::uint64_t first, std::size_t n, std::uint32_t* out) {
  while (n != 0 && (first & 3) != 0) {
    *out++ = from.bits(first++);
    --n;
  }
  if (n != 0) detail::for_this_cpu(detail::fill_bits_kernel{from, static_cast<std::uint32_t>(first >> 2), n, out});
}

/// Writes a random order of 0 ... n - 1 to `order`: Fisher and Yates's shuffle, from the top down, with unbiased bounded integers by
/// Lemire's method ("Fast random integer generation in an interval", 2019, arXiv:1805.10941) over the successive bits of
/// `random_stream{seed, stream, epoch}`. A pure function of its arguments, as stable as a file format. n is at most 2^32 - 1.
inline void random_permutation(random_stream const& from, std::size_t n, std::size_t* order) {
  if (n > 0xffffffffu) throw usage_error("mortise::random_permutation: " + std::to_string(n) + " elements; at most 2^32 - 1 are possible");
  for (std::size_t i = 0; i < n; ++i) order[i] = i;
  constexpr std::size_t ahead = 256;
  std::uint32_t buffer[ahead];
  std::uint64_t used = 0;
  auto const next = [&]() -> std::uint32_t {
    if (used % ahead == 0) fill_bits(from, used, ahead, buffer);
    return buffer[used++ % ahead];
  };
  for (std::size_t left = n; left > 1; --left) {
    auto const bound = static_cast<std::uint32_t>(left);
    std::uint64_t product = std::uint64_t{next()} * bound;
    if (static_cast<std::uint32_t>(product) < bound) {
      std::uint32_t const biased = (0u - bound) % bound;
      while (static_cast<std::uint32_t>(product) < biased) product = std::uint64_t{next()} * bound;
    }
    std::size_t const chosen = static_cast<std::size_t>(product >> 32);
    std::size_t const last = order[left - 1];
    order[left - 1] = order[chosen];
    order[chosen] = last;
  }
}
inline std::vector<std::size_t> random_permutation(std::uint64_t seed, std::uint64_t stream, std::uint32_t epoch, std::size_t n) {
  std::vector<std::size_t> order(n);
  random_permutation(random_stream{seed, stream, epoch}, n, order.data());
  return order;
}

}  // namespace mortise
