// Softmax, negative log likelihood and its gradient in one pass over the scores.
//
// cross_entropy<classes, positions>(device, cross_entropy_args<T>)
#pragma once

#include <mortise/operation/cross_entropy_args.hpp>
#include <mortise/operation/host/cross_entropy.hpp>
