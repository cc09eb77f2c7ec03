// sigmoid: the logistic function.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = 1 / (1 + exp(-x)). Any shape.
struct sigmoid {
  static constexpr std::string_view name = "sigmoid";

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
    activation_forward(a.device, a.batch * Args::input::elements, detail::sigmoid_rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::output>(a.device, a.batch * Args::input::elements, detail::sigmoid_rule{}, a.y, a.dy, a.dx);
  }
};

}  // namespace mortise
