// Training steps of a network, for cuda_counts.py to count.
//
//   counted_steps mlp|lenet|block STEPS
//
// Batches change every step, as a loader's do; the loss is not read.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/multihead_attention.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>

namespace mt = mortise;

namespace {

using mlp = mt::sequential<mt::linear<512>, mt::relu, mt::linear<512>, mt::relu, mt::linear<10>>;
using lenet = mt::sequential<mt::conv2d<6, 5>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>, mt::flatten,
                             mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>;
// The first layer is a linear one, so that every norm has an input gradient to write.
using block = mt::sequential<mt::linear<128>, mt::residual<mt::sequential<mt::layer_norm, mt::multihead_attention<4, true>>>,
                             mt::residual<mt::sequential<mt::layer_norm, mt::linear<512>, mt::gelu, mt::linear<128>>>, mt::layer_norm, mt::flatten, mt::linear<10>>;

struct batch {
  mt::view<float const> x;
  mt::view<std::int64_t const> y;
};

template <class Network, class Input>
void run(std::size_t samples, int steps) {
  mt::model<Network, Input, mt::cuda> net{mt::cuda{0}, mt::seed{1}};
  mt::optimizer opt{net, mt::adamw{.lr = 1e-3f}};
  mt::cross_entropy_loss loss;
  std::vector<float> x(samples * Input::elements);
  std::vector<std::int64_t> y(samples);
  for (int step = 0; step < steps; ++step) {
    mt::random_stream const numbers{7, 1, static_cast<std::uint32_t>(step)};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(i);
    for (std::size_t i = 0; i < samples; ++i) y[i] = static_cast<std::int64_t>(numbers.bits(i) % 10);
    mt::train_step(net, loss, opt, batch{{x.data(), Input::value.with_batch(samples)}, {y.data(), mt::shape{samples}}});
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string const name = argc > 1 ? argv[1] : "";
  int const steps = argc > 2 ? std::atoi(argv[2]) : 0;
  if (name == "mlp") run<mlp, mt::extents<784>>(64, steps);
  else if (name == "lenet") run<lenet, mt::extents<1, 28, 28>>(64, steps);
  else if (name == "block") run<block, mt::extents<64, 128>>(8, steps);
  else return std::puts("counted_steps mlp|lenet|block STEPS"), 2;
  return 0;
}
