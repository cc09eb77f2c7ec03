// A model: where its state lies, what it refuses, what moves with it.
#include <cmath>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/model/summary.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

namespace {

using network = mt::sequential<mt::flatten, mt::named<"body", mt::sequential<mt::linear<7>, mt::batch_norm1d, mt::relu, mt::dropout>>,
                               mt::residual<mt::sequential<mt::linear<5>, mt::relu, mt::linear<7>>>,
                               mt::concat<mt::linear<3>, mt::identity>, mt::named<"head", mt::linear<2>>>;
using net_type = mt::model<network, mt::extents<2, 3>>;

std::vector<float> waves(std::size_t n, float phase = 0) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = std::sin(static_cast<float>(i) + phase);
  return x;
}

}  // namespace

TEST_CASE("forward takes a batch in the network's shape, or flat, of any size") {
  net_type net{mt::host{}, mt::seed{1}};
  net.eval();
  auto const x = waves(5 * 6);
  auto const shaped = net.forward(mt::view{x, {5, 2, 3}}).to_vector();
  CHECK(net.output().extents() == mt::shape{5, 2});
  CHECK(net.forward(x).to_vector() == shaped);
  CHECK(net.forward(mt::view<float const>{x.data(), {1, 2, 3}}).extents() == mt::shape{1, 2});
}

TEST_CASE("a wrong batch is a shape_error that names both shapes") {
  net_type net;
  auto const x = waves(30);
  auto const says = [&](mt::shape const& s, char const* words) {
    try {
      net.forward(mt::view{x.data(), s});
      FAIL("no error");
    } catch (mt::shape_error const& e) {
      INFO(e.what());
      CHECK(std::string{e.what()}.find(words) != std::string::npos);
    }
  };
  says({5, 3, 2}, "(5, 3, 2)");
  says({5, 3, 2}, "(batch, 2, 3)");
  says({29}, "multiple of 6");
  says({5, 6}, "(5, 6)");
  says({0}, "(0)");
}

TEST_CASE("parameters have PyTorch's names, and a name that is not there is answered with those that are") {
  net_type net{mt::host{}, mt::seed{3}};
  CHECK(net.parameter("body.0.weight").extents() == mt::shape{7, 6});
  CHECK(net.parameter("head.bias").extents() == mt::shape{2});
  CHECK(net.buffer_named("body.1.running_var")[0] == 1.0f);
  CHECK(net.counter("body.1.num_batches_tracked").rank() == 0);
  CHECK(net.parameter("body.0.weight").data() == net.parameters().data());
  try {
    net.parameter("fc.bias");
    FAIL("no error");
  } catch (mt::usage_error const& e) {
    CHECK(std::string{e.what()}.find("head.bias") != std::string::npos);
  }
}

TEST_CASE("equal seeds give equal parameters, other seeds others, within PyTorch's bounds") {
  net_type a{mt::host{}, mt::seed{5}}, b{mt::host{}, mt::seed{5}}, c{mt::host{}, mt::seed{6}};
  CHECK(a.parameters().to_vector() == b.parameters().to_vector());
  CHECK(a.parameters().to_vector() != c.parameters().to_vector());
  float const bound = 1 / std::sqrt(6.0f);
  for (float const w : a.parameter("body.0.weight")) CHECK(std::abs(w) <= bound);
}

TEST_CASE("a model of doubles starts from the same numbers") {
  net_type a{mt::host{}, mt::seed{5}};
  mt::model<network, mt::extents<2, 3>, mt::host, double> b{mt::host{}, mt::seed{5}};
  for (std::size_t i = 0; i < a.parameters().size(); ++i) CHECK(static_cast<double>(a.parameters()[i]) == b.parameters()[i]);
}

TEST_CASE("to<double>() and back keeps every bit of state and every setting") {
  net_type net{mt::host{}, mt::seed{7}};
  net.module<"body.3">().p = 0.125f;
  net.forward(waves(24));
  net.eval();
  auto wide = net.to<double>();
  CHECK(wide.module<"body.3">().p == 0.125f);
  CHECK(!wide.training());
  CHECK(wide.training_steps() == 1);
  auto const back = wide.to<float>();
  CHECK(back.parameters().to_vector() == net.parameters().to_vector());
  CHECK(back.buffers().to_vector() == net.buffers().to_vector());
  CHECK(back.counters().to_vector() == net.counters().to_vector());
  net = net.to(mt::host{1});
  CHECK(net.parameters().to_vector() == back.parameters().to_vector());
}

TEST_CASE("copies are deep") {
  net_type a{mt::host{}, mt::seed{1}};
  net_type b = a;
  b.parameters()[0] += 1;
  CHECK(a.parameters()[0] != b.parameters()[0]);
  b = a;
  CHECK(a.parameters()[0] == b.parameters()[0]);
}

TEST_CASE("threads change no bit") {
  auto const x = waves(70 * 6);
  std::vector<float> first;
  for (int const threads : {1, 2, 3}) {
    net_type net{mt::host{threads}, mt::seed{2}};
    net.forward(x);
    std::vector<float> const dy(70 * 2, 0.5f);
    net.backward(mt::view{dy, {70, 2}});
    auto all = net.gradients().to_vector();
    for (float const v : net.output()) all.push_back(v);
    if (first.empty()) first = all;
    else CHECK(all == first);
  }
}

TEST_CASE("dropout's numbers belong to the step: a model that went on differs, one that was set back does not") {
  using drop = mt::model<mt::sequential<mt::dropout>, mt::extents<64>>;
  drop a{mt::host{}, mt::seed{9}}, b{mt::host{}, mt::seed{9}};
  std::vector<float> const ones(128, 1.0f);
  auto const first = a.forward(ones).to_vector();
  auto const second = a.forward(ones).to_vector();
  CHECK(first != second);
  CHECK(b.forward(ones).to_vector() == first);
  CHECK(b.forward(ones).to_vector() == second);
}

TEST_CASE("a part of a batch has the random numbers that it would have in the whole") {
  using drop = mt::model<mt::sequential<mt::dropout>, mt::extents<10>>;
  drop whole{mt::host{}, mt::seed{9}}, part{mt::host{}, mt::seed{9}};
  std::vector<float> const ones(60, 1.0f);
  auto const all = whole.forward(ones).to_vector();
  auto const tail = part.forward_part(mt::view<float const>{ones.data(), {2, 10}}, 4).to_vector();
  CHECK(tail == std::vector<float>(all.begin() + 40, all.end()));
}

TEST_CASE("backward without a forward in training mode says what to do") {
  net_type net;
  std::vector<float> const dy(4, 1.0f);
  CHECK_THROWS_AS(net.backward(mt::view<float const>{dy}), mt::usage_error);
  net.eval();
  net.forward(waves(12));
  CHECK_THROWS_AS(net.backward(mt::view<float const>{dy}), mt::usage_error);
}

TEST_CASE("a batch norm keeps count, and evaluation uses what it kept") {
  net_type net{mt::host{}, mt::seed{4}};
  for (int i = 0; i < 3; ++i) net.forward(waves(60, static_cast<float>(i)));
  CHECK(net.counter("body.1.num_batches_tracked")[0] == 3);
  net.eval();
  auto const a = net.forward(waves(60)).to_vector();
  auto const b = net.forward(waves(12)).to_vector();
  CHECK(b == std::vector<float>(a.begin(), a.begin() + 4));
}

TEST_CASE("the summary names layers, shapes and totals") {
  net_type net;
  std::string const text = mt::summary(net);
  INFO(text);
  for (char const* words : {"body.0", "linear", "batch_norm1d", "(7)", "head", "parameters: ", "activations, planned"})
    CHECK(text.find(words) != std::string::npos);
}

TEST_CASE("networks that only look at their input, or learn nothing, work") {
  mt::model<mt::sequential<mt::flatten, mt::identity>, mt::extents<2, 3>> nothing;
  auto const x = waves(12);
  CHECK(nothing.forward(x).to_vector() == x);
  mt::model<mt::sequential<mt::frozen<mt::linear<3>>, mt::relu>, mt::extents<6>> fixed;
  CHECK(fixed.trainable_count == 0);
  fixed.forward(x);
  std::vector<float> const dy(6, 1.0f);
  fixed.backward(mt::view<float const>{dy});
}

TEST_CASE("a sample's result is the same in every batch of two or more; a batch of one sums in another order") {
  net_type net{mt::host{}, mt::seed{1}};
  net.eval();
  auto const x = waves(100 * 6);
  auto const one = net.forward(mt::view<float const>{x.data(), {1, 2, 3}}).to_vector();
  auto const two = net.forward(mt::view<float const>{x.data(), {2, 2, 3}}).to_vector();
  auto const many = net.forward(x).to_vector();
  CHECK(std::vector<float>(many.begin(), many.begin() + 4) == two);
  // Sums of at most 10 terms below 4 in magnitude through 4 layers: 4 * 10 * 4 * eps.
  for (std::size_t i = 0; i < 2; ++i) CHECK(std::abs(one[i] - many[i]) <= 160 * 1.2e-7f);
  CHECK(net.forward(mt::view<float const>{x.data(), {1, 2, 3}}).to_vector() == one);
}
