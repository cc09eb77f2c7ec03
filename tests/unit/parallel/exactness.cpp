// The same bits on any number of devices, whatever the timing.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/optimizer/transforms.hpp>
#include <mortise/parallel/data_parallel.hpp>
#include <mortise/train/train_step.hpp>

#include "runs.hpp"

namespace mt = mortise;

namespace {

struct result {
  std::vector<float> parameters, buffers, losses, outputs;
  std::vector<std::int64_t> counters;
  bool operator==(result const&) const = default;
};

/// Eight steps with batches of several sizes.
template <class Net, class Rule>
result train(mt::host_mesh const& mesh, std::size_t shards, Rule const& rule, bool spelled_out = false, mt::buckets const& overlap = {}) {
  mt::model<Net, runs::input> net{mt::host{1}, mt::seed{3}};
  mt::data_parallel many{net, mesh, mt::shards{shards}, overlap};
  mt::optimizer opt{net, rule};
  mt::cross_entropy_loss const loss;
  result r;
  for (std::uint32_t step = 0; step < 8; ++step) {
    runs::data const d{step % 4 == 3 ? 13u : 24u, step};
    if (spelled_out) {
      many.train();
      many.forward(d.batch().x);
      r.losses.push_back(many.backward(loss, d.batch().y));
      opt.step();
    } else {
      r.losses.push_back(mt::train_step(many, loss, opt, d.batch()));
    }
    for (float const y : many.output()) r.outputs.push_back(y);
  }
  r.parameters = net.parameters().to_vector();
  r.buffers = net.buffers().to_vector();
  r.counters = net.counters().to_vector();
  return r;
}

template <class N, class R>
struct combination {
  using net = N;
  using rule = R;
};

}  // namespace

TEST_CASE_TEMPLATE("with shards, any number of devices gives the same bits", C, combination<runs::dropping, mt::sgd>, combination<runs::dropping, mt::adamw>,
                   combination<runs::normalized, mt::sgd>, combination<runs::normalized, mt::adamw>, combination<runs::both, mt::adamw>) {
  using net = typename C::net;
  typename C::rule const rule{.lr = 0.01f};
  auto const one = train<net>({1, 1}, 4, rule);
  for (std::size_t devices = 1; devices <= 4; ++devices) {
    CAPTURE(devices);
    CHECK(train<net>({devices, 1}, 4, rule) == one);
    CHECK(train<net>({devices, 1}, 4, rule, true) == one);
  }
  CHECK(train<net>({2, 2}, 4, rule) == one);  // threads of their own for each device
  CHECK(train<net>({4}, 4, rule) == one);     // as many as there are cores
  auto const three = train<net>({1, 1}, 6, rule);
  for (std::size_t const devices : {2u, 3u, 5u, 6u}) {
    CAPTURE(devices);
    CHECK(train<net>({devices, 1}, 6, rule) == three);
  }
  CHECK(!(three == one));  // the number of shards does matter
}

TEST_CASE("one device without shards has the bits of the model alone") {
  mt::model<runs::both, runs::input> net{mt::host{1}, mt::seed{3}};
  mt::optimizer opt{net, mt::adamw{}};
  mt::cross_entropy_loss const loss;
  result r;
  for (std::uint32_t step = 0; step < 8; ++step) {
    runs::data const d{step % 4 == 3 ? 13u : 24u, step};
    r.losses.push_back(mt::train_step(net, loss, opt, d.batch()));
    for (float const y : net.output()) r.outputs.push_back(y);
  }
  r.parameters = net.parameters().to_vector();
  r.buffers = net.buffers().to_vector();
  r.counters = net.counters().to_vector();
  CHECK(train<runs::both>({1, 1}, 0, mt::adamw{}) == r);
}

TEST_CASE("replicas that are late or early change nothing") {
  auto const one = train<runs::dawdling>({1, 1}, 4, mt::adamw{});
  for (int round = 0; round < 4; ++round) {
    CHECK(train<runs::dawdling>({4, 1}, 4, mt::adamw{}) == one);
    CHECK(train<runs::dawdling>({3, 1}, 4, mt::adamw{}, true) == one);
  }
}

TEST_CASE("gradients summed in pieces while backward goes on have the bits of those summed at its end") {
  auto const at_the_end = train<runs::both>({1, 1}, 5, mt::adamw{}, false, {0});
  auto const late_and_early = train<runs::dawdling>({1, 1}, 4, mt::adamw{}, false, {0});
  for (std::size_t const bytes : {4u, 60u, 256u, 1u << 20}) {  // one element, pieces that end inside of layers, and all at once
    CAPTURE(bytes);
    for (std::size_t devices = 1; devices <= 5; ++devices)
      CHECK(train<runs::both>({devices, 1}, 5, mt::adamw{}, devices % 2 == 0, {bytes}) == at_the_end);
    CHECK(train<runs::both>({2, 2}, 5, mt::adamw{}, false, {bytes}) == at_the_end);
    CHECK(train<runs::dawdling>({4, 1}, 4, mt::adamw{}, false, {bytes}) == late_and_early);
  }
  for (std::size_t devices = 2; devices <= 5; ++devices) CHECK(train<runs::both>({devices, 1}, 5, mt::adamw{}, false, {0}) == at_the_end);
}

TEST_CASE("without shards each device is one shard") {
  CHECK(train<runs::both>({3, 1}, 0, mt::sgd{}) == train<runs::both>({1, 1}, 3, mt::sgd{}));
  CHECK(train<runs::both>({4, 1}, 0, mt::sgd{}) == train<runs::both>({2, 1}, 4, mt::sgd{}));
}

TEST_CASE("clipping by the global norm sees the whole gradient") {
  using rule = mt::chain<mt::clip_grad_norm, mt::scale_by_adam, mt::scale_by_learning_rate>;
  rule const r{mt::clip_grad_norm{.max_norm = 0.05}, mt::scale_by_adam{}, mt::scale_by_learning_rate{}};
  auto const one = train<runs::dropping>({1, 1}, 4, r);
  CHECK(train<runs::dropping>({3, 1}, 4, r) == one);
  CHECK(train<runs::dropping>({4, 1}, 4, r) == one);
}
