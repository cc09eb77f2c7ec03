// dropout and embedding.
#include "../../contract/module.hpp"

#include <cmath>

#include <mortise/module/dropout.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

using mortise::extents;

MODULE_CONTRACT(on_host<mortise::dropout, extents<37>>, on_host<mortise::dropout_p<1, 4>, extents<3, 5>>, on_host<mortise::embedding<7, 5>, extents<6>, 1, 7>,
                on_host<mortise::embedding<3, 70>, extents<>, 1, 3>)

namespace {

namespace mt = mortise;

TEST_CASE("dropout keeps a fraction 1 - p, scaled so that the mean stays") {
  mt::model<mt::dropout_p<1, 4>, extents<1000>> net{mt::host{1}, mt::seed{5}};
  std::vector<float> const x(200 * 1000, 3.0f);
  auto const y = net.forward(x);
  std::size_t kept = 0;
  for (float const v : y) {
    CHECK_UNARY(v == 0 || v == 4);
    kept += v != 0 ? 1 : 0;
  }
  double const n = static_cast<double>(x.size());
  CHECK(std::abs(static_cast<double>(kept) - 0.75 * n) < 5 * std::sqrt(0.75 * 0.25 * n));
}

TEST_CASE("dropout's extremes: p = 0 keeps all, p = 1 nothing, evaluation changes nothing") {
  mt::model<mt::sequential<mt::named<"drop", mt::dropout>>, extents<33>> net{mt::host{1}, mt::seed{5}};
  CHECK(net.module<"drop">().p == 0.5);
  auto const x = contract::test_values<float>(66, 1, 0);
  net.module<"drop">().p = 0;
  CHECK(net.forward(x).to_vector() == x);
  net.module<"drop">().p = 1;
  CHECK(net.forward(x).to_vector() == std::vector<float>(66, 0.0f));
  net.eval();
  CHECK(net.forward(x).to_vector() == x);
}

TEST_CASE("dropout drops other elements in every step, and the same for an equal seed") {
  using M = mt::model<mt::dropout, extents<64>>;
  std::vector<float> const x(4 * 64, 1.0f);
  M a{mt::host{1}, mt::seed{5}}, b{mt::host{3}, mt::seed{5}}, c{mt::host{1}, mt::seed{6}};
  auto const first = a.forward(x).to_vector(), second = a.forward(x).to_vector();
  CHECK(first != second);
  CHECK(b.forward(x).to_vector() == first);
  CHECK(b.forward(x).to_vector() == second);
  CHECK(c.forward(x).to_vector() != first);
}

TEST_CASE("a batch cut into parts drops the elements that the whole drops") {
  using M = mt::model<mt::dropout, extents<7>>;
  std::vector<float> const x(9 * 7, 1.0f);
  M whole{mt::host{1}, mt::seed{5}};
  auto const y = whole.forward(x).to_vector();
  std::size_t const starts[] = {0, 2, 3, 8, 9};
  for (std::size_t k = 0; k + 1 < 5; ++k) {
    M part{mt::host{1}, mt::seed{5}};
    std::size_t const first = starts[k], size = starts[k + 1] - first;
    auto const z = part.forward_part(mt::view<float const>{x.data() + first * 7, mt::shape{size, 7}}, first);
    CHECK(contract::same_bits(z.data(), y.data() + first * 7, size * 7));
  }
}

TEST_CASE("an index out of range gives NaN, reads nothing, and has no gradient") {
  mt::model<mt::sequential<mt::embedding<3, 4>>, extents<5>> net{mt::host{1}, mt::seed{5}};
  std::vector<std::int64_t> const x{0, 3, -1, 2, std::numeric_limits<std::int64_t>::min()};
  auto const y = net.forward(x).to_vector();
  auto const weight = net.parameter("0.weight").to_vector();
  for (std::size_t k = 0; k < 4; ++k) {
    CHECK(y[0 * 4 + k] == weight[0 * 4 + k]);
    CHECK(std::isnan(y[1 * 4 + k]));
    CHECK(std::isnan(y[2 * 4 + k]));
    CHECK(y[3 * 4 + k] == weight[2 * 4 + k]);
    CHECK(std::isnan(y[4 * 4 + k]));
  }
  std::vector<float> const dy(20, 1.0f);
  net.backward(mt::view<float const>{dy});
  CHECK(net.gradients().to_vector() == std::vector<float>{1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1});
}

TEST_CASE("an embedding's gradient sums rows that occur more than once") {
  mt::model<mt::embedding<4, 2>, extents<3>> net{mt::host{1}, mt::seed{5}};
  std::vector<std::int64_t> const x{1, 3, 1, 1, 0, 3};
  net.forward(x);
  std::vector<float> dy(12);
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(1 << i);
  net.backward(mt::view<float const>{dy});
  CHECK(net.gradients().to_vector() == std::vector<float>{256, 512, 1 + 16 + 64, 2 + 32 + 128, 0, 0, 4 + 1024, 8 + 2048});
}

}  // namespace
