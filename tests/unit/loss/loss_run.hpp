// Runs a loss on plain vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mortise/device/host.hpp>
#include <mortise/tensor/shape.hpp>

namespace mt = mortise;

template <class T>
struct loss_result {
  T value{};
  std::vector<T> dx{};
};

template <class Out, class Loss, class T, class Target>
loss_result<T> run_loss(Loss const& loss, std::vector<T> const& x, std::vector<Target> const& y, bool gradient = true, int threads = 1) {
  std::size_t const batch = x.size() / Out::elements;
  loss_result<T> r;
  r.dx.resize(gradient ? x.size() : 0);
  std::vector<T> workspace(Loss::workspace(Out::value) * batch);
  loss.template operator()<Out>(mt::host{threads}, batch, x.data(), y.data(), gradient ? r.dx.data() : nullptr, &r.value, workspace.data());
  return r;
}
