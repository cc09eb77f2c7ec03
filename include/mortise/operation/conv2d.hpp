// Two-dimensional convolution.                    y[n,o,p,q] = b[o] + sum_{c,i,j} w[o,c,i,j] x[n, c, p s + i d - pad, q s + j d - pad]
//
// x       (batch, in_c, in_h, in_w)         dx the same; padding counts as zeros
// weight  (out_c, in_c / groups, kh, kw)    dweight the same
// y       (batch, out_c, out_h, out_w)      dy the same
//
//   conv2d_forward<activation::relu>(device, Geometry{}, batch, x, weight, bias_or_null, y, workspace)
//   conv2d_backward_input(device, Geometry{}, batch, dy, weight, dx, workspace)
//   conv2d_backward_weight(device, Geometry{}, batch, x, dy, dweight, dbias_or_null, workspace)
//
// All of them overwrite their results, allocate nothing and never throw. `workspace` holds conv2d_workspace<Geometry>().elements(batch)
// elements, aligned to 64 bytes; nothing in it outlives a call. One sample's y and dx do not depend on the batch around it; no
// result depends on the number of threads.
#pragma once

#include <mortise/operation/conv2d_workspace.hpp>
#include <mortise/operation/gemm.hpp>
#include <mortise/operation/host/conv2d.hpp>
#include <mortise/operation/window2d.hpp>
