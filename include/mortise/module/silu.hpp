// silu: x times its own sigmoid.
#pragma once

#include <mortise/module/activation.hpp>

namespace mortise {

/// y = x / (1 + exp(-x)), also known as swish. Any shape.
struct silu : detail::activation_module<detail::silu_rule, detail::slope_source::saved> {
  static constexpr std::string_view name = "silu";
};

}  // namespace mortise
