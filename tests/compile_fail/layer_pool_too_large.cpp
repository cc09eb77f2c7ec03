// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::avg_pool2d<3
// expected-error: shape_that_fits<mortise::extents<4, 3, 3>
// expected-error: use a smaller window
#include <mortise/model/model.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::avg_pool2d<3>>, mt::extents<4, 2, 2>> m;
