// max_pool2d, avg_pool2d, adaptive_avg_pool2d: images made smaller by windows.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/pool2d.hpp>

namespace mortise {

namespace detail {

constexpr module_description describe_pool2d(shape const& in, std::size_t kernel, std::size_t stride, std::size_t padding) {
  if (in.rank != 3)
    return module_description::rejected("pooling takes images (channels, height, width); put mortise::flatten behind it, not before it",
                                        image_meant_by(in));
  std::size_t const out_h = window_positions(in[1], kernel, stride, padding);
  std::size_t const out_w = window_positions(in[2], kernel, stride, padding);
  if (out_h == 0 || out_w == 0)
    return module_description::rejected("the window is larger than the padded image; use a smaller window, or one pooling layer less before it",
                                        shape{in[0], smallest_window_input(in[1], kernel, padding), smallest_window_input(in[2], kernel, padding)});
  module_description d;
  d.output = shape{in[0], out_h, out_w};
  d.reads_input = false;
  return d;
}

template <class Input, std::size_t Kernel, std::size_t Stride, std::size_t Padding>
using square_pool2d = pool2d_geometry<Input::template axis<0>, Input::template axis<1>, Input::template axis<2>, Kernel, Kernel, Stride, Stride, Padding, Padding>;

}  // namespace detail

/// The maximum of each window. x (batch, C, H, W)   y (batch, C, OutH, OutW)
///
/// Padding never wins. The first of equal maxima gets the gradient, and NaN wins over numbers, as in PyTorch. Keeps a byte for each output.
/// Does the work of a relu right before it: one pass over the image instead of two, forward and backward, and the same bits.
template <std::size_t Kernel, std::size_t Stride = Kernel, std::size_t Padding = 0>
struct max_pool2d {
  static_assert(Kernel > 0 && Stride > 0, "mortise::max_pool2d: kernel and stride must be at least 1");
  static_assert(2 * Padding <= Kernel, "mortise::max_pool2d: the padding is at most half of the kernel");
  static_assert(Kernel <= 15, "mortise::max_pool2d: windows of at most 15 x 15");
  static constexpr std::string_view name = "max_pool2d";

  static constexpr module_description describe(shape in) {
    module_description d = detail::describe_pool2d(in, Kernel, Stride, Padding);
    if (d.problem == nullptr) d.saved_bytes = d.output.elements();
    d.may_clip_input = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    auto* const index = reinterpret_cast<std::uint8_t*>(a.saved_bytes);
    if constexpr (Args::clips_input) relu_max_pool2d_forward(a.device, geometry<Args>{}, a.batch, a.x, a.y, index);
    else max_pool2d_forward(a.device, geometry<Args>{}, a.batch, a.x, a.y, index);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr) max_pool2d_backward(a.device, geometry<Args>{}, a.batch, a.dy, reinterpret_cast<std::uint8_t const*>(a.saved_bytes), a.dx);
  }

 private:
  template <class Args>
  using geometry = detail::square_pool2d<typename Args::input, Kernel, Stride, Padding>;
};

/// The mean of each window; padding counts as zeros, PyTorch's default (count_include_pad). x (batch, C, H, W)   y (batch, C, OutH, OutW)
template <std::size_t Kernel, std::size_t Stride = Kernel, std::size_t Padding = 0>
struct avg_pool2d {
  static_assert(Kernel > 0 && Stride > 0, "mortise::avg_pool2d: kernel and stride must be at least 1");
  static_assert(2 * Padding <= Kernel, "mortise::avg_pool2d: the padding is at most half of the kernel");
  static constexpr std::string_view name = "avg_pool2d";

  static constexpr module_description describe(shape in) { return detail::describe_pool2d(in, Kernel, Stride, Padding); }
  template <class Args>
  void forward(Args const& a) const {
    avg_pool2d_forward(a.device, geometry<Args>{}, a.batch, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr) avg_pool2d_backward(a.device, geometry<Args>{}, a.batch, a.dy, a.dx);
  }

 private:
  template <class Args>
  using geometry = detail::square_pool2d<typename Args::input, Kernel, Stride, Padding>;
};

/// Averages images of any size to (C, H, W): output o is the mean of the inputs floor(o In / Out) ... ceil((o + 1) In / Out) - 1, as in PyTorch.
template <std::size_t H, std::size_t W = H>
struct adaptive_avg_pool2d {
  static_assert(H > 0 && W > 0, "mortise::adaptive_avg_pool2d: the output has at least one element");
  static constexpr std::string_view name = "adaptive_avg_pool2d";

  static constexpr module_description describe(shape in) {
    if (in.rank != 3)
      return module_description::rejected("pooling takes images (channels, height, width); put mortise::flatten behind it, not before it",
                                        detail::image_meant_by(in));
    module_description d;
    d.output = shape{in[0], H, W};
    d.reads_input = false;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    adaptive_avg_pool2d_forward(a.device, geometry<Args>{}, a.batch, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    if (a.dx != nullptr) adaptive_avg_pool2d_backward(a.device, geometry<Args>{}, a.batch, a.dy, a.dx);
  }

 private:
  template <class Args>
  using geometry = adaptive_pool2d_geometry<Args::input::template axis<0>, Args::input::template axis<1>, Args::input::template axis<2>, H, W>;
};

}  // namespace mortise
