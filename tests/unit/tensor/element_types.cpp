// The types that are stored and not computed in: every half and every bfloat16, in both directions, against their definition.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/device/host.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/element_type.hpp>
#include <mortise/tensor/view.hpp>

namespace mt = mortise;

static_assert(sizeof(mt::f16) == 2 && sizeof(mt::bf16) == 2);
static_assert(std::is_trivially_copyable_v<mt::f16> && std::is_trivially_copyable_v<mt::bf16>);
static_assert(mt::element_type_of<mt::f16> == mt::element_type::f16 && mt::bits_of(mt::element_type::f16) == 16);
static_assert(mt::element_type_of<mt::bf16 const> == mt::element_type::bf16 && mt::bits_of(mt::element_type::bf16) == 16);
static_assert(mt::element_type_of<std::int64_t> == mt::element_type::i64 && mt::element_type_of<bool> == mt::element_type::boolean);
static_assert(static_cast<float>(mt::f16{1.5f}) == 1.5f && mt::f16{1.0f}.bits == 0x3c00 && mt::bf16{1.0f}.bits == 0x3f80);

namespace {

/// IEEE 754, section 3.4: `exponent_bits` and `fraction_bits` behind a sign.
double value_of(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  int const bias = (1 << (exponent_bits - 1)) - 1;
  auto const exponent = static_cast<int>((bits >> fraction_bits) & ((1u << exponent_bits) - 1));
  auto const fraction = static_cast<double>(bits & ((1u << fraction_bits) - 1));
  double const sign = (bits >> (exponent_bits + fraction_bits)) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  double const scale = std::ldexp(1.0, -fraction_bits);
  return exponent == 0 ? sign * std::ldexp(fraction * scale, 1 - bias) : sign * std::ldexp(1 + fraction * scale, exponent - bias);
}

template <class T>
void check_all(int exponent_bits, int fraction_bits) {
  std::size_t wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    auto const stored = T::from_bits(static_cast<std::uint16_t>(bits));
    double const expected = value_of(bits, exponent_bits, fraction_bits);
    float const got = stored;
    if (expected != expected) wrong += got == got || static_cast<float>(T{got}) == static_cast<float>(T{got});
    else wrong += static_cast<double>(got) != expected || T{got}.bits != bits;
  }
  CHECK(wrong == 0);
  // Between neighbours: to the nearer one, and from the middle to the even one; in magnitude past the largest: to infinity from the middle on.
  auto const largest = ((1u << exponent_bits) - 1) << fraction_bits;  // infinity
  for (std::uint32_t bits = 0; bits < largest; ++bits) {
    double const low = value_of(bits, exponent_bits, fraction_bits);
    double const high = bits + 1 == largest ? 2 * low - value_of(bits - 1, exponent_bits, fraction_bits) : value_of(bits + 1, exponent_bits, fraction_bits);
    if (high > static_cast<double>(std::numeric_limits<float>::max())) continue;  // bfloat16's last: there is no float beyond
    auto const middle = static_cast<float>((low + high) / 2);
    if (static_cast<double>(middle) != (low + high) / 2) continue;  // subnormal bfloat16: floats end there
    std::uint32_t const even = bits % 2 == 0 ? bits : bits + 1;
    for (float const sign : {1.0f, -1.0f}) {
      std::uint32_t const flag = sign < 0 ? 0x8000u : 0u;
      wrong += T{sign * middle}.bits != (even | flag);
      wrong += T{sign * std::nextafter(middle, 0.0f)}.bits != (bits | flag);
      wrong += T{sign * std::nextafter(middle, std::numeric_limits<float>::infinity())}.bits != ((bits + 1) | flag);
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("every half is the number that IEEE 754 says, and floats round to the nearest even one") { check_all<mt::f16>(5, 10); }
TEST_CASE("every bfloat16 is the number that its bits say, and floats round to the nearest even one") { check_all<mt::bf16>(8, 7); }

TEST_CASE_TEMPLATE("all element types lie in buffers and views", T, mt::f16, mt::bf16, std::int8_t, std::uint8_t, std::int16_t, std::int32_t, std::int64_t, float, double) {
  mt::buffer<T, mt::host> memory{mt::host{}, 6};
  mt::view<T> const v{memory.data(), mt::shape{2, 3}};
  for (std::size_t i = 0; i < 6; ++i) CHECK(static_cast<double>(v[i]) == 0.0);
  v(1, 2) = static_cast<T>(3);
  auto const copy = memory;
  CHECK(static_cast<double>(copy.data()[5]) == 3.0);
  CHECK(v.to_vector().size() == 6);
}

TEST_CASE("whatever holds elements one behind the other is taken for a view") {
  auto const size_of = [](mt::view<float const> v) { return v.size(); };
  std::array<float, 6> values{1, 2, 3, 4, 5, 6};
  std::array<float, 6> const constant{values};
  float plain[4] = {1, 2, 3, 4};
  std::vector<float> vector(3);
  std::span<float> const span{vector};
  std::span<float const> const constant_span{vector};
  CHECK(size_of(values) == 6);
  CHECK(size_of(constant) == 6);
  CHECK(size_of(plain) == 4);
  CHECK(size_of(vector) == 3);
  CHECK(size_of(span) == 3);
  CHECK(size_of(constant_span) == 3);
  CHECK(size_of({values, {2, 3}}) == 6);
  CHECK(size_of({plain, {2, 2}}) == 4);
  CHECK_THROWS_AS(size_of({constant_span, {2, 2}}), mt::shape_error);
  static_assert(std::is_same_v<decltype(mt::view{constant}), mt::view<float const>>);
  static_assert(std::is_same_v<decltype(mt::view{plain}), mt::view<float>>);
  CHECK(mt::view{values}(2) == 3);
}
