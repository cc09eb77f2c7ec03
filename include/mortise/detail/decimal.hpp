// Settings as the user wrote them: 0.999f means 0.999, not the float beside it.
#pragma once

#include <array>

namespace mortise::detail {

/// The decimal number of at most 9 digits that a float literal stands for, as a double: 0.1f gives 0.1. PyTorch computes its per-step
/// scalars in double from such numbers; 1 - 0.999f is off by 5e-5 of 1 - 0.999. Floats that are no short decimal are themselves.
constexpr double decimal_from(float f) {
  constexpr double power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  double const exact = static_cast<double>(f);
  double const magnitude = exact < 0 ? -exact : exact;
  if (!(magnitude >= 1e-13 && magnitude < 1e9)) return exact;
  for (int p = 0; p <= 22; ++p) {
    double const scaled = magnitude * power[p];
    if (scaled >= 1e9) break;
    double const digits = static_cast<double>(static_cast<long long>(scaled + 0.5));
    double const candidate = digits / power[p];
    if (digits > 0 && static_cast<float>(candidate) == static_cast<float>(magnitude)) return exact < 0 ? -candidate : candidate;
  }
  return exact;
}

/// A real setting; assign floats, doubles or integers, read a double.
struct decimal {
  double value = 0;

  constexpr decimal() = default;
  constexpr decimal(float f) : value{decimal_from(f)} {}
  constexpr decimal(double d) : value{d} {}
  constexpr decimal(int i) : value{static_cast<double>(i)} {}
  constexpr operator double() const { return value; }
};

/// Two real settings, such as Adam's betas: `.betas = {0.9f, 0.999f}`.
struct decimal_pair {
  std::array<double, 2> value{};

  constexpr decimal_pair() = default;
  constexpr decimal_pair(decimal first, decimal second) : value{first.value, second.value} {}
  constexpr double operator[](std::size_t i) const { return value[i]; }
};

}  // namespace mortise::detail
