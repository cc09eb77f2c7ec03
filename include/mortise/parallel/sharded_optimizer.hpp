// The optimizer's state shared out among processes: ZeRO, stage 1.
#pragma once

#include <cstddef>
#include <string_view>

#include <mortise/optimizer/optimizer.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

/// An optimizer of which each process of a data_parallel keeps and updates its range of the flat array: 1 / N of the state, and of the
/// update's work. Bits, settings and checkpoints are those of `optimizer`; a run may go on with either, under any number of processes.
///
///     mt::sharded_optimizer opt{many, mt::adamw{.lr = 1e-3}};
///
/// `step`, `slot` and `state`, and with them saving and loading, are called by all processes together. `slot` gathers the whole state, which
/// then lies here until the next step.
/// Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, arXiv:1910.02054, section 5.1.
template <class Many, UpdateRule Rule, class... Specs>
class sharded_optimizer : public optimizer<typename Many::model_type, Rule, Specs...> {
  using base = optimizer<typename Many::model_type, Rule, Specs...>;

 public:
  using typename base::device_type;
  using typename base::element;

  explicit sharded_optimizer(Many& many, Rule const& rule = {}, Specs const&... specs)
      : base{many.model(), many.window(base::element_count), rule, specs...}, many_{&many} {}

  /// Updates this process's range, and gives everybody all parameters.
  void step() {
    take_back();
    base::step();
    many_->gather_windows(base::model().parameters().data(), base::element_count);
  }

  view<element> slot(std::size_t i) {
    gather();
    return {whole_.data() + i * base::element_count, shape{base::element_count}};
  }
  view<element> state(std::string_view name) {
    base::state(name);  // throws when there is none
    std::size_t i = 0;
    while (base::slot_name(i) != name) ++i;
    return slot(i);
  }

 private:
  void gather() {
    std::size_t const slots = base::slot_count(), n = base::element_count;
    if (whole_.size() == slots * n) return;
    auto const window = many_->window(n);
    whole_ = buffer<element, device_type>{base::model().device(), slots * n};
    for (std::size_t i = 0; i < slots; ++i) {
      element* const to = whole_.data() + i * n;
      base::model().device().copy(to + window.first, base::slot(i).data(), window.count * sizeof(element));
      many_->gather_windows(to, n);
    }
  }
  /// What a checkpoint may have written into the whole state goes back to where it is worked on.
  void take_back() {
    if (whole_.size() == 0) return;
    std::size_t const n = base::element_count;
    auto const window = many_->window(n);
    for (std::size_t i = 0; i < base::slot_count(); ++i)
      base::model().device().copy(base::slot(i).data(), whole_.data() + i * n + window.first, window.count * sizeof(element));
    base::model().device().synchronize();
    whole_ = {};
  }

  Many* many_;
  buffer<element, device_type> whole_{};
};

template <class Many, class Rule, class... Specs>
sharded_optimizer(Many&, Rule, Specs...) -> sharded_optimizer<Many, Rule, Specs...>;

}  // namespace mortise
