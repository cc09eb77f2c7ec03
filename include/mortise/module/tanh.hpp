// tanh: the hyperbolic tangent.
#pragma once

#include <mortise/module/activation.hpp>

namespace mortise {

/// y = tanh(x). Any shape. With `using namespace mortise` write std::tanh for the function.
struct tanh : detail::activation_module<detail::tanh_rule, detail::slope_source::output> {
  static constexpr std::string_view name = "tanh";
};

}  // namespace mortise
