// flatten: all axes of a sample become one.
#pragma once

#include <mortise/module/description.hpp>

namespace mortise {

/// A sample of any shape seen as a vector. Moves no memory.
struct flatten {
  static constexpr std::string_view name = "flatten";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = shape{in.elements()};
    d.view = true;
    return d;
  }
  template <class Args>
  void forward(Args const&) const {}
  template <class Args>
  void backward(Args const&) const {}
};

/// The identity: a place holder in a pack, or the shortcut of a residual.
struct identity {
  static constexpr std::string_view name = "identity";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.view = true;
    return d;
  }
  template <class Args>
  void forward(Args const&) const {}
  template <class Args>
  void backward(Args const&) const {}
};

}  // namespace mortise
