// What the tests of several CUDA devices train: small networks, on numbers that depend on the step alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <mortise/cuda.cuh>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>

namespace cuda_runs {

namespace mt = mortise;

using dropping = mt::sequential<mt::linear<17>, mt::relu, mt::dropout, mt::linear<5>>;
using normalized = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::linear<5>>;
using both = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::dropout, mt::linear<5>>;
using input = mt::extents<6>;

struct batch {
  mt::view<float const> x;
  mt::view<std::int64_t const> y;
};
struct data {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  data(std::size_t n, std::uint32_t step) : x(n * 6), y(n) {
    mt::random_stream const numbers{7, 1, step};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(i) - 0.5f;
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<std::int64_t>(numbers.bits(100000 + i) % 5);
  }
  cuda_runs::batch batch() const { return {x, y}; }
};

template <class T>
std::vector<std::remove_const_t<T>> on_host(mt::view<T> v, mt::cuda const& device) {
  std::vector<std::remove_const_t<T>> r(v.size());
  device.copy(r.data(), v.data(), r.size() * sizeof(T));
  device.synchronize();
  return r;
}
inline std::vector<mt::cuda> first_devices(std::size_t n) {
  std::vector<mt::cuda> list;
  for (std::size_t i = 0; i < n; ++i) list.emplace_back(static_cast<int>(i));
  return list;
}

}  // namespace cuda_runs
