// expected-error: mortise::model: networks compute in float or double
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<1>>, mt::extents<4>, mt::host, int> m;
