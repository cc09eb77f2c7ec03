// mortise's side of the step benchmark; run.py drives it next to its peers.
//
// steps THREADS                    MORTISE_ISA=baseline|avx2|avx512 limits the instruction set
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <mortise/mortise.hpp>

#include "machine.hpp"
#include "peers/protocol.hpp"
#include "resnet18.hpp"

namespace mt = mortise;

namespace {

using tiny = mt::sequential<mt::linear<32>, mt::relu, mt::linear<10>>;
using mlp = mt::sequential<mt::linear<512>, mt::relu, mt::linear<512>, mt::relu, mt::linear<10>>;
template <std::size_t Padding>
using lenet = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<6, 5, 1, Padding>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>,
    mt::flatten, mt::named<"classifier", mt::sequential<mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>>>;

using gpt_attention = mt::residual<mt::sequential<mt::layer_norm, mt::multihead_attention<4, true>>>;
using gpt_perceptron = mt::residual<mt::sequential<mt::layer_norm, mt::linear<512>, mt::gelu, mt::linear<128>>>;
using gpt_block = mt::sequential<gpt_attention, gpt_perceptron>;
using gpt = mt::sequential<mt::embedding<65, 128>, mt::position_embedding, gpt_block, gpt_block, gpt_block, gpt_block, mt::layer_norm, mt::linear<65>,
                           mt::transpose>;

int threads = 1;

/// The peers' weights: biases have their weight's fan-in, and follow it in the table; so, here and there, do the vectors of normalisation.
template <class Model>
void fill(Model& net) {
  std::size_t fan_in = 1, index = 0;
  for (auto const& p : Model::parameter_table) {
    if (p.extents.rank > 1) fan_in = p.extents.elements() / p.extents[0];
    bench::fill_parameter(net.parameters().data() + p.offset, p.extents.elements(), index++, fan_in);
  }
}

template <class Network, class Input, class Rule>
struct training : bench::workload {
  using element = typename mt::model<Network, Input>::input_element;
  struct batch_type {
    mt::view<element const> x;
    mt::view<std::int64_t const> y;
  };
  mt::model<Network, Input> net{mt::host{threads}};
  mt::cross_entropy_loss loss;
  mt::optimizer<mt::model<Network, Input>, Rule> optimizer;
  std::vector<element> x;
  std::vector<std::int64_t> y;
  float value = 0;

  training(std::size_t batch, Rule const& rule) : optimizer{net, rule} {
    auto constexpr out = mt::model<Network, Input>::output_extents::value;
    std::size_t const in = batch * Input::value.elements();
    if constexpr (std::is_same_v<element, float>) x = bench::inputs(in);
    else x = bench::indices(bench::input_seed, in, out[0]);
    y = bench::indices(bench::target_seed, batch * out.without_batch().elements(), out[0]);
    fill(net);
  }
  void step() override { value = mt::train_step(net, loss, optimizer, batch_type{x, y}); }
  std::vector<double> values() override { return {value}; }
};

template <class Network, class Input>
struct inference : bench::workload {
  mt::model<Network, Input> net{mt::host{threads}};
  std::vector<float> x{bench::inputs(Input::value.elements())};
  mt::view<float const> y;
  inference() {
    fill(net);
    net.eval();
  }
  void step() override { y = net.forward(x); }
  std::vector<double> values() override { return std::vector<double>(y.begin(), y.end()); }
};

template <class Network, class Input, class Rule>
void train(std::vector<bench::entry>& entries, std::string const& name, std::size_t batch, Rule const& rule) {
  entries.push_back({name, "train_step", [=] { return std::make_unique<training<Network, Input, Rule>>(batch, rule); }});
}
template <class Network, class Input>
void train_both(std::vector<bench::entry>& entries, std::string const& name, std::size_t batch) {
  train<Network, Input, mt::sgd>(entries, name + "_sgd", batch, {.lr = 0.01f});
  train<Network, Input, mt::adam>(entries, name + "_adam", batch, {.lr = 1e-3f});
}
template <class Network, class Input>
void infer(std::vector<bench::entry>& entries, std::string const& name) {
  entries.push_back({name, "forward", [] { return std::make_unique<inference<Network, Input>>(); }});
}

}  // namespace

int main(int argc, char** argv) {
  threads = argc > 1 ? std::atoi(argv[1]) : 1;
  using image = mt::extents<1, 28, 28>;
  std::vector<bench::entry> entries;
  train_both<tiny, mt::extents<64>>(entries, "tiny_16", 16);
  train_both<mlp, mt::extents<784>>(entries, "mlp_64", 64);
  train_both<mlp, mt::extents<784>>(entries, "mlp_1024", 1024);
  train_both<lenet<0>, image>(entries, "lenet_64", 64);
  train_both<lenet<2>, image>(entries, "lenet_padded_64", 64);
  train<benchmarks::resnet18, mt::extents<3, 32, 32>, mt::sgd>(entries, "resnet18_32_sgd", 32, {.lr = 0.01f});
  train<gpt, mt::extents<64>, mt::adamw>(entries, "gpt_12_adamw", 12, {.lr = 1e-3f});
  infer<mlp, mt::extents<784>>(entries, "mlp_1");
  infer<tiny, mt::extents<64>>(entries, "tiny_1");
  infer<lenet<0>, image>(entries, "lenet_1");
  return bench::serve(entries, [] { bench::print_machine(threads); });
}
