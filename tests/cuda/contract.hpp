// The laws of contract/module.hpp on a CUDA device, and one more: the device agrees with the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <vector>

#include <mortise/cuda.cuh>

#include "../contract/module.hpp"

namespace contract {

/// A module on an input shape, on cuda:0. `Terms`: summands of its longest sum for a batch of four.
template <class M, class Input, std::size_t Terms, std::int64_t Indices = 2>
struct on_cuda {
  using module = M;
  using input = Input;
  using device = mortise::cuda;
  static device on(int) { return device{0}; }
  static constexpr std::size_t rows = 1;
  static constexpr std::size_t terms = Terms;
  static constexpr std::int64_t indices = Indices;
  // The host's contract compares every gradient, and another law here holds all of them against the host's. A difference takes two forward passes,
  // each of them milliseconds on an emulator, and tens of milliseconds where it runs lanes in an unusual order.
  static std::size_t every() { return std::getenv("CUDA_EMU_SCHED") == nullptr ? 7 : 31; }
};

/// A sum of k products of numbers below 2 in size is off by at most k eps times the sum of their absolute values, 4 k; what is divided by a
/// deviation of such numbers, or put through a function whose slope is at most one, is off by no more than four times that.
template <class Case>
constexpr double rounding() {
  return 16.0 * static_cast<double>(Case::terms * Case::terms) * static_cast<double>(std::numeric_limits<float>::epsilon());
}

inline double largest_difference(std::vector<float> const& a, std::vector<float> const& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    double const d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = d > worst || d != d ? d : worst;
  }
  return worst;
}

/// Output, gradients, input gradient and buffers of one training step.
template <class Case, class D>
struct step_results {
  std::vector<float> parameters, y, gradients, dx, buffers;
  std::vector<std::int64_t> counters;

  explicit step_results(D const& device) {
    using element = typename mortise::model<typename Case::module, typename Case::input>::input_element;
    using M = mortise::model<typename Case::module, typename Case::input, D, float, !std::is_integral_v<element>>;
    constexpr std::size_t batch = 4;
    M net{device, mortise::seed{3}};
    auto const x = test_values<element>(batch * Case::input::elements, 5, Case::indices);
    auto const dy = placed(device, test_values<float>(batch * M::output_extents::elements, 6, 0));
    parameters = fetched(device, net.parameters());
    y = fetched(device, net.forward(x));
    net.backward(mortise::view<float const>{dy.data(), M::output_extents::value.with_batch(batch)});
    gradients = fetched(device, net.gradients());
    if constexpr (!std::is_integral_v<element>) dx = fetched(device, net.input_gradient());
    buffers = fetched(device, net.buffers());
    counters = fetched(device, net.counters());
  }
};

TEST_CASE_TEMPLATE_DEFINE("the device agrees with the host within rounding, and with itself to the bit", Case, module_agreement) {
  step_results<Case, mortise::host> const host{mortise::host{1}};
  step_results<Case, mortise::cuda> const device{Case::on(1)}, again{Case::on(1)};
  CHECK(same_bits(device.parameters, host.parameters));
  CHECK(largest_difference(device.y, host.y) <= rounding<Case>());
  CHECK(largest_difference(device.gradients, host.gradients) <= rounding<Case>());
  CHECK(largest_difference(device.dx, host.dx) <= rounding<Case>());
  CHECK(largest_difference(device.buffers, host.buffers) <= rounding<Case>());
  CHECK(device.counters == host.counters);
  CHECK(same_bits(device.y, again.y));
  CHECK(same_bits(device.gradients, again.gradients));
  CHECK(same_bits(device.dx, again.dx));
  CHECK(same_bits(device.buffers, again.buffers));
}

}  // namespace contract

/// All laws for some modules. Products are left out of the law of rows: cuBLAS may choose its kernel by the number of rows.
#define CUDA_CONTRACT(...)                                  \
  namespace contract {                                      \
  TEST_CASE_TEMPLATE_INVOKE(module_gradient, __VA_ARGS__);  \
  TEST_CASE_TEMPLATE_INVOKE(module_rows, __VA_ARGS__);      \
  TEST_CASE_TEMPLATE_INVOKE(module_flags, __VA_ARGS__);     \
  TEST_CASE_TEMPLATE_INVOKE(module_agreement, __VA_ARGS__); \
  }
#define CUDA_CONTRACT_OF_PRODUCTS(...)                      \
  namespace contract {                                      \
  TEST_CASE_TEMPLATE_INVOKE(module_gradient, __VA_ARGS__);  \
  TEST_CASE_TEMPLATE_INVOKE(module_flags, __VA_ARGS__);     \
  TEST_CASE_TEMPLATE_INVOKE(module_agreement, __VA_ARGS__); \
  }
#define CUDA_CONTRACT_OF_NETWORKS(...)                      \
  namespace contract {                                      \
  TEST_CASE_TEMPLATE_INVOKE(module_gradient, __VA_ARGS__);  \
  TEST_CASE_TEMPLATE_INVOKE(module_agreement, __VA_ARGS__); \
  }
