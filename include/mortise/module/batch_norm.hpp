// batch_norm1d, batch_norm2d: each channel normalised over the batch.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/normalization.hpp>

namespace mortise {

namespace detail {

constexpr module_description describe_batch_norm(shape const& in) {
  module_description d;
  d.output = in;
  d.input_for_parameters_only = true;  // with running statistics, dx is a multiple of dy
  d.backward_in_place = true;
  d.saved_fixed = 2 * in[0];
  d.saved_in_training_only = true;
  d.parameter("weight", shape{in[0]}, init::ones()).parameter("bias", shape{in[0]}, init::zeros());
  d.buffer("running_mean", shape{in[0]}, 0).buffer("running_var", shape{in[0]}, 1).counter("num_batches_tracked");
  return d;
}

template <class Args>
void batch_norm_forward(Args const& a, double eps, double momentum) {
  constexpr std::size_t channels = Args::input::template axis<0>, positions = Args::input::elements / channels;
  if (a.training)
    batch_norm_forward_training(a.device, a.batch, channels, positions, a.x, a.parameter(0), a.parameter(1), eps, momentum, a.buffers,
                                a.buffers + channels, a.counters, a.saved, a.saved == nullptr ? nullptr : a.saved + channels, a.y);
  else
    batch_norm_forward_evaluation(a.device, a.batch, channels, positions, a.x, a.parameter(0), a.parameter(1), eps, a.buffers, a.buffers + channels, a.y);
}

template <class Args>
void batch_norm_backward(Args const& a, double eps) {
  constexpr std::size_t channels = Args::input::template axis<0>, positions = Args::input::elements / channels;
  auto* const dweight = a.frozen() ? nullptr : a.parameter_gradient(0);
  auto* const dbias = a.frozen() ? nullptr : a.parameter_gradient(1);
  if (a.training)
    batch_norm_backward(a.device, a.batch, channels, positions, a.dy, a.x, a.parameter(0), a.saved, a.saved + channels, dweight, dbias, a.dx);
  else
    batch_norm_backward_evaluation(a.device, a.batch, channels, positions, a.dy, a.x, a.parameter(0), eps, a.buffers, a.buffers + channels, dweight,
                                   dbias, a.dx);
}

}  // namespace detail

/// y = (x - mean) / sqrt(variance + eps) * weight + bias, for each channel over batch, height and width.
///
/// x, y (batch, C, H, W)   weight, bias (C)   buffers running_mean, running_var (C), num_batches_tracked
/// Training: mean and biased variance of the batch; running = (1 - momentum) running + momentum * batch, with the unbiased variance.
/// Evaluation, and inside `frozen`: the running statistics. A batch of one value a channel, which PyTorch refuses, has variance 0 here.
/// Source: Ioffe, Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.
struct batch_norm2d {
  static constexpr std::string_view name = "batch_norm2d";
  double eps = 1e-5;
  double momentum = 0.1;

  static constexpr module_description describe(shape in) {
    if (in.rank != 3)
      return module_description::rejected("batch_norm2d takes images (channels, height, width); behind linear layers use mortise::batch_norm1d",
                                          detail::image_meant_by(in));
    return detail::describe_batch_norm(in);
  }
  template <class Args>
  void forward(Args const& a) const {
    detail::batch_norm_forward(a, eps, momentum);
  }
  template <class Args>
  void backward(Args const& a) const {
    detail::batch_norm_backward(a, eps);
  }
};

/// The same for vectors (batch, C) and sequences (batch, C, L).
struct batch_norm1d {
  static constexpr std::string_view name = "batch_norm1d";
  double eps = 1e-5;
  double momentum = 0.1;

  static constexpr module_description describe(shape in) {
    if (in.rank != 1 && in.rank != 2)
      return module_description::rejected("batch_norm1d takes vectors (channels) or sequences (channels, length); for images use mortise::batch_norm2d, "
                                          "or put mortise::flatten before it",
                                          shape{in.elements()});
    return detail::describe_batch_norm(in);
  }
  template <class Args>
  void forward(Args const& a) const {
    detail::batch_norm_forward(a, eps, momentum);
  }
  template <class Args>
  void backward(Args const& a) const {
    detail::batch_norm_backward(a, eps);
  }
};

}  // namespace mortise
