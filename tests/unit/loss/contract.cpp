// What every loss promises: a gradient that is one, errors before anything is written, bits that no thread count changes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include <mortise/detail/error.hpp>
#include <mortise/loss/bce_with_logits_loss.hpp>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/loss/huber_loss.hpp>
#include <mortise/loss/kl_div_loss.hpp>
#include <mortise/loss/l1_loss.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/loss/nll_loss.hpp>
#include <mortise/loss/smooth_l1_loss.hpp>

#include "loss_run.hpp"

namespace {

template <class Loss, class T>
using target_of = typename Loss::template target_type<T>;

template <class T>
std::vector<T> scores(std::size_t n) {
  std::vector<T> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<T>(2.5 * std::sin(0.7 * static_cast<double>(i * i % 97)) + 0.01);
  return x;
}
template <class Out, class Loss, class T>
auto targets(std::size_t batch) {
  std::vector<target_of<Loss, T>> y(batch * Loss::target_shape(Out::value).elements());
  for (std::size_t i = 0; i < y.size(); ++i) {
    if constexpr (std::is_same_v<target_of<Loss, T>, std::int64_t>) y[i] = static_cast<std::int64_t>(i * 7 % Out::value[0]);
    else y[i] = static_cast<T>(0.05 + 0.9 * static_cast<double>(i * i % 13) / 13);
  }
  return y;
}

// Central differences with step h are off by h^2 f'''/6 and eps f / h.
template <class Out, class Loss>
void check_gradient(Loss const& loss) {
  std::size_t const batch = 5;
  auto x = scores<double>(batch * Out::elements);
  auto const y = targets<Out, Loss, double>(batch);
  auto const at = run_loss<Out>(loss, x, y);
  double const h = 1e-5;
  for (std::size_t i = 0; i < x.size(); i += 1 + x.size() / 64) {
    double const kept = x[i];
    x[i] = kept + h;
    double const up = run_loss<Out>(loss, x, y, false).value;
    x[i] = kept - h;
    double const down = run_loss<Out>(loss, x, y, false).value;
    x[i] = kept;
    CHECK(at.dx[i] == doctest::Approx((up - down) / (2 * h)).epsilon(1e-4).scale(1e-4));
  }
}

template <class Out, class Loss>
void check_threads(Loss const& loss) {
  std::size_t const batch = 100000 / Out::elements;  // several pieces
  auto const x = scores<float>(batch * Out::elements);
  auto const y = targets<Out, Loss, float>(batch);
  auto const one = run_loss<Out>(loss, x, y, true, 1);
  for (int const threads : {2, 3}) {
    auto const more = run_loss<Out>(loss, x, y, true, threads);
    CHECK(more.value == one.value);
    CHECK(more.dx == one.dx);
  }
}

template <class Loss>
std::string message_of(Loss const& loss, std::vector<std::int64_t> const& y) {
  auto const x = scores<float>(y.size() * 10);
  std::vector<float> dx(x.size(), 7.0f), workspace(y.size() * 4);
  float value = 5;
  try {
    loss.template operator()<mt::extents<10>>(mt::host{1}, y.size(), x.data(), y.data(), dx.data(), &value, workspace.data());
  } catch (mt::usage_error const& e) {
    CHECK(value == 5.0f);
    CHECK(std::all_of(dx.begin(), dx.end(), [](float g) { return g == 7.0f; }));
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("gradients agree with central differences") {
  using ten = mt::extents<10>;
  check_gradient<ten>(mt::cross_entropy_loss{});
  check_gradient<ten>(mt::cross_entropy_loss{.label_smoothing = 0.1});
  check_gradient<mt::extents<80>>(mt::cross_entropy_loss{.label_smoothing = 0.1});
  check_gradient<mt::extents<4, 3, 3>>(mt::cross_entropy_loss{.reduction = mt::reduction::sum});
  check_gradient<ten>(mt::nll_loss{});
  check_gradient<ten>(mt::mse_loss{});
  check_gradient<ten>(mt::l1_loss{});
  check_gradient<ten>(mt::smooth_l1_loss{.beta = 0.7});
  check_gradient<ten>(mt::huber_loss{.delta = 0.7});
  check_gradient<ten>(mt::bce_with_logits_loss{});
  check_gradient<ten>(mt::kl_div_loss{});
  check_gradient<ten>(mt::kl_div_loss{.log_target = true});
}

TEST_CASE("the thread count changes no bit of a loss") {
  check_threads<mt::extents<10>>(mt::cross_entropy_loss{});
  check_threads<mt::extents<300>>(mt::cross_entropy_loss{});
  check_threads<mt::extents<7, 33>>(mt::cross_entropy_loss{});
  check_threads<mt::extents<10>>(mt::nll_loss{});
  check_threads<mt::extents<10>>(mt::mse_loss{});
  check_threads<mt::extents<10>>(mt::bce_with_logits_loss{});
}

TEST_CASE("a class index that does not exist is named, and nothing is written") {
  CHECK(message_of(mt::cross_entropy_loss{}, {1, 2, 3}).empty());
  for (auto const& text : {message_of(mt::cross_entropy_loss{}, {1, 2, 10}), message_of(mt::nll_loss{}, {1, 2, 10})}) {
    CHECK(text.find("sample 2") != std::string::npos);
    CHECK(text.find("class 10") != std::string::npos);
    CHECK(text.find("0 to 9") != std::string::npos);
  }
  CHECK(message_of(mt::cross_entropy_loss{}, {-1}).find("class -1") != std::string::npos);
  std::int64_t const least = std::numeric_limits<std::int64_t>::min();
  std::int64_t const most = std::numeric_limits<std::int64_t>::max();
  CHECK(!message_of(mt::cross_entropy_loss{}, {0, least}).empty());
  CHECK(!message_of(mt::cross_entropy_loss{}, {most}).empty());
  CHECK(message_of(mt::cross_entropy_loss{.weight = {1, 2, 3}}, {1}).find("weight has 3 values") != std::string::npos);
}

TEST_CASE("a batch with nothing but ignored targets has no gradient") {
  std::vector<float> const x = scores<float>(30);
  std::vector<std::int64_t> const y{-100, -100, -100};
  auto const sum = run_loss<mt::extents<10>>(mt::cross_entropy_loss{.reduction = mt::reduction::sum}, x, y);
  CHECK(sum.value == 0.0f);
  auto const mean = run_loss<mt::extents<10>>(mt::cross_entropy_loss{}, x, y);
  CHECK(std::isnan(mean.value));  // 0 / 0, as in PyTorch
  for (float const g : mean.dx) CHECK(g == 0.0f);
}

TEST_CASE("scores at the ends of the range give finite losses") {
  std::vector<float> x(20, -3e38f);
  x[3] = 3e38f;
  x[15] = 3e38f;
  auto const r = run_loss<mt::extents<10>>(mt::cross_entropy_loss{}, x, std::vector<std::int64_t>{3, 5});
  CHECK(r.value == 0.0f);
  CHECK(std::isfinite(r.dx[3]));
}

TEST_CASE("settings that make no sense are refused") {
  std::vector<float> const x(10), y(10);
  CHECK_THROWS_AS(run_loss<mt::extents<10>>(mt::huber_loss{.delta = 0}, x, y), mt::usage_error);
  CHECK_THROWS_AS(run_loss<mt::extents<10>>(mt::smooth_l1_loss{.beta = -1}, x, y), mt::usage_error);
  CHECK_THROWS_AS(run_loss<mt::extents<10>>(mt::bce_with_logits_loss{.pos_weight = {1, 2}}, x, y), mt::usage_error);
}

TEST_CASE("a loss says what it does not accept") {
  static_assert(mt::cross_entropy_loss::problem({10}) == nullptr);
  static_assert(mt::cross_entropy_loss::problem({1}) != nullptr);
  static_assert(mt::cross_entropy_loss::problem({}) != nullptr);
  static_assert(mt::cross_entropy_loss::target_shape({10}) == mt::shape{});
  static_assert(mt::cross_entropy_loss::target_shape({10, 4, 5}) == mt::shape{4, 5});
  static_assert(mt::mse_loss::target_shape({3, 2}) == mt::shape{3, 2});
}
