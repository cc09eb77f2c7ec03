// Several ranks over NCCL: here threads of one process, which is what an emulator of NCCL offers; a rank knows nothing of that.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <mortise/data/batch_loader.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/parallel/nccl.cuh>
#include <mortise/parallel/sharded_optimizer.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>

#include "runs.cuh"

namespace mt = mortise;

namespace {

using namespace cuda_runs;
using net_type = mt::model<both, input, mt::cuda>;
using world_type = mt::distributed<mt::nccl>;

/// Runs f(world) as each of `size` ranks; what a rank throws is its words in the result.
template <class F>
std::vector<std::string> as_ranks(std::size_t size, double timeout, F const& f) {
  ncclUniqueId const id = mt::make_nccl_id();
  std::vector<std::string> words(size);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        world_type world{mt::cuda{static_cast<int>(r)}, id, r, size, {.timeout = timeout}};
        f(world);
      } catch (mt::error const& e) {
        words[r] = e.what();
      }
    });
  for (auto& t : threads) t.join();
  return words;
}

std::size_t most_ranks() {
  auto const visible = static_cast<std::size_t>(mt::cuda::device_count());
  return visible < 4 ? visible : 4;
}

struct how {
  std::size_t shards = 4;
  mt::buckets overlap{};
  bool weighted = false;
  bool share_state = false;
};

/// Seven steps of a run in epochs of four, the last batch of an epoch short: parameters, buffers, losses, moments, and what is inferred.
template <class Spec>
std::vector<float> train(Spec&& spec, mt::cuda const& device, how const& h) {
  net_type net{device, mt::seed{3}};
  mt::data_parallel many{net, spec, mt::shards{h.shards}, h.overlap};
  data const samples{57, 1};
  mt::batch_loader loader{mt::in_memory_dataset<input>{samples.x, samples.y},
                          {.batch = 16, .shuffle = true, .seed = 2, .part = many.part()}};
  mt::cross_entropy_loss loss;
  if (h.weighted) loss.weight = {0.1, 3, 1, 0.5, 2};
  std::vector<float> r;
  auto const go = [&](auto& opt) {
    int step = 0;
    while (step < 7)
      for (auto const& batch : loader) {
        r.push_back(mt::train_step(many, loss, opt, batch));
        if (++step == 7) break;
      }
    for (float const p : mt::to_host(device, opt.slot(0))) r.push_back(p);
  };
  if (h.share_state) {
    mt::sharded_optimizer opt{many, mt::adamw{}};
    go(opt);
  } else {
    mt::optimizer opt{net, mt::adamw{}};
    go(opt);
  }
  for (float const p : mt::to_host(device, net.parameters())) r.push_back(p);
  for (float const p : mt::to_host(device, net.buffers())) r.push_back(p);
  many.eval();
  data const d{13, 8};
  for (float const p : mt::to_host(device, many.forward(d.x))) r.push_back(p);
  return r;
}

void ranks_have_the_bits_of_one(std::size_t ranks, how const& h) {
  how alone = h;
  alone.share_state = false;
  auto const one = train(mt::devices{mt::cuda{0}}, mt::cuda{0}, alone);
  std::vector<std::vector<float>> each(ranks);
  auto const words = as_ranks(ranks, 60, [&](world_type& world) { each[world.rank()] = train(world, world.device(), h); });
  for (std::size_t r = 0; r < ranks; ++r) {
    CHECK(words[r] == "");
    CHECK(each[r] == one);
  }
}

}  // namespace

TEST_CASE("ranks over NCCL have the bits of one device with the same shards") {
  for (std::size_t ranks = 1; ranks <= most_ranks(); ++ranks) {
    CAPTURE(ranks);
    ranks_have_the_bits_of_one(ranks, {});
    ranks_have_the_bits_of_one(ranks, {.shards = 7, .overlap = {256}, .weighted = true});
  }
  ranks_have_the_bits_of_one(most_ranks(), {.overlap = {0}, .share_state = true});
}

TEST_CASE("parameters that travel by broadcast arrive") {
  auto const one = train(mt::devices{mt::cuda{0}}, mt::cuda{0}, {});
  for (std::size_t devices = 2; devices <= most_ranks(); ++devices)
    CHECK(train(mt::nccl_devices{mt::devices{first_devices(devices)}}, mt::cuda{0}, {}) == one);
}

TEST_CASE("batch norms synchronised over ranks are the batch norm of the whole batch") {
  std::size_t const ranks = most_ranks();
  auto const go = [](auto&& spec, mt::cuda const& device) {
    mt::model<normalized, input, mt::cuda> net{device, mt::seed{3}};
    mt::data_parallel many{net, spec, mt::sync_batch_norm{}};
    mt::optimizer opt{net, mt::adamw{}};
    for (std::uint32_t step = 0; step < 3; ++step) mt::train_step(many, mt::cross_entropy_loss{}, opt, data{17, step}.batch());
    auto all = mt::to_host(device, net.parameters());
    for (float const b : mt::to_host(device, net.buffers())) all.push_back(b);
    return all;
  };
  auto const devices = go(mt::devices{first_devices(ranks)}, mt::cuda{0});
  std::vector<std::vector<float>> each(ranks);
  auto const words = as_ranks(ranks, 60, [&](world_type& world) { each[world.rank()] = go(world, world.device()); });
  for (std::size_t r = 0; r < ranks; ++r) {
    CHECK(words[r] == "");
    CHECK(each[r] == devices);
  }
}

TEST_CASE("an error on one rank ends the step on all, in words, and the next step works; ranks that differ are told so") {
  std::size_t const ranks = most_ranks();
  if (ranks < 2) return;
  std::vector<std::string> seen(ranks), again(ranks), other(ranks);
  auto const words_of = [](auto const& f) -> std::string {
    try {
      f();
    } catch (mt::error const& e) {
      return e.what();
    }
    return {};
  };
  auto const words = as_ranks(ranks, 60, [&](world_type& world) {
    net_type net{world.device(), mt::seed{3}};
    mt::data_parallel many{net, world, mt::shards{4}};
    mt::optimizer opt{net, mt::adamw{}};
    data d{16, 3};
    d.y[15] = 77;  // in the last rank's part
    seen[world.rank()] = words_of([&] { mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch()); });
    d.y[15] = 1;
    again[world.rank()] = words_of([&] { mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch()); });
    other[world.rank()] = words_of([&] { mt::data_parallel different(net, world, mt::shards{8 + world.rank()}); });
  });
  for (std::size_t r = 0; r < ranks; ++r) {
    CHECK(words[r] == "");
    CHECK(seen[r].find("77") != std::string::npos);
    if (r + 1 != ranks) CHECK(seen[r].find("rank " + std::to_string(ranks - 1)) != std::string::npos);
    CHECK(again[r] == "");
    CHECK(other[r].find("differs from rank 0 in its shards") != std::string::npos);
  }
}

TEST_CASE("a rank that is gone is noticed by the others within the timeout") {
  if (most_ranks() < 2) return;
  auto const words = as_ranks(2, 1, [&](world_type& world) {
    net_type net{world.device(), mt::seed{3}};
    mt::data_parallel many{net, world, mt::shards{4}};
    mt::optimizer opt{net, mt::adamw{}};
    mt::train_step(many, mt::cross_entropy_loss{}, opt, data{16, 0}.batch());
    if (world.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::seconds(3));  // hangs for longer than the other waits
      return;
    }
    mt::train_step(many, mt::cross_entropy_loss{}, opt, data{16, 1}.batch());
  });
  CHECK(words[0].find("waited 1 s for the others") != std::string::npos);
}

// The emulator makes one call fail where CUDA_EMU_FAIL says so: on whichever rank comes to it.
TEST_CASE("a call that fails on one of four ranks ends all of them with an error, within the timeout") {
  if (std::getenv("CUDA_EMU_FAIL") == nullptr || most_ranks() < 4) return;
  std::vector<int> steps(4, 0);
  auto const words = as_ranks(4, 2, [&](world_type& world) {
    net_type net{world.device(), mt::seed{3}};
    mt::data_parallel many{net, world, mt::shards{4}};
    mt::optimizer opt{net, mt::adamw{}};
    for (std::uint32_t step = 0; step < 50; ++step) {
      mt::train_step(many, mt::cross_entropy_loss{}, opt, data{16, step}.batch());
      ++steps[world.rank()];
    }
  });
  int failed = 0;
  for (std::size_t r = 0; r < 4; ++r) {
    CHECK(words[r] != "");
    CHECK(steps[r] < 50);
    failed += words[r].find(" failed: ") != std::string::npos;
  }
  CHECK(failed > 0);
}

TEST_CASE("ranks find each other through a file") {
  std::string const path = "nccl_test_id";
  ncclUniqueId other{};
  std::thread late{[&] { other = mt::nccl_id(path, 1, 30); }};
  ncclUniqueId const id = mt::nccl_id(path, 0);
  late.join();
  static_cast<void>(std::remove(path.c_str()));
  CHECK(std::string(other.internal, sizeof other.internal) == std::string(id.internal, sizeof id.internal));
  CHECK_THROWS_AS(mt::nccl_id(path, 1, 0.05), mt::distributed_error);
}
