// sequential, named, residual, concat, frozen: networks against the same modules run one by one.
#include "../../contract/module.hpp"

#include <algorithm>
#include <string>

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/tanh.hpp>

namespace mt = mortise;
using mt::extents;

// Everything that shares memory in one way or another: in place after a producer that reads its output, forks whose branches work in place,
// views between them, branches that are views only, concatenations of forks, nested residuals.
using vectors = mt::sequential<
    mt::linear<8>, mt::relu, mt::tanh, mt::residual<mt::sequential<mt::relu, mt::linear<8>, mt::tanh>>, mt::gelu,
    mt::concat<mt::identity, mt::relu, mt::sequential<mt::linear<3>, mt::gelu>, mt::sequential<mt::tanh, mt::concat<mt::identity, mt::identity>>>,
    mt::residual<mt::residual<mt::sequential<mt::tanh, mt::relu>>, mt::named<"short", mt::sequential<mt::identity, mt::relu>>>, mt::linear<4>, mt::tanh>;
using images = mt::sequential<
    mt::named<"stem", mt::sequential<mt::conv2d<4, 3, 1, 1, 1, 1, false>, mt::batch_norm2d, mt::relu>>, mt::max_pool2d<2>,
    mt::named<"block", mt::residual<mt::sequential<mt::named<"conv1", mt::conv2d<6, 3, 2, 1>>, mt::named<"bn1", mt::batch_norm2d>, mt::relu, mt::conv2d<6, 3, 1, 1>>,
                                    mt::named<"downsample", mt::sequential<mt::conv2d<6, 1, 2>, mt::batch_norm2d>>>>,
    mt::relu, mt::adaptive_avg_pool2d<1>, mt::flatten, mt::linear<3>>;

MODULE_CONTRACT_OF_NETWORKS(on_host<vectors, extents<6>, 2>, on_host<images, extents<2, 8, 8>, 2>, on_host<mt::flatten, extents<2, 3>>,
                            on_host<mt::identity, extents<5>>, on_host<mt::sequential<>, extents<5>>, on_host<mt::concat<mt::identity, mt::identity>, extents<2, 3>>)

namespace {

template <class M>
std::string names_of() {
  std::string text;
  for (auto const& s : M::state_table) text += std::string{s.name} + " " + to_string(s.extents) + "\n";
  return text;
}

TEST_CASE("names are PyTorch's: positions count children without parameters, named children and residuals add no number") {
  CHECK(names_of<mt::model<images, extents<2, 8, 8>>>() ==
        "stem.0.weight (4, 2, 3, 3)\n"
        "stem.1.weight (4)\nstem.1.bias (4)\nstem.1.running_mean (4)\nstem.1.running_var (4)\nstem.1.num_batches_tracked ()\n"
        "block.conv1.weight (6, 4, 3, 3)\nblock.conv1.bias (6)\n"
        "block.bn1.weight (6)\nblock.bn1.bias (6)\nblock.bn1.running_mean (6)\nblock.bn1.running_var (6)\nblock.bn1.num_batches_tracked ()\n"
        "block.3.weight (6, 6, 3, 3)\nblock.3.bias (6)\n"
        "block.downsample.0.weight (6, 4, 1, 1)\nblock.downsample.0.bias (6)\n"
        "block.downsample.1.weight (6)\nblock.downsample.1.bias (6)\nblock.downsample.1.running_mean (6)\nblock.downsample.1.running_var (6)\n"
        "block.downsample.1.num_batches_tracked ()\n"
        "6.weight (3, 6)\n6.bias (3)\n");
}

/// Runs one module as a network of its own, so that nothing is shared.
template <class M, class Input>
struct alone {
  mt::model<M, Input, mt::host, float, true> net{mt::host{1}, mt::seed{0}};

  std::vector<float> input{};  // backward reads it, where the module says so

  std::vector<float> forward(std::vector<float> const& x) {
    input = x;
    return net.forward(input).to_vector();
  }
  std::vector<float> backward(std::vector<float> const& dy) {
    net.backward(mt::view<float const>{dy});
    return net.input_gradient().to_vector();
  }
  template <class Other>
  void take(Other& other, std::string const& prefix) {
    for (auto const& p : net.parameter_table) {
      auto const from = other.parameter(prefix + std::string{p.name});
      std::copy(from.begin(), from.end(), net.parameters().begin() + static_cast<std::ptrdiff_t>(p.offset));
    }
  }
};

std::vector<float> sum(std::vector<float> const& a, std::vector<float> const& b) {
  std::vector<float> s(a);
  for (std::size_t i = 0; i < s.size(); ++i) s[i] += b[i];
  return s;
}

TEST_CASE("values that work in place and values that are kept never overlap: a network has the bits of its modules run one by one") {
  using body = mt::sequential<mt::relu, mt::linear<8>, mt::tanh>;
  using network = mt::sequential<mt::linear<8>, mt::relu, mt::tanh, mt::residual<body>, mt::relu, mt::concat<mt::identity, mt::relu, mt::linear<3>>, mt::gelu>;
  constexpr std::size_t batch = 5;
  mt::model<network, extents<6>, mt::host, float, true> net{mt::host{1}, mt::seed{4}};
  auto const x = contract::test_values<float>(batch * 6, 1, 0), dy = contract::test_values<float>(batch * 19, 2, 0);

  alone<mt::linear<8>, extents<6>> first;
  alone<mt::linear<8>, extents<8>> inner;
  alone<mt::linear<3>, extents<8>> branch;
  alone<mt::relu, extents<8>> relu_1, relu_2, relu_3, relu_4;
  alone<mt::tanh, extents<8>> tanh_1, tanh_2;
  alone<mt::gelu, extents<19>> last;
  first.take(net, "0.");
  inner.take(net, "3.1.");
  branch.take(net, "5.2.");

  for (int step = 0; step < 2; ++step) {
    auto const a = tanh_1.forward(relu_1.forward(first.forward(x)));
    auto const b = relu_3.forward(sum(tanh_2.forward(inner.forward(relu_2.forward(a))), a));
    auto const c = relu_4.forward(b), d = branch.forward(b);
    std::vector<float> joined(batch * 19);
    for (std::size_t n = 0; n < batch; ++n) {
      std::copy_n(b.begin() + static_cast<std::ptrdiff_t>(n * 8), 8, joined.begin() + static_cast<std::ptrdiff_t>(n * 19));
      std::copy_n(c.begin() + static_cast<std::ptrdiff_t>(n * 8), 8, joined.begin() + static_cast<std::ptrdiff_t>(n * 19 + 8));
      std::copy_n(d.begin() + static_cast<std::ptrdiff_t>(n * 3), 3, joined.begin() + static_cast<std::ptrdiff_t>(n * 19 + 16));
    }
    auto const y = last.forward(joined);
    CHECK(contract::same_bits(net.forward(x).to_vector(), y));
    net.backward(mt::view<float const>{dy});

    auto const g = last.backward(dy);
    std::vector<float> gb(batch * 8), gc(batch * 8), gd(batch * 3);
    for (std::size_t n = 0; n < batch; ++n) {
      std::copy_n(g.begin() + static_cast<std::ptrdiff_t>(n * 19), 8, gb.begin() + static_cast<std::ptrdiff_t>(n * 8));
      std::copy_n(g.begin() + static_cast<std::ptrdiff_t>(n * 19 + 8), 8, gc.begin() + static_cast<std::ptrdiff_t>(n * 8));
      std::copy_n(g.begin() + static_cast<std::ptrdiff_t>(n * 19 + 16), 3, gd.begin() + static_cast<std::ptrdiff_t>(n * 3));
    }
    auto const gs = relu_3.backward(sum(sum(gb, relu_4.backward(gc)), branch.backward(gd)));
    auto const ga = sum(relu_2.backward(inner.backward(tanh_2.backward(gs))), gs);
    auto const dx = first.backward(relu_1.backward(tanh_1.backward(ga)));
    CHECK(contract::same_bits(net.input_gradient().to_vector(), dx));
    CHECK(contract::same_bits(net.gradient("0.weight").to_vector(), first.net.gradient("weight").to_vector()));
    CHECK(contract::same_bits(net.gradient("3.1.bias").to_vector(), inner.net.gradient("bias").to_vector()));
    CHECK(contract::same_bits(net.gradient("5.2.weight").to_vector(), branch.net.gradient("weight").to_vector()));
  }
}

TEST_CASE("max pooling that does the work of the relu before it gives the bits of the two apart, and keeps less") {
  using together = mt::sequential<mt::conv2d<5, 3>, mt::relu, mt::max_pool2d<2>, mt::conv2d<4, 2>, mt::named<"act", mt::relu>, mt::max_pool2d<3, 2, 1>>;
  using apart = mt::sequential<mt::conv2d<5, 3>, mt::relu, mt::identity, mt::max_pool2d<2>, mt::conv2d<4, 2>, mt::named<"act", mt::relu>, mt::identity,
                               mt::max_pool2d<3, 2, 1>>;
  using input = extents<2, 13, 12>;
  using one = mt::model<together, input, mt::host, float, true>;
  using two = mt::model<apart, input, mt::host, float, true>;
  one a{mt::host{1}, mt::seed{3}};
  two b{mt::host{1}, mt::seed{3}};
  for (std::size_t i = 0; i < a.parameters().size(); ++i) b.parameters().data()[i] = a.parameters().data()[i];
  auto x = contract::test_values<float>(6 * input::elements, 5, 0);
  x[7] = std::numeric_limits<float>::quiet_NaN();
  auto const dy = contract::test_values<float>(6 * one::output_extents::elements, 6, 0);
  CHECK(contract::same_bits(a.forward(x).to_vector(), b.forward(x).to_vector()));
  a.backward(mt::view<float const>{dy});
  b.backward(mt::view<float const>{dy});
  CHECK(contract::same_bits(a.gradients().to_vector(), b.gradients().to_vector()));
  CHECK(contract::same_bits(a.input_gradient().to_vector(), b.input_gradient().to_vector()));
  a.eval();
  b.eval();
  CHECK(contract::same_bits(a.forward(x).to_vector(), b.forward(x).to_vector()));
  CHECK(one::plan_type::tables.training_arena.per_sample < two::plan_type::tables.training_arena.per_sample);
}

TEST_CASE("frozen: dropout is off, batch norm uses and keeps its running statistics, parameters have no gradient") {
  using M = mt::model<mt::sequential<mt::frozen<mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::dropout>>, mt::linear<2>>, extents<4>>;
  static_assert(M::trainable_count == 6 * 2 + 2);
  static_assert(M::parameter_count == 4 * 6 + 6 + 12 + M::trainable_count);
  M net{mt::host{1}, mt::seed{4}};
  auto const x = contract::test_values<float>(3 * 4, 1, 0);
  auto const before = net.buffers().to_vector();
  auto const training = net.forward(x).to_vector();
  CHECK(net.buffers().to_vector() == before);
  CHECK(net.counters()[0] == 0);
  net.eval();
  CHECK(contract::same_bits(net.forward(x).to_vector(), training));
  CHECK_THROWS_AS(net.gradient("0.0.weight"), mt::usage_error);
}

TEST_CASE("what a frozen part would only read for its own gradients is not kept") {
  using body = mt::sequential<mt::linear<64>, mt::relu, mt::linear<64>, mt::relu, mt::linear<64>, mt::relu>;
  using free_model = mt::model<mt::sequential<mt::linear<64>, body, mt::linear<2>>, extents<64>>;
  using frozen_model = mt::model<mt::sequential<mt::linear<64>, mt::frozen<body>, mt::linear<2>>, extents<64>>;
  using frozen_backbone = mt::model<mt::sequential<mt::frozen<mt::sequential<mt::linear<64>, body>>, mt::linear<2>>, extents<64>>;
  CHECK(frozen_model::activation_bytes(100, true) <= free_model::activation_bytes(100, true));
  // A backbone in front keeps nothing: two buffers by turns, the head's input and output and their gradient.
  CHECK(frozen_backbone::activation_bytes(100, true) <= (3 * 64 + 2 * 2) * 100 * sizeof(float) + 16 * 64 * sizeof(float));
}

}  // namespace
