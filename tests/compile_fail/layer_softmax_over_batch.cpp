// expected-error: mortise::sequential: a layer does not accept the shape the layer before it produces
// expected-error: mortise::softmax_along<0>
// expected-error: axis 0 is the batch
#include <mortise/model/model.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/softmax.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::softmax_along<0>>, mt::extents<4>> m;
