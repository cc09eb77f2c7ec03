// The sign of a momentum.
#pragma once

#include <array>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct lion_update {
  T beta1;
  T beta2;
  T one_minus_beta1;
  T one_minus_beta2;
  T decay;  // lr * weight_decay
  T lr;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const zero(T(0));
    V const mixed = fma(V(beta1), slots[0], V(one_minus_beta1) * gradient);
    V const direction = select(mixed > zero, V(lr), select(mixed < zero, V(-lr), zero * mixed));  // NaN stays NaN
    slots[0] = fma(V(beta2), slots[0], V(one_minus_beta2) * gradient);
    return fma(V(decay), parameter, direction);
  }
};

}  // namespace detail

/// Lion, with the defaults of its authors. Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675,
/// algorithm 2.
struct lion {
  static constexpr std::size_t slots = 1;
  static constexpr std::array<std::string_view, 1> slot_names{"exp_avg"};

  detail::decimal lr = 1e-4;
  detail::decimal_pair betas{0.9, 0.99};
  detail::decimal weight_decay = 0.0;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("betas", betas);
    visit("weight_decay", weight_decay);
  }
  template <class T>
  constexpr detail::lion_update<T> at(update_step) const {
    using detail::real;
    return {real<T>(betas[0]), real<T>(betas[1]), real<T>(1 - betas[0]), real<T>(1 - betas[1]), real<T>(lr * weight_decay), real<T>(lr)};
  }
};

}  // namespace mortise
