// Pooling on the host. See operation/pool2d.hpp for the contract.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <mortise/device/host.hpp>
#include <mortise/operation/host/pool2d_pairs.hpp>
#include <mortise/operation/pool2d_index.hpp>
#include <mortise/operation/window2d.hpp>

namespace mortise {

namespace detail {

/// Calls f(place in the window, row, column) for each tap of a window that lies inside the map, in row-major order.
template <class Geometry, class F>
MORTISE_INLINE void for_each_tap(std::size_t p, std::size_t q, F const& f) {
  using g = Geometry;
  for (std::size_t i = 0; i < g::kernel_h; ++i) {
    std::size_t const r = p * g::stride_h + i * g::dilation_h - g::pad_h;  // wraps far beyond in_h where it is negative
    if (r >= g::in_h) continue;
    for (std::size_t j = 0; j < g::kernel_w; ++j) {
      std::size_t const s = q * g::stride_w + j * g::dilation_w - g::pad_w;
      if (s < g::in_w) f(i * g::kernel_w + j, r, s);
    }
  }
}

}  // namespace detail

namespace detail {

/// Runs f(begin, end) over parts of `maps` maps of `elements` each, on several threads where that pays.
template <class F>
void for_each_map_range(host const& device, std::size_t maps, std::size_t elements, F const& f) {
  constexpr std::size_t least = 16384;  // elements of a piece: less is done before another thread has woken up
  std::size_t const wanted = maps * elements / least, pieces = wanted < 1 ? 1 : wanted > 16 ? 16 : wanted;
  if (pieces == 1 || device.thread_count() == 1) return f(std::size_t{0}, maps);
  for_each_piece(device, pieces, [&](std::size_t piece) { f(maps * piece / pieces, maps * (piece + 1) / pieces); });
}

template <class F>
void for_each_map(host const& device, std::size_t maps, std::size_t elements, F const& f) {
  for_each_map_range(device, maps, elements, [&](std::size_t begin, std::size_t end) {
    for (std::size_t map = begin; map < end; ++map) f(map);
  });
}

template <class G>
inline constexpr bool pools_pairs = G::kernel_h == 2 && G::kernel_w == 2 && G::stride_h == 2 && G::stride_w == 2 && G::pad_h == 0 &&
                                    G::pad_w == 0 && G::dilation_h == 1 && G::dilation_w == 1 && G::out_w >= 4;

template <class T>
void max_pool2d_pairs_forward_maps(host const& device, pool2d_pairs_sizes const& s, T const* x, T* y, std::uint8_t* index, bool relu) {
  for_each_map_range(device, s.maps, s.in_h * s.in_w, [&](std::size_t begin, std::size_t end) {
    std::size_t const at = begin * (s.in_h / 2) * (s.in_w / 2);
    for_this_cpu(max_pool2d_pairs_forward<T>{{end - begin, s.in_h, s.in_w}, x + begin * s.in_h * s.in_w, y + at, index == nullptr ? nullptr : index + at, relu});
  });
}
template <class T>
void max_pool2d_pairs_backward_maps(host const& device, pool2d_pairs_sizes const& s, T const* dy, std::uint8_t const* index, T* dx) {
  for_each_map_range(device, s.maps, s.in_h * s.in_w, [&](std::size_t begin, std::size_t end) {
    std::size_t const at = begin * (s.in_h / 2) * (s.in_w / 2);
    for_this_cpu(max_pool2d_pairs_backward<T>{{end - begin, s.in_h, s.in_w}, dy + at, index + at, dx + begin * s.in_h * s.in_w});
  });
}

template <class Geometry, class T>
void max_pool2d_forward_any(host const& device, std::size_t batch, T const* x, T* y, std::uint8_t* index, bool relu) {
  using g = Geometry;
  static_assert(g::kernel_h * g::kernel_w <= 255, "mortise::max_pool2d: a window has at most 255 elements (its index is a byte)");
  if constexpr (pools_pairs<g>) {
    max_pool2d_pairs_forward_maps(device, {batch * g::channels, g::in_h, g::in_w}, x, y, index, relu);
  } else {
    for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
      T const* const map = x + piece * g::in_h * g::in_w;
      std::size_t e = piece * g::out_h * g::out_w;
      for (std::size_t p = 0; p < g::out_h; ++p)
        for (std::size_t q = 0; q < g::out_w; ++q, ++e) {
          T best = -std::numeric_limits<T>::infinity();
          std::size_t place = pool2d_clipped;
          detail::for_each_tap<g>(p, q, [&](std::size_t k, std::size_t r, std::size_t s) {
            T const v = map[r * g::in_w + s];
            if (place == pool2d_clipped || v > best || v != v) best = v, place = k;
          });
          if (relu && T{0} >= best) best = T{0}, place = pool2d_clipped;
          y[e] = best;
          if (index != nullptr) index[e] = static_cast<std::uint8_t>(place);
        }
    });
  }
}
}  // namespace detail

template <class Geometry, class T>
void max_pool2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T* y, std::uint8_t* index) {
  detail::max_pool2d_forward_any<Geometry>(device, batch, x, y, index, false);
}

template <class Geometry, class T>
void relu_max_pool2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T* y, std::uint8_t* index) {
  detail::max_pool2d_forward_any<Geometry>(device, batch, x, y, index, true);
}

template <class Geometry, class T>
void max_pool2d_backward(host const& device, Geometry, std::size_t batch, T const* dy, std::uint8_t const* index, T* dx) {
  using g = Geometry;
  if constexpr (detail::pools_pairs<g>) {
    detail::max_pool2d_pairs_backward_maps(device, {batch * g::channels, g::in_h, g::in_w}, dy, index, dx);
  } else {
    detail::for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
      T* const map = dx + piece * g::in_h * g::in_w;
      for (std::size_t e = 0; e < g::in_h * g::in_w; ++e) map[e] = T{0};
      std::size_t e = piece * g::out_h * g::out_w;
      for (std::size_t p = 0; p < g::out_h; ++p)
        for (std::size_t q = 0; q < g::out_w; ++q, ++e) {
          std::size_t const place = index[e];
          std::size_t const r = p * g::stride_h + place / g::kernel_w * g::dilation_h - g::pad_h;
          std::size_t const s = q * g::stride_w + place % g::kernel_w * g::dilation_w - g::pad_w;
          if (place != pool2d_clipped) map[r * g::in_w + s] += dy[e];
        }
    });
  }
}

template <class Geometry, class T>
void avg_pool2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T* y) {
  using g = Geometry;
  detail::for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
    T const* const map = x + piece * g::in_h * g::in_w;
    std::size_t e = piece * g::out_h * g::out_w;
    for (std::size_t p = 0; p < g::out_h; ++p)
      for (std::size_t q = 0; q < g::out_w; ++q, ++e) {
        T sum{0};
        detail::for_each_tap<g>(p, q, [&](std::size_t, std::size_t r, std::size_t s) { sum += map[r * g::in_w + s]; });
        y[e] = sum / static_cast<T>(g::kernel_h * g::kernel_w);
      }
  });
}

template <class Geometry, class T>
void avg_pool2d_backward(host const& device, Geometry, std::size_t batch, T const* dy, T* dx) {
  using g = Geometry;
  detail::for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
    T* const map = dx + piece * g::in_h * g::in_w;
    for (std::size_t e = 0; e < g::in_h * g::in_w; ++e) map[e] = T{0};
    std::size_t e = piece * g::out_h * g::out_w;
    for (std::size_t p = 0; p < g::out_h; ++p)
      for (std::size_t q = 0; q < g::out_w; ++q, ++e) {
        T const share = dy[e] / static_cast<T>(g::kernel_h * g::kernel_w);
        detail::for_each_tap<g>(p, q, [&](std::size_t, std::size_t r, std::size_t s) { map[r * g::in_w + s] += share; });
      }
  });
}

namespace detail {

template <class Geometry, class T, class F>
MORTISE_INLINE void for_each_adaptive_window(std::size_t p, std::size_t q, F const& f) {
  using g = Geometry;
  std::size_t const top = g::start(p, g::in_h, g::out_h), bottom = g::stop(p, g::in_h, g::out_h);
  std::size_t const left = g::start(q, g::in_w, g::out_w), right = g::stop(q, g::in_w, g::out_w);
  f(top, bottom, left, right, static_cast<T>((bottom - top) * (right - left)));
}

}  // namespace detail

template <class Geometry, class T>
void adaptive_avg_pool2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T* y) {
  using g = Geometry;
  detail::for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
    T const* const map = x + piece * g::in_h * g::in_w;
    std::size_t e = piece * g::out_h * g::out_w;
    for (std::size_t p = 0; p < g::out_h; ++p)
      for (std::size_t q = 0; q < g::out_w; ++q, ++e)
        detail::for_each_adaptive_window<g, T>(p, q, [&](std::size_t top, std::size_t bottom, std::size_t left, std::size_t right, T count) {
          T sum{0};
          for (std::size_t r = top; r < bottom; ++r)
            for (std::size_t s = left; s < right; ++s) sum += map[r * g::in_w + s];
          y[e] = sum / count;
        });
  });
}

template <class Geometry, class T>
void adaptive_avg_pool2d_backward(host const& device, Geometry, std::size_t batch, T const* dy, T* dx) {
  using g = Geometry;
  detail::for_each_map(device, batch * g::channels, g::in_h * g::in_w, [=](std::size_t piece) {
    T* const map = dx + piece * g::in_h * g::in_w;
    for (std::size_t e = 0; e < g::in_h * g::in_w; ++e) map[e] = T{0};
    std::size_t e = piece * g::out_h * g::out_w;
    for (std::size_t p = 0; p < g::out_h; ++p)
      for (std::size_t q = 0; q < g::out_w; ++q, ++e)
        detail::for_each_adaptive_window<g, T>(p, q, [&](std::size_t top, std::size_t bottom, std::size_t left, std::size_t right, T count) {
          T const share = dy[e] / count;
          for (std::size_t r = top; r < bottom; ++r)
            for (std::size_t s = left; s < right; ++s) map[r * g::in_w + s] += share;
        });
  });
}

}  // namespace mortise
