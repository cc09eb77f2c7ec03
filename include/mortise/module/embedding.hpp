// embedding: a learned vector for each index.
#pragma once

#include <cstdint>
#include <type_traits>

#include <mortise/module/description.hpp>
#include <mortise/operation/embedding.hpp>

namespace mortise {

/// y = weight[x]: a row of the table for each index. The first module of a network, whose input is then std::int64_t.
///
/// x (batch, ...) of indices in 0 ... Num - 1   y (batch, ..., Dim)   weight (Num, Dim), N(0, 1) at first, PyTorch's default
/// An index out of range, for which PyTorch raises an error, gives a row of NaN here: a step on a device cannot stop to complain, but
/// the loss shows it, and nothing is read or written out of bounds. The order in which gradients are summed is fixed.
template <std::size_t Num, std::size_t Dim>
struct embedding {
  static_assert(Num > 0 && Dim > 0, "mortise::embedding: the number of rows and their width must be positive");
  static constexpr std::string_view name = "embedding";
  using input_type = std::int64_t;

  static constexpr module_description describe(shape in) {
    if (in.rank == shape::max_rank) return module_description::rejected("embedding adds an axis, and the input has 8 already, the most there can be");
    module_description d;
    d.output = in;
    d.output.push_back(Dim);
    d.input_for_parameters_only = true;
    d.parameter("weight", shape{Num, Dim}, init::normal(0, 1));
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    if constexpr (gets_indices<Args>()) embedding_forward(a.device, a.batch * Args::input::elements, Num, Dim, a.x, a.parameter(0), a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    // Indices have no gradient; what is asked for all the same is zero.
    if (a.dx != nullptr) a.device.fill_zero(a.dx, a.batch * Args::input::elements * sizeof(*a.dx));
    if constexpr (gets_indices<Args>())
      if (!a.frozen()) embedding_backward(a.device, a.batch * Args::input::elements, Num, Dim, a.x, a.dy, a.parameter_gradient(0));
  }

 private:
  template <class Args>
  static constexpr bool gets_indices() {
    static_assert(std::is_same_v<decltype(Args::x), std::int64_t const*>,
                  "mortise::embedding: it looks up indices, so it has to be the first module of the network, not behind others or in a branch");
    return std::is_same_v<decltype(Args::x), std::int64_t const*>;
  }
};

}  // namespace mortise
