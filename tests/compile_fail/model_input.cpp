// expected-error: mortise::model: the second argument is the shape of one sample, without the batch
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<1>>, mt::host> m;
