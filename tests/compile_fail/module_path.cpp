// expected-error: mortise::model::module: the path matches no module
// expected-error: path<"feature.1">
// expected-error: nearest<"features.1">
#include <mortise/model/model.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::dropout>>, mt::named<"head", mt::linear<2>>>, mt::extents<4>> m;

void set() { m.module<"feature.1">().p = 0.25f; }
