// A training run in which one CUDA call fails, wherever the emulator was told to let it fail (check_faults.py).
//
//   cuda_faults CHECKPOINT          prints "failed: <name of the error>" for each error that was thrown, then "digest: <parameters at the end>"
//
// After an error the run goes on as a user's would: the same objects, the last checkpoint. Exit status 3: an error of another type than cuda_error.
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/state_dict.hpp>

namespace mt = mortise;

namespace {

using network = mt::sequential<mt::conv2d<3, 3, 1, 1>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>, mt::flatten, mt::dropout, mt::linear<9>,
                               mt::layer_norm, mt::linear<10>>;
using model = mt::model<network, mt::extents<1, 6, 6>, mt::cuda>;
using rule = mt::chain<mt::clip_grad_norm, mt::adamw>;

struct batch {
  mt::view<float const> x;
  mt::view<std::int64_t const> y;
};

/// Nine steps: issued, captured and launched again, for two batch sizes.
template <class Optimizer>
void train(model& net, Optimizer& opt) {
  mt::cross_entropy_loss loss;
  mt::random_stream const numbers{7, 1, 0};
  for (std::size_t step = 0; step < 9; ++step) {
    std::size_t const n = step == 3 ? 2 : 4;
    std::vector<float> x(n * 36);
    std::vector<std::int64_t> y(n);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(1000 * step + i);
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<std::int64_t>((step + i) % 10);
    float const value = mt::train_step(net, loss, opt, batch{{x.data(), mt::shape{n, 1, 6, 6}}, {y.data(), mt::shape{n}}});
    if (!(value > 0)) std::puts("a loss that is none");
  }
}

/// Runs f again, up to three times, where a CUDA error comes out of it.
template <class F>
void with_errors_told(F const& f) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    try {
      return f();
    } catch (mt::cuda_error const& e) {
      std::printf("failed: %s (%s)\n", e.name.c_str(), e.call.c_str());
      if (cudaGetLastError() != cudaSuccess) std::puts("the error was not cleared");
    }
  }
  throw mt::usage_error("one failure, three errors");
}

}  // namespace

int main(int, char** argv) try {
  std::string const file = argv[1];
  std::string digest;
  with_errors_told([&] {
    model net{mt::cuda{0}, mt::seed{1}};
    mt::optimizer opt{net, rule{mt::clip_grad_norm{.max_norm = 1}, mt::adamw{.lr = 1e-2f}}};
    mt::checkpoint run{net, opt};
    mt::save(file, run);
    with_errors_told([&] {
      mt::load(file, run);
      train(net, opt);
      digest = mt::parameters_digest(net);
    });
    mt::load(file, run);  // still whole
  });
  std::printf("digest: %s\n", digest.c_str());
  return 0;
} catch (std::exception const& e) {
  std::printf("other: %s\n", e.what());
  return 3;
}
