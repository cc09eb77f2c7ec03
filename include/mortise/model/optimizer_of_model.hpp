// Whether an optimizer, or what stands in for one, updates the model that is trained.
#pragma once

#include <type_traits>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>

namespace mortise::detail {

[[noreturn]] MORTISE_COLD inline void refuse_other_optimizer() {
  throw usage_error("mortise::train_step: this optimizer updates another model than the one that is trained here; construct both with the same model, "
                    "and leave it where it is: a copy, or a model that was moved, is another one");
}

template <class Model, class OtherModel>
constexpr void optimizer_updates_the_model() {
  static_assert(std::is_same_v<Model, OtherModel>,
                "mortise::train_step: the optimizer belongs to another type of model than the one that is trained (another network, device or element "
                "type); construct both with the same model");
}

/// Throws usage_error where `optimizer` updates another model than `net`. What does not say which model it updates is let through.
template <class Model, class Optimizer>
void check_optimizer(Model const& net, Optimizer& optimizer) {
  if constexpr (requires { optimizer.model(); }) {
    using updated = std::remove_cvref_t<decltype(optimizer.model())>;
    optimizer_updates_the_model<Model, updated>();
    if constexpr (std::is_same_v<updated, Model>)
      if (&optimizer.model() != &net) [[unlikely]]
        refuse_other_optimizer();
  } else if constexpr (requires { optimizer.optimizer(); }) {
    check_optimizer(net, optimizer.optimizer());
  }
}

}  // namespace mortise::detail
