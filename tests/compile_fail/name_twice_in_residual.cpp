// expected-error: mortise::sequential: a name is used twice
// expected-error: path<"block.0">
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

using block = mt::residual<mt::sequential<mt::linear<4>>, mt::sequential<mt::linear<4>>>;
mt::model<mt::sequential<mt::named<"block", block>>, mt::extents<4>> m;
