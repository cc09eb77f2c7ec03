// Samples that the program already holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

namespace detail {

[[noreturn]] inline void refuse_in_memory_data(std::size_t x, shape const& sample, std::size_t y, shape const& target) {
  std::size_t const per_sample = sample.elements();
  if (x % per_sample != 0)
    throw shape_error("mortise::in_memory_dataset: " + std::to_string(x) + " values of x are no whole number of samples of shape " +
                      to_string(sample) + ", which have " + std::to_string(per_sample) + " each");
  throw shape_error("mortise::in_memory_dataset: x holds " + std::to_string(x / per_sample) + " samples of shape " + to_string(sample) +
                    ", so y should hold " + std::to_string(x / per_sample * target.elements()) + " values" +
                    (target.rank == 0 ? "" : " (" + to_string(target) + " for each)") + ", but it holds " + std::to_string(y));
}

[[noreturn]] inline void refuse_part(char const* what, std::size_t wanted, std::size_t size) {
  throw usage_error(std::string{"mortise::"} + what + ": " + std::to_string(wanted) + " samples wanted of " + std::to_string(size));
}

}  // namespace detail

/// Samples of shape `Sample` and their targets, row-major one after the other. Copies share the samples.
///
///     mt::in_memory_dataset<mt::extents<1, 28, 28>> mine{x, y};     // std::vector<float>, std::vector<std::int64_t> of class indices
///     mt::in_memory_dataset<mt::extents<4>, float, float, mt::extents<2>> regression{x, y};
///
/// Throws shape_error when the numbers of values do not fit together.
template <class Sample, class Target = std::int64_t, class T = float, class TargetExtents = extents<>>
class in_memory_dataset {
 public:
  using value_type = T;
  using target_type = Target;
  static constexpr bool in_memory = true;

  in_memory_dataset(std::vector<T> x, std::vector<Target> y) {
    if (x.size() % Sample::elements != 0 || y.size() != x.size() / Sample::elements * TargetExtents::elements)
      detail::refuse_in_memory_data(x.size(), Sample::value, y.size(), TargetExtents::value);
    size_ = x.size() / Sample::elements;
    samples_ = std::make_shared<samples const>(samples{std::move(x), std::move(y)});
  }

  std::size_t size() const { return size_; }
  static constexpr shape sample_extents() { return Sample::value; }
  static constexpr shape target_extents() { return TargetExtents::value; }
  void read(std::size_t i, T* x, Target* y) const {
    std::memcpy(x, samples_->x.data() + (first_ + i) * Sample::elements, Sample::elements * sizeof(T));
    std::memcpy(y, samples_->y.data() + (first_ + i) * TargetExtents::elements, TargetExtents::elements * sizeof(Target));
  }

  /// The first or last n samples, sharing memory. Throws usage_error when there are fewer.
  in_memory_dataset first(std::size_t n) const { return part("in_memory_dataset::first", 0, n); }
  in_memory_dataset last(std::size_t n) const { return part("in_memory_dataset::last", size_ - n, n); }

 private:
  struct samples {
    std::vector<T> x;
    std::vector<Target> y;
  };

  in_memory_dataset part(char const* what, std::size_t from, std::size_t n) const {
    if (n > size_) detail::refuse_part(what, n, size_);
    in_memory_dataset r = *this;
    r.first_ += from;
    r.size_ = n;
    return r;
  }

  std::shared_ptr<samples const> samples_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

}  // namespace mortise
