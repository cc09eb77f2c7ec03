// Counting how often a network is right: what metrics are made of.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/device/host.hpp>

namespace mortise {

namespace detail {

/// The position of the largest of n values; the first among equals. NaN is never the largest.
template <class T>
constexpr std::size_t position_of_largest(T const* values, std::size_t n) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < n; ++i)
    if (values[i] > values[best] || values[best] != values[best]) best = i;
  return best;
}

/// Is the score of `own` among the k largest, the first among equals counting more? A NaN never is.
template <class T>
constexpr bool among_largest(T const* values, std::size_t n, std::size_t own, std::size_t k) {
  if (values[own] != values[own]) return false;
  std::size_t before = 0;
  for (std::size_t i = 0; i < n; ++i) before += values[i] > values[own] || (values[i] == values[own] && i < own) ? 1 : 0;
  return before < k;
}

}  // namespace detail

/// counts[0] += samples whose class is among the k highest scores; counts[1] += samples. scores (batch, classes). A class outside of
/// [0, classes), such as cross entropy's ignore_index, is no sample.
template <class T>
void count_top_k(host const&, std::size_t batch, std::size_t classes, T const* scores, std::int64_t const* targets, std::size_t k, std::int64_t* counts) {
  for (std::size_t i = 0; i < batch; ++i) {
    if (targets[i] < 0 || static_cast<std::size_t>(targets[i]) >= classes) continue;
    counts[0] += detail::among_largest(scores + i * classes, classes, static_cast<std::size_t>(targets[i]), k) ? 1 : 0;
    ++counts[1];
  }
}

/// counts[class * classes + predicted] += 1 for each sample.
template <class T>
void count_predictions(host const&, std::size_t batch, std::size_t classes, T const* scores, std::int64_t const* targets, std::int64_t* counts) {
  for (std::size_t i = 0; i < batch; ++i) {
    if (targets[i] < 0 || static_cast<std::size_t>(targets[i]) >= classes) continue;
    ++counts[static_cast<std::size_t>(targets[i]) * classes + detail::position_of_largest(scores + i * classes, classes)];
  }
}

/// sums[0] += weight * value; sums[1] += weight.
template <class T>
void add_weighted(host const&, T const* value, double weight, double* sums) {
  sums[0] += weight * static_cast<double>(*value);
  sums[1] += weight;
}

}  // namespace mortise
