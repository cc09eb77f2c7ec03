// What a program with several devices or processes has around its step: data, a loop over epochs, errors in words.
#pragma once

#include <cstdint>
#include <string>

#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/train/progress.hpp>

#include "runs.hpp"

namespace runs {

inline mt::in_memory_dataset<input> samples() {
  data const d{57, 1};
  return {d.x, d.y};
}

/// Goes on until `last` steps are done, in the middle of an epoch or not.
template <class Loader, class Step>
void train_until(std::int64_t last, Loader& loader, mt::progress& progress, Step const& step) {
  while (progress.global_step < last) {
    for (auto const& batch : loader) {
      step(batch);
      if (++progress.global_step == last) return;
    }
    ++progress.epoch;
  }
}

/// What f throws, in its words; empty: nothing.
template <class F>
std::string words(F const& f) {
  try {
    f();
  } catch (mt::error const& e) {
    return e.what();
  }
  return {};
}

}  // namespace runs
