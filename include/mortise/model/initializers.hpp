// How parameters are filled when a network does not start with its modules' defaults: torch.nn.init, with its names and defaults.
#pragma once

#include <cmath>
#include <cstddef>
#include <string_view>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/decimal.hpp>
#include <mortise/module/description.hpp>
#include <mortise/optimizer/path_pattern.hpp>
#include <mortise/tensor/philox.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise::init {

/// Values that one output reads, and outputs that one input reaches: of (out, in) or (out, in, height, width).
struct fans {
  double in;
  double out;
};
constexpr fans fans_of(shape const& extents) {
  double positions = 1;
  for (std::size_t axis = 2; axis < extents.rank; ++axis) positions *= static_cast<double>(extents[axis]);
  return {static_cast<double>(extents[1]) * positions, static_cast<double>(extents[0]) * positions};
}

enum class mode { fan_in, fan_out };
enum class nonlinearity { linear, sigmoid, tanh, relu, leaky_relu, selu };

/// torch.nn.init.calculate_gain; `a` is the negative slope of leaky_relu.
inline double calculate_gain(nonlinearity f, double a = 0.01) {
  switch (f) {
    case nonlinearity::tanh: return 5.0 / 3;
    case nonlinearity::relu: return std::sqrt(2.0);
    case nonlinearity::leaky_relu: return std::sqrt(2 / (1 + a * a));
    case nonlinearity::selu: return 0.75;
    default: return 1;
  }
}

/// What the modules say themselves, which is PyTorch's default.
struct module_default {};

/// U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)). Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward
/// neural networks", 2010, eq. 16.
struct xavier_uniform {
  static constexpr bool needs_fans = true;
  mortise::detail::decimal gain = 1.0;
  initializer of(shape const& extents) const {
    fans const f = fans_of(extents);
    double const bound = gain * std::sqrt(6 / (f.in + f.out));
    return uniform(-bound, bound);
  }
};
/// N(0, s^2) with s = gain sqrt(2 / (fan_in + fan_out)).
struct xavier_normal {
  static constexpr bool needs_fans = true;
  mortise::detail::decimal gain = 1.0;
  initializer of(shape const& extents) const {
    fans const f = fans_of(extents);
    return normal(0, gain * std::sqrt(2 / (f.in + f.out)));
  }
};

/// U(-b, b) with b = gain sqrt(3 / fan). Source: He et al., "Delving deep into rectifiers", 2015, arXiv:1502.01852, eq. 10 and 14.
struct kaiming_uniform {
  static constexpr bool needs_fans = true;
  mortise::detail::decimal a = 0.0;  ///< negative slope of the rectifier behind it
  init::mode mode = init::mode::fan_in;
  init::nonlinearity nonlinearity = init::nonlinearity::leaky_relu;
  initializer of(shape const& extents) const {
    fans const f = fans_of(extents);
    double const bound = calculate_gain(nonlinearity, a) * std::sqrt(3 / (mode == init::mode::fan_in ? f.in : f.out));
    return uniform(-bound, bound);
  }
};
/// N(0, s^2) with s = gain / sqrt(fan).
struct kaiming_normal {
  static constexpr bool needs_fans = true;
  mortise::detail::decimal a = 0.0;
  init::mode mode = init::mode::fan_in;
  init::nonlinearity nonlinearity = init::nonlinearity::leaky_relu;
  initializer of(shape const& extents) const {
    fans const f = fans_of(extents);
    return normal(0, calculate_gain(nonlinearity, a) / std::sqrt(mode == init::mode::fan_in ? f.in : f.out));
  }
};

/// The inverse of std::erf, to the last bits; beyond the largest double below 1 it stays where it is there.
MORTISE_COLD inline double inverse_erf(double y) {
  constexpr double most = 0x1.fffffffffffffp-1;
  y = y < -most ? -most : y > most ? most : y;
  // Winitzki's approximation (2e-3), then Halley's steps, each of which triples the digits.
  double const l = std::log1p(-y * y);
  double const t = 2 / (3.14159265358979323846 * 0.147) + l / 2;
  double x = std::copysign(std::sqrt(std::sqrt(t * t - l / 0.147) - t), y);
  for (int i = 0; i < 3; ++i) {
    double const f = (std::erf(x) - y) / (1.12837916709551257390 * std::exp(-x * x));
    x -= f / (1 + x * f);
  }
  return x;
}

/// N(mean, std^2) within [a, b], by the inverse of the distribution function, as torch.nn.init.trunc_normal_ does it.
struct trunc_normal {
  mortise::detail::decimal mean = 0.0;
  mortise::detail::decimal std = 1.0;
  mortise::detail::decimal a = -2.0;
  mortise::detail::decimal b = 2.0;
  MORTISE_COLD void fill(shape const& extents, random_stream const& stream, double* values) const {
    double const root2 = std::sqrt(2.0);
    double const low = std::erf((a - mean) / (std * root2));
    double const high = std::erf((b - mean) / (std * root2));
    for (std::size_t i = 0; i < extents.elements(); ++i) {
      double const v = mean + std * root2 * inverse_erf(low + (high - low) * static_cast<double>(stream.uniform(i)));
      values[i] = v < a ? a.value : v > b ? b.value : v;
    }
  }
};

/// gain times a matrix whose rows (or columns, if there are fewer of them) are orthonormal; further axes count as columns.
/// Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear networks", 2013, arXiv:1312.6120.
struct orthogonal {
  static constexpr bool needs_fans = true;
  mortise::detail::decimal gain = 1.0;
  MORTISE_COLD void fill(shape const& extents, random_stream const& stream, double* values) const {
    std::size_t const rows = extents[0];
    std::size_t const columns = extents.elements() / rows;
    std::size_t const vectors = rows < columns ? rows : columns;
    std::size_t const length = rows < columns ? columns : rows;
    std::vector<double> q(vectors * length);
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = static_cast<double>(stream.normal(i));
    auto const dot = [length](double const* x, double const* y) {
      double sum[4] = {};
      std::size_t i = 0;
      for (; i + 4 <= length; i += 4)
        for (std::size_t k = 0; k < 4; ++k) sum[k] += x[i + k] * y[i + k];
      for (; i < length; ++i) sum[0] += x[i] * y[i];
      return (sum[0] + sum[1]) + (sum[2] + sum[3]);
    };
    for (std::size_t v = 0; v < vectors; ++v) {
      double* const x = q.data() + v * length;
      for (int pass = 0; pass < 2; ++pass) {  // Gram and Schmidt twice is orthogonal to the last bits
        for (std::size_t w = 0; w < v; ++w) {
          double const* const y = q.data() + w * length;
          double const share = dot(x, y);
          for (std::size_t i = 0; i < length; ++i) x[i] -= share * y[i];
        }
        double const norm = std::sqrt(dot(x, x));
        for (std::size_t i = 0; i < length; ++i) x[i] /= norm;
      }
    }
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c) values[r * columns + c] = gain * (rows < columns ? q[r * length + c] : q[c * length + r]);
  }
};

}  // namespace mortise::init

namespace mortise::detail {

template <class Initializer>
constexpr bool needs_fans() {
  if constexpr (requires { Initializer::needs_fans; }) return Initializer::needs_fans;
  else return false;
}

/// Is there a parameter under this path that the initialiser can fill?
template <class Initializer, class Table>
constexpr bool fits_a_parameter(Table const& table, std::string_view path) {
  for (std::size_t i = 0; i < table.size(); ++i)
    if ((table[i].extents.rank >= 2 || !needs_fans<Initializer>()) && path_matches(path, table[i].name)) return true;
  return false;
}

template <class Entry>
initializer initializer_for(initializer const& i, Entry const&) {
  return i;
}
template <class Entry>
initializer initializer_for(init::module_default const&, Entry const& entry) {
  return entry.init;
}
template <class Initializer, class Entry>
  requires requires(Initializer const& i, shape const& s) { i.of(s); }
initializer initializer_for(Initializer const& i, Entry const& entry) {
  return i.of(entry.extents);
}

}  // namespace mortise::detail
