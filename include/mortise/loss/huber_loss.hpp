// Squared difference near zero, absolute difference beyond.
#pragma once

#include <cstddef>
#include <string>

#include <mortise/detail/decimal.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/loss/pointwise.hpp>

namespace mortise {

namespace detail {
template <class T>
struct huber_formula {
  T delta;
  template <class V>
  MORTISE_INLINE MORTISE_HD void operator()(std::size_t, V const& x, V const& y, V& loss, V& slope) const {
    V const d = x - y;
    V const magnitude = abs(d);
    auto const inside = magnitude <= V(delta);
    loss = select(inside, V(T(0.5)) * d * d, V(delta) * (magnitude - V(T(0.5) * delta)));
    slope = select(inside, d, V(delta) * sign_of(d));
  }
};
}  // namespace detail

/// torch.nn.HuberLoss: (x - y)^2 / 2 where |x - y| <= delta, delta (|x - y| - delta / 2) elsewhere. Throws usage_error unless delta > 0.
struct huber_loss {
  template <class T>
  using target_type = T;

  mortise::reduction reduction = mortise::reduction::mean;
  detail::decimal delta = 1.0;

  static constexpr char const* problem(shape) { return nullptr; }
  static constexpr shape target_shape(shape out) { return out; }
  static constexpr std::size_t workspace(shape out) { return reduction_workspace(out.elements()); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, T const* y, T* dx, T* value, T* workspace) const {
    T const d = static_cast<T>(delta.value);
    if (!(d > T(0))) throw usage_error("mortise::huber_loss: delta is " + std::to_string(delta.value) + "; it must be positive");
    detail::run_pointwise<Out>(device, detail::huber_formula<T>{d}, reduction, batch, x, y, dx, value, workspace);
  }
};

}  // namespace mortise
