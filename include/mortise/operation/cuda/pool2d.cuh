// Pooling on CUDA: one thread an output forward, one thread an input backward, so that nothing is added by two. Contract: operation/pool2d.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/pool2d.hpp>
#include <mortise/tensor/float16.hpp>

namespace mortise {

namespace detail {

/// A geometry as numbers: one kernel serves all.
struct pool2d_numbers {
  unsigned in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;

  template <class G>
  static pool2d_numbers of() {
    auto const n = [](std::size_t x) { return static_cast<unsigned>(x); };
    return {n(G::in_h),     n(G::in_w),  n(G::out_h), n(G::out_w),      n(G::kernel_h),  n(G::kernel_w), n(G::stride_h),
            n(G::stride_w), n(G::pad_h), n(G::pad_w), n(G::dilation_h), n(G::dilation_w)};
  }
};

/// Two neighbours in a row, read at once.
template <class T>
struct alignas(2 * sizeof(T)) element_pair {
  T first, second;
};

/// Whether windows are two wide and side by side, so that each row of one is a pair. Read one by one, the elements of a pair would take every sector
/// twice and use half of it.
template <class G, class T>
bool windows_are_pairs(T const* x) {
  return G::kernel_w == 2 && G::stride_w == 2 && G::dilation_w == 1 && G::pad_w == 0 && G::in_w % 2 == 0 &&
         aligned_to(x, sizeof(element_pair<T>));
}

/// Calls f(element, place in the window) for each element of window (p, q) that lies in the map, in row-major order.
template <class T, class F>
__device__ void for_each_in_window(pool2d_numbers const& g, bool pairs, T const* map, unsigned p, unsigned q, F const& f) {
  for (unsigned i = 0; i < g.kernel_h; ++i) {
    unsigned const r = p * g.stride_h + i * g.dilation_h - g.pad_h;  // wraps far beyond in_h where it is negative
    if (r >= g.in_h) continue;
    T const* const row = map + r * g.in_w;
    if (pairs) {
      auto const both = *reinterpret_cast<element_pair<T> const*>(row + 2 * q);
      f(both.first, 2 * i);
      f(both.second, 2 * i + 1);
      continue;
    }
    for (unsigned j = 0; j < g.kernel_w; ++j) {
      unsigned const s = q * g.stride_w + j * g.dilation_w - g.pad_w;
      if (s < g.in_w) f(row[s], i * g.kernel_w + j);
    }
  }
}

template <class T>
struct max_pool2d_outputs {
  pool2d_numbers g;
  bool pairs;
  T const* x;
  T* y;
  std::uint8_t* index;  // or null
  int relu;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t const rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h);
    T const* const map = x + rest / g.out_h * (std::uint64_t{g.in_h} * g.in_w);
    using A = arithmetic_type<T>;
    A best = -layout_of<A>::infinity;
    unsigned place = pool2d_clipped;
    for_each_in_window(g, pairs, map, p, q, [&](T element, unsigned at) {
      A const v = static_cast<A>(element);
      if (place == pool2d_clipped || v > best || v != v) best = v, place = at;
    });
    if (relu != 0 && A{0} >= best) best = A{0}, place = pool2d_clipped;
    y[e] = static_cast<T>(best);
    if (index != nullptr) index[e] = static_cast<std::uint8_t>(place);
  }
};

/// Calls f(output row, output column, place in the window) for each window that a tap of input (r, s) lies in, in row-major order of windows.
template <class F>
__device__ void for_each_window_of(pool2d_numbers const& g, unsigned r, unsigned s, F const& f) {
  unsigned const span_h = (g.kernel_h - 1) * g.dilation_h, span_w = (g.kernel_w - 1) * g.dilation_w;
  unsigned const pr = r + g.pad_h, ps = s + g.pad_w;
  unsigned const first_p = pr > span_h ? (pr - span_h + g.stride_h - 1) / g.stride_h : 0;
  unsigned const first_q = ps > span_w ? (ps - span_w + g.stride_w - 1) / g.stride_w : 0;
  for (unsigned p = first_p; p < g.out_h && p * g.stride_h <= pr; ++p) {
    unsigned const i = pr - p * g.stride_h;
    if (i % g.dilation_h != 0) continue;
    for (unsigned q = first_q; q < g.out_w && q * g.stride_w <= ps; ++q) {
      unsigned const j = ps - q * g.stride_w;
      if (j % g.dilation_w == 0) f(p, q, i / g.dilation_h * g.kernel_w + j / g.dilation_w);
    }
  }
}

template <class T>
struct max_pool2d_inputs {
  pool2d_numbers g;
  T const* dy;
  std::uint8_t const* index;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const s = static_cast<unsigned>(e % g.in_w);
    std::uint64_t const rest = e / g.in_w;
    unsigned const r = static_cast<unsigned>(rest % g.in_h);
    std::uint64_t const map = rest / g.in_h * (std::uint64_t{g.out_h} * g.out_w);
    arithmetic_type<T> sum{};
    for_each_window_of(g, r, s, [&](unsigned p, unsigned q, unsigned place) {
      std::uint64_t const at = map + p * g.out_w + q;
      T const slope = dy[at];  // read in any case: lanes that skip a load leave sectors half used
      if (index[at] == place) sum += static_cast<arithmetic_type<T>>(slope);
    });
    dx[e] = static_cast<T>(sum);
  }
};

/// As max_pool2d_inputs, for windows that are pairs and share no rows: one thread a window, which reads its slope once and writes all of its inputs,
/// the last one of a column also the rows below it that no window takes.
template <class T>
struct max_pool2d_input_pairs {
  pool2d_numbers g;
  T const* dy;
  std::uint8_t const* index;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t const rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h), top = p * g.kernel_h, rows = p + 1 == g.out_h ? g.in_h - top : g.kernel_h;
    T* to = dx + (rest / g.out_h * g.in_h + top) * g.in_w + 2 * q;
    T const slope = static_cast<T>(arithmetic_type<T>{} + static_cast<arithmetic_type<T>>(dy[e]));  // a sum, whose zeros are positive
    unsigned const place = index[e];
    for (unsigned i = 0; i < rows; ++i, to += g.in_w)
      *reinterpret_cast<element_pair<T>*>(to) = {place == 2 * i && i < g.kernel_h ? slope : T{},
                                                 place == 2 * i + 1 && i < g.kernel_h ? slope : T{}};
  }
};

template <class T>
struct avg_pool2d_outputs {
  pool2d_numbers g;
  bool pairs;
  T const* x;
  T* y;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t const rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h);
    T const* const map = x + rest / g.out_h * (std::uint64_t{g.in_h} * g.in_w);
    arithmetic_type<T> sum{};
    for_each_in_window(g, pairs, map, p, q, [&](T element, unsigned) { sum += static_cast<arithmetic_type<T>>(element); });
    y[e] = static_cast<T>(sum / static_cast<arithmetic_type<T>>(g.kernel_h * g.kernel_w));
  }
};
template <class T>
struct avg_pool2d_inputs {
  pool2d_numbers g;
  T const* dy;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const s = static_cast<unsigned>(e % g.in_w);
    std::uint64_t const rest = e / g.in_w;
    unsigned const r = static_cast<unsigned>(rest % g.in_h);
    std::uint64_t const map = rest / g.in_h * (std::uint64_t{g.out_h} * g.out_w);
    auto const count = static_cast<arithmetic_type<T>>(g.kernel_h * g.kernel_w);
    arithmetic_type<T> sum{};
    for_each_window_of(g, r, s, [&](unsigned p, unsigned q, unsigned) { sum += static_cast<arithmetic_type<T>>(dy[map + p * g.out_w + q]) / count; });
    dx[e] = static_cast<T>(sum);
  }
};

struct adaptive_pool2d_numbers {
  unsigned in_h, in_w, out_h, out_w;
  __device__ static unsigned start(unsigned o, unsigned in, unsigned out) { return o * in / out; }
  __device__ static unsigned stop(unsigned o, unsigned in, unsigned out) { return ((o + 1) * in + out - 1) / out; }
};
template <class T>
struct adaptive_avg_pool2d_outputs {
  adaptive_pool2d_numbers g;
  T const* x;
  T* y;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const q = static_cast<unsigned>(e % g.out_w);
    std::uint64_t const rest = e / g.out_w;
    unsigned const p = static_cast<unsigned>(rest % g.out_h);
    T const* const map = x + rest / g.out_h * (std::uint64_t{g.in_h} * g.in_w);
    unsigned const top = g.start(p, g.in_h, g.out_h), bottom = g.stop(p, g.in_h, g.out_h);
    unsigned const left = g.start(q, g.in_w, g.out_w), right = g.stop(q, g.in_w, g.out_w);
    arithmetic_type<T> sum{};
    for (unsigned r = top; r < bottom; ++r)
      for (unsigned s = left; s < right; ++s) sum += static_cast<arithmetic_type<T>>(map[r * g.in_w + s]);
    y[e] = static_cast<T>(sum / static_cast<arithmetic_type<T>>((bottom - top) * (right - left)));
  }
};
template <class T>
struct adaptive_avg_pool2d_inputs {
  adaptive_pool2d_numbers g;
  T const* dy;
  T* dx;
  __device__ void operator()(std::uint64_t e) const {
    unsigned const s = static_cast<unsigned>(e % g.in_w);
    std::uint64_t const rest = e / g.in_w;
    unsigned const r = static_cast<unsigned>(rest % g.in_h);
    std::uint64_t const map = rest / g.in_h * (std::uint64_t{g.out_h} * g.out_w);
    arithmetic_type<T> sum{};
    for (unsigned p = r * g.out_h / g.in_h; p < g.out_h && g.start(p, g.in_h, g.out_h) <= r; ++p) {
      if (g.stop(p, g.in_h, g.out_h) <= r) continue;
      for (unsigned q = s * g.out_w / g.in_w; q < g.out_w && g.start(q, g.in_w, g.out_w) <= s; ++q) {
        if (g.stop(q, g.in_w, g.out_w) <= s) continue;
        unsigned const count = (g.stop(p, g.in_h, g.out_h) - g.start(p, g.in_h, g.out_h)) * (g.stop(q, g.in_w, g.out_w) - g.start(q, g.in_w, g.out_w));
        sum += static_cast<arithmetic_type<T>>(dy[map + p * g.out_w + q]) / static_cast<arithmetic_type<T>>(count);
      }
    }
    dx[e] = static_cast<T>(sum);
  }
};
template <class G>
adaptive_pool2d_numbers adaptive_numbers() {
  return {static_cast<unsigned>(G::in_h), static_cast<unsigned>(G::in_w), static_cast<unsigned>(G::out_h), static_cast<unsigned>(G::out_w)};
}

}  // namespace detail

template <class Geometry, class T>
void max_pool2d_forward(cuda const& device, Geometry, std::size_t batch, T const* x, T* y, std::uint8_t* index) {
  detail::for_each_index(
      device, batch * Geometry::out_elements,
      detail::max_pool2d_outputs<T>{detail::pool2d_numbers::of<Geometry>(), detail::windows_are_pairs<Geometry>(x), x, y, index, 0});
}
template <class Geometry, class T>
void relu_max_pool2d_forward(cuda const& device, Geometry, std::size_t batch, T const* x, T* y, std::uint8_t* index) {
  detail::for_each_index(
      device, batch * Geometry::out_elements,
      detail::max_pool2d_outputs<T>{detail::pool2d_numbers::of<Geometry>(), detail::windows_are_pairs<Geometry>(x), x, y, index, 1});
}
template <class Geometry, class T>
void max_pool2d_backward(cuda const& device, Geometry, std::size_t batch, T const* dy, std::uint8_t const* index, T* dx) {
  constexpr bool shares_no_rows = Geometry::kernel_h == Geometry::stride_h && Geometry::dilation_h == 1 && Geometry::pad_h == 0;
  auto const numbers = detail::pool2d_numbers::of<Geometry>();
  if (shares_no_rows && detail::windows_are_pairs<Geometry>(dx))
    detail::for_each_index(device, batch * Geometry::out_elements, detail::max_pool2d_input_pairs<T>{numbers, dy, index, dx});
  else detail::for_each_index(device, batch * Geometry::in_elements, detail::max_pool2d_inputs<T>{numbers, dy, index, dx});
}
template <class Geometry, class T>
void avg_pool2d_forward(cuda const& device, Geometry, std::size_t batch, T const* x, T* y) {
  detail::for_each_index(
      device, batch * Geometry::out_elements,
      detail::avg_pool2d_outputs<T>{detail::pool2d_numbers::of<Geometry>(), detail::windows_are_pairs<Geometry>(x), x, y});
}
template <class Geometry, class T>
void avg_pool2d_backward(cuda const& device, Geometry, std::size_t batch, T const* dy, T* dx) {
  detail::for_each_index(device, batch * Geometry::in_elements, detail::avg_pool2d_inputs<T>{detail::pool2d_numbers::of<Geometry>(), dy, dx});
}
template <class Geometry, class T>
void adaptive_avg_pool2d_forward(cuda const& device, Geometry, std::size_t batch, T const* x, T* y) {
  detail::for_each_index(device, batch * Geometry::out_elements, detail::adaptive_avg_pool2d_outputs<T>{detail::adaptive_numbers<Geometry>(), x, y});
}
template <class Geometry, class T>
void adaptive_avg_pool2d_backward(cuda const& device, Geometry, std::size_t batch, T const* dy, T* dx) {
  detail::for_each_index(device, batch * Geometry::in_elements, detail::adaptive_avg_pool2d_inputs<T>{detail::adaptive_numbers<Geometry>(), dy, dx});
}

}  // namespace mortise
