// A training step on a CUDA device: captured once as a graph for each batch size, then one launch a step.
#pragma once

#include <concepts>

#include <mortise/device/cuda.cuh>
#include <mortise/model/step_memory.cuh>
#include <mortise/train/train_step.hpp>

namespace mortise {

namespace detail {
template <class Optimizer>
void const* step_identity(Optimizer const& optimizer) {
  if constexpr (requires { optimizer.step_identity(); }) return optimizer.step_identity();
  else return &optimizer;
}
}  // namespace detail

/// The contract of train_step on the host. Batches in host memory are copied while the step before runs; nothing waits for the device, and
/// from the third step of a batch size on nothing is allocated and one graph is launched. The bits are those of the spelled-out step.
template <class Model, class Loss, class Optimizer, class Batch>
  requires std::same_as<typename Model::device_type, cuda>
auto train_step(Model& net, Loss const& loss, Optimizer& optimizer, Batch const& batch) {
  detail::check_optimizer(net, optimizer);
  cuda const& device = net.device();
  auto& context = device.context();
  auto& memory = net.step_memory();
  auto x = batch.x;
  auto y = batch.y;
  x = decltype(x){memory.input(device, x.data(), x.size()), x.extents()};
  y = decltype(y){memory.target(device, y.data(), y.size()), y.extents()};
  auto const body = [&] {
    if (!net.training()) net.train();
    net.forward(x);
    auto value = net.backward(loss, y);
    optimizer.step();
    return value;
  };
  if (!memory.graphs || context.recording != nullptr) return body();

  detail::recorded_step& step = memory.step(x.data(), y.data(), x.size(), &loss, detail::step_identity(optimizer));
  if (step.runs == 0) {  // whatever has to be allocated is allocated here
    auto value = body();
    step.runs = 1;
    return value;
  }
  auto& recording = step.recording;
  context.recording = &recording;
  try {
    bool const replay = recording.ready();
    if (replay) recording.begin_replay();
    else recording.begin_capture(context.stream());
    auto value = body();
    bool launch = true;
    if (replay) launch = recording.end_replay(context.stream(), &context);
    else recording.end_capture(context.stream());
    context.recording = nullptr;
    if (launch) recording.launch(context.stream());
    return value;
  } catch (...) {
    context.recording = nullptr;
    recording.abandon(context.stream());
    step.runs = 0;
    throw;
  }
}

}  // namespace mortise
