// expected-error: mortise::model: the third argument is a device
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<1>>, mt::extents<4>, float> m;
