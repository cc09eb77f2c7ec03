// gelu, gelu_tanh: x times the probability that a normal variable is below x.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/activation.hpp>

namespace mortise {

/// y = x Phi(x), Phi the distribution function of the standard normal: PyTorch's GELU(). Any shape.
///
/// Training keeps the slope, which shares its costly parts with the value, instead of x: backward is one product.
/// Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415.
struct gelu {
  static constexpr std::string_view name = "gelu";

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
      activation_forward(a.device, n, detail::gelu_rule{}, a.x, a.y, a.saved);
    else
      activation_forward(a.device, n, detail::gelu_rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::saved>(a.device, a.batch * Args::input::elements, detail::gelu_rule{}, a.saved, a.dy, a.dx);
  }
};

/// y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2: PyTorch's GELU(approximate='tanh'), the form of GPT-2. Any shape.
struct gelu_tanh {
  static constexpr std::string_view name = "gelu_tanh";

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
      activation_forward(a.device, n, detail::gelu_tanh_rule{}, a.x, a.y, a.saved);
    else
      activation_forward(a.device, n, detail::gelu_tanh_rule{}, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr)
      activation_backward<detail::slope_source::saved>(a.device, a.batch * Args::input::elements, detail::gelu_tanh_rule{}, a.saved, a.dy, a.dx);
  }
};

}  // namespace mortise
