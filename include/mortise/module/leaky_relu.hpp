// leaky_relu: relu that lets a little through.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = x where x > 0, else negative_slope x. Any shape; any slope, also negative ones.
struct leaky_relu {
  static constexpr std::string_view name = "leaky_relu";
  double negative_slope = 0.01;

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.backward_in_place = true;  // y does not tell the sign of x for every slope, so x is kept
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    activation_forward(a.device, a.batch * Args::input::elements, rule<Args>(), a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::input>(a.device, a.batch * Args::input::elements, rule<Args>(), a.x, a.dy, a.dx);
  }

 private:
  template <class Args>
  detail::leaky_relu_rule<typename Args::element> rule() const {
    return {static_cast<typename Args::element>(negative_slope)};
  }
};

}  // namespace mortise
