// PyTorch's C++ library without Python: functional calls on leaf tensors, so that nothing but the dispatcher lies between.
//
// libtorch_steps THREADS            variants: optim (torch::optim), foreach (the update as fused list operations), ..._channels_last
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "protocol.hpp"

namespace {

enum class network { tiny, mlp, lenet, lenet_padded };

struct net {
  network kind;
  std::vector<torch::Tensor> p;  // weight, bias, weight, bias, ...

  explicit net(network k) : kind{k} {
    switch (k) {
      case network::tiny: dense({64, 32, 10}); break;
      case network::mlp: dense({784, 512, 512, 10}); break;
      case network::lenet:
      case network::lenet_padded: {
        add({6, 1, 5, 5});
        add({16, 6, 5, 5});
        dense({k == network::lenet ? 256 : 400, 120, 84, 10});
      }
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      auto const fan_in = p[i & ~std::size_t{1}][0].numel();
      bench::fill_parameter(p[i].data_ptr<float>(), static_cast<std::size_t>(p[i].numel()), i, static_cast<std::size_t>(fan_in));
    }
  }
  void add(std::vector<std::int64_t> const& weight) {
    p.push_back(torch::empty(weight));
    p.push_back(torch::empty({weight[0]}));
  }
  void dense(std::vector<std::int64_t> const& sizes) {
    for (std::size_t i = 0; i + 1 < sizes.size(); ++i) add({sizes[i + 1], sizes[i]});
  }
  void channels_last() {
    for (auto& t : p)
      if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
  }
  void require_gradients() {
    for (auto& t : p) t.set_requires_grad(true);
  }
  torch::Tensor input(std::int64_t batch) const {
    std::vector<std::int64_t> shape{batch};
    if (kind == network::tiny) shape.push_back(64);
    else if (kind == network::mlp) shape.push_back(784);
    else shape.insert(shape.end(), {1, 28, 28});
    auto x = torch::empty(shape);
    auto const v = bench::inputs(static_cast<std::size_t>(x.numel()));
    std::memcpy(x.data_ptr(), v.data(), v.size() * sizeof(float));
    return x;
  }
  torch::Tensor forward(torch::Tensor x) const {
    std::size_t i = 0;
    if (kind == network::lenet || kind == network::lenet_padded) {
      std::int64_t const padding = kind == network::lenet ? 0 : 2;
      x = at::max_pool2d(at::conv2d(x, p[0], p[1], 1, padding).relu_(), 2);
      x = at::max_pool2d(at::conv2d(x, p[2], p[3]).relu_(), 2).flatten(1);
      i = 4;
    }
    for (; i + 2 < p.size(); i += 2) x = at::linear(x, p[i], p[i + 1]).relu_();
    return at::linear(x, p[i], p[i + 1]);
  }
};

enum class rule { sgd, adam };

struct training : bench::workload {
  net n;
  torch::Tensor x, y, loss;
  rule r;
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  std::vector<torch::Tensor> gradients, m, v;
  double t = 0;

  training(network k, std::int64_t batch, rule r_, std::string const& variant) : n{k}, x{n.input(batch)}, r{r_} {
    auto const labels = bench::targets(static_cast<std::size_t>(batch));
    y = torch::empty({batch}, torch::kLong);
    std::memcpy(y.data_ptr(), labels.data(), labels.size() * sizeof(std::int64_t));
    if (variant.find("channels_last") != std::string::npos) {
      n.channels_last();
      x = x.contiguous(at::MemoryFormat::ChannelsLast);
    }
    n.require_gradients();
    if (variant.find("optim") != std::string::npos) {
      if (r == rule::sgd) optimizer = std::make_unique<torch::optim::SGD>(n.p, torch::optim::SGDOptions(0.01));
      else optimizer = std::make_unique<torch::optim::Adam>(n.p, torch::optim::AdamOptions(1e-3));
    } else if (r == rule::adam) {
      for (auto const& p : n.p) {
        m.push_back(torch::zeros_like(p));
        v.push_back(torch::zeros_like(p));
      }
    }
  }
  void step() override {
    for (auto& p : n.p) p.mutable_grad().reset();
    loss = at::cross_entropy_loss(n.forward(x), y);
    loss.backward();
    if (optimizer) {
      optimizer->step();
      return;
    }
    torch::NoGradGuard const guard;
    gradients.clear();
    for (auto& p : n.p) gradients.push_back(p.grad());
    if (r == rule::sgd) {
      at::_foreach_add_(n.p, gradients, -0.01);
      return;
    }
    t += 1;
    double const c1 = 1 - std::pow(0.9, t), c2 = 1 - std::pow(0.999, t);
    at::_foreach_mul_(m, 0.9);
    at::_foreach_add_(m, gradients, 0.1);
    at::_foreach_mul_(v, 0.999);
    at::_foreach_addcmul_(v, gradients, gradients, 0.001);
    auto d = at::_foreach_sqrt(v);
    at::_foreach_div_(d, std::sqrt(c2));
    at::_foreach_add_(d, 1e-8);
    at::_foreach_addcdiv_(n.p, m, d, -1e-3 / c1);
  }
  std::vector<double> values() override { return {loss.item<double>()}; }
};

struct inference : bench::workload {
  net n;
  torch::Tensor x, y;
  inference(network k, std::string const& variant) : n{k}, x{n.input(1)} {
    if (variant.find("channels_last") != std::string::npos) {
      n.channels_last();
      x = x.contiguous(at::MemoryFormat::ChannelsLast);
    }
  }
  void step() override {
    c10::InferenceMode const guard;
    y = n.forward(x);
  }
  std::vector<double> values() override {
    auto const f = y.flatten();
    return std::vector<double>(f.data_ptr<float>(), f.data_ptr<float>() + f.numel());
  }
};

}  // namespace

int main(int argc, char** argv) {
  int const threads = argc > 1 ? std::atoi(argv[1]) : 1;
  at::set_num_threads(threads);
  at::set_num_interop_threads(1);
  std::vector<bench::entry> entries;
  auto train = [&](char const* name, network k, std::int64_t batch, rule r) {
    for (std::string const variant : {"optim", "foreach", "foreach_channels_last"}) {
      if (variant == "foreach_channels_last" && k != network::lenet && k != network::lenet_padded) continue;
      entries.push_back({name, variant, [=] { return std::make_unique<training>(k, batch, r, variant); }});
    }
  };
  train("tiny_16_sgd", network::tiny, 16, rule::sgd);
  train("tiny_16_adam", network::tiny, 16, rule::adam);
  train("mlp_64_sgd", network::mlp, 64, rule::sgd);
  train("mlp_64_adam", network::mlp, 64, rule::adam);
  train("mlp_1024_sgd", network::mlp, 1024, rule::sgd);
  train("mlp_1024_adam", network::mlp, 1024, rule::adam);
  train("lenet_64_sgd", network::lenet, 64, rule::sgd);
  train("lenet_64_adam", network::lenet, 64, rule::adam);
  train("lenet_padded_64_sgd", network::lenet_padded, 64, rule::sgd);
  auto infer = [&](char const* name, network k) {
    for (std::string const variant : {"plain", "channels_last"}) {
      if (variant == "channels_last" && k != network::lenet) continue;
      entries.push_back({name, variant, [=] { return std::make_unique<inference>(k, variant); }});
    }
  };
  infer("mlp_1", network::mlp);
  infer("tiny_1", network::tiny);
  infer("lenet_1", network::lenet);
  return bench::serve(entries);
}
