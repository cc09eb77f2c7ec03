// Absolute difference with a rounded tip.
#pragma once

#include <cstddef>
#include <string>

#include <mortise/detail/decimal.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/loss/pointwise.hpp>

namespace mortise {

namespace detail {
template <class T>
struct smooth_l1_formula {
  T beta;
  T inverse_beta;  // 0 for beta 0, which is the absolute difference
  template <class V>
  MORTISE_INLINE MORTISE_HD void operator()(std::size_t, V const& x, V const& y, V& loss, V& slope) const {
    V const d = x - y;
    V const magnitude = abs(d);
    auto const inside = magnitude < V(beta);
    V const scaled = d * V(inverse_beta);
    loss = select(inside, V(T(0.5)) * d * scaled, magnitude - V(T(0.5) * beta));
    slope = select(inside, scaled, sign_of(d));
  }
};
}  // namespace detail

/// torch.nn.SmoothL1Loss: (x - y)^2 / (2 beta) where |x - y| < beta, |x - y| - beta / 2 elsewhere. Throws usage_error for a negative beta.
struct smooth_l1_loss {
  template <class T>
  using target_type = T;

  mortise::reduction reduction = mortise::reduction::mean;
  detail::decimal beta = 1.0;

  static constexpr char const* problem(shape) { return nullptr; }
  static constexpr shape target_shape(shape out) { return out; }
  static constexpr std::size_t workspace(shape out) { return reduction_workspace(out.elements()); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T* workspace) const {
    T const b = static_cast<T>(beta.value);
    if (!(b >= T(0))) throw usage_error("mortise::smooth_l1_loss: beta is " + std::to_string(beta.value) + "; it must not be negative");
    detail::run_pointwise<Out>(device, detail::smooth_l1_formula<T>{b, b > T(0) ? T(1) / b : T(0)}, reduction, batch, x, y, dx, value, workspace);
  }
};

}  // namespace mortise
