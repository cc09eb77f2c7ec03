// CRC-32 as zip has it (reflected 0xEDB88320): carry-less multiplication where the processor has it, eight tables elsewhere.
// Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009, and its erratum's constants.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <immintrin.h>
#define MORTISE_CRC32_CLMUL 1
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
/// n: a multiple of 16, at least 64.
[[gnu::target("pclmul,sse4.1")]] inline std::uint32_t crc32_by_clmul(std::uint32_t c, unsigned char const* p, std::size_t n) {
  auto const load = [](unsigned char const* at) { return _mm_loadu_si128(reinterpret_cast<__m128i const*>(at)); };
  __m128i k = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  __m128i x1 = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)), _mm_cvtsi32_si128(static_cast<int>(c)));
  __m128i x2 = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p + 16));
  __m128i x3 = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p + 32));
  __m128i x4 = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p + 48));
  for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
    __m128i const y1 = _mm_clmulepi64_si128(x1, k, 0x00);
    __m128i const y2 = _mm_clmulepi64_si128(x2, k, 0x00);
    __m128i const y3 = _mm_clmulepi64_si128(x3, k, 0x00);
    __m128i const y4 = _mm_clmulepi64_si128(x4, k, 0x00);
    x1 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x1, k, 0x11), y1), load(p));
    x2 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x2, k, 0x11), y2), load(p + 16));
    x3 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x3, k, 0x11), y3), load(p + 32));
    x4 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x4, k, 0x11), y4), load(p + 48));
  }
  k = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  for (__m128i const next : {x2, x3, x4})
    x1 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x1, k, 0x11), _mm_clmulepi64_si128(x1, k, 0x00)), next);
  for (; n >= 16; p += 16, n -= 16)
    x1 = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x1, k, 0x11), _mm_clmulepi64_si128(x1, k, 0x00)), load(p));
  __m128i const low = _mm_setr_epi32(~0, 0, ~0, 0);
  x1 = _mm_xor_si128(_mm_srli_si128(x1, 8), _mm_clmulepi64_si128(x1, k, 0x10));
  k = _mm_set_epi64x(0, 0x0163cd6124);
  x1 = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x1, low), k, 0x00), _mm_srli_si128(x1, 4));
  k = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  x2 = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(x1, low), k, 0x10), low);
  x1 = _mm_xor_si128(x1, _mm_clmulepi64_si128(x2, k, 0x00));
  return static_cast<std::uint32_t>(_mm_extract_epi32(x1, 1));
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
