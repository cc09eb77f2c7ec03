// Every loss and its gradient against PyTorch's in float64 (tests/interop/loss/generate.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include <mortise/loss/bce_with_logits_loss.hpp>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/loss/huber_loss.hpp>
#include <mortise/loss/kl_div_loss.hpp>
#include <mortise/loss/l1_loss.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/loss/nll_loss.hpp>
#include <mortise/loss/smooth_l1_loss.hpp>

#include "../fixture.hpp"
#include "loss_run.hpp"

namespace {

auto const& cases() {
  static auto const all = fixture::read(MORTISE_TEST_DATA "/fixtures/loss/losses.txt");
  return all;
}

// Errors: exp(x - max) is off by eps |x - max|, sums of n terms by at most n eps / lanes + log n eps, the rest by a few eps. All inputs
// are below 150 in magnitude, n below 128.
template <class T>
double tolerance(fixture::record const& r) {
  double largest = 0;
  for (double const v : r["x"]) largest = std::max(largest, std::fabs(v));
  return static_cast<double>(std::numeric_limits<T>::epsilon()) * (32 + 2 * largest);
}

template <class T, class Out, class Loss>
void check_in(Loss const& loss, fixture::record const& r) {
  using target = typename Loss::template target_type<T>;
  auto const x = r.as<T>("x");
  auto const y = r.as<target>("target");
  double const bound = tolerance<T>(r);
  auto const got = run_loss<Out>(loss, x, y);
  double terms = 0;  // the sum's terms may cancel (kl)
  double largest = 0;
  for (double const g : r["dx"]) largest = std::max(largest, std::fabs(g));
  for (std::size_t i = 0; i < x.size(); ++i) terms += std::fabs(r["dx"][i]) * (1 + std::fabs(r["x"][i]));
  double const value = r["value"][0];
  CHECK(std::fabs(static_cast<double>(got.value) - value) <= bound * (std::fabs(value) + terms));
  for (std::size_t i = 0; i < x.size(); ++i) {
    double const error = std::fabs(static_cast<double>(got.dx[i]) - r["dx"][i]);
    if (error > bound * largest) {
      INFO("gradient of element ", i);
      CHECK(static_cast<double>(got.dx[i]) == r["dx"][i]);
    }
  }
  CHECK(run_loss<Out>(loss, x, y, false).value == got.value);  // without a gradient: the same bits
}

template <class Out, class Loss>
void check(char const* name, Loss const& loss) {
  CAPTURE(name);
  auto const at = cases().find(name);
  REQUIRE(at != cases().end());
  check_in<double, Out>(loss, at->second);
  check_in<float, Out>(loss, at->second);
}

std::vector<double> const weight10 = [] {
  std::vector<double> w;
  for (int i = 0; i < 10; ++i) w.push_back(0.5 + 0.125 * i);
  return w;
}();
std::vector<double> const weight100 = [] {
  std::vector<double> w;
  for (int i = 0; i < 100; ++i) w.push_back(0.25 + 0.0625 * (i % 9));
  return w;
}();

}  // namespace

TEST_CASE("cross entropy agrees with PyTorch") {
  using ten = mt::extents<10>;
  check<ten>("ce", mt::cross_entropy_loss{});
  check<ten>("ce_short_batch", mt::cross_entropy_loss{});
  check<ten>("ce_far_scores", mt::cross_entropy_loss{});
  check<mt::extents<2>>("ce_two_classes", mt::cross_entropy_loss{});
  check<ten>("ce_sum", mt::cross_entropy_loss{.reduction = mt::reduction::sum});
  check<ten>("ce_smoothing", mt::cross_entropy_loss{.label_smoothing = 0.1f});
  check<ten>("ce_weight", mt::cross_entropy_loss{.weight = weight10});
  check<ten>("ce_ignore", mt::cross_entropy_loss{});
  check<ten>("ce_ignore_7", mt::cross_entropy_loss{.ignore_index = 7});
  check<ten>("ce_all", mt::cross_entropy_loss{.weight = weight10, .label_smoothing = 0.2f});
}
TEST_CASE("cross entropy of many classes agrees with PyTorch") {
  check<mt::extents<100>>("ce_many_classes", mt::cross_entropy_loss{});
  check<mt::extents<100>>("ce_many_classes_all", mt::cross_entropy_loss{.weight = weight100, .label_smoothing = 0.1f});
}
TEST_CASE("cross entropy at many positions agrees with PyTorch") {
  check<mt::extents<10, 5, 5>>("ce_image", mt::cross_entropy_loss{});
  check<mt::extents<10, 5, 5>>("ce_image_all", mt::cross_entropy_loss{.weight = weight10, .label_smoothing = 0.1f});
  check<mt::extents<100, 7>>("ce_text", mt::cross_entropy_loss{});
}
TEST_CASE("negative log likelihood agrees with PyTorch") {
  check<mt::extents<10>>("nll", mt::nll_loss{});
  check<mt::extents<10, 5, 5>>("nll_all", mt::nll_loss{.weight = weight10});
  check<mt::extents<10>>("nll_sum", mt::nll_loss{.reduction = mt::reduction::sum});
}
TEST_CASE("pointwise losses agree with PyTorch") {
  using out = mt::extents<11>;
  check<out>("mse", mt::mse_loss{});
  check<out>("mse_sum", mt::mse_loss{.reduction = mt::reduction::sum});
  check<out>("l1", mt::l1_loss{});
  check<out>("smooth_l1", mt::smooth_l1_loss{});
  check<out>("smooth_l1_half", mt::smooth_l1_loss{.beta = 0.5f});
  check<out>("smooth_l1_zero", mt::smooth_l1_loss{.beta = 0});
  check<out>("huber", mt::huber_loss{});
  check<out>("huber_wide", mt::huber_loss{.delta = 2.5f});
}
TEST_CASE("binary cross entropy agrees with PyTorch") {
  using out = mt::extents<11>;
  std::vector<double> positive;
  for (int i = 0; i < 11; ++i) positive.push_back(0.5 + 0.25 * i);
  check<out>("bce", mt::bce_with_logits_loss{});
  check<out>("bce_far", mt::bce_with_logits_loss{});
  check<out>("bce_pos_weight", mt::bce_with_logits_loss{.pos_weight = positive});
}
TEST_CASE("the Kullback-Leibler divergence agrees with PyTorch") {
  using out = mt::extents<11>;
  check<out>("kl", mt::kl_div_loss{});
  check<out>("kl_batchmean", mt::kl_div_loss{.reduction = mt::reduction::batchmean});
  check<out>("kl_log_target", mt::kl_div_loss{.reduction = mt::reduction::sum, .log_target = true});
}
