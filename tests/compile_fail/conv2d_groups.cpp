// expected-error: mortise::conv2d: the number of output channels must be positive and divisible by the number of groups
#include <mortise/module/conv2d.hpp>

constexpr auto d = mortise::conv2d<6, 3, 1, 0, 1, 4>::describe(mortise::shape{4, 8, 8});
