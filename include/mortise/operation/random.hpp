// Filling arrays: constants and random numbers that belong to a stream, not to a generator.
#pragma once

#include <cstddef>

#include <mortise/device/host.hpp>
#include <mortise/tensor/philox.hpp>

namespace mortise {

/// Fills y with a constant a (how = 0), with uniform numbers from [a, b) (how = 1), or with normal ones of mean a and deviation b (how = 2).
/// Element i takes number i of the stream; all arithmetic is float before it is widened, so that every element type starts from the same numbers.
template <class T>
void fill_elements(host const&, int how, double a, double b, random_stream const& stream, std::size_t n, T* y) {
  for (std::size_t i = 0; i < n; ++i) {
    double v = a;
    if (how == 1) v = a + (b - a) * static_cast<double>(stream.uniform(i));
    if (how == 2) v = a + b * static_cast<double>(stream.normal(i));
    y[i] = static_cast<T>(static_cast<float>(v));
  }
}

}  // namespace mortise
