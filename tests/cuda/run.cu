// Whole runs on a device: the lines that programs are written in, checkpoints between devices, and networks that compute in 16 bits.
#include <mortise/mortise.hpp>
#include <mortise/cuda.cuh>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "runs.hpp"

namespace mt = mortise;

namespace {

using network = mt::sequential<mt::named<"features", mt::sequential<mt::conv2d<4, 3, 1, 1>, mt::batch_norm2d, mt::relu, mt::max_pool2d<2>>>, mt::flatten,
                               mt::named<"classifier", mt::sequential<mt::dropout_p<1, 4>, mt::linear<24>, mt::layer_norm, mt::gelu, mt::linear<10>>>>;
using input = mt::extents<1, 8, 8>;
// The same pixels as a sequence of eight rows.
using attending = mt::sequential<mt::linear<12>, mt::residual<mt::sequential<mt::layer_norm, mt::multihead_attention<3, true>>>,
                                 mt::layer_norm, mt::flatten, mt::linear<10>>;

/// A network, what it takes, and the type it computes in.
template <class Network, class Input, class T>
struct computing_in {
  using element = T;
  using full_model = mt::model<Network, Input, mt::cuda>;
  using model = mt::model<Network, Input, mt::cuda, T>;
  using host_model = mt::model<Network, Input>;
};

using runs::distance;
using runs::parameters;

template <class Model, class Optimizer>
float train(Model& net, Optimizer& opt, std::uint32_t from, std::uint32_t to) {
  mt::cross_entropy_loss loss;
  float last = 0;
  for (std::uint32_t step = from; step < to; ++step) {
    runs::drawn_batch<typename Model::input_extents, 10> const d{16, step};
    last = mt::train_step(net, loss, opt, d.batch());
  }
  return last;
}
struct file {
  std::string path;
  explicit file(std::string const& name) : path{(std::filesystem::temp_directory_path() / ("mortise-cuda-" + std::to_string(::getpid()) + name)).string()} {}
  file(file const&) = delete;
  file& operator=(file const&) = delete;
  ~file() { std::remove(path.c_str()); }
};

}  // namespace

TEST_CASE("the public interface: information and moving between devices") {
  CHECK(mt::cuda::device_count() > 0);
  CHECK(!mt::cuda::device_name(0).empty());
  CHECK(mt::cuda::memory_info(0).total > 0);
  CHECK(!mt::cuda::by_free_memory().empty());
  mt::cuda::manual_seed(1);
  mt::cuda::manual_seed_all(1);
  CHECK(!mt::cuda::visible_devices().empty());
  int const last = mt::cuda::device_count() - 1;
  mt::cuda::set_device(last);
  CHECK(mt::cuda{}.ordinal == last);
  mt::cuda::set_device(0);

  mt::model<network, input> net{mt::host{}, mt::seed{42}};
  auto on_gpu = net.to(mt::cuda{0});
  mt::model<network, input, mt::cuda> fresh{mt::cuda{0}, mt::seed{42}};
  CHECK(parameters(on_gpu) == parameters(net));
  CHECK(parameters(fresh) == parameters(net));
  net = on_gpu.to(mt::host{});
  auto in_f64 = on_gpu.to<double>();
  CHECK(in_f64.parameters().size() == net.parameters().size());
  auto in_f16 = on_gpu.to(mt::cuda{last}).to<mt::f16>();
  CHECK(parameters(in_f16) == parameters(net));  // kept in float
  CHECK(!mt::summary(on_gpu).empty());

  // Groups and freezing by path, a schedule, a checkpoint: as on the host.
  mt::optimizer opt{on_gpu, mt::sgd{.lr = 0.01f, .momentum = 0.9f}, mt::group<"features">{.lr = 0.001f}, mt::freeze<"features.0">{}};
  auto const before = mt::to_host(on_gpu.device(), on_gpu.parameter("features.0.weight"));
  train(on_gpu, opt, 0, 3);
  CHECK(mt::to_host(on_gpu.device(), on_gpu.parameter("features.0.weight")) == before);
  CHECK(parameters(on_gpu) != parameters(net));
}

TEST_CASE("a run that is saved on one device and goes on on another has the same bits") {
  file const f{"a.safetensors"};
  int const last = mt::cuda::device_count() - 1;
  mt::model<network, input, mt::cuda> whole{mt::cuda{0}, mt::seed{3}};
  mt::optimizer opt{whole, mt::adamw{.lr = 1e-2f}};
  train(whole, opt, 0, 4);
  mt::checkpoint run{whole, opt};
  mt::save(f.path, run);
  train(whole, opt, 4, 9);

  mt::model<network, input, mt::cuda> part{mt::cuda{last}, mt::seed{77}};
  mt::optimizer part_opt{part, mt::adamw{.lr = 0.5f}};
  train(part, part_opt, 0, 3);  // recorded steps and moments of another run
  mt::checkpoint part_run{part, part_opt};
  mt::load(f.path, part_run);
  train(part, part_opt, 4, 9);
  CHECK(mt::parameters_digest(part) == mt::parameters_digest(whole));
}

TEST_CASE("a checkpoint of a device loads on the host, and the other way round, in every format") {
  for (char const* name : {"b.safetensors", "b.pt"}) {
    file const f{name};
    mt::model<network, input, mt::cuda> device{mt::cuda{0}, mt::seed{3}};
    mt::optimizer device_opt{device, mt::adam{.lr = 1e-2f}};
    train(device, device_opt, 0, 3);
    mt::checkpoint device_run{device, device_opt};
    mt::save(f.path, device_run);

    mt::model<network, input> host{mt::host{1}, mt::seed{9}};
    mt::optimizer host_opt{host, mt::adam{.lr = 1e-2f}};
    mt::checkpoint host_run{host, host_opt};
    mt::load(f.path, host_run);
    CHECK(parameters(host) == parameters(device));
    CHECK(mt::to_host(device.device(), device_opt.state("exp_avg_sq")) == host_opt.state("exp_avg_sq").to_vector());
    CHECK(host.training_steps() == device.training_steps());
    mt::save(f.path, host_run);
    mt::model<network, input, mt::cuda> back{mt::cuda{0}, mt::seed{1}};
    mt::optimizer back_opt{back, mt::adam{.lr = 1e-2f}};
    mt::checkpoint back_run{back, back_opt};
    mt::load(f.path, back_run);
    train(device, device_opt, 3, 5);
    train(back, back_opt, 3, 5);
    CHECK(mt::parameters_digest(back) == mt::parameters_digest(device));
  }
}

TEST_CASE("a mapped file goes straight to a device, and is never adopted there") {
  file const f{"d.safetensors"};
  mt::model<network, input> host{mt::host{1}, mt::seed{9}};
  mt::save(f.path, host, {.mappable = true});
  mt::model<network, input, mt::cuda> device{mt::cuda{0}, mt::seed{3}};
  REQUIRE(parameters(device) != parameters(host));
  mt::load(mt::map_file(f.path), device);
  CHECK(parameters(device) == parameters(host));

  mt::model<network, input, mt::cuda> other{mt::cuda{0}, mt::seed{4}};
  auto const report = mt::load(mt::map_file(f.path), other, {.adopt = true});
  CHECK(!report.adopted);
  CHECK(!report.not_adopted.empty());
  CHECK(parameters(other) == parameters(host));
}

// Eight layers, each of which rounds its inputs, weights and outputs to 11 bits (f16) or 8 (bf16); norms in between keep errors from growing
// by more than a factor of two a layer.
TEST_CASE_TEMPLATE("a network that computes in 16 bits agrees with one in float within its rounding", Case,
                   computing_in<network, input, mt::f16>, computing_in<network, input, mt::bf16>,
                   computing_in<attending, mt::extents<8, 8>, mt::f16>, computing_in<attending, mt::extents<8, 8>, mt::bf16>) {
  using T = typename Case::element;
  double const unit = std::is_same_v<T, mt::f16> ? 0x1p-11 : 0x1p-8;
  typename Case::full_model full{mt::cuda{0}, mt::seed{5}};
  auto half = full.template to<T>();
  CHECK(half.training_steps() == full.training_steps());
  mt::cross_entropy_loss loss;
  runs::drawn_batch<typename Case::full_model::input_extents, 10> const d{16, 1};
  auto const y = mt::to_host(full.device(), full.forward(d.batch().x)), y16 = mt::to_host(half.device(), half.forward(d.batch().x));
  CHECK(distance(y16, y) < 8 * 3 * 2 * unit);
  CHECK(distance(y16, y) > 0);
  float const value = full.backward(loss, d.batch().y), value16 = half.backward(loss, d.batch().y);
  CHECK(std::abs(static_cast<double>(value16 - value)) < 8 * 3 * 2 * unit * static_cast<double>(value));
  auto const g = mt::to_host(full.device(), full.gradients()), g16 = mt::to_host(half.device(), half.gradients());
  CHECK(distance(g16, g) < 2 * 8 * 3 * 4 * unit);  // there and back
}

TEST_CASE_TEMPLATE("a network that computes in 16 bits learns, graph or no graph, and its run resumes with the same bits", Case,
                   computing_in<network, input, mt::f16>, computing_in<network, input, mt::bf16>,
                   computing_in<attending, mt::extents<8, 8>, mt::f16>) {
  using model = typename Case::model;
  file const f{"c.safetensors"};
  model a{mt::cuda{0}, mt::seed{5}}, b{mt::cuda{0}, mt::seed{5}};
  mt::optimizer opt_a{a, mt::adamw{.lr = 1e-2f}}, opt_b{b, mt::adamw{.lr = 1e-2f}};
  b.step_memory().graphs = false;
  float const first = train(a, opt_a, 0, 1);
  train(b, opt_b, 0, 1);
  // Where an emulator runs lanes in an unusual order, a step takes thirty times as long, and a few show what order could change.
  bool const in_order = std::getenv("CUDA_EMU_SCHED") == nullptr;
  std::uint32_t const steps = in_order ? 30 : 5;
  float const last = train(a, opt_a, 1, steps), last_b = train(b, opt_b, 1, steps);
  if (in_order) CHECK(last < 0.7f * first);
  CHECK(last == last_b);
  CHECK(parameters(a) == parameters(b));

  mt::checkpoint run{a, opt_a};
  mt::save(f.path, run);
  model c{mt::cuda{0}, mt::seed{6}};
  mt::optimizer opt_c{c, mt::adamw{.lr = 1e-3f}};
  mt::checkpoint run_c{c, opt_c};
  mt::load(f.path, run_c);
  train(a, opt_a, steps, steps + 3);
  train(c, opt_c, steps, steps + 3);
  CHECK(parameters(a) == parameters(c));
  if constexpr (std::is_same_v<typename Case::element, mt::f16>) CHECK(a.scaler() == c.scaler());

  typename Case::host_model on_host{mt::host{1}, mt::seed{6}};  // what is saved are the float parameters
  mt::load(f.path, on_host);
  CHECK(parameters(on_host).size() == parameters(a).size());
}

TEST_CASE("an overflow skips the update and halves the scale; steps without one raise it") {
  using model = mt::model<network, input, mt::cuda, mt::f16>;
  model net{mt::cuda{0}, mt::seed{5}};
  mt::optimizer opt{net, mt::adamw{.lr = 1e-2f}};
  CHECK(net.scaler() == mt::grad_scaler{});
  net.set_scaler({.scale = 0x1p40, .growth_interval = 3});
  auto const before = parameters(net);
  train(net, opt, 0, 5);
  CHECK(parameters(net) == before);
  CHECK(mt::to_host(net.device(), opt.state("exp_avg")) == std::vector<float>(opt.state("exp_avg").size()));
  CHECK(net.scaler().scale == 0x1p35);
  net.set_scaler({.scale = 16, .growth_interval = 3});
  train(net, opt, 5, 9);
  CHECK(parameters(net) != before);
  CHECK(net.scaler().scale == 32);
  CHECK(net.scaler().growth_tracker == 1);
  CHECK(net.to(mt::cuda{0}).scaler() == net.scaler());
}
