// Sums on CUDA in fixed trees; results stay on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

struct identity_of {
  template <class T>
  __device__ static T of(T x) {
    return x;
  }
};
struct square_of {
  template <class T>
  __device__ static T of(T x) {
    return x * x;
  }
};

/// Elements that one block sums.
inline constexpr std::size_t sum_piece = 8192;

/// result[block] = factor * sum of its piece: each thread every 256th element, then the block's tree.
template <class Map, class T>
__global__ void __launch_bounds__(block_threads) sum_kernel_of_pieces(T const* x, std::uint64_t n, T factor, T const* device_factor, T* result) {
  __shared__ T shared[8];
  std::uint64_t const first = std::uint64_t{blockIdx.x} * sum_piece;
  std::uint64_t const last = first + sum_piece < n ? first + sum_piece : n;
  T sum{};
  for (std::uint64_t i = first + threadIdx.x; i < last; i += block_threads) sum += Map::of(x[i]);
  sum = row_team<static_cast<int>(block_threads)>::sum(sum, shared);
  if (threadIdx.x == 0) result[blockIdx.x] = device_factor == nullptr ? factor * sum : *device_factor * sum;
}

/// *result = factor * sum of Map::of(x[i]); nothing leaves the device. `device_factor`, if given, replaces the factor.
template <class Map, class T>
void sum_on_device(cuda const& device, T const* x, std::size_t n, T factor, T const* device_factor, T* result, std::size_t scratch_offset = 0) {
  std::size_t pieces = (n + sum_piece - 1) / sum_piece;
  if (pieces <= 1) {
    device.launch(&sum_kernel_of_pieces<Map, T>, dim3{1}, dim3{block_threads}, 0, x, n, factor, device_factor, result);
    return;
  }
  // Two halves of the scratch memory take turns.
  std::size_t const room = (pieces * sizeof(T) + 255) / 256 * 256;
  auto* const memory = static_cast<unsigned char*>(device.context().scratch(scratch_offset + 2 * room)) + scratch_offset;
  T* to = reinterpret_cast<T*>(memory);
  device.launch(&sum_kernel_of_pieces<Map, T>, dim3{static_cast<unsigned>(pieces)}, dim3{block_threads}, 0, x, n, T(1), nullptr, to);
  for (int turn = 1;; turn ^= 1) {
    std::size_t const left = pieces;
    pieces = (left + sum_piece - 1) / sum_piece;
    T* const next = pieces == 1 ? result : reinterpret_cast<T*>(memory + (turn == 1 ? room : 0));
    device.launch(&sum_kernel_of_pieces<identity_of, T>, dim3{static_cast<unsigned>(pieces)}, dim3{block_threads}, 0, to, left,
                  pieces == 1 ? factor : T(1), pieces == 1 ? device_factor : nullptr, next);
    if (pieces == 1) return;
    to = next;
  }
}

/// to[c] = sum over rows of x[r, c]; x is (rows, columns). Blocks of 32 columns x 8 threads, each thread every 8th row of its slice.
template <class From, class To>
__global__ void __launch_bounds__(block_threads) column_sum_blocks(From const* x, std::uint64_t rows, std::uint64_t columns, std::uint64_t slice, To* to) {
  using A = arithmetic_type<From>;
  __shared__ A shared[8][33];
  unsigned const lane = threadIdx.x % 32, y = threadIdx.x / 32;
  std::uint64_t const c = std::uint64_t{blockIdx.x} * 32 + lane;
  std::uint64_t const first = blockIdx.y * slice;
  std::uint64_t const last = first + slice < rows ? first + slice : rows;
  A sum{};
  if (c < columns)
    for (std::uint64_t r = first + y; r < last; r += 8) sum += static_cast<A>(x[r * columns + c]);
  shared[y][lane] = sum;
  __syncthreads();
  if (y == 0 && c < columns) {
    for (int i = 1; i < 8; ++i) sum += shared[i][lane];
    to[blockIdx.y * columns + c] = static_cast<To>(sum);
  }
}

template <class T>
void column_sums(cuda const& device, std::size_t rows, std::size_t columns, T const* x, T* to) {
  if (columns == 0) return;
  std::size_t const slice = 1024;
  std::size_t const slices = (rows + slice - 1) / slice;
  dim3 const grid{static_cast<unsigned>((columns + 31) / 32)};
  if (slices <= 1) {
    device.launch(&column_sum_blocks<T, T>, grid, dim3{block_threads}, 0, x, rows, columns, slice, to);
    return;
  }
  using A = arithmetic_type<T>;
  A* const partial = static_cast<A*>(device.context().scratch(slices * columns * sizeof(A)));
  device.launch(&column_sum_blocks<T, A>, dim3{grid.x, static_cast<unsigned>(slices)}, dim3{block_threads}, 0, x, rows, columns, slice, partial);
  device.launch(&column_sum_blocks<A, T>, grid, dim3{block_threads}, 0, partial, slices, columns, slices, to);
}

}  // namespace detail

}  // namespace mortise
