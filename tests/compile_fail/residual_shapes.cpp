// expected-error: mortise::residual: the body and the shortcut produce different shapes
// expected-error: path<"block">
// expected-error: mortise::extents<8, 8, 8>
// expected-error: mortise::extents<16, 4, 4>
// expected-error: a 1x1 convolution with the same stride
#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"block", mt::residual<mt::conv2d<16, 3, 2, 1>>>>, mt::extents<8, 8, 8>> m;
