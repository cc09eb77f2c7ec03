// expected-error: mortise::optimizer: it takes the model and not its parameters
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>> m;
mt::optimizer opt{m.parameters(), mt::sgd{}};
