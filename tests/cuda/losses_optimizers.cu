// Losses and update rules on the device against those on the host.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/loss/cuda.cuh>
#include <mortise/loss/huber_loss.hpp>
#include <mortise/loss/kl_div_loss.hpp>
#include <mortise/loss/l1_loss.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/loss/smooth_l1_loss.hpp>
#include <mortise/model/step_memory.hpp>
#include <mortise/operation/cuda/map.cuh>
#include <mortise/operation/cuda/update.cuh>
#include <mortise/optimizer/adadelta.hpp>
#include <mortise/optimizer/adagrad.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/lion.hpp>
#include <mortise/optimizer/nadam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/radam.hpp>
#include <mortise/optimizer/rmsprop.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/optimizer/transforms.hpp>
#include <mortise/schedule/schedules.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

namespace mt = mortise;

namespace {

constexpr double eps = static_cast<double>(std::numeric_limits<float>::epsilon());

template <class T>
std::vector<T> fetched(T const* from, std::size_t n) {
  std::vector<T> values(n);
  mt::transfer_elements<T, T>(mt::cuda{0}, mt::host{1}, n, from, values.data());
  return values;
}
template <class T>
mt::buffer<T, mt::cuda> placed(std::vector<T> const& values) {
  mt::buffer<T, mt::cuda> memory{mt::cuda{0}, values.size()};
  mt::transfer_elements<T, T>(mt::host{1}, mt::cuda{0}, values.size(), values.data(), memory.data());
  return memory;
}

// ---- losses -------------------------------------------------------------------------------------------------------------------------------

/// Scores within 2.5, targets in (0, 1) or classes; every element of loss and slope is below 8 in size and computed in at most 16 operations, and a
/// loss sums `elements` of them.
template <class Out, class Loss>
void check_loss(Loss const& loss, std::size_t batch = 5) {
  using target = typename Loss::template target_type<float>;
  std::size_t const n = batch * Out::elements, answers = batch * Loss::target_shape(Out::value).elements();
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(2.5 * std::sin(0.7 * static_cast<double>(i * i % 97)) + 0.01);
  std::vector<target> y(answers);
  for (std::size_t i = 0; i < answers; ++i) {
    if constexpr (std::is_same_v<target, std::int64_t>) y[i] = i == 1 ? -100 : static_cast<std::int64_t>(i * 7 % Out::value[0]);
    else y[i] = static_cast<float>(0.05 + 0.9 * static_cast<double>(i * i % 13) / 13);
  }
  std::vector<float> dx(n), workspace(Loss::workspace(Out::value) * batch);
  float value = 0;
  loss.template operator()<Out>(mt::host{1}, batch, x.data(), y.data(), dx.data(), &value, workspace.data());

  auto const x_there = placed(x);
  auto const y_there = placed(y);
  mt::buffer<float, mt::cuda> const dx_there{mt::cuda{0}, n}, value_there{mt::cuda{0}, 1}, workspace_there{mt::cuda{0}, workspace.size()};
  auto const run = [&](float* gradient) {
    mt::compute_loss(Out{}, loss, mt::cuda{0}, batch, x_there.data(), y_there.data(), gradient, value_there.data(), workspace_there.data());
    return fetched(value_there.data(), 1)[0];
  };
  float const value_of_device = run(dx_there.data());
  CHECK(std::abs(static_cast<double>(value_of_device) - static_cast<double>(value)) <= 8 * 16 * eps * static_cast<double>(n));
  auto const gradient = fetched(dx_there.data(), n);
  double worst = 0;
  for (std::size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(static_cast<double>(gradient[i]) - static_cast<double>(dx[i])));
  CHECK(worst <= 8 * 16 * eps * static_cast<double>(Out::value.rank == 0 ? 1 : Out::value[0]));
  CHECK(run(nullptr) == value_of_device);
}

// ---- update rules -------------------------------------------------------------------------------------------------------------------------

struct entry {
  std::string_view name;
  mt::shape extents;
  std::size_t offset, size;
  bool trainable;
};
struct entries {
  entry list[2];
  constexpr std::size_t size() const { return 2; }
  constexpr entry const& operator[](std::size_t i) const { return list[i]; }
};
constexpr std::size_t count = 300;

/// What an optimizer asks of a model.
template <class D>
struct parameters_on {
  using element = float;
  using device_type = D;
  static constexpr std::size_t trainable_count = count;
  static constexpr entries parameter_table{{{"a.weight", {16, 16}, 0, 256, true}, {"b.bias", {44}, 256, 44, true}}};
  D where;
  mt::buffer<float, D> values{where, count}, slopes{where, count};

  D const& device() const { return where; }
  mt::view<float> parameters() { return {values.data(), mt::shape{count}}; }
  mt::view<float> gradients() { return {slopes.data(), mt::shape{count}}; }
  void put(mt::buffer<float, D>& to, double frequency, double phase) {
    std::vector<float> numbers(count);
    for (std::size_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(std::sin(frequency * static_cast<double>(i) + phase));
    mt::transfer_elements<float, float>(mt::host{1}, where, count, numbers.data(), to.data());
  }
};

/// Each of four updates rounds at most 64 times, and all that it adds up is below 1 in size.
template <class Rule>
void check_rule(Rule const& rule) {
  parameters_on<mt::host> a{mt::host{1}};
  parameters_on<mt::cuda> b{mt::cuda{0}};
  a.put(a.values, 1, 0.5);
  b.put(b.values, 1, 0.5);
  mt::optimizer on_host{a, rule, mt::group<"b">{.lr = 0.004f}};
  mt::optimizer on_cuda{b, rule, mt::group<"b">{.lr = 0.004f}};
  for (int step = 0; step < 4; ++step) {
    a.put(a.slopes, 1.3, step);
    b.put(b.slopes, 1.3, step);
    on_host.step();
    on_cuda.step();
  }
  auto const there = fetched(b.values.data(), count);
  double worst = 0;
  for (std::size_t i = 0; i < count; ++i) worst = std::max(worst, std::abs(static_cast<double>(there[i]) - static_cast<double>(a.values.data()[i])));
  CHECK(worst <= 4 * 64 * eps);
}

}  // namespace

TEST_CASE("losses and their gradients agree with the host's") {
  using ten = mt::extents<10>;
  check_loss<ten>(mt::cross_entropy_loss{});
  check_loss<ten>(mt::cross_entropy_loss{.reduction = mt::reduction::sum, .label_smoothing = 0.1});
  check_loss<ten>(mt::cross_entropy_loss{.weight = {1, 2, 3, 4, 5, 1, 2, 3, 4, 0.5}, .label_smoothing = 0.2});
  check_loss<mt::extents<1500>>(mt::cross_entropy_loss{});
  check_loss<mt::extents<4, 3, 3>>(mt::cross_entropy_loss{});
  check_loss<ten>(mt::nll_loss{});
  check_loss<ten>(mt::nll_loss{.weight = {1, 2, 3, 4, 5, 1, 2, 3, 4, 0.5}});
  check_loss<mt::extents<4, 3>>(mt::nll_loss{.reduction = mt::reduction::sum});
  check_loss<ten>(mt::mse_loss{});
  check_loss<ten>(mt::mse_loss{}, 2000);  // several pieces
  check_loss<ten>(mt::l1_loss{});
  check_loss<ten>(mt::smooth_l1_loss{.beta = 0.7});
  check_loss<ten>(mt::huber_loss{.delta = 0.7});
  check_loss<ten>(mt::bce_with_logits_loss{});
  check_loss<ten>(mt::bce_with_logits_loss{.pos_weight = {1, 2, 3, 4, 5, 1, 2, 3, 4, 0.5}});
  check_loss<ten>(mt::kl_div_loss{});
  check_loss<ten>(mt::kl_div_loss{.reduction = mt::reduction::batchmean, .log_target = true});
}

TEST_CASE("update rules agree with the host's") {
  check_rule(mt::sgd{.lr = 0.01f});
  check_rule(mt::sgd{.lr = 0.01f, .momentum = 0.9f, .weight_decay = 0.01f, .nesterov = true});
  check_rule(mt::adam{.lr = 0.01f});
  check_rule(mt::adam{.lr = 0.01f, .weight_decay = 0.01f, .amsgrad = true});
  check_rule(mt::adamw{.lr = 0.01f});
  check_rule(mt::rmsprop{.lr = 0.01f});
  check_rule(mt::rmsprop{.lr = 0.01f, .momentum = 0.9, .centered = true});
  check_rule(mt::adagrad{.lr = 0.01f});
  check_rule(mt::adadelta{.lr = 0.01f});
  check_rule(mt::radam{.lr = 0.01f});
  check_rule(mt::nadam{.lr = 0.01f});
  check_rule(mt::nadam{.lr = 0.01f, .weight_decay = 0.01});
  check_rule(mt::lion{.lr = 0.01f});
  check_rule(mt::chain<mt::clip_grad_value, mt::trace, mt::scale_by_learning_rate>{mt::clip_grad_value{.clip_value = 0.5}, mt::trace{},
                                                                                  mt::scale_by_learning_rate{.lr = 0.01}});
  check_rule(mt::chain<mt::clip_grad_norm, mt::adamw>{mt::clip_grad_norm{.max_norm = 0.5}, mt::adamw{.lr = 0.01f}});
}
