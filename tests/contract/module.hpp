// What every module promises, as laws that a test file invokes for its own modules:
//
//   MODULE_CONTRACT(on_host<mortise::linear<4>, mortise::extents<3>>, ...)
//
// Needs contract/counting.cpp, which counts allocations. Other devices invoke the laws that speak of them with cases of their own: a case names
// module, input and device, and makes a device with a number of threads (tests/cuda/contract.hpp).
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
  using device = mortise::host;
  static device on(int threads) { return device{threads}; }
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

/// What a view of a device's memory holds.
template <class D, class T>
std::vector<std::remove_const_t<T>> fetched(D const& device, mortise::view<T> const& v) {
  std::vector<std::remove_const_t<T>> values(v.size());
  mortise::transfer_elements<std::remove_const_t<T>, std::remove_const_t<T>>(device, mortise::host{1}, v.size(), v.data(), values.data());
  device.synchronize();
  return values;
}
/// Values in a device's memory.
template <class D, class T>
mortise::buffer<T, D> placed(D const& device, std::vector<T> const& values) {
  mortise::buffer<T, D> memory{device, values.size()};
  mortise::transfer_elements<T, T>(mortise::host{1}, device, values.size(), values.data(), memory.data());
  device.synchronize();
  return memory;
}

template <class Case>
using float_model = mortise::model<typename Case::module, typename Case::input, typename Case::device, float,
                                   !std::is_integral_v<typename mortise::model<typename Case::module, typename Case::input>::input_element>>;

TEST_CASE_TEMPLATE_DEFINE("backward agrees with central differences, also inside a frozen part", Case, module_gradient) {
  mortise::testing::compare_gradient_options options;
  options.indices = Case::indices;
  if constexpr (requires { Case::every(); }) options.every = Case::every();
  for (std::size_t const batch : {std::size_t{1}, std::size_t{4}}) {
    auto const r = mortise::testing::compare_gradient<typename Case::module, typename Case::input>(Case::on(1), 7, batch, options);
    INFO("batch ", batch, ": largest relative difference ", r.worst, " at ", r.where, ", backward ", r.backward, ", differences ", r.difference);
    CHECK(r.ok());
  }
  if constexpr (!std::is_integral_v<typename mortise::model<typename Case::module, typename Case::input>::input_element>) {
    auto const r = mortise::testing::compare_gradient<mortise::frozen<typename Case::module>, typename Case::input>(Case::on(1), 7, 2, options);
    INFO("frozen: largest relative difference ", r.worst, " at ", r.where, ", backward ", r.backward, ", differences ", r.difference);
    CHECK(r.ok());
  }
}

TEST_CASE_TEMPLATE_DEFINE("in evaluation a sample's output has the same bits whatever batch surrounds it", Case, module_rows) {
  using M = float_model<Case>;
  constexpr std::size_t batch = 5, in = Case::input::elements, out = M::output_extents::elements;
  M net{Case::on(1), mortise::seed{3}};
  net.eval();
  auto const x = test_values<typename M::input_element>(batch * in, 5, Case::indices);
  auto const whole = fetched(net.device(), net.forward(x));
  for (std::size_t first = 0; first + Case::rows <= batch; ++first) {
    std::vector<typename M::input_element> const part(x.begin() + static_cast<std::ptrdiff_t>(first * in),
                                                      x.begin() + static_cast<std::ptrdiff_t>((first + Case::rows) * in));
    auto const y = fetched(net.device(), net.forward(part));
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

  using device_type = typename Case::device;

  // Everything that a module sees of memory. Fresh values are NaN.
  struct memory {
    mortise::buffer<float, device_type> values;
    explicit memory(std::size_t n) : values{placed(Case::on(1), std::vector<float>(n + 1, std::numeric_limits<float>::quiet_NaN()))} {}
    float* data() const { return values.data(); }
  };

  typename Case::module self{};  // "module" at the beginning of a line is a directive to some compilers
  bool training;
  device_type device = Case::on(1);
  mortise::buffer<X, device_type> x = placed(device, test_values<X>(in, 21, Case::indices));
  memory saved{batch * d.saved + d.saved_fixed}, workspace{workspace_elements()};
  mortise::buffer<std::byte, device_type> saved_bytes{device, batch * d.saved_bytes + 1};
  mortise::buffer<float, device_type> parameters = placed(device, test_values<float>(parameter_elements(), 22, 0)), buffers;
  memory gradient_memory{parameter_elements()};
  mortise::buffer<std::int64_t, device_type> counters{device, 4};
  std::size_t offsets[16] = {};

  explicit bare_module(bool train) : training{train} {
    for (std::size_t i = 0; i != d.parameters.size(); ++i) offsets[i] = parameter_elements(i);
    std::vector<float> initial;
    for (auto const& b : d.buffers)
      if (!b.counter) initial.insert(initial.end(), b.extents.elements(), static_cast<float>(b.initial));
    buffers = placed(device, initial);
  }

  std::vector<float> gradients() const { return values(gradient_memory, parameter_elements()); }
  std::vector<float> values(memory const& m, std::size_t n) const {
    return fetched(device, mortise::view<float const>{m.data(), mortise::shape{n}});
  }

  void forward(X const* from, float* to, bool keep) {
    self.forward(mortise::forward_args<device_type, float, input, output, X>{
        device, batch, training, from, to, parameters.data(), offsets, buffers.data(), counters.data(), keep ? saved.data() : nullptr,
        keep ? saved_bytes.data() : nullptr, workspace.data(), mortise::random_stream{1, 2, 3}, 0});
  }
  void backward(X const* from, float const* y, float const* dy, float* dx) {
    self.backward(mortise::backward_args<device_type, float, input, output, X>{
        device, batch, training, from, y, dy, dx, parameters.data(), training ? gradient_memory.data() : nullptr, offsets, buffers.data(), saved.data(),
        saved_bytes.data(), workspace.data(), mortise::random_stream{1, 2, 3}, 0});
  }
};

TEST_CASE_TEMPLATE_DEFINE("a module reads and overwrites what its description says, and nothing else", Case, module_flags) {
  using bare = bare_module<Case>;
  using X = typename bare::X;
  using memory = typename bare::memory;
  constexpr auto d = bare::d;
  if constexpr (!d.view) {
    for (bool const training : {true, false}) {
      INFO("training ", training);
      auto const dy = placed(Case::on(1), test_values<float>(bare::out, 23, 0));
      bare plain{training};
      memory const y_memory{bare::out}, dx_memory{bare::in};
      plain.forward(plain.x.data(), y_memory.data(), true);
      auto const y = plain.values(y_memory, bare::out);
      for (float const v : y) REQUIRE(v == v);  // every element was written
      plain.backward(plain.x.data(), y_memory.data(), dy.data(), dx_memory.data());
      auto const dx = plain.values(dx_memory, bare::in);
      for (float const v : dx) REQUIRE(v == v);
      auto const gradients = plain.gradients();
      if (training)
        for (float const v : gradients) REQUIRE(v == v);

      {  // nothing kept: the same output
        bare other{training};
        memory const again{bare::out};
        other.forward(other.x.data(), again.data(), false);
        CHECK(same_bits(other.values(again, bare::out), y));
      }
      if constexpr (d.in_place) {
        if constexpr (std::is_same_v<X, float>) {
          bare other{training};
          other.forward(other.x.data(), other.x.data(), true);
          CHECK(same_bits(fetched(other.device, mortise::view<float const>{other.x.data(), mortise::shape{bare::out}}), y));
        }
      }
      {  // what backward does not read may be gone; and dx may lie on dy
        bare other{training};
        memory out{bare::out};
        other.forward(other.x.data(), out.data(), true);
        bool const reads_input = d.reads_input && (training || !d.input_for_parameters_only);
        if (!reads_input)
          other.x = placed(other.device, std::vector<X>(bare::in, std::is_integral_v<X> ? std::numeric_limits<X>::max() : std::numeric_limits<X>::quiet_NaN()));
        if (!d.reads_output) out = memory{bare::out};
        other.workspace = memory{bare::workspace_elements()};
        memory const apart{bare::in};
        std::vector<float> both = test_values<float>(bare::out, 23, 0);
        both.resize(bare::in > bare::out ? bare::in : bare::out);
        auto const shared = placed(other.device, both);
        float* const target = d.backward_in_place ? shared.data() : apart.data();
        other.backward(other.x.data(), out.data(), shared.data(), target);
        CHECK(same_bits(fetched(other.device, mortise::view<float const>{target, mortise::shape{bare::in}}), dx));
        if (training) CHECK(same_bits(other.gradients(), gradients));
      }
      {  // nobody wants dx: the same gradients
        bare other{training};
        memory const out{bare::out};
        other.forward(other.x.data(), out.data(), true);
        other.backward(other.x.data(), out.data(), dy.data(), nullptr);
        if (training) CHECK(same_bits(other.gradients(), gradients));
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
