// expected-error: mortise::linear: the number of outputs must be positive
#include <mortise/module/linear.hpp>

constexpr auto d = mortise::linear<0>::describe(mortise::shape{4, 8, 8});
