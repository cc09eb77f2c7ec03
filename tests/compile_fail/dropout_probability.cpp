// expected-error: mortise::dropout_p: the probability lies between 0 and 1
#include <mortise/module/dropout.hpp>

constexpr auto d = mortise::dropout_p<5, 4>::describe(mortise::shape{4, 8, 8});
