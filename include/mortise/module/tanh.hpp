// tanh: the hyperbolic tangent.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = tanh(x). Any shape. With `using namespace mortise` write std::tanh for the function.
struct tanh {
  static constexpr std::string_view name = "tanh";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.reads_input = false;
    d.reads_output = true;
    d.in_place = true;
    d.backward_in_place = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    activation_forward(a.device, a.batch * Args::input::elements, detail::tanh_rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::output>(a.device, a.batch * Args::input::elements, detail::tanh_rule{}, a.y, a.dy, a.dx);
  }
};

}  // namespace mortise
