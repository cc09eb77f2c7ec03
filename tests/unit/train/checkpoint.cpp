// A checkpoint is the whole run: what goes in comes out, and a load that fails has changed nothing.
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/schedule/scheduler.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using network = mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::relu, mt::dropout>>, mt::linear<3>>;
using net_type = mt::model<network, mt::extents<4>>;

/// A run on numbers that depend on the step alone, so that it can stop and go on anywhere.
template <class Rule>
struct run_of {
  net_type net;
  mt::optimizer<net_type, Rule, mt::group<"features">> opt;
  mt::scheduler<mt::optimizer<net_type, Rule, mt::group<"features">>, mt::step_lr> schedule;
  mt::progress progress{};
  std::vector<double> losses{};
  bool flag = false;
  std::string note = "at first";

  explicit run_of(std::uint64_t seed)
      : net{mt::host{1}, mt::seed{seed}}, opt{net, Rule{}, mt::group<"features">{.lr = 0.02f}}, schedule{opt, {.step_size = 3, .gamma = 0.5}} {}

  auto checkpoint() {
    return mt::checkpoint{net, opt, schedule, progress, mt::own{"losses", losses}, mt::own{"flag", flag}, mt::own{"note", note}};
  }

  void steps(int n) {
    for (int i = 0; i < n; ++i) {
      std::vector<float> x(5 * 4), dy(5 * 3);
      for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>((k * 7 + static_cast<std::size_t>(progress.global_step) * 3) % 11) - 5;
      net.train();
      auto const y = net.forward(x);
      for (std::size_t k = 0; k < dy.size(); ++k) dy[k] = y[k] - 0.1f * static_cast<float>(k);
      net.backward(mt::view<float const>{dy});
      opt.step();
      ++progress.global_step;
      losses.push_back(static_cast<double>(y[0]));
      flag = !flag;
      if (progress.global_step % 2 == 0) schedule.step();
    }
    note = "step " + std::to_string(progress.global_step);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a run that is resumed at any step goes on with the same bits", Rule, mt::sgd, mt::adam, mt::adamw) {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  run_of<Rule> whole{1};
  whole.steps(12);
  for (int const stop : {0, 1, 5, 11}) {
    {
      run_of<Rule> first{1};
      first.steps(stop);
      auto run = first.checkpoint();
      mt::save(path, run);
    }
    run_of<Rule> second{99};  // another seed: everything must come from the file
    auto run = second.checkpoint();
    mt::load(path, run);
    second.steps(12 - stop);
    CHECK(second.net.parameters().to_vector() == whole.net.parameters().to_vector());
    CHECK(second.net.buffers().to_vector() == whole.net.buffers().to_vector());
    CHECK(second.net.counters().to_vector() == whole.net.counters().to_vector());
    CHECK(second.losses == whole.losses);
    CHECK(second.flag == whole.flag);
    CHECK(second.note == whole.note);
    CHECK(second.opt.learning_rate(1) == whole.opt.learning_rate(1));
    CHECK(second.progress.global_step == 12);
  }
}

TEST_CASE("two saves of the same run are the same bytes") {
  temporary_folder const folder;
  run_of<mt::adam> r{1};
  r.steps(3);
  auto run = r.checkpoint();
  mt::save(folder.file("a.safetensors"), run);
  mt::save(folder.file("b.safetensors"), run);
  auto const bytes = [](std::string const& path) {
    std::ifstream in{path, std::ios::binary};
    return std::string{std::istreambuf_iterator<char>{in}, {}};
  };
  CHECK(bytes(folder.file("a.safetensors")) == bytes(folder.file("b.safetensors")));
  CHECK(!bytes(folder.file("a.safetensors")).empty());
}

TEST_CASE("a load that fails names everything that does not fit, and has changed nothing") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  run_of<mt::adam> saved{1};
  saved.steps(2);
  {
    auto run = saved.checkpoint();
    mt::save(path, run);
  }
  using other_net = mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>>>, mt::linear<5>>, mt::extents<4>>;
  other_net net{mt::host{}, mt::seed{8}};
  mt::optimizer opt{net, mt::adam{}};
  mt::progress progress;
  std::int64_t extra = 5;
  mt::checkpoint run{net, opt, progress, mt::own{"extra", extra}};
  auto const before = net.parameters().to_vector();
  try {
    mt::load(path, run);
    FAIL("no error");
  } catch (mt::load_error const& e) {
    std::string const words = e.what();
    INFO(words);
    CHECK(words.find("1.weight") != std::string::npos);
    CHECK(words.find("(3, 6)") != std::string::npos);
    CHECK(words.find("(5, 6)") != std::string::npos);
    CHECK(words.find("features.1.running_mean") != std::string::npos);
    CHECK(words.find("user.extra") != std::string::npos);
    CHECK(words.find("strict = false") != std::string::npos);
    // Before any name: what the two networks differ in.
    CHECK(words.find("of another network: layer 1 is {features.1: batch_norm") < words.find("missing in the file"));
    CHECK(e.report.mismatched.size() >= 2);
  }
  CHECK(net.parameters().to_vector() == before);
  CHECK(opt.steps() == 0);
  CHECK(progress.global_step == 0);
  CHECK(extra == 5);
}

TEST_CASE("a state_dict loads into another network as far as it fits, and the report says how far") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  net_type source{mt::host{}, mt::seed{3}};
  mt::save(path, source);
  using head = mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::relu, mt::dropout>>, mt::linear<9>>,
                         mt::extents<4>>;
  head target{mt::host{}, mt::seed{4}};
  auto const old_head = target.parameter("1.weight").to_vector();
  auto const report = mt::load(path, target, {.strict = false});
  CHECK(report.loaded.size() == 7);
  CHECK(report.mismatched.size() == 2);
  CHECK(report.missing.empty());
  CHECK(target.parameter("features.0.weight").to_vector() == source.parameter("features.0.weight").to_vector());
  CHECK(target.parameter("1.weight").to_vector() == old_head);
}

TEST_CASE("prefixes are stripped, names renamed, and the advice says which prefix") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  using wrapped = mt::model<mt::sequential<mt::named<"module", network>>, mt::extents<4>>;
  wrapped source{mt::host{}, mt::seed{3}};
  mt::save(path, source);
  net_type target{mt::host{}, mt::seed{4}};
  try {
    mt::load(path, target);
    FAIL("no error");
  } catch (mt::load_error const& e) {
    CHECK(std::string{e.what()}.find("all 9 names match after removing `module.`") != std::string::npos);
  }
  mt::load(path, target, {.strip_prefix = "module."});
  CHECK(target.parameters().to_vector() == source.parameters().to_vector());

  using renamed = mt::model<mt::sequential<mt::named<"f", mt::sequential<mt::linear<6>, mt::batch_norm1d>>, mt::named<"fc", mt::linear<3>>>, mt::extents<4>>;
  renamed other{mt::host{}, mt::seed{5}};
  mt::load(path, other, {.strip_prefix = "module.", .rename = {{"features.", "f."}, {"1.", "fc."}}});
  CHECK(other.parameter("fc.weight").to_vector() == source.parameter("module.1.weight").to_vector());
}

TEST_CASE("a file of floats loads into a model of doubles") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  net_type source{mt::host{}, mt::seed{3}};
  mt::save(path, source);
  mt::model<network, mt::extents<4>, mt::host, double> wide{mt::host{}, mt::seed{9}};
  mt::load(path, wide);
  for (std::size_t i = 0; i < source.parameters().size(); ++i) CHECK(wide.parameters()[i] == static_cast<double>(source.parameters()[i]));
}

TEST_CASE("a schedule that was made with other settings than the file's is refused, with both") {
  temporary_folder const folder;
  using one_layer = mt::model<mt::sequential<mt::linear<2>>, mt::extents<2>>;
  auto const save_and_load = [&](auto const& saved, auto const& loaded, char const* extension) {
    std::string const path = folder.file(std::string{"run"} + extension);
    one_layer net{mt::host{1}};
    mt::optimizer opt{net, mt::sgd{.lr = 0.5}};
    {
      mt::scheduler schedule{opt, saved};
      schedule.step();
      mt::checkpoint run{net, opt, schedule};
      mt::save(path, run, {.durable = false});
    }
    mt::scheduler schedule{opt, loaded};
    mt::checkpoint run{net, opt, schedule};
    std::string words;
    try {
      mt::load(path, run);
    } catch (mt::load_error const& e) {
      words = e.what();
    }
    CHECK(schedule.last_epoch() == (words.empty() ? 1 : 0));
    if (!words.empty()) {
      CHECK(words.find("make this one alike") != std::string::npos);
      mt::load(path, run, {.strict = false});  // goes on with the program's
      CHECK(schedule.last_epoch() == 1);
    }
    return words;
  };
  for (char const* extension : {".safetensors", ".pt"}) {
    CAPTURE(extension);
    mt::step_lr const step{.step_size = 4, .gamma = 0.5};
    CHECK(save_and_load(step, step, extension).empty());
    CHECK(save_and_load(step, mt::step_lr{.step_size = 4, .gamma = 0.25}, extension).find("scheduler_state_dict.gamma (file 0.5, model 0.25)") != std::string::npos);
    mt::multi_step_lr const twice{.milestones = {3, 3, 7}};
    CHECK(save_and_load(twice, twice, extension).empty());
    CHECK(save_and_load(twice, mt::multi_step_lr{.milestones = {3, 7}}, extension).find("scheduler_state_dict.milestones") != std::string::npos);
    CHECK(save_and_load(step, mt::exponential_lr{.gamma = 0.5}, extension).empty());  // a schedule whose settings the file's has as well
    CHECK(save_and_load(step, mt::cosine_annealing_lr{.t_max = 5}, extension).find("the file is another one, without T_max") != std::string::npos);
    CHECK(save_and_load(mt::cosine_annealing_lr{.t_max = 5}, mt::cosine_annealing_lr{.t_max = 6}, extension).find("T_max (file 5, model 6)") != std::string::npos);
    mt::cosine_annealing_warm_restarts const restarts{.t_0 = 1, .t_mult = 2};
    CHECK(save_and_load(restarts, restarts, extension).empty());
  }
}

TEST_CASE("a run that goes on with another optimizer, and weights that are no run, are refused in words") {
  temporary_folder const folder;
  run_of<mt::adam> saved{1};
  saved.steps(2);
  auto const run = saved.checkpoint();
  net_type net;
  mt::optimizer opt{net, mt::sgd{.momentum = 0.9f}, mt::group<"features">{.lr = 0.02f}};
  mt::checkpoint other{net, opt};
  auto const refused = [&other](std::string const& path) {
    try {
      mt::load(path, other);
    } catch (mt::load_error const& e) {
      return std::string{e.what()};
    }
    return std::string{};
  };
  for (char const* name : {"run.safetensors", "run.pt", "model_best.pth.tar"}) {
    CAPTURE(name);
    mt::save(folder.file(name), run);
    std::string const words = refused(folder.file(name));
    CHECK(words.find("the optimizer of the file keeps exp_avg, exp_avg_sq for each parameter and this one momentum_buffer") < words.find("missing in the file"));
    CHECK(mt::load(folder.file(name), mt::checkpoint{saved.net, saved.opt}).complete());
    mt::save(folder.file(name), net);
    CHECK(refused(folder.file(name)).find("a model's weights and not a run; load it into the model alone") != std::string::npos);
  }
}

TEST_CASE("two parts of one kind are refused") {
  net_type a, b;
  mt::checkpoint run{a, b};
  CHECK_THROWS_AS(run.tree(), mt::usage_error);
  int one = 1, two = 2;
  mt::checkpoint values{a, mt::own{"n", one}, mt::own{"n", two}};
  CHECK_THROWS_AS(values.tree(), mt::usage_error);
}

TEST_CASE("networks whose names all match, but which compute something else, are told apart") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  mt::model<mt::sequential<mt::linear<6>, mt::relu, mt::linear<3>>, mt::extents<4>> saved;
  mt::model<mt::sequential<mt::linear<6>, mt::dropout, mt::linear<3>>, mt::extents<4>> other;
  mt::checkpoint run{saved};
  mt::save(path, run);
  CHECK_THROWS_WITH_AS(mt::load(path, other), doctest::Contains("layer 1 is {1: relu} in the file, {1: dropout} here"), mt::load_error);
  CHECK(mt::load(path, other, {.strict = false}).loaded.size() == 4);
  CHECK(mt::load(path, saved).complete());
}

TEST_CASE("a checkpoint of a newer version is refused in every format") {
  temporary_folder const folder;
  net_type net;
  mt::checkpoint run{net};
  for (char const* name : {"run.safetensors", "run.pt"}) {
    mt::archive_value tree = run.tree();
    tree.set("format_version", mt::checkpoint_version + 1);
    mt::save_archive(folder.file(name), tree);
    CHECK_THROWS_WITH_AS(mt::load(folder.file(name), run), doctest::Contains("newer mortise"), mt::archive_error);
  }
}

TEST_CASE("a damaged file leaves a large model as it was, without memory for a second one") {
  temporary_folder const folder;
  std::string const path = folder.file("large.pt");
  using large = mt::model<mt::sequential<mt::linear<1024>, mt::linear<1024>, mt::linear<8>>, mt::extents<1024>>;  // 8 MiB: read into place
  large source{mt::host{}, mt::seed{3}};
  mt::save(path, source, {.durable = false});
  large target{mt::host{}, mt::seed{4}};
  std::string const whole = [&] {
    std::ifstream in{path, std::ios::binary};
    return std::string{std::istreambuf_iterator<char>{in}, {}};
  }();
  std::string damaged = whole;
  damaged[damaged.size() - 5'000] = static_cast<char>(damaged[damaged.size() - 5'000] ^ 1);  // in the last tensor's data
  std::ofstream{path, std::ios::binary} << damaged;
  std::vector<float> const before = target.parameters().to_vector();
  CHECK_THROWS_WITH_AS(mt::load(path, target), doctest::Contains("checksum"), mt::archive_error);
  CHECK(target.parameters().to_vector() == before);
  std::ofstream{path, std::ios::binary} << whole;
  mt::load(path, target);
  CHECK(target.parameters().to_vector() == source.parameters().to_vector());
  mt::model<mt::sequential<mt::linear<1024>, mt::linear<1024>, mt::linear<8>>, mt::extents<1024>, mt::host, double> wide{mt::host{}, mt::seed{9}};
  mt::load(path, wide);  // in pieces
  bool same = true;
  for (std::size_t i = 0; i < source.parameters().size(); ++i) same = same && wide.parameters()[i] == static_cast<double>(source.parameters()[i]);
  CHECK(same);
}

TEST_CASE("element types become the model's, and nothing that would lose integers is loaded") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  using small = mt::model<mt::sequential<mt::linear<2>, mt::batch_norm1d>, mt::extents<2>>;
  small net;
  auto const tree = [](mt::archive_value weight, mt::archive_value counter) {
    auto const two = [](float a, float b) { return mt::owned_tensor<float>({2}, {a, b}); };
    return mt::archive_value::dict({{"0.weight", weight}, {"0.bias", two(1, 2)}, {"1.weight", two(1, 1)}, {"1.bias", two(0, 0)},
                                    {"1.running_mean", two(0, 0)}, {"1.running_var", two(1, 1)}, {"1.num_batches_tracked", counter}});
  };
  mt::archive_value const seven = mt::owned_tensor<std::int64_t>({}, {7});
  std::vector<float> const expected{0.5f, -1.0f, 2.0f, 0.25f};
  auto const as = [&](auto zero) {
    std::vector<decltype(zero)> v;
    for (float const x : expected) v.push_back(static_cast<decltype(zero)>(x));
    return mt::owned_tensor<decltype(zero)>({2, 2}, std::move(v));
  };
  for (mt::archive_value const& weight : {mt::archive_value{as(0.0)}, mt::archive_value{as(0.0f)}, mt::archive_value{as(mt::f16{0.0f})},
                                          mt::archive_value{as(mt::bf16{0.0f})}}) {
    mt::save_archive(path, tree(weight, seven));
    CHECK(mt::load(path, net).complete());
    CHECK(net.parameter("0.weight").to_vector() == expected);
    CHECK(net.counters()[0] == 7);
  }
  mt::save_archive(path, tree(as(0.0f), mt::owned_tensor<std::int32_t>({}, {-3})));
  mt::load(path, net);
  CHECK(net.counters()[0] == -3);
  mt::save_archive(path, tree(as(0.0f), mt::owned_tensor<std::uint8_t>({}, {200})));
  mt::load(path, net);
  CHECK(net.counters()[0] == 200);
  for (mt::archive_value const& counter : {mt::archive_value{mt::owned_tensor<std::uint64_t>({}, {7})}, mt::archive_value{mt::scalar_tensor(7.0f)}}) {
    mt::save_archive(path, tree(as(0.0f), counter));
    CHECK_THROWS_WITH_AS(mt::load(path, net), doctest::Contains("1.num_batches_tracked (file "), mt::load_error);
  }
  mt::save_archive(path, tree(mt::owned_tensor<std::int64_t>({2, 2}, {1, 2, 3, 4}), seven));
  CHECK_THROWS_WITH_AS(mt::load(path, net), doctest::Contains("0.weight (file int64 (2, 2), model float32 (2, 2))"), mt::load_error);
  CHECK(net.counters()[0] == 200);
}
