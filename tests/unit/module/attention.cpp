#include "../../contract/module.hpp"

#include <cmath>

#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/multihead_attention.hpp>
#include <mortise/module/position_embedding.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/transpose.hpp>

using mortise::extents;

MODULE_CONTRACT(on_host<mortise::multihead_attention<1>, extents<3, 4>>, on_host<mortise::multihead_attention<3>, extents<5, 6>>,
                on_host<mortise::multihead_attention<2, true>, extents<19, 8>>, on_host<mortise::multihead_attention<2, true, false>, extents<4, 2>>)
MODULE_CONTRACT(on_host<mortise::transpose, extents<3, 5>>, on_host<mortise::transpose, extents<37, 16>>, on_host<mortise::transpose, extents<1, 4>>)
MODULE_CONTRACT(on_host<mortise::position_embedding, extents<3, 5>>, on_host<mortise::position_embedding, extents<37>>)

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

TEST_CASE("transpose swaps the axes of every sample") {
  constexpr std::size_t rows = 19, columns = 33, batch = 3;
  mt::model<mt::transpose, extents<rows, columns>> net{mt::host{1}};
  auto const x = contract::test_values<float>(batch * rows * columns, 5, 0);
  auto const y = net.forward(x).to_vector();
  std::size_t wrong = 0;
  for (std::size_t b = 0; b < batch; ++b)
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < columns; ++j) wrong += y[(b * columns + j) * rows + i] != x[(b * rows + i) * columns + j];
  CHECK(wrong == 0);
}

TEST_CASE("position_embedding adds its weight to every sample") {
  mt::model<mt::position_embedding, extents<3, 7>> net{mt::host{1}, mt::seed{3}};
  auto const x = contract::test_values<float>(4 * 21, 5, 0);
  auto const y = net.forward(x).to_vector();
  auto const weight = net.parameter("weight");
  REQUIRE(weight.extents() == mt::shape{3, 7});
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == x[i] + weight.data()[i % 21]);
}

TEST_CASE("a class for each position: behind transpose the loss is the one of the positions as samples") {
  constexpr std::size_t length = 6, batch = 4, classes = 5;
  using layers = mt::sequential<mt::embedding<7, 8>, mt::linear<classes>>;
  mt::model<mt::sequential<layers, mt::transpose>, extents<length>, mt::host, double> sequences{mt::host{1}, mt::seed{3}};
  mt::model<mt::sequential<layers, mt::identity>, extents<>, mt::host, double> positions{mt::host{1}, mt::seed{3}};
  auto const x = contract::test_values<std::int64_t>(batch * length, 5, 7);
  auto const target = contract::test_values<std::int64_t>(batch * length, 6, classes);
  mt::cross_entropy_loss const loss;
  sequences.forward(x);
  positions.forward(x);
  // The same numbers; only the two losses' sums may run in another order: 24 terms of about two.
  CHECK(std::abs(static_cast<double>(sequences.backward(loss, target)) - static_cast<double>(positions.backward(loss, target))) <= 24 * 4 * 0x1p-53);
  for (std::size_t i = 0; i < sequences.gradients().size(); ++i)
    CHECK(std::abs(sequences.gradients().data()[i] - positions.gradients().data()[i]) <= 24 * 4 * 0x1p-53);
}

TEST_CASE("wrong shapes are refused with a remedy") {
  CHECK(mt::transpose::describe({8}).problem != nullptr);
  CHECK(mt::transpose::describe({2, 3, 8}).problem != nullptr);
  CHECK(mt::multihead_attention<2>::describe({8}).problem != nullptr);
  CHECK(mt::multihead_attention<3>::describe({5, 8}).problem != nullptr);
  CHECK(mt::multihead_attention<4>::describe({5, 8}).problem == nullptr);
}

}  // namespace
