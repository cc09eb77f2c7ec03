#include <mortise/tensor/shape.hpp>

constexpr auto n = mortise::extents<3, 1>::elements;
