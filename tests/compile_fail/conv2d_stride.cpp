// expected-error: mortise::conv2d: kernel, stride and dilation must be at least 1
#include <mortise/module/conv2d.hpp>

constexpr auto d = mortise::conv2d<6, 3, 0>::describe(mortise::shape{4, 8, 8});
