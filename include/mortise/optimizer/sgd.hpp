// Stochastic gradient descent.
#pragma once

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct sgd_update {
  T sign;          // of the gradient: -1 maximises
  T weight_decay;
  momentum_update<T> momentum;
  T lr;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    return V(lr) * momentum(parameter, fma(V(weight_decay), parameter, V(sign) * gradient), slots);
  }
};

}  // namespace detail

/// torch.optim.SGD. Without momentum there is no buffer: nothing is allocated or read for it.
struct sgd {
  static constexpr std::size_t slots = 1;
  static constexpr std::array<std::string_view, 1> slot_names{"momentum_buffer"};
  static constexpr std::array<unsigned, 2> slot_masks{0u, 1u};

  detail::decimal lr = 1e-3;
  detail::decimal momentum = 0.0;
  detail::decimal dampening = 0.0;
  detail::decimal weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;

  constexpr unsigned used_slots() const { return momentum.value != 0 ? 1u : 0u; }
  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("momentum", momentum);
    visit("dampening", dampening);
    visit("weight_decay", weight_decay);
    visit("nesterov", nesterov);
    visit("maximize", maximize);
  }
  template <class T>
  constexpr detail::sgd_update<T> at(update_step step) const {
    using detail::real;
    // The first buffer is the gradient itself, undampened: PyTorch clones it.
    detail::momentum_update<T> m{real<T>(momentum), step.number == 1 ? T(1) : real<T>(1 - dampening), T(0), T(1)};
    if (momentum.value == 0) m = {T(0), T(0), T(1), T(0)};
    else if (nesterov) m = {m.momentum, m.input, T(1), real<T>(momentum)};
    return {maximize ? T(-1) : T(1), real<T>(weight_decay), m, real<T>(lr)};
  }
};

}  // namespace mortise
