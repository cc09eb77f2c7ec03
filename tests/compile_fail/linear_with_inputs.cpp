// expected-error: mortise::linear<Out, Bias>: the number of inputs is known to the compiler and does not stand here
#include <mortise/module/linear.hpp>

mortise::linear<84, 10> layer;
