// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::batch_norm1d
// expected-error: shape_that_fits<mortise::extents<48>
// expected-error: for images use mortise::batch_norm2d
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::batch_norm1d>, mt::extents<3, 4, 4>> m;
