// Several CUDA devices: the same bits on one device and on many, and what happens when one of them fails.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/parallel/cuda.cuh>
#include <mortise/train/checkpoint.hpp>

namespace mt = mortise;

namespace {

using dropping = mt::sequential<mt::linear<17>, mt::relu, mt::dropout, mt::linear<5>>;
using both = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::dropout, mt::linear<5>>;

struct batch {
  mt::view<float const> x;
  mt::view<std::int64_t const> y;
};
struct data {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  data(std::size_t n, std::uint32_t step) : x(n * 6), y(n) {
    mt::random_stream const numbers{7, 1, step};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(i) - 0.5f;
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<std::int64_t>(numbers.bits(100000 + i) % 5);
  }
  ::batch batch() const { return {x, y}; }
};

std::vector<float> on_host(mt::view<float const> v, mt::cuda const& device) {
  std::vector<float> r(v.size());
  device.copy(r.data(), v.data(), r.size() * sizeof(float));
  device.synchronize();
  return r;
}
std::vector<mt::cuda> first_devices(std::size_t n) {
  std::vector<mt::cuda> list;
  for (std::size_t i = 0; i < n; ++i) list.emplace_back(static_cast<int>(i));
  return list;
}

/// The bits of three steps, losses and outputs behind the parameters. A step that fails is taken again.
template <class Net, class Rule>
std::vector<float> train(std::size_t devices, Rule const& rule, int* failures = nullptr) {
  mt::model<Net, mt::extents<6>, mt::cuda> net{mt::cuda{0}, mt::seed{3}};
  mt::data_parallel many{net, mt::devices{first_devices(devices)}, mt::shards{4}};
  mt::optimizer opt{net, rule};
  mt::cross_entropy_loss const loss;
  std::vector<float> r;
  for (std::uint32_t step = 0; step < 3; ++step) {
    data const d{step == 1 ? 13u : 24u, step};
    for (bool done = false; !done;) {
      try {
        r.push_back(many.forward_backward(loss, d.batch()));
        done = true;
      } catch (mt::error const& e) {
        if (failures == nullptr || ++*failures > 20) throw;
        CHECK(std::string{e.what()}.size() > 10);
      }
    }
    opt.step();
    for (float const y : on_host(many.output(), net.device())) r.push_back(y);
  }
  for (float const p : on_host(net.parameters(), net.device())) r.push_back(p);
  for (float const p : on_host(net.buffers(), net.device())) r.push_back(p);
  many.eval();
  data const d{7, 9};
  many.forward(d.x);
  for (float const y : on_host(many.output(), net.device())) r.push_back(y);
  return r;
}

}  // namespace

TEST_CASE("with shards, any number of CUDA devices gives the same bits") {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count());
  auto const dropout_sgd = train<dropping>(1, mt::sgd{.lr = 0.1f});
  auto const dropout_adamw = train<dropping>(1, mt::adamw{});
  auto const both_sgd = train<both>(1, mt::sgd{.lr = 0.1f});
  auto const both_adamw = train<both>(1, mt::adamw{});
  for (std::size_t devices = 2; devices <= 4 && devices <= visible; ++devices) {
    CAPTURE(devices);
    CHECK(train<dropping>(devices, mt::sgd{.lr = 0.1f}) == dropout_sgd);
    CHECK(train<dropping>(devices, mt::adamw{}) == dropout_adamw);
    CHECK(train<both>(devices, mt::sgd{.lr = 0.1f}) == both_sgd);
    CHECK(train<both>(devices, mt::adamw{}) == both_adamw);
  }
}

TEST_CASE("mistakes about CUDA devices are answered in words") {
  auto const words = [](auto const& f) -> std::string {
    try {
      f();
    } catch (mt::error const& e) {
      return e.what();
    }
    return {};
  };
  int const visible = mt::cuda::device_count();
  CHECK(words([&] { mt::devices many(mt::cuda{0}, mt::cuda{0}); }).find("cuda:0 is listed twice") != std::string::npos);
  CHECK(words([&] { mt::devices many(mt::cuda{0}, mt::cuda{visible}); }).find("visible") != std::string::npos);
  if (visible < 2) return;
  mt::model<dropping, mt::extents<6>, mt::cuda> net{mt::cuda{0}, mt::seed{3}};
  CHECK(words([&] { mt::data_parallel many(net, mt::devices{mt::cuda{1}, mt::cuda{0}}); }).find("lives on cuda:0") != std::string::npos);
  mt::data_parallel many{net, mt::devices{mt::cuda{0}, mt::cuda{1}}};
  mt::buffer<float, mt::cuda> const x{mt::cuda{0}, 48};
  CHECK(words([&] { many.forward({x.data(), mt::shape{8, 6}}); }).find("host's memory") != std::string::npos);
}

TEST_CASE("a run saved under two CUDA devices goes on under three with the bits of the uninterrupted run") {
  if (mt::cuda::device_count() < 3) return;
  using net_type = mt::model<both, mt::extents<6>, mt::cuda>;
  std::string const path = "cuda_parallel_test.safetensors";
  auto const steps = [](auto& many, auto& opt, std::uint32_t from, std::uint32_t to) {
    for (std::uint32_t step = from; step < to; ++step) mt::train_step(many, mt::cross_entropy_loss{}, opt, data{13, step}.batch());
  };
  net_type whole{mt::cuda{0}, mt::seed{3}};
  mt::data_parallel one{whole, mt::devices{mt::cuda{0}}, mt::shards{4}};
  mt::optimizer opt_whole{whole, mt::adamw{}};
  steps(one, opt_whole, 0, 5);
  {
    net_type net{mt::cuda{0}, mt::seed{3}};
    mt::data_parallel many{net, mt::devices{first_devices(2)}, mt::shards{4}};
    mt::optimizer opt{net, mt::adamw{}};
    steps(many, opt, 0, 2);
    mt::checkpoint run{many, opt};
    mt::save(path, run);
  }
  net_type net{mt::cuda{0}, mt::seed{99}};
  mt::data_parallel many{net, mt::devices{first_devices(3)}, mt::shards{4}};
  mt::optimizer opt{net, mt::adamw{}};
  mt::checkpoint run{many, opt};
  mt::load(path, run);
  static_cast<void>(std::remove(path.c_str()));
  steps(many, opt, 2, 5);
  CHECK(on_host(net.parameters(), net.device()) == on_host(whole.parameters(), whole.device()));
  CHECK(on_host(net.buffers(), net.device()) == on_host(whole.buffers(), whole.device()));
}

// The emulator makes one call fail where CUDA_EMU_FAIL says so: a launch or an allocation of whichever device comes to it.
TEST_CASE("a step that fails on one device can be taken again, with the bits of a run without failures") {
  if (std::getenv("CUDA_EMU_FAIL") == nullptr || mt::cuda::device_count() < 4) return;
  int failures = 0;
  auto const r = train<dropping>(4, mt::sgd{.lr = 0.1f}, &failures);
  CHECK(failures > 0);
  CHECK(r == train<dropping>(1, mt::sgd{.lr = 0.1f}));
}
