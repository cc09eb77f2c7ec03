// Nothing is allocated by a training step after the first, nor by an evaluation: counted over everything a step is made of.
#include <cstddef>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/data/batch_loader.hpp>
#include <mortise/data/in_memory_dataset.hpp>
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
#include <mortise/schedule/scheduler.hpp>
#include <mortise/train/metrics.hpp>
#include <mortise/train/train_step.hpp>

namespace mt = mortise;

std::size_t allocations();

TEST_CASE("a training step after the first allocates nothing, nor does an evaluation, with loader, prefetch, schedule and metrics") {
  using network = mt::sequential<mt::named<"features", mt::sequential<mt::conv2d<4, 3>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>>>, mt::flatten, mt::dropout,
                                 mt::linear<10>>;
  constexpr std::size_t samples = 70, batch = 32;
  std::vector<float> x(samples * 32 * 32);
  std::vector<std::int64_t> y(samples);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 13) / 13;
  for (std::size_t i = 0; i < samples; ++i) y[i] = static_cast<std::int64_t>(i % 10);
  mt::in_memory_dataset<mt::extents<1, 32, 32>> const data{x, y};
  // 128 KiB a batch: worth a thread that makes the next one.
  mt::batch_loader loader{data, {.batch = batch, .shuffle = true, .seed = 1}};
  mt::batch_loader test_loader{data, {.batch = batch}};
  mt::model<network, mt::extents<1, 32, 32>> net{mt::host{2}, mt::seed{1}};
  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, mt::chain{mt::clip_grad_norm{.max_norm = 1.0f}, mt::adamw{.lr = 1e-3f}}, mt::group<"features">{.lr = 1e-4f}};
  mt::scheduler schedule{opt, mt::cosine_annealing_lr{.t_max = 10}};
  mt::accuracy seen;
  for (auto first : test_loader) {  // its thread starts here
    static_cast<void>(first);
    break;
  }

  std::size_t before = 0, steps = 0;
  for (int epoch = 0; epoch < 3; ++epoch) {
    for (auto b : loader) {
      float const value = mt::train_step(net, loss, opt, b);
      seen.update(net.output(), b.y);
      CHECK(value > 0);
      if (steps++ == 0) before = allocations();
    }
    schedule.step();
  }
  CHECK(steps == 9);
  CHECK(allocations() == before);

  net.eval();
  before = allocations();
  for (auto b : test_loader) {
    seen.update(net.forward(b.x), b.y);
    float const value = net.evaluate(loss, b.y);
    CHECK(value > 0);
  }
  CHECK(allocations() == before);
}
