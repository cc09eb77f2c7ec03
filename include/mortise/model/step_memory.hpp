// What a device keeps between the steps of a model.
#pragma once

#include <cstddef>

namespace mortise {

/// Batches come as views of host memory or of the model's device; a device that cannot read host memory specialises this to bring them over.
/// `input` and `target` return where the elements are for the device. Copies of a model do not share it.
template <class D>
struct step_memory {
  template <class T>
  T const* input(D const&, T const* elements, std::size_t) const {
    return elements;
  }
  template <class T>
  T const* target(D const&, T const* elements, std::size_t) const {
    return elements;
  }
};

/// Loss and gradient of a batch: Loss::operator(), or an overload for a device that wants its own way.
template <class Out, class Loss, class D, class T, class Target>
void compute_loss(Out, Loss const& loss, D const& device, std::size_t batch, T const* x, Target const* y, T* dx, T* value, T* workspace) {
  loss.template operator()<Out>(device, batch, x, y, dx, value, workspace);
}

}  // namespace mortise
