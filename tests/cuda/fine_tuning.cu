// Fine-tuning on a CUDA device: groups, freezing, averages, accumulation, initialisers and metrics, against the host.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/train/exponential_moving_average.hpp>
#include <mortise/train/gradient_accumulation.hpp>
#include <mortise/train/metrics.hpp>
#include <mortise/train/train_step.hpp>

#include "runs.hpp"

namespace mt = mortise;

namespace {

using body = mt::sequential<mt::conv2d<4, 3>, mt::batch_norm2d, mt::relu>;
template <class Body>
using network = mt::sequential<mt::named<"features", Body>, mt::flatten, mt::named<"classifier", mt::sequential<mt::linear<12>, mt::relu, mt::linear<5>>>>;
using input = mt::extents<1, 6, 6>;
template <class Body, class Device>
using model_of = mt::model<network<Body>, input, Device>;

using runs::distance;
using runs::parameters;
using samples = runs::drawn_batch<input, 5>;

}  // namespace

TEST_CASE("groups, decay and freezing on the device move the parameters as on the host") {
  model_of<body, mt::host> a{mt::host{1}, mt::seed{4}};
  auto b = a.to(mt::cuda{0});
  mt::cross_entropy_loss const loss;
  // sgd: a rule that is linear in the gradient, so that roundings stay roundings.
  auto const tuned = [](auto& net) {
    return mt::optimizer{net, mt::sgd{.lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.01f}, mt::group<"features">{.lr = 0.02f, .momentum = 0.5f},
                         mt::group<"classifier.2">{.momentum = 0}, mt::no_weight_decay<>{}, mt::layer_wise_lr_decay<>{.decay = 0.5f}, mt::freeze<"features.0">{}};
  };
  auto opt_a = tuned(a);
  auto opt_b = tuned(b);
  CHECK(opt_a.group_count >= 7);
  auto const start = parameters(b);
  for (std::uint32_t step = 0; step < 6; ++step) {
    if (step == 3) {
      CHECK(std::vector<float>(start.begin(), start.begin() + 40) == [&] {
        auto now = parameters(b);
        now.resize(40);
        return now;
      }());
      opt_a.unfreeze<"features.0">(true);
      opt_b.unfreeze<"features.0">(true);
    }
    samples const s{8, step};
    mt::train_step(a, loss, opt_a, s.batch());
    mt::train_step(b, loss, opt_b, s.batch());
  }
  CHECK(parameters(b)[0] != start[0]);
  CHECK(distance(parameters(b), parameters(a)) < 1e-4);  // 6 steps of sums of at most 8 * 16 terms, over batch norm: condition below 10
}

TEST_CASE("a frozen part keeps its bits on the device") {
  model_of<mt::frozen<body>, mt::cuda> net{mt::cuda{0}, mt::seed{4}};
  mt::optimizer opt{net, mt::adam{.lr = 0.01f}};
  auto const before = parameters(net);
  for (std::uint32_t step = 0; step < 4; ++step) {
    samples const s{8, step};
    mt::train_step(net, mt::cross_entropy_loss{}, opt, s.batch());
  }
  auto const after = parameters(net);
  CHECK(after[0] != before[0]);
  for (std::size_t i = net.trainable_count; i < after.size(); ++i) CHECK(after[i] == before[i]);
}

TEST_CASE("accumulation and averages: captured steps have the bits of issued ones") {
  model_of<body, mt::cuda> a{mt::cuda{0}, mt::seed{5}}, b{mt::cuda{0}, mt::seed{5}};
  mt::cross_entropy_loss const loss;
  mt::optimizer opt_a{a, mt::adamw{.lr = 0.01f}}, opt_b{b, mt::adamw{.lr = 0.01f}};
  mt::gradient_accumulation sum_a{opt_a, 2}, sum_b{opt_b, 2};
  mt::exponential_moving_average average_a{a, {.decay = 0.5f}}, average_b{b, {.decay = 0.5f}};
  for (std::uint32_t step = 0; step < 10; ++step) {
    samples const s{8, step};
    mt::train_step(a, loss, sum_a, s.batch());
    b.forward(s.batch().x);
    b.backward(loss, s.batch().y);
    sum_b.step();
    if (sum_a.taken() == 0) {
      average_a.update();
      average_b.update();
    }
  }
  CHECK(opt_a.steps() == 5);
  CHECK(parameters(a) == parameters(b));
  CHECK(parameters(average_a) == parameters(average_b));
  auto const trained = parameters(a), averages = parameters(average_a);
  CHECK(trained != averages);
  {
    auto const in = average_a.swapped_in();
    CHECK(parameters(a) == averages);
  }
  CHECK(parameters(a) == trained);
}

TEST_CASE("metrics counted on the device are those of the host") {
  model_of<body, mt::host> a{mt::host{1}, mt::seed{6}};
  auto b = a.to(mt::cuda{0});
  mt::cross_entropy_loss const loss;
  mt::accuracy right_a, right_b;
  mt::top_k_accuracy top_a{2}, top_b{2};
  mt::confusion_matrix matrix_a{5}, matrix_b{5};
  mt::running_mean mean_a, mean_b;
  a.train();
  b.train();
  for (std::uint32_t step = 0; step < 5; ++step) {
    samples s{9, step};
    if (step == 2) s.y[4] = -100;
    a.forward(s.batch().x);
    b.forward(s.batch().x);
    right_a.update(a, s.batch().y);
    right_b.update(b, s.batch().y);
    top_a.update(a, s.batch().y);
    top_b.update(b, s.batch().y);
    matrix_a.update(a, s.batch().y);
    matrix_b.update(b, s.batch().y);
    mean_a.update(a.backward(loss, s.batch().y), 9);
    mean_b.update(b.backward(loss, s.batch().y), 9);
  }
  CHECK(right_b.seen() == 44);
  CHECK(right_a.correct() == right_b.correct());
  CHECK(top_a.correct() == top_b.correct());
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t k = 0; k < 5; ++k) CHECK(matrix_a(i, k) == matrix_b(i, k));
  CHECK(std::abs(mean_a.value() - mean_b.value()) < 1e-5);
  mt::confusion_matrix const copy = matrix_b;
  matrix_b.reset();
  CHECK(copy.accuracy() == matrix_a.accuracy());
  CHECK(matrix_b.accuracy() == 0.0);
}

TEST_CASE("initialisers give a device the numbers of the host") {
  model_of<body, mt::host> a{mt::host{1}, mt::seed{7}};
  model_of<body, mt::cuda> b{mt::cuda{0}, mt::seed{7}};
  auto const both = [&](auto const& how) {
    a.initialize<"**.weight">(how);
    b.initialize<"**.weight">(how);
    CHECK(parameters(a) == parameters(b));
  };
  both(mt::init::xavier_uniform());
  both(mt::init::kaiming_normal());
  both(mt::init::trunc_normal());
  both(mt::init::orthogonal());
  both(mt::init::constant(0.123));
}
