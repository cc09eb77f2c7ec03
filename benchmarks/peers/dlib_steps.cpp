// dlib: networks as types too, so the nearest relative among the peers.
//
// dlib_steps            one thread; what dlib calls of BLAS follows OPENBLAS_NUM_THREADS
#include <dlib/dnn.h>

#include <string>
#include <tuple>
#include <vector>

#include "protocol.hpp"

namespace {

using input = dlib::input<dlib::matrix<float>>;
template <long N, class Below>
using dense = dlib::relu<dlib::fc<N, Below>>;

using tiny = dlib::loss_multiclass_log<dlib::fc<10, dense<32, input>>>;
using mlp = dlib::loss_multiclass_log<dlib::fc<10, dense<512, dense<512, input>>>>;
template <long Outputs, class Below>
using valid_conv = dlib::add_layer<dlib::con_<Outputs, 5, 5, 1, 1, 0, 0>, Below>;
template <class Below>
using pool = dlib::add_layer<dlib::max_pool_<2, 2, 2, 2, 0, 0>, Below>;
using lenet =
    dlib::loss_multiclass_log<dlib::fc<10, dense<84, dense<120, pool<dlib::relu<valid_conv<16, pool<dlib::relu<valid_conv<6, input>>>>>>>>>>;

/// dlib keeps a layer's parameters in one tensor: a dense layer's as (in, out) and the bias behind, a convolution's as PyTorch does.
struct fill_layer {
  std::uint64_t* remaining;  // parameter tensors below this one in PyTorch's order; dlib visits from the output down

  template <class Layer>
  void dense_layer(Layer& layer) const {
    auto& p = layer.layer_details().get_layer_params();
    auto const out = layer.layer_details().get_num_outputs();
    auto const in = static_cast<unsigned long>(p.size()) / out - 1;
    std::vector<float> w(in * out), b(out);
    *remaining -= 2;
    bench::fill_parameter(w.data(), w.size(), *remaining, in);
    bench::fill_parameter(b.data(), b.size(), *remaining + 1, in);
    float* const to = p.host();
    for (unsigned long i = 0; i < in; ++i)
      for (unsigned long o = 0; o < out; ++o) to[i * out + o] = w[o * in + i];
    std::copy(b.begin(), b.end(), to + in * out);
  }
  template <class Layer>
  void convolution(Layer& layer) const {
    auto& p = layer.layer_details().get_layer_params();
    auto const out = static_cast<std::size_t>(layer.layer_details().num_filters());
    std::size_t const taps = p.size() / out - 1;
    *remaining -= 2;
    bench::fill_parameter(p.host(), taps * out, *remaining, taps);
    bench::fill_parameter(p.host() + taps * out, out, *remaining + 1, taps);
  }
};

template <class Net>
void fill(Net& net, std::uint64_t tensors) {
  fill_layer const f{&tensors};
  dlib::visit_layers(net, [&](std::size_t, auto& layer) {
    if constexpr (requires { layer.layer_details().get_bias_mode(); layer.layer_details().get_num_outputs(); }) f.dense_layer(layer);
    else if constexpr (requires { layer.layer_details().num_filters(); }) f.convolution(layer);
  });
}

template <class Net, class Solver>
struct training : bench::workload {
  Net net;
  dlib::resizable_tensor x;
  std::vector<unsigned long> y;
  std::vector<Solver> solvers;
  double rate, loss = 0;

  training(long rows, long columns, std::size_t batch, std::uint64_t tensors, Solver const& s, double lr)
      : solvers(Net::num_computational_layers, s), rate{lr} {
    auto const values = bench::inputs(batch * static_cast<std::size_t>(rows * columns));
    std::vector<dlib::matrix<float>> samples(batch, dlib::matrix<float>(rows, columns));
    std::size_t at = 0;
    for (auto& m : samples)
      for (auto& v : m) v = values[at++];
    for (auto const t : bench::targets(batch)) y.push_back(static_cast<unsigned long>(t));
    net.to_tensor(samples.begin(), samples.end(), x);
    net.subnet().forward(x);  // makes dlib size its parameters
    fill(net, tensors);
  }
  void step() override {
    loss = net.compute_parameter_gradients(x, y.begin());
    net.update_parameters(dlib::make_sstack(solvers), rate);
  }
  std::vector<double> values() override { return {loss}; }
};

template <class Net>
struct inference : bench::workload {
  Net net;
  dlib::resizable_tensor x;
  dlib::tensor const* y = nullptr;
  inference(long rows, long columns, std::uint64_t tensors) {
    auto const values = bench::inputs(static_cast<std::size_t>(rows * columns));
    dlib::matrix<float> m(rows, columns);
    std::copy(values.begin(), values.end(), m.begin());
    std::vector<dlib::matrix<float>> const samples{m};
    net.to_tensor(samples.begin(), samples.end(), x);
    net.subnet().forward(x);
    fill(net, tensors);
  }
  void step() override { y = &net.subnet().forward(x); }
  std::vector<double> values() override { return std::vector<double>(y->host(), y->host() + y->size()); }
};

template <class Net>
void train(std::vector<bench::entry>& entries, std::string const& name, long rows, long columns, std::size_t batch, std::uint64_t tensors) {
  entries.push_back({name + "_sgd", "sgd", [=] {
                       return std::make_unique<training<Net, dlib::sgd>>(rows, columns, batch, tensors, dlib::sgd(0, 0), 0.01);
                     }});
  entries.push_back({name + "_adam", "adam", [=] {
                       return std::make_unique<training<Net, dlib::adam>>(rows, columns, batch, tensors, dlib::adam(0, 0.9f, 0.999f), 1e-3);
                     }});
}

}  // namespace

int main() {
  std::vector<bench::entry> entries;
  train<tiny>(entries, "tiny_16", 64, 1, 16, 4);
  train<mlp>(entries, "mlp_64", 784, 1, 64, 6);
  train<mlp>(entries, "mlp_1024", 784, 1, 1024, 6);
  train<lenet>(entries, "lenet_64", 28, 28, 64, 10);
  entries.push_back({"tiny_1", "forward", [] { return std::make_unique<inference<tiny>>(64, 1, 4); }});
  entries.push_back({"mlp_1", "forward", [] { return std::make_unique<inference<mlp>>(784, 1, 6); }});
  entries.push_back({"lenet_1", "forward", [] { return std::make_unique<inference<lenet>>(28, 28, 10); }});
  return bench::serve(entries);
}
