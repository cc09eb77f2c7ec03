#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/schedule/scheduler.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d>>, mt::named<"classifier", mt::linear<2>>>, mt::extents<4>> m;
void initialize() { m.initialize<"**.weight">(mt::init::kaiming_normal()); }
