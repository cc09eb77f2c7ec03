// expected-error: mortise::optimizer: after the model and the rule come groups
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>>>, mt::named<"classifier", mt::linear<2>>>, mt::extents<4>> m;
mt::optimizer opt{m, mt::sgd{}, mt::sgd{}};
