// 16-bit floats as storage: conversions are exact in one direction and round to nearest even in the other.
#pragma once

#include <cstdint>

#include <mortise/config.hpp>

namespace mortise {

/// IEEE 754 binary16. Arithmetic happens in float; this type stores.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  MORTISE_HD constexpr f16(float value) : bits{from_float(value)} {}  // implicit on purpose: a store rounds
  MORTISE_HD constexpr operator float() const { return to_float(bits); }

  static MORTISE_HD constexpr f16 from_bits(std::uint16_t b) {
    f16 r;
    r.bits = b;
    return r;
  }

 private:
  static MORTISE_HD constexpr std::uint16_t from_float(float value) {
    std::uint32_t const u = __builtin_bit_cast(std::uint32_t, value);
    std::uint32_t const sign = (u >> 16) & 0x8000u;
    std::uint32_t const magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));  // NaN, kept quiet
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);                    // rounds to infinity
    if (magnitude < 0x33000001u) return static_cast<std::uint16_t>(sign);                               // rounds to zero
    std::uint32_t const exponent = magnitude >> 23;
    std::uint32_t const mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    // Normal halves start at exponent 113; below, the mantissa is shifted into a subnormal.
    std::uint32_t const shift = exponent >= 113 ? 13u : 126u - exponent;
    std::uint32_t const base = exponent >= 113 ? (exponent - 113u) << 10 : 0u;
    std::uint32_t const kept = mantissa >> shift;
    std::uint32_t const rest = mantissa & ((1u << shift) - 1u);
    std::uint32_t const half = 1u << (shift - 1u);
    std::uint32_t const up = (rest > half || (rest == half && (kept & 1u))) ? 1u : 0u;
    // A normal keeps its hidden bit in `kept` (0x400), which carries into the exponent field together with the rounding.
    return static_cast<std::uint16_t>(sign | (base + kept + up));
  }
  static MORTISE_HD constexpr float to_float(std::uint16_t b) {
    std::uint32_t const sign = (static_cast<std::uint32_t>(b) & 0x8000u) << 16;
    std::uint32_t const exponent = (b >> 10) & 0x1fu;
    std::uint32_t mantissa = b & 0x3ffu;
    if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return __builtin_bit_cast(float, sign | ((exponent + 112u) << 23) | (mantissa << 13));
    if (mantissa == 0) return __builtin_bit_cast(float, sign);
    std::uint32_t e = 113;
    while (!(mantissa & 0x400u)) {
      mantissa <<= 1;
      --e;
    }
    return __builtin_bit_cast(float, sign | (e << 23) | ((mantissa & 0x3ffu) << 13));
  }
};

/// bfloat16: the upper half of a float.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  MORTISE_HD constexpr bf16(float value) : bits{from_float(value)} {}
  MORTISE_HD constexpr operator float() const { return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16); }

  static MORTISE_HD constexpr bf16 from_bits(std::uint16_t b) {
    bf16 r;
    r.bits = b;
    return r;
  }

 private:
  static MORTISE_HD constexpr std::uint16_t from_float(float value) {
    std::uint32_t const u = __builtin_bit_cast(std::uint32_t, value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// What numbers that are stored as T are computed with: float for the 16-bit ones, T itself for the others. Also what parameters, optimizer
/// state and losses of a network that computes in T are kept as.
template <class T>
struct arithmetic_of {
  using type = T;
};
template <>
struct arithmetic_of<f16> {
  using type = float;
};
template <>
struct arithmetic_of<bf16> {
  using type = float;
};
template <class T>
using arithmetic_type = typename arithmetic_of<T>::type;

}  // namespace mortise
