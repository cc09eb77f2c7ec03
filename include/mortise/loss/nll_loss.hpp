// Negative log likelihood of class indices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mortise/loss/class_targets.hpp>
#include <mortise/loss/reduction.hpp>
#include <mortise/operation/nll.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// torch.nn.NLLLoss: -w_t x_t for log-probabilities x (batch, C, d1, ...) and class indices t (batch, d1, ...). The network ends in
/// mortise::log_softmax; cross_entropy_loss on the scores does both at once, and better. Errors as there.
struct nll_loss {
  template <class T>
  using target_type = std::int64_t;

  std::vector<double> weight{};  ///< of each class; empty: all 1
  std::int64_t ignore_index = -100;
  mortise::reduction reduction = mortise::reduction::mean;

  static constexpr char const* problem(shape out) {
    if (out.rank == 0) return "nll_loss wants one log-probability per class: end the network with mortise::linear<classes>, mortise::log_softmax";
    return nullptr;
  }
  static constexpr shape target_shape(shape out) { return detail::class_target_shape(out); }
  static constexpr std::size_t workspace(shape out) { return detail::loss_workspace(detail::positions_of(out)); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, std::int64_t const* y, T* dx, T* value, T* workspace) const {
    constexpr std::size_t classes = Out::value[0];
    constexpr std::size_t positions = detail::positions_of(Out::value);
    if (!weight.empty() && weight.size() != classes) detail::throw_weight_count("nll_loss", "weight", weight.size(), classes);
    double const* const w = weight.empty() ? nullptr : weight.data();
    double const total = detail::total_weight(device, "nll_loss", batch, classes, positions, y, ignore_index, w);
    double const scale = reduction == mortise::reduction::mean ? 1 / total : reduction == mortise::reduction::batchmean ? 1 / static_cast<double>(batch) : 1.0;
    nll(device, batch, classes, positions, x, y, ignore_index, w, static_cast<T>(scale), dx, workspace);
    *value = sum(device, workspace, batch * positions, workspace + batch * positions) * static_cast<T>(scale);
  }
};

}  // namespace mortise
