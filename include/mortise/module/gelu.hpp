// gelu, gelu_tanh: x times the probability that a normal variable is below x.
#pragma once

#include <mortise/module/activation.hpp>

namespace mortise {

/// y = x Phi(x), Phi the distribution function of the standard normal: PyTorch's GELU(). Any shape.
/// Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415.
struct gelu : detail::activation_module<detail::gelu_rule, detail::slope_source::saved> {
  static constexpr std::string_view name = "gelu";
};

/// y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2: PyTorch's GELU(approximate='tanh'), the form of GPT-2. Any shape.
struct gelu_tanh : detail::activation_module<detail::gelu_tanh_rule, detail::slope_source::saved> {
  static constexpr std::string_view name = "gelu_tanh";
};

}  // namespace mortise
