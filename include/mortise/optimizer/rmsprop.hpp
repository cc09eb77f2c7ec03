// Gradients over a running root mean square.
#pragma once

#include <array>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct rmsprop_update {
  T sign;
  T weight_decay;
  T alpha;
  T one_minus_alpha;
  T centered;  // 1: the variance, 0: the mean square
  T eps;
  T momentum;
  T lr;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const g = fma(V(weight_decay), parameter, V(sign) * gradient);
    slots[0] = fma(V(alpha), slots[0], V(one_minus_alpha) * g * g);
    slots[2] = fma(V(alpha), slots[2], V(one_minus_alpha) * g);
    // The variance is not negative but for rounding, which a root would turn into NaN.
    V const spread = max(V(T(0)), fma(-(V(centered) * slots[2]), slots[2], slots[0]));
    slots[1] = fma(V(momentum), slots[1], g / (sqrt(spread) + V(eps)));
    return V(lr) * slots[1];
  }
};

}  // namespace detail

/// torch.optim.RMSprop. Source: Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012; centered: Graves, arXiv:1308.0850.
struct rmsprop {
  static constexpr std::size_t slots = 3;
  static constexpr std::array<std::string_view, 3> slot_names{"square_avg", "momentum_buffer", "grad_avg"};
  static constexpr std::array<unsigned, 4> slot_masks{0b001u, 0b011u, 0b101u, 0b111u};

  detail::decimal lr = 1e-2;
  detail::decimal alpha = 0.99;
  detail::decimal eps = 1e-8;
  detail::decimal weight_decay = 0.0;
  detail::decimal momentum = 0.0;
  bool centered = false;
  bool maximize = false;

  constexpr unsigned used_slots() const { return 1u | (momentum.value != 0 ? 2u : 0u) | (centered ? 4u : 0u); }
  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("alpha", alpha);
    visit("eps", eps);
    visit("weight_decay", weight_decay);
    visit("momentum", momentum);
    visit("centered", centered);
    visit("maximize", maximize);
  }
  template <class T>
  constexpr detail::rmsprop_update<T> at(update_step) const {
    using detail::real;
    return {maximize ? T(-1) : T(1), real<T>(weight_decay), real<T>(alpha), real<T>(1 - alpha), centered ? T(1) : T(0), real<T>(eps),
            real<T>(momentum),       real<T>(lr)};
  }
};

}  // namespace mortise
