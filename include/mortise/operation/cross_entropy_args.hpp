// What cross_entropy takes, on every device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mortise {

/// What cross_entropy works on. Scores are (batch, classes, positions), targets (batch, positions).
///
/// For the column of scores x of one position with target t, p = softmax(x), class weights w:
///     loss = (1 - e) w_t (-log p_t) + e/classes sum_c w_c (-log p_c)          e = smoothing
/// `dx` is scale times its gradient, `losses` (batch, positions) the loss itself, unscaled; both are zero where the target is `ignored`.
template <class T>
struct cross_entropy_args {
  std::size_t batch = 0;
  std::size_t classes = 0;
  std::size_t positions = 0;
  T const* x = nullptr;
  std::int64_t const* target = nullptr;  ///< checked before: in [0, classes), or `ignored`
  T* dx = nullptr;                       ///< null: no gradient is wanted
  T* losses = nullptr;
  double const* weight = nullptr;  ///< (classes), or null: all 1
  std::int64_t ignored = -100;
  T smoothing = T(0);
  T scale = T(1);
};

}  // namespace mortise
