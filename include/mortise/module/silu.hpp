// silu: x times its own sigmoid.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = x / (1 + exp(-x)), also known as swish. Any shape. Training keeps the slope instead of x: backward is one product.
struct silu {
  static constexpr std::string_view name = "silu";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.saved = in.elements();
    d.reads_input = false;
    d.in_place = true;
    d.backward_in_place = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    std::size_t const n = a.batch * Args::input::elements;
    if (a.saved != nullptr)
      activation_forward(a.device, n, detail::silu_rule{}, a.x, a.y, a.saved);
    else
      activation_forward(a.device, n, detail::silu_rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::saved>(a.device, a.batch * Args::input::elements, detail::silu_rule{}, a.saved, a.dy, a.dx);
  }
};

}  // namespace mortise
