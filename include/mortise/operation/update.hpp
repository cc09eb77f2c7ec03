// One fused pass of an optimizer over a range of the flat arrays.
//
// update_parts<Used>(device, parts, part_count, count, arrays)
//
//   parameter[i] -= function(parameter[i], gradient[i], slots of i)      for all elements i of all parts, `count` in all
//
// in one pass, however many parts there are: reads parameters, gradients and the slots in the mask `Used` once, writes parameters and those
// slots once. Slots that are not in the mask read as zero. The result does not depend on how the elements are cut.
#pragma once

#include <mortise/operation/host/update.hpp>
#include <mortise/operation/update_arrays.hpp>
