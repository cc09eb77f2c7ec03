// Adam that waits until its second moment can be trusted.
#pragma once

#include <array>
#include <cmath>
#include <string_view>

#include <mortise/optimizer/transforms.hpp>

namespace mortise {

namespace detail {

template <class T>
struct radam_update {
  T weight_decay;
  T beta1;
  T beta2;
  T one_minus_beta1;
  T one_minus_beta2;
  T eps;
  T plain;    // of the first moment itself, while the variance is not tractable
  T adapted;  // of the first moment over the root of the second
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& gradient, V* slots) const {
    V const g = fma(V(weight_decay), parameter, gradient);
    slots[0] = fma(V(beta1), slots[0], V(one_minus_beta1) * g);
    slots[1] = fma(V(beta2), slots[1], V(one_minus_beta2) * g * g);
    return slots[0] * (V(plain) + V(adapted) / (sqrt(slots[1]) + V(eps)));
  }
};

}  // namespace detail

/// torch.optim.RAdam. Source: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2019, arXiv:1908.03265, algorithm 2.
struct radam {
  static constexpr std::size_t slots = 2;
  static constexpr std::array<std::string_view, 2> slot_names{"exp_avg", "exp_avg_sq"};

  detail::decimal lr = 1e-3;
  detail::decimal_pair betas{0.9, 0.999};
  detail::decimal eps = 1e-8;
  detail::decimal weight_decay = 0.0;

  template <class Visitor>
  void settings(Visitor&& visit) {
    visit("lr", lr);
    visit("betas", betas);
    visit("eps", eps);
    visit("weight_decay", weight_decay);
  }
  template <class T>
  detail::radam_update<T> at(update_step step) const {
    using detail::real;
    double const t = static_cast<double>(step.number);
    double const power2 = detail::integer_power(betas[1], step.number);
    double const correction1 = 1 - detail::integer_power(betas[0], step.number);
    double const correction2 = 1 - power2;
    double const rho_end = 2 / (1 - betas[1]) - 1;
    double const rho = rho_end - 2 * t * power2 / correction2;
    double plain = lr / correction1;
    double adapted = 0;
    if (rho > 5) {
      double const rectification = std::sqrt((rho - 4) * (rho - 2) * rho_end / ((rho_end - 4) * (rho_end - 2) * rho));
      adapted = plain * rectification * std::sqrt(correction2);
      plain = 0;
    }
    return {real<T>(weight_decay),   real<T>(betas[0]), real<T>(betas[1]), real<T>(1 - betas[0]),
            real<T>(1 - betas[1]), real<T>(eps),      real<T>(plain),    real<T>(adapted)};
  }
};

}  // namespace mortise
