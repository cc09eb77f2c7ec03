// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::batch_norm2d
// expected-error: behind linear layers use mortise::batch_norm1d
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<4>, mt::batch_norm2d>, mt::extents<3>> m;
