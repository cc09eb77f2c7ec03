// dropout: random zeros while training.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/dropout.hpp>

namespace mortise {

/// In training y = x / (1 - p), or 0 with probability p; in evaluation y = x. Any shape. Keeps a byte for each element.
///
/// The random number of an element is that of (seed, path of this module, training step, sample in the whole batch, element): no thread
/// count, no device and no cut of a batch changes which ones are dropped.
///
/// Settings live in the value: `net.module<"drop">().p = 0.25`. To give one in the type, derive: `struct weak : mt::dropout { ... }` with a
/// default constructor, or write `mt::dropout_p<1, 4>`, which starts with p = 1/4.
struct dropout {
  static constexpr std::string_view name = "dropout";
  double p = 0.5;

  static constexpr module_description describe(shape in) {
    module_description d;
    d.output = in;
    d.saved_bytes = in.elements();
    d.saved_in_training_only = true;
    d.reads_input = false;
    d.in_place = true;
    d.backward_in_place = true;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    std::size_t const n = a.batch * Args::input::elements;
    if (a.training)
      dropout_forward(a.device, n, p, a.random, std::uint64_t{a.first_sample} * Args::input::elements, a.x, a.y,
                      reinterpret_cast<std::uint8_t*>(a.saved_bytes));
    else if (a.x != a.y)
      a.device.copy(a.y, a.x, n * sizeof(typename Args::element));
  }
  template <class Args>
  void backward(Args const& a) const {
    std::size_t const n = a.batch * Args::input::elements;
    if (a.dx == nullptr) return;
    if (a.training)
      dropout_backward(a.device, n, p, a.dy, reinterpret_cast<std::uint8_t const*>(a.saved_bytes), a.dx);
    else if (a.dx != a.dy)
      a.device.copy(a.dx, a.dy, n * sizeof(typename Args::element));
  }
};

/// dropout whose p starts as Numerator / Denominator.
template <std::size_t Numerator, std::size_t Denominator>
struct dropout_p : dropout {
  static_assert(Denominator > 0 && Numerator <= Denominator, "mortise::dropout_p: the probability lies between 0 and 1");
  constexpr dropout_p() : dropout{static_cast<double>(Numerator) / static_cast<double>(Denominator)} {}
};

}  // namespace mortise
