// Several batches for one update.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/module/plan.hpp>
#include <mortise/operation/map.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

/// Stands in for an optimizer: `step()` adds the gradients to a sum, and every `batches` calls updates with their mean. The gradient is that
/// of one batch of all these samples if the batches have the same size.
///
///     mt::optimizer opt{net, mt::adamw{}};
///     mt::gradient_accumulation accumulate{opt, 4};
///     mt::checkpoint run{net, opt, accumulate, ...};                        under "gradient_accumulation"; resumes between two updates too
///     mt::train_step(net, loss, accumulate, batch);
///
/// Keeps a reference to the optimizer. A batch norm still sees each batch by itself. One array of the gradients' size.
template <class Optimizer>
class gradient_accumulation {
  using model_type = std::remove_cvref_t<decltype(std::declval<Optimizer&>().model())>;

  static_assert(!requires(model_type& m) { m.overflow(); },
                "mortise::gradient_accumulation: an f16 or bf16 network decides by the gradients of one batch whether to update, and an overflow in "
                "an earlier batch would go unnoticed; accumulate in a float network");

 public:
  using element = typename Optimizer::element;
  using device_type = typename Optimizer::device_type;
  static constexpr std::string_view state_name = "gradient_accumulation";

 private:
  static constexpr auto trainable_entries() {
    table_of<state_entry, Optimizer::parameter_count> list;
    for (std::size_t i = 0; i < Optimizer::parameter_count; ++i) list[i] = model_type::parameter_table[i];
    return list;
  }

 public:
  static constexpr auto state_table = trainable_entries();

  /// Throws usage_error unless `batches` is positive.
  gradient_accumulation(Optimizer& optimizer, std::int64_t batches)
      : optimizer_{&optimizer}, batches_{batches}, sum_{optimizer.model().device(), model_type::trainable_count} {
    if (batches < 1) throw usage_error("mortise::gradient_accumulation: an update needs one batch at least, not " + std::to_string(batches));
  }

  /// Takes the gradients of one batch. True: the optimizer has made an update.
  bool step() {
    if (batches_ == 1) {
      optimizer_->step();
      return true;
    }
    auto& net = optimizer_->model();
    element* const gradients = net.gradients().data();
    if (taken_ == 0) device().copy(sum_.data(), gradients, sum_.bytes());
    else elementwise_add(device(), sum_.size(), static_cast<element const*>(sum_.data()), static_cast<element const*>(gradients), sum_.data());
    if (++taken_ < batches_) return false;
    finish();
    return true;
  }
  /// Updates now with what there is, as at the end of an epoch; nothing if there is nothing.
  void finish() {
    if (taken_ == 0) return;
    elementwise_scale(device(), sum_.size(), element{1} / static_cast<element>(taken_), sum_.data());
    device().copy(optimizer_->model().gradients().data(), sum_.data(), sum_.bytes());
    optimizer_->step();
    taken_ = 0;
  }

  /// Batches since the last update.
  std::int64_t taken() const { return taken_; }
  Optimizer& optimizer() { return *optimizer_; }
  device_type const& device() const { return optimizer_->model().device(); }

  /// The sum so far, in the layout of the gradients.
  view<element> parameters() { return {sum_.data(), shape{sum_.size()}}; }
  view<element const> parameters() const { return {sum_.data(), shape{sum_.size()}}; }
  view<element> buffers() const { return {}; }
  view<std::int64_t> counters() const { return {}; }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit(std::string_view{"taken"}, taken_);
  }

  /// Steps that do different work have different records on devices that keep them.
  void const* step_identity() const { return &identities_[taken_ == 0 ? 0 : taken_ + 1 < batches_ ? 1 : 2]; }

 private:
  Optimizer* optimizer_;
  std::int64_t batches_;
  std::int64_t taken_ = 0;
  buffer<element, device_type> sum_;
  char identities_[3] = {};
};

}  // namespace mortise
