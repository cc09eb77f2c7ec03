// conv2d: two-dimensional convolution.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/conv2d.hpp>

namespace mortise {

/// A height and a width, for the modules whose windows are not square: hw<3, 1>.
template <std::size_t H, std::size_t W = H>
struct hw {
  static constexpr std::size_t height = H, width = W;
};

/// Two-dimensional convolution with windows of any form; `conv2d` is the square case.
///
/// x (batch, C, H, W)   y (batch, OutC, OutH, OutW)   weight (OutC, C / Groups, Kernel)   bias (OutC)
/// Padding counts as zeros. Initialisation: U(-1/sqrt(k), 1/sqrt(k)) with k = C / Groups * kernel elements for both, PyTorch's default.
template <std::size_t OutC, class Kernel, class Stride = hw<1>, class Padding = hw<0>, class Dilation = hw<1>, std::size_t Groups = 1,
          bool Bias = true>
struct conv2d_rect {
  static_assert(OutC > 0 && Groups > 0 && OutC % Groups == 0,
                "mortise::conv2d: the number of output channels must be positive and divisible by the number of groups");
  static_assert(Kernel::height > 0 && Kernel::width > 0 && Stride::height > 0 && Stride::width > 0 && Dilation::height > 0 && Dilation::width > 0,
                "mortise::conv2d: kernel, stride and dilation must be at least 1");
  static constexpr std::string_view name = "conv2d";

  static constexpr module_description describe(shape in) {
    if (in.rank != 3)
      return module_description::rejected("conv2d takes images: give extents<channels, height, width>, and put mortise::flatten behind the convolutions, "
                                          "not before them",
                                          detail::image_meant_by(in));
    if (in[0] % Groups != 0)
      return module_description::rejected("the number of groups must divide the input channels; change Groups or the channels before",
                                          shape{(in[0] / Groups + 1) * Groups, in[1], in[2]});
    std::size_t const out_h = window_positions(in[1], Kernel::height, Stride::height, Padding::height, Dilation::height);
    std::size_t const out_w = window_positions(in[2], Kernel::width, Stride::width, Padding::width, Dilation::width);
    if (out_h == 0 || out_w == 0)
      return module_description::rejected("the kernel is larger than the padded image; use a smaller kernel, more padding, or one pooling layer less before it",
                                          shape{in[0], smallest_window_input(in[1], Kernel::height, Padding::height, Dilation::height),
                                                smallest_window_input(in[2], Kernel::width, Padding::width, Dilation::width)});
    module_description d;
    d.output = shape{OutC, out_h, out_w};
    d.input_for_parameters_only = true;
    std::size_t const taps = in[0] / Groups * Kernel::height * Kernel::width;
    d.parameter("weight", shape{OutC, in[0] / Groups, Kernel::height, Kernel::width}, init::fan_in_uniform(taps));
    if (Bias) d.parameter("bias", shape{OutC}, init::fan_in_uniform(taps));
    return d;
  }

  static constexpr bool has_workspace_by_type = true;
  template <class Input>
  static constexpr workspace_by_type workspace() {
    constexpr conv2d_workspace_size w = conv2d_workspace<geometry<Input>>();
    return {w.per_sample, w.fixed};
  }

  template <class Args>
  void forward(Args const& a) const {
    conv2d_forward(a.device, geometry<typename Args::input>{}, a.batch, a.x, a.parameter(0), Bias ? a.parameter(1) : nullptr, a.y, a.workspace);
  }
  template <class Args>
  void backward(Args const& a) const {
    using g = geometry<typename Args::input>;
    if (!a.frozen())
      conv2d_backward_weight(a.device, g{}, a.batch, a.x, a.dy, a.parameter_gradient(0), Bias ? a.parameter_gradient(1) : nullptr, a.workspace);
    if constexpr (Args::wants_input_gradient)
      if (a.dx != nullptr) conv2d_backward_input(a.device, g{}, a.batch, a.dy, a.parameter(0), a.dx, a.workspace);
  }

 private:
  template <class Input>
  using geometry = conv2d_geometry<Input::template axis<0>, Input::template axis<1>, Input::template axis<2>, OutC, Kernel::height, Kernel::width,
                                   Stride::height, Stride::width, Padding::height, Padding::width, Dilation::height, Dilation::width, Groups>;
};

/// conv2d<6, 5>: 6 output channels, windows of 5 x 5. Arguments in PyTorch's order; see `conv2d_rect` for the formulas.
template <std::size_t OutC, std::size_t Kernel, std::size_t Stride = 1, std::size_t Padding = 0, std::size_t Dilation = 1, std::size_t Groups = 1,
          bool Bias = true>
struct conv2d : conv2d_rect<OutC, hw<Kernel>, hw<Stride>, hw<Padding>, hw<Dilation>, Groups, Bias> {};

}  // namespace mortise
