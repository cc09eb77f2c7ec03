// Initialisers by path against torch.nn.init's formulas: bounds and moments that follow from them.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

namespace {

using network = mt::sequential<mt::named<"conv", mt::conv2d<24, 3>>, mt::named<"norm", mt::batch_norm2d>, mt::flatten, mt::named<"wide", mt::linear<40>>,
                               mt::named<"deep", mt::linear<70>>>;
using net_type = mt::model<network, mt::extents<5, 8, 8>>;

double deviation(mt::view<float> v) {
  double sum = 0;
  for (float const x : v) sum += double{x} * x;
  return std::sqrt(sum / static_cast<double>(v.size()));
}
double largest(mt::view<float> v) {
  double m = 0;
  for (float const x : v) m = std::fmax(m, std::fabs(double{x}));
  return m;
}

/// n uniform numbers: none outside, and the chance that all stay below (1 - 25 / n) of the bound is e^-25.
void is_uniform(mt::view<float> v, double bound) {
  double const n = static_cast<double>(v.size());
  CHECK(largest(v) <= bound * (1 + 1e-7));
  CHECK(largest(v) > bound * (1 - 25 / n));
  CHECK(std::fabs(deviation(v) / (bound / std::sqrt(3.0)) - 1) < 5 * std::sqrt(0.2 / n));  // the deviation's own is sqrt((9/5 - 1) / 4n)
}
void is_normal(mt::view<float> v, double std) {
  double const n = static_cast<double>(v.size());
  CHECK(std::fabs(deviation(v) / std - 1) < 5 * std::sqrt(0.5 / n));
  CHECK(largest(v) > 2.5 * std);
}

}  // namespace

TEST_CASE("xavier and kaiming take their bounds and deviations from the fans") {
  net_type net{mt::host{}, mt::seed{3}};
  auto conv = net.parameter("conv.weight");  // (24, 5, 3, 3): fans 45 and 216
  auto wide = net.parameter("wide.weight");  // (40, 864)
  net.initialize<"**.weight">(mt::init::xavier_uniform());
  is_uniform(conv, std::sqrt(6.0 / (45 + 216)));
  is_uniform(wide, std::sqrt(6.0 / (40 + 864)));
  CHECK(net.parameter("norm.weight")[3] == 1.0f);  // a vector has no fans
  net.initialize<"conv">(mt::init::xavier_normal{.gain = 3});
  is_normal(conv, 3 * std::sqrt(2.0 / (45 + 216)));
  is_uniform(wide, std::sqrt(6.0 / (40 + 864)));  // not under that path
  net.initialize<"**">(mt::init::kaiming_uniform());
  is_uniform(conv, std::sqrt(2.0) * std::sqrt(3.0 / 45));
  net.initialize<"conv", "wide">(mt::init::kaiming_normal{.mode = mt::init::mode::fan_out, .nonlinearity = mt::init::nonlinearity::relu});
  is_normal(conv, std::sqrt(2.0 / 216));
  is_normal(wide, std::sqrt(2.0 / 40));
  net.initialize<"wide">(mt::init::kaiming_uniform{.a = 0.5f});
  is_uniform(wide, std::sqrt(2 / 1.25) * std::sqrt(3.0 / 864));
  net.initialize<"wide">(mt::init::kaiming_normal{.nonlinearity = mt::init::nonlinearity::tanh});
  is_normal(wide, 5.0 / 3 / std::sqrt(864.0));
}

TEST_CASE("constants, ranges, and the modules' own values again") {
  net_type net{mt::host{}, mt::seed{3}};
  auto const before = net.parameters().to_vector();
  net.initialize<"**">(mt::init::constant(0.123));
  for (float const v : net.parameters()) CHECK(v == 0.123f);
  net.initialize<"**.bias">(mt::init::zeros());
  CHECK(net.parameter("deep.bias")[69] == 0.0f);
  net.initialize<"wide.weight">(mt::init::uniform(-0.25, 0.25));
  is_uniform(net.parameter("wide.weight"), 0.25);
  net.initialize<"**">(mt::init::module_default{});
  CHECK(net.parameters().to_vector() == before);
}

TEST_CASE("orthogonal rows or columns, whichever are fewer") {
  mt::model<network, mt::extents<5, 8, 8>, mt::host, double> net{mt::host{}, mt::seed{4}};
  net.initialize<"**.weight">(mt::init::orthogonal{.gain = 2});
  auto const check = [](mt::view<double> w, std::size_t rows, std::size_t columns) {
    std::size_t const vectors = rows < columns ? rows : columns;
    std::size_t const length = rows < columns ? columns : rows;
    auto const at = [&](std::size_t v, std::size_t i) { return rows < columns ? w[v * columns + i] : w[i * columns + v]; };
    double worst = 0;
    for (std::size_t a = 0; a < vectors; ++a)
      for (std::size_t b = 0; b <= a; ++b) {
        double sum = 0;
        for (std::size_t i = 0; i < length; ++i) sum += at(a, i) * at(b, i);
        worst = std::fmax(worst, std::fabs(sum - (a == b ? 4 : 0)));
      }
    CHECK(worst < 4 * 1e-14 * static_cast<double>(length));  // a sum of `length` terms
  };
  check(net.parameter("conv.weight"), 24, 45);
  check(net.parameter("wide.weight"), 40, 864);
  check(net.parameter("deep.weight"), 70, 40);
}

TEST_CASE("a truncated normal stays inside, with the moments of its formula") {
  for (double y : {-0.999999, -0.9, -0.3, -1e-9, 0.0, 1e-9, 0.25, 0.7, 0.99, 0.99999}) {
    INFO(y);
    CHECK(std::fabs(std::erf(mt::init::inverse_erf(y)) - y) < 4e-16);
  }
  net_type net{mt::host{}, mt::seed{5}};
  net.initialize<"**.weight">(mt::init::trunc_normal{.std = 0.02f, .a = -0.04f, .b = 0.04f});
  auto const w = net.parameter("wide.weight");
  CHECK(largest(w) <= 0.04f);
  CHECK(largest(w) > 0.039);
  // Cut at two deviations: variance 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737; its estimate's own deviation is below sqrt(0.5 / n).
  CHECK(std::fabs(deviation(w) / (0.02 * std::sqrt(0.77374)) - 1) < 5 * std::sqrt(0.5 / static_cast<double>(w.size())));
  double mean = 0;
  for (float const x : w) mean += double{x} / static_cast<double>(w.size());
  CHECK(std::fabs(mean) < 5 * 0.02 / std::sqrt(static_cast<double>(w.size())));
}
