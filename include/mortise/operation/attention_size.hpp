// The sizes of an attention, on every device.
#pragma once

#include <cstddef>

namespace mortise {

struct attention_size {
  std::size_t batch;
  std::size_t length;
  std::size_t heads;
  std::size_t width;  ///< of one head
  bool causal = false;

  constexpr std::size_t row() const { return heads * width; }  ///< elements of one position
  constexpr std::size_t square() const { return length * length; }
};

}  // namespace mortise
