// relu: max(x, 0).
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = max(x, 0), element by element, for any shape. A NaN stays a NaN, as in PyTorch.
struct relu {
  static constexpr std::string_view name = "relu";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.reads_input = false;
    d.reads_output = true;
    d.in_place = true;
    d.backward_in_place = true;
    d.clips = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    relu_forward(a.device, a.batch * Args::input::elements, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr) relu_backward(a.device, a.batch * Args::input::elements, a.y, a.dy, a.dx);
  }
};

}  // namespace mortise
