// expected-error: mortise::adaptive_avg_pool2d: the output has at least one element
#include <mortise/module/pool2d.hpp>

constexpr auto d = mortise::adaptive_avg_pool2d<0>::describe(mortise::shape{4, 8, 8});
