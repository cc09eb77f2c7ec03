// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: path<"classifier.0">
// expected-error: mortise::linear<10
// expected-error: shape_that_came<mortise::extents<6, 24, 24>
// expected-error: shape_that_fits<mortise::extents<3456>
// expected-error: put mortise::flatten before it
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

using net = mt::sequential<mt::named<"features", mt::sequential<mt::conv2d<6, 5>>>, mt::named<"classifier", mt::sequential<mt::linear<10>>>>;
mt::model<net, mt::extents<1, 28, 28>> m;
