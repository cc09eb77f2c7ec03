// expected-error: mortise::sequential: a name is used twice
// expected-error: path<"fc">
// expected-error: another name with mortise::named
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"fc", mt::linear<8>>, mt::named<"fc", mt::linear<10>>>, mt::extents<4>> m;
