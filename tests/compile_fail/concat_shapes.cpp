// expected-error: mortise::concat: the branches differ in an axis other than the first
// expected-error: path<"mixed">
// expected-error: mortise::extents<4, 6, 6>
// expected-error: mortise::extents<4, 4, 4>
// expected-error: padding that keeps their size
#include <mortise/model/model.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"mixed", mt::concat<mt::conv2d<4, 3>, mt::conv2d<4, 5>>>>, mt::extents<3, 8, 8>> m;
