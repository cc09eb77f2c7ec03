#include <mortise/optimizer/adadelta.hpp>
#include <mortise/optimizer/adagrad.hpp>
#include <mortise/optimizer/lion.hpp>
#include <mortise/optimizer/nadam.hpp>
#include <mortise/optimizer/radam.hpp>
#include <mortise/optimizer/rmsprop.hpp>

#include "pytorch.hpp"

using pytorch::check;

TEST_CASE("rmsprop makes PyTorch's steps") {
  check("rmsprop", mt::rmsprop{.lr = 0.01f});
  check("rmsprop_momentum", mt::rmsprop{.lr = 0.01f, .alpha = 0.9f, .weight_decay = 0.01f, .momentum = 0.9f});
  check("rmsprop_centered", mt::rmsprop{.lr = 0.01f, .momentum = 0.5f, .centered = true});
}
TEST_CASE("adagrad makes PyTorch's steps") {
  check("adagrad", mt::adagrad{});
  check("adagrad_all", mt::adagrad{.lr = 0.05f, .lr_decay = 0.1f, .weight_decay = 0.01f, .initial_accumulator_value = 0.5f});
}
TEST_CASE("adadelta makes PyTorch's steps") {
  check("adadelta", mt::adadelta{});
  check("adadelta_all", mt::adadelta{.lr = 0.5f, .rho = 0.8f, .eps = 1e-5f, .weight_decay = 0.01f});
}
TEST_CASE("radam makes PyTorch's steps") {
  check("radam", mt::radam{});
  check("radam_all", mt::radam{.lr = 0.01f, .betas = {0.8f, 0.95f}, .weight_decay = 0.01f});
}
TEST_CASE("nadam makes PyTorch's steps") {
  check("nadam", mt::nadam{});
  check("nadam_all", mt::nadam{.lr = 0.01f, .betas = {0.8f, 0.95f}, .weight_decay = 0.01f, .momentum_decay = 0.01f});
}
TEST_CASE("lion makes the steps of its paper's algorithm") {
  // PyTorch has none: the algorithm in plain double, for one parameter.
  fake_model<double> net;
  net.values[0] = 0.5;
  mt::optimizer opt{net, mt::lion{.lr = 0.01f, .weight_decay = 0.1f}};
  double p = 0.5, m = 0;
  for (int t = 1; t <= 100; ++t) {
    double const g = std::sin(0.7 * t) + 0.2;
    net.slopes[0] = g;
    opt.step();
    double const c = 0.9 * m + (1 - 0.9) * g;
    p -= 0.01 * ((c > 0 ? 1.0 : -1.0) + 0.1 * p);
    m = 0.99 * m + (1 - 0.99) * g;
  }
  CHECK(net.values[0] == doctest::Approx(p).epsilon(1e-13));
}
