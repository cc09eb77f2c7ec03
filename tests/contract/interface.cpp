// The public interface as programs outside of this repository are written against it: the lines stand here as they stand there, with one
// header and nothing else of the library's. A line that has to change breaks somebody's program.
#include <mortise/mortise.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <unistd.h>

#include <doctest/doctest.h>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using lenet = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>,
                                         mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>,
    mt::flatten,
    mt::named<"classifier", mt::sequential<mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>>>;

/// The working directory of a test, so that files have the names that programs give them.
class working_folder {
 public:
  working_folder() : before_(4096, '\0') {
    REQUIRE(::getcwd(before_.data(), before_.size()) != nullptr);
    REQUIRE(::chdir(folder_.path().c_str()) == 0);
  }
  working_folder(working_folder const&) = delete;
  working_folder& operator=(working_folder const&) = delete;
  ~working_folder() { static_cast<void>(!::chdir(before_.c_str())); }

 private:
  std::string before_;
  temporary_folder folder_;
};

std::vector<float> images(std::size_t count) {
  std::vector<float> x(count * 28 * 28);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 7 + i / 784 * 5) % 17) / 16 - 0.5f;
  return x;
}
std::vector<std::int64_t> classes(std::size_t count) {
  std::vector<std::int64_t> y(count);
  for (std::size_t i = 0; i < count; ++i) y[i] = static_cast<std::int64_t>(i % 10);
  return y;
}

void write_idx(std::string const& path, std::vector<std::uint32_t> const& axes, std::vector<unsigned char> const& bytes) {
  std::ofstream out{path, std::ios::binary};
  out << '\0' << '\0' << '\x08' << static_cast<char>(axes.size());
  for (std::uint32_t const n : axes)
    for (int const shift : {24, 16, 8, 0}) out << static_cast<char>(n >> shift);
  out.write(reinterpret_cast<char const*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}
void write_digits() {
  std::vector<unsigned char> pixels(20 * 28 * 28), labels(20);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<unsigned char>(i * 31 % 251);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<unsigned char>(i % 10);
  write_idx("images.idx3", {20, 28, 28}, pixels);
  write_idx("labels.idx1", {20}, labels);
}

bool has(std::vector<std::string> const& names, char const* name) { return std::find(names.begin(), names.end(), name) != names.end(); }

}  // namespace

TEST_CASE("a network is bound to an input shape, a device and an element type") {
  mt::model<lenet, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{42}};
  static_assert(std::is_same_v<decltype(net), mt::model<lenet, mt::extents<1, 28, 28>, mt::host, float>>);
  std::ostringstream out;
  out << mt::summary(net);
  for (char const* words : {"features.0", "conv2d", "(6, 24, 24)", "classifier.4", "linear", "850", "44,426"})
    CHECK(out.str().find(words) != std::string::npos);

  std::vector<float> const values = images(3);
  mt::view<float const> const x{values, {3, 1, 28, 28}};
  auto y = net.forward(x);
  CHECK(y.extents() == mt::shape{3, 10});
  CHECK(y.size() == 30);
  CHECK(y(2, 9) == y[29]);
  float sum = 0;
  for (float const v : y) sum += v;
  CHECK(std::isfinite(sum));
  std::vector<float> const too_short(100);
  CHECK_THROWS_AS(net.forward(too_short), mt::shape_error);
  CHECK_THROWS_AS(net.forward(mt::view<float const>{values, {3, 28, 28, 1}}), mt::shape_error);

  net.train();
  CHECK(net.training());
  net.eval();
  CHECK_FALSE(net.training());

  auto weight = net.parameter("features.0.weight");
  CHECK(weight.extents() == mt::shape{6, 1, 5, 5});
  CHECK(net.parameter("classifier.4.bias").extents() == mt::shape{10});
  CHECK(net.parameter("classifier.0.weight").extents() == mt::shape{120, 256});
  CHECK(net.parameters().size() == 44426);
  CHECK(net.gradients().size() == net.parameters().size());
  CHECK(weight.data() == net.parameters().data());

  auto in_f64 = net.to<double>();
  static_assert(std::is_same_v<decltype(in_f64)::element, double>);
  CHECK(in_f64.parameters()[7] == static_cast<double>(net.parameters()[7]));
  auto const before = net.parameters().to_vector();
  net = net.to(mt::host{});
  CHECK(net.parameters().to_vector() == before);
  auto there = net.to(mt::host{2});
  CHECK(there.parameters().to_vector() == before);
}

TEST_CASE("a step spelled out and a fused one have the same bits") {
  mt::in_memory_dataset<mt::extents<1, 28, 28>> mine{images(8), classes(8)};
  mt::batch_loader loader{mine, {.batch = 8}};
  mt::model<lenet, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{42}};
  mt::model<lenet, mt::extents<1, 28, 28>> other = net;

  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, mt::adamw{.lr = 1e-3f, .betas = {0.9f, 0.999f}, .weight_decay = 1e-2f}};
  mt::optimizer fused{other, mt::adamw{.lr = 1e-3, .betas = {0.9, 0.999}, .weight_decay = 1e-2}};
  float first = 0, last = 0;
  for (int epoch = 0; epoch < 3; ++epoch)
    for (auto batch : loader) {
      auto logits = net.forward(batch.x);
      CHECK(logits.extents() == mt::shape{8, 10});
      float value = net.backward(loss, batch.y);
      opt.step();
      float same = mt::train_step(other, loss, fused, batch);
      CHECK(value == same);
      if (epoch == 0) first = value;
      last = value;
    }
  CHECK(last < first);
  CHECK(net.parameters().to_vector() == other.parameters().to_vector());

  CHECK_THROWS_AS(mt::train_step(net, loss, fused, mt::batch<>{{images(8), {8, 1, 28, 28}}, classes(8)}), mt::usage_error);  // other's optimizer

  auto deferred = mt::train_step(net, loss, opt, mt::batch<>{{images(8), {8, 1, 28, 28}}, classes(8)});
  std::ostringstream text;
  text << deferred;
  double const wide = deferred;
  CHECK(text.str().find('.') != std::string::npos);
  CHECK(deferred < 100.0f);
  CHECK(wide == static_cast<double>(static_cast<float>(deferred)));
}

TEST_CASE("optimizers are chains of gradient transforms, or names for such chains") {
  using recipe = mt::chain<mt::clip_grad_norm, mt::scale_by_adam, mt::add_decayed_weights, mt::scale_by_schedule<mt::cosine_annealing_lr>>;
  static_assert(mt::UpdateRule<recipe>);
  using small = mt::model<mt::sequential<mt::linear<4>, mt::relu, mt::linear<2>>, mt::extents<3>>;
  std::vector<float> const x{1, 2, 3, -1, 0, 1}, y{0.5f, 1, -1, 2};
  auto const improves = [&](auto const& rule) {
    small net{mt::host{}, mt::seed{1}};
    mt::optimizer opt{net, rule};
    mt::mse_loss loss;
    float first = 0, last = 0;
    for (int step = 0; step < 40; ++step) {
      net.forward(x);
      last = net.backward(loss, y);
      if (step == 0) first = last;
      opt.step();
    }
    return last < first;
  };
  CHECK(improves(recipe{}));
  CHECK(improves(recipe{{.max_norm = 1.0f}, {.betas = {0.9f, 0.99f}}, {.weight_decay = 1e-3f}, {.schedule = {.t_max = 50}, .lr = 1e-2f}}));
  CHECK(improves(mt::chain{mt::clip_grad_value{.clip_value = 0.5f}, mt::trace{.decay = 0.9f}, mt::scale_by_learning_rate{.lr = 1e-2f}}));
  CHECK(improves(mt::sgd{.lr = 0.01f, .momentum = 0.9f, .dampening = 0.0f, .weight_decay = 1e-4f, .nesterov = true}));
  CHECK(improves(mt::adam{.lr = 1e-2f, .betas = {0.9f, 0.999f}, .eps = 1e-8f, .weight_decay = 0.0f, .amsgrad = true}));
  CHECK(improves(mt::adamw{}));
  CHECK(improves(mt::rmsprop{.lr = 1e-2f, .alpha = 0.99f, .eps = 1e-8f, .momentum = 0.9f}));
  CHECK(improves(mt::adagrad{.lr = 1e-2f}));
  CHECK(improves(mt::adadelta{.lr = 1.0f}));
  CHECK(improves(mt::radam{.lr = 1e-2f}));
  CHECK(improves(mt::lion{.lr = 1e-3f}));
}

TEST_CASE("fine-tuning: names of another network, groups and frozen parts") {
  working_folder const here;
  using published = mt::sequential<mt::named<"module", mt::sequential<
      mt::named<"features", mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>, mt::flatten,
      mt::named<"fc", mt::linear<10>>>>>;
  mt::model<published, mt::extents<1, 28, 28>> source{mt::host{}, mt::seed{3}};
  mt::save("pretrained.pt", source);

  using tuned = mt::sequential<
      mt::named<"features", mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>, mt::flatten,
      mt::named<"classifier", mt::sequential<mt::identity, mt::identity, mt::identity, mt::identity, mt::linear<10>>>>;
  mt::model<tuned, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{4}};
  mt::load("pretrained.pt", net, {.strict = false, .strip_prefix = "module.", .rename = {{"fc.", "classifier.4."}}});
  CHECK(net.parameters().to_vector() == source.parameters().to_vector());

  mt::optimizer tune{net, mt::sgd{.lr = 0.01f, .momentum = 0.9f},
                     mt::group<"features">{.lr = 0.001f}, mt::freeze<"features.0">{}};
  auto const before = net.parameter("features.0.weight").to_vector();
  auto const moved = net.parameter("features.3.weight").to_vector();
  mt::cross_entropy_loss loss;
  auto const x = images(2);
  net.forward(x);
  net.backward(loss, classes(2));
  tune.step();
  CHECK(net.parameter("features.0.weight").to_vector() == before);
  CHECK(net.parameter("features.3.weight").to_vector() != moved);
}

TEST_CASE("a checkpoint is the whole run, in the format that its extension names") {
  working_folder const here;
  mt::model<lenet, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{42}};
  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, mt::adamw{.lr = 1e-3f}};
  mt::scheduler schedule{opt, mt::step_lr{.step_size = 1, .gamma = 0.5}};
  mt::in_memory_dataset<mt::extents<1, 28, 28>> mine{images(10), classes(10)};
  mt::batch_loader loader{mine, {.batch = 4, .shuffle = true, .seed = 1}};
  mt::progress progress;

  for (; progress.epoch < 1; ++progress.epoch) {
    for (auto batch : loader) mt::train_step(net, loss, opt, batch);
    schedule.step();
  }
  mt::save("run.safetensors", net);
  CHECK(mt::open_archive("run.safetensors").tensors().size() == 10);
  mt::checkpoint run{net, opt, schedule, loader, progress};
  for (char const* name : {"run.safetensors", "run.pt"}) {
    mt::save(name, run);
    mt::model<lenet, mt::extents<1, 28, 28>> fresh{mt::host{}, mt::seed{7}};
    mt::optimizer fresh_opt{fresh, mt::adamw{.lr = 1e-3f}};
    mt::scheduler fresh_schedule{fresh_opt, mt::step_lr{.step_size = 1, .gamma = 0.5}};
    mt::batch_loader fresh_loader{mine, {.batch = 4, .shuffle = true, .seed = 1}};
    mt::progress fresh_progress;
    mt::checkpoint again{fresh, fresh_opt, fresh_schedule, fresh_loader, fresh_progress};
    mt::load_report r = mt::load(name, again);
    CHECK(has(r.loaded, "features.0.weight"));
    CHECK(r.missing.empty());
    CHECK(r.unexpected.empty());
    CHECK(r.mismatched.empty());
    CHECK(fresh.parameters().to_vector() == net.parameters().to_vector());
    CHECK(fresh_progress.epoch == 1);
    CHECK(fresh_opt.learning_rate() == opt.learning_rate());
  }
  mt::save<mt::torch_zip>("run.of.any.name", run);
  CHECK(mt::open_archive("run.of.any.name").format() == "torch_zip");

  // A schedule without an optimizer of its own is a pure function of the step: it may stand in a checkpoint, and has nothing to save.
  mt::step_lr rates{.step_size = 30, .gamma = 0.1};
  mt::checkpoint simple{net, opt, rates, loader, progress};
  mt::save("simple.safetensors", simple);
  CHECK(mt::load("simple.safetensors", simple).complete());
}

TEST_CASE("errors have types, say what is wrong, and leave everything as it was") {
  working_folder const here;
  using small = mt::model<mt::sequential<mt::linear<4>, mt::relu, mt::linear<2>>, mt::extents<3>>;
  using wider = mt::model<mt::sequential<mt::linear<4>, mt::relu, mt::linear<3>, mt::relu, mt::linear<3>>, mt::extents<3>>;
  small net;
  wider other{mt::host{}, mt::seed{2}};
  mt::save("small.safetensors", net);
  auto const before = other.parameters().to_vector();
  try {
    mt::load("small.safetensors", other);
    FAIL("no error");
  } catch (mt::load_error const& e) {
    CHECK(std::string{e.what()}.find("2.weight") != std::string::npos);
    CHECK(std::string{e.what()}.find("(2, 4)") != std::string::npos);
    CHECK(std::string{e.what()}.find("(3, 4)") != std::string::npos);
  }
  CHECK(other.parameters().to_vector() == before);
  mt::load_report const r = mt::load("small.safetensors", other, {.strict = false});
  CHECK(has(r.loaded, "0.weight"));
  CHECK(has(r.missing, "4.bias"));
  CHECK(r.mismatched.size() == 2);
  std::vector<std::string> names;
  for (auto const& name : r.mismatched) names.push_back(name);
  CHECK(names == std::vector<std::string>{"2.weight", "2.bias"});
  CHECK(std::find(r.mismatched.begin(), r.mismatched.end(), "2.bias") != r.mismatched.end());

  std::ofstream{"broken.safetensors"} << "\x01";
  try {
    mt::load("broken.safetensors", net);
    FAIL("no error");
  } catch (mt::archive_error const& e) {
    CHECK(e.offset <= 8);
    CHECK(!e.reason.empty());
    CHECK(std::string{e.what()}.find("broken.safetensors") != std::string::npos);
  }
  try {
    mt::load("nowhere.safetensors", net);
    FAIL("no error");
  } catch (mt::io_error const& e) {
    CHECK(e.code == ENOENT);
    CHECK(e.path == "nowhere.safetensors");
  }
  CHECK_THROWS_AS(mt::save("no/such/folder.safetensors", net), mt::io_error);
  CHECK_THROWS_AS(mt::load("nowhere.safetensors", net), mt::error);
  CHECK_THROWS_AS(mt::load("nowhere.safetensors", net), std::runtime_error);
}

TEST_CASE("any archive is read without a model") {
  working_folder const here;
  mt::model<mt::sequential<mt::linear<2>>, mt::extents<3>> net;
  mt::optimizer opt{net, mt::adam{}};
  mt::mse_loss loss;
  std::vector<float> const x{1, 2, 3}, y{1, 2};
  net.forward(x);
  net.backward(loss, y);
  opt.step();
  mt::progress progress;
  progress.epoch = 3;
  std::string name = "a run";
  mt::checkpoint run{net, opt, progress, mt::own{"name", name}};
  mt::save("any.pt", run);

  mt::archive_reader in = mt::open_archive("any.pt");
  bool found = false;
  for (mt::tensor_info const& t : in.tensors()) {
    std::vector<std::byte> b = in.read(t.name);
    std::size_t elements = 1;
    for (std::size_t const n : t.shape) elements *= n;
    if (t.type == mt::element_type::f32) CHECK(b.size() == elements * 4);
    found = found || (t.name == "optimizer_state_dict.state.0.exp_avg" && t.shape == std::vector<std::size_t>{2, 3});
  }
  CHECK(found);
  CHECK(in.value("epoch") == 3);
  CHECK(in.value("epoch").as_int() == 3);
  CHECK(in.value("user.name") == "a run");
  bool listed = false;
  for (auto const& [key, value] : in.values()) listed = listed || (key == "epoch" && value == 3);
  CHECK(listed);
  std::ostringstream text;
  text << in.value("epoch");
  CHECK(text.str() == "3");
}

TEST_CASE("data: files, memory, and a loader whose position is part of a run") {
  working_folder const here;
  write_digits();
  auto digits = mt::idx_dataset{"images.idx3", "labels.idx1"};
  CHECK(digits.size() == 20);
  std::vector<float> x = images(12);
  std::vector<std::int64_t> y = classes(12);
  mt::in_memory_dataset<mt::extents<1, 28, 28>> mine{x, y};
  CHECK(mine.size() == 12);
  mt::batch_loader loader{digits, {.batch = 8, .shuffle = true, .seed = 1}};

  mt::model<lenet, mt::extents<1, 28, 28>> net{mt::host{}, mt::seed{42}};
  mt::cross_entropy_loss loss;
  mt::optimizer opt{net, mt::sgd{.lr = 0.01f}};
  mt::progress progress;
  int steps = 0;
  for (; progress.epoch < 2; ++progress.epoch) for (auto batch : loader) { mt::train_step(net, loss, opt, batch); ++steps; }
  CHECK(steps == 6);
}

TEST_CASE("layers, losses and schedules have PyTorch's names, settings and defaults") {
  // A type for each: sizes are template arguments, floats are members.
  using image = mt::sequential<mt::conv2d<4, 3, 1, 1>, mt::batch_norm2d, mt::leaky_relu, mt::avg_pool2d<2>, mt::conv2d<4, 3, 2, 1>, mt::silu,
                               mt::residual<mt::sequential<mt::conv2d<4, 3, 1, 1>, mt::gelu>>, mt::concat<mt::identity, mt::conv2d<2, 1>>,
                               mt::adaptive_avg_pool2d<1>, mt::flatten, mt::dropout, mt::linear<3>, mt::log_softmax>;
  static_assert(mt::model<image, mt::extents<3, 16, 16>>::output_extents::value == mt::shape{3});
  using text = mt::sequential<mt::embedding<11, 6>, mt::layer_norm, mt::linear<6, false>, mt::gelu_tanh, mt::tanh, mt::sigmoid, mt::softmax, mt::flatten,
                              mt::batch_norm1d, mt::named<"head", mt::linear<2>>>;
  static_assert(mt::model<text, mt::extents<5>>::output_extents::value == mt::shape{2});
  static_assert(std::is_same_v<mt::model<text, mt::extents<5>>::input_element, std::int64_t>);
  CHECK(mt::dropout{}.p == 0.5f);
  CHECK(static_cast<float>(mt::leaky_relu{}.negative_slope) == 0.01f);
  CHECK(static_cast<float>(mt::batch_norm2d{}.eps) == 1e-5f);
  CHECK(static_cast<float>(mt::batch_norm2d{}.momentum) == 0.1f);
  CHECK(static_cast<float>(mt::layer_norm{}.eps) == 1e-5f);

  CHECK(mt::cross_entropy_loss{.weight = {1, 2}, .ignore_index = -1, .reduction = mt::reduction::sum, .label_smoothing = 0.1f}.ignore_index == -1);
  CHECK(mt::cross_entropy_loss{}.ignore_index == -100);
  CHECK(mt::smooth_l1_loss{.reduction = mt::reduction::mean, .beta = 0.5f}.beta == 0.5);
  CHECK(mt::huber_loss{.delta = 2.0f}.delta == 2.0);
  CHECK(mt::kl_div_loss{.reduction = mt::reduction::batchmean, .log_target = true}.log_target);
  CHECK(mt::bce_with_logits_loss{.pos_weight = {1.0f, 2.0f}}.pos_weight.size() == 2);
  CHECK(mt::nll_loss{.ignore_index = 3}.ignore_index == 3);
  CHECK(mt::l1_loss{}.reduction == mt::reduction::mean);

  CHECK(mt::step_lr{.step_size = 30, .gamma = 0.1f}(1.0, 30) == doctest::Approx(0.1));
  CHECK(mt::multi_step_lr{.milestones = {2, 4}, .gamma = 0.5}(1.0, 4) == 0.25);
  CHECK(mt::exponential_lr{.gamma = 0.5}(1.0, 2) == 0.25);
  CHECK(mt::cosine_annealing_lr{.t_max = 10, .eta_min = 0.0}(1.0, 10) == doctest::Approx(0.0));
  CHECK(mt::then(mt::linear_warmup{.steps = 5}, 5, mt::step_lr{.step_size = 1, .gamma = 0.5})(1.0, 6) == 0.5);
}
