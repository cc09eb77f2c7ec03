// Transposition on CUDA. Contract: operation/transpose.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/transpose.hpp>

namespace mortise {

namespace detail {

inline constexpr unsigned transpose_tile = 32;

/// A block turns a tile in shared memory, so that neighbouring threads both read and write neighbours. A row of the tile has an element more
/// than it needs: a column is then spread over all banks.
template <class T>
__global__ void __launch_bounds__(block_threads) transpose_tiles(std::uint64_t rows, std::uint64_t columns, T const* x, T* y) {
  __shared__ T tile[transpose_tile][transpose_tile + 1];
  constexpr unsigned lines = block_threads / transpose_tile;
  std::uint64_t const across = (columns + transpose_tile - 1) / transpose_tile, down = (rows + transpose_tile - 1) / transpose_tile;
  std::uint64_t const in_sample = blockIdx.x % (across * down), sample = blockIdx.x / (across * down) * rows * columns;
  std::uint64_t const top = in_sample / across * transpose_tile, left = in_sample % across * transpose_tile;
  unsigned const lane = threadIdx.x % transpose_tile, line = threadIdx.x / transpose_tile;
  for (unsigned i = line; i < transpose_tile; i += lines)
    if (top + i < rows && left + lane < columns) tile[i][lane] = x[sample + (top + i) * columns + left + lane];
  __syncthreads();
  for (unsigned j = line; j < transpose_tile; j += lines)
    if (left + j < columns && top + lane < rows) y[sample + (left + j) * rows + top + lane] = tile[lane][j];
}

}  // namespace detail

template <class T>
void transpose_each(cuda const& device, std::size_t batch, std::size_t rows, std::size_t columns, T const* x, T* y) {
  std::size_t const across = (columns + detail::transpose_tile - 1) / detail::transpose_tile;
  std::size_t const down = (rows + detail::transpose_tile - 1) / detail::transpose_tile;
  if (batch * across * down != 0)
    device.launch(&detail::transpose_tiles<T>, dim3{static_cast<unsigned>(batch * across * down)}, dim3{detail::block_threads}, 0, rows, columns, x, y);
}

}  // namespace mortise
