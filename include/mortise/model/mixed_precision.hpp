// What a network keeps that computes in 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <mortise/operation/map.hpp>
#include <mortise/operation/mixed_precision.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

/// torch.amp.GradScaler, inside an f16 model: the loss's gradient is multiplied by `scale`, so that small gradients do not vanish in 16 bits,
/// and all gradients are divided by it again. Gradients with an infinity or NaN are not used: the update is skipped on the device, and the
/// scale shrinks. Other than PyTorch's, optimizers count skipped updates, since nothing waits for the device to tell.
/// Source: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.2.
struct grad_scaler {
  double scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;
  std::int64_t growth_tracker = 0;

  loss_scale_rule on_device() const {
    return {static_cast<float>(growth_factor), static_cast<float>(backoff_factor), static_cast<std::int32_t>(growth_interval)};
  }
  friend bool operator==(grad_scaler const& a, grad_scaler const& b) {
    return a.scale == b.scale && a.growth_factor == b.growth_factor && a.backoff_factor == b.backoff_factor &&
           a.growth_interval == b.growth_interval && a.growth_tracker == b.growth_tracker;
  }
};

struct no_mixed_precision {};

/// The 16-bit copies of a model's flat arrays, and its loss scaler. bfloat16 has float's range: its scale is 1 and stays.
template <class D, class T>
class mixed_precision {
 public:
  buffer<T, D> parameters{}, gradients{}, input{};
  buffer<arithmetic_type<T>, D> output{}, output_gradient{};
  buffer<loss_scale_state, D> state{};
  grad_scaler settings{};
  bool of_a_part = false;  // the gradients are one part of a sum, which is judged as a whole

  mixed_precision() = default;
  mixed_precision(D const& device, std::size_t parameter_count, std::size_t trainable_count)
      : parameters{device, parameter_count}, gradients{device, trainable_count}, state{device, 1} {
    if constexpr (!std::is_same_v<T, f16>) settings = {1, 1, 1, 0, 0};
    set(settings);
  }

  grad_scaler scaler() const {
    loss_scale_state now{};
    transfer_elements<loss_scale_state, loss_scale_state>(state.device(), host{}, 1, state.data(), &now);
    grad_scaler s = settings;
    s.scale = static_cast<double>(now.scale);
    s.growth_tracker = now.growth_tracker;
    return s;
  }
  void set(grad_scaler const& s) {
    settings = s;
    loss_scale_state const next{static_cast<float>(s.scale), static_cast<std::int32_t>(s.growth_tracker), 0};
    transfer_elements<loss_scale_state, loss_scale_state>(host{}, state.device(), 1, &next, state.data());
  }
  /// Hands out references, through which a checkpoint that is loaded writes later; `take_described` looks for that.
  template <class Visitor>
  void describe(Visitor&& visit) {
    described_ = before_ = scaler();
    visit(std::string_view{"scale"}, described_.scale);
    visit(std::string_view{"growth_factor"}, described_.growth_factor);
    visit(std::string_view{"backoff_factor"}, described_.backoff_factor);
    visit(std::string_view{"growth_interval"}, described_.growth_interval);
    visit(std::string_view{"_growth_tracker"}, described_.growth_tracker);
  }
  /// Waits for nothing: a step that is being recorded may call it.
  void take_described() {
    if (described_ == before_) return;
    settings = before_ = described_;
    next_ = {static_cast<float>(settings.scale), static_cast<std::int32_t>(settings.growth_tracker), 0};
    state.device().copy(state.data(), &next_, sizeof next_);
  }

 private:
  grad_scaler described_{}, before_{};
  loss_scale_state next_{};
};

}  // namespace mortise
