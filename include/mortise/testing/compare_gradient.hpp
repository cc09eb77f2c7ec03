// Does backward compute what forward promises? For modules of one's own, and for every module here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mortise/model/model.hpp>
#include <mortise/tensor/philox.hpp>

namespace mortise::testing {

struct compare_gradient_options {
  double tolerance = 1e-6;   ///< of `gradient_report::worst`
  double step = 1e-5;        ///< half the distance of a central difference
  std::int64_t indices = 2;  ///< for networks that take indices: these are below it
  std::size_t every = 1;     ///< of each tensor, the first gradient and each that many further on are compared; must not be 0
};

/// What `compare_gradient` found.
struct gradient_report {
  double worst = 0;        ///< largest difference, relative to the largest gradient in the same tensor (at least 0.01)
  std::string where = {};  ///< its place: "input[3]", "classifier.0.weight[17]"
  double backward = 0;     ///< what backward computed there
  double difference = 0;   ///< the quotient of central differences there
  double tolerance = 0;
  std::size_t compared = 0;  ///< gradients that were compared

  bool ok() const { return worst <= tolerance && compared != 0; }
  explicit operator bool() const { return ok(); }
};

namespace detail {

inline constexpr std::uint64_t input_stream = stream_id("compare_gradient.input");
inline constexpr std::uint64_t state_stream = stream_id("compare_gradient.state");
inline constexpr std::uint64_t output_stream = stream_id("compare_gradient.output");

/// A model behind functions, so that the comparison is compiled once.
struct gradient_problem {
  void* context;
  double (*loss)(void*);                             // of a forward pass in training mode
  double (*read)(void*, double const*);              // a value in the memory of the device
  void (*write)(void*, double*, double);
};

/// Compares the gradients of one tensor, `size` values from `at` in the device's memory.
inline void compare_tensor(gradient_problem const& p, std::string_view name, double* at, std::vector<double> const& gradient,
                           compare_gradient_options const& options, gradient_report& report) {
  double largest = 0.01;
  for (double const g : gradient)
    if ((g < 0 ? -g : g) > largest) largest = g < 0 ? -g : g;
  for (std::size_t i = 0; i < gradient.size(); i += options.every) {
    double const value = p.read(p.context, at + i);
    double error = std::numeric_limits<double>::infinity(), quotient = 0;
    // A kink (relu, a maximum) between the two ends of a difference spoils it; a wrong gradient is wrong for every step.
    for (double step = options.step; step > options.step / 200 && !(error <= options.tolerance); step /= 10) {
      p.write(p.context, at + i, value + step);
      double const above = p.loss(p.context);
      p.write(p.context, at + i, value - step);
      double const below = p.loss(p.context);
      double const q = (above - below) / ((value + step) - (value - step));
      double const d = (q < gradient[i] ? gradient[i] - q : q - gradient[i]) / largest;
      if (d < error) {
        error = d;
        quotient = q;
      }
    }
    p.write(p.context, at + i, value);
    ++report.compared;
    if (!(error <= report.worst)) {
      report.worst = error;
      report.where = std::string{name} + "[" + std::to_string(i) + "]";
      report.backward = gradient[i];
      report.difference = quotient;
    }
  }
}

template <class Model, class D>
struct gradient_context {
  using element = typename Model::input_element;

  Model net;
  buffer<element, D> input;
  std::size_t batch;
  std::vector<double> output, output_gradient;

  gradient_context(D const& device, std::uint64_t s, std::size_t samples)
      : net{device, seed{s}}, input{device, samples * Model::input_extents::elements}, batch{samples},
        output(samples * Model::output_extents::elements), output_gradient(output.size()) {
    for (std::size_t i = 0; i < output.size(); ++i) output_gradient[i] = 2 * double{random_stream{s, output_stream, 0}.uniform(i)} - 1;
  }

  void forward() {
    // The same training step each time: dropout must drop the same elements.
    net.describe([](std::string_view name, auto& value) {
      if (name == "training_steps") value = 0;
    });
    net.forward({input.data(), Model::input_extents::value.with_batch(batch)});
  }
  double loss() {
    forward();
    transfer_elements<double, double>(net.device(), host{}, output.size(), net.output().data(), output.data());
    net.device().synchronize();
    double sum = 0;
    for (std::size_t i = 0; i < output.size(); ++i) sum += output[i] * output_gradient[i];
    return sum;
  }
  void put(double* to, std::vector<double> const& values) {
    transfer_elements<double, double>(host{}, net.device(), values.size(), values.data(), to);
    net.device().synchronize();
  }
  std::vector<double> get(double const* from, std::size_t n) {
    std::vector<double> values(n);
    transfer_elements<double, double>(net.device(), host{}, n, from, values.data());
    net.device().synchronize();
    return values;
  }
};

}  // namespace detail

/// Holds every gradient that `Network` (a module or a container) computes, of its parameters and of its input, against central differences
/// of a random linear function of its output, in double, in training mode.
///
/// Parameters and running statistics are moved away from their initial values (a batch norm's weight is not left at 1). Inputs are distinct,
/// evenly spaced in (-2, 2) in random order, and none is zero: no kink of relu and no tie of a maximum lies within reach of a difference.
/// Deeper in a network a kink may still lie there; a difference that disagrees is tried again with a tenth and a hundredth of the step.
///
///     auto const r = mortise::testing::compare_gradient<my_module, mortise::extents<3, 8, 8>>();
///     if (!r) std::cerr << r.where << ": backward " << r.backward << ", but differences " << r.difference;
template <class Network, class Input, class D = host>
gradient_report compare_gradient(D const& device = {}, std::uint64_t seed = 1, std::size_t batch = 3, compare_gradient_options const& options = {}) {
  using first_input = typename model<Network, Input, D, double>::input_element;
  constexpr bool indices = std::is_integral_v<first_input>;
  using network_model = model<Network, Input, D, double, !indices>;
  using context_type = detail::gradient_context<network_model, D>;
  context_type context{device, seed, batch};
  auto& net = context.net;

  std::vector<first_input> x(batch * Input::elements);
  auto const order = random_permutation(seed, detail::input_stream, 0, x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    if constexpr (indices) x[i] = static_cast<first_input>(order[i] % static_cast<std::size_t>(options.indices));
    else x[i] = (static_cast<double>(4 * order[i]) + 2.5) / static_cast<double>(x.size()) - 2;
  }
  transfer_elements<first_input, first_input>(host{}, device, x.size(), x.data(), context.input.data());

  random_stream const random{seed, detail::state_stream, 0};
  auto parameters = context.get(net.parameters().data(), net.parameters().size());
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i] += 0.5 * double{random.uniform(i)} - 0.25;
  context.put(net.parameters().data(), parameters);
  auto statistics = context.get(net.buffers().data(), net.buffers().size());
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    double const u = 0.5 * double{random.uniform(parameters.size() + i)} - 0.25;
    statistics[i] = statistics[i] == 0 ? u : statistics[i] * (1 + u);  // a variance stays positive
  }
  context.put(net.buffers().data(), statistics);

  // Whatever backward does not write stays NaN, and compares as wrong.
  context.put(net.gradients().data(), std::vector<double>(net.gradients().size(), std::numeric_limits<double>::quiet_NaN()));
  buffer<double, D> seed_gradient{device, context.output_gradient.size()};
  context.put(seed_gradient.data(), context.output_gradient);
  context.forward();
  net.backward(view<double const>{seed_gradient.data(), network_model::output_extents::value.with_batch(batch)});

  detail::gradient_problem const problem{
      &context, [](void* c) { return static_cast<context_type*>(c)->loss(); },
      [](void* c, double const* at) { return static_cast<context_type*>(c)->get(at, 1)[0]; },
      [](void* c, double* at, double value) { transfer_elements<double, double>(host{}, static_cast<context_type*>(c)->net.device(), 1, &value, at); }};
  gradient_report report;
  report.tolerance = options.tolerance;
  auto const gradients = context.get(net.gradients().data(), net.gradients().size());
  if constexpr (!indices) {
    auto const dx = context.get(net.input_gradient().data(), x.size());
    detail::compare_tensor(problem, "input", context.input.data(), dx, options, report);
  }
  for (auto const& p : network_model::parameter_table) {
    if (!p.trainable) continue;
    auto const first = gradients.begin() + static_cast<std::ptrdiff_t>(p.offset);
    detail::compare_tensor(problem, p.name, net.parameters().data() + p.offset, {first, first + static_cast<std::ptrdiff_t>(p.size)}, options, report);
  }
  return report;
}

}  // namespace mortise::testing
