// Two-dimensional pooling over maps (batch, channels, height, width).
//
//   max_pool2d_forward(device, pool2d_geometry, batch, x, y, index_or_null)                 index: the winner's place in its window, a byte
//   relu_max_pool2d_forward(device, pool2d_geometry, batch, x, y, index_or_null)            the same on relu(x)
//   max_pool2d_backward(device, pool2d_geometry, batch, dy, index, dx)                      overwrites all of dx
//   avg_pool2d_forward, _backward(device, pool2d_geometry, batch, x, y | dy, dx)            padding counts, as PyTorch's default
//   adaptive_avg_pool2d_forward, _backward(device, adaptive_pool2d_geometry, batch, x, y | dy, dx)
//
// Padding is minus infinity for the maximum and zero for the average. The first of equal maxima wins and NaN wins over numbers, as in PyTorch.
//
// relu_max_pool2d_forward pools relu(x) without a pass of its own: y = max(0, max x), and windows whose maximum is clipped are marked in the
// index, so that the same max_pool2d_backward gives the gradient of relu and pool together. The gradient at a maximum of exactly zero is
// zero, as relu's.
#pragma once

#include <mortise/operation/host/pool2d.hpp>
#include <mortise/operation/pool2d_index.hpp>
#include <mortise/operation/window2d.hpp>
