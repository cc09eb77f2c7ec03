// What every module promises, as laws that a test file invokes for its own modules:
//
//   MODULE_CONTRACT(on_host<mortise::linear<4>, mortise::extents<3>>, ...)
//
// Needs contract/counting.cpp, which counts allocations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/module/frozen.hpp>
#include <mortise/testing/compare_gradient.hpp>

/// Calls of operator new so far.
std::size_t allocations();

namespace contract {

/// A module (or container) on an input shape. `Rows`: the smallest batch whose rows have the bits they have in every larger one.
template <class M, class Input, std::size_t Rows = 1, std::int64_t Indices = 2>
struct on_host {
  using module = M;
  using input = Input;
  static constexpr std::size_t rows = Rows;
  static constexpr std::int64_t indices = Indices;
};

template <class T>
std::vector<T> test_values(std::size_t n, std::uint64_t seed, std::int64_t indices) {
  std::vector<T> v(n);
  mortise::random_stream const random{seed, 17, 0};
  for (std::size_t i = 0; i < n; ++i) {
    if constexpr (std::is_integral_v<T>) v[i] = static_cast<T>(random.bits(i) % static_cast<std::uint32_t>(indices));
    else v[i] = static_cast<T>(4 * random.uniform(i) - 2);
  }
  return v;
}

template <class T>
bool same_bits(T const* a, T const* b, std::size_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;  // memcmp takes no null pointer
}
template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

template <class Case>
using float_model = mortise::model<typename Case::module, typename Case::input, mortise::host, float,
                                   !std::is_integral_v<typename mortise::model<typename Case::module, typename Case::input>::input_element>>;

TEST_CASE_TEMPLATE_DEFINE("backward agrees with central differences, also inside a frozen part", Case, module_gradient) {
  mortise::testing::compare_gradient_options options;
  options.indices = Case::indices;
  for (std::size_t const batch : {std::size_t{1}, std::size_t{4}}) {
    auto const r = mortise::testing::compare_gradient<typename Case::module, typename Case::input>(mortise::host{1}, 7, batch, options);
    INFO("batch ", batch, ": largest relative difference ", r.worst, " at ", r.where, ", backward ", r.backward, ", differences ", r.difference);
    CHECK(r.ok());
  }
  if constexpr (!std::is_integral_v<typename mortise::model<typename Case::module, typename Case::input>::input_element>) {
    auto const r = mortise::testing::compare_gradient<mortise::frozen<typename Case::module>, typename Case::input>(mortise::host{1}, 7, 2, options);
    INFO("frozen: largest relative difference ", r.worst, " at ", r.where, ", backward ", r.backward, ", differences ", r.difference);
    CHECK(r.ok());
  }
}

TEST_CASE_TEMPLATE_DEFINE("in evaluation a sample's output has the same bits whatever batch surrounds it", Case, module_rows) {
  using M = float_model<Case>;
  constexpr std::size_t batch = 5, in = Case::input::elements, out = M::output_extents::elements;
  M net{mortise::host{1}, mortise::seed{3}};
  net.eval();
  auto const x = test_values<typename M::input_element>(batch * in, 5, Case::indices);
  auto const whole = net.forward(x).to_vector();
  for (std::size_t first = 0; first + Case::rows <= batch; ++first) {
    std::vector<typename M::input_element> const part(x.begin() + static_cast<std::ptrdiff_t>(first * in),
                                                      x.begin() + static_cast<std::ptrdiff_t>((first + Case::rows) * in));
    auto const y = net.forward(part);
    REQUIRE(y.size() == Case::rows * out);
    INFO("samples from ", first);
    CHECK(same_bits(y.data(), whole.data() + first * out, y.size()));
  }
}

TEST_CASE_TEMPLATE_DEFINE("training has the same bits with 1, 2 and 3 threads", Case, module_threads) {
  using M = float_model<Case>;
  // Enough samples that the work is cut into pieces.
  constexpr std::size_t in = Case::input::elements, batch = 100000 / in + 3;
  auto const x = test_values<typename M::input_element>(batch * in, 5, Case::indices);
  auto const dy = test_values<float>(batch * M::output_extents::elements, 6, 0);
  std::vector<float> y, gradients, dx, buffers;
  for (int threads = 1; threads <= 3; ++threads) {
    M net{mortise::host{threads}, mortise::seed{3}};
    auto const out = net.forward(x).to_vector();
    net.backward(mortise::view<float const>{dy});
    auto const g = net.gradients().to_vector(), b = net.buffers().to_vector();
    std::vector<float> d;
    if constexpr (!std::is_integral_v<typename M::input_element>) d = net.input_gradient().to_vector();
    if (threads == 1) {
      y = out;
      gradients = g;
      dx = d;
      buffers = b;
    }
    INFO(threads, " threads");
    CHECK(same_bits(out, y));
    CHECK(same_bits(g, gradients));
    CHECK(same_bits(d, dx));
    CHECK(same_bits(b, buffers));
  }
}

TEST_CASE_TEMPLATE_DEFINE("a training step after the first allocates nothing", Case, module_allocation) {
  using M = float_model<Case>;
  M net{mortise::host{2}, mortise::seed{3}};
  auto const x = test_values<typename M::input_element>(6 * Case::input::elements, 5, Case::indices);
  auto const dy = test_values<float>(6 * M::output_extents::elements, 6, 0);
  mortise::view<typename M::input_element const> const in{x};
  mortise::view<float const> const gradient{dy};
  net.forward(in);
  net.backward(gradient);
  std::size_t const before = allocations();
  net.forward(in);
  net.backward(gradient);
  CHECK(allocations() == before);
}

/// A module's own forward and backward on memory of the test's choice.
template <class Case>
struct bare_module {
  using module = typename Case::module;
  using input = typename Case::input;
  static constexpr mortise::module_description d = module::describe(input::value);
  using output = mortise::extents_for<d.output>;
  using X = typename mortise::detail::input_element<module, float>::type;
  static constexpr std::size_t batch = 3, in = batch * input::elements, out = batch * output::elements;

  static constexpr std::size_t workspace_elements() {
    std::size_t n = d.workspace * batch + d.workspace_fixed;
    if constexpr (requires { module::has_workspace_by_type; }) {
      constexpr auto w = module::template workspace<input>();
      if (w.per_sample * batch + w.fixed > n) n = w.per_sample * batch + w.fixed;
    }
    return n;
  }
  static constexpr std::size_t parameter_elements(std::size_t until = d.parameters.size()) {
    std::size_t n = 0;
    for (std::size_t i = 0; i < until; ++i) n += d.parameters[i].extents.elements();
    return n;
  }
  static constexpr std::size_t buffer_elements() {
    std::size_t n = 0;
    for (auto const& b : d.buffers) n += b.counter ? 0 : b.extents.elements();
    return n;
  }

  // Where 64-byte aligned memory is promised, the test gives it: 16 floats more, and a start that is rounded up.
  struct memory {
    std::vector<float> values;
    explicit memory(std::size_t n) : values(n + 32, std::numeric_limits<float>::quiet_NaN()) {}
    float* data() {
      auto const at = reinterpret_cast<std::uintptr_t>(values.data());
      return reinterpret_cast<float*>((at + 63) / 64 * 64);
    }
  };

  module self{};
  bool training;
  std::vector<X> x = test_values<X>(in, 21, Case::indices);
  memory saved{batch * d.saved + d.saved_fixed}, workspace{workspace_elements()};
  std::vector<std::byte> saved_bytes = std::vector<std::byte>(batch * d.saved_bytes + 1);
  std::vector<float> parameters = test_values<float>(parameter_elements(), 22, 0), buffers, gradients;
  std::int64_t counters[4] = {};
  std::size_t offsets[16] = {};

  explicit bare_module(bool train) : training{train} {
    for (std::size_t i = 0; i < d.parameters.size(); ++i) offsets[i] = parameter_elements(i);
    for (auto const& b : d.buffers)
      if (!b.counter) buffers.insert(buffers.end(), b.extents.elements(), static_cast<float>(b.initial));
    gradients.assign(parameters.size(), std::numeric_limits<float>::quiet_NaN());
  }

  void forward(X const* from, float* to, bool keep) {
    mortise::host const device{1};
    self.forward(mortise::forward_args<mortise::host, float, input, output, X>{
        device, batch, training, from, to, parameters.data(), offsets, buffers.data(), counters, keep ? saved.data() : nullptr,
        keep ? saved_bytes.data() : nullptr, workspace.data(), mortise::random_stream{1, 2, 3}, 0});
  }
  void backward(X const* from, float const* y, float const* dy, float* dx) {
    mortise::host const device{1};
    self.backward(mortise::backward_args<mortise::host, float, input, output, X>{
        device, batch, training, from, y, dy, dx, parameters.data(), training ? gradients.data() : nullptr, offsets, buffers.data(), saved.data(),
        saved_bytes.data(), workspace.data(), mortise::random_stream{1, 2, 3}, 0});
  }
};

TEST_CASE_TEMPLATE_DEFINE("a module reads and overwrites what its description says, and nothing else", Case, module_flags) {
  using bare = bare_module<Case>;
  using X = typename bare::X;
  constexpr auto d = bare::d;
  if constexpr (!d.view) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (bool const training : {true, false}) {
      INFO("training ", training);
      auto const dy = test_values<float>(bare::out, 23, 0);
      bare plain{training};
      std::vector<float> y(bare::out, nan), dx(bare::in, nan);
      plain.forward(plain.x.data(), y.data(), true);
      for (float const v : y) REQUIRE(v == v);  // every element was written
      plain.backward(plain.x.data(), y.data(), dy.data(), dx.data());
      for (float const v : dx) REQUIRE(v == v);
      if (training)
        for (float const v : plain.gradients) REQUIRE(v == v);

      {  // nothing kept: the same output
        bare other{training};
        std::vector<float> again(bare::out, nan);
        other.forward(other.x.data(), again.data(), false);
        CHECK(same_bits(again, y));
      }
      if constexpr (d.in_place) {
        if constexpr (std::is_same_v<X, float>) {
          bare other{training};
          auto memory = other.x;
          memory.resize(bare::out);
          other.forward(memory.data(), memory.data(), true);
          CHECK(same_bits(memory, y));
        }
      }
      {  // what backward does not read may be gone; and dx may lie on dy
        bare other{training};
        std::vector<float> out(bare::out, nan);
        other.forward(other.x.data(), out.data(), true);
        bool const reads_input = d.reads_input && (training || !d.input_for_parameters_only);
        if (!reads_input)
          for (auto& v : other.x) v = std::is_integral_v<X> ? std::numeric_limits<X>::max() : std::numeric_limits<X>::quiet_NaN();
        if (!d.reads_output) out.assign(out.size(), nan);
        other.workspace = typename bare::memory{bare::workspace_elements()};
        auto memory = dy;
        memory.resize(bare::in > bare::out ? bare::in : bare::out);
        std::vector<float> apart(bare::in, nan);
        float* const target = d.backward_in_place ? memory.data() : apart.data();
        other.backward(other.x.data(), out.data(), memory.data(), target);
        CHECK(same_bits(target, dx.data(), bare::in));
        if (training) CHECK(same_bits(other.gradients, plain.gradients));
      }
      {  // nobody wants dx: the same gradients
        bare other{training};
        std::vector<float> out(bare::out, nan);
        other.forward(other.x.data(), out.data(), true);
        other.backward(other.x.data(), out.data(), dy.data(), nullptr);
        if (training) CHECK(same_bits(other.gradients, plain.gradients));
      }
    }
  }
}

}  // namespace contract

/// All laws for some modules.
#define MODULE_CONTRACT(...)                             \
  namespace contract {                                   \
  TEST_CASE_TEMPLATE_INVOKE(module_gradient, __VA_ARGS__);   \
  TEST_CASE_TEMPLATE_INVOKE(module_rows, __VA_ARGS__);       \
  TEST_CASE_TEMPLATE_INVOKE(module_threads, __VA_ARGS__);    \
  TEST_CASE_TEMPLATE_INVOKE(module_allocation, __VA_ARGS__); \
  TEST_CASE_TEMPLATE_INVOKE(module_flags, __VA_ARGS__);      \
  }

/// The laws that hold for containers too.
#define MODULE_CONTRACT_OF_NETWORKS(...)                     \
  namespace contract {                                       \
  TEST_CASE_TEMPLATE_INVOKE(module_gradient, __VA_ARGS__);   \
  TEST_CASE_TEMPLATE_INVOKE(module_rows, __VA_ARGS__);       \
  TEST_CASE_TEMPLATE_INVOKE(module_threads, __VA_ARGS__);    \
  TEST_CASE_TEMPLATE_INVOKE(module_allocation, __VA_ARGS__); \
  }
