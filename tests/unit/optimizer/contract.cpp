// What an optimizer promises besides PyTorch's numbers.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>

#include "fake_model.hpp"

namespace {

template <class T>
void fill(fake_model<T>& net) {
  for (std::size_t i = 0; i < net.values.size(); ++i) net.values[i] = static_cast<T>(std::sin(static_cast<double>(i) + 0.5));
}
template <class T>
void slope(fake_model<T>& net, int step) {
  for (std::size_t i = 0; i < net.slopes.size(); ++i) net.slopes[i] = static_cast<T>(std::sin(1.3 * static_cast<double>(i) + step));
}
template <class O>
void run(fake_model<float>& net, O& opt, int from, int to) {
  for (int s = from; s < to; ++s) {
    slope(net, s);
    opt.step();
  }
}

// One tensor of many elements, for threads and pieces.
struct large_model {
  using element = float;
  using device_type = mt::host;
  static constexpr std::size_t trainable_count = 100003;
  static constexpr fake_table<1> parameter_table{{{"weight", {100003}, 0, 100003, true}}};
  mt::host host{1};
  std::vector<float> values = std::vector<float>(100003), slopes = std::vector<float>(100003);
  mt::host const& device() const { return host; }
  mt::view<float> parameters() { return mt::view<float>{values}; }
  mt::view<float> gradients() { return mt::view<float>{slopes}; }
};

// A rule of a user's own, with nothing but what the concept asks for.
struct sign_sgd {
  static constexpr std::size_t slots = 0;
  float lr = 0.01f;
  template <class T>
  sign_sgd at(mt::update_step) const {
    return *this;
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& g, V*) const {
    V const zero(0.0f);
    return mt::detail::select(g > zero, V(lr), mt::detail::select(g < zero, V(-lr), zero));
  }
};

static_assert(mt::UpdateRule<mt::sgd>);
static_assert(mt::UpdateRule<mt::adamw>);
static_assert(mt::UpdateRule<sign_sgd>);
static_assert(mt::UpdateRule<mt::chain<mt::clip_grad_norm, mt::adam>>);
static_assert(!mt::UpdateRule<int>);
static_assert(mt::detail::decimal_from(0.1f) == 0.1);
static_assert(mt::detail::decimal_from(0.999f) == 0.999);
static_assert(mt::detail::decimal_from(-1e-8f) == -1e-8);
static_assert(mt::detail::decimal_from(0.0f) == 0.0);
static_assert(mt::detail::decimal_from(3.0f) == 3.0);

}  // namespace

TEST_CASE("frozen parameters keep their bits, the others do not notice") {
  fake_model<float> a, b;
  fill(a);
  fill(b);
  auto const before = a.values;
  mt::optimizer frozen{a, mt::adamw{.lr = 0.01f}, mt::freeze<"features.0">{}};
  mt::optimizer all{b, mt::adamw{.lr = 0.01f}};
  run(a, frozen, 0, 5);
  run(b, all, 0, 5);
  CHECK(std::memcmp(a.values.data(), before.data(), 18 * sizeof(float)) == 0);
  CHECK(std::memcmp(a.values.data() + 18, b.values.data() + 18, 23 * sizeof(float)) == 0);
  CHECK(frozen.updates(0) == 0);
  CHECK(frozen.updates(2) == 5);
  CHECK(frozen.steps() == 5);
}

TEST_CASE("unfreezing starts anew where it is told to") {
  fake_model<float> a, b;
  fill(a);
  fill(b);
  mt::optimizer late{a, mt::adam{.lr = 0.01f}, mt::freeze<"features">{}};
  run(a, late, 0, 7);
  late.unfreeze<"features">(true);
  run(a, late, 7, 10);
  mt::optimizer fresh{b, mt::adam{.lr = 0.01f}};  // what the frozen ones see: three steps from the start
  run(b, fresh, 7, 10);
  CHECK(std::memcmp(a.values.data(), b.values.data(), 18 * sizeof(float)) == 0);
  CHECK(late.updates(0) == 3);
  CHECK(late.updates(2) == 10);

  late.freeze<"**.bias">();
  auto const before = a.values;
  run(a, late, 10, 12);
  CHECK(a.values[16] == before[16]);
  CHECK(a.values[0] != before[0]);
  late.unfreeze<"**.bias">();
  run(a, late, 12, 13);
  CHECK(a.values[16] != before[16]);
  CHECK(late.updates(1) == 4);  // kept its count
}

TEST_CASE("the last match has a parameter") {
  fake_model<float> net;
  mt::optimizer opt{net, mt::sgd{.lr = 1}, mt::group<"features">{.lr = 2}, mt::group<"**.bias">{.lr = 3}, mt::freeze<"classifier">{},
                    mt::group<"classifier.bias">{.lr = 4}};
  std::fill(net.slopes.begin(), net.slopes.end(), 1.0f);
  opt.step();
  CHECK(net.values[0] == -2.0f);
  CHECK(net.values[15] == -3.0f);
  CHECK(net.values[18] == 0.0f);
  CHECK(net.values[34] == -4.0f);
  CHECK(opt.group_count == 4);
  CHECK(opt.learning_rate(3) == 4.0);
  opt.set_learning_rate(0.5, 1);
  opt.step();
  CHECK(net.values[0] == -2.5f);
  CHECK_THROWS_AS(opt.learning_rate(4), mt::usage_error);
}

TEST_CASE("one line takes weight decay off biases and norms, whatever group they are in") {
  fake_model<float> net;
  mt::optimizer opt{net, mt::adamw{.lr = 0.5f, .weight_decay = 0.25f}, mt::group<"features">{.lr = 0.25f}, mt::no_weight_decay<>{}};
  std::fill(net.values.begin(), net.values.end(), 1.0f);
  opt.step();  // no slopes: nothing but decay moves a parameter
  CHECK(net.values[0] == 1.0f - 0.25f * 0.25f);
  CHECK(net.values[15] == 1.0f);
  CHECK(net.values[18] == 1.0f - 0.5f * 0.25f);
  CHECK(net.values[34] == 1.0f);
  CHECK(opt.group_count == 4);
  CHECK(opt.written_group_count == 2);
  CHECK(opt.learning_rate(opt.group_of(1)) == 0.25);  // of its group
  CHECK(opt.group_text(opt.group_of(1)) == "\"features\", no weight decay");
  CHECK(opt.group_text(0) == "the rest");

  mt::optimizer by_path{net, mt::adamw{.weight_decay = 0.25f}, mt::no_weight_decay<"features", "**.bias">{}};
  CHECK(by_path.rule(by_path.group_of(0)).weight_decay == 0.0);
  CHECK(by_path.rule(by_path.group_of(2)).weight_decay == 0.25);
  CHECK(by_path.rule(by_path.group_of(3)).weight_decay == 0.0);
  CHECK_THROWS_AS((mt::optimizer{net, mt::chain{mt::scale_by_learning_rate{}}, mt::no_weight_decay<>{}}), mt::usage_error);
}

TEST_CASE("layer-wise decay lowers the rate from layer to layer, within each group") {
  fake_model<float> net;
  mt::optimizer opt{net, mt::sgd{.lr = 8}, mt::layer_wise_lr_decay<>{.decay = 0.5f}};
  std::fill(net.slopes.begin(), net.slopes.end(), 1.0f);
  opt.step();
  CHECK(net.values[0] == -4.0f);
  CHECK(net.values[15] == -4.0f);  // the same module
  CHECK(net.values[18] == -8.0f);
  CHECK(opt.group_text(opt.group_of(0)) == "the rest, 1 layer from the end");

  mt::optimizer paths{net, mt::adamw{.lr = 8}, mt::group<"**.bias">{.lr = 16}, mt::layer_wise_lr_decay<"features.0", "classifier.weight", "classifier.bias">{.decay = 0.5f},
                      mt::no_weight_decay<>{}, mt::freeze<"classifier.weight">{}};
  double const expected[] = {2, 4, 4, 16};
  for (std::size_t i = 0; i < 4; ++i) CHECK(paths.learning_rate(paths.group_of(i)) == expected[i]);
  CHECK(paths.is_frozen(2));
  CHECK(paths.rule(paths.group_of(1)).weight_decay == 0.0);
  CHECK(paths.rule(paths.group_of(0)).weight_decay == 0.01);
}

TEST_CASE("groups that use other slots than their neighbours leave those alone") {
  fake_model<float> a, b;
  fill(a);
  fill(b);
  mt::optimizer mixed{a, mt::adam{.lr = 0.01f}, mt::group<"features.0.bias", "classifier.bias">{.amsgrad = true}};
  mt::optimizer plain{b, mt::adam{.lr = 0.01f}};
  run(a, mixed, 0, 6);
  run(b, plain, 0, 6);
  CHECK(std::memcmp(a.values.data(), b.values.data(), 15 * sizeof(float)) == 0);
  CHECK(std::memcmp(a.values.data() + 18, b.values.data() + 18, 16 * sizeof(float)) == 0);
  auto const maximum = mixed.state("max_exp_avg_sq");
  CHECK(maximum[0] == 0.0f);
  CHECK(maximum[15] > 0.0f);
}

TEST_CASE("a setting that the rule does not have is refused by name") {
  fake_model<float> net;
  try {
    mt::optimizer opt{net, mt::adamw{}, mt::group<"features">{.momentum = 0.9f}};
    FAIL("accepted");
  } catch (mt::usage_error const& e) {
    std::string const text = e.what();
    CHECK(text.find("momentum") != std::string::npos);
    CHECK(text.find("features") != std::string::npos);
  }
}

TEST_CASE("settings outside of PyTorch's limits are refused by name, also those of a group") {
  fake_model<float> net;
  auto const refused = [&net](auto const& rule, auto const&... specs) {
    try {
      mt::optimizer opt{net, rule, specs...};
    } catch (mt::usage_error const& e) {
      return std::string{e.what()};
    }
    return std::string{};
  };
  CHECK(refused(mt::sgd{.lr = -1e-9}).find("lr is -1e-09; it must be at least 0") != std::string::npos);
  CHECK(refused(mt::adamw{.betas = {0.9, 1.0}}).find("betas is 1; it must be from 0 to below 1") != std::string::npos);
  CHECK(!refused(mt::sgd{.lr = std::numeric_limits<double>::quiet_NaN()}).empty());
  CHECK(refused(mt::sgd{.nesterov = true}).find("nesterov needs a momentum") != std::string::npos);
  CHECK(refused(mt::adamw{}, mt::group<"features">{.weight_decay = -1}).find("weight_decay is -1") != std::string::npos);
  CHECK(refused(mt::sgd{.lr = 0, .momentum = 0.9, .nesterov = true}).empty());
}

TEST_CASE("only the slots that the settings need exist") {
  fake_model<float> net;
  mt::optimizer plain{net, mt::sgd{}};
  CHECK(plain.slot_count() == 0);
  CHECK(plain.state_bytes() == 0);
  mt::optimizer moments{net, mt::adam{}};
  CHECK(moments.slot_count() == 2);
  CHECK(moments.slot_name(1) == "exp_avg_sq");
  CHECK(moments.state_bytes() == 2 * 37 * sizeof(float));
  mt::optimizer maximum{net, mt::adam{.amsgrad = true}};
  CHECK(maximum.slot_count() == 3);
  CHECK(maximum.slot_name(2) == "max_exp_avg_sq");
  CHECK_THROWS_AS(moments.state("max_exp_avg_sq"), mt::usage_error);
  plain.rule().momentum = 0.9;  // changed on the way: the buffer appears, empty
  slope(net, 1);
  plain.step();
  CHECK(plain.slot_count() == 1);
  CHECK(plain.state("momentum_buffer")[3] == net.slopes[3]);
}

TEST_CASE("the thread count changes no bit of an update") {
  std::vector<float> reference;
  for (int const threads : {1, 2, 3}) {
    large_model net;
    net.host.threads = threads;
    for (std::size_t i = 0; i < net.values.size(); ++i) net.slopes[i] = std::sin(static_cast<float>(i));
    mt::optimizer opt{net, mt::chain{mt::clip_grad_norm{.max_norm = 1}, mt::adamw{.lr = 0.01f}}};
    opt.step();
    opt.step();
    if (threads == 1) reference = net.values;
    CHECK(net.values == reference);
  }
}

TEST_CASE("where a range is cut changes no bit: every element is computed alike") {
  fake_model<float> a, b;
  fill(a);
  fill(b);
  mt::optimizer whole{a, mt::adamw{.lr = 0.01f}};
  mt::optimizer cut{b, mt::adamw{.lr = 0.01f}, mt::group<"features.0.bias">{.lr = 0.01f}, mt::group<"classifier.bias">{.weight_decay = 0.01}};
  run(a, whole, 0, 9);
  run(b, cut, 0, 9);
  CHECK(a.values == b.values);
}

TEST_CASE("a run goes on from its described state with the same bits") {
  fake_model<float> a;
  fill(a);
  mt::optimizer first{a, mt::adamw{.lr = 0.01f}, mt::group<"features">{.lr = 0.1f}, mt::freeze<"classifier.bias">{}};
  run(a, first, 0, 4);
  first.set_learning_rate(0.003, 1);
  first.freeze<"classifier.weight">();
  run(a, first, 4, 6);

  fake_model<float> b;
  b.values = a.values;
  mt::optimizer second{b, mt::adamw{.lr = 0.5f}, mt::group<"features">{.lr = 0.5f}, mt::freeze<"classifier.bias">{}};
  // What an archive does: every scalar by name, every slot by name.
  std::map<std::string, std::vector<double>> stored;
  first.describe([&](std::string_view name, auto& value) {
    auto& list = stored[std::string{name}];
    if constexpr (requires { value.begin(); }) list.assign(value.begin(), value.end());
    else list.push_back(static_cast<double>(value));
  });
  CHECK(stored.size() == 3 + 2 * 6);
  second.describe([&](std::string_view name, auto& value) {
    auto const& list = stored.at(std::string{name});
    if constexpr (requires { value.begin(); }) {
      for (std::size_t i = 0; i < list.size(); ++i) value[i] = static_cast<typename std::remove_reference_t<decltype(value)>::value_type>(list[i]);
    } else {
      value = static_cast<std::remove_reference_t<decltype(value)>>(list[0]);
    }
  });
  for (std::size_t s = 0; s < first.slot_count(); ++s) std::copy(first.slot(s).begin(), first.slot(s).end(), second.state(first.slot_name(s)).begin());

  run(a, first, 6, 9);
  run(b, second, 6, 9);
  CHECK(a.values == b.values);
  first.unfreeze<"classifier.weight">();
  second.unfreeze<"classifier.weight">();
  run(a, first, 9, 11);
  run(b, second, 9, 11);
  CHECK(a.values == b.values);
}

TEST_CASE("a rule of one's own needs nothing but its arithmetic") {
  fake_model<float> net;
  mt::optimizer opt{net, sign_sgd{.lr = 0.25f}};
  slope(net, 3);
  opt.step();
  for (std::size_t i = 0; i < 37; ++i) CHECK(net.values[i] == (net.slopes[i] > 0 ? -0.25f : 0.25f));
  CHECK_THROWS_AS(opt.learning_rate(), mt::usage_error);
}

TEST_CASE("zero_grad clears the gradients") {
  fake_model<float> net;
  slope(net, 1);
  mt::optimizer opt{net, mt::sgd{}};
  opt.zero_grad();
  for (float const g : net.slopes) CHECK(g == 0.0f);
}
