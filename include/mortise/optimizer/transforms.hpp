// The transforms that optimizers are chained of.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>

#include <mortise/optimizer/update_rule.hpp>

namespace mortise {

namespace detail {

template <class T>
struct scaled_update {
  T factor;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V*) const {
    return update * V(factor);
  }
};

template <class T>
struct norm_clipped_update {
  T max_norm;
  T factor;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V*) const {
    return update * V(factor);
  }
  MORTISE_HD void set_gradient_norm(T norm) {
    T const f = max_norm / (norm + T(1e-6));
    factor = f < T(1) ? f : f != f ? f : T(1);  // a NaN norm shows in the parameters, as in PyTorch
  }
};

template <class T>
struct value_clipped_update {
  T limit;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V*) const {
    return clamp(update, -limit, limit);
  }
};

template <class T>
struct decayed_update {
  T decay;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& update, V*) const {
    return fma(V(decay), parameter, update);
  }
};

template <class T>
struct momentum_update {
  T momentum;
  T input;     // what of the update goes into the buffer
  T direct;    // result = direct * update + buffered * buffer
  T buffered;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V* slots) const {
    slots[0] = fma(V(momentum), slots[0], V(input) * update);
    return fma(V(buffered), slots[0], V(direct) * update);
  }
};

template <class T>
struct adam_update {
  T beta1;
  T beta2;
  T one_minus_beta1;
  T one_minus_beta2;
  T root_correction;  // 1 / sqrt(1 - beta2^t)
  T eps;
  T scale;            // 1 / (1 - beta1^t), times the learning rate where that is known
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V* slots) const {
    slots[0] = fma(V(beta1), slots[0], V(one_minus_beta1) * update);
    slots[1] = fma(V(beta2), slots[1], V(one_minus_beta2) * update * update);
    slots[2] = max(slots[2], slots[1]);  // amsgrad's; an unused slot reads as zero, and the second moment is not negative
    return V(scale) * (slots[0] / fma(sqrt(slots[2]), V(root_correction), V(eps)));
  }
};

template <class T>
constexpr T real(double value) {
  return static_cast<T>(value);
}

/// Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980, algorithm 1.
template <class T>
adam_update<T> adam_at(std::int64_t t, decimal_pair const& betas, double eps, double rate) {
  double const correction1 = 1 - integer_power(betas[0], t);
  double const correction2 = 1 - integer_power(betas[1], t);
  return {real<T>(betas[0]),     real<T>(betas[1]),
          real<T>(1 - betas[0]), real<T>(1 - betas[1]),
          real<T>(1 / std::sqrt(correction2)), real<T>(eps), real<T>(rate / correction1)};
}

inline constexpr std::array<std::string_view, 3> adam_slot_names{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
inline constexpr std::array<unsigned, 2> adam_slot_masks{0b011u, 0b111u};

}  // namespace detail

/// Scales all gradients together so that their global 2-norm is at most `max_norm`: torch.nn.utils.clip_grad_norm_. Comes first in a chain.
struct clip_grad_norm {
  static constexpr std::size_t slots = 0;
  static constexpr bool needs_gradient_norm = true;

  detail::decimal max_norm = 1.0;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("max_norm", max_norm);
  }
  template <class T>
  constexpr detail::norm_clipped_update<T> at(update_step) const {
    return {detail::real<T>(max_norm), T(1)};
  }
};

/// Limits each element to [-clip_value, clip_value]: torch.nn.utils.clip_grad_value_.
struct clip_grad_value {
  static constexpr std::size_t slots = 0;

  detail::decimal clip_value = 1.0;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("clip_value", clip_value);
  }
  template <class T>
  constexpr detail::value_clipped_update<T> at(update_step) const {
    return {detail::real<T>(clip_value)};
  }
};

/// Momentum: buffer = decay buffer + update; the buffer goes on, or with `nesterov` update + decay buffer.
struct trace {
  static constexpr std::size_t slots = 1;
  static constexpr std::array<std::string_view, 1> slot_names{"momentum_buffer"};

  detail::decimal decay = 0.9;
  bool nesterov = false;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("momentum", decay);
    visit("nesterov", nesterov);
  }
  template <class T>
  constexpr detail::momentum_update<T> at(update_step) const {
    return {detail::real<T>(decay), T(1), nesterov ? T(1) : T(0), nesterov ? detail::real<T>(decay) : T(1)};
  }
};

/// The first moment over the root of the second, both corrected for their zero start.
struct scale_by_adam {
  static constexpr std::size_t slots = 3;
  static constexpr auto slot_names = detail::adam_slot_names;
  static constexpr auto slot_masks = detail::adam_slot_masks;

  detail::decimal_pair betas{0.9, 0.999};
  detail::decimal eps = 1e-8;
  bool amsgrad = false;

  constexpr unsigned used_slots() const { return slot_masks[amsgrad]; }
  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("betas", betas);
    visit("eps", eps);
    visit("amsgrad", amsgrad);
  }
  template <class T>
  detail::adam_update<T> at(update_step step) const {
    return detail::adam_at<T>(step.number, betas, eps, 1.0);
  }
};

/// Adds weight_decay times the parameter: before a moment estimate it is L2 regularisation, after it decoupled decay (AdamW).
struct add_decayed_weights {
  static constexpr std::size_t slots = 0;

  detail::decimal weight_decay = 0.0;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("weight_decay", weight_decay);
  }
  template <class T>
  constexpr detail::decayed_update<T> at(update_step) const {
    return {detail::real<T>(weight_decay)};
  }
};

struct scale_by_learning_rate {
  static constexpr std::size_t slots = 0;

  detail::decimal lr = 1e-3;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
  }
  template <class T>
  constexpr detail::scaled_update<T> at(update_step) const {
    return {detail::real<T>(lr)};
  }
};

/// A learning rate that follows a schedule by itself: `schedule(lr, updates so far)`, a pure function of the step.
template <class Schedule>
struct scale_by_schedule {
  static constexpr std::size_t slots = 0;

  Schedule schedule{};
  detail::decimal lr = 1e-3;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
  }
  template <class T>
  constexpr detail::scaled_update<T> at(update_step step) const {
    return {detail::real<T>(schedule(lr.value, step.number - 1))};
  }
};

}  // namespace mortise
