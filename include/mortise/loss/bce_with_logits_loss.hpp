// Binary cross entropy on scores before the sigmoid.
#pragma once

#include <cstddef>
#include <vector>

#include <mortise/loss/class_targets.hpp>
#include <mortise/loss/pointwise.hpp>

namespace mortise {

namespace detail {
template <class T>
struct bce_with_logits_formula {
  double const* pos_weight;  // null: all 1
  std::size_t classes;       // of them: element i belongs to class i mod classes
  template <class V>
  MORTISE_INLINE MORTISE_HD void operator()(std::size_t i, V const& x, V const& y, V& loss, V& slope) const {
    // l = (1 - y) x + w softplus(-x), w = 1 + (p - 1) y;  softplus(-x) = max(-x, 0) + log1p(exp(-|x|))
    V const one(T(1));
    V const p = pos_weight == nullptr ? one : at<V>(i);
    V const w = fma(p - one, y, one);
    V const softplus = max(-x, V(T(0))) + log1p(exp(-abs(x)));
    loss = fma(one - y, x, w * softplus);
    slope = w * sigmoid(x) - p * y;
  }

 private:
  template <class V>
  MORTISE_INLINE MORTISE_HD V at(std::size_t i) const {
    T p[lanes_of<V>::width];
    for (int k = 0; k < lanes_of<V>::width; ++k) p[k] = static_cast<T>(pos_weight[(i + static_cast<std::size_t>(k)) % classes]);
    if constexpr (lanes_of<V>::width == 1) return p[0];
    else return V::load(p);
  }
};
}  // namespace detail

/// torch.nn.BCEWithLogitsLoss: binary cross entropy of sigmoid(x) against probabilities y. `pos_weight` multiplies the loss of the positive
/// answers, one for each class (the last axis of the output); empty means 1. Throws usage_error when their number does not fit.
struct bce_with_logits_loss {
  template <class T>
  using target_type = T;

  mortise::reduction reduction = mortise::reduction::mean;
  std::vector<double> pos_weight{};

  static constexpr char const* problem(shape) { return nullptr; }
  static constexpr shape target_shape(shape out) { return out; }
  static constexpr std::size_t workspace(shape out) { return reduction_workspace(out.elements()); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T* workspace) const {
    constexpr std::size_t classes = Out::value.rank == 0 ? 1 : Out::value.back();
    if (!pos_weight.empty() && pos_weight.size() != classes)
      detail::throw_weight_count("bce_with_logits_loss", "pos_weight", pos_weight.size(), classes);
    detail::bce_with_logits_formula<T> const formula{pos_weight.empty() ? nullptr : pos_weight.data(), classes};
    detail::run_pointwise<Out>(device, formula, reduction, batch, x, y, dx, value, workspace);
  }
};

}  // namespace mortise
