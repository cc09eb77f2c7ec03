// A slow copy of the parameters, for evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <mortise/config.hpp>
#include <mortise/detail/decimal.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/operation/update.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

struct average_settings {
  detail::decimal decay = 0.999;
};

namespace detail {

/// average -= (1 - decay) (average - parameter)
template <class T>
struct average_update {
  T one_minus_decay;
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& average, V const& parameter, V*) const {
    return V(one_minus_decay) * (average - parameter);
  }
};

[[noreturn]] MORTISE_COLD inline void throw_swapped_in() {
  throw usage_error("mortise::exponential_moving_average: the averages are swapped in; train, update and save after they are swapped out again");
}

}  // namespace detail

/// average = decay average + (1 - decay) parameters at each `update()`; the first one copies the parameters.
/// torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn.
///
///     mt::exponential_moving_average average{net, {.decay = 0.999f}};
///     mt::checkpoint run{net, opt, average, ...};            under "ema_state_dict"
///     mt::train_step(net, loss, opt, batch); average.update();
///     { auto const in = average.swapped_in(); ... evaluate net ... }
///     mt::save("averaged.safetensors", average);             a state_dict, with the model's buffers
///
/// Keeps a reference to the model. One pass over the flat array; nothing is allocated but by the first swap.
template <class Model>
class exponential_moving_average {
 public:
  using element = typename Model::element;
  using device_type = typename Model::device_type;
  static constexpr std::string_view state_name = "ema_state_dict";
  static constexpr auto const& state_table = Model::state_table;

  explicit exponential_moving_average(Model& model, average_settings const& settings = {})
      : model_{&model}, settings_{settings}, average_{model.device(), Model::parameter_count} {
    model.device().copy(average_.data(), model.parameters().data(), average_.bytes());
  }
  exponential_moving_average(exponential_moving_average const&) = delete;  // a model has one that is in its checkpoint
  exponential_moving_average& operator=(exponential_moving_average const&) = delete;

  /// Call it after each step. Throws usage_error while the averages are swapped in.
  void update() {
    if (swapped_) [[unlikely]]
      detail::throw_swapped_in();
    element const* const parameters = model_->parameters().data();
    if (updates_++ == 0) {
      model_->device().copy(average_.data(), parameters, average_.bytes());
      return;
    }
    // What is frozen by its type does not move.
    update_part<detail::average_update<element>> const part{{static_cast<element>(1 - settings_.decay)}, 0, 0};
    update_arrays<element, 0> const arrays{average_.data(), parameters, {}};
    update_parts<0>(model_->device(), &part, 1, Model::trainable_count, arrays);
  }

  /// While this lives, the model has the averages.
  class swap_guard {
   public:
    explicit swap_guard(exponential_moving_average& average) : average_{&average} { average_->exchange(); }
    swap_guard(swap_guard const&) = delete;
    swap_guard& operator=(swap_guard const&) = delete;
    ~swap_guard() { average_->exchange(); }

   private:
    exponential_moving_average* average_;
  };
  [[nodiscard]] swap_guard swapped_in() {
    if (swapped_) detail::throw_swapped_in();
    if (spare_.size() == 0) spare_ = buffer<element, device_type>{model_->device(), Model::parameter_count};
    return swap_guard{*this};
  }

  std::int64_t updates() const { return updates_; }
  device_type const& device() const { return model_->device(); }
  /// The averages, in the layout of the model's parameters. Throws usage_error while they are swapped in.
  view<element> parameters() {
    if (swapped_) detail::throw_swapped_in();
    return {average_.data(), shape{Model::parameter_count}};
  }
  view<element const> parameters() const { return const_cast<exponential_moving_average&>(*this).parameters(); }
  /// Running statistics are the model's own.
  auto buffers() { return model_->buffers(); }
  auto buffers() const { return const_cast<Model const&>(*model_).buffers(); }
  auto counters() { return model_->counters(); }
  auto counters() const { return const_cast<Model const&>(*model_).counters(); }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit(std::string_view{"n_averaged"}, updates_);
  }

 private:
  void exchange() {
    auto const& device = model_->device();
    element* const parameters = model_->parameters().data();
    device.copy(spare_.data(), parameters, average_.bytes());
    device.copy(parameters, average_.data(), average_.bytes());
    device.copy(average_.data(), spare_.data(), average_.bytes());
    swapped_ = !swapped_;
  }

  Model* model_;
  average_settings settings_;
  buffer<element, device_type> average_, spare_{};
  std::int64_t updates_ = 0;
  bool swapped_ = false;
};

template <class Model>
exponential_moving_average(Model&, average_settings) -> exponential_moving_average<Model>;

}  // namespace mortise
