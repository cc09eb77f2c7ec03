// Convolution on CUDA: windows are laid out as columns (im2col) in scratch memory and multiplied by cuBLAS, as many samples at once as the
// scratch memory holds; grouped convolutions run one thread an element. Contract: operation/conv2d.hpp; the workspace is not used.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/conv2d.hpp>
#include <mortise/operation/cuda/gemm.cuh>

namespace mortise {

namespace detail {

struct conv2d_numbers {
  unsigned in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group_in, group_out, in_c, out_c;

  template <class G>
  static conv2d_numbers of() {
    auto const n = [](std::size_t x) { return static_cast<unsigned>(x); };
    return {n(G::in_h),  n(G::in_w),  n(G::out_h),      n(G::out_w),      n(G::kernel_h), n(G::kernel_w),  n(G::stride_h), n(G::stride_w),
            n(G::pad_h), n(G::pad_w), n(G::dilation_h), n(G::dilation_w), n(G::group_in), n(G::group_out), n(G::in_c),     n(G::out_c)};
  }
};

/// columns[n, tap, position] = the input that tap of that position's window sees, 0 in the padding.
template <class T>
struct im2col_elements {
  conv2d_numbers g;
  T const* x;
  T* columns;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h);
    rest /= g.out_h;
    unsigned const j = static_cast<unsigned>(rest % g.kernel_w);
    rest /= g.kernel_w;
    unsigned const i = static_cast<unsigned>(rest % g.kernel_h);
    std::uint64_t const map = rest / g.kernel_h;  // sample * channels + channel
    unsigned const r = p * g.stride_h + i * g.dilation_h - g.pad_h, s = q * g.stride_w + j * g.dilation_w - g.pad_w;
    columns[e] = r < g.in_h && s < g.in_w ? x[(map * g.in_h + r) * g.in_w + s] : T{};
  }
};

/// Elements of columns that a block of im2col_of_maps writes, and the largest map that it keeps: at least two blocks fit on a multiprocessor.
inline constexpr unsigned im2col_piece = 8192;
inline std::size_t im2col_map_bytes = 24u << 10;  // not constant: a test makes it small

/// im2col_elements for maps that fit into shared memory: a block reads its map once, in order, whatever windows take from it, and writes a piece of
/// its columns. Threads begin where a sector does.
template <class T>
__global__ void __launch_bounds__(block_threads) im2col_of_maps(conv2d_numbers g, unsigned pieces, T const* x, T* columns) {
  extern __shared__ __align__(16) unsigned char memory[];
  T* const map = reinterpret_cast<T*>(memory);
  unsigned const size = g.in_h * g.in_w, column = g.kernel_h * g.kernel_w * g.out_h * g.out_w, piece = blockIdx.x % pieces * im2col_piece;
  std::uint64_t const plane = blockIdx.x / pieces, from = plane * size, to = plane * column;                 // sample * channels + channel
  unsigned const read_skew = static_cast<unsigned>(from % 32), write_skew = static_cast<unsigned>(to % 32);  // pieces are multiples of 32
  for (unsigned i = threadIdx.x; i < size + read_skew; i += block_threads)
    if (i >= read_skew) map[i - read_skew] = x[from + i - read_skew];
  __syncthreads();
  unsigned const end = piece + im2col_piece < column + write_skew ? piece + im2col_piece : column + write_skew;
  for (unsigned i = piece + threadIdx.x; i < end; i += block_threads) {
    if (i < write_skew) continue;
    unsigned const e = i - write_skew, q = e % g.out_w, above = e / g.out_w, p = above % g.out_h, tap = above / g.out_h;
    unsigned const r = p * g.stride_h + tap / g.kernel_w * g.dilation_h - g.pad_h,
                   s = q * g.stride_w + tap % g.kernel_w * g.dilation_w - g.pad_w;
    columns[to + e] = r < g.in_h && s < g.in_w ? map[r * g.in_w + s] : T{};
  }
}

/// The columns of `count` samples.
template <class G, class T>
void run_im2col(cuda const& device, std::size_t count, T const* x, T* columns) {
  auto const g = conv2d_numbers::of<G>();
  if (G::in_h * G::in_w * sizeof(T) <= im2col_map_bytes) {
    constexpr std::size_t column = G::kernel_h * G::kernel_w * G::out_h * G::out_w,
                          pieces = (column + 31 + im2col_piece - 1) / im2col_piece;
    device.launch(&im2col_of_maps<T>, dim3{static_cast<unsigned>(count * G::in_c * pieces)}, dim3{block_threads},
                  G::in_h * G::in_w * sizeof(T), g, static_cast<unsigned>(pieces), x, columns);
  } else {
    for_each_index(device, count * G::taps * G::out_h * G::out_w, im2col_elements<T>{g, x, columns});
  }
}

/// dx[n, c, r, s] = sum of the column elements that were read from it, taps in row-major order.
template <class T>
struct col2im_elements {
  conv2d_numbers g;
  T const* columns;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const s = static_cast<unsigned>(e % g.in_w);
    std::uint64_t const rest = e / g.in_w;
    unsigned const r = static_cast<unsigned>(rest % g.in_h);
    std::uint64_t const map = rest / g.in_h;
    arithmetic_type<T> sum{};
    for (unsigned i = 0; i < g.kernel_h; ++i) {
      unsigned const at_h = r + g.pad_h - i * g.dilation_h, p = at_h / g.stride_h;  // wraps where there is none
      if (at_h % g.stride_h != 0 || p >= g.out_h) continue;
      for (unsigned j = 0; j < g.kernel_w; ++j) {
        unsigned const at_w = s + g.pad_w - j * g.dilation_w, q = at_w / g.stride_w;
        if (at_w % g.stride_w == 0 && q < g.out_w) sum += static_cast<arithmetic_type<T>>(columns[(((map * g.kernel_h + i) * g.kernel_w + j) * g.out_h + p) * g.out_w + q]);
      }
    }
    dx[e] = static_cast<T>(sum);
  }
};

/// y = activation(y + bias of its channel), for one position of a few samples.
template <class T>
struct channel_epilogue {
  T* y;
  T const* bias;
  std::uint64_t batch;
  unsigned positions, channels;
  int relu;
  __device__ void operator()(std::uint64_t i) const {
    std::uint64_t const sample = std::uint64_t{positions} * channels, e = i % sample;
    std::uint64_t const first = i / sample * rows_of_thread, end = first + rows_of_thread < batch ? first + rows_of_thread : batch;
    using A = arithmetic_type<T>;
    A const b = bias == nullptr ? A{} : static_cast<A>(bias[e / positions]);
    for (std::uint64_t n = first; n < end; ++n) {
      A v = static_cast<A>(y[n * sample + e]);
      if (bias != nullptr) v += b;
      y[n * sample + e] = static_cast<T>(relu != 0 && v <= A{} ? A{} : v);
    }
  }
};

/// to[i] (+)= sum over parts of part[p, i], in ascending order
template <class T>
struct sum_of_parts {
  T const* part;
  std::uint64_t parts, size;
  T* to;
  int accumulate;
  __device__ void operator()(std::uint64_t i) const {
    using A = arithmetic_type<T>;
    A sum = accumulate != 0 ? static_cast<A>(to[i]) : A{};
    for (std::uint64_t p = 0; p < parts; ++p) sum += static_cast<A>(part[p * size + i]);
    to[i] = static_cast<T>(sum);
  }
};

/// to[c] = sum of x[n, c, p] over samples and positions; one block a channel.
template <class T>
__global__ void __launch_bounds__(block_threads) channel_sum_kernel(T const* x, std::uint64_t batch, std::uint64_t channels, std::uint64_t positions, T* to) {
  using A = arithmetic_type<T>;
  __shared__ A shared[8];
  A sum{};
  std::uint64_t const n = batch * positions;
  for (std::uint64_t i = threadIdx.x; i < n; i += block_threads)
    sum += static_cast<A>(x[(i / positions * channels + blockIdx.x) * positions + i % positions]);
  sum = row_team<static_cast<int>(block_threads)>::sum(sum, shared);
  if (threadIdx.x == 0) to[blockIdx.x] = static_cast<T>(sum);
}

template <class T>
struct grouped_conv2d_outputs {
  conv2d_numbers g;
  T const* x;
  T const* weight;
  T const* bias;
  T* y;
  int relu;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h);
    rest /= g.out_h;
    unsigned const o = static_cast<unsigned>(rest % g.out_c);
    T const* const maps = x + (rest / g.out_c * g.in_c + o / g.group_out * g.group_in) * (std::uint64_t{g.in_h} * g.in_w);
    T const* w = weight + std::uint64_t{o} * g.group_in * g.kernel_h * g.kernel_w;
    using A = arithmetic_type<T>;
    A sum{};
    for (unsigned c = 0; c < g.group_in; ++c)
      for (unsigned i = 0; i < g.kernel_h; ++i)
        for (unsigned j = 0; j < g.kernel_w; ++j, ++w) {
          unsigned const r = p * g.stride_h + i * g.dilation_h - g.pad_h, s = q * g.stride_w + j * g.dilation_w - g.pad_w;
          if (r < g.in_h && s < g.in_w) sum += static_cast<A>(*w) * static_cast<A>(maps[(std::uint64_t{c} * g.in_h + r) * g.in_w + s]);
        }
    if (bias != nullptr) sum += static_cast<A>(bias[o]);
    y[e] = static_cast<T>(relu != 0 && sum <= A{} ? A{} : sum);
  }
};
template <class T>
struct grouped_conv2d_inputs {
  conv2d_numbers g;
  T const* dy;
  T const* weight;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const s = static_cast<unsigned>(e % g.in_w);
    std::uint64_t rest = e / g.in_w;
    unsigned const r = static_cast<unsigned>(rest % g.in_h);
    rest /= g.in_h;
    unsigned const c = static_cast<unsigned>(rest % g.in_c), group = c / g.group_in;
    std::uint64_t const sample = rest / g.in_c;
    using A = arithmetic_type<T>;
    A sum{};
    for (unsigned o = group * g.group_out; o < (group + 1) * g.group_out; ++o)
      for (unsigned i = 0; i < g.kernel_h; ++i) {
        unsigned const at_h = r + g.pad_h - i * g.dilation_h, p = at_h / g.stride_h;
        if (at_h % g.stride_h != 0 || p >= g.out_h) continue;
        for (unsigned j = 0; j < g.kernel_w; ++j) {
          unsigned const at_w = s + g.pad_w - j * g.dilation_w, q = at_w / g.stride_w;
          if (at_w % g.stride_w == 0 && q < g.out_w)
            sum += static_cast<A>(weight[((std::uint64_t{o} * g.group_in + c % g.group_in) * g.kernel_h + i) * g.kernel_w + j]) *
                   static_cast<A>(dy[((sample * g.out_c + o) * g.out_h + p) * g.out_w + q]);
        }
      }
    dx[e] = static_cast<T>(sum);
  }
};
/// One block a weight: its threads share samples and positions.
template <class T>
__global__ void __launch_bounds__(block_threads) grouped_conv2d_weights(conv2d_numbers g, std::uint64_t batch, T const* x, T const* dy, T* dweight) {
  using A = arithmetic_type<T>;
  __shared__ A shared[8];
  unsigned const taps = g.group_in * g.kernel_h * g.kernel_w;
  unsigned const o = blockIdx.x / taps, tap = blockIdx.x % taps;
  unsigned const c = tap / (g.kernel_h * g.kernel_w), i = tap / g.kernel_w % g.kernel_h, j = tap % g.kernel_w;
  std::uint64_t const positions = std::uint64_t{g.out_h} * g.out_w;
  A sum{};
  for (std::uint64_t k = threadIdx.x; k < batch * positions; k += block_threads) {
    std::uint64_t const sample = k / positions;
    unsigned const p = static_cast<unsigned>(k % positions / g.out_w), q = static_cast<unsigned>(k % g.out_w);
    unsigned const r = p * g.stride_h + i * g.dilation_h - g.pad_h, s = q * g.stride_w + j * g.dilation_w - g.pad_w;
    if (r < g.in_h && s < g.in_w)
      sum += static_cast<A>(dy[(sample * g.out_c + o) * positions + k % positions]) *
             static_cast<A>(x[((sample * g.in_c + o / g.group_out * g.group_in + c) * g.in_h + r) * g.in_w + s]);
  }
  sum = row_team<static_cast<int>(block_threads)>::sum(sum, shared);
  if (threadIdx.x == 0) dweight[blockIdx.x] = static_cast<T>(sum);
}

/// A window of one element that moves by one: the image is its own columns.
template <class G>
inline constexpr bool is_pointwise = G::kernel_h == 1 && G::kernel_w == 1 && G::stride_h == 1 && G::stride_w == 1 && G::pad_h == 0 && G::pad_w == 0;

/// Scratch memory that a convolution takes at most, if one sample fits into it.
inline std::size_t conv2d_scratch_bytes = 64u << 20;  // not constant: tests make it small

/// Samples whose columns (and partial gradients) are in scratch memory together.
inline std::size_t conv2d_chunk(std::size_t batch, std::size_t bytes_per_sample) {
  std::size_t const fit = conv2d_scratch_bytes / bytes_per_sample;
  return fit == 0 ? 1 : fit < batch ? fit : batch;
}

template <class G, class T>
void run_conv2d_forward(cuda const& device, std::size_t batch, T const* x, T const* weight, T const* bias, T* y, bool relu) {
  constexpr std::size_t positions = G::out_h * G::out_w, column = G::taps * positions;
  auto const g = conv2d_numbers::of<G>();
  if constexpr (G::groups != 1) {
    for_each_index(device, batch * G::out_elements, grouped_conv2d_outputs<T>{g, x, weight, bias, y, relu});
  } else {
    if constexpr (is_pointwise<G>) {
      multiply_on_device<T>(device, false, false, G::out_c, positions, G::taps, weight, G::taps, x, positions, y, positions, 0, batch, 0, column, G::out_elements);
    } else {
      std::size_t const chunk = conv2d_chunk(batch, column * sizeof(T));
      T* const columns = static_cast<T*>(device.context().scratch(chunk * column * sizeof(T)));
      for (std::size_t first = 0; first < batch; first += chunk) {
        std::size_t const count = batch - first < chunk ? batch - first : chunk;
        run_im2col<G>(device, count, x + first * G::in_elements, columns);
        multiply_on_device<T>(device, false, false, G::out_c, positions, G::taps, weight, G::taps, columns, positions, y + first * G::out_elements, positions, 0,
                   count, 0, column, G::out_elements);
      }
    }
    if (bias != nullptr || relu)
      for_each_index(device, row_groups(batch) * G::out_elements,
                     channel_epilogue<T>{y, bias, batch, static_cast<unsigned>(positions), static_cast<unsigned>(G::out_c), relu});
  }
}

}  // namespace detail

template <activation Activation = activation::identity, class Geometry, class T>
void conv2d_forward(cuda const& device, Geometry, std::size_t batch, T const* x, T const* weight, T const* bias, T* y, T*) {
  detail::run_conv2d_forward<Geometry>(device, batch, x, weight, bias, y, Activation == activation::relu);
}

template <class Geometry, class T>
void conv2d_backward_input(cuda const& device, Geometry, std::size_t batch, T const* dy, T const* weight, T* dx, T*) {
  using g = Geometry;
  constexpr std::size_t positions = g::out_h * g::out_w, column = g::taps * positions;
  auto const numbers = detail::conv2d_numbers::of<g>();
  if constexpr (g::groups != 1) {
    detail::for_each_index(device, batch * g::in_elements, detail::grouped_conv2d_inputs<T>{numbers, dy, weight, dx});
  } else if constexpr (detail::is_pointwise<g>) {
    detail::multiply_on_device<T>(device, true, false, g::taps, positions, g::out_c, weight, g::taps, dy, positions, dx, positions, 0, batch, 0, g::out_elements,
                       column);
  } else {
    std::size_t const chunk = detail::conv2d_chunk(batch, column * sizeof(T));
    T* const columns = static_cast<T*>(device.context().scratch(chunk * column * sizeof(T)));
    for (std::size_t first = 0; first < batch; first += chunk) {
      std::size_t const count = batch - first < chunk ? batch - first : chunk;
      detail::multiply_on_device<T>(device, true, false, g::taps, positions, g::out_c, weight, g::taps, dy + first * g::out_elements, positions, columns, positions, 0,
                         count, 0, g::out_elements, column);
      detail::for_each_index(device, count * g::in_elements, detail::col2im_elements<T>{numbers, columns, dx + first * g::in_elements});
    }
  }
}

template <class Geometry, class T>
void conv2d_backward_weight(cuda const& device, Geometry, std::size_t batch, T const* x, T const* dy, T* dweight, T* dbias, T*) {
  using g = Geometry;
  constexpr std::size_t positions = g::out_h * g::out_w, column = g::taps * positions;
  auto const numbers = detail::conv2d_numbers::of<g>();
  if (dbias != nullptr)
    device.launch(&detail::channel_sum_kernel<T>, dim3{static_cast<unsigned>(g::out_c)}, dim3{detail::block_threads}, 0, dy, batch, g::out_c, positions,
                  dbias);
  if constexpr (g::groups != 1) {
    device.launch(&detail::grouped_conv2d_weights<T>, dim3{static_cast<unsigned>(g::weight_elements)}, dim3{detail::block_threads}, 0, numbers, batch, x, dy,
                  dweight);
  } else {
    // Every sample's gradient on its own, then their sum in ascending order.
    constexpr std::size_t own_columns = detail::is_pointwise<g> ? 0 : column;
    std::size_t const chunk = detail::conv2d_chunk(batch, (own_columns + g::weight_elements) * sizeof(T));
    T* const columns = static_cast<T*>(device.context().scratch(chunk * (own_columns + g::weight_elements) * sizeof(T)));
    T* const parts = columns + chunk * own_columns;
    for (std::size_t first = 0; first < batch; first += chunk) {
      std::size_t const count = batch - first < chunk ? batch - first : chunk;
      T const* seen = x + first * g::in_elements;
      if constexpr (!detail::is_pointwise<g>) {
        detail::run_im2col<g>(device, count, seen, columns);
        seen = columns;
      }
      detail::multiply_on_device<T>(device, false, true, g::out_c, g::taps, positions, dy + first * g::out_elements, positions, seen, positions, parts, g::taps, 0, count,
                         g::out_elements, column, g::weight_elements);
      detail::for_each_index(device, g::weight_elements, detail::sum_of_parts<T>{parts, count, g::weight_elements, dweight, first != 0});
    }
  }
}

}  // namespace mortise
