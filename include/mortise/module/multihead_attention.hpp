// multihead_attention: positions of a sequence look at each other.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/attention.hpp>
#include <mortise/operation/gemm.hpp>

namespace mortise {

/// Self-attention with `Heads` heads: y = concat(softmax(q k^T / sqrt(E / Heads)) v of each head) out_proj^T + bias, where q, k, v are x times
/// the three parts of in_proj. `Causal`: a position sees itself and what is before it.
///
/// x, y (batch, length, E)   in_proj_weight (3 E, E)   in_proj_bias (3 E)   out_proj.weight (E, E)   out_proj.bias (E)
/// That is PyTorch's MultiheadAttention(E, Heads, batch_first=True) on (x, x, x), without dropout of its own; put mortise::dropout behind it.
/// Initialisation, PyTorch's: in_proj_weight Xavier uniform, out_proj.weight U(-1/sqrt(E), 1/sqrt(E)), biases 0.
/// Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.
template <std::size_t Heads, bool Causal = false, bool Bias = true>
struct multihead_attention {
  static_assert(Heads > 0, "mortise::multihead_attention: there must be at least one head");
  static constexpr std::string_view name = "multihead_attention";

  static constexpr module_description describe(shape in) {
    if (in.rank != 2)
      return module_description::rejected("multihead_attention takes sequences (length, width); put mortise::embedding or a linear layer of vectors before it");
    if (in[1] % Heads != 0) return module_description::rejected("the number of heads must divide the width of the sequence; change Heads or the layer before");
    std::size_t const width = in[1];
    module_description d;
    d.output = in;
    d.input_for_parameters_only = true;
    d.saved = d.workspace = 4 * in.elements() + Heads * in[0] * in[0];
    d.parameter("in_proj_weight", shape{3 * width, width}, init::uniform(-bound(4 * width), bound(4 * width)));
    if (Bias) d.parameter("in_proj_bias", shape{3 * width}, init::zeros());
    d.parameter("out_proj.weight", shape{width, width}, init::fan_in_uniform(width));
    if (Bias) d.parameter("out_proj.bias", shape{width}, init::zeros());
    return d;
  }

  template <class Args>
  void forward(Args const& a) const {
    constexpr sizes<Args> s;
    auto* const memory = a.saved != nullptr ? a.saved : a.workspace;
    auto* const p = memory + a.batch * s.qkv;
    auto* const context = p + a.batch * s.p;
    linear_forward(a.device, a.batch * s.length, three<Args>, one<Args>, a.x, a.parameter(0), Bias ? a.parameter(1) : nullptr, memory);
    attention_forward(a.device, s.attention(a.batch), memory, p, context);
    linear_forward(a.device, a.batch * s.length, one<Args>, one<Args>, context, a.parameter(out), Bias ? a.parameter(out + 1) : nullptr, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    using T = typename Args::element;
    constexpr sizes<Args> s;
    std::size_t const rows = a.batch * s.length;
    T const* const p = a.saved + a.batch * s.qkv;
    T const* const context = p + a.batch * s.p;
    T* const dqkv = a.workspace;
    T* const dp = dqkv + a.batch * s.qkv;
    T* const dcontext = dp + a.batch * s.p;
    if (!a.frozen())
      linear_backward_weight(a.device, rows, one<Args>, one<Args>, a.dy, context, a.parameter_gradient(out), Bias ? a.parameter_gradient(out + 1) : nullptr);
    if (a.frozen() && a.dx == nullptr) return;
    linear_backward_input(a.device, rows, one<Args>, one<Args>, a.dy, a.parameter(out), dcontext);
    attention_backward(a.device, s.attention(a.batch), a.saved, p, dcontext, dqkv, dp);
    if (!a.frozen())
      linear_backward_weight(a.device, rows, three<Args>, one<Args>, dqkv, a.x, a.parameter_gradient(0), Bias ? a.parameter_gradient(1) : nullptr);
    if (a.dx != nullptr) linear_backward_input(a.device, rows, three<Args>, one<Args>, dqkv, a.parameter(0), a.dx);
  }

 private:
  static constexpr std::size_t out = Bias ? 2 : 1;  // where out_proj's parameters begin
  static constexpr double bound(std::size_t fan_in_and_out) {
    return init::detail::square_root(6.0 / static_cast<double>(fan_in_and_out));
  }
  template <class Args>
  static constexpr std::integral_constant<std::size_t, Args::input::value.back()> one{};
  template <class Args>
  static constexpr std::integral_constant<std::size_t, 3 * Args::input::value.back()> three{};
  /// Elements per sample.
  template <class Args>
  struct sizes {
    std::size_t length = Args::input::value[0], width = Args::input::value[1];
    std::size_t qkv = 3 * length * width, p = Heads * length * length;
    constexpr attention_size attention(std::size_t batch) const { return {batch, length, Heads, width / Heads, Causal}; }
  };
};

}  // namespace mortise
