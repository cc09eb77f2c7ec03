// Negative log likelihood: picks one log-probability per position.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/device/host.hpp>

namespace mortise {

/// x, dx (batch, classes, positions); target, losses (batch, positions). losses = -w_t x_t and dx = scale times its gradient; both are zero
/// where the target is `ignored`. Targets were checked before. `dx` may be null.
template <class T>
void nll(host const& device, std::size_t batch, std::size_t classes, std::size_t positions, T const* x, std::int64_t const* target,
         std::int64_t ignored, double const* weight, T scale, T* dx, T* losses) {
  std::size_t const per_sample = classes * positions;
  std::size_t const piece = 16384 / per_sample + 1;
  for_each_piece(device, (batch + piece - 1) / piece, [&](std::size_t p) {
    std::size_t const last = (p + 1) * piece < batch ? (p + 1) * piece : batch;
    if (dx != nullptr)
      for (std::size_t i = p * piece * per_sample; i < last * per_sample; ++i) dx[i] = T(0);
    for (std::size_t s = p * piece; s < last; ++s) {
      for (std::size_t i = 0; i < positions; ++i) {
        std::int64_t const t = target[s * positions + i];
        if (t == ignored) {
          losses[s * positions + i] = T(0);
          continue;
        }
        std::size_t const at = s * per_sample + static_cast<std::size_t>(t) * positions + i;
        T const w = weight == nullptr ? T(1) : static_cast<T>(weight[t]);
        losses[s * positions + i] = -w * x[at];
        if (dx != nullptr) dx[at] = -w * scale;
      }
    }
  });
}

}  // namespace mortise
