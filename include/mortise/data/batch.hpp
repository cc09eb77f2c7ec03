// What a training step takes: samples and what is wanted of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/tensor/view.hpp>

namespace mortise {

/// x   (batch, sample...)   inputs
/// y   (batch, target...)   targets; (batch) for class indices
///
/// Where several processes train together and each reads only its part, x and y are that part: it begins at sample `first_sample` of a batch
/// of `whole` samples, and may be empty. Otherwise `whole` is 0, and x and y are the batch.
///
/// Views: who gave the batch says how long the elements stay.
template <class T = float, class Target = std::int64_t>
struct batch {
  view<T const> x;
  view<Target const> y;
  std::size_t first_sample = 0;
  std::size_t whole = 0;

  /// Samples that are here.
  std::size_t size() const { return x.rank() == 0 ? 0 : x.extent(0); }
};

}  // namespace mortise
