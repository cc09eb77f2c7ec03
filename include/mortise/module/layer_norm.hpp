// layer_norm: each sample normalised over its last axes.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/normalization.hpp>

namespace mortise {

namespace detail {

constexpr module_description describe_layer_norm(shape const& in, shape const& normalized) {
  std::size_t const width = normalized.elements(), rows = in.elements() / width;
  module_description d;
  d.output = in;
  d.backward_in_place = true;
  d.saved = 2 * rows;
  d.workspace = rows * layer_norm_workspace::per_row(width);
  d.workspace_fixed = layer_norm_workspace::fixed(width);
  d.parameter("weight", normalized, init::ones()).parameter("bias", normalized, init::zeros());
  return d;
}

template <class Args>
void layer_norm_forward(Args const& a, std::size_t width, double eps) {
  std::size_t const rows = a.batch * (Args::input::elements / width);
  layer_norm_forward(a.device, rows, width, a.x, a.parameter(0), a.parameter(1), eps, a.y, a.saved,
                              a.saved == nullptr ? nullptr : a.saved + rows);
}

template <class Args>
void layer_norm_backward(Args const& a, std::size_t width) {
  std::size_t const rows = a.batch * (Args::input::elements / width);
  layer_norm_backward(a.device, rows, width, a.dy, a.x, a.parameter(0), a.saved, a.saved + rows, a.frozen() ? nullptr : a.parameter_gradient(0),
                               a.frozen() ? nullptr : a.parameter_gradient(1), a.dx, a.workspace);
}

}  // namespace detail

/// y = (x - mean) / sqrt(variance + eps) * weight + bias, over the last axis of each sample: PyTorch's LayerNorm(size of the last axis).
///
/// x, y (batch, ..., C)   weight, bias (C)   The variance is the biased one. The same in training and evaluation.
/// Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
struct layer_norm {
  static constexpr std::string_view name = "layer_norm";
  double eps = 1e-5;

  static constexpr module_description describe(shape in) {
    if (in.rank == 0) return module_description::rejected("layer_norm normalises the last axis of a sample, and this input has no axis");
    return detail::describe_layer_norm(in, shape{in.back()});
  }
  template <class Args>
  void forward(Args const& a) const {
    detail::layer_norm_forward(a, Args::input::value.back(), eps);
  }
  template <class Args>
  void backward(Args const& a) const {
    detail::layer_norm_backward(a, Args::input::value.back());
  }
};

/// The same over several axes, which have to be the last ones of a sample: layer_norm_over<8, 8> is PyTorch's LayerNorm([8, 8]).
template <std::size_t... NormalizedShape>
struct layer_norm_over {
  static_assert(sizeof...(NormalizedShape) > 0 && ((NormalizedShape > 0) && ...), "mortise::layer_norm_over: give the sizes of the last axes");
  static constexpr std::string_view name = "layer_norm";
  double eps = 1e-5;

  static constexpr module_description describe(shape in) {
    constexpr shape normalized{NormalizedShape...};
    bool fits = in.rank >= normalized.rank;
    for (std::size_t i = 0; fits && i < normalized.rank; ++i) fits = in[in.rank - normalized.rank + i] == normalized[i];
    if (!fits) return module_description::rejected("the last axes of the input differ from the normalized shape; mortise::layer_norm takes the last axis, whatever its size", normalized);
    return detail::describe_layer_norm(in, normalized);
  }
  template <class Args>
  void forward(Args const& a) const {
    detail::layer_norm_forward(a, (NormalizedShape * ...), eps);
  }
  template <class Args>
  void backward(Args const& a) const {
    detail::layer_norm_backward(a, (NormalizedShape * ...));
  }
};

}  // namespace mortise
