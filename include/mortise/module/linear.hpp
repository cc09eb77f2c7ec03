// linear: an affine map of the last axis.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>

#include <mortise/module/description.hpp>
#include <mortise/operation/gemm.hpp>

namespace mortise {

/// y = x W^T + b over the last axis.
///
/// x (batch, ..., in)   y (batch, ..., Out)   weight (Out, in)   bias (Out)
/// Initialisation: U(-1/sqrt(in), 1/sqrt(in)) for both, PyTorch's default.
template <std::size_t Out, auto Bias = true>
struct linear {
  static_assert(std::is_same_v<decltype(Bias), bool>,
                "mortise::linear<Out, Bias>: the number of inputs is known to the compiler and does not stand here: linear<10>, not linear<84, 10>");
  static_assert(Out > 0, "mortise::linear: the number of outputs must be positive");
  static constexpr std::string_view name = "linear";

  static constexpr module_description describe(shape in) {
    if (in.rank == 0) return module_description::rejected("linear maps the last axis of its input, and this input has no axis");
    if (in.rank == 3)
      return module_description::rejected("put mortise::flatten before it: an image (channels, height, width) comes in, linear takes vectors",
                                          shape{in.elements()});
    module_description d;
    d.output = in;
    d.output[in.rank - 1] = Out;
    d.input_for_parameters_only = true;
    d.parameter("weight", shape{Out, in.back()}, init::fan_in_uniform(in.back()));
    if (Bias) d.parameter("bias", shape{Out}, init::fan_in_uniform(in.back()));
    return d;
  }

  template <class Args>
  void forward(Args const& a) const {
    linear_forward(a.device, rows<Args>(a.batch), std::integral_constant<std::size_t, Out>{}, width<Args>, a.x, a.parameter(0),
                   Bias ? a.parameter(1) : nullptr, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (!a.frozen())
      linear_backward_weight(a.device, rows<Args>(a.batch), std::integral_constant<std::size_t, Out>{}, width<Args>, a.dy, a.x,
                             a.parameter_gradient(0), Bias ? a.parameter_gradient(1) : nullptr);
    if (a.dx != nullptr)
      linear_backward_input(a.device, rows<Args>(a.batch), std::integral_constant<std::size_t, Out>{}, width<Args>, a.dy, a.parameter(0), a.dx);
  }

 private:
  template <class Args>
  static constexpr std::integral_constant<std::size_t, Args::input::value.back()> width{};
  template <class Args>
  static constexpr std::size_t rows(std::size_t batch) {
    return batch * (Args::input::elements / Args::input::value.back());
  }
};

}  // namespace mortise
