// Modules that work element by element or row by row, held to the laws of all modules.
#include "contract.hpp"

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/leaky_relu.hpp>
#include <mortise/module/position_embedding.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sigmoid.hpp>
#include <mortise/module/silu.hpp>
#include <mortise/module/softmax.hpp>
#include <mortise/module/tanh.hpp>
#include <mortise/module/transpose.hpp>

using mortise::extents;

CUDA_CONTRACT(on_cuda<mortise::relu, extents<37>, 1>, on_cuda<mortise::leaky_relu, extents<5, 7>, 1>, on_cuda<mortise::gelu, extents<37>, 4>,
              on_cuda<mortise::gelu_tanh, extents<2, 3, 5>, 4>, on_cuda<mortise::silu, extents<19>, 4>, on_cuda<mortise::tanh, extents<33>, 4>,
              on_cuda<mortise::sigmoid, extents<3>, 4>)
CUDA_CONTRACT(on_cuda<mortise::batch_norm2d, extents<3, 5, 5>, 100>, on_cuda<mortise::batch_norm1d, extents<19>, 4>,
              on_cuda<mortise::layer_norm, extents<37>, 37>, on_cuda<mortise::layer_norm, extents<3, 2, 16>, 24>,
              on_cuda<mortise::layer_norm_over<3, 7>, extents<2, 3, 7>, 21>)
CUDA_CONTRACT(on_cuda<mortise::softmax, extents<3, 40>, 40>, on_cuda<mortise::softmax_along<1>, extents<5, 19>, 19>,
              on_cuda<mortise::log_softmax, extents<21>, 21>, on_cuda<mortise::log_softmax_along<1>, extents<4, 33>, 33>)
CUDA_CONTRACT(on_cuda<mortise::dropout, extents<37>, 1>, on_cuda<mortise::dropout_p<1, 4>, extents<3, 5>, 1>,
              on_cuda<mortise::transpose, extents<35, 67>, 1>, on_cuda<mortise::position_embedding, extents<3, 19>, 4>,
              on_cuda<mortise::embedding<7, 5>, extents<6>, 24, 7>, on_cuda<mortise::embedding<3, 70>, extents<>, 4, 3>)

TEST_CASE("dropout drops on the device what it drops on the host, wherever a part of the batch begins") {
  using contract::fetched;
  mortise::model<mortise::dropout_p<1, 4>, extents<37>> host{mortise::host{1}, mortise::seed{5}};
  mortise::model<mortise::dropout_p<1, 4>, extents<37>, mortise::cuda> device{mortise::cuda{0}, mortise::seed{5}};
  auto const x = contract::test_values<float>(11 * 37, 8, 0);
  for (std::size_t const first : {0, 1, 6}) {
    std::vector<float> const part(x.begin() + static_cast<std::ptrdiff_t>(first * 37), x.end());
    CHECK(contract::same_bits(fetched(device.device(), device.forward_part(part, first)), fetched(host.device(), host.forward_part(part, first))));
  }
}

TEST_CASE("rows wider than shared memory are normalised too") {
  using wide = contract::on_cuda<mortise::layer_norm, extents<13000>, 13000>;
  contract::step_results<wide, mortise::host> const host{mortise::host{1}};
  contract::step_results<wide, mortise::cuda> const device{mortise::cuda{0}};
  // 52 additions a thread and 13 more in the tree, of numbers around one.
  double const bound = 16 * 65 * 4 * static_cast<double>(std::numeric_limits<float>::epsilon());
  CHECK(contract::largest_difference(device.y, host.y) <= bound);
  CHECK(contract::largest_difference(device.dx, host.dx) <= bound);
  CHECK(contract::largest_difference(device.gradients, host.gradients) <= bound);
}
