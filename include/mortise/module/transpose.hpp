// transpose: the two axes of a sample change places.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/transpose.hpp>

namespace mortise {

/// y[j][i] = x[i][j]: torch.transpose(x, 1, 2) on a batch. Behind a linear layer over the positions of a sequence it makes (classes, length) of
/// (length, classes), the layout in which PyTorch's losses, and these, take a class for each position.
///
/// x (batch, length, width)   y (batch, width, length)
struct transpose {
  static constexpr std::string_view name = "transpose";

  static constexpr module_description describe(shape in) {
    if (in.rank != 2) return module_description::rejected("transpose takes samples of two axes, such as (length, width)");
    module_description d;
    d.output = shape{in[1], in[0]};
    d.reads_input = false;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    transpose_each(a.device, a.batch, Args::input::value[0], Args::input::value[1], a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr) transpose_each(a.device, a.batch, Args::input::value[1], Args::input::value[0], a.dy, a.dx);
  }
};

}  // namespace mortise
