// Products, convolutions, pooling and containers, held to the laws of all modules.
#include "contract.hpp"

#include <mortise/module/concat.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/multihead_attention.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

using mortise::extents;
using mortise::hw;
namespace mt = mortise;

namespace {
using vectors = mt::sequential<mt::linear<6>, mt::residual<mt::sequential<mt::layer_norm, mt::linear<6>, mt::gelu, mt::linear<6>>>, mt::linear<3>>;
using images = mt::sequential<mt::conv2d<4, 3, 1, 1>, mt::relu, mt::concat<mt::conv2d<2, 1>, mt::max_pool2d<3, 1, 1>>, mt::flatten, mt::linear<3>>;
}  // namespace

CUDA_CONTRACT_OF_PRODUCTS(on_cuda<mt::linear<5>, extents<7>, 7>, on_cuda<mt::linear<3, false>, extents<4, 6>, 16>,
                          on_cuda<mt::conv2d<4, 3>, extents<2, 5, 4>, 24>, on_cuda<mt::conv2d<4, 3, 2, 1, 1, 2>, extents<4, 5, 4>, 36>,
                          on_cuda<mt::conv2d<3, 1>, extents<2, 3, 3>, 36>,
                          on_cuda<mt::conv2d_rect<2, hw<3, 1>, hw<1, 2>, hw<2, 0>, hw<2, 1>>, extents<2, 5, 5>, 60>,
                          on_cuda<mt::multihead_attention<2>, extents<4, 6>, 24>,
                          on_cuda<mt::multihead_attention<1, true, false>, extents<5, 4>, 24>)
CUDA_CONTRACT(on_cuda<mt::max_pool2d<2>, extents<3, 5, 6>, 1>, on_cuda<mt::max_pool2d<3, 2, 1>, extents<2, 7, 7>, 4>,
              on_cuda<mt::avg_pool2d<2>, extents<2, 5, 6>, 4>, on_cuda<mt::avg_pool2d<3, 1, 1>, extents<1, 5, 5>, 9>,
              on_cuda<mt::adaptive_avg_pool2d<3, 2>, extents<2, 7, 5>, 9>)
CUDA_CONTRACT_OF_NETWORKS(on_cuda<vectors, extents<6>, 60>, on_cuda<images, extents<2, 4, 4>, 200>)

TEST_CASE("a convolution whose columns do not fit into the scratch memory at once, or whose maps into shared memory, has the same result") {
  using law = contract::on_cuda<mt::conv2d<4, 3>, extents<2, 5, 4>, 24>;
  contract::step_results<law, mt::cuda> const together{mt::cuda{0}};
  std::size_t const usual = mt::detail::conv2d_scratch_bytes;
  for (std::size_t const bytes : {std::size_t{1}, std::size_t{2000}}) {  // one sample; two or three
    mt::detail::conv2d_scratch_bytes = bytes;
    contract::step_results<law, mt::cuda> const apart{mt::cuda{0}};
    CHECK(contract::largest_difference(apart.y, together.y) <= contract::rounding<law>());
    CHECK(contract::largest_difference(apart.dx, together.dx) <= contract::rounding<law>());
    CHECK(contract::largest_difference(apart.gradients, together.gradients) <= contract::rounding<law>());
  }
  mt::detail::conv2d_scratch_bytes = usual;

  std::size_t const usual_map = mt::detail::im2col_map_bytes;
  mt::detail::im2col_map_bytes = 0;  // as for a map that is too large for shared memory
  contract::step_results<law, mt::cuda> const direct{mt::cuda{0}};
  CHECK(contract::same_bits(direct.y, together.y));
  CHECK(contract::same_bits(direct.gradients, together.gradients));
  mt::detail::im2col_map_bytes = usual_map;
}
