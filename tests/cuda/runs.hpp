// What tests of whole runs share: a batch for each step, and a model's values on the host.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/cuda.cuh>

namespace runs {

/// A batch in host memory, the same for the same step. A sample's class is a column that is brighter than the others: something to learn.
template <class Input, std::int64_t Classes>
struct drawn_batch {
  std::vector<float> x;
  std::vector<std::int64_t> y;

  struct views {
    mortise::view<float const> x;
    mortise::view<std::int64_t const> y;
  };

  drawn_batch(std::size_t samples, std::uint32_t step) : x(samples * Input::elements), y(samples) {
    constexpr auto width = static_cast<std::int64_t>(Input::value.back());
    mortise::random_stream const numbers{7, 1, step};
    for (std::size_t i = 0; i < samples; ++i)
      y[i] = static_cast<std::int64_t>(numbers.bits(100000 + i) % static_cast<std::uint32_t>(Classes));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = numbers.uniform(i) * 0.5f + (static_cast<std::int64_t>(i) % width == y[i / Input::elements] % width ? 1.0f : 0.0f);
  }
  views batch() const { return {{x.data(), Input::value.with_batch(y.size())}, {y.data(), mortise::shape{y.size()}}}; }
};

template <class Model>
std::vector<float> parameters(Model const& net) {
  return mortise::to_host(net.device(), net.parameters());
}

/// |a - b| / |b|
inline double distance(std::vector<float> const& a, std::vector<float> const& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / (size + 1e-30));
}

}  // namespace runs
