// expected-error: mortise::extents: at most 8 axes
#include <mortise/tensor/shape.hpp>

constexpr auto n = mortise::extents<1, 2, 3, 4, 5, 6, 7, 8, 9>{}.rank;
