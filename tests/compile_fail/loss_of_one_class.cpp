// expected-error: mortise: the loss does not accept the network's output shape
// expected-error: mortise::cross_entropy_loss
// expected-error: mortise::extents<1>
// expected-error: for one score per sample use mortise::bce_with_logits_loss
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<1>>, mt::extents<4>> m;

void run(mt::view<std::int64_t const> y) { m.backward(mt::cross_entropy_loss{}, y); }
