// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: shape_that_came<mortise::extents<64, 3, 8, 8>
// expected-error: shape_that_fits<mortise::extents<3, 8, 8>
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::conv2d<4, 3>>, mt::extents<64, 3, 8, 8>> m;
