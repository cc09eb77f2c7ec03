// What an update works on, on every device.
#pragma once

#include <cstddef>

namespace mortise {

/// The flat arrays of an update, all with the parameters' layout. Slots that are not used are null.
template <class T, std::size_t Slots>
struct update_arrays {
  T* parameters = nullptr;
  T const* gradients = nullptr;
  T* slots[Slots == 0 ? 1 : Slots] = {};
};

/// Neighbouring elements that are updated alike.
template <class Function>
struct update_part {
  Function function;
  std::size_t first;  ///< element of the arrays
  std::size_t begin;  ///< position when all parts stand one after the other; the first part's is 0
};

}  // namespace mortise
