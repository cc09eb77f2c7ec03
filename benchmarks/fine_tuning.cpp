// What fine-tuning costs: a LeNet step with its features frozen against a full one, and an update with many groups against one with none.
//
// fine_tuning [THREADS]            medians of interleaved rounds, so that what else the machine does touches all of them alike
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <mortise/mortise.hpp>

#include "peers/protocol.hpp"

namespace mt = mortise;

namespace {

using features = mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>;
using classifier = mt::sequential<mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>;
template <class Features>
using lenet = mt::model<mt::sequential<mt::named<"features", Features>, mt::flatten, mt::named<"classifier", classifier>>, mt::extents<1, 28, 28>>;
using wide = mt::model<mt::sequential<mt::linear<1024>, mt::relu, mt::linear<1024>, mt::relu, mt::linear<1024>, mt::relu, mt::linear<1024>, mt::relu,
                                      mt::linear<1024>, mt::relu, mt::linear<1024>, mt::relu, mt::linear<1024>, mt::relu, mt::linear<1024>>,
                       mt::extents<1024>>;

struct batch_type {
  mt::view<float const> x;
  mt::view<std::int64_t const> y;
};

struct timed {
  std::string name;
  std::function<void()> step;
  std::vector<double> microseconds{};
  double median() {
    std::nth_element(microseconds.begin(), microseconds.begin() + static_cast<std::ptrdiff_t>(microseconds.size() / 2), microseconds.end());
    return microseconds[microseconds.size() / 2];
  }
};

void run(std::vector<timed>& all, int rounds, int steps) {
  for (timed& t : all) t.step();
  for (int round = 0; round < rounds; ++round)
    for (timed& t : all) {
      auto const start = std::chrono::steady_clock::now();
      for (int i = 0; i < steps; ++i) t.step();
      t.microseconds.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / steps);
    }
  double const first = all[0].median();
  for (timed& t : all) std::printf("  %-58s %10.2f us   %.2fx\n", t.name.c_str(), t.median(), first / t.median());
}

}  // namespace

int main(int argc, char** argv) {
  mt::host const device{argc > 1 ? std::atoi(argv[1]) : 1};
  auto const x = bench::inputs(64 * 784);
  auto const y = bench::targets(64);
  mt::cross_entropy_loss const loss;

  lenet<features> full{device}, late{device};
  lenet<mt::frozen<features>> fixed{device};
  mt::optimizer full_opt{full, mt::sgd{.lr = 0.01f}};
  mt::optimizer fixed_opt{fixed, mt::sgd{.lr = 0.01f}};
  mt::optimizer late_opt{late, mt::sgd{.lr = 0.01f}, mt::freeze<"features">{}};
  std::printf("LeNet-5, batch 64, SGD, %d threads: a training step\n", device.thread_count());
  std::vector<timed> steps;
  steps.push_back({"everything learns", [&] { mt::train_step(full, loss, full_opt, batch_type{x, y}); }});
  steps.push_back({"frozen<features>", [&] { mt::train_step(fixed, loss, fixed_opt, batch_type{x, y}); }});
  steps.push_back({"freeze<\"features\"> at run time", [&] { mt::train_step(late, loss, late_opt, batch_type{x, y}); }});
  run(steps, 100, 10);

  // Reads parameters, gradients and two moments, writes parameters and moments: 28 bytes an element.
  std::printf("an AdamW update alone, LeNet-5 (44,426 parameters)\n");
  mt::optimizer small_one{full, mt::adamw{}};
  mt::optimizer small_many{full, mt::adamw{}, mt::group<"features">{.lr = 1e-4f}, mt::no_weight_decay<>{}, mt::layer_wise_lr_decay<>{}};
  std::vector<timed> small;
  small.push_back({"one group", [&] { small_one.step(); }});
  small.push_back({std::to_string(small_many.group_count) + " groups", [&] { small_many.step(); }});
  run(small, 200, 20);

  wide large{device};
  mt::optimizer large_one{large, mt::adamw{}};
  mt::optimizer large_many{large, mt::adamw{}, mt::no_weight_decay<>{}, mt::layer_wise_lr_decay<>{}};
  std::printf("an AdamW update alone, eight layers of 1024 (%zu parameters)\n", wide::parameter_count);
  std::vector<timed> wides;
  wides.push_back({"one group", [&] { large_one.step(); }});
  wides.push_back({std::to_string(large_many.group_count) + " groups", [&] { large_many.step(); }});
  run(wides, 25, 1);
}
