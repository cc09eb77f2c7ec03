// expected-error: mortise::concat: at least one branch
#include <mortise/model/model.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::concat<>>, mt::extents<3, 8, 8>> m;
