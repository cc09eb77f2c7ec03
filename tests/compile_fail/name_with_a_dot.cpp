// expected-error: mortise::named: a name may neither be empty nor hold a '.'
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"head.fc", mt::linear<8>>>, mt::extents<4>> m;
