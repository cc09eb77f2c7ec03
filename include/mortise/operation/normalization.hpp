// Normalisation: over the batch for each channel, and over the last axes of each sample.
//
//   batch_norm_forward_training(device, batch, channels, positions, x, weight, bias, eps, momentum,
//                               running_mean, running_var, batches_tracked, mean_or_null, rstd_or_null, y)
//   batch_norm_forward_evaluation(device, batch, channels, positions, x, weight, bias, eps, running_mean, running_var, y)
//   batch_norm_backward(device, batch, channels, positions, dy, x, weight, mean, rstd, dweight_or_null, dbias_or_null, dx_or_null)
//   batch_norm_backward_evaluation(device, batch, channels, positions, dy, x, weight, eps, running_mean, running_var,
//                                  dweight_or_null, dbias_or_null, dx_or_null)
//
// x, y, dy, dx         (batch, channels, positions)     y may be x, dx may be dy
// weight, bias         (channels)
// running_mean, _var   (channels)    running = (1 - momentum) running + momentum * batch, with the unbiased variance
// batches_tracked      one 64-bit counter, increased by 1
// mean, rstd           (channels)    of the batch, for backward: rstd = 1 / sqrt(biased variance + eps)
//
//   layer_norm_forward(device, rows, width, x, weight_or_null, bias_or_null, eps, y, mean_or_null, rstd_or_null)
//   layer_norm_backward(device, rows, width, dy, x, weight_or_null, mean, rstd, dweight_or_null, dbias_or_null, dx_or_null, workspace)
//
// x, y, dy, dx (rows, width); weight, bias (width); mean, rstd (rows); the workspace of backward
// is layer_norm_workspace::fixed(width) + rows * layer_norm_workspace::per_row(width) elements or more. y may be x, dx may be dy.
//
// All sums have a fixed tree that depends on the sizes alone. Moments are found in one pass over memory: each chunk's mean and squares
// around it in T, chunks joined in double (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
// variances", 1979), so that neither a mean far from zero nor a large batch costs digits.
#pragma once

#include <cstddef>

#include <mortise/operation/host/batch_norm.hpp>
#include <mortise/operation/host/layer_norm.hpp>
