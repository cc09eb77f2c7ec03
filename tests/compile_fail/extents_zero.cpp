// expected-error: mortise::extents: every axis must have at least one element; the batch is not part of it
#include <mortise/tensor/shape.hpp>

constexpr auto n = mortise::extents<3, 0>::elements;
