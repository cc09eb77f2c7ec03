// RLtools (github.com/rl-tools/rl-tools): networks with static shapes too, over OpenBLAS's small-matrix kernels. The tiny network only.
//
// rltools_steps         built with -O3 -march=native -fno-math-errno -fno-trapping-math, as its speed needs; steps at -O2 are another program
#define RL_TOOLS_BACKEND_ENABLE_OPENBLAS
#include <rl_tools/operations/cpu_mux.h>

#include <rl_tools/nn/optimizers/adam/instance/operations_generic.h>
#include <rl_tools/nn/operations_cpu_mux.h>
#include <rl_tools/nn/loss_functions/categorical_cross_entropy/operations_generic.h>
#include <rl_tools/nn_models/operations_generic.h>
#include <rl_tools/nn_models/mlp/operations_generic.h>
#include <rl_tools/nn/optimizers/adam/operations_generic.h>

#include <string>
#include <vector>

#include "protocol.hpp"

namespace rlt = rl_tools;

namespace {

using device_type = rlt::devices::DEVICE_FACTORY<>;
using index = device_type::index_t;
using policy = rlt::numeric_types::Policy<float>;

constexpr index batch = 16, inputs = 64, hidden = 32, outputs = 10;

using optimizer_type =
    rlt::nn::optimizers::Adam<rlt::nn::optimizers::adam::Specification<policy, index, rlt::nn::optimizers::adam::DEFAULT_PARAMETERS_PYTORCH<policy>, true>>;
using configuration =
    rlt::nn_models::mlp::Configuration<policy, index, outputs, 2, hidden, rlt::nn::activation_functions::RELU, rlt::nn::activation_functions::IDENTITY>;
using network = rlt::nn_models::mlp::NeuralNetwork<configuration, rlt::nn::capability::Gradient<rlt::nn::parameters::Adam, true>,
                                                   rlt::tensor::Shape<index, 1, batch, inputs>>;
// Allocated, since its functions take matrices by value: copies of handles then, of contents otherwise.
template <index Rows, index Columns, class T = float>
using matrix = rlt::Matrix<rlt::matrix::Specification<T, index, Rows, Columns, true>>;

template <class Layer>
void fill(device_type& device, Layer& layer, std::uint64_t tensor, std::size_t out, std::size_t in) {
  std::vector<float> w(out * in), b(out);
  bench::fill_parameter(w.data(), w.size(), tensor, in);
  bench::fill_parameter(b.data(), b.size(), tensor + 1, in);
  for (std::size_t o = 0; o < out; ++o) {
    for (std::size_t i = 0; i < in; ++i) rlt::set(device, layer.weights.parameters, w[o * in + i], o, i);
    rlt::set(device, layer.biases.parameters, b[o], o);
  }
}

struct training : bench::workload {
  device_type device;
  network net;
  network::Buffer<true> buffers;
  optimizer_type optimizer;
  matrix<batch, inputs> x;
  matrix<batch, outputs> gradient;
  matrix<batch, 1, index> y;
  bool rng = false;

  training() {
    rlt::malloc(device, net);
    rlt::malloc(device, buffers);
    rlt::malloc(device, optimizer);
    rlt::malloc(device, x);
    rlt::malloc(device, y);
    rlt::malloc(device, gradient);
    rlt::init(device, optimizer);
    rlt::reset_optimizer_state(device, optimizer, net);
    fill(device, net.input_layer, 0, hidden, inputs);
    fill(device, net.output_layer, 2, outputs, hidden);
    auto const values = bench::inputs(batch * inputs);
    auto const labels = bench::targets(batch);
    for (index r = 0; r < batch; ++r) {
      for (index c = 0; c < inputs; ++c) rlt::set(x, r, c, values[r * inputs + c]);
      rlt::set(y, r, 0, static_cast<index>(labels[r]));
    }
  }
  double loss = 0;
  void step() override {
    rlt::zero_gradient(device, net);
    rlt::forward(device, net, x, buffers, rng);
    rlt::nn::loss_functions::categorical_cross_entropy::gradient(device, net.output_layer.output, y, gradient);
    rlt::backward(device, net, x, gradient, buffers);
    rlt::step(device, optimizer, net);
  }
  std::vector<double> values() override {  // the output of the last forward is still there
    return {rlt::nn::loss_functions::categorical_cross_entropy::evaluate(device, net.output_layer.output, y)};
  }
};

}  // namespace

int main() {
  return bench::serve({{"tiny_16_adam", "mlp", [] { return std::make_unique<training>(); }}});
}
