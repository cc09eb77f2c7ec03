// What activations without settings share.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise::detail {

/// y = f(x) by a rule of operation/activation.hpp, element by element, for any shape, in place. `From` says what backward needs: the outputs, or
/// the slopes, which share their costly parts with the values, so that training saves them instead of x and backward is one product.
template <class Rule, slope_source From>
struct activation_module {
  static_assert(From != slope_source::input, "written over by the output");

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.saved = From == slope_source::saved ? in.elements() : 0;
    d.reads_input = false;
    d.reads_output = From == slope_source::output;
    d.in_place = true;
    d.backward_in_place = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    std::size_t const n = a.batch * Args::input::elements;
    if constexpr (From == slope_source::saved) {
      if (a.saved != nullptr) return activation_forward(a.device, n, Rule{}, a.x, a.y, a.saved);
    }
    activation_forward(a.device, n, Rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<From>(a.device, a.batch * Args::input::elements, Rule{}, From == slope_source::saved ? a.saved : a.y, a.dy, a.dx);
  }
};

}  // namespace mortise::detail
