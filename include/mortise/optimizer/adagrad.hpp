// Gradients over the root of the sum of all their squares.
#pragma once

#include <array>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct adagrad_update {
  T sign;
  T weight_decay;
  T initial;  // added at the first step: slots start at zero
  T eps;
  T lr;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const g = fma(V(weight_decay), parameter, V(sign) * gradient);
    slots[0] = fma(g, g, slots[0] + V(initial));
    return V(lr) * g / (sqrt(slots[0]) + V(eps));
  }
};

}  // namespace detail

/// torch.optim.Adagrad. Source: Duchi, Hazan, Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.
struct adagrad {
  static constexpr std::size_t slots = 1;
  static constexpr std::array<std::string_view, 1> slot_names{"sum"};

  detail::decimal lr = 1e-2;
  detail::decimal lr_decay = 0.0;
  detail::decimal weight_decay = 0.0;
  detail::decimal initial_accumulator_value = 0.0;
  detail::decimal eps = 1e-10;
  bool maximize = false;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("lr_decay", lr_decay);
    visit("weight_decay", weight_decay);
    visit("initial_accumulator_value", initial_accumulator_value);
    visit("eps", eps);
    visit("maximize", maximize);
  }
  template <class T>
  constexpr detail::adagrad_update<T> at(update_step step) const {
    using detail::real;
    return {maximize ? T(-1) : T(1), real<T>(weight_decay), step.number == 1 ? real<T>(initial_accumulator_value) : T(0), real<T>(eps),
            real<T>(lr / (1 + static_cast<double>(step.number - 1) * lr_decay))};
  }
};

}  // namespace mortise
