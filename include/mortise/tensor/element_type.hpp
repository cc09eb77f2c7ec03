// Element types as values: what an archive stores and a view may hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

#include <mortise/tensor/float16.hpp>

namespace mortise {

/// Every element type that the archives know by size. The library computes in f32 and f64, stores the others.
enum class element_type : std::uint8_t {
  boolean,
  u8, i8, u16, i16, u32, i32, u64, i64,
  f16, bf16, f32, f64,
  c64, c128,
  f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz,
  f4, f6_e2m3, f6_e3m2,
};

using f32 = float;  // after the enumeration: -Wshadow
using f64 = double;

inline constexpr std::size_t element_type_count = 23;

/// Bits of one element; sub-byte types pack.
constexpr std::size_t bits_of(element_type t) {
  constexpr std::uint8_t bits[element_type_count] = {8, 8, 8, 16, 16, 32, 32, 64, 64, 16, 16, 32, 64, 64, 128, 8, 8, 8, 8, 8, 4, 6, 6};
  return bits[static_cast<std::size_t>(t)];
}

/// PyTorch's name of a type: "float32", "int64", "bool".
constexpr std::string_view name_of(element_type t) {
  constexpr std::string_view names[element_type_count] = {
      "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32", "float64",
      "complex64", "complex128", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz",
      "float4_e2m1", "float6_e2m3", "float6_e3m2"};
  return names[static_cast<std::size_t>(t)];
}

inline std::ostream& operator<<(std::ostream& out, element_type t) { return out << name_of(t); }

/// The element type of a C++ type: `element_type_of<float> == element_type::f32`.
template <class T>
inline constexpr element_type element_type_of = T::no_element_type_for_this_cpp_type;
template <class T>
inline constexpr element_type element_type_of<T const> = element_type_of<T>;
template <> inline constexpr element_type element_type_of<bool> = element_type::boolean;
template <> inline constexpr element_type element_type_of<std::uint8_t> = element_type::u8;
template <> inline constexpr element_type element_type_of<std::int8_t> = element_type::i8;
template <> inline constexpr element_type element_type_of<std::uint16_t> = element_type::u16;
template <> inline constexpr element_type element_type_of<std::int16_t> = element_type::i16;
template <> inline constexpr element_type element_type_of<std::uint32_t> = element_type::u32;
template <> inline constexpr element_type element_type_of<std::int32_t> = element_type::i32;
template <> inline constexpr element_type element_type_of<std::uint64_t> = element_type::u64;
template <> inline constexpr element_type element_type_of<std::int64_t> = element_type::i64;
template <> inline constexpr element_type element_type_of<f16> = element_type::f16;
template <> inline constexpr element_type element_type_of<bf16> = element_type::bf16;
template <> inline constexpr element_type element_type_of<float> = element_type::f32;
template <> inline constexpr element_type element_type_of<double> = element_type::f64;

}  // namespace mortise
