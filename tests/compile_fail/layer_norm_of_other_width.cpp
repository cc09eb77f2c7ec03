// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::layer_norm_over<8
// expected-error: shape_that_came<mortise::extents<4, 6>
// expected-error: shape_that_fits<mortise::extents<8>
#include <mortise/model/model.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::layer_norm_over<8>>, mt::extents<4, 6>> m;
