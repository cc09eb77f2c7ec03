// Data sets whose samples say which one they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <mortise/data/batch_loader.hpp>
#include <mortise/tensor/shape.hpp>

/// Sample i is (i, i + 0.25, ...), its target -i.
struct numbered_samples {
  using value_type = float;
  using target_type = std::int64_t;

  std::size_t count = 0;
  std::size_t width = 3;
  bool memory = false;

  std::size_t size() const { return count; }
  mortise::shape sample_extents() const { return {1, width}; }
  mortise::shape target_extents() const { return {}; }
  void read(std::size_t i, float* x, std::int64_t* y) const {
    for (std::size_t k = 0; k < width; ++k) x[k] = static_cast<float>(i) + 0.25f * static_cast<float>(k);
    *y = -static_cast<std::int64_t>(i);
  }
};

/// Refuses one sample.
struct unreadable_sample : numbered_samples {
  std::size_t refused = 0;
  void read(std::size_t i, float* x, std::int64_t* y) const {
    if (i == refused) throw std::runtime_error("sample is unreadable");
    numbered_samples::read(i, x, y);
  }
};

/// The indices in a batch; -1 for a sample whose x and y disagree.
template <class Batch>
std::vector<int> indices_of(Batch const& batch) {
  std::vector<int> r;
  std::size_t const width = batch.x.size() / batch.size();
  for (std::size_t k = 0; k < batch.size(); ++k) {
    int const index = static_cast<int>(-batch.y[k]);
    bool good = true;
    for (std::size_t j = 0; j < width; ++j) good = good && batch.x[k * width + j] == static_cast<float>(index) + 0.25f * static_cast<float>(j);
    r.push_back(good ? index : -1);
  }
  return r;
}
