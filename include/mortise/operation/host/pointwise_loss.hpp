// Element by element losses on the host.
#pragma once

#include <cstddef>
#include <cstring>

#include <mortise/detail/math.hpp>
#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/operation/reduce.hpp>

namespace mortise {

namespace detail {

template <class Formula, class T>
struct pointwise_loss_kernel {
  static constexpr int most_bytes = 32;
  Formula const& given;
  T const* x;
  T const* y;
  T* dx;
  std::size_t first;
  std::size_t count;
  T scale;
  T* partial;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    Formula const formula = given;
    V const factor(scale);
    V sum;
    V slope;
    V loss;
    std::size_t const last = first + count;
    std::size_t i = first;
    for (; i + w <= last; i += w) {
      formula(i, V::load(x + i), V::load(y + i), loss, slope);
      sum = sum + loss;
      if (dx != nullptr) (factor * slope).store(dx + i);
    }
    T total = sum_lanes(sum);
    if (i < last) {
      T local[3][w] = {};
      std::memcpy(local[0], x + i, (last - i) * sizeof(T));
      std::memcpy(local[1], y + i, (last - i) * sizeof(T));
      formula(i, V::load(local[0]), V::load(local[1]), loss, slope);
      (factor * slope).store(local[2]);
      if (dx != nullptr) std::memcpy(dx + i, local[2], (last - i) * sizeof(T));
      loss.store(local[2]);
      for (std::size_t k = last - i; k < w; ++k) local[2][k] = T(0);
      total += sum_lanes(V::load(local[2]));
    }
    *partial = total;
  }
};

}  // namespace detail

template <class Formula, class T>
void pointwise_loss(host const& device, Formula const& formula, std::size_t count, T const* x, T const* y, T scale, T* dx, T* value,
                    T* workspace) {
  std::size_t const pieces = reduction_workspace(count);
  for_each_piece(device, pieces, [&](std::size_t piece) {
    std::size_t const first = piece * reduction_piece;
    std::size_t const size = first + reduction_piece < count ? reduction_piece : count - first;
    detail::for_this_cpu(detail::pointwise_loss_kernel<Formula, T>{formula, x, y, dx, first, size, scale, workspace + piece});
  });
  *value = scale * detail::tree_sum(workspace, pieces);
}

}  // namespace mortise
