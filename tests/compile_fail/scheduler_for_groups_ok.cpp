#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/schedule/scheduler.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d>>, mt::named<"classifier", mt::linear<2>>>, mt::extents<4>> m;
mt::optimizer opt{m, mt::adam{}, mt::group<"features">{}, mt::no_weight_decay<>{}, mt::layer_wise_lr_decay<>{.decay = 0.5f}};
mt::scheduler schedule{opt, mt::step_lr{}, mt::constant_rate{}};
