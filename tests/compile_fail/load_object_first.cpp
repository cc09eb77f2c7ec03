// expected-error: mortise::load: the path comes first
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/state_dict.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>> m;

void run() { mt::load(m, "run.pt"); }
