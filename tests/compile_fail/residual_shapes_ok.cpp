#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

using block = mt::residual<mt::named<"conv1", mt::conv2d<16, 3, 2, 1>>, mt::named<"downsample", mt::conv2d<16, 1, 2>>>;
mt::model<mt::sequential<mt::named<"block", block>>, mt::extents<8, 8, 8>> m;
