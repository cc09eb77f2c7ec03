#include "../../contract/module.hpp"

#include <cmath>

#include <mortise/module/multihead_attention.hpp>

using mortise::extents;

MODULE_CONTRACT(on_host<mortise::multihead_attention<1>, extents<3, 4>>, on_host<mortise::multihead_attention<3>, extents<5, 6>>,
                on_host<mortise::multihead_attention<2, true>, extents<19, 8>>, on_host<mortise::multihead_attention<2, true, false>, extents<4, 2>>)

namespace {

namespace mt = mortise;

TEST_CASE("causal attention: a position's output does not change with what comes after it") {
  mt::model<mt::multihead_attention<2, true>, extents<9, 8>> net{mt::host{1}, mt::seed{3}};
  net.eval();
  auto x = contract::test_values<float>(9 * 8, 5, 0);
  auto const before = net.forward(x).to_vector();
  for (std::size_t i = 5 * 8; i < x.size(); ++i) x[i] = 100 - x[i];
  auto const after = net.forward(x).to_vector();
  CHECK(contract::same_bits(before.data(), after.data(), 5 * 8));
  CHECK(!contract::same_bits(before.data() + 5 * 8, after.data() + 5 * 8, 4 * 8));
}

TEST_CASE("attention without causality commutes with a permutation of the positions") {
  constexpr std::size_t n = 6, e = 4;
  mt::model<mt::multihead_attention<2>, extents<n, e>, mt::host, double> net{mt::host{1}, mt::seed{3}};
  net.eval();
  auto const x = contract::test_values<double>(n * e, 5, 0);
  auto const y = net.forward(x).to_vector();
  std::vector<double> turned(x.size());
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < e; ++j) turned[i * e + j] = x[(n - 1 - i) * e + j];
  auto const z = net.forward(turned).to_vector();
  // Sums of n or e terms of order 4, in another order.
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < e; ++j) CHECK(std::abs(z[i * e + j] - y[(n - 1 - i) * e + j]) <= 16 * (n + e) * 0x1p-53);
}

TEST_CASE("wrong shapes are refused with a remedy") {
  CHECK(mt::multihead_attention<2>::describe({8}).problem != nullptr);
  CHECK(mt::multihead_attention<3>::describe({5, 8}).problem != nullptr);
  CHECK(mt::multihead_attention<4>::describe({5, 8}).problem == nullptr);
}

}  // namespace
