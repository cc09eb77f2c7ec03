// Adam with Nesterov's look ahead.
#pragma once

#include <array>
#include <cmath>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct nadam_update {
  T weight_decay;
  T beta1;
  T beta2;
  T one_minus_beta1;
  T one_minus_beta2;
  T root_correction;  // 1 / sqrt(1 - beta2^t)
  T eps;
  T of_gradient;      // lr (1 - mu_t) / (1 - mu_1 ... mu_t)
  T of_moment;        // lr mu_{t+1} / (1 - mu_1 ... mu_{t+1})
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const g = fma(V(weight_decay), parameter, gradient);
    slots[0] = fma(V(beta1), slots[0], V(one_minus_beta1) * g);
    slots[1] = fma(V(beta2), slots[1], V(one_minus_beta2) * g * g);
    return fma(V(of_moment), slots[0], V(of_gradient) * g) / fma(sqrt(slots[1]), V(root_correction), V(eps));
  }
};

}  // namespace detail

/// torch.optim.NAdam. Source: Dozat, "Incorporating Nesterov Momentum into Adam", 2016, algorithm 8, with the momentum schedule of its
/// appendix: mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2).
///
/// The product of all mu follows from the number of updates, so it is no state here (PyTorch keeps it as "mu_product").
struct nadam {
  static constexpr std::size_t slots = 2;
  static constexpr std::array<std::string_view, 2> slot_names{"exp_avg", "exp_avg_sq"};

  detail::decimal lr = 2e-3;
  detail::decimal_pair betas{0.9, 0.999};
  detail::decimal eps = 1e-8;
  detail::decimal weight_decay = 0.0;
  detail::decimal momentum_decay = 4e-3;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("betas", betas);
    visit("eps", eps);
    visit("weight_decay", weight_decay);
    visit("momentum_decay", momentum_decay);
  }
  template <class T>
  detail::nadam_update<T> at(update_step step) const {
    using detail::real;
    // Below 2^-54 the product no longer shows in 1 - product: the loop is short (360 factors for beta1 = 0.9) however long the run.
    double const power = std::pow(0.96, momentum_decay.value);
    double product = 1;
    double decayed = 1;
    for (std::int64_t t = 0; t < step.number && product > 0x1p-54; ++t) {
      decayed *= power;
      product *= betas[0] * (1 - 0.5 * decayed);
    }
    double const t = static_cast<double>(step.number);
    double const mu = betas[0] * (1 - 0.5 * std::pow(0.96, t * momentum_decay));
    double const mu_next = betas[0] * (1 - 0.5 * std::pow(0.96, (t + 1) * momentum_decay));
    double const correction2 = 1 - detail::integer_power(betas[1], step.number);
    return {real<T>(weight_decay),
            real<T>(betas[0]),
            real<T>(betas[1]),
            real<T>(1 - betas[0]),
            real<T>(1 - betas[1]),
            real<T>(1 / std::sqrt(correction2)),
            real<T>(eps),
            real<T>(lr * (1 - mu) / (1 - product)),
            real<T>(lr * mu_next / (1 - product * mu_next))};
  }
};

}  // namespace mortise
