// How much memory a convolution needs beside its operands, on every device.
#pragma once

#include <cstddef>

namespace mortise {

/// Scratch memory of an operation, in elements.
struct conv2d_workspace_size {
  std::size_t fixed = 0;
  std::size_t per_sample = 0;
  constexpr std::size_t elements(std::size_t batch) const { return fixed + per_sample * batch; }
};

/// Enough for all three directions, for any element type and any device.
template <class Geometry>
constexpr conv2d_workspace_size conv2d_workspace();

}  // namespace mortise
