// Class indices as targets: checked before anything is written, and counted or weighed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <mortise/detail/error.hpp>
#include <mortise/config.hpp>
#include <mortise/device/host.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise::detail {

/// (C, d1, ...) of the scores -> (d1, ...) of the class indices.
constexpr shape class_target_shape(shape out) {
  return out.without_batch();
}
constexpr std::size_t positions_of(shape out) { return out.without_batch().elements(); }

[[noreturn]] MORTISE_COLD inline void throw_class_index(char const* loss, std::int64_t value, std::size_t sample, std::size_t position,
                                                        std::size_t positions, std::size_t classes, std::int64_t ignored) {
  std::string text = "mortise::" + std::string{loss} + ": the target of sample " + std::to_string(sample);
  if (positions > 1) text += " at position " + std::to_string(position);
  throw usage_error(text + " is class " + std::to_string(value) + ", but the network gives scores for classes 0 to " +
                    std::to_string(classes - 1) + "; check the labels, or the size of the last layer (" + std::to_string(ignored) +
                    " marks a target to ignore)");
}
[[noreturn]] MORTISE_COLD inline void throw_weight_count(char const* loss, char const* setting, std::size_t have, std::size_t want) {
  throw usage_error("mortise::" + std::string{loss} + ": " + setting + " has " + std::to_string(have) + " values, but there must be " +
                    std::to_string(want) + ", one for each class");
}

/// The number of targets that count, or the sum of their classes' weights. Throws usage_error on an index outside [0, classes).
inline double total_weight(host const&, char const* loss, std::size_t batch, std::size_t classes, std::size_t positions,
                           std::int64_t const* target, std::int64_t ignored, double const* weight) {
  std::size_t const n = batch * positions;
  std::size_t counted = 0;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < n; ++i) {
    bool const counts = target[i] != ignored;
    counted += counts;
    wrong += counts && static_cast<std::uint64_t>(target[i]) >= classes;
  }
  if (wrong != 0) [[unlikely]]
    for (std::size_t i = 0; i < n; ++i)
      if (target[i] != ignored && static_cast<std::uint64_t>(target[i]) >= classes)
        throw_class_index(loss, target[i], i / positions, i % positions, positions, classes, ignored);
  if (weight == nullptr) return static_cast<double>(counted);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (target[i] != ignored) sum += weight[target[i]];
  return sum;
}

}  // namespace mortise::detail
