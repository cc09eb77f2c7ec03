// Steps in the parameters' own units.
#pragma once

#include <array>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct adadelta_update {
  T sign;
  T weight_decay;
  T rho;
  T one_minus_rho;
  T eps;
  T lr;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const g = fma(V(weight_decay), parameter, V(sign) * gradient);
    slots[0] = fma(V(rho), slots[0], V(one_minus_rho) * g * g);
    V const delta = sqrt(slots[1] + V(eps)) / sqrt(slots[0] + V(eps)) * g;
    slots[1] = fma(V(rho), slots[1], V(one_minus_rho) * delta * delta);
    return V(lr) * delta;
  }
};

}  // namespace detail

/// torch.optim.Adadelta. Source: Zeiler, "ADADELTA", 2012, arXiv:1212.5701, algorithm 1.
struct adadelta {
  static constexpr std::size_t slots = 2;
  static constexpr std::array<std::string_view, 2> slot_names{"square_avg", "acc_delta"};

  detail::decimal lr = 1.0;
  detail::decimal rho = 0.9;
  detail::decimal eps = 1e-6;
  detail::decimal weight_decay = 0.0;
  bool maximize = false;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("rho", rho);
    visit("eps", eps);
    visit("weight_decay", weight_decay);
    visit("maximize", maximize);
  }
  template <class T>
  constexpr detail::adadelta_update<T> at(update_step) const {
    using detail::real;
    return {maximize ? T(-1) : T(1), real<T>(weight_decay), real<T>(rho), real<T>(1 - rho), real<T>(eps), real<T>(lr)};
  }
};

}  // namespace mortise
