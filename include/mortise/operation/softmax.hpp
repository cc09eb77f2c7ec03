// Softmax and its logarithm along one axis of arrays (outer, width, inner).
//
//   softmax_forward(device, outer, width, inner, x, y)              y = exp(x - max) / sum exp(x - max)
//   softmax_backward(device, outer, width, inner, y, dy, dx)        dx = y (dy - sum dy y)
//   log_softmax_forward(device, outer, width, inner, x, y)          y = x - max - log sum exp(x - max)
//   log_softmax_backward(device, outer, width, inner, y, dy, dx)    dx = dy - exp(y) sum dy
//
// y may be x, dx may be dy. Entries of minus infinity get probability 0; a row with nothing else is NaN, as in PyTorch. The bits of a row
// depend on that row alone.
#pragma once

#include <cstddef>

#include <mortise/operation/host/softmax.hpp>
