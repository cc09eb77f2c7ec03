// How kernels are written here: a function object for one index, or for one row and a team of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/device/cuda.cuh>

namespace mortise::detail {

inline constexpr unsigned block_threads = 256;

inline bool aligned_to(void const* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

template <class F>
__global__ void __launch_bounds__(block_threads) index_kernel(F f, std::uint64_t n) {
  std::uint64_t const i = std::uint64_t{blockIdx.x} * block_threads + threadIdx.x;
  if (i < n) f(i);
}

/// Rows (or samples) that one thread of an elementwise operation takes, where what it needs of a column (or channel) is the same for all of
/// them and is read once.
inline constexpr std::uint64_t rows_of_thread = 8;
inline constexpr std::uint64_t row_groups(std::uint64_t rows) { return (rows + rows_of_thread - 1) / rows_of_thread; }

/// Runs f(i) for i < n, one thread each. Neighbouring threads have neighbouring indices.
template <class F>
void for_each_index(cuda const& device, std::size_t n, F const& f) {
  if (n == 0) return;
  device.launch(&index_kernel<F>, dim3{static_cast<unsigned>((n + block_threads - 1) / block_threads)}, dim3{block_threads}, 0, f, n);
}

// ---- sums in fixed trees ------------------------------------------------------------------------------------------------------------------

/// The sum over a warp, in every lane: pairs at distance 16, 8, ..., so that all lanes hold the same bits.
template <class V>
__device__ V warp_sum(V v) {
  for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
  return v;
}
template <class V>
__device__ V warp_max(V v) {
  for (int distance = 16; distance > 0; distance /= 2) {
    V const other = __shfl_xor_sync(0xffffffffu, v, distance);
    v = other > v || other != other ? other : v;  // NaN wins
  }
  return v;
}

/// A value that all threads of a warp read from one place: one of them does.
template <class A, class T>
__device__ A warp_read(T const* from, bool active) {
  A v{};
  if (threadIdx.x % 32 == 0 && active) v = static_cast<A>(*from);
  return __shfl_sync(0xffffffffu, v, 0);
}

/// Threads that share a row: a warp (eight rows a block), or a block.
template <int Size>
struct row_team {
  static constexpr int size = Size;
  static constexpr int rows_per_block = static_cast<int>(block_threads) / Size;

  __device__ static unsigned rank() { return threadIdx.x % Size; }
  __device__ static unsigned index() { return threadIdx.x / Size; }  // of the team in its block

  /// `shared`: 8 values of this type. Every thread of the block calls, and gets its team's result.
  template <class V>
  __device__ static V sum(V v, V* shared) {
    v = warp_sum(v);
    if constexpr (Size == 32) {
      return v;
    } else {
      __syncthreads();
      if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
      __syncthreads();
      V total = shared[0];
      for (int i = 1; i < static_cast<int>(block_threads) / 32; ++i) total += shared[i];
      return total;
    }
  }
  template <class V>
  __device__ static V max(V v, V* shared) {
    v = warp_max(v);
    if constexpr (Size == 32) {
      return v;
    } else {
      __syncthreads();
      if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
      __syncthreads();
      V best = shared[0];
      for (int i = 1; i < static_cast<int>(block_threads) / 32; ++i) best = shared[i] > best || shared[i] != shared[i] ? shared[i] : best;
      return best;
    }
  }
};

/// f(team, row, active, memory): `memory` is `bytes_per_row` of shared memory for the team. Teams beyond the last row are called as well,
/// not active, since sums need every thread. Six blocks a multiprocessor (five where a block shares a row) are enough to keep its memory busy; asked
/// for more, the assembler takes too few registers a thread and spills.
template <int Size, class F>
__global__ void __launch_bounds__(block_threads, Size == 32 ? 6 : 5) row_kernel(F f, std::uint64_t rows, unsigned bytes_per_row) {
  extern __shared__ __align__(16) unsigned char memory[];
  using team = row_team<Size>;
  std::uint64_t const row = std::uint64_t{blockIdx.x} * team::rows_per_block + team::index();
  f(team{}, row, row < rows, memory + team::index() * bytes_per_row);
}

/// Shared memory that every device gives a block without being asked for more.
inline constexpr std::size_t shared_bytes = 48u << 10;

/// Widest row for which a warp is enough.
inline constexpr std::size_t warp_width = 1024;

/// Runs f for each row of `width`. `row_bytes`: shared memory that holds a row's values between its passes; f.cached says whether it does.
/// `block_bytes`: shared memory of the whole block, for a function object that wants some: f.block_memory is its distance from a team's memory
/// of index 0, or 0 where there is none.
template <class F>
void for_each_row(cuda const& device, std::size_t rows, std::size_t width, std::size_t row_bytes, F f, std::size_t block_bytes = 0) {
  if (rows == 0) return;
  row_bytes = (row_bytes + 15) / 16 * 16;
  if constexpr (requires { f.block_memory; }) {
    if (width <= warp_width && row_bytes * row_team<32>::rows_per_block + block_bytes <= shared_bytes) {
      f.cached = true;
      f.row_bytes = static_cast<unsigned>(row_bytes);
      f.block_memory = f.row_bytes * row_team<32>::rows_per_block;
      device.launch(&row_kernel<32, F>, dim3{static_cast<unsigned>((rows + 7) / 8)}, dim3{block_threads}, row_bytes * 8 + block_bytes, f, rows,
                    static_cast<unsigned>(row_bytes));
      return;
    }
  }
  if (width <= warp_width && row_bytes * row_team<32>::rows_per_block <= shared_bytes) {
    f.cached = true;
    device.launch(&row_kernel<32, F>, dim3{static_cast<unsigned>((rows + 7) / 8)}, dim3{block_threads}, row_bytes * 8, f, rows,
                  static_cast<unsigned>(row_bytes));
  } else {
    f.cached = row_bytes + 1024 <= shared_bytes;
    device.launch(&row_kernel<static_cast<int>(block_threads), F>, dim3{static_cast<unsigned>(rows)}, dim3{block_threads}, f.cached ? row_bytes : 0,
                  f, rows, static_cast<unsigned>(row_bytes));
  }
}

}  // namespace mortise::detail
