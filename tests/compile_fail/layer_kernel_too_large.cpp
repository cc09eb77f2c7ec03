// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: path<"2">
// expected-error: shape_that_came<mortise::extents<4, 2, 2>
// expected-error: shape_that_fits<mortise::extents<4, 5, 5>
// expected-error: one pooling layer less before it
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::conv2d<4, 5>, mt::max_pool2d<2>, mt::conv2d<8, 5>>, mt::extents<1, 8, 8>> m;
