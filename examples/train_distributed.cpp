// Trains the network of train_digits by several processes, which may come and go: the bits are those of one process.
//
//   mpirun -n 4 train_distributed --checkpoint run.safetensors --resume
//   train_distributed.sh 4 --checkpoint run.safetensors              the same, started again from the checkpoint when a process dies
//
// Each process reads and computes its part of every batch. With --shards S (a batch is always cut into S parts) the last two lines are
// the same for 1 to S processes, also when a run goes on under another number of them.
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include <CLI/CLI.hpp>

#include <mortise/mortise.hpp>
#include <mortise/parallel/mpi.hpp>

namespace mt = mortise;

namespace {

struct light_dropout : mt::dropout {
  constexpr light_dropout() { p = 0.25f; }
};
using digits_net = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<16, 3, 1, 1>, mt::batch_norm2d, mt::relu, mt::conv2d<32, 3, 1, 1>, mt::relu, mt::max_pool2d<2>>>,
    mt::flatten,
    mt::named<"classifier", mt::sequential<light_dropout, mt::linear<64>, mt::relu, light_dropout, mt::linear<10>>>>;

struct settings {
  std::string data = "examples/data";
  std::int64_t epochs = 10;
  std::size_t batch = 32;
  std::size_t shards = 4;
  std::uint64_t seed = 1;
  std::string checkpoint;
  std::int64_t every = 0;
  bool resume = false;
  double timeout = 60;
};

void train(settings const& s) {
  mt::distributed<mt::mpi> world{{.timeout = s.timeout}};
  mt::idx_dataset const all{s.data + "/digits-images.idx3-ubyte", s.data + "/digits-labels.idx1-ubyte", {.scale = 1.0f / 16}};

  mt::model<digits_net, mt::extents<1, 8, 8>> net{mt::host{world.threads()}, mt::seed{s.seed}};
  mt::data_parallel many{net, world, mt::shards{s.shards}};
  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, mt::adamw{.lr = 1e-3f}};
  mt::batch_loader loader{all.first(1437), {.batch = s.batch, .shuffle = true, .seed = s.seed, .part = many.part()}};
  mt::progress progress;
  mt::checkpoint run{many, opt, loader, progress};

  if (s.resume && std::ifstream{s.checkpoint}.good()) {
    mt::load(s.checkpoint, run);
    if (world.rank() == 0) std::fprintf(stderr, "%zu processes go on at step %lld\n", world.size(), static_cast<long long>(progress.global_step));
  }
  for (; progress.epoch < s.epochs; ++progress.epoch) {
    for (auto const& batch : loader) {
      mt::train_step(many, loss, opt, batch);
      ++progress.global_step;
      if (!s.checkpoint.empty() && s.every > 0 && progress.global_step % s.every == 0) mt::save(s.checkpoint, run);
    }
  }
  if (!s.checkpoint.empty()) mt::save(s.checkpoint, run);

  mt::accuracy right;
  many.eval();
  mt::batch_loader tests{all.last(360), {.batch = 60, .shuffle = false}};
  for (auto const& batch : tests) right.update(many.forward(batch.x), batch.y);
  if (world.rank() == 0) {
    std::printf("test accuracy: %.4f\n", right.value());
    std::printf("parameters digest: %s\n", mt::parameters_digest(net).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"Trains a network on handwritten digits (UCI) by the processes that mpirun starts; without mpirun, by one."};
  app.add_option("--data", s.data, "folder with digits-images.idx3-ubyte and digits-labels.idx1-ubyte")->capture_default_str();
  app.add_option("--epochs", s.epochs, "passes over the training data")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--batch", s.batch, "samples a step, over all processes")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--shards", s.shards, "parts of a batch; 0: as many as processes")->capture_default_str();
  app.add_option("--seed", s.seed, "names all random numbers of the run")->capture_default_str();
  auto* const checkpoint = app.add_option("--checkpoint", s.checkpoint, "file to save the run in (.safetensors), which all processes can read");
  app.add_option("--every", s.every, "save every so many steps, besides the end")->check(CLI::PositiveNumber)->needs(checkpoint);
  app.add_flag("--resume", s.resume, "go on from the checkpoint if there is one")->needs(checkpoint);
  app.add_option("--timeout", s.timeout, "seconds to wait for another process before giving up")->check(CLI::PositiveNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  train(s);
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "train_distributed: %s\n", e.what());
  return 1;
}
