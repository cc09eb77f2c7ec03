// Networks on a CUDA device against the same networks on the host.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/train/train_step.hpp>

#include "runs.hpp"

namespace mt = mortise;

namespace {

using digits = mt::sequential<mt::conv2d<4, 3, 1, 1>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>, mt::conv2d<6, 3>, mt::relu, mt::flatten,
                              mt::dropout, mt::linear<16>, mt::relu, mt::linear<10>>;
using input = mt::extents<1, 8, 8>;
using on_host = mt::model<digits, input>;
using on_cuda = mt::model<digits, input, mt::cuda>;

using runs::distance;
using runs::parameters;
using data = runs::drawn_batch<input, 10>;

// Sums of at most 9 * 4 + 32 * 16 terms a layer, six layers, each with condition below 8 for these inputs.
constexpr double rounding = 6 * 8 * 548 * 6e-8;

}  // namespace

TEST_CASE("a model drawn on the device has the host's bits") {
  on_host a{mt::host{1}, mt::seed{3}};
  on_cuda b{mt::cuda{0}, mt::seed{3}};
  CHECK(parameters(a) == parameters(b));
}

TEST_CASE("a model that went to the device and back has its bits") {
  on_host a{mt::host{1}, mt::seed{4}};
  on_cuda b = a.to(mt::cuda{0});
  on_host c = b.to(mt::host{1});
  CHECK(parameters(a) == parameters(b));
  CHECK(parameters(a) == parameters(c));
  if (mt::cuda::device_count() > 1) CHECK(parameters(b.to(mt::cuda{1})) == parameters(a));
  auto const wide = b.to<double>().to<float>();
  CHECK(parameters(wide) == parameters(a));
}

TEST_CASE("forward, backward and update agree with the host within rounding") {
  on_host a{mt::host{1}, mt::seed{5}};
  on_cuda b = a.to(mt::cuda{0});
  mt::cross_entropy_loss const loss;
  mt::optimizer adam_a{a, mt::adamw{.lr = 1e-3}};
  mt::optimizer adam_b{b, mt::adamw{.lr = 1e-3}};
  for (std::uint32_t step = 0; step < 3; ++step) {
    data const d{13, step};
    auto const batch = d.batch();
    a.forward(batch.x);
    b.forward(batch.x);
    CHECK(distance(mt::to_host(b.device(), b.output()), a.output().to_vector()) < rounding);
    float const value_a = a.backward(loss, batch.y), value_b = b.backward(loss, batch.y);
    CHECK(std::abs(value_a - value_b) < rounding * std::abs(value_a));
    CHECK(distance(mt::to_host(b.device(), b.gradients()), a.gradients().to_vector()) < rounding);
    adam_a.step();
    adam_b.step();
    // Adam divides by the gradient's size: elements near zero may move by 2 lr either way.
    CHECK(distance(parameters(b), parameters(a)) < 1e-2);
    b = a.to(mt::cuda{0});
  }
  a.eval();
  b.eval();
  data const d{5, 9};
  CHECK(distance(mt::to_host(b.device(), b.forward(d.batch().x)), a.forward(d.batch().x).to_vector()) < rounding);
}

TEST_CASE("a captured step has the bits of an issued one, with dropout, for every batch size") {
  on_cuda a{mt::cuda{0}, mt::seed{6}}, b{mt::cuda{0}, mt::seed{6}};
  mt::cross_entropy_loss const loss;
  mt::optimizer opt_a{a, mt::adamw{.lr = 1e-2}};
  mt::optimizer opt_b{b, mt::adamw{.lr = 1e-2}};
  for (std::uint32_t step = 0; step < 14; ++step) {
    data const d{step % 7 == 6 ? 5u : 8u, step};
    float const value_a = mt::train_step(a, loss, opt_a, d.batch());
    b.forward(d.batch().x);
    float const value_b = b.backward(loss, d.batch().y);
    opt_b.step();
    CHECK(value_a == value_b);
    if (step == 9) {
      opt_a.set_learning_rate(3e-3);
      opt_b.set_learning_rate(3e-3);
    }
  }
  CHECK(parameters(a) == parameters(b));
}

TEST_CASE("gradient clipping stays on the device and agrees with the host") {
  on_host a{mt::host{1}, mt::seed{8}};
  on_cuda b = a.to(mt::cuda{0});
  mt::cross_entropy_loss const loss;
  using rule = mt::chain<mt::clip_grad_norm, mt::trace, mt::scale_by_learning_rate>;
  mt::optimizer opt_a{a, rule{mt::clip_grad_norm{.max_norm = 0.5}, mt::trace{}, mt::scale_by_learning_rate{.lr = 0.1}}};
  mt::optimizer opt_b{b, rule{mt::clip_grad_norm{.max_norm = 0.5}, mt::trace{}, mt::scale_by_learning_rate{.lr = 0.1}}};
  data const d{9, 2};
  mt::train_step(a, loss, opt_a, d.batch());
  mt::train_step(b, loss, opt_b, d.batch());
  CHECK(distance(parameters(b), parameters(a)) < rounding);
}

TEST_CASE("a class index out of range shows as NaN and harms nothing else") {
  on_cuda b{mt::cuda{0}, mt::seed{3}};
  data d{4, 0};
  d.y[2] = 10;
  b.forward(d.batch().x);
  float const value = b.backward(mt::cross_entropy_loss{}, d.batch().y);
  CHECK(std::isnan(value));
}
