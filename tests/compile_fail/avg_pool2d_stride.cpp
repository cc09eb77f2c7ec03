// expected-error: mortise::avg_pool2d: kernel and stride must be at least 1
#include <mortise/module/pool2d.hpp>

constexpr auto d = mortise::avg_pool2d<2, 0>::describe(mortise::shape{4, 8, 8});
