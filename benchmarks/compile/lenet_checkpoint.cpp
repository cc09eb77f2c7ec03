// Trains LeNet-5 and saves and resumes the run: what readers and writers of all formats add to lenet.cpp.
#include <mortise/mortise.hpp>

#include <cstdio>

namespace mt = mortise;

using lenet = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>,
    mt::flatten, mt::named<"classifier", mt::sequential<mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>>>;

int main() {
  mt::model<lenet, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{42}};
  mt::cross_entropy_loss const loss;
  mt::optimizer optimizer{net, mt::sgd{.lr = 0.01f}};
  std::vector<float> const x(64 * 784, 0.5f);
  std::vector<std::int64_t> const y(64, 3);
  mt::in_memory_dataset<mt::extents<1, 28, 28>> const data{x, y};
  mt::batch_loader loader{data, {.batch = 64, .shuffle = true, .seed = 1}};
  mt::progress progress;
  mt::checkpoint run{net, optimizer, loader, progress};
  for (auto batch : loader) std::printf("%g\n", static_cast<double>(static_cast<float>(mt::train_step(net, loss, optimizer, batch))));
  mt::save("lenet.safetensors", run);
  mt::load("lenet.safetensors", run);
}
