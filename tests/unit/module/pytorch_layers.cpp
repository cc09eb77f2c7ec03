// Every layer against PyTorch.
#include "pytorch.hpp"

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/leaky_relu.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/multihead_attention.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sigmoid.hpp>
#include <mortise/module/silu.hpp>
#include <mortise/module/softmax.hpp>
#include <mortise/module/tanh.hpp>

namespace {

namespace mt = mortise;
using mt::extents;
using mt::hw;
using pytorch::compare;

TEST_CASE("linear and convolutions agree with PyTorch") {
  compare<mt::linear<5>, extents<7>>("linear", 32);
  compare<mt::linear<3, false>, extents<4, 6>>("linear_no_bias", 32);
  compare<mt::conv2d<3, 3>, extents<2, 6, 7>>("conv2d", 64);
  compare<mt::conv2d<6, 3, 2, 1, 2, 2, false>, extents<4, 8, 9>>("conv2d_all", 64);
  compare<mt::conv2d_rect<3, hw<3, 2>, hw<1, 2>, hw<2, 0>, hw<2, 1>>, extents<2, 6, 7>>("conv2d_rect", 64);
}
TEST_CASE("pooling agrees with PyTorch") {
  compare<mt::max_pool2d<2>, extents<2, 6, 5>>("max_pool2d", 0);
  compare<mt::max_pool2d<3, 2, 1>, extents<2, 7, 6>>("max_pool2d_all", 4);
  compare<mt::avg_pool2d<2>, extents<2, 6, 5>>("avg_pool2d", 5);
  compare<mt::avg_pool2d<3, 2, 1>, extents<2, 7, 6>>("avg_pool2d_all", 10);
  compare<mt::adaptive_avg_pool2d<3, 2>, extents<2, 7, 5>>("adaptive_avg_pool2d", 12);
}
// Exponentials multiply the rounding of their argument, which is up to 12 here. PyTorch's slope of the approximate gelu has 1 - tanh^2, whose
// rounding it multiplies by x (1 + 0.134 x^2) sqrt(2/pi) / 2, up to 96.
TEST_CASE("activations agree with PyTorch") {
  compare<mt::relu, extents<19>>("relu", 0);
  compare<mt::leaky_relu, extents<19>>("leaky_relu", 2);
  compare<mt::gelu, extents<37>>("gelu", 32);
  compare<mt::gelu_tanh, extents<37>>("gelu_tanh", 128);
  compare<mt::silu, extents<37>>("silu", 32);
  compare<mt::tanh, extents<37>>("tanh", 32);
  compare<mt::sigmoid, extents<37>>("sigmoid", 32);
}
TEST_CASE("softmax agrees with PyTorch along any axis") {
  compare<mt::softmax, extents<2, 19>>("softmax", 32);
  compare<mt::softmax_along<1>, extents<5, 7>>("softmax_dim1", 32);
  compare<mt::log_softmax, extents<10>>("log_softmax", 32);
  compare<mt::log_softmax_along<1>, extents<5, 7>>("log_softmax_dim1", 32);
}
TEST_CASE("normalisations agree with PyTorch") {
  compare<mt::batch_norm1d, extents<7>>("batch_norm1d", 64);
  compare<mt::batch_norm1d, extents<3, 9>>("batch_norm1d_sequence", 64);
  compare<mt::batch_norm2d, extents<3, 5, 6>>("batch_norm2d", 64);
  compare<mt::layer_norm, extents<3, 19>>("layer_norm", 64);
  compare<mt::layer_norm_over<3, 5>, extents<4, 3, 5>>("layer_norm_over", 64);
}
// Two products and a softmax in a row; scores are of order 4.
TEST_CASE("attention agrees with PyTorch, causal or not") {
  compare<mt::multihead_attention<3>, extents<7, 12>>("multihead_attention", 128);
  compare<mt::multihead_attention<2, true, false>, extents<19, 8>>("multihead_attention_causal", 128);
}
TEST_CASE("embedding agrees with PyTorch") { compare<mt::embedding<6, 4>, extents<5>>("embedding", 16); }

}  // namespace
