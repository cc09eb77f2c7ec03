// The same program with libtorch.
#include <torch/torch.h>

#include <cstdio>

int main() {
  namespace nn = torch::nn;
  nn::Sequential net(nn::Conv2d(1, 6, 5), nn::ReLU(), nn::MaxPool2d(2), nn::Conv2d(6, 16, 5), nn::ReLU(), nn::MaxPool2d(2), nn::Flatten(),
                     nn::Linear(256, 120), nn::ReLU(), nn::Linear(120, 84), nn::ReLU(), nn::Linear(84, 10));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.01));
  auto const x = torch::full({64, 1, 28, 28}, 0.5);
  auto const y = torch::full({64}, 3, torch::kLong);
  optimizer.zero_grad();
  auto const loss = nn::functional::cross_entropy(net->forward(x), y);
  loss.backward();
  optimizer.step();
  std::printf("%g\n", loss.item<double>());
}
