// Default initial values against PyTorch's formulas.
#include <doctest/doctest.h>

#include <cmath>
#include <string_view>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace {

namespace mt = mortise;
using mt::extents;

struct moments {
  double mean = 0, variance = 0, least = 1e30, most = -1e30;
};
moments moments_of(mt::view<float> v) {
  moments m;
  double const n = static_cast<double>(v.size());
  for (float const x : v) {
    m.mean += double{x} / n;
    m.least = std::fmin(m.least, double{x});
    m.most = std::fmax(m.most, double{x});
  }
  for (float const x : v) m.variance += (double{x} - m.mean) * (double{x} - m.mean) / n;
  return m;
}

/// U(-bound, bound): mean 0, variance bound^2 / 3, nothing outside, and with n values the extremes lie within 20 bound / n of the ends.
void check_uniform(mt::view<float> v, double bound) {
  double const n = static_cast<double>(v.size());
  auto const m = moments_of(v);
  CHECK(std::abs(m.mean) < 5 * bound / std::sqrt(3 * n));
  // The variance of x^2 is bound^4 (1/5 - 1/9).
  CHECK(std::abs(m.variance - bound * bound / 3) < 5 * bound * bound * std::sqrt((1.0 / 5 - 1.0 / 9) / n) + 25 * bound * bound / (3 * n));
  CHECK(m.least >= -bound * (1 + 0x1p-23));
  CHECK(m.most <= bound * (1 + 0x1p-23));
  CHECK(m.least < -bound + 40 * bound / n);
  CHECK(m.most > bound - 40 * bound / n);
}

TEST_CASE("linear starts with U(-1/sqrt(in), 1/sqrt(in)), weight and bias") {
  mt::model<mt::linear<2000>, extents<50>> net{mt::host{1}, mt::seed{11}};
  check_uniform(net.parameter("weight"), 1 / std::sqrt(50.0));
  check_uniform(net.parameter("bias"), 1 / std::sqrt(50.0));
}

TEST_CASE("conv2d starts with U(-1/sqrt(k), 1/sqrt(k)), k = in / groups * kernel elements") {
  mt::model<mt::conv2d<400, 3, 1, 1, 1, 2>, extents<8, 4, 4>> net{mt::host{1}, mt::seed{11}};
  check_uniform(net.parameter("weight"), 1 / std::sqrt(4.0 * 9));
  check_uniform(net.parameter("bias"), 1 / std::sqrt(4.0 * 9));
}

TEST_CASE("embedding starts with N(0, 1)") {
  mt::model<mt::embedding<500, 40>, extents<1>> net{mt::host{1}, mt::seed{11}};
  auto const v = net.parameter("weight");
  auto const m = moments_of(v);
  double const n = static_cast<double>(v.size());
  CHECK(std::abs(m.mean) < 5 / std::sqrt(n));
  CHECK(std::abs(m.variance - 1) < 5 * std::sqrt(2 / n));
  std::size_t within = 0;
  for (float const x : v) within += std::abs(x) < 1 ? 1 : 0;
  CHECK(std::abs(static_cast<double>(within) / n - 0.6826894921) < 5 * std::sqrt(0.6827 * 0.3173 / n));
}

TEST_CASE("normalisations start with weight 1, bias 0, running mean 0, running variance 1, counter 0") {
  mt::model<mt::sequential<mt::batch_norm2d, mt::layer_norm>, extents<3, 4, 5>> net{mt::host{1}, mt::seed{11}};
  for (auto const name : {"0.weight", "1.weight"})
    for (float const v : net.parameter(name)) CHECK(v == 1);
  for (auto const name : {"0.bias", "1.bias"})
    for (float const v : net.parameter(name)) CHECK(v == 0);
  for (float const v : net.buffer_named("0.running_mean")) CHECK(v == 0);
  for (float const v : net.buffer_named("0.running_var")) CHECK(v == 1);
  CHECK(net.counter("0.num_batches_tracked")[0] == 0);
}

TEST_CASE("equal seeds start equal, other seeds and other names differ") {
  using M = mt::model<mt::sequential<mt::linear<9>, mt::linear<9>>, extents<9>>;
  M a{mt::host{1}, mt::seed{11}}, b{mt::host{1}, mt::seed{11}}, c{mt::host{1}, mt::seed{12}};
  CHECK(a.parameters().to_vector() == b.parameters().to_vector());
  CHECK(a.parameters().to_vector() != c.parameters().to_vector());
  CHECK(a.parameter("0.weight").to_vector() != a.parameter("1.weight").to_vector());
}

}  // namespace
