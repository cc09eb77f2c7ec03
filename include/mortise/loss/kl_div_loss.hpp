// Kullback-Leibler divergence from log-probabilities.
#pragma once

#include <cstddef>

#include <mortise/loss/pointwise.hpp>

namespace mortise {

namespace detail {
template <class T>
struct kl_div_formula {
  bool log_target;
  template <class V>
  MORTISE_INLINE MORTISE_HD void operator()(std::size_t, V const& x, V const& y, V& loss, V& slope) const {
    V const zero(T(0));
    if (log_target) {
      V const p = exp(y);
      loss = p * (y - x);
      slope = -p;
    } else {
      // y log y is 0 at y = 0
      V const entropy = select(y == zero, zero, y * log(select(y == zero, V(T(1)), y)));
      loss = entropy - y * x;
      slope = -y;
    }
  }
};
}  // namespace detail

/// torch.nn.KLDivLoss: y (log y - x), where x are log-probabilities and y probabilities, or with `log_target` their logarithms.
/// `reduction::batchmean` is the divergence of the mathematicians; PyTorch's default is the mean over all elements.
struct kl_div_loss {
  template <class T>
  using target_type = T;

  mortise::reduction reduction = mortise::reduction::mean;
  bool log_target = false;

  static constexpr char const* problem(shape) { return nullptr; }
  static constexpr shape target_shape(shape out) { return out; }
  static constexpr std::size_t workspace(shape out) { return reduction_workspace(out.elements()); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T* workspace) const {
    detail::run_pointwise<Out>(device, detail::kl_div_formula<T>{log_target}, reduction, batch, x, y, dx, value, workspace);
  }
};

}  // namespace mortise
