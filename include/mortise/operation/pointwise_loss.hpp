// Losses that compare element with element: their sum and their gradient in one pass.
//
// pointwise_loss(device, formula, count, x, y, scale, dx, value, workspace)
//
//   value = scale * sum_i loss(x[i], y[i])          dx[i] = scale * d loss(x[i], y[i]) / d x[i]
//
// `formula(i, x, y, loss, slope)` writes loss and slope of the element or vector of elements that starts at i. `dx` may be null.
// `workspace` has reduction_workspace(count) elements; the sum has a fixed tree.
#pragma once

#include <mortise/operation/host/pointwise_loss.hpp>
