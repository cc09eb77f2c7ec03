// expected-error: mortise: something in a network is neither a module nor a container
// expected-error: mortise::adam
// expected-error: static constexpr module_description describe(shape)
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<8>, mt::adam, mt::linear<2>>, mt::extents<4>> m;
