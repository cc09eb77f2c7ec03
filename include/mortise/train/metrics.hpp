// Metrics that are counted as batches go by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <mortise/detail/error.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

/// The index of the largest of `n` values; the first one among equals, as in PyTorch.
template <class T>
std::size_t argmax(T const* values, std::size_t n) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < n; ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

/// The share of samples whose highest score is that of their class.
class accuracy {
 public:
  /// scores: (batch, classes) in host memory; classes: one index a sample.
  template <class T>
  void update(view<T const> scores, view<std::int64_t const> classes) {
    if (scores.rank() != 2 || scores.extent(0) != classes.size())
      throw shape_error("mortise::accuracy: scores have shape " + to_string(scores.extents()) + ", there are " + std::to_string(classes.size()) +
                        " classes; expected (batch, classes) and one class a sample");
    std::size_t const width = scores.extent(1);
    for (std::size_t i = 0; i < classes.size(); ++i)
      correct_ += static_cast<std::int64_t>(argmax(scores.data() + i * width, width)) == classes[i] ? 1 : 0;
    seen_ += static_cast<std::int64_t>(classes.size());
  }
  double value() const { return seen_ == 0 ? 0.0 : static_cast<double>(correct_) / static_cast<double>(seen_); }
  std::int64_t correct() const { return correct_; }
  std::int64_t seen() const { return seen_; }
  void reset() { correct_ = seen_ = 0; }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("correct", correct_);
    visit("seen", seen_);
  }

 private:
  std::int64_t correct_ = 0;
  std::int64_t seen_ = 0;
};

/// The mean of numbers as they come, weighted.
class running_mean {
 public:
  void update(double value, double weight = 1) {
    sum_ += value * weight;
    weight_ += weight;
  }
  double value() const { return weight_ == 0 ? 0 : sum_ / weight_; }
  void reset() { sum_ = weight_ = 0; }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("sum", sum_);
    visit("weight", weight_);
  }

 private:
  double sum_ = 0;
  double weight_ = 0;
};

}  // namespace mortise
