// What data_parallel promises beside equal bits: means over the whole batch, PyTorch's statistics, plain keys, errors in words.
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/data/batch_loader.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/parallel/data_parallel.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/gradient_accumulation.hpp>
#include <mortise/train/progress.hpp>
#include <mortise/train/train_step.hpp>

#include "loop.hpp"
#include "runs.hpp"
#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using runs::samples;
using runs::words;

template <class Net, class T = float>
using model = mt::model<Net, runs::input, mt::host, T>;

// Gradients are sums over at most 30 samples and 17 terms in each of two layers, in another order than the reference's: 3 * 47 eps is ample.
constexpr double rounding = 3 * 47 * 1.2e-7;

template <class A, class B>
double distance(A const& a, B const& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(difference / size);
}

/// Loss and gradient over 4 uneven shards against those of the whole batch at once.
template <class Loss, class Target>
void same_as_the_whole(Loss const& loss, std::vector<Target> const& y, std::size_t devices) {
  runs::data const d{30, 5};
  model<runs::plain> whole{mt::host{1}, mt::seed{9}}, net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{devices, 1}, mt::shards{4}};
  whole.forward(d.x);
  float const expected = whole.backward(loss, y);
  many.forward(d.x);
  float const spelled_out = many.backward(loss, y);
  CHECK(spelled_out == doctest::Approx(expected).epsilon(rounding));
  CHECK(distance(net.gradients(), whole.gradients()) < rounding);
  struct {
    mt::view<float const> x;
    mt::view<Target const> y;
  } const batch{d.x, y};
  float const fused = many.forward_backward(loss, batch);
  CHECK(fused == spelled_out);
  CHECK(distance(net.gradients(), whole.gradients()) < rounding);
  many.eval();
  many.forward(d.x);
  float const evaluated = many.evaluate(loss, y);
  CHECK(evaluated == doctest::Approx(expected).epsilon(rounding));
}

/// A run with a loader and a checkpoint: what a program has.
struct whole_run {
  model<runs::both> net{mt::host{1}, mt::seed{3}};
  mt::data_parallel<model<runs::both>, mt::host_mesh> many;
  mt::optimizer<model<runs::both>, mt::adamw> opt{net, mt::adamw{}};
  mt::cross_entropy_loss loss;
  mt::batch_loader<mt::in_memory_dataset<runs::input>> loader{samples(), {.batch = 16, .shuffle = true, .seed = 2}};
  mt::progress progress;

  explicit whole_run(std::size_t devices) : many{net, mt::host_mesh{devices, 1}, mt::shards{4}} {}
  auto checkpoint() { return mt::checkpoint{many, opt, loader, progress}; }
  /// Trains until `last` steps are done, in epochs of four.
  void go(std::int64_t last) {
    runs::train_until(last, loader, progress, [&](auto const& batch) { mt::train_step(many, loss, opt, batch); });
  }
};

}  // namespace

TEST_CASE("a mean over uneven shards is the mean over the batch") {
  runs::data const d{30, 5};
  for (std::size_t const devices : {1u, 3u, 4u}) {
    same_as_the_whole(mt::cross_entropy_loss{}, d.y, devices);
    same_as_the_whole(mt::cross_entropy_loss{.weight = {0.1, 3, 1, 0.5, 2}}, d.y, devices);
    same_as_the_whole(mt::cross_entropy_loss{.reduction = mt::reduction::sum}, d.y, devices);
    same_as_the_whole(mt::cross_entropy_loss{.weight = {0.1, 3, 1, 0.5, 2}, .label_smoothing = 0.2}, d.y, devices);
    // The first shard has nothing that counts.
    auto y = d.y;
    for (std::size_t i = 0; i < 9; ++i) y[i] = -100;
    same_as_the_whole(mt::cross_entropy_loss{}, y, devices);
    same_as_the_whole(mt::cross_entropy_loss{.weight = {0.1, 3, 1, 0.5, 2}}, y, devices);
    std::vector<float> targets(150);
    for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<float>(i % 7) - 3;
    same_as_the_whole(mt::mse_loss{}, targets, devices);
    same_as_the_whole(mt::mse_loss{.reduction = mt::reduction::batchmean}, targets, devices);
    same_as_the_whole(mt::mse_loss{.reduction = mt::reduction::sum}, targets, devices);
  }
}

TEST_CASE("a batch of any size trains, also one below the number of devices") {
  model<runs::plain> net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{4, 1}};
  mt::optimizer opt{net, mt::sgd{.lr = 0.1f}};
  for (std::size_t const n : {1u, 2u, 3u, 4u, 5u, 11u}) {
    model<runs::plain> whole = net;
    runs::data const d{n, 3};
    whole.forward(d.x);
    float const expected = whole.backward(mt::cross_entropy_loss{}, d.y);
    CHECK(float(mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch())) == doctest::Approx(expected).epsilon(rounding));
    CHECK(distance(net.gradients(), whole.gradients()) < rounding);
    CHECK(many.output().extent(0) == n);
    CHECK(distance(many.output(), whole.output()) < rounding);
  }
}

TEST_CASE("gradients of one's own go back through all shards") {
  model<runs::plain> whole{mt::host{1}, mt::seed{9}}, net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{2, 1}, mt::shards{3}};
  runs::data const d{11, 3};
  std::vector<float> dy(55);
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(i % 5) - 2;
  whole.forward(d.x);
  whole.backward(mt::view<float const>{dy});
  many.forward(d.x);
  many.backward(mt::view<float const>{dy});
  CHECK(distance(net.gradients(), whole.gradients()) < rounding);
}

TEST_CASE("inference gathers all samples in their order, and the model may change in between") {
  model<runs::both> net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{3, 1}};
  for (std::size_t const n : {1u, 2u, 10u}) {
    for (float& p : net.parameters()) p *= 1.25f;
    for (float& b : net.buffers()) b += 0.5f;
    model<runs::both> alone = net;
    alone.eval();
    many.eval();
    runs::data const d{n, 4};
    auto const y = many.forward(d.x);
    CHECK(y.extents() == mt::shape{n, 5});
    CHECK(distance(y, alone.forward(d.x)) < rounding);
  }
}

TEST_CASE("running statistics are those of the first shard, counted once a step") {
  model<runs::normalized> net{mt::host{1}, mt::seed{9}}, first{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{2, 1}, mt::shards{4}};
  runs::data const d{24, 3};
  first.forward(mt::view<float const>{d.x.data(), mt::shape{6, 6}});
  many.forward_backward(mt::cross_entropy_loss{}, d.batch());
  CHECK(net.buffers().to_vector() == first.buffers().to_vector());
  CHECK(net.counters().to_vector() == first.counters().to_vector());
  CHECK(net.training_steps() == 1);
}

TEST_CASE("synchronised batch norm is the batch norm of the whole batch") {
  for (std::size_t const devices : {1u, 2u, 4u}) {
    model<runs::normalized, double> whole{mt::host{1}, mt::seed{9}}, net{mt::host{1}, mt::seed{9}};
    mt::data_parallel many{net, mt::host_mesh{devices, 1}, mt::shards{4}, mt::sync_batch_norm{}};
    mt::optimizer opt_whole{whole, mt::sgd{.lr = 0.1}}, opt{net, mt::sgd{.lr = 0.1}};
    for (std::uint32_t step = 0; step < 4; ++step) {
      runs::data const d{step == 2 ? 13u : 30u, step};
      std::vector<double> const x(d.x.begin(), d.x.end());
      struct {
        mt::view<double const> x;
        mt::view<std::int64_t const> y;
      } const batch{x, d.y};
      double const expected = mt::train_step(whole, mt::cross_entropy_loss{}, opt_whole, batch);
      CHECK(double(mt::train_step(many, mt::cross_entropy_loss{}, opt, batch)) == doctest::Approx(expected).epsilon(1e-12));
      // As `rounding`, in double, through four steps of a function with condition below 100.
      CHECK(distance(net.gradients(), whole.gradients()) < 400 * rounding * 2e-9);
      CHECK(distance(net.buffers(), whole.buffers()) < 400 * rounding * 2e-9);
      CHECK(net.counters().to_vector() == whole.counters().to_vector());
    }
  }
}

TEST_CASE("synchronised batch norm has the same bits on any number of devices, spelled out or fused, and survives a failing step") {
  std::vector<float> bits[3];
  for (std::size_t const devices : {1u, 2u, 4u}) {
    model<runs::both> net{mt::host{1}, mt::seed{9}};
    mt::data_parallel many{net, mt::host_mesh{devices, 1}, mt::shards{4}, mt::sync_batch_norm{}};
    mt::optimizer opt{net, mt::adamw{}};
    for (std::uint32_t step = 0; step < 6; ++step) {
      runs::data d{16 + step, step};
      if (step == 3) {
        auto wrong = d.y;
        wrong[15] = 99;
        CHECK_THROWS_AS(many.forward_backward(mt::cross_entropy_loss{}, runs::data::batch_type{d.x, wrong}), mt::usage_error);
      }
      if (devices == 2) {
        many.train();
        many.forward(d.x);
        many.backward(mt::cross_entropy_loss{}, d.y);
        opt.step();
      } else {
        mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch());
      }
    }
    bits[devices / 2] = net.parameters().to_vector();
    for (float const b : net.buffers()) bits[devices / 2].push_back(b);
  }
  CHECK(bits[1] == bits[0]);
  CHECK(bits[2] == bits[0]);
}

TEST_CASE("settings of modules reach every replica") {
  model<runs::dropping> a{mt::host{1}, mt::seed{9}}, b{mt::host{1}, mt::seed{9}};
  mt::data_parallel one{a, mt::host_mesh{1}, mt::shards{4}};
  mt::data_parallel many{b, mt::host_mesh{4, 1}, mt::shards{4}};
  runs::data const d{24, 3};
  for (double const p : {0.5, 0.1, 0.9}) {
    a.module<"2">().p = p;
    b.module<"2">().p = p;
    one.forward_backward(mt::cross_entropy_loss{}, d.batch());
    many.forward_backward(mt::cross_entropy_loss{}, d.batch());
    CHECK(a.gradients().to_vector() == b.gradients().to_vector());
  }
}

TEST_CASE("gradients accumulate over batches with the same bits on any number of devices") {
  std::vector<float> bits[3];
  for (std::size_t const devices : {1u, 2u, 4u}) {
    model<runs::both> net{mt::host{1}, mt::seed{9}};
    mt::data_parallel many{net, mt::host_mesh{devices, 1}, mt::shards{4}};
    mt::optimizer opt{net, mt::adamw{}};
    mt::gradient_accumulation accumulate{opt, 3};
    for (std::uint32_t step = 0; step < 6; ++step) mt::train_step(many, mt::cross_entropy_loss{}, accumulate, runs::data{16, step}.batch());
    CHECK(opt.steps() == 2);
    bits[devices / 2] = net.parameters().to_vector();
  }
  CHECK(bits[1] == bits[0]);
  CHECK(bits[2] == bits[0]);
}

TEST_CASE("what backward tells to be final is final, from the end of the flat array to its beginning") {
  model<runs::both> net{mt::host{1}, mt::seed{9}};
  runs::data const d{24, 3};
  struct seen {
    model<runs::both>* net;
    std::vector<std::size_t> first;
    std::vector<std::vector<float>> values;
  } all{&net, {}, {}};
  net.watch_gradients({[](void* of, std::size_t first) {
                         seen& s = *static_cast<seen*>(of);
                         s.first.push_back(first);
                         s.values.push_back(s.net->gradients().to_vector());
                       },
                       &all});
  net.forward(d.x);
  net.backward(mt::cross_entropy_loss{}, d.y);
  std::vector<float> const final = net.gradients().to_vector();
  REQUIRE(all.first.size() == 5);  // each layer with parameters
  CHECK(all.first.back() == 0);
  for (std::size_t i = 0; i < all.first.size(); ++i) {
    if (i != 0) CHECK(all.first[i] < all.first[i - 1]);
    for (std::size_t k = all.first[i]; k < final.size(); ++k) CHECK(all.values[i][k] == final[k]);
  }
}

TEST_CASE("a save has the keys of the model alone") {
  temporary_folder const folder;
  model<runs::both> net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{2, 1}};
  mt::save(folder.file("one.safetensors"), net);
  mt::save(folder.file("many.safetensors"), many);
  auto const one = mt::open_archive(folder.file("one.safetensors")), several = mt::open_archive(folder.file("many.safetensors"));
  REQUIRE(one.tensors().size() == several.tensors().size());
  for (std::size_t i = 0; i < one.tensors().size(); ++i) {
    CHECK(one.tensors()[i].name == several.tensors()[i].name);
    CHECK(one.read(one.tensors()[i].name) == several.read(one.tensors()[i].name));
  }
  model<runs::both> other{mt::host{1}, mt::seed{10}};
  mt::data_parallel loaded{other, mt::host_mesh{3, 1}};
  mt::load(folder.file("one.safetensors"), loaded);
  CHECK(other.parameters().to_vector() == net.parameters().to_vector());
}

TEST_CASE("a run saved under N devices resumes under M, in the middle of an epoch, with the bits of the uninterrupted run") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  whole_run uninterrupted{1};
  uninterrupted.go(11);
  for (std::size_t n = 1; n <= 4; ++n)
    for (std::size_t m = 1; m <= 4; ++m) {
      CAPTURE(n);
      CAPTURE(m);
      {
        whole_run before{n};
        before.go(static_cast<std::int64_t>(n + m));
        auto run = before.checkpoint();
        mt::save(path, run);
      }
      whole_run after{m};
      auto run = after.checkpoint();
      mt::load(path, run);
      after.go(11);
      CHECK(after.net.parameters().to_vector() == uninterrupted.net.parameters().to_vector());
      CHECK(after.net.buffers().to_vector() == uninterrupted.net.buffers().to_vector());
      CHECK(after.progress.epoch == uninterrupted.progress.epoch);
    }
}

TEST_CASE("the array of gradients stays where it is") {
  model<runs::plain> net{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{2, 1}, mt::shards{7}};
  float const* const where = net.gradients().data();
  for (std::uint32_t step = 0; step < 3; ++step) {
    runs::data const d{24 + step, step};
    many.forward_backward(mt::cross_entropy_loss{}, d.batch());
    CHECK(net.gradients().data() == where);
  }
}

TEST_CASE("a failing device leaves the step undone, and the next one works") {
  model<runs::both> net{mt::host{1}, mt::seed{9}}, same{mt::host{1}, mt::seed{9}};
  mt::data_parallel many{net, mt::host_mesh{4, 1}, mt::shards{4}}, reference{same, mt::host_mesh{1}, mt::shards{4}};
  mt::optimizer opt{net, mt::adamw{}}, opt_same{same, mt::adamw{}};
  runs::data d{24, 3};
  d.y[20] = 77;
  std::string const text = words([&] { mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch()); });
  CHECK(text.find("sample 20") != std::string::npos);
  CHECK(text.find("77") != std::string::npos);
  CHECK(net.parameters().to_vector() == same.parameters().to_vector());
  CHECK(net.training_steps() == 0);
  d.y[20] = 1;
  mt::train_step(many, mt::cross_entropy_loss{}, opt, d.batch());
  mt::train_step(reference, mt::cross_entropy_loss{}, opt_same, d.batch());
  CHECK(net.parameters().to_vector() == same.parameters().to_vector());
  CHECK(net.buffers().to_vector() == same.buffers().to_vector());
}

TEST_CASE("mistakes are answered in words") {
  model<runs::plain> net{mt::host{1}, mt::seed{9}}, other{mt::host{1}, mt::seed{9}};
  CHECK(words([&] { mt::data_parallel many(net, mt::host_mesh{4}, mt::shards{2}); }).find("2 shards for 4 devices") != std::string::npos);
  CHECK(words([&] { mt::data_parallel many(net, mt::host_mesh{0}); }).find("0 devices") != std::string::npos);
  CHECK(words([&] { mt::devices many(mt::host{1}, mt::host{2}); }).find("listed twice") != std::string::npos);
  CHECK(words([&] { mt::devices many(std::vector<mt::host>{}); }).find("empty") != std::string::npos);

  mt::data_parallel many{net, mt::host_mesh{2, 1}, mt::shards{4}};
  mt::optimizer opt{net, mt::sgd{}}, opt_other{other, mt::sgd{}};
  mt::cross_entropy_loss const loss;
  runs::data const three{3, 1}, eight{8, 1};
  CHECK_THROWS_AS(mt::train_step(many, loss, opt, three.batch()), mt::shape_error);
  CHECK(words([&] { mt::train_step(many, loss, opt, three.batch()); }).find("3 samples cannot be cut into 4 shards") != std::string::npos);
  CHECK(words([&] { mt::train_step(many, loss, opt_other, eight.batch()); }).find("another model") != std::string::npos);
  CHECK_THROWS_AS(many.forward(mt::view<float const>{eight.x.data(), mt::shape{47}}), mt::shape_error);
  CHECK(words([&] { many.backward(loss, eight.y); }).find("forward") != std::string::npos);
  many.forward(eight.x);
  CHECK_THROWS_AS(many.backward(loss, three.y), mt::shape_error);
  many.eval();
  CHECK(many.forward(three.x).extent(0) == 3);  // inference takes what comes
  CHECK(words([&] { many.backward(loss, three.y); }).find("train()") != std::string::npos);
}
