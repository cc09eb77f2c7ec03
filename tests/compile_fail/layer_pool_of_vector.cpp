// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::max_pool2d<2
// expected-error: shape_that_came<mortise::extents<16>
// expected-error: see_remedy
// expected-error: put mortise::flatten behind it
#include <mortise/model/model.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::flatten, mt::max_pool2d<2>>, mt::extents<1, 4, 4>> m;
