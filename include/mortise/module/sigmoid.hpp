// sigmoid: the logistic function.
#pragma once

#include <mortise/module/activation.hpp>

namespace mortise {

/// y = 1 / (1 + exp(-x)). Any shape.
struct sigmoid : detail::activation_module<detail::sigmoid_rule, detail::slope_source::output> {
  static constexpr std::string_view name = "sigmoid";
};

}  // namespace mortise
