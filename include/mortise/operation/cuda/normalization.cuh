// Normalisation on CUDA. Contracts: operation/normalization.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/cuda/reduce.cuh>
#include <mortise/operation/normalization.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

// ---- batch norm ---------------------------------------------------------------------------------------------------------------------------
// Channels are cut in slices, so that few channels occupy many multiprocessors: a kernel finds each slice's moments (or sums), a second one
// joins them in order and prepares the factors, a third one writes.

/// Number, mean and sum of squares around the mean; joined after Chan, Golub, LeVeque, 1979.
struct device_moments {
  double count, mean, squares;
  __device__ void join(device_moments const& o) {
    if (o.count == 0) return;
    double const distance = o.mean - mean, total = count + o.count;
    squares += o.squares + distance * distance * (count * o.count / total);
    mean += distance * (o.count / total);
    count = total;
  }
};

/// Moments in three arrays, so that neighbours read and write neighbouring numbers.
struct moments_list {
  double* numbers;  // 3 size
  std::uint64_t size;
  __device__ device_moments get(std::uint64_t i) const { return {numbers[i], numbers[size + i], numbers[2 * size + i]}; }
  __device__ void put(std::uint64_t i, device_moments const& m) const {
    numbers[i] = m.count;
    numbers[size + i] = m.mean;
    numbers[2 * size + i] = m.squares;
  }
};

/// Where the values of a channel lie: value k of channel c, for k below batch * positions.
struct channel_layout {
  std::uint64_t batch, channels, positions;
  __device__ std::uint64_t at(std::uint64_t c, std::uint64_t k) const { return (k / positions * channels + c) * positions + k % positions; }
  __host__ __device__ std::uint64_t values() const { return batch * positions; }
};

/// Values of a slice.
inline constexpr std::size_t channel_slice = 8192;

/// Blocks of 256 threads: with `Columns` neighbouring channels side by side (positions = 1), or all threads on one channel.
template <int Columns>
struct channel_block_shape {
  static constexpr int rows = static_cast<int>(block_threads) / Columns;
  __device__ static unsigned column() { return threadIdx.x % Columns; }
  __device__ static unsigned row() { return threadIdx.x / Columns; }
};

template <int Columns, class T>
__global__ void __launch_bounds__(block_threads) channel_moments_kernel(channel_layout g, T const* x, moments_list parts) {
  using block = channel_block_shape<Columns>;
  __shared__ device_moments shared[block_threads];
  std::uint64_t const c = std::uint64_t{blockIdx.x} * Columns + block::column();
  std::uint64_t const first = blockIdx.y * channel_slice, end = first + channel_slice, last = end < g.values() ? end : g.values();
  // Around the slice's first value, so that a mean far from zero costs no digits.
  double const center = c < g.channels ? static_cast<double>(x[g.at(c, first)]) : 0;
  double count = 0, sum = 0, squares = 0;
  if (c < g.channels)
    for (std::uint64_t k = first + block::row(); k < last; k += block::rows) {
      double const d = static_cast<double>(x[g.at(c, k)]) - center;
      count += 1;
      sum += d;
      squares += d * d;
    }
  double const around = count == 0 ? 0 : squares - sum * sum / count;
  device_moments m{count, count == 0 ? 0 : center + sum / count, around > 0 ? around : 0};
  shared[threadIdx.x] = m;
  for (int half = block::rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(block::row()) < half) shared[threadIdx.x].join(shared[threadIdx.x + half * Columns]);
  }
  if (block::row() == 0 && c < g.channels) parts.put(blockIdx.y * g.channels + c, shared[threadIdx.x]);
}

template <class T>
struct batch_norm_statistics {
  moments_list parts;
  std::uint64_t slices, channels;
  T const* weight;
  T const* bias;
  double eps, momentum;
  arithmetic_type<T>* running_mean;
  arithmetic_type<T>* running_var;
  std::int64_t* batches_tracked;
  T* mean;  // or null
  T* rstd;  // or null
  arithmetic_type<T>* center;
  arithmetic_type<T>* scale;
  __device__ void operator()(std::uint64_t c) const {
    device_moments m = parts.get(c);
    for (std::uint64_t s = 1; s < slices; ++s) m.join(parts.get(s * channels + c));
    double const r = 1 / ::sqrt(m.squares / m.count + eps);
    double const unbiased = m.squares / (m.count > 1 ? m.count - 1 : 1);
    using A = arithmetic_type<T>;
    running_mean[c] = static_cast<A>((1 - momentum) * static_cast<double>(running_mean[c]) + momentum * m.mean);
    running_var[c] = static_cast<A>((1 - momentum) * static_cast<double>(running_var[c]) + momentum * unbiased);
    if (mean != nullptr) mean[c] = static_cast<T>(m.mean);
    if (rstd != nullptr) rstd[c] = static_cast<T>(r);
    center[c] = static_cast<A>(m.mean);
    scale[c] = static_cast<A>(r * static_cast<double>(weight[c]));
    if (c == 0) ++*batches_tracked;
  }
};

/// y = (x - center) scale + bias, by channel: one position of a few samples.
template <class T>
struct channel_affine {
  std::uint64_t batch, channels, positions;
  T const* x;
  arithmetic_type<T> const* center;
  arithmetic_type<T> const* scale;
  T const* bias;
  T* y;
  __device__ void operator()(std::uint64_t i) const {
    std::uint64_t const sample = channels * positions, at = i % sample, c = at / positions;
    std::uint64_t const first = i / sample * rows_of_thread, end = first + rows_of_thread < batch ? first + rows_of_thread : batch;
    using A = arithmetic_type<T>;
    A const middle = center[c], factor = scale[c], shift = static_cast<A>(bias[c]);
    for (std::uint64_t e = first * sample + at; e < end * sample; e += sample) y[e] = static_cast<T>(fma(static_cast<A>(x[e]) - middle, factor, shift));
  }
};

/// scale = weight / sqrt(variance + eps): of running statistics.
template <class T>
struct running_scale {
  arithmetic_type<T> const* variance;
  T const* weight;
  double eps;
  arithmetic_type<T>* scale;
  __device__ void operator()(std::uint64_t c) const {
    scale[c] = static_cast<arithmetic_type<T>>(1 / ::sqrt(static_cast<double>(variance[c]) + eps) * static_cast<double>(weight[c]));
  }
};

struct __align__(16) gradient_parts {
  double plain, weighted;  // sum dy, sum dy (x - mean)
};
template <int Columns, class T, class Mean>
__global__ void __launch_bounds__(block_threads) channel_gradient_kernel(channel_layout g, T const* x, T const* dy, Mean const* mean, gradient_parts* parts) {
  using block = channel_block_shape<Columns>;
  __shared__ gradient_parts shared[block_threads];
  std::uint64_t const c = std::uint64_t{blockIdx.x} * Columns + block::column();
  std::uint64_t const first = blockIdx.y * channel_slice, end = first + channel_slice, last = end < g.values() ? end : g.values();
  gradient_parts s{0, 0};
  if (c < g.channels) {
    auto const m = static_cast<arithmetic_type<T>>(mean[c]);
    for (std::uint64_t k = first + block::row(); k < last; k += block::rows) {
      std::uint64_t const at = g.at(c, k);
      double const d = static_cast<double>(dy[at]);
      s.plain += d;
      s.weighted += d * static_cast<double>(static_cast<arithmetic_type<T>>(x[at]) - m);
    }
  }
  shared[threadIdx.x] = s;
  for (int half = block::rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(block::row()) < half) {
      shared[threadIdx.x].plain += shared[threadIdx.x + half * Columns].plain;
      shared[threadIdx.x].weighted += shared[threadIdx.x + half * Columns].weighted;
    }
  }
  if (block::row() == 0 && c < g.channels) parts[blockIdx.y * g.channels + c] = shared[threadIdx.x];
}

template <class T>
struct batch_norm_gradients {
  gradient_parts const* parts;
  std::uint64_t slices, channels;
  double n;
  T const* weight;
  T const* rstd;      // or null: from the running variance
  arithmetic_type<T> const* variance;
  double eps;
  T* dweight;  // or null
  T* dbias;    // or null
  arithmetic_type<T>* scale;  // dx = scale dy + slope (x - mean) + shift
  arithmetic_type<T>* slope;
  arithmetic_type<T>* shift;
  __device__ void operator()(std::uint64_t c) const {
    gradient_parts s{0, 0};
    for (std::uint64_t i = 0; i < slices; ++i) {
      s.plain += parts[i * channels + c].plain;
      s.weighted += parts[i * channels + c].weighted;
    }
    double const r = rstd != nullptr ? static_cast<double>(rstd[c]) : 1 / ::sqrt(static_cast<double>(variance[c]) + eps);
    double const factor = static_cast<double>(weight[c]) * r;
    if (dweight != nullptr) dweight[c] = static_cast<T>(s.weighted * r);
    if (dbias != nullptr) dbias[c] = static_cast<T>(s.plain);
    using A = arithmetic_type<T>;
    scale[c] = static_cast<A>(factor);
    slope[c] = static_cast<A>(-factor * r * r * s.weighted / n);
    shift[c] = static_cast<A>(-factor * s.plain / n);
  }
};

template <class T, class Mean>
struct channel_gradient {
  std::uint64_t batch, channels, positions;
  T const* x;  // or null: dx = scale dy
  T const* dy;
  Mean const* mean;
  arithmetic_type<T> const* scale;
  arithmetic_type<T> const* slope;
  arithmetic_type<T> const* shift;
  T* dx;
  __device__ void operator()(std::uint64_t i) const {
    std::uint64_t const sample = channels * positions, at = i % sample, c = at / positions;
    std::uint64_t const first = i / sample * rows_of_thread, end = first + rows_of_thread < batch ? first + rows_of_thread : batch;
    using A = arithmetic_type<T>;
    A const factor = scale[c];
    if (x == nullptr) {
      for (std::uint64_t e = first * sample + at; e < end * sample; e += sample) dx[e] = static_cast<T>(factor * static_cast<A>(dy[e]));
      return;
    }
    A const middle = static_cast<A>(mean[c]), tilt = slope[c], raise = shift[c];
    for (std::uint64_t e = first * sample + at; e < end * sample; e += sample)
      dx[e] = static_cast<T>(fma(factor, static_cast<A>(dy[e]), fma(tilt, static_cast<A>(x[e]) - middle, raise)));
  }
};

/// Scratch memory in pieces of 256 bytes.
class scratch_parts {
 public:
  scratch_parts(cuda const& device, std::size_t bytes) : at_{static_cast<unsigned char*>(device.context().scratch(bytes))} {}
  template <class V>
  V* take(std::size_t count) {
    V* const p = reinterpret_cast<V*>(at_);
    at_ += round(count * sizeof(V));
    return p;
  }
  static std::size_t round(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

 private:
  unsigned char* at_;
};

// ---- batch norm over parts on several devices ----------------------------------------------------------------------------------------------
// Each part brings its moments (or sums) of a channel, all get all, and each joins them in the order of the parts.

/// Element c of `to`: the moments of all parts (or slices) joined.
struct joined_moments {
  double* lists;
  std::uint64_t count, channels;
  bool whole_lists;  // one after the other; false: interleaved as the slices of one part are
  moments_list to;
  __device__ device_moments get(std::uint64_t k, std::uint64_t c) const {
    return whole_lists ? moments_list{lists + k * 3 * channels, channels}.get(c)
                       : moments_list{lists, count * channels}.get(k * channels + c);
  }
  __device__ void operator()(std::uint64_t c) const {
    device_moments m = get(0, c);
    for (std::uint64_t k = 1; k < count; ++k) m.join(get(k, c));
    to.put(c, m);
  }
};
/// This part's sums of a channel from those of its slices, and the gradients of weight and bias that follow from them alone.
template <class T>
struct part_gradient_sums {
  gradient_parts const* parts;
  std::uint64_t slices, channels;
  T const* rstd;
  T* dweight;  // or null
  T* dbias;    // or null
  gradient_parts* to;
  __device__ void operator()(std::uint64_t c) const {
    gradient_parts s{0, 0};
    for (std::uint64_t i = 0; i < slices; ++i) {
      s.plain += parts[i * channels + c].plain;
      s.weighted += parts[i * channels + c].weighted;
    }
    if (dweight != nullptr) dweight[c] = static_cast<T>(s.weighted * static_cast<double>(rstd[c]));
    if (dbias != nullptr) dbias[c] = static_cast<T>(s.plain);
    to[c] = s;
  }
};

}  // namespace detail

template <class T>
void batch_norm_forward_training(cuda const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* x, T const* weight,
                                 T const* bias, double eps, double momentum, arithmetic_type<T>* running_mean, arithmetic_type<T>* running_var,
                                 std::int64_t* batches_tracked, T* mean, T* rstd, T* y) {
  using A = arithmetic_type<T>;
  using parts_memory = detail::scratch_parts;
  std::size_t const slices = (batch * positions + detail::channel_slice - 1) / detail::channel_slice;
  parts_memory memory{device, parts_memory::round(slices * channels * sizeof(detail::device_moments)) +
                                  2 * parts_memory::round(channels * sizeof(A)) +
                                  parts_memory::round(channels * sizeof(detail::device_moments))};
  detail::moments_list const parts{memory.take<double>(3 * slices * channels), slices * channels};
  A* const center = memory.take<A>(channels);
  A* const scale = memory.take<A>(channels);
  detail::channel_layout const layout{batch, channels, positions};
  auto const rows = static_cast<unsigned>(slices);
  if (positions == 1)
    device.launch(&detail::channel_moments_kernel<32, T>, dim3{static_cast<unsigned>((channels + 31) / 32), rows}, dim3{detail::block_threads}, 0, layout, x,
                  parts);
  else
    device.launch(&detail::channel_moments_kernel<1, T>, dim3{static_cast<unsigned>(channels), rows}, dim3{detail::block_threads}, 0, layout, x, parts);
  detail::moments_list found = parts;
  std::size_t lists = slices;
  if (device.group != nullptr) [[unlikely]] {
    double* const own = device.group->values(device, 3 * channels);
    detail::for_each_index(device, channels, detail::joined_moments{parts.numbers, slices, channels, false, {own, channels}});
    double* const all = const_cast<double*>(device.group->exchange(device, 3 * channels));
    found = {memory.take<double>(3 * channels), channels};
    lists = 1;
    detail::for_each_index(device, channels, detail::joined_moments{all, device.group->members(), channels, true, found});
  }
  detail::for_each_index(device, channels,
                         detail::batch_norm_statistics<T>{found, lists, channels, weight, bias, eps, momentum, running_mean, running_var,
                                                          batches_tracked, mean, rstd, center, scale});
  detail::for_each_index(device, detail::row_groups(batch) * channels * positions,
                         detail::channel_affine<T>{batch, channels, positions, x, center, scale, bias, y});
}

template <class T>
void batch_norm_forward_evaluation(cuda const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* x, T const* weight,
                                   T const* bias, double eps, arithmetic_type<T> const* running_mean, arithmetic_type<T> const* running_var, T* y) {
  using A = arithmetic_type<T>;
  A* const scale = detail::scratch_parts{device, channels * sizeof(A)}.template take<A>(channels);
  detail::for_each_index(device, channels, detail::running_scale<T>{running_var, weight, eps, scale});
  detail::for_each_index(device, detail::row_groups(batch) * channels * positions,
                         detail::channel_affine<T>{batch, channels, positions, x, running_mean, scale, bias, y});
}

namespace detail {

template <class T, class Mean>
void run_batch_norm_backward(cuda const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy, T const* x, T const* weight,
                             Mean const* mean, T const* rstd, arithmetic_type<T> const* variance, double eps, T* dweight, T* dbias, T* dx) {
  using A = arithmetic_type<T>;
  std::size_t const slices = (batch * positions + channel_slice - 1) / channel_slice;
  scratch_parts memory{device, scratch_parts::round(slices * channels * sizeof(gradient_parts)) + 3 * scratch_parts::round(channels * sizeof(A))};
  auto* const parts = memory.take<gradient_parts>(slices * channels);
  A* const scale = memory.take<A>(channels);
  A* const slope = memory.take<A>(channels);
  A* const shift = memory.take<A>(channels);
  bool const sums = rstd != nullptr || dweight != nullptr || dbias != nullptr;  // fixed statistics: dx needs none
  channel_layout const layout{batch, channels, positions};
  auto const rows = static_cast<unsigned>(slices);
  if (sums && positions == 1)
    device.launch(&channel_gradient_kernel<32, T, Mean>, dim3{static_cast<unsigned>((channels + 31) / 32), rows}, dim3{block_threads}, 0, layout, x, dy, mean, parts);
  else if (sums)
    device.launch(&channel_gradient_kernel<1, T, Mean>, dim3{static_cast<unsigned>(channels), rows}, dim3{block_threads}, 0, layout, x, dy, mean, parts);
  gradient_parts const* found = parts;
  std::size_t lists = sums ? slices : 0, samples = batch;
  if (device.group != nullptr && rstd != nullptr) [[unlikely]] {
    double* const own = device.group->values(device, 2 * channels);
    for_each_index(device, channels,
                   part_gradient_sums<T>{parts, slices, channels, rstd, dweight, dbias, reinterpret_cast<gradient_parts*>(own)});
    found = reinterpret_cast<gradient_parts const*>(device.group->exchange(device, 2 * channels));
    lists = device.group->members();
    samples = device.group->samples();
    dweight = dbias = nullptr;  // gradients of parts are summed later
  }
  for_each_index(device, channels,
                 batch_norm_gradients<T>{found, lists, channels, static_cast<double>(samples * positions), weight, rstd, variance, eps,
                                         dweight, dbias, scale, slope, shift});
  if (dx != nullptr)
    for_each_index(device, row_groups(batch) * channels * positions,
                   channel_gradient<T, Mean>{batch, channels, positions, rstd == nullptr ? nullptr : x, dy, mean, scale, slope, shift, dx});
}

}  // namespace detail

template <class T>
void batch_norm_backward(cuda const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy, T const* x, T const* weight,
                         T const* mean, T const* rstd, T* dweight, T* dbias, T* dx) {
  detail::run_batch_norm_backward<T, T>(device, batch, channels, positions, dy, x, weight, mean, rstd, nullptr, 0, dweight, dbias, dx);
}
template <class T>
void batch_norm_backward_evaluation(cuda const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy, T const* x,
                                    T const* weight, double eps, arithmetic_type<T> const* running_mean, arithmetic_type<T> const* running_var, T* dweight, T* dbias,
                                    T* dx) {
  detail::run_batch_norm_backward<T, arithmetic_type<T>>(device, batch, channels, positions, dy, x, weight, running_mean, nullptr, running_var, eps, dweight, dbias, dx);
}

// ---- layer norm ---------------------------------------------------------------------------------------------------------------------------

namespace detail {

template <class T>
struct layer_norm_row {
  T const* x;
  T const* weight;  // or null
  T const* bias;    // or null
  double eps;
  T* y;
  T* mean;  // or null
  T* rstd;  // or null
  std::uint64_t width;
  bool cached = false;
  unsigned row_bytes = 0;
  unsigned block_memory = 0;  // where the block's copy of weight and bias lies behind the rows' memory; 0: nowhere

  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char* memory) const {
    using A = arithmetic_type<T>;
    __shared__ A shared[8];
    __shared__ double shared_double[8];
    T const* w = weight;
    T const* b = bias;
    if (block_memory != 0 && weight != nullptr && bias != nullptr) {
      T* const copy = reinterpret_cast<T*>(memory - Team::index() * row_bytes + block_memory);
      for (std::uint64_t i = threadIdx.x; i < width; i += block_threads) {
        copy[i] = weight[i];
        copy[width + i] = bias[i];
      }
      __syncthreads();
      w = copy;
      b = copy + width;
    }
    T* const kept = reinterpret_cast<T*>(memory);
    T const* const from = x + row * width;
    std::uint64_t const n = active ? width : 0;
    double const count = static_cast<double>(width);
    A sum{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      T const v = from[i];
      if (cached) kept[i] = v;
      sum += static_cast<A>(v);
    }
    A const center = static_cast<A>(static_cast<double>(Team::sum(sum, shared)) / count);
    // Squares around the rounded mean, and what its rounding left.
    A residual_part{}, squares_part{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const d = static_cast<A>(cached ? kept[i] : from[i]) - center;
      residual_part += d;
      squares_part = fma(d, d, squares_part);
    }
    double const residual = Team::sum(static_cast<double>(residual_part), shared_double);
    double const squares = Team::sum(static_cast<double>(squares_part), shared_double);
    double const around = squares - residual * residual / count;
    A const m = static_cast<A>(static_cast<double>(center) + residual / count);
    A const s = static_cast<A>(1 / ::sqrt((around > 0 ? around / count : 0) + eps));
    if (active && Team::rank() == 0) {
      if (mean != nullptr) mean[row] = static_cast<T>(m);
      if (rstd != nullptr) rstd[row] = static_cast<T>(s);
    }
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A v = (static_cast<A>(cached ? kept[i] : from[i]) - m) * s;
      if (weight != nullptr && bias != nullptr) v = fma(v, static_cast<A>(w[i]), static_cast<A>(b[i]));
      else if (weight != nullptr) v *= static_cast<A>(w[i]);
      y[row * width + i] = static_cast<T>(v);
    }
  }
};

/// dx and, by blocks of rows, the parts of dweight and dbias: a team goes through `rows_of_team` rows, each thread always on the same columns.
template <int Size, class T>
__global__ void __launch_bounds__(block_threads)
    layer_norm_backward_rows(std::uint64_t rows, std::uint64_t width, unsigned rows_of_team, T const* dy, T const* x, T const* weight, T const* mean,
                             T const* rstd, arithmetic_type<T>* parts, bool wants_parts, T* dx) {
  using A = arithmetic_type<T>;
  using team = row_team<Size>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ A shared[8];
  // Team i: sums of dy u, sums of dy; then the row's g and u. Behind all teams: the weight.
  A* const own = reinterpret_cast<A*>(memory) + team::index() * 4 * width;
  A* const kept_g = own + 2 * width;
  A* const kept_u = own + 3 * width;
  if (wants_parts)
    for (std::uint64_t i = team::rank(); i < 2 * width; i += Size) own[i] = A{};
  A* const w = reinterpret_cast<A*>(memory) + team::rows_per_block * 4 * width;
  for (std::uint64_t i = threadIdx.x; i < width; i += block_threads) w[i] = weight == nullptr ? A(1) : static_cast<A>(weight[i]);
  __syncthreads();
  std::uint64_t const first = (std::uint64_t{blockIdx.x} * team::rows_per_block + team::index()) * rows_of_team;
  A const count = static_cast<A>(width);
  for (unsigned k = 0; k < rows_of_team; ++k) {
    std::uint64_t const row = first + k, n = row < rows ? width : 0, at = row * width;
    A const m = warp_read<A>(mean + row, row < rows), s = warp_read<A>(rstd + row, row < rows);
    A plain{}, weighted{};
    for (std::uint64_t i = team::rank(); i < n; i += Size) {
      A const u = (static_cast<A>(x[at + i]) - m) * s, d = static_cast<A>(dy[at + i]);
      A const g = d * w[i];
      plain += g;
      weighted = fma(g, u, weighted);
      if (wants_parts) {
        own[i] = fma(d, u, own[i]);
        own[width + i] += d;
      }
      kept_g[i] = g;
      kept_u[i] = u;
    }
    A const a = team::sum(plain, shared) / count, b = team::sum(weighted, shared) / count;
    if (dx != nullptr)
      for (std::uint64_t i = team::rank(); i < n; i += Size) dx[at + i] = static_cast<T>(s * (kept_g[i] - fma(kept_u[i], b, a)));
  }
  if (!wants_parts) return;
  __syncthreads();
  A const* const all = reinterpret_cast<A const*>(memory);
  for (std::uint64_t i = threadIdx.x; i < 2 * width; i += block_threads) {
    A sum = all[i];
    for (int t = 1; t < team::rows_per_block; ++t) sum += all[t * 4 * width + i];
    parts[blockIdx.x * 2 * width + i] = sum;
  }
}

/// Rows too wide for shared memory: dx only, from global memory.
template <class T>
struct layer_norm_wide_row {
  T const* dy;
  T const* x;
  T const* weight;
  T const* mean;
  T const* rstd;
  T* dx;
  std::uint64_t width;
  bool cached = false;
  template <class Team>
  __device__ void operator()(Team, std::uint64_t row, bool active, unsigned char*) const {
    using A = arithmetic_type<T>;
    __shared__ A shared[8];
    std::uint64_t const n = active ? width : 0, at = row * width;
    A const m = active ? static_cast<A>(mean[row]) : A{}, s = active ? static_cast<A>(rstd[row]) : A{};
    A plain{}, weighted{};
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const u = (static_cast<A>(x[at + i]) - m) * s, d = static_cast<A>(dy[at + i]), g = weight == nullptr ? d : d * static_cast<A>(weight[i]);
      plain += g;
      weighted = fma(g, u, weighted);
    }
    A const count = static_cast<A>(width), a = Team::sum(plain, shared) / count, b = Team::sum(weighted, shared) / count;
    for (std::uint64_t i = Team::rank(); i < n; i += Team::size) {
      A const u = (static_cast<A>(x[at + i]) - m) * s, d = static_cast<A>(dy[at + i]), g = weight == nullptr ? d : d * static_cast<A>(weight[i]);
      dx[at + i] = static_cast<T>(s * (g - fma(u, b, a)));
    }
  }
};
template <class T>
struct layer_norm_wide_columns {
  T const* dy;
  T const* x;
  T const* mean;
  T const* rstd;
  T* dweight;
  T* dbias;
  std::uint64_t rows, width;
  __device__ void operator()(std::uint64_t i) const {
    using A = arithmetic_type<T>;
    A weighted{}, plain{};
    for (std::uint64_t r = 0; r < rows; ++r) {
      A const d = static_cast<A>(dy[r * width + i]);
      weighted = fma(d, (static_cast<A>(x[r * width + i]) - static_cast<A>(mean[r])) * static_cast<A>(rstd[r]), weighted);
      plain += d;
    }
    if (dweight != nullptr) dweight[i] = static_cast<T>(weighted);
    if (dbias != nullptr) dbias[i] = static_cast<T>(plain);
  }
};

/// The parts in ascending order, into two arrays of `width`.
template <class T>
struct join_layer_norm_parts {
  arithmetic_type<T> const* parts;
  std::uint64_t count, width;
  T* dweight;
  T* dbias;
  __device__ void operator()(std::uint64_t i) const {
    arithmetic_type<T> sum{};
    for (std::uint64_t p = 0; p < count; ++p) sum += parts[p * 2 * width + i];
    T* const to = i < width ? dweight : dbias;
    if (to != nullptr) to[i < width ? i : i - width] = static_cast<T>(sum);
  }
};

}  // namespace detail

template <class T>
void layer_norm_forward(cuda const& device, std::size_t rows, std::size_t width, T const* x, T const* weight, T const* bias, double eps, T* y, T* mean,
                        T* rstd) {
  detail::for_each_row(device, rows, width, width * sizeof(T), detail::layer_norm_row<T>{x, weight, bias, eps, y, mean, rstd, width}, 2 * width * sizeof(T));
}

template <class T>
void layer_norm_backward(cuda const& device, std::size_t rows, std::size_t width, T const* dy, T const* x, T const* weight, T const* mean, T const* rstd,
                         T* dweight, T* dbias, T* dx, T*) {
  if (rows == 0) return;
  bool const wants_parts = dweight != nullptr || dbias != nullptr;
  using A = arithmetic_type<T>;
  std::size_t const team_bytes = 4 * width * sizeof(A);
  std::size_t const weight_bytes = width * sizeof(A);
  bool const narrow = team_bytes * 8 + weight_bytes + 256 <= detail::shared_bytes;
  if (!narrow && team_bytes + weight_bytes + 256 > detail::shared_bytes) {
    // Columns first: dx may take dy's memory.
    if (wants_parts)
      detail::for_each_index(device, width, detail::layer_norm_wide_columns<T>{dy, x, mean, rstd, dweight, dbias, rows, width});
    if (dx != nullptr) detail::for_each_row(device, rows, width, detail::shared_bytes, detail::layer_norm_wide_row<T>{dy, x, weight, mean, rstd, dx, width});
    return;
  }
  // Enough rows for a team that the parts cost little, few enough that there are teams for all multiprocessors.
  std::size_t const teams = narrow ? 8 : 1;
  std::size_t const rows_of_team = rows >= 16 * 1024 ? 32 : rows >= 1024 ? 16 : 8;
  std::size_t const blocks = (rows + teams * rows_of_team - 1) / (teams * rows_of_team);
  auto* const parts =
      wants_parts ? static_cast<arithmetic_type<T>*>(device.context().scratch(blocks * 2 * width * sizeof(arithmetic_type<T>))) : nullptr;
  auto* const kernel = narrow ? &detail::layer_norm_backward_rows<32, T> : &detail::layer_norm_backward_rows<static_cast<int>(detail::block_threads), T>;
  device.launch(kernel, dim3{static_cast<unsigned>(blocks)}, dim3{detail::block_threads}, team_bytes * teams + weight_bytes, rows, width,
                static_cast<unsigned>(rows_of_team), dy, x, weight, mean, rstd, parts, wants_parts, dx);
  if (wants_parts) detail::for_each_index(device, 2 * width, detail::join_layer_norm_parts<T>{parts, blocks, width, dweight, dbias});
}

}  // namespace mortise
