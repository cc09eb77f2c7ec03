// Windows that slide over two-dimensional maps: the geometry of convolutions and pools, all known to the compiler.
#pragma once

#include <cstddef>

namespace mortise {

/// Positions of a window of `kernel` taps, `dilation` apart, that moves by `stride` over `in` elements with `padding` on both sides.
/// 0 when the window does not fit.
constexpr std::size_t window_positions(std::size_t in, std::size_t kernel, std::size_t stride, std::size_t padding,
                                       std::size_t dilation = 1) {
  std::size_t const span = dilation * (kernel - 1) + 1;
  return in + 2 * padding < span || stride == 0 ? 0 : (in + 2 * padding - span) / stride + 1;  // stride 0: the layer has reported it
}

/// `in`, or the smallest size in which the window fits.
constexpr std::size_t smallest_window_input(std::size_t in, std::size_t kernel, std::size_t padding, std::size_t dilation = 1) {
  std::size_t const span = dilation * (kernel - 1) + 1;
  return in + 2 * padding < span ? span - 2 * padding : in;
}

/// A convolution of (InC, InH, InW) to (OutC, out_h, out_w), PyTorch's `Conv2d`; weight (OutC, InC / Groups, KernelH, KernelW).
template <std::size_t InC, std::size_t InH, std::size_t InW, std::size_t OutC, std::size_t KernelH, std::size_t KernelW,
          std::size_t StrideH = 1, std::size_t StrideW = 1, std::size_t PadH = 0, std::size_t PadW = 0, std::size_t DilationH = 1,
          std::size_t DilationW = 1, std::size_t Groups = 1>
struct conv2d_geometry {
  static constexpr std::size_t in_c = InC, in_h = InH, in_w = InW, out_c = OutC, kernel_h = KernelH, kernel_w = KernelW;
  static constexpr std::size_t stride_h = StrideH, stride_w = StrideW, pad_h = PadH, pad_w = PadW;
  static constexpr std::size_t dilation_h = DilationH, dilation_w = DilationW, groups = Groups;

  static_assert(KernelH > 0 && KernelW > 0 && StrideH > 0 && StrideW > 0 && DilationH > 0 && DilationW > 0,
                "mortise::conv2d_geometry: kernel, stride and dilation are at least 1");
  static_assert(Groups > 0 && InC % Groups == 0 && OutC % Groups == 0,
                "mortise::conv2d_geometry: the number of groups must divide the input and the output channels");
  static_assert(window_positions(InH, KernelH, StrideH, PadH, DilationH) > 0 && window_positions(InW, KernelW, StrideW, PadW, DilationW) > 0,
                "mortise::conv2d_geometry: the kernel is larger than the padded input; use a smaller kernel or more padding");

  static constexpr std::size_t out_h = window_positions(InH, KernelH, StrideH, PadH, DilationH);
  static constexpr std::size_t out_w = window_positions(InW, KernelW, StrideW, PadW, DilationW);
  static constexpr std::size_t group_in = InC / Groups, group_out = OutC / Groups;

  static constexpr std::size_t in_elements = InC * InH * InW;             ///< per sample
  static constexpr std::size_t out_elements = OutC * out_h * out_w;       ///< per sample
  static constexpr std::size_t taps = group_in * KernelH * KernelW;       ///< terms of one output's sum
  static constexpr std::size_t weight_elements = OutC * taps;
  static constexpr double flops = 2.0 * static_cast<double>(out_elements) * static_cast<double>(taps);  ///< per sample and direction
};

/// Pooling of (C, InH, InW) to (C, out_h, out_w) by windows; PyTorch's `MaxPool2d` and `AvgPool2d` without ceil_mode.
template <std::size_t C, std::size_t InH, std::size_t InW, std::size_t KernelH, std::size_t KernelW, std::size_t StrideH = KernelH,
          std::size_t StrideW = KernelW, std::size_t PadH = 0, std::size_t PadW = 0, std::size_t DilationH = 1, std::size_t DilationW = 1>
struct pool2d_geometry {
  static constexpr std::size_t channels = C, in_h = InH, in_w = InW, kernel_h = KernelH, kernel_w = KernelW;
  static constexpr std::size_t stride_h = StrideH, stride_w = StrideW, pad_h = PadH, pad_w = PadW;
  static constexpr std::size_t dilation_h = DilationH, dilation_w = DilationW;

  static_assert(KernelH > 0 && KernelW > 0 && StrideH > 0 && StrideW > 0 && DilationH > 0 && DilationW > 0,
                "mortise::pool2d_geometry: kernel, stride and dilation are at least 1");
  static_assert(2 * PadH <= KernelH && 2 * PadW <= KernelW, "mortise::pool2d_geometry: the padding is at most half of the kernel");
  static_assert(window_positions(InH, KernelH, StrideH, PadH, DilationH) > 0 && window_positions(InW, KernelW, StrideW, PadW, DilationW) > 0,
                "mortise::pool2d_geometry: the window is larger than the padded input; use a smaller window");

  static constexpr std::size_t out_h = window_positions(InH, KernelH, StrideH, PadH, DilationH);
  static constexpr std::size_t out_w = window_positions(InW, KernelW, StrideW, PadW, DilationW);
  static constexpr std::size_t in_elements = C * InH * InW;        ///< per sample
  static constexpr std::size_t out_elements = C * out_h * out_w;   ///< per sample
};

/// Pooling of (C, InH, InW) to (C, OutH, OutW); output o averages the inputs floor(o In / Out) ... ceil((o + 1) In / Out) - 1.
template <std::size_t C, std::size_t InH, std::size_t InW, std::size_t OutH, std::size_t OutW>
struct adaptive_pool2d_geometry {
  static constexpr std::size_t channels = C, in_h = InH, in_w = InW, out_h = OutH, out_w = OutW;
  static_assert(OutH > 0 && OutW > 0, "mortise::adaptive_pool2d_geometry: the output has at least one element");
  static constexpr std::size_t in_elements = C * InH * InW;        ///< per sample
  static constexpr std::size_t out_elements = C * OutH * OutW;     ///< per sample

  static constexpr std::size_t start(std::size_t o, std::size_t in, std::size_t out) { return o * in / out; }
  static constexpr std::size_t stop(std::size_t o, std::size_t in, std::size_t out) { return ((o + 1) * in + out - 1) / out; }
};

}  // namespace mortise
