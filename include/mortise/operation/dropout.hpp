// Dropout: random zeros, each decided by the place of its element in the whole batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/map.hpp>
#include <mortise/tensor/philox.hpp>

namespace mortise {

namespace detail {

/// Elements below this random number are dropped: p as a fraction of 2^32, rounded; 2^32 drops all.
constexpr std::uint64_t dropout_threshold(double p) {
  return p <= 0 ? 0 : p >= 1 ? std::uint64_t{1} << 32 : static_cast<std::uint64_t>(p * 4294967296.0 + 0.5);
}

/// The narrow vectors that accompany simd<T, W>: W random words, W bytes.
template <class T, int W, class Word = std::uint32_t, class Byte = std::uint8_t>  // parameters, since g++ takes dependent sizes on dependent types only
struct dropout_lanes {
  using V = simd<T, W>;
  typedef Word words __attribute__((vector_size(W * 4)));
  typedef Word words_memory __attribute__((vector_size(W * 4), aligned(4), may_alias));
  typedef Byte bytes __attribute__((vector_size(W)));
  typedef Byte bytes_memory __attribute__((vector_size(W), aligned(1), may_alias));

  MORTISE_INLINE static typename V::mask drawn(Word const* bits, Word threshold, Byte* keep) {
    auto const stays = static_cast<words>(*reinterpret_cast<words_memory const*>(bits)) >= (words{} + threshold);
    if (keep != nullptr) *reinterpret_cast<bytes_memory*>(keep) = __builtin_convertvector(stays, bytes) & (bytes{} + Byte{1});
    return {__builtin_convertvector(stays, typename V::bits)};
  }
  MORTISE_INLINE static typename V::mask kept(Byte const* keep) {
    bytes const b = *reinterpret_cast<bytes_memory const*>(keep);
    return {__builtin_convertvector(b, typename V::bits) != typename V::bits{}};
  }
};

template <class T>
struct dropout_kernel {
  T const* x;
  T* y;
  std::uint8_t* keep;  // or null
  std::uint32_t const* bits;
  std::uint32_t threshold;
  T scale;
  std::size_t n;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const factor{scale}, zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) {
      auto const stays = dropout_lanes<T, V::width>::drawn(bits + i, threshold, keep == nullptr ? nullptr : keep + i);
      select(stays, V::load(x + i) * factor, zero).store(y + i);
    }
    for (; i < n; ++i) {
      bool const stays = bits[i] >= threshold;
      if (keep != nullptr) keep[i] = stays ? 1 : 0;
      y[i] = stays ? x[i] * scale : T{};
    }
  }
};

template <class T>
struct dropout_backward_kernel {
  static constexpr int most_bytes = 32;
  T const* dy;
  T* dx;
  std::uint8_t const* keep;
  T scale;
  std::size_t n;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = simd<T, Bytes / static_cast<int>(sizeof(T))>;
    V const factor{scale}, zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width)
      select(dropout_lanes<T, V::width>::kept(keep + i), V::load(dy + i) * factor, zero).store(dx + i);
    for (; i < n; ++i) dx[i] = keep[i] != 0 ? dy[i] * scale : T{};
  }
};

template <class T>
constexpr T dropout_scale(double p) {
  return p < 1 ? static_cast<T>(1 / (1 - p)) : T{};
}

}  // namespace detail

/// Inverted dropout: y = x / (1 - p) where bits(first + i) >= p 2^32, else 0; n elements. y may be x.
///
/// `first` is the place of the first element in the whole batch, so that a batch cut into parts drops the same elements.
/// keep    (n) bytes, 1 where the element stays, for `dropout_backward`; or null
template <class T>
void dropout_forward(host const& device, std::size_t n, double p, random_stream const& random, std::uint64_t first, T const* x, T* y,
                     std::uint8_t* keep) {
  std::uint64_t const threshold = detail::dropout_threshold(p);
  T const scale = detail::dropout_scale<T>(p);
  detail::for_each_range(device, n, [=](std::size_t begin, std::size_t count) {
    if (threshold >> 32 != 0) {  // no 32-bit number is large enough to stay
      for (std::size_t i = begin; i < begin + count; ++i) y[i] = T{};
      if (keep != nullptr)
        for (std::size_t i = begin; i < begin + count; ++i) keep[i] = 0;
      return;
    }
    constexpr std::size_t block = 1024;
    alignas(64) std::uint32_t bits[block];
    for (std::size_t done = 0; done < count; done += block) {
      std::size_t const size = count - done < block ? count - done : block, at = begin + done;
      fill_bits(random, first + at, size, bits);
      detail::for_this_cpu(detail::dropout_kernel<T>{x + at, y + at, keep == nullptr ? nullptr : keep + at, bits,
                                                     static_cast<std::uint32_t>(threshold), scale, size});
    }
  });
}

/// dx = dy / (1 - p) where the element stayed, else 0. dx may be dy.
template <class T>
void dropout_backward(host const& device, std::size_t n, double p, T const* dy, std::uint8_t const* keep, T* dx) {
  T const scale = detail::dropout_scale<T>(p);
  detail::for_each_range(device, n, [=](std::size_t begin, std::size_t count) {
    detail::for_this_cpu(detail::dropout_backward_kernel<T>{dy + begin, dx + begin, keep + begin, scale, count});
  });
}

}  // namespace mortise
