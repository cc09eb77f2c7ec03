// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: path<"0">
// expected-error: mortise::conv2d<4, 3
// expected-error: shape_that_came<mortise::extents<28, 28>
// expected-error: shape_that_fits<mortise::extents<1, 28, 28>
// expected-error: give extents<channels, height, width>
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::conv2d<4, 3>>, mt::extents<28, 28>> m;
