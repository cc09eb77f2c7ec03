// position_embedding: a learned vector for each position of a sequence.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/repeat.hpp>

namespace mortise {

/// y = x + weight, the same weight for every sample: what GPT and BERT add to the vectors of the words, torch.nn.Embedding(length, width) of
/// 0, 1, ..., length - 1 there. Any shape.
///
/// x, y (batch, length, width)   weight (length, width), N(0, 1) at first, PyTorch's default
struct position_embedding {
  static constexpr std::string_view name = "position_embedding";

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.reads_input = false;
    d.in_place = true;
    d.backward_in_place = true;
    d.parameter("weight", in, init::normal(0, 1));
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    add_to_each(a.device, a.batch, Args::input::elements, a.x, a.parameter(0), a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    constexpr std::size_t n = Args::input::elements;
    if (!a.frozen()) sum_of_each(a.device, a.batch, n, a.dy, a.parameter_gradient(0));
    if (a.dx != nullptr && a.dx != a.dy) a.device.copy(a.dx, a.dy, a.batch * n * sizeof(*a.dx));
  }
};

}  // namespace mortise
