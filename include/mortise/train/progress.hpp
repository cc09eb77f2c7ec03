// Where a run stands.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

namespace mortise {

/// Counters of a run, part of its checkpoint: `for (; progress.epoch < 20; ++progress.epoch)` goes on where the run stopped.
struct progress {
  static constexpr std::string_view state_name = "";  // these keys stand at the top of a checkpoint

  std::int64_t epoch = 0;
  std::int64_t global_step = 0;
  double best_metric = -std::numeric_limits<double>::infinity();

  /// True, and remembers it, when `metric` is the best so far.
  bool improved(double metric) {
    if (!(metric > best_metric)) return false;
    best_metric = metric;
    return true;
  }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("epoch", epoch);
    visit("global_step", global_step);
    visit("best_metric", best_metric);
  }
};

}  // namespace mortise
