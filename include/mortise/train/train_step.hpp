// One training step: forward, loss, backward, update.
#pragma once

#include <utility>

#include <mortise/model/optimizer_of_model.hpp>

namespace mortise {

/// net.forward(batch.x), net.backward(loss, batch.y), optimizer.step(): the same bits in one call. Returns the loss, deferred: only its
/// conversion to a number waits for a device. Allocates nothing after the first call with the largest batch. Throws usage_error where the
/// optimizer updates another model.
template <class Model, class Loss, class Optimizer, class Batch>
auto train_step(Model& net, Loss const& loss, Optimizer& optimizer, Batch const& batch) {
  detail::check_optimizer(net, optimizer);
  if (!net.training()) net.train();
  net.forward(batch.x);
  auto value = net.backward(loss, batch.y);
  optimizer.step();
  return value;
}

}  // namespace mortise
