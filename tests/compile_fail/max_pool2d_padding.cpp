// expected-error: mortise::max_pool2d: the padding is at most half of the kernel
#include <mortise/module/pool2d.hpp>

constexpr auto d = mortise::max_pool2d<2, 2, 2>::describe(mortise::shape{4, 8, 8});
