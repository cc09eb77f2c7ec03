// expected-error: mortise::max_pool2d: windows of at most 15 x 15
#include <mortise/module/pool2d.hpp>

constexpr auto d = mortise::max_pool2d<16>::describe(mortise::shape{4, 8, 8});
