// What all losses that compare element with element share.
#pragma once

#include <cstddef>

#include <mortise/loss/reduction.hpp>
#include <mortise/operation/pointwise_loss.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise::detail {

/// 1 / number of elements, 1 / number of samples, or 1.
constexpr double reduction_scale(reduction r, std::size_t batch, std::size_t per_sample) {
  switch (r) {
    case reduction::mean: return 1.0 / static_cast<double>(batch * per_sample);
    case reduction::batchmean: return 1.0 / static_cast<double>(batch);
    case reduction::sum: break;
  }
  return 1.0;
}

template <class Out, class Formula, class D, class T>
void run_pointwise(D const& device, Formula const& formula, reduction r, std::size_t batch, T const* x, T const* y, T* dx, T* value,
                   T* workspace) {
  constexpr std::size_t per_sample = Out::value.elements();
  pointwise_loss(device, formula, batch * per_sample, x, y, static_cast<T>(reduction_scale(r, batch, per_sample)), dx, value, workspace);
}

/// -1, 0 or 1
template <class V>
MORTISE_INLINE MORTISE_HD V sign_of(V const& x) {
  V const zero(value_of<V>(0));
  V const one(value_of<V>(1));
  return select(x > zero, one, select(x < zero, -one, x));  // NaN stays
}

}  // namespace mortise::detail
