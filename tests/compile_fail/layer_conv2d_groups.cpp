// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: shape_that_came<mortise::extents<3, 8, 8>
// expected-error: shape_that_fits<mortise::extents<4, 8, 8>
// expected-error: the number of groups must divide the input channels
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::conv2d<8, 3, 1, 0, 1, 4>>, mt::extents<3, 8, 8>> m;
