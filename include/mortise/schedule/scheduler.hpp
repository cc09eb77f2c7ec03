// A schedule at work: sets an optimizer's learning rates, and knows where it is.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <mortise/schedule/schedules.hpp>

namespace mortise {

namespace detail {

/// Groups as the user wrote them; an optimizer may have split them further.
template <class Optimizer>
constexpr std::size_t written_groups() {
  if constexpr (requires { Optimizer::written_group_count; }) return Optimizer::written_group_count;
  else return Optimizer::group_count;
}
template <class Optimizer>
constexpr std::size_t written_group(std::size_t group) {
  if constexpr (requires { Optimizer::written_group(group); }) return Optimizer::written_group(group);
  else return group;
}

}  // namespace detail

/// Sets the learning rate of every group from its base rate (what it was when the scheduler was made): at once for step 0, then at each
/// `step()`, which is called after an epoch, or after an optimizer step, whatever the schedule counts.
///
///     mt::scheduler schedule{opt, mt::step_lr{.step_size = 30, .gamma = 0.1}};                       one schedule for all groups
///     mt::scheduler schedule{opt, mt::constant_rate{}, mt::cosine_annealing_lr{.t_max = 20}};        or one for each: group 0, group 1
///     ... schedule.step();
///
/// Keeps a reference to the optimizer. Its state is part of a checkpoint, under PyTorch's keys, and so are the settings of a single schedule:
/// a file whose schedule had others is refused.
template <class Optimizer, Schedule... S>
class scheduler {
  static_assert(sizeof...(S) == 1 || sizeof...(S) == detail::written_groups<Optimizer>(),
                "mortise::scheduler: give one schedule for all groups, or one for each: for what no group names, then for each group<...> as written");

 public:
  static constexpr std::string_view state_name = "scheduler_state_dict";

  scheduler(Optimizer& optimizer, S... schedules) : optimizer_{&optimizer}, schedules_{std::move(schedules)...} {
    for (std::size_t g = 0; g < optimizer.group_count; ++g) base_lrs_.push_back(static_cast<double>(optimizer.learning_rate(g)));
    apply();
  }

  void step() {
    ++last_epoch_;
    apply();
  }
  std::int64_t last_epoch() const { return last_epoch_; }
  /// The rate of a group that is in force.
  double last_lr(std::size_t group = 0) const { return last_lr_.at(group); }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("last_epoch", last_epoch_);
    visit("_step_count", step_count_);
    visit("base_lrs", base_lrs_);
    visit("_last_lr", last_lr_);
    if constexpr (sizeof...(S) == 1) {
      auto const& schedule = std::get<0>(schedules_);
      [[maybe_unused]] auto const setting = [&visit]<class T>(std::string_view name, T const& value) {
        schedule_setting<T> s{value};
        visit(name, s);
      };
      [[maybe_unused]] auto const progress = [&visit]<class T>(std::string_view name, T const& value) {
        schedule_progress<T> p{value};
        visit(name, p);
      };
      if constexpr (requires { schedule.settings(setting); }) schedule.settings(setting);
      if constexpr (requires { schedule.progress(last_epoch_, progress); }) schedule.progress(last_epoch_, progress);
    }
  }

 private:
  template <std::size_t... I>
  double rate(std::size_t group, std::index_sequence<I...>) const {
    std::size_t const which = sizeof...(S) == 1 ? 0 : detail::written_group<Optimizer>(group);
    double result = 0;
    static_cast<void>(((I == which ? (result = std::get<I>(schedules_)(base_lrs_[group], last_epoch_), true) : false) || ...));
    return result;
  }
  void apply() {
    step_count_ = last_epoch_ + 1;
    last_lr_.resize(base_lrs_.size());
    for (std::size_t g = 0; g < base_lrs_.size(); ++g) {
      last_lr_[g] = rate(g, std::index_sequence_for<S...>{});
      optimizer_->set_learning_rate(last_lr_[g], g);
    }
  }

  Optimizer* optimizer_;
  std::tuple<S...> schedules_;
  std::int64_t last_epoch_ = 0;
  std::int64_t step_count_ = 1;
  std::vector<double> base_lrs_, last_lr_;
};

/// When a metric has stopped to improve, and what happens then; PyTorch's names and defaults.
struct plateau_settings {
  bool maximize = false;  ///< mode "max"
  double factor = 0.1;
  std::int64_t patience = 10;
  double threshold = 1e-4;
  bool absolute_threshold = false;  ///< threshold_mode "abs"
  std::int64_t cooldown = 0;
  double min_lr = 0;
  double eps = 1e-8;
};

/// Lowers the rates when a metric has stopped to improve. `step(metric)` after each epoch. PyTorch's ReduceLROnPlateau.
template <class Optimizer>
class reduce_lr_on_plateau {
 public:
  static constexpr std::string_view state_name = "scheduler_state_dict";

  explicit reduce_lr_on_plateau(Optimizer& optimizer, plateau_settings const& s = {})
      : optimizer_{&optimizer}, settings_{s},
        best_{s.maximize ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity()} {}

  void step(double metric) {
    ++last_epoch_;
    if (better(metric)) {
      best_ = metric;
      bad_epochs_ = 0;
    } else {
      ++bad_epochs_;
    }
    if (cooldown_counter_ > 0) {
      --cooldown_counter_;
      bad_epochs_ = 0;
    }
    if (bad_epochs_ > settings_.patience) {
      for (std::size_t g = 0; g < optimizer_->group_count; ++g) {
        double const old = static_cast<double>(optimizer_->learning_rate(g));
        double const lowered = old * settings_.factor;
        double const fresh = lowered > settings_.min_lr ? lowered : settings_.min_lr;
        if (old - fresh > settings_.eps) optimizer_->set_learning_rate(fresh, g);
      }
      cooldown_counter_ = settings_.cooldown;
      bad_epochs_ = 0;
    }
  }
  double best() const { return best_; }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("best", best_);
    visit("num_bad_epochs", bad_epochs_);
    visit("cooldown_counter", cooldown_counter_);
    visit("last_epoch", last_epoch_);
    auto const setting = [&visit]<class T>(std::string_view name, T value) {
      schedule_setting<T> s{std::move(value)};
      visit(name, s);
    };
    setting("mode", std::string{settings_.maximize ? "max" : "min"});
    setting("factor", settings_.factor);
    setting("patience", settings_.patience);
    setting("threshold", settings_.threshold);
    setting("threshold_mode", std::string{settings_.absolute_threshold ? "abs" : "rel"});
    setting("cooldown", settings_.cooldown);
    setting("min_lrs", std::vector<double>(optimizer_->group_count, settings_.min_lr));
    setting("eps", settings_.eps);
  }

 private:
  bool better(double metric) const {
    double const t = settings_.threshold;
    if (settings_.absolute_threshold) return settings_.maximize ? metric > best_ + t : metric < best_ - t;
    return settings_.maximize ? metric > best_ * (t + 1) : metric < best_ * (1 - t);
  }

  Optimizer* optimizer_;
  plateau_settings settings_;
  double best_;
  std::int64_t bad_epochs_ = 0, cooldown_counter_ = 0, last_epoch_ = 0;
};

}  // namespace mortise
