// Embedding on CUDA. Contract: operation/embedding.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/math.hpp>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/embedding.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

template <class T>
struct embedding_elements {
  std::int64_t const* index;
  std::uint64_t rows, width;
  T const* table;
  T* y;
  __device__ void operator()(std::uint64_t i) const {
    auto const row = static_cast<std::uint64_t>(index[i / width]);
    y[i] = row < rows ? table[row * width + i % width] : static_cast<T>(layout_of<arithmetic_type<T>>::nan);
  }
};

/// One block an occurrence. The first occurrence of an index sums the gradients of all, in ascending order; the others have nothing to do.
template <class T>
__global__ void __launch_bounds__(block_threads)
    embedding_gradients(std::int64_t const* index, std::uint64_t count, std::uint64_t rows, std::uint64_t width, T const* dy, T* dtable) {
  __shared__ int earlier;
  std::uint64_t const own = blockIdx.x;
  std::int64_t const row = index[own];
  if (threadIdx.x == 0) earlier = 0;
  __syncthreads();
  for (std::uint64_t i = threadIdx.x; i < own; i += block_threads)
    if (index[i] == row) atomicOr(&earlier, 1);
  __syncthreads();
  if (earlier != 0 || static_cast<std::uint64_t>(row) >= rows) return;
  for (std::uint64_t first = 0; first < width; first += block_threads) {
    std::uint64_t const c = first + threadIdx.x;
    arithmetic_type<T> sum{};
    for (std::uint64_t i = own; i < count; ++i)
      if (index[i] == row && c < width) sum += static_cast<arithmetic_type<T>>(dy[i * width + c]);
    if (c < width) dtable[static_cast<std::uint64_t>(row) * width + c] = static_cast<T>(sum);
  }
}

}  // namespace detail

template <class T>
void embedding_forward(cuda const& device, std::size_t count, std::size_t rows, std::size_t width, std::int64_t const* index, T const* table, T* y) {
  detail::for_each_index(device, count * width, detail::embedding_elements<T>{index, rows, width, table, y});
}
template <class T>
void embedding_backward(cuda const& device, std::size_t count, std::size_t rows, std::size_t width, std::int64_t const* index, T const* dy, T* dtable) {
  device.fill_zero(dtable, rows * width * sizeof(T));
  if (count != 0)
    device.launch(&detail::embedding_gradients<T>, dim3{static_cast<unsigned>(count)}, dim3{detail::block_threads}, 0, index, count, rows, width, dy, dtable);
}

}  // namespace mortise
