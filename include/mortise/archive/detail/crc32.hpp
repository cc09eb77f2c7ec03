// CRC-32 as zip has it (reflected 0xEDB88320): carry-less multiplication where the processor has it, eight tables elsewhere.
// Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009, and its erratum's constants.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && !defined(__CUDACC__)
#define MORTISE_CRC32_CLMUL 1  // by the compilers' vector types: <immintrin.h> would cost half a second of every compile
#else
#define MORTISE_CRC32_CLMUL 0
#endif

namespace mortise::detail {

using crc32_table = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr crc32_table make_crc32_table() {
  crc32_table t{};
  for (std::uint32_t i = 0; i != 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit != 8; ++bit) c = (c >> 1) ^ ((c & 1) ? 0xEDB88320u : 0u);
    t[0][i] = c;
  }
  for (std::size_t k = 1; k != 8; ++k)
    for (std::size_t i = 0; i != 256; ++i) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xff];
  return t;
}

inline constexpr crc32_table crc32_tables = make_crc32_table();

inline std::uint32_t crc32_by_tables(std::uint32_t c, unsigned char const* p, std::size_t n) {
  auto const& t = crc32_tables;
  for (; n >= 8; n -= 8, p += 8) {
    std::uint32_t const a = c ^ (std::uint32_t{p[0]} | std::uint32_t{p[1]} << 8 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[3]} << 24);
    c = t[7][a & 0xff] ^ t[6][(a >> 8) & 0xff] ^ t[5][(a >> 16) & 0xff] ^ t[4][a >> 24] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
  }
  for (; n != 0; --n, ++p) c = (c >> 8) ^ t[0][(c ^ *p) & 0xff];
  return c;
}

#if MORTISE_CRC32_CLMUL
using clmul_vector [[gnu::vector_size(16)]] = long long;

/// n: a multiple of 16, at least 64.
[[gnu::target("pclmul,sse4.1")]] inline std::uint32_t crc32_by_clmul(std::uint32_t c, unsigned char const* p, std::size_t n) {
  using words [[gnu::vector_size(16)]] = unsigned;
  auto const load = [](unsigned char const* at) {
    clmul_vector v;
    std::memcpy(&v, at, 16);
    return v;
  };
  clmul_vector k{0x0154442bd4, 0x01c6e41596};
  clmul_vector x1 = load(p) ^ clmul_vector{static_cast<long long>(c), 0};
  clmul_vector x2 = load(p + 16);
  clmul_vector x3 = load(p + 32);
  clmul_vector x4 = load(p + 48);
  for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
    clmul_vector const y1 = __builtin_ia32_pclmulqdq128(x1, k, 0x00);
    clmul_vector const y2 = __builtin_ia32_pclmulqdq128(x2, k, 0x00);
    clmul_vector const y3 = __builtin_ia32_pclmulqdq128(x3, k, 0x00);
    clmul_vector const y4 = __builtin_ia32_pclmulqdq128(x4, k, 0x00);
    x1 = __builtin_ia32_pclmulqdq128(x1, k, 0x11) ^ y1 ^ load(p);
    x2 = __builtin_ia32_pclmulqdq128(x2, k, 0x11) ^ y2 ^ load(p + 16);
    x3 = __builtin_ia32_pclmulqdq128(x3, k, 0x11) ^ y3 ^ load(p + 32);
    x4 = __builtin_ia32_pclmulqdq128(x4, k, 0x11) ^ y4 ^ load(p + 48);
  }
  k = clmul_vector{0x01751997d0, 0x00ccaa009e};
  for (clmul_vector const next : {x2, x3, x4})
    x1 = __builtin_ia32_pclmulqdq128(x1, k, 0x11) ^ __builtin_ia32_pclmulqdq128(x1, k, 0x00) ^ next;
  for (; n >= 16; p += 16, n -= 16)
    x1 = __builtin_ia32_pclmulqdq128(x1, k, 0x11) ^ __builtin_ia32_pclmulqdq128(x1, k, 0x00) ^ load(p);
  auto const low = [](clmul_vector v) { return v & clmul_vector{0xffffffff, 0xffffffff}; };
  x1 = clmul_vector{x1[1], 0} ^ __builtin_ia32_pclmulqdq128(x1, k, 0x10);
  k = clmul_vector{0x0163cd6124, 0};
  auto const w = reinterpret_cast<words>(x1);
  x1 = __builtin_ia32_pclmulqdq128(low(x1), k, 0x00) ^ reinterpret_cast<clmul_vector>(words{w[1], w[2], w[3], 0});
  k = clmul_vector{0x01db710641, 0x01f7011641};
  x2 = low(__builtin_ia32_pclmulqdq128(low(x1), k, 0x10));
  x1 ^= __builtin_ia32_pclmulqdq128(x2, k, 0x00);
  return reinterpret_cast<words>(x1)[1];
}
#endif

/// Continues `crc` (0 at the start) over n bytes.
inline std::uint32_t crc32(std::uint32_t crc, void const* bytes, std::size_t n) {
  auto const* p = static_cast<unsigned char const*>(bytes);
  std::uint32_t c = ~crc;
#if MORTISE_CRC32_CLMUL
  if (n >= 64 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
    std::size_t const whole = n & ~std::size_t{15};
    c = crc32_by_clmul(c, p, whole);
    p += whole;
    n -= whole;
  }
#endif
  return ~crc32_by_tables(c, p, n);
}

}  // namespace mortise::detail
