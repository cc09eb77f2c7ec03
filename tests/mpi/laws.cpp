// Run by mpirun: every process checks the laws of several processes against a run of its own alone.
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <mortise/data/batch_loader.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/transforms.hpp>
#include <mortise/parallel/data_parallel.hpp>
#include <mortise/parallel/mpi.hpp>
#include <mortise/parallel/sharded_optimizer.hpp>
#include <mortise/train/async_saver.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>

#include "loop.hpp"
#include "runs.hpp"

namespace mt = mortise;

namespace {

mt::distributed<mt::mpi>* world = nullptr;
std::string folder;

using runs::samples;
using runs::words;

using net_type = mt::model<runs::both, runs::input>;
using rule = mt::chain<mt::clip_grad_norm, mt::scale_by_adam, mt::scale_by_learning_rate>;

struct result {
  std::vector<float> parameters, buffers, losses, inferred, first_moment;
  bool operator==(result const&) const = default;
};

/// Eleven steps of a run in epochs of four, the last batch of an epoch short; saved after `stop`, and loaded by another run that goes on.
template <class Spec, class Make>
result train(Spec& spec, std::size_t shards, bool weighted, Make const& make_optimizer, int stop = 0, std::string const& file = {},
             mt::buckets const& overlap = {}) {
  result r;
  for (int part = stop == 0 ? 1 : 0; part < 2; ++part) {
    net_type net{mt::host{1}, mt::seed{3}};
    mt::data_parallel many{net, spec, mt::shards{shards}, overlap};
    auto opt = make_optimizer(net, many);
    mt::cross_entropy_loss loss;
    if (weighted) loss.weight = {0.1, 3, 1, 0.5, 2};
    mt::batch_loader loader{samples(), {.batch = 16, .shuffle = true, .seed = 2, .part = many.part()}};
    mt::progress progress;
    mt::checkpoint run{many, opt, loader, progress};
    if (stop != 0 && part == 1) mt::load(file, run);
    runs::train_until(part == 0 ? stop : 11, loader, progress,
                      [&](auto const& batch) { r.losses.push_back(mt::train_step(many, loss, opt, batch)); });
    if (part == 0) {
      mt::save(file, run);
      continue;
    }
    r.parameters = net.parameters().to_vector();
    r.buffers = net.buffers().to_vector();
    r.first_moment = opt.slot(0).to_vector();
    many.eval();
    runs::data const d{13, 8};
    r.inferred = many.forward(d.x).to_vector();
  }
  return r;
}

auto const plain = [](net_type& net, auto&) { return mt::optimizer{net, rule{}}; };
auto const sharded = [](net_type&, auto& many) { return mt::sharded_optimizer{many, rule{}}; };

}  // namespace

TEST_CASE("several processes have the bits of one with the same shards") {
  mt::host_mesh alone{1, 1};
  for (bool const weighted : {false, true}) {
    CHECK(train(*world, 4, weighted, plain) == train(alone, 4, weighted, plain));
    CHECK(train(*world, 7, weighted, plain) == train(alone, 7, weighted, plain));
    CHECK(train(*world, 0, weighted, plain) == train(alone, world->size(), weighted, plain));
  }
}

TEST_CASE("sums on their way while backward goes on have the bits of those made at its end") {
  auto const at_the_end = train(*world, 7, false, plain, 0, {}, {0});
  for (std::size_t const bytes : {40u, 256u, 1u << 20}) CHECK(train(*world, 7, false, plain, 0, {}, {bytes}) == at_the_end);
}

TEST_CASE("sharing out the optimizer's state changes no bit") {
  mt::host_mesh alone{1, 1};
  CHECK(train(*world, 4, false, sharded) == train(alone, 4, false, plain));
  net_type net{mt::host{1}, mt::seed{3}};
  mt::data_parallel many{net, *world, mt::shards{4}};
  mt::sharded_optimizer opt{many, mt::adamw{}};
  mt::optimizer whole{net, mt::adamw{}};
  CHECK(opt.state_bytes() <= whole.state_bytes() / world->size() + 2 * sizeof(float));
}

TEST_CASE("a run goes on in the middle of an epoch, by several processes and by one, with its state shared out or whole") {
  mt::host_mesh alone{1, 1};
  auto const uninterrupted = train(alone, 4, true, plain);
  std::string const file = folder + "/run.safetensors";
  auto const same_end = [&](result const& r) { return r.parameters == uninterrupted.parameters && r.buffers == uninterrupted.buffers; };
  CHECK(same_end(train(*world, 4, true, plain, 6, file)));
  CHECK(same_end(train(*world, 4, true, sharded, 6, file)));
  std::string const own = folder + "/own" + std::to_string(world->rank()) + ".safetensors";
  CHECK(same_end(train(alone, 4, true, plain, 6, own)));
}

TEST_CASE("the file is the same, whoever wrote it") {
  auto const bytes = [](std::string const& path) {
    auto const in = mt::open_archive(path);
    std::vector<std::vector<std::byte>> all;
    for (auto const& t : in.tensors()) all.push_back(in.read(t.name));
    return all;
  };
  mt::host_mesh alone{1, 1};
  std::string const many = folder + "/many.safetensors", zero = folder + "/zero.safetensors";
  std::string const one = folder + "/one" + std::to_string(world->rank()) + ".safetensors";
  train(*world, 4, false, plain, 6, many);
  train(*world, 4, false, sharded, 6, zero);
  train(alone, 4, false, plain, 6, one);
  CHECK(bytes(many) == bytes(one));
  CHECK(bytes(zero) == bytes(one));
}

TEST_CASE("batch norms synchronised over processes have the bits of those in one, also while gradients are on their way") {
  auto const train_synchronized = [](auto& spec) {
    net_type net{mt::host{1}, mt::seed{3}};
    mt::data_parallel many{net, spec, mt::shards{world->size()}, mt::sync_batch_norm{}, mt::buckets{64}};
    mt::optimizer opt{net, mt::adamw{}};
    for (std::uint32_t step = 0; step < 5; ++step) mt::train_step(many, mt::cross_entropy_loss{}, opt, runs::data{17, step}.batch());
    auto all = net.parameters().to_vector();
    for (float const b : net.buffers()) all.push_back(b);
    return all;
  };
  mt::host_mesh alone{1, 1};
  CHECK(train_synchronized(*world) == train_synchronized(alone));
}

TEST_CASE("an error on one process ends the step on all, in words, and the next step works") {
  net_type net{mt::host{1}, mt::seed{3}};
  mt::data_parallel many{net, *world, mt::shards{4}};
  mt::optimizer opt{net, mt::adamw{}};
  runs::data d{16, 3};
  std::size_t const last = world->size() - 1;
  d.y[15] = 77;  // in the last process's part
  std::string const text = words([&] { mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch()); });
  CHECK(text.find("77") != std::string::npos);
  if (world->rank() != last) CHECK(text.find("rank " + std::to_string(last)) != std::string::npos);
  d.y[15] = 1;
  CHECK(words([&] { mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch()); }).empty());
}

TEST_CASE("a save in the background is written once") {
  net_type net{mt::host{1}, mt::seed{3}}, loaded{mt::host{1}, mt::seed{4}};
  mt::data_parallel many{net, *world};
  std::string const file = folder + "/background.safetensors";
  mt::async_saver saver;
  saver.save(file, many);
  CHECK(saver.saving() <= (world->rank() == 0));
  saver.wait();
  world->barrier();
  mt::load(file, loaded);
  CHECK(loaded.parameters().to_vector() == net.parameters().to_vector());
  world->barrier();
}

TEST_CASE("a save that fails fails everywhere") {
  net_type net{mt::host{1}, mt::seed{3}};
  mt::data_parallel many{net, *world};
  CHECK(words([&] { mt::save(folder + "/no/such/folder/x.safetensors", many); }).find("folder") != std::string::npos);
}

TEST_CASE("processes that were started differently are told so") {
  if (world->size() == 1) return;
  net_type net{mt::host{1}, mt::seed{3}};
  std::string const text = words([&] { mt::data_parallel many(net, *world, mt::shards{8 + world->rank()}); });
  CHECK(text.find("differs from rank 0 in its shards") != std::string::npos);
}

TEST_CASE("replicas of different element types are told so") {
  if (world->size() == 1) return;
  mt::model<runs::both, runs::input, mt::host, double> wide{mt::host{1}};
  net_type net{mt::host{1}};
  std::string const text = words([&] {
    if (world->rank() == 0) mt::data_parallel many(wide, *world);
    else mt::data_parallel many(net, *world);
  });
  CHECK(text.find("differs from rank 0 in its bytes of an element") != std::string::npos);
}

int main(int argc, char** argv) {
  mt::distributed<mt::mpi> processes{{.timeout = 60, .threads = 1}};
  world = &processes;
  folder = argc > 1 ? argv[1] : ".";
  doctest::Context context;
  context.setOption("no-intro", true);
  int const failed = context.run();
  processes.barrier();
  return failed;
}
