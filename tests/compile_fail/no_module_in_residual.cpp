// expected-error: mortise: something in a network is neither a module nor a container
// expected-error: int
#include <mortise/model/model.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::residual<int>>, mt::extents<4>> m;
