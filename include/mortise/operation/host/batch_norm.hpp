// Batch normalisation on the host. See operation/normalization.hpp for the contract. Every kernel here does one to three operations for four
// bytes that it moves, so none has a 512-bit copy.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/batch_group.hpp>
#include <mortise/detail/math.hpp>
#include <mortise/operation/map.hpp>

namespace mortise {

namespace detail {

/// Elements of a chunk whose moments are found in T before they are joined to the others in double: half of a first-level cache.
inline constexpr std::size_t moment_chunk = 4096;
/// Rows of a chunk where channels are neighbours in memory.
inline constexpr std::size_t moment_rows = 64;
/// Channels that one piece handles at most.
inline constexpr std::size_t channel_block = 64;

/// Number, mean and sum of squares around the mean of the values so far.
struct moments {
  double count = 0, mean = 0, squares = 0;

  /// Joins a chunk of `n` values with mean `center + residual / n`, whose squares were taken around `center`.
  MORTISE_INLINE void join(double n, double center, double residual, double squares_around_center) {
    double const correction = residual / n;
    double const chunk_squares = squares_around_center - residual * correction;
    double const distance = center + correction - mean;
    double const total = count + n;
    squares += (chunk_squares > 0 ? chunk_squares : 0) + distance * distance * (count * n / total);
    mean += distance * (n / total);
    count = total;
  }
};

/// Moments of one channel whose positions are neighbours: `samples` runs of `size` values, `stride` apart.
template <class T>
struct plane_moments_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  std::size_t samples, size, stride;
  moments* result;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    std::size_t const group = size >= moment_chunk ? 1 : moment_chunk / size;
    moments all;
    for (std::size_t first = 0; first < samples; first += group) {
      std::size_t const rows = samples - first < group ? samples - first : group;
      T const* const chunk = x + first * stride;
      V sums[4];
      T rest{};
      for (std::size_t r = 0; r < rows; ++r) {
        T const* const row = chunk + r * stride;
        std::size_t i = 0;
        for (; i + 4 * w <= size; i += 4 * w) {
          MORTISE_UNROLL(4)
          for (std::size_t k = 0; k < 4; ++k) sums[k] += V::load(row + i + k * w);
        }
        for (; i + w <= size; i += w) sums[0] += V::load(row + i);
        for (; i < size; ++i) rest += row[i];
      }
      double const count = static_cast<double>(rows * size);
      T const center = static_cast<T>((static_cast<double>(sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))) + static_cast<double>(rest)) / count);
      V const c{center};
      V residuals[2], squares[2];
      T rest_residual{}, rest_squares{};
      for (std::size_t r = 0; r < rows; ++r) {
        T const* const row = chunk + r * stride;
        std::size_t i = 0;
        for (; i + 2 * w <= size; i += 2 * w) {
          MORTISE_UNROLL(2)
          for (std::size_t k = 0; k < 2; ++k) {
            V const d = V::load(row + i + k * w) - c;
            residuals[k] += d;
            squares[k] = fma(d, d, squares[k]);
          }
        }
        for (; i + w <= size; i += w) {
          V const d = V::load(row + i) - c;
          residuals[0] += d;
          squares[0] = fma(d, d, squares[0]);
        }
        for (; i < size; ++i) {
          T const d = row[i] - center;
          rest_residual += d;
          rest_squares += d * d;
        }
      }
      all.join(count, static_cast<double>(center), static_cast<double>(sum_lanes(residuals[0] + residuals[1])) + static_cast<double>(rest_residual),
               static_cast<double>(sum_lanes(squares[0] + squares[1])) + static_cast<double>(rest_squares));
    }
    *result = all;
  }
};

/// The same for channels that are neighbours (one position each): `width` columns of a matrix with `samples` rows.
template <class T>
struct column_moments_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  std::size_t samples, width, stride;
  moments* result;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    for (std::size_t column = 0; column < width; column += w) {
      std::size_t const lanes = width - column < w ? width - column : w;
      moments all[w];
      for (std::size_t first = 0; first < samples; first += moment_rows) {
        std::size_t const rows = samples - first < moment_rows ? samples - first : moment_rows;
        T const* const chunk = x + first * stride + column;
        auto const value = [&](std::size_t r) MORTISE_LAMBDA_INLINE {
          return lanes == w ? V::load(chunk + r * stride) : V::load_first(chunk + r * stride, lanes);
        };
        V sum, residual, squares;
        for (std::size_t r = 0; r < rows; ++r) sum += value(r);
        V const center = sum / V(static_cast<T>(rows));
        for (std::size_t r = 0; r < rows; ++r) {
          V const d = value(r) - center;
          residual += d;
          squares = fma(d, d, squares);
        }
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          int const l = static_cast<int>(lane);
          all[lane].join(static_cast<double>(rows), static_cast<double>(center[l]), static_cast<double>(residual[l]), static_cast<double>(squares[l]));
        }
      }
      for (std::size_t lane = 0; lane < lanes; ++lane) result[column + lane] = all[lane];
    }
  }
};

/// y = (x - mean) scale + shift for one channel.
template <class T>
struct plane_affine_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T* y;
  std::size_t samples, size, stride;
  T mean, scale, shift;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const m{mean}, a{scale}, b{shift};
    for (std::size_t n = 0; n < samples; ++n) {
      T const* const from = x + n * stride;
      T* const to = y + n * stride;
      std::size_t i = 0;
      for (; i + V::width <= size; i += V::width) fma(V::load(from + i) - m, a, b).store(to + i);
      for (; i < size; ++i) to[i] = fma(from[i] - mean, scale, shift);
    }
  }
};

/// The same for neighbouring channels.
template <class T>
struct column_affine_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T* y;
  std::size_t samples, width, stride;
  T const* mean;
  T const* scale;
  T const* shift;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    for (std::size_t n = 0; n < samples; ++n) {
      T const* const from = x + n * stride;
      T* const to = y + n * stride;
      std::size_t i = 0;
      for (; i + V::width <= width; i += V::width)
        fma(V::load(from + i) - V::load(mean + i), V::load(scale + i), V::load(shift + i)).store(to + i);
      for (; i < width; ++i) to[i] = fma(from[i] - mean[i], scale[i], shift[i]);
    }
  }
};

/// Sum of dy, and of dy (x - mean).
struct gradient_sums {
  double plain = 0, weighted = 0;
};

template <class T>
struct plane_gradient_sums_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T const* dy;
  std::size_t samples, size, stride;
  T mean;
  gradient_sums* result;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    std::size_t const group = size >= moment_chunk ? 1 : moment_chunk / size;
    V const m{mean};
    gradient_sums all;
    for (std::size_t first = 0; first < samples; first += group) {
      std::size_t const last = samples - first < group ? samples : first + group;
      V plain[2], weighted[2];
      T rest_plain{}, rest_weighted{};
      for (std::size_t n = first; n < last; ++n) {
        T const* const xs = x + n * stride;
        T const* const gs = dy + n * stride;
        std::size_t i = 0;
        for (; i + 2 * w <= size; i += 2 * w) {
          MORTISE_UNROLL(2)
          for (std::size_t k = 0; k < 2; ++k) {
            V const g = V::load(gs + i + k * w);
            plain[k] += g;
            weighted[k] = fma(g, V::load(xs + i + k * w) - m, weighted[k]);
          }
        }
        for (; i + w <= size; i += w) {
          V const g = V::load(gs + i);
          plain[0] += g;
          weighted[0] = fma(g, V::load(xs + i) - m, weighted[0]);
        }
        for (; i < size; ++i) {
          rest_plain += gs[i];
          rest_weighted += gs[i] * (xs[i] - mean);
        }
      }
      all.plain += static_cast<double>(sum_lanes(plain[0] + plain[1])) + static_cast<double>(rest_plain);
      all.weighted += static_cast<double>(sum_lanes(weighted[0] + weighted[1])) + static_cast<double>(rest_weighted);
    }
    *result = all;
  }
};

template <class T>
struct column_gradient_sums_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T const* dy;
  std::size_t samples, width, stride;
  T const* mean;
  gradient_sums* result;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    constexpr std::size_t w = V::width;
    for (std::size_t column = 0; column < width; column += w) {
      std::size_t const lanes = width - column < w ? width - column : w;
      auto const value = [&](T const* p) MORTISE_LAMBDA_INLINE { return lanes == w ? V::load(p) : V::load_first(p, lanes); };
      V const m = value(mean + column);
      gradient_sums all[w];
      for (std::size_t first = 0; first < samples; first += moment_rows) {
        std::size_t const last = samples - first < moment_rows ? samples : first + moment_rows;
        V plain, weighted;
        for (std::size_t n = first; n < last; ++n) {
          V const g = value(dy + n * stride + column);
          plain += g;
          weighted = fma(g, value(x + n * stride + column) - m, weighted);
        }
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          all[lane].plain += static_cast<double>(plain[static_cast<int>(lane)]);
          all[lane].weighted += static_cast<double>(weighted[static_cast<int>(lane)]);
        }
      }
      for (std::size_t lane = 0; lane < lanes; ++lane) result[column + lane] = all[lane];
    }
  }
};

/// dx = scale dy + (x - mean) slope + shift for one channel.
template <class T>
struct plane_gradient_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T const* dy;
  T* dx;
  std::size_t samples, size, stride;
  T mean, scale, slope, shift;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const m{mean}, a{scale}, s{slope}, b{shift};
    for (std::size_t n = 0; n < samples; ++n) {
      std::size_t const at = n * stride;
      std::size_t i = 0;
      for (; i + V::width <= size; i += V::width)
        fma(V::load(dy + at + i), a, fma(V::load(x + at + i) - m, s, b)).store(dx + at + i);
      for (; i < size; ++i) dx[at + i] = fma(dy[at + i], scale, fma(x[at + i] - mean, slope, shift));
    }
  }
};

template <class T>
struct column_gradient_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T const* dy;
  T* dx;
  std::size_t samples, width, stride;
  T const* mean;
  T const* scale;
  T const* slope;
  T const* shift;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    for (std::size_t n = 0; n < samples; ++n) {
      std::size_t const at = n * stride;
      std::size_t i = 0;
      for (; i + V::width <= width; i += V::width)
        fma(V::load(dy + at + i), V::load(scale + i), fma(V::load(x + at + i) - V::load(mean + i), V::load(slope + i), V::load(shift + i)))
            .store(dx + at + i);
      for (; i < width; ++i) dx[at + i] = fma(dy[at + i], scale[i], fma(x[at + i] - mean[i], slope[i], shift[i]));
    }
  }
};

/// dx = scale dy: what is left of the backward pass where the statistics are constants.
template <class T>
struct plane_scale_kernel {
  static constexpr int most_bytes = 32;
  T const* dy;
  T* dx;
  std::size_t samples, size, stride;
  T scale;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const a{scale};
    for (std::size_t n = 0; n < samples; ++n) {
      std::size_t const at = n * stride;
      std::size_t i = 0;
      for (; i + V::width <= size; i += V::width) (V::load(dy + at + i) * a).store(dx + at + i);
      for (; i < size; ++i) dx[at + i] = dy[at + i] * scale;
    }
  }
};

template <class T>
struct column_scale_kernel {
  static constexpr int most_bytes = 32;
  T const* dy;
  T* dx;
  std::size_t samples, width, stride;
  T const* scale;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    for (std::size_t n = 0; n < samples; ++n) {
      std::size_t const at = n * stride;
      std::size_t i = 0;
      for (; i + V::width <= width; i += V::width) (V::load(dy + at + i) * V::load(scale + i)).store(dx + at + i);
      for (; i < width; ++i) dx[at + i] = dy[at + i] * scale[i];
    }
  }
};

/// Calls f(first channel, channels) on fixed blocks.
template <class F>
void for_each_channel_block(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, F const& f) {
  std::size_t block = map_piece / (batch * positions) + 1;
  // Neighbouring channels: whole cache lines.
  block = positions == 1 ? (block + 15) / 16 * 16 : block;
  if (block > channel_block) block = channel_block;
  for_each_piece(device, (channels + block - 1) / block, [&](std::size_t piece) {
    std::size_t const first = piece * block;
    f(first, channels - first < block ? channels - first : block);
  });
}

/// y = (x - mean) scale + shift for `count` channels from `first`; the arrays begin at the first of them.
template <class T>
void normalize_channels(std::size_t batch, std::size_t channels, std::size_t positions, std::size_t first, std::size_t count, T const* x,
                        T const* mean, T const* scale, T const* shift, T* y) {
  std::size_t const stride = channels * positions;
  if (positions == 1) {
    for_this_cpu(column_affine_kernel<T>{x + first, y + first, batch, count, stride, mean, scale, shift});
  } else {
    for (std::size_t c = 0; c < count; ++c)
      for_this_cpu(plane_affine_kernel<T>{x + (first + c) * positions, y + (first + c) * positions, batch, positions, stride, mean[c], scale[c], shift[c]});
  }
}

template <class T>
void sum_channel_gradients(std::size_t batch, std::size_t channels, std::size_t positions, std::size_t first, std::size_t count, T const* x,
                           T const* dy, T const* mean, gradient_sums* sums) {
  std::size_t const stride = channels * positions;
  if (positions == 1) {
    for_this_cpu(column_gradient_sums_kernel<T>{x + first, dy + first, batch, count, stride, mean, sums});
  } else {
    for (std::size_t c = 0; c < count; ++c) {
      std::size_t const at = (first + c) * positions;
      for_this_cpu(plane_gradient_sums_kernel<T>{x + at, dy + at, batch, positions, stride, mean[c], sums + c});
    }
  }
}

inline double reciprocal_deviation(double variance, double eps) { return 1 / __builtin_sqrt(variance + eps); }

/// One of several parts of a batch whose moments are those of all parts, joined in the order of the parts.
template <class T>
MORTISE_COLD void batch_norm_forward_together(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* x,
                                              T const* weight, T const* bias, double eps, double momentum, T* running_mean, T* running_var,
                                              T* mean, T* rstd, T* y) {
  batch_group& group = *device.group;
  double* const own = group.values(3 * channels);
  for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    moments found[channel_block];
    std::size_t const stride = channels * positions;
    if (positions == 1) for_this_cpu(column_moments_kernel<T>{x + first, batch, count, stride, found});
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k;
      if (positions != 1) for_this_cpu(plane_moments_kernel<T>{x + c * positions, batch, positions, stride, found + k});
      own[3 * c] = found[k].count, own[3 * c + 1] = found[k].mean, own[3 * c + 2] = found[k].squares;
    }
  });
  double const* const all = group.exchange(own, 3 * channels);
  std::size_t const parts = group.members();
  for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    T center[channel_block], scale[channel_block];
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k;
      moments m;
      for (std::size_t p = 0; p < parts; ++p) {
        double const* const part = all + 3 * (p * channels + c);
        m.join(part[0], part[1], 0, part[2]);
      }
      double const r = reciprocal_deviation(m.squares / m.count, eps);
      double const unbiased = m.squares / (m.count > 1 ? m.count - 1 : 1);
      running_mean[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_mean[c]) + momentum * m.mean);
      running_var[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_var[c]) + momentum * unbiased);
      center[k] = static_cast<T>(m.mean);
      scale[k] = static_cast<T>(r * static_cast<double>(weight[c]));
      if (mean != nullptr) mean[c] = center[k];
      if (rstd != nullptr) rstd[c] = static_cast<T>(r);
    }
    normalize_channels(batch, channels, positions, first, count, x, center, scale, bias + first, y);
  });
}

/// Its backward: dx from the sums over all parts, dweight and dbias from this part's, since gradients of parts are summed later.
template <class T>
MORTISE_COLD void batch_norm_backward_together(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy,
                                               T const* x, T const* weight, T const* mean, T const* rstd, T* dweight, T* dbias, T* dx) {
  batch_group& group = *device.group;
  double* const own = group.values(3 * channels);
  for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    gradient_sums sums[channel_block];
    sum_channel_gradients(batch, channels, positions, first, count, x, dy, mean + first, sums);
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k;
      own[3 * c] = sums[k].plain, own[3 * c + 1] = sums[k].weighted, own[3 * c + 2] = static_cast<double>(batch * positions);
      if (dweight != nullptr) dweight[c] = static_cast<T>(sums[k].weighted * static_cast<double>(rstd[c]));
      if (dbias != nullptr) dbias[c] = static_cast<T>(sums[k].plain);
    }
  });
  double const* const all = group.exchange(own, 3 * channels);
  if (dx == nullptr) return;
  std::size_t const parts = group.members();
  for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    std::size_t const stride = channels * positions;
    T scale[channel_block], slope[channel_block], shift[channel_block];
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k, at = c * positions;
      double plain = 0, weighted = 0, n = 0;
      for (std::size_t p = 0; p < parts; ++p) {
        double const* const part = all + 3 * (p * channels + c);
        plain += part[0], weighted += part[1], n += part[2];
      }
      double const r = static_cast<double>(rstd[c]), factor = static_cast<double>(weight[c]) * r;
      scale[k] = static_cast<T>(factor);
      slope[k] = static_cast<T>(-factor * r * r * weighted / n);
      shift[k] = static_cast<T>(-factor * plain / n);
      if (positions != 1)
        for_this_cpu(plane_gradient_kernel<T>{x + at, dy + at, dx + at, batch, positions, stride, mean[c], scale[k], slope[k], shift[k]});
    }
    if (positions == 1)
      for_this_cpu(column_gradient_kernel<T>{x + first, dy + first, dx + first, batch, count, stride, mean + first, scale, slope, shift});
  });
}

}  // namespace detail

template <class T>
void batch_norm_forward_training(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* x, T const* weight,
                                 T const* bias, double eps, double momentum, T* running_mean, T* running_var, std::int64_t* batches_tracked,
                                 T* mean, T* rstd, T* y) {
  if (device.group != nullptr) [[unlikely]] {
    detail::batch_norm_forward_together(device, batch, channels, positions, x, weight, bias, eps, momentum, running_mean, running_var, mean, rstd, y);
    ++*batches_tracked;
    return;
  }
  detail::for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    detail::moments found[detail::channel_block];
    std::size_t const stride = channels * positions;
    if (positions == 1) detail::for_this_cpu(detail::column_moments_kernel<T>{x + first, batch, count, stride, found});
    T center[detail::channel_block], scale[detail::channel_block];
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k;
      if (positions != 1) detail::for_this_cpu(detail::plane_moments_kernel<T>{x + c * positions, batch, positions, stride, found + k});
      detail::moments const& m = found[k];
      double const r = detail::reciprocal_deviation(m.squares / m.count, eps);
      double const unbiased = m.squares / (m.count > 1 ? m.count - 1 : 1);
      running_mean[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_mean[c]) + momentum * m.mean);
      running_var[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_var[c]) + momentum * unbiased);
      center[k] = static_cast<T>(m.mean);
      scale[k] = static_cast<T>(r * static_cast<double>(weight[c]));
      if (mean != nullptr) mean[c] = center[k];
      if (rstd != nullptr) rstd[c] = static_cast<T>(r);
      // At once, while the channel is still in the cache.
      if (positions != 1)
        detail::for_this_cpu(detail::plane_affine_kernel<T>{x + c * positions, y + c * positions, batch, positions, stride, center[k], scale[k], bias[c]});
    }
    if (positions == 1) detail::normalize_channels(batch, channels, positions, first, count, x, center, scale, bias + first, y);
  });
  ++*batches_tracked;
}

template <class T>
void batch_norm_forward_evaluation(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* x, T const* weight,
                                   T const* bias, double eps, T const* running_mean, T const* running_var, T* y) {
  detail::for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    T scale[detail::channel_block];
    for (std::size_t k = 0; k < count; ++k)
      scale[k] = static_cast<T>(detail::reciprocal_deviation(static_cast<double>(running_var[first + k]), eps) * static_cast<double>(weight[first + k]));
    detail::normalize_channels(batch, channels, positions, first, count, x, running_mean + first, scale, bias + first, y);
  });
}

template <class T>
void batch_norm_backward(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy, T const* x, T const* weight,
                         T const* mean, T const* rstd, T* dweight, T* dbias, T* dx) {
  if (device.group != nullptr) [[unlikely]]
    return detail::batch_norm_backward_together(device, batch, channels, positions, dy, x, weight, mean, rstd, dweight, dbias, dx);
  // With u = (x - m) r:   dweight = sum dy u,  dbias = sum dy,  dx = weight r (dy - (dbias + u dweight) / n)
  detail::for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    detail::gradient_sums sums[detail::channel_block];
    std::size_t const stride = channels * positions;
    double const n = static_cast<double>(batch * positions);
    T scale[detail::channel_block], slope[detail::channel_block], shift[detail::channel_block];
    if (positions == 1) detail::sum_channel_gradients(batch, channels, positions, first, count, x, dy, mean + first, sums);
    for (std::size_t k = 0; k < count; ++k) {
      std::size_t const c = first + k, at = c * positions;
      if (positions != 1) detail::for_this_cpu(detail::plane_gradient_sums_kernel<T>{x + at, dy + at, batch, positions, stride, mean[c], sums + k});
      double const r = static_cast<double>(rstd[c]), factor = static_cast<double>(weight[c]) * r;
      if (dweight != nullptr) dweight[c] = static_cast<T>(sums[k].weighted * r);
      if (dbias != nullptr) dbias[c] = static_cast<T>(sums[k].plain);
      scale[k] = static_cast<T>(factor);
      slope[k] = static_cast<T>(-factor * r * r * sums[k].weighted / n);
      shift[k] = static_cast<T>(-factor * sums[k].plain / n);
      if (dx != nullptr && positions != 1)
        detail::for_this_cpu(detail::plane_gradient_kernel<T>{x + at, dy + at, dx + at, batch, positions, stride, mean[c], scale[k], slope[k], shift[k]});
    }
    if (dx != nullptr && positions == 1)
      detail::for_this_cpu(detail::column_gradient_kernel<T>{x + first, dy + first, dx + first, batch, count, stride, mean + first, scale, slope, shift});
  });
}

template <class T>
void batch_norm_backward_evaluation(host const& device, std::size_t batch, std::size_t channels, std::size_t positions, T const* dy, T const* x,
                                    T const* weight, double eps, T const* running_mean, T const* running_var, T* dweight, T* dbias, T* dx) {
  detail::for_each_channel_block(device, batch, channels, positions, [=](std::size_t first, std::size_t count) {
    std::size_t const stride = channels * positions;
    double r[detail::channel_block];
    for (std::size_t k = 0; k < count; ++k) r[k] = detail::reciprocal_deviation(static_cast<double>(running_var[first + k]), eps);
    if (dweight != nullptr || dbias != nullptr) {
      detail::gradient_sums sums[detail::channel_block];
      detail::sum_channel_gradients(batch, channels, positions, first, count, x, dy, running_mean + first, sums);
      for (std::size_t k = 0; k < count; ++k) {
        if (dweight != nullptr) dweight[first + k] = static_cast<T>(sums[k].weighted * r[k]);
        if (dbias != nullptr) dbias[first + k] = static_cast<T>(sums[k].plain);
      }
    }
    if (dx == nullptr) return;
    T scale[detail::channel_block];
    for (std::size_t k = 0; k < count; ++k) scale[k] = static_cast<T>(r[k] * static_cast<double>(weight[first + k]));
    if (positions == 1) {
      detail::for_this_cpu(detail::column_scale_kernel<T>{dy + first, dx + first, batch, count, stride, scale});
    } else {
      for (std::size_t k = 0; k < count; ++k) {
        std::size_t const at = (first + k) * positions;
        detail::for_this_cpu(detail::plane_scale_kernel<T>{dy + at, dx + at, batch, positions, stride, scale[k]});
      }
    }
  });
}

}  // namespace mortise
