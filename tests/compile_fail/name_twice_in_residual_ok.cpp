#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

using block = mt::residual<mt::sequential<mt::linear<4>>, mt::named<"downsample", mt::sequential<mt::linear<4>>>>;
mt::model<mt::sequential<mt::named<"block", block>>, mt::extents<4>> m;
