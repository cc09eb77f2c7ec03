// Adam and AdamW.
#pragma once

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct adam_with_decay_update {
  T sign;             // of the gradient: -1 maximises
  T coupled_decay;    // L2: into the gradient
  T decoupled_decay;  // lr * weight_decay: past the moments
  adam_update<T> adam;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const step = adam(parameter, fma(V(coupled_decay), parameter, V(sign) * gradient), slots);
    return fma(V(decoupled_decay), parameter, step);
  }
};

/// The step of Adam or of AdamW, which differ in where weight decay goes.
template <class T, class A>
adam_with_decay_update<T> adam_with_decay_at(A const& a, std::int64_t t, bool decoupled) {
  return {a.maximize ? T(-1) : T(1), decoupled ? T(0) : real<T>(a.weight_decay), decoupled ? real<T>(a.lr * a.weight_decay) : T(0),
          adam_at<T>(t, a.betas, a.eps, a.lr)};
}

template <class A, class Visitor>
void visit_adam_settings(A& a, Visitor&& visit) {
  visit("lr", a.lr);
  visit("betas", a.betas);
  visit("eps", a.eps);
  visit("weight_decay", a.weight_decay);
  visit("amsgrad", a.amsgrad);
  visit("maximize", a.maximize);
}

}  // namespace detail

/// torch.optim.Adam: weight decay is added to the gradient.
struct adam {
  static constexpr std::size_t slots = 3;
  static constexpr auto slot_names = detail::adam_slot_names;
  static constexpr auto slot_masks = detail::adam_slot_masks;

  detail::decimal lr = 1e-3;
  detail::decimal_pair betas{0.9, 0.999};
  detail::decimal eps = 1e-8;
  detail::decimal weight_decay = 0.0;
  bool amsgrad = false;
  bool maximize = false;

  constexpr unsigned used_slots() const { return slot_masks[amsgrad]; }
  template <class Visitor>
  void settings(Visitor&& visit) {
    detail::visit_adam_settings(*this, visit);
  }
  template <class T>
  detail::adam_with_decay_update<T> at(update_step step) const {
    return detail::adam_with_decay_at<T>(*this, step.number, false);
  }
};

/// torch.optim.AdamW: weight decay shrinks the parameters by lr * weight_decay, past the moments.
/// Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
struct adamw {
  static constexpr std::size_t slots = 3;
  static constexpr auto slot_names = detail::adam_slot_names;
  static constexpr auto slot_masks = detail::adam_slot_masks;

  detail::decimal lr = 1e-3;
  detail::decimal_pair betas{0.9, 0.999};
  detail::decimal eps = 1e-8;
  detail::decimal weight_decay = 1e-2;
  bool amsgrad = false;
  bool maximize = false;

  constexpr unsigned used_slots() const { return slot_masks[amsgrad]; }
  template <class Visitor>
  void settings(Visitor&& visit) {
    detail::visit_adam_settings(*this, visit);
  }
  template <class T>
  detail::adam_with_decay_update<T> at(update_step step) const {
    return detail::adam_with_decay_at<T>(*this, step.number, true);
  }
};

}  // namespace mortise
