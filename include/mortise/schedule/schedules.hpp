// Learning rates as pure functions of the step, in closed form. Names, settings and defaults are PyTorch's.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>

namespace mortise {

namespace detail {
[[noreturn]] MORTISE_COLD inline void throw_no_steps(char const* setting, std::int64_t value) {
  throw usage_error(std::string{"mortise::"} + setting + " is " + std::to_string(value) + "; it must be at least 1");
}
/// A number of steps that is divided by. Throws usage_error below 1: at a scheduler's construction, which asks for the rate of step 0.
inline std::int64_t at_least_one(std::int64_t value, char const* setting) {
  if (value < 1) [[unlikely]]
    throw_no_steps(setting, value);
  return value;
}
}  // namespace detail

/// The learning rate at a step (or epoch: whatever one counts), from a group's base rate. A value without state.
template <class S>
concept Schedule = std::copyable<S> && requires(S const& s, double base_lr, std::int64_t step) {
  { s(base_lr, step) } -> std::convertible_to<double>;
};

/// One schedule, and another after it; see `then`.
template <Schedule First, Schedule Second>
struct schedule_sequence;

/// A setting of a schedule in a checkpoint, under PyTorch's name: written for PyTorch, and on load held against the program's. A file does not
/// change it; one that says something else is of another run.
template <class T>
struct schedule_setting {
  T value;
};
/// What follows from the schedule and the step: written for PyTorch, which keeps it, and not read.
template <class T>
struct schedule_progress {
  T value;
};

namespace detail {
inline constexpr double pi = 3.14159265358979323846;
}  // namespace detail

/// `first` for `steps` steps, then `second`, which counts from 0 again (PyTorch's SequentialLR).
template <Schedule First, Schedule Second>
struct schedule_sequence {
  First first;
  std::int64_t steps = 0;
  Second second;

  double operator()(double base_lr, std::int64_t step) const { return step < steps ? first(base_lr, step) : second(base_lr, step - steps); }

  template <Schedule Next>
  constexpr auto then(std::int64_t after, Next const& next) const {
    return schedule_sequence<schedule_sequence, Next>{*this, after, next};
  }
};

/// then(linear_lr{...}, 5, cosine_annealing_lr{...}): the first for 5 steps, then the second, counting from 0 again.
template <Schedule First, Schedule Second>
constexpr auto then(First const& first, std::int64_t steps, Second const& second) {
  return schedule_sequence<First, Second>{first, steps, second};
}

/// The base rate for ever.
struct constant_rate {
  double operator()(double base_lr, std::int64_t) const { return base_lr; }
};

/// Times `gamma` every `step_size` steps.
struct step_lr {
  std::int64_t step_size = 30;
  double gamma = 0.1;
  double operator()(double base_lr, std::int64_t step) const { return base_lr * std::pow(gamma, static_cast<double>(step / detail::at_least_one(step_size, "step_lr: .step_size"))); }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("step_size", step_size);
    visit("gamma", gamma);
  }
};

/// Times `gamma` at each milestone (ascending; one that stands twice counts twice).
struct multi_step_lr {
  std::vector<std::int64_t> milestones = {};
  double gamma = 0.1;
  double operator()(double base_lr, std::int64_t step) const {
    std::int64_t passed = 0;
    for (std::int64_t const m : milestones) passed += m <= step ? 1 : 0;
    return base_lr * std::pow(gamma, static_cast<double>(passed));
  }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("milestones", milestones);
    visit("gamma", gamma);
  }
};

/// Times `gamma` every step.
struct exponential_lr {
  double gamma = 0.9;
  double operator()(double base_lr, std::int64_t step) const { return base_lr * std::pow(gamma, static_cast<double>(step)); }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("gamma", gamma);
  }
};

/// Half a cosine from the base rate to `eta_min` within `t_max` steps (and back, if one goes on).
/// Source: Loshchilov, Hutter, "SGDR", 2017, arXiv:1608.03983, eq. 5.
struct cosine_annealing_lr {
  std::int64_t t_max = 100;
  double eta_min = 0;
  double operator()(double base_lr, std::int64_t step) const {
    return eta_min + (base_lr - eta_min) * (1 + std::cos(detail::pi * static_cast<double>(step) / static_cast<double>(detail::at_least_one(t_max, "cosine_annealing_lr: .t_max")))) / 2;
  }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("T_max", t_max);
    visit("eta_min", eta_min);
  }
};

/// The cosine started anew after t_0 steps, then after t_0 * t_mult, and so on (the same source).
struct cosine_annealing_warm_restarts {
  std::int64_t t_0 = 10;
  std::int64_t t_mult = 1;
  double eta_min = 0;
  double operator()(double base_lr, std::int64_t step) const {
    period const now = at(step);
    return eta_min + (base_lr - eta_min) * (1 + std::cos(detail::pi * static_cast<double>(now.current) / static_cast<double>(now.length))) / 2;
  }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("T_0", t_0);
    visit("T_mult", t_mult);
    visit("eta_min", eta_min);
  }
  template <class Visitor>
  void progress(std::int64_t step, Visitor&& visit) const {
    visit("T_i", at(step).length);
    visit("T_cur", at(step).current);
  }

 private:
  struct period {
    std::int64_t length, current;
  };
  period at(std::int64_t step) const {
    period p{detail::at_least_one(t_0, "cosine_annealing_warm_restarts: .t_0"), step};
    if (detail::at_least_one(t_mult, "cosine_annealing_warm_restarts: .t_mult") == 1) p.current = step % t_0;
    else
      while (p.current >= p.length) {
        p.current -= p.length;
        p.length *= t_mult;
      }
    return p;
  }
};

/// A straight line from start_factor to end_factor times the base rate within `total_iters` steps.
struct linear_lr {
  double start_factor = 1.0 / 3;
  double end_factor = 1.0;
  std::int64_t total_iters = 5;
  double operator()(double base_lr, std::int64_t step) const {
    double const share = static_cast<double>(step < total_iters ? step : total_iters) / static_cast<double>(detail::at_least_one(total_iters, "linear_lr: .total_iters"));
    return base_lr * (start_factor + (end_factor - start_factor) * share);
  }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("start_factor", start_factor);
    visit("end_factor", end_factor);
    visit("total_iters", total_iters);
  }
};

/// The base rate is reached after `steps` steps, each of which adds the same: step s (from 0) has (s + 1) / steps of it.
struct linear_warmup {
  std::int64_t steps = 5;
  double operator()(double base_lr, std::int64_t step) const {
    return step + 1 >= steps ? base_lr : base_lr * static_cast<double>(step + 1) / static_cast<double>(steps);
  }
  template <Schedule Next>
  constexpr auto then(Next const& next) const {
    return schedule_sequence<linear_warmup, Next>{*this, steps, next};
  }
};

/// `factor` times the base rate for `total_iters` steps, then the base rate.
struct constant_lr {
  double factor = 1.0 / 3;
  std::int64_t total_iters = 5;
  double operator()(double base_lr, std::int64_t step) const { return step < total_iters ? base_lr * factor : base_lr; }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("factor", factor);
    visit("total_iters", total_iters);
  }
};

/// base * (1 - step / total_iters) ^ power, and 0 afterwards.
struct polynomial_lr {
  std::int64_t total_iters = 5;
  double power = 1.0;
  double operator()(double base_lr, std::int64_t step) const {
    double const steps = static_cast<double>(detail::at_least_one(total_iters, "polynomial_lr: .total_iters"));
    return base_lr * std::pow(1 - static_cast<double>(step < total_iters ? step : total_iters) / steps, power);
  }
  template <class Visitor>
  void settings(Visitor&& visit) const {
    visit("total_iters", total_iters);
    visit("power", power);
  }
};

/// base * f(step).
template <class F>
struct lambda_lr {
  F lambda;
  double operator()(double base_lr, std::int64_t step) const { return base_lr * static_cast<double>(lambda(step)); }
};
template <class F>
lambda_lr(F) -> lambda_lr<F>;

/// Up to `max_lr`, then down to next to nothing. The base rate does not matter.
/// Source: Smith, Topin, "Super-convergence", 2018, arXiv:1708.07120; PyTorch's OneCycleLR with cosine annealing (or linear).
struct one_cycle_lr {
  double max_lr = 0.1;
  std::int64_t total_steps = 100;
  double pct_start = 0.3;
  bool linear = false;  ///< anneal_strategy "linear"
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool three_phase = false;

  double operator()(double, std::int64_t step) const {
    double const initial = max_lr / div_factor;
    double const minimum = initial / final_div_factor;
    double const total = static_cast<double>(detail::at_least_one(total_steps, "one_cycle_lr: .total_steps"));
    double const at = static_cast<double>(step);
    double const first = pct_start * total - 1;
    if (three_phase) {
      double const second = 2 * pct_start * total - 2;
      if (at <= first) return between(initial, max_lr, first > 0 ? at / first : 1);
      if (at <= second) return between(max_lr, initial, (at - first) / (second - first));
      return between(initial, minimum, (at - second) / (total - 1 - second));
    }
    if (at <= first) return between(initial, max_lr, first > 0 ? at / first : 1);
    return between(max_lr, minimum, (at - first) / (total - 1 - first));
  }

 private:
  double between(double from, double to, double share) const {
    return linear ? (to - from) * share + from : to + (from - to) / 2 * (1 + std::cos(detail::pi * share));
  }
};

/// Up and down between `base_lr` and `max_lr`. Source: Smith, "Cyclical learning rates", 2017, arXiv:1506.01186.
struct cyclic_lr {
  enum class mode_type { triangular, triangular2, exp_range };
  double base_lr = 0.001;
  double max_lr = 0.01;
  std::int64_t step_size_up = 2000;
  std::int64_t step_size_down = 0;  ///< 0: as many as up
  mode_type mode = mode_type::triangular;
  double gamma = 1.0;
  double operator()(double, std::int64_t step) const {
    double const up = static_cast<double>(detail::at_least_one(step_size_up, "cyclic_lr: .step_size_up"));
    double const total = up + static_cast<double>(step_size_down == 0 ? step_size_up : step_size_down);
    double const ratio = up / total;
    double const cycle = std::floor(1 + static_cast<double>(step) / total);
    double const x = 1 + static_cast<double>(step) / total - cycle;
    double const scale = x <= ratio ? x / ratio : (x - 1) / (ratio - 1);
    double const amplitude = mode == mode_type::triangular    ? 1
                             : mode == mode_type::triangular2 ? 1 / std::pow(2.0, cycle - 1)
                                                              : std::pow(gamma, static_cast<double>(step));
    return base_lr + (max_lr - base_lr) * scale * amplitude;
  }
};

}  // namespace mortise
