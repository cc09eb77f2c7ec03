// Cross entropy between scores and class indices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mortise/detail/decimal.hpp>
#include <mortise/loss/class_targets.hpp>
#include <mortise/loss/reduction.hpp>
#include <mortise/operation/cross_entropy.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// torch.nn.CrossEntropyLoss on class indices: log_softmax and negative log likelihood.
///
/// scores (batch, C, d1, ...), targets (batch, d1, ...) of indices in [0, C), or `ignore_index`. The mean divides by the sum of the
/// targets' weights. Throws usage_error, and has then written nothing, when an index or the number of weights does not fit.
struct cross_entropy_loss {
  template <class T>
  using target_type = std::int64_t;

  std::vector<double> weight{};  ///< of each class; empty: all 1
  std::int64_t ignore_index = -100;
  mortise::reduction reduction = mortise::reduction::mean;
  detail::decimal label_smoothing = 0.0;

  /// What is wrong with scores of this shape, or null.
  static constexpr char const* problem(shape out) {
    if (out.rank == 0) return "cross_entropy_loss wants one score per class: end the network with mortise::linear<classes>";
    if (out[0] < 2) return "cross_entropy_loss wants at least two classes; for one score per sample use mortise::bce_with_logits_loss";
    return nullptr;
  }
  static constexpr shape target_shape(shape out) { return detail::class_target_shape(out); }
  static constexpr std::size_t workspace(shape out) { return detail::loss_workspace(detail::positions_of(out)); }

  template <class Out, class D, class T>
  void operator()(D const& device, std::size_t batch, T const* x, std::int64_t const* y, T* dx, T* value, T* workspace) const {
    auto a = arguments<Out>(batch, x, y, dx, workspace);
    double const total = detail::total_weight(device, "cross_entropy_loss", batch, a.classes, a.positions, y, ignore_index, a.weight);
    double const scale = reduction == mortise::reduction::mean        ? 1 / total
                         : reduction == mortise::reduction::batchmean ? 1 / static_cast<double>(batch)
                                                                      : 1.0;
    a.scale = static_cast<T>(scale);
    cross_entropy<Out::value[0], detail::positions_of(Out::value)>(device, a);
    *value = sum(device, workspace, batch * a.positions, workspace + batch * a.positions) * static_cast<T>(scale);
  }

  /// What the operation is told, all but its scale. Throws usage_error when the number of weights does not fit.
  template <class Out, class T>
  cross_entropy_args<T> arguments(std::size_t batch, T const* x, std::int64_t const* y, T* dx, T* workspace) const {
    constexpr std::size_t classes = Out::value[0];
    if (!weight.empty() && weight.size() != classes) detail::throw_weight_count("cross_entropy_loss", "weight", weight.size(), classes);
    cross_entropy_args<T> a;
    a.batch = batch;
    a.classes = classes;
    a.positions = detail::positions_of(Out::value);
    a.x = x;
    a.target = y;
    a.dx = dx;
    a.losses = workspace;
    a.weight = weight.empty() ? nullptr : weight.data();
    a.ignored = ignore_index;
    a.smoothing = static_cast<T>(label_smoothing.value);
    return a;
  }
};

}  // namespace mortise
