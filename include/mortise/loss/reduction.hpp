// How the losses of a batch become one number.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/reduce.hpp>

namespace mortise {

/// mean: over everything that counts, weighted where there are weights; batchmean: the sum over the number of samples.
enum class reduction : std::uint8_t { mean, sum, batchmean };

namespace detail {

/// Workspace per sample for `n` values per sample and their sum.
constexpr std::size_t loss_workspace(std::size_t n) { return n + reduction_workspace(n); }

}  // namespace detail
}  // namespace mortise
