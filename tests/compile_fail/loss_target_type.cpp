// expected-error: mortise: the loss does not take targets of this type
// expected-error: mortise::cross_entropy_loss
// expected-error: std::vector<float>
#include <vector>

#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>> m;

void run(std::vector<float> const& y) { m.backward(mt::cross_entropy_loss{}, y); }
