// Trains a small convolutional network on handwritten digits, stops at any step, and goes on with the same bits.
//
//   train_digits --epochs 30 --checkpoint run.safetensors            train, with a checkpoint at each epoch's end
//   train_digits ... --stop-at-step 37                               save and stop there
//   train_digits ... --resume                                        go on from the checkpoint, also in the middle of an epoch
//   train_digits ... --devices host:4 --shards 4                     on four host devices; with the same --shards, any number has the same bits
//   train_digits_cuda ... --device cuda:0                            the same source, compiled by nvcc; or --devices cuda:0,cuda:1 --shards 4
//
// The last two lines are the test accuracy and a digest of all parameters' bytes: two equal runs print the same lines.
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <mortise/mortise.hpp>
#ifdef __CUDACC__
#include <mortise/cuda.cuh>
#endif

namespace mt = mortise;

namespace {

struct light_dropout : mt::dropout {
  constexpr light_dropout() { p = 0.25f; }
};

// Names and shapes are those of the same network in PyTorch: features.0.weight (16, 1, 3, 3), ..., classifier.4.bias (10).
using digits_net = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<16, 3, 1, 1>, mt::relu, mt::conv2d<32, 3, 1, 1>, mt::relu, mt::max_pool2d<2>>>,
    mt::flatten,
    mt::named<"classifier", mt::sequential<light_dropout, mt::linear<64>, mt::relu, light_dropout, mt::linear<10>>>>;

template <class Device>
using digits_model = mt::model<digits_net, mt::extents<1, 8, 8>, Device>;

struct settings {
  std::string data = "examples/data";
  std::int64_t epochs = 30;
  std::size_t batch = 32;
  std::string optimizer = "adam";
  float lr = 0;
  std::uint64_t seed = 1;
  int threads = 0;
  std::string devices = "host";
  std::size_t shards = 0;
  std::string device = "host";
  std::string checkpoint;
  std::int64_t every = 0;
  bool resume = false;
  std::int64_t stop_at_step = 0;
  bool quiet = false;
};

/// "host" or "host:N" as a mesh of N devices.
mt::host_mesh mesh_of(settings const& s) {
  if (s.devices == "host") return {1, s.threads};
  std::size_t digits = 0;
  std::string const count = s.devices.substr(0, 5) == "host:" ? s.devices.substr(5) : "";
  unsigned long const n = count.empty() || count[0] < '1' || count[0] > '9' ? 0 : std::stoul(count, &digits);
  if (n == 0 || n > 1024 || digits != count.size())
    throw mt::usage_error("--devices " + s.devices + ": this program runs on the host: host, or host:N for N host devices");
  return {n, s.threads};
}

/// The numbers in "cuda:0,cuda:1"; none where it is no such list.
std::vector<int> cuda_ordinals(std::string const& text) {
  std::vector<int> list;
  for (std::size_t at = 0; at <= text.size();) {
    std::size_t const comma = text.find(',', at) == std::string::npos ? text.size() : text.find(',', at);
    std::string const name = text.substr(at, comma - at);
    if (name.size() < 6 || name.size() > 8 || name.rfind("cuda:", 0) != 0 || name.find_first_not_of("0123456789", 5) != std::string::npos) return {};
    list.push_back(std::stoi(name.substr(5)));
    at = comma + 1;
  }
  return list;
}

/// What trains: the network on its mesh of host devices, or on its CUDA devices.
auto on_devices(digits_model<mt::host>& net, settings const& s) { return mt::data_parallel{net, mesh_of(s), mt::shards{s.shards}}; }
#ifdef __CUDACC__
auto on_devices(digits_model<mt::cuda>& net, settings const& s) {
  std::vector<mt::cuda> list{net.device()};
  if (s.devices.rfind("cuda:", 0) == 0) {
    list.clear();
    for (int const ordinal : cuda_ordinals(s.devices)) list.emplace_back(ordinal);
  }
  return mt::data_parallel{net, mt::devices{list}, mt::shards{s.shards}};
}
#endif

template <class Device>
double test_accuracy(digits_model<Device>& net, mt::idx_dataset const& data) {
  mt::accuracy right;
  net.eval();
  mt::batch_loader loader{data, {.batch = 60, .shuffle = false}};
  for (auto batch : loader) {
    auto const scores = net.forward(batch.x);
    auto const here = mt::to_host(net.device(), scores);
    right.update(mt::view<float const>{here.data(), scores.extents()}, batch.y);
  }
  net.train();
  return right.value();
}

template <class Device, class Rule>
void train(Device const& device, settings const& s, Rule const& rule) {
  mt::idx_dataset const all{s.data + "/digits-images.idx3-ubyte", s.data + "/digits-labels.idx1-ubyte", {.scale = 1.0f / 16}};
  mt::idx_dataset const training = all.first(1437);
  mt::idx_dataset const testing = all.last(360);

  digits_model<Device> net{device, mt::seed{s.seed}};
  auto&& many = on_devices(net, s);
  if (!s.quiet) std::cout << mt::summary(net) << std::flush;

  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, rule};
  mt::batch_loader loader{training, {.batch = s.batch, .shuffle = true, .seed = s.seed}};
  mt::progress progress;
  mt::accuracy seen;
  mt::running_mean mean_loss;
  mt::checkpoint run{many, opt, loader, progress};

  if (s.resume) {
    if (std::ifstream{s.checkpoint}.good()) {
      mt::load(s.checkpoint, run);
      if (!s.quiet) std::cout << "resumed at epoch " << progress.epoch << ", step " << progress.global_step << '\n';
    } else if (!s.quiet) {
      std::cout << "no checkpoint " << s.checkpoint << " yet: starting from the beginning\n";
    }
  }

  bool stopped = s.stop_at_step > 0 && progress.global_step >= s.stop_at_step;
  for (; !stopped && progress.epoch < s.epochs; ++progress.epoch) {
    bool const begun = loader.epoch() == static_cast<std::uint64_t>(progress.epoch);  // a resumed epoch
    mt::progress_bar bar{"epoch " + std::to_string(progress.epoch + 1) + "/" + std::to_string(s.epochs), loader.batches(),
                         begun ? loader.batches_done() : 0, stdout, s.quiet};
    seen.reset();
    mean_loss.reset();
    for (auto batch : loader) {
      float const value = mt::train_step(many, loss, opt, batch);
      ++progress.global_step;
      auto const scores = mt::to_host(device, many.output());
      seen.update(mt::view<float const>{scores.data(), many.output().extents()}, batch.y);
      mean_loss.update(value, static_cast<double>(batch.size()));
      bar.update(batch.size(), mean_loss.value(), seen.value());
      stopped = s.stop_at_step > 0 && progress.global_step >= s.stop_at_step;
      if (!s.checkpoint.empty() && (stopped || (s.every > 0 && progress.global_step % s.every == 0))) mt::save(s.checkpoint, run);
      if (stopped) break;
    }
    bar.finish();
    if (stopped) break;
    if (!s.checkpoint.empty()) mt::save(s.checkpoint, run);
  }
  if (stopped && !s.quiet) std::cout << "stopped at step " << progress.global_step << '\n';

  std::printf("test accuracy: %.4f\n", test_accuracy(net, testing));
  std::printf("parameters digest: %s\n", mt::parameters_digest(net).c_str());
}

template <class Device>
void train(Device const& device, settings const& s) {
  if (s.optimizer == "sgd") train(device, s, mt::sgd{.lr = s.lr > 0 ? s.lr : 0.05f, .momentum = 0.9f});
  else if (s.optimizer == "adam") train(device, s, mt::adam{.lr = s.lr > 0 ? s.lr : 1e-3f});
  else train(device, s, mt::adamw{.lr = s.lr > 0 ? s.lr : 1e-3f});
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"Trains a small convolutional network on handwritten digits (UCI), stops at any step, and goes on with the same bits."};
  app.add_option("--data", s.data, "folder with digits-images.idx3-ubyte and digits-labels.idx1-ubyte")->capture_default_str();
  app.add_option("--epochs", s.epochs, "passes over the training data")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--batch", s.batch, "samples a step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--optimizer", s.optimizer)->check(CLI::IsMember({"sgd", "adam", "adamw"}))->capture_default_str();
  app.add_option("--lr", s.lr, "learning rate (default: 0.05 for sgd, 0.001 for adam and adamw)")->check(CLI::PositiveNumber);
  app.add_option("--seed", s.seed, "names all random numbers of the run")->capture_default_str();
  app.add_option("--threads", s.threads, "threads of each device; never changes a bit (default: all cores)")->check(CLI::NonNegativeNumber);
  app.add_option("--devices", s.devices, "host:N for N host devices that train together; cuda:0,cuda:1 for CUDA devices")->capture_default_str();
  app.add_option("--shards", s.shards, "parts of a batch; equal numbers have equal bits on any devices (default: one for each device)");
  app.add_option("--device", s.device, "host, or cuda:0, cuda:1, ... where this program was built by nvcc")->capture_default_str();
  auto* const checkpoint = app.add_option("--checkpoint", s.checkpoint, "file to save the run in (.safetensors)");
  app.add_option("--every", s.every, "also save every so many steps")->check(CLI::PositiveNumber)->needs(checkpoint);
  app.add_flag("--resume", s.resume, "go on from the checkpoint")->needs(checkpoint);
  app.add_option("--stop-at-step", s.stop_at_step, "stop (and save) after this step")->check(CLI::PositiveNumber);
  app.add_flag("--quiet", s.quiet, "print the last two lines only");
  CLI11_PARSE(app, argc, argv);

  if (s.devices.rfind("cuda:", 0) == 0) s.device = s.devices.substr(0, s.devices.find(','));
  if (s.device == "host") {
    train(mt::host{s.threads}, s);
    return 0;
  }
  std::string const& asked = s.devices.rfind("cuda:", 0) == 0 ? s.devices : s.device;
  std::vector<int> const ordinals = cuda_ordinals(asked);
  if (ordinals.empty()) throw std::runtime_error{"there is no device \"" + asked + "\"; devices are host, cuda:0, cuda:1, ..., lists cuda:0,cuda:1"};
#ifdef __CUDACC__
  train(mt::cuda{ordinals[0]}, s);
#else
  throw std::runtime_error{asked + ": this program was built without CUDA; build train_digits_cuda, which needs nvcc (Meson: -Dcuda=enabled)"};
#endif
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "train_digits: %s\n", e.what());
  return 1;
}
