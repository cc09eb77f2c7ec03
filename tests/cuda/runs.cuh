// What the tests of several CUDA devices train: mostly what the host's do.
#pragma once

#include <cstddef>
#include <vector>

#include <mortise/cuda.cuh>

#include "../unit/parallel/runs.hpp"

namespace cuda_runs {

namespace mt = mortise;

using runs::data;
using runs::dropping;
using runs::input;
using runs::normalized;
using both = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::dropout, mt::linear<5>>;

inline std::vector<mt::cuda> first_devices(std::size_t n) {
  std::vector<mt::cuda> list;
  for (std::size_t i = 0; i < n; ++i) list.emplace_back(static_cast<int>(i));
  return list;
}

}  // namespace cuda_runs
