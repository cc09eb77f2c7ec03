#include "../../contract/module.hpp"

#include <mortise/module/conv2d.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/pool2d.hpp>

using mortise::extents;
using mortise::hw;

// linear sums a single row in another order than two or more (operation/gemm.hpp), so its law speaks of two.
MODULE_CONTRACT(on_host<mortise::linear<5>, extents<7>, 2>, on_host<mortise::linear<3, false>, extents<4, 6>>, on_host<mortise::conv2d<4, 3>, extents<2, 6, 5>>,
                on_host<mortise::conv2d<6, 3, 2, 1, 1, 2>, extents<4, 7, 6>>, on_host<mortise::conv2d<3, 2, 1, 2, 3, 1, false>, extents<1, 5, 6>>,
                on_host<mortise::conv2d_rect<4, hw<3, 1>, hw<1, 2>, hw<2, 0>, hw<2, 1>>, extents<3, 6, 7>>)
MODULE_CONTRACT(on_host<mortise::max_pool2d<2>, extents<3, 6, 5>>, on_host<mortise::max_pool2d<3, 2, 1>, extents<2, 7, 7>>, on_host<mortise::avg_pool2d<2>, extents<2, 5, 6>>,
                on_host<mortise::avg_pool2d<3, 1, 1>, extents<1, 5, 5>>, on_host<mortise::adaptive_avg_pool2d<3, 2>, extents<2, 7, 5>>,
                on_host<mortise::adaptive_avg_pool2d<1>, extents<3, 4, 4>>)

namespace {

namespace mt = mortise;

bool says(mt::module_description const& d, std::string_view words) {
  return d.problem != nullptr && std::string_view{d.problem}.find(words) != std::string_view::npos;
}

TEST_CASE("wrong shapes are refused with a remedy") {
  CHECK(says(mt::linear<3>::describe({}), "axis"));
  CHECK(says(mt::linear<3>::describe({1, 28, 28}), "mortise::flatten"));
  CHECK(says(mt::conv2d<6, 5>::describe({784}), "extents<channels, height, width>"));
  CHECK(says(mt::conv2d<6, 5>::describe({1, 4, 28}), "kernel is larger"));
  CHECK(says(mt::conv2d<6, 5, 1, 0, 1, 2>::describe({3, 28, 28}), "groups"));
  CHECK(says(mt::max_pool2d<3>::describe({4, 2, 2}), "window is larger"));
  CHECK(says(mt::avg_pool2d<2>::describe({16}), "mortise::flatten"));
  CHECK(says(mt::adaptive_avg_pool2d<2>::describe({16}), "mortise::flatten"));
}

TEST_CASE("output shapes are PyTorch's") {
  CHECK(mt::conv2d<6, 5>::describe({1, 28, 28}).output == mt::shape{6, 24, 24});
  CHECK(mt::conv2d<64, 7, 2, 3>::describe({3, 224, 224}).output == mt::shape{64, 112, 112});
  CHECK(mt::conv2d<8, 3, 2, 1, 2>::describe({3, 33, 20}).output == mt::shape{8, 16, 9});
  CHECK(mt::max_pool2d<3, 2, 1>::describe({64, 112, 112}).output == mt::shape{64, 56, 56});
  CHECK(mt::max_pool2d<2>::describe({6, 25, 24}).output == mt::shape{6, 12, 12});
  CHECK(mt::adaptive_avg_pool2d<1>::describe({512, 7, 7}).output == mt::shape{512, 1, 1});
}

}  // namespace
