// Between the float that is kept and the 16 bits that are computed with.
#pragma once

#include <cstdint>

namespace mortise {

/// A dynamic loss scale, in the device's memory.
struct loss_scale_state {
  float scale = 1;
  std::int32_t growth_tracker = 0;  ///< steps without an overflow since the scale changed
  std::int32_t overflow = 0;        ///< whether the last gradients hold an infinity or NaN
};
/// How it moves; growth_interval 0: not at all, and overflows are nobody's business.
struct loss_scale_rule {
  float growth_factor = 2;
  float backoff_factor = 0.5;
  std::int32_t growth_interval = 0;
};

// scale_output_gradient(device, n, dy, state, to)      to[i] = dy[i] * scale, rounded to 16 bits; clears the overflow
// unscale_gradients(device, n, gradients, state, to)   to[i] = gradients[i] / scale in float; notes an overflow
// find_overflow(device, n, gradients, state)           notes whether float gradients, summed of parts, hold an infinity or NaN
// advance_loss_scale(device, rule, state)              after an overflow scale *= backoff_factor; after growth_interval steps without one
//                                                      scale *= growth_factor
//
// Nothing waits for the device.

}  // namespace mortise
