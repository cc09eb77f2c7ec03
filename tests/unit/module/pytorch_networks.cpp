// Networks against PyTorch.
#include "pytorch.hpp"

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/silu.hpp>

namespace {

namespace mt = mortise;
using mt::extents;
using mt::named;
using mt::sequential;
using pytorch::compare;

// Networks: the sums of several layers, and the divisions by small deviations between them.
TEST_CASE("networks agree with PyTorch, names and all") {
  compare<sequential<named<"features", sequential<mt::conv2d<3, 3>, mt::relu, mt::max_pool2d<2>, mt::conv2d<4, 2>, mt::relu, mt::max_pool2d<2>>>, mt::flatten,
                     named<"classifier", sequential<mt::linear<7>, mt::relu, mt::linear<5>>>>,
          extents<1, 12, 12>>("lenet", 512);
  compare<mt::residual<sequential<named<"conv1", mt::conv2d<4, 3, 2, 1, 1, 1, false>>, named<"bn1", mt::batch_norm2d>, named<"relu", mt::relu>,
                                  named<"conv2", mt::conv2d<4, 3, 1, 1, 1, 1, false>>, named<"bn2", mt::batch_norm2d>>,
                       named<"downsample", sequential<mt::conv2d<4, 1, 2, 0, 1, 1, false>, mt::batch_norm2d>>>,
          extents<3, 6, 6>>("residual", 2048);
  compare<mt::concat<named<"narrow", mt::conv2d<3, 1>>, named<"wide", sequential<mt::conv2d<2, 3, 1, 1>, mt::silu>>, named<"same", mt::identity>>, extents<2, 4, 5>>(
      "concat", 128);
  compare<sequential<named<"first", mt::linear<6>>, named<"middle", mt::frozen<sequential<mt::batch_norm1d, mt::dropout, mt::linear<6>, mt::gelu>>>,
                     named<"last", mt::linear<2>>>,
          extents<5>>("frozen", 512);
}

}  // namespace
