// Fine-tuning as a run: what is frozen stays and costs nothing, and whatever is going on resumes with the same bits.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <mortise/model/model.hpp>
#include <mortise/model/summary.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/schedule/scheduler.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/exponential_moving_average.hpp>
#include <mortise/train/gradient_accumulation.hpp>
#include <mortise/train/progress.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using body = mt::sequential<mt::conv2d<4, 3>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>, mt::dropout, mt::conv2d<6, 2>, mt::relu>;
using head = mt::sequential<mt::linear<12>, mt::relu, mt::linear<3>>;
template <class Body>
using network = mt::sequential<mt::named<"features", Body>, mt::flatten, mt::named<"classifier", head>>;
using input = mt::extents<1, 8, 8>;
using full_model = mt::model<network<body>, input>;
using frozen_model = mt::model<network<mt::frozen<body>>, input>;

/// A step's gradients, from numbers that depend on the step alone.
template <class Net>
void backward(Net& net, std::int64_t step, std::size_t batch = 4) {
  std::vector<float> x(batch * 64), dy(batch * 3);
  mt::random_stream const numbers{11, 1, static_cast<std::uint32_t>(step)};
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(i) - 0.5f;
  net.train();
  auto const y = net.forward(x);
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = 0.25f * (y[i] - numbers.normal(10000 + i));
  net.backward(mt::view<float const>{dy});
}

/// Gradual unfreezing with all that can be in a run.
struct gradual_run {
  static constexpr std::int64_t steps = 14;
  using optimizer_type = mt::optimizer<full_model, mt::adamw, mt::group<"features">, mt::group<"classifier.2">, mt::no_weight_decay<>, mt::freeze<"features">>;

  full_model net;
  optimizer_type opt{net, {.lr = 0.01f, .weight_decay = 0.1f}, mt::group<"features">{.lr = 0.003f, .betas = {{0.8f, 0.9f}}}, {.weight_decay = 0}, {}, {}};
  mt::gradient_accumulation<optimizer_type> accumulate{opt, 2};
  mt::scheduler<optimizer_type, mt::cosine_annealing_lr, mt::linear_lr, mt::constant_rate> schedule{opt, {.t_max = 9}, {.total_iters = 6}, {}};
  mt::exponential_moving_average<full_model> average{net, {.decay = 0.75f}};
  mt::progress progress{};

  explicit gradual_run(std::uint64_t seed) : net{mt::host{1}, mt::seed{seed}} {}
  auto checkpoint() { return mt::checkpoint{net, opt, accumulate, schedule, average, progress}; }
  void go_to(std::int64_t end) {
    for (; progress.global_step < end; ++progress.global_step) {
      if (progress.global_step == 4) opt.unfreeze<"features.5">();
      if (progress.global_step == 8) opt.unfreeze<"features">(true);
      if (progress.global_step == 11) opt.freeze<"features.0">();
      backward(net, progress.global_step);
      if (accumulate.step()) {
        average.update();
        schedule.step();
      }
    }
  }
};

}  // namespace

TEST_CASE("a frozen part has no gradients, no state, no saved values, and keeps its bits") {
  frozen_model net{mt::host{1}, mt::seed{2}};
  full_model full{mt::host{1}, mt::seed{2}};
  constexpr std::size_t head_size = 24 * 12 + 12 + 12 * 3 + 3;
  static_assert(frozen_model::trainable_count == head_size);
  mt::optimizer opt{net, mt::adam{.lr = 0.01f}};
  mt::optimizer all{full, mt::adam{}};
  CHECK(net.gradients().size() == head_size);
  CHECK(opt.state_bytes() == 2 * head_size * sizeof(float));
  CHECK(all.state_bytes() == 2 * full_model::parameter_count * sizeof(float));
  CHECK(opt.parameter_count == 4);

  std::size_t frozen_nodes = 0;
  for (auto const& n : frozen_model::plan_type::tables.nodes) {
    if (!n.frozen) continue;
    ++frozen_nodes;
    CHECK_FALSE(n.runs_backward);
    CHECK(n.saved_at.where == mt::detail::place::kind::none);
    CHECK(n.saved_bytes_at.where == mt::detail::place::kind::none);
    auto const& out = frozen_model::plan_type::tables.tensors[frozen_model::plan_type::tables.edges[n.edge + n.inputs]];
    CHECK(out.gradient.where == mt::detail::place::kind::none);
  }
  CHECK(frozen_nodes == 7);
  // What training needs beyond evaluation is the head's: its input, its values, their gradients.
  std::size_t const extra = frozen_model::activation_bytes(100, true) - frozen_model::activation_bytes(100, false);
  CHECK(extra <= 100 * (24 + 2 * (12 + 12 + 3)) * sizeof(float) + 16 * 64 * sizeof(float));
  CHECK(frozen_model::activation_bytes(100, true) < full_model::activation_bytes(100, true));

  auto const before = net.parameters().to_vector();
  auto const statistics = net.buffers().to_vector();
  for (int step = 0; step < 5; ++step) {
    backward(net, step);
    opt.step();
  }
  auto const after = net.parameters().to_vector();
  CHECK(std::memcmp(after.data() + head_size, before.data() + head_size, (after.size() - head_size) * sizeof(float)) == 0);
  CHECK(after[0] != before[0]);
  CHECK(net.buffers().to_vector() == statistics);
  CHECK(net.counter("features.1.num_batches_tracked")[0] == 0);
}

TEST_CASE("a frozen part gives in training what it gives in evaluation") {
  frozen_model net{mt::host{1}, mt::seed{2}};
  std::vector<float> const x(3 * 64, 0.25f);
  net.train();
  auto const training = net.forward(x).to_vector();
  net.eval();
  CHECK(net.forward(x).to_vector() == training);  // no dropout, running statistics
}

TEST_CASE("gradual unfreezing resumes at every step with the same bits") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  gradual_run whole{1};
  auto const start = whole.net.parameter("features.0.weight").to_vector();
  whole.go_to(7);
  CHECK(whole.net.parameter("features.0.weight").to_vector() == start);
  CHECK(whole.accumulate.taken() == 1);
  whole.go_to(gradual_run::steps);
  CHECK(whole.net.parameter("features.0.weight").to_vector() != start);
  for (std::int64_t stop = 0; stop <= gradual_run::steps; ++stop) {
    CAPTURE(stop);
    {
      gradual_run first{1};
      first.go_to(stop);
      auto run = first.checkpoint();
      mt::save(path, run);
    }
    gradual_run second{77};
    auto run = second.checkpoint();
    CHECK(mt::load(path, run).complete());
    second.go_to(gradual_run::steps);
    CHECK(second.net.parameters().to_vector() == whole.net.parameters().to_vector());
    CHECK(second.net.buffers().to_vector() == whole.net.buffers().to_vector());
    CHECK(second.average.parameters().to_vector() == whole.average.parameters().to_vector());
    for (std::size_t g = 0; g < gradual_run::optimizer_type::group_count; ++g) CHECK(second.opt.learning_rate(g) == whole.opt.learning_rate(g));
    for (std::size_t i = 0; i < gradual_run::optimizer_type::parameter_count; ++i) {
      CHECK(second.opt.is_frozen(i) == whole.opt.is_frozen(i));
      CHECK(second.opt.updates(i) == whole.opt.updates(i));
    }
  }
}

TEST_CASE("the summary shows the group of each parameter, and what each group is") {
  frozen_model net;
  mt::optimizer opt{net, mt::adamw{.lr = 0.01f}, mt::group<"classifier.2">{.lr = 0.1f, .betas = {{0.8f, 0.9f}}}, mt::no_weight_decay<>{}, mt::freeze<"classifier.0.weight">{}};
  std::string const text = mt::summary(net, opt);
  INFO(text);
  for (char const* words : {"features.0.weight    (4, 1, 3, 3)      36  - (frozen by its type)", "classifier.0.weight  (12, 24)         288  0 (frozen)",
                            "classifier.0.bias    (12)              12  2\n", "classifier.2.bias    (3)                3  3\n",
                            "group 0: the rest: lr 0.01, betas (0.9, 0.999), eps 1e-08, weight_decay 0.01\n", "group 1: \"classifier.2\": lr 0.1, betas (0.8, 0.9)",
                            "group 3: \"classifier.2\", no weight decay: lr 0.1, betas (0.8, 0.9), eps 1e-08, weight_decay 0\n", "optimizer state: 2.6 KiB"})
    CHECK_MESSAGE(text.find(words) != std::string::npos, words);
}

TEST_CASE("state is kept through a freeze, or started anew, as the caller says") {
  full_model kept{mt::host{1}, mt::seed{3}};
  full_model anew{mt::host{1}, mt::seed{3}};
  mt::optimizer a{kept, mt::sgd{.lr = 0.01f, .momentum = 0.9f}};
  mt::optimizer b{anew, mt::sgd{.lr = 0.01f, .momentum = 0.9f}};
  backward(kept, 0);
  backward(anew, 0);
  a.step();
  b.step();
  a.freeze<"features">();
  b.freeze<"features">();
  auto const momentum = a.state("momentum_buffer")[0];
  CHECK(momentum != 0.0f);
  a.unfreeze<"features">();
  b.unfreeze<"features">(true);
  CHECK(a.state("momentum_buffer")[0] == momentum);
  CHECK(b.state("momentum_buffer")[0] == 0.0f);
  CHECK(a.updates(0) == 1);
  CHECK(b.updates(0) == 0);
  CHECK(b.updates(a.parameter_count - 1) == 1);
}

TEST_CASE("averages follow the parameters, and stand in for them while they are swapped in") {
  full_model net{mt::host{1}, mt::seed{4}};
  mt::optimizer opt{net, mt::sgd{.lr = 0.1f}};
  mt::exponential_moving_average average{net, {.decay = 0.9f}};
  std::vector<double> expected;
  for (int step = 0; step < 20; ++step) {
    backward(net, step);
    opt.step();
    average.update();
    auto const p = net.parameters().to_vector();
    if (step == 0) expected.assign(p.begin(), p.end());
    for (std::size_t i = 0; i < p.size(); ++i) expected[i] = 0.9 * expected[i] + 0.1 * static_cast<double>(p[i]);
  }
  auto const averages = average.parameters().to_vector();
  // Each update rounds three times; a rounding of step s has shrunk by 0.9^(20 - s): at most 3 / (1 - 0.9) of them are there at the end.
  for (std::size_t i = 0; i < averages.size(); ++i)
    CHECK(std::fabs(static_cast<double>(averages[i]) - expected[i]) <= 30 * 1.2e-7 * (std::fabs(expected[i]) + 0.1));
  CHECK(average.updates() == 20);

  auto const trained = net.parameters().to_vector();
  {
    auto const in = average.swapped_in();
    CHECK(net.parameters().to_vector() == averages);
    CHECK_THROWS_AS(average.update(), mt::usage_error);
    CHECK_THROWS_AS(average.parameters(), mt::usage_error);  // and so a checkpoint cannot mistake the one for the other
  }
  CHECK(net.parameters().to_vector() == trained);
  CHECK(average.parameters().to_vector() == averages);

  temporary_folder const folder;
  std::string const path = folder.file("averaged.safetensors");
  mt::save(path, average);
  full_model other{mt::host{1}, mt::seed{5}};
  CHECK(mt::load(path, other).complete());
  CHECK(other.parameters().to_vector() == averages);
  CHECK(other.buffers().to_vector() == net.buffers().to_vector());
}

TEST_CASE("accumulated gradients are the mean of the batches'") {
  using plain = mt::model<mt::sequential<mt::flatten, mt::linear<3>>, input>;
  plain net{mt::host{1}, mt::seed{6}};
  mt::optimizer opt{net, mt::sgd{.lr = 1}};
  mt::gradient_accumulation accumulate{opt, 3};
  auto const before = net.parameters().to_vector();
  std::vector<double> sum(before.size());
  for (int batch = 0; batch < 3; ++batch) {
    backward(net, batch);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(net.gradients()[i]);
    CHECK(accumulate.step() == (batch == 2));
    bool const moved = net.parameters().to_vector() != before;
    CHECK(moved == (batch == 2));
  }
  CHECK(opt.steps() == 1);
  for (std::size_t i = 0; i < sum.size(); ++i)  // a sum of three, a product, a difference
    CHECK(std::fabs(static_cast<double>(net.parameters()[i]) - (static_cast<double>(before[i]) - sum[i] / 3)) <= 6 * 6e-8 * (std::fabs(sum[i]) + 1));
  backward(net, 4);
  auto const gradient = net.gradients().to_vector();
  auto const now = net.parameters().to_vector();
  accumulate.step();
  accumulate.finish();
  CHECK(opt.steps() == 2);
  CHECK(net.parameters()[5] == now[5] - gradient[5]);
  accumulate.finish();
  CHECK(opt.steps() == 2);
  CHECK_THROWS_AS((mt::gradient_accumulation{opt, 0}), mt::usage_error);
}
