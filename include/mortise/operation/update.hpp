// One fused pass of an optimizer over a range of the flat arrays.
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

// update_parts<Used>(device, parts, part_count, count, arrays)
//
//   parameter[i] -= function(parameter[i], gradient[i], slots of i)      for all elements i of all parts, `count` in all
//
// in one pass, however many parts there are: reads parameters, gradients and the slots in the mask `Used` once, writes parameters and those
// slots once. Slots that are not in the mask read as zero. The result does not depend on how the elements are cut.

}  // namespace mortise

#include <mortise/operation/host/update.hpp>
