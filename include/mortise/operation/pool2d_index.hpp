// What the index of a maximum pool holds, on every device.
#pragma once

#include <cstdint>

namespace mortise {

/// In the index of relu_max_pool2d_forward: no input of this window receives a gradient.
inline constexpr std::uint8_t pool2d_clipped = 255;

}  // namespace mortise
