// Several CUDA devices: the same bits on one device and on many, and what happens when one of them fails.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/parallel/cuda.cuh>
#include <mortise/train/checkpoint.hpp>

#include "runs.cuh"

namespace mt = mortise;

namespace {

using namespace cuda_runs;

/// Takes back what `connect` allowed: copies between these devices have to go by way of the host, and a kernel that reads another device's
/// memory is an error.
void forbid_peer_access(std::size_t devices) {
  for (mt::cuda const& owner : first_devices(devices))
    for (mt::cuda const& reader : first_devices(devices)) {
      if (owner == reader) continue;
      cudaMemAccessDesc access{};
      access.location.type = cudaMemLocationTypeDevice;
      access.location.id = reader.ordinal;
      access.flags = cudaMemAccessFlagsProtNone;
      MORTISE_CUDA(cudaMemPoolSetAccess(owner.context().pool(), &access, 1));
    }
}

struct how {
  mt::buckets overlap{};
  bool peers = true;
};

/// The bits of three steps, losses and outputs behind the parameters. A step that fails is taken again.
template <class Net, class T = float, class Rule>
std::vector<float> train(std::size_t devices, Rule const& rule, int* failures = nullptr, how const& settings = {}) {
  mt::model<Net, mt::extents<6>, mt::cuda, T> net{mt::cuda{0}, mt::seed{3}};
  mt::data_parallel many{net, mt::devices{first_devices(devices)}, mt::shards{4}, settings.overlap};
  if (!settings.peers) forbid_peer_access(devices);
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
    for (float const y : mt::to_host(net.device(), many.output())) r.push_back(y);
  }
  for (float const p : mt::to_host(net.device(), net.parameters())) r.push_back(p);
  for (float const p : mt::to_host(net.device(), net.buffers())) r.push_back(p);
  many.eval();
  data const d{7, 9};
  many.forward(d.x);
  for (float const y : mt::to_host(net.device(), many.output())) r.push_back(y);
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

TEST_CASE("gradients summed in pieces while backward goes on have the bits of those summed at its end") {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count());
  auto const at_the_end = train<both>(1, mt::adamw{}, nullptr, {{0}});
  for (std::size_t devices = 1; devices <= 4 && devices <= visible; ++devices)
    for (std::size_t const bytes : {std::size_t{60}, std::size_t{256}, std::size_t{0}})
      CHECK(train<both>(devices, mt::adamw{}, nullptr, {{bytes}}) == at_the_end);
}

TEST_CASE("devices that cannot read each other's memory give the same bits") {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count()), devices = visible < 4 ? visible : 4;
  CHECK(train<both>(devices, mt::adamw{}, nullptr, {{}, false}) == train<both>(1, mt::adamw{}));
}

TEST_CASE_TEMPLATE("16-bit networks have the same bits on any number of devices, and one verdict on overflows", T, mt::f16, mt::bf16) {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count());
  auto const one = train<both, T>(1, mt::adamw{});
  for (std::size_t devices = 2; devices <= 4 && devices <= visible; ++devices) CHECK(train<both, T>(devices, mt::adamw{}) == one);
}

TEST_CASE("an overflow on one device skips the step for all, and the scale moves once a step") {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count()), devices = visible < 4 ? visible : 4;
  mt::model<dropping, mt::extents<6>, mt::cuda, mt::f16> net{mt::cuda{0}, mt::seed{3}};
  net.set_scaler({.scale = 1024, .growth_interval = 2});
  mt::data_parallel many{net, mt::devices{first_devices(devices)}, mt::shards{4}};
  mt::optimizer opt{net, mt::sgd{.lr = 0.1f}};
  mt::cross_entropy_loss const loss;
  auto const parameters = [&] { return mt::to_host(net.device(), net.parameters()); };
  auto before = parameters();
  data d{24, 0};
  mt::train_step(many, loss, opt, d.batch());
  CHECK(parameters() != before);
  CHECK(net.scaler().scale == 1024);
  CHECK(net.scaler().growth_tracker == 1);
  before = parameters();
  d.x[23 * 6] = 1e30f;  // an infinity in 16 bits, on the last device alone
  mt::train_step(many, loss, opt, d.batch());
  CHECK(parameters() == before);
  CHECK(net.scaler().scale == 512);
  d = data{24, 1};
  mt::train_step(many, loss, opt, d.batch());
  mt::train_step(many, loss, opt, d.batch());
  CHECK(parameters() != before);
  CHECK(net.scaler().scale == 1024);
}

TEST_CASE("synchronised batch norm is the batch norm of the whole batch, spelled out or fused, and survives a failing step") {
  std::size_t const visible = static_cast<std::size_t>(mt::cuda::device_count());
  using net_type = mt::model<normalized, mt::extents<6>, mt::cuda, double>;
  for (std::size_t devices = 1; devices <= 4 && devices <= visible; ++devices) {
    CAPTURE(devices);
    net_type whole{mt::cuda{0}, mt::seed{9}}, net{mt::cuda{0}, mt::seed{9}}, spelled_out{mt::cuda{0}, mt::seed{9}};
    mt::data_parallel many{net, mt::devices{first_devices(devices)}, mt::sync_batch_norm{}};
    mt::data_parallel in_words{spelled_out, mt::devices{first_devices(devices)}, mt::shards{devices}, mt::sync_batch_norm{}};
    mt::optimizer opt_whole{whole, mt::sgd{.lr = 0.1}}, opt{net, mt::sgd{.lr = 0.1}}, opt_words{spelled_out, mt::sgd{.lr = 0.1}};
    mt::cross_entropy_loss const loss;
    for (std::uint32_t step = 0; step < 4; ++step) {
      data const d{step == 2 ? 13u : 24u, step};
      std::vector<double> const x(d.x.begin(), d.x.end());
      struct {
        mt::view<double const> x;
        mt::view<std::int64_t const> y;
      } batch{x, d.y};
      double const expected = mt::train_step(whole, loss, opt_whole, batch);
      if (step == 3) {  // refused before the devices begin; with one device by the device itself, later
        std::vector<std::int64_t> wrong = d.y;
        wrong.back() = 99;
        if (devices > 1) CHECK_THROWS_AS(many.forward_backward(loss, decltype(batch){x, wrong}), mt::usage_error);
      }
      CHECK(double(mt::train_step(many, loss, opt, batch)) == doctest::Approx(expected).epsilon(1e-12));
      in_words.train();
      in_words.forward(batch.x);
      in_words.backward(loss, batch.y);
      opt_words.step();
      // Sums over at most 24 samples and 17 terms in each of two layers, in another order: 3 * 41 eps, through four steps of a function with
      // condition below 100.
      double const bound = 400 * 3 * 41 * 1.2e-16;
      auto const near = [&](mt::view<double const> a, mt::view<double const> b) {
        auto const p = mt::to_host(net.device(), a), q = mt::to_host(net.device(), b);
        double difference = 0, size = 0;
        for (std::size_t i = 0; i < p.size(); ++i) {
          difference += (p[i] - q[i]) * (p[i] - q[i]);
          size += q[i] * q[i];
        }
        return difference <= bound * bound * size;
      };
      CHECK(near(net.parameters(), whole.parameters()));
      CHECK(near(net.buffers(), whole.buffers()));
      CHECK(mt::to_host(net.device(), spelled_out.parameters()) == mt::to_host(net.device(), net.parameters()));
    }
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
  CHECK(words([&] {
          mt::data_parallel many(net, mt::devices{mt::cuda{0}, mt::cuda{1}}, mt::shards{4}, mt::sync_batch_norm{});
        }).find("one shard in each") != std::string::npos);
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
  CHECK(mt::to_host(net.device(), net.parameters()) == mt::to_host(whole.device(), whole.parameters()));
  CHECK(mt::to_host(net.device(), net.buffers()) == mt::to_host(whole.device(), whole.buffers()));
}

// The emulator makes one call fail where CUDA_EMU_FAIL says so: a launch or an allocation of whichever device comes to it.
TEST_CASE("a step that fails on one device can be taken again, with the bits of a run without failures") {
  if (std::getenv("CUDA_EMU_FAIL") == nullptr || mt::cuda::device_count() < 4) return;
  int failures = 0;
  auto const r = train<dropping>(4, mt::sgd{.lr = 0.1f}, &failures);
  CHECK(failures > 0);
  CHECK(r == train<dropping>(1, mt::sgd{.lr = 0.1f}));
}
