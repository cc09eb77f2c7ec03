// Trains ResNet-18 for one step.
#include "../resnet18.hpp"

#include <cstdio>

namespace mt = mortise;

int main() {
  mt::model<benchmarks::resnet18, mt::extents<3, 32, 32>> net{mt::host{}, mt::seed{42}};
  mt::cross_entropy_loss const loss;
  mt::optimizer optimizer{net, mt::sgd{.lr = 0.01f}};
  std::vector<float> const x(32 * 3 * 32 * 32, 0.5f);
  std::vector<std::int64_t> const y(32, 3);
  mt::batch<> const batch{x, y};
  std::printf("%g\n", static_cast<double>(static_cast<float>(mt::train_step(net, loss, optimizer, batch))));
}
