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

// update<Used>(device, function, arrays, first, count)
//
//   parameter[i] -= function(parameter[i], gradient[i], slots of i)      for i in [first, first + count)
//
// in one pass: reads parameters, gradients and the slots in the mask `Used` once, writes parameters and those slots once. Slots that are
// not in the mask read as zero. The result does not depend on how the range is cut.

}  // namespace mortise

#include <mortise/operation/host/update.hpp>
