// Squared difference.
#pragma once

#include <cstddef>

#include <mortise/loss/pointwise.hpp>

namespace mortise {

namespace detail {
template <class T>
struct mse_formula {
  template <class V>
  MORTISE_INLINE MORTISE_HD void operator()(std::size_t, V const& x, V const& y, V& loss, V& slope) const {
    V const d = x - y;
    loss = d * d;
    slope = d + d;
  }
};
}  // namespace detail

/// torch.nn.MSELoss: (x - y)^2. Targets have the shape and the element type of the output, here and in all pointwise losses.
struct mse_loss {
  template <class T>
  using target_type = T;

  mortise::reduction reduction = mortise::reduction::mean;

  static constexpr char const* problem(shape) { return nullptr; }
  static constexpr shape target_shape(shape out) { return out; }
  static constexpr std::size_t workspace(shape out) { return reduction_workspace(out.elements()); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T* workspace) const {
    detail::run_pointwise<Out>(device, detail::mse_formula<T>{}, reduction, batch, x, y, dx, value, workspace);
  }
};

}  // namespace mortise
