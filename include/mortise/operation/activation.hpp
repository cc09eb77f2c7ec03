// Activations, element by element.
#pragma once

#include <cstddef>

#include <mortise/detail/math.hpp>
#include <mortise/operation/map.hpp>

namespace mortise {

namespace detail {

template <class T>
struct relu_kernel {
  static constexpr int most_bytes = 32;
  T const* x;
  T* y;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    V const zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) {
      V const v = V::load(x + i);
      select(v <= zero, zero, v).store(y + i);
    }
    for (; i < n; ++i) y[i] = x[i] <= T{} ? T{} : x[i];
  }
};

template <class T>
struct relu_backward_kernel {
  static constexpr int most_bytes = 32;
  T const* y;
  T const* dy;
  T* dx;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    V const zero{};
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) select(V::load(y + i) <= zero, zero, V::load(dy + i)).store(dx + i);
    for (; i < n; ++i) dx[i] = y[i] <= T{} ? T{} : dy[i];
  }
};

// Rules: the arithmetic of one element, for scalars, vectors and CUDA threads alike.
//
//   value(x)             f(x)
//   both(x, slope)       f(x), and f'(x) in `slope`: they share their costly parts
//   slope_at_output(y)   f'(x) where y = f(x) determines it
//   slope_at_input(x)    f'(x) where it is cheap

struct gelu_rule {
  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    using T = value_of<V>;
    V const half = x * V(T(0.5));
    return fma(half, erf(x * V(T(0.70710678118654752))), half);
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V both(V const& x, V& slope) const {
    using T = value_of<V>;
    V const e = erf(x * V(T(0.70710678118654752)));
    V const half = x * V(T(0.5));
    V const density = exp(x * x * V(T(-0.5))) * V(T(0.39894228040143268));  // of the normal distribution
    slope = fma(x, density, fma(e, V(T(0.5)), V(T(0.5))));
    return fma(half, e, half);
  }
};

/// sigmoid(x), and 1 - sigmoid(x) with all its digits.
template <class V>
MORTISE_INLINE MORTISE_HD V sigmoid_pair(V const& x, V& other) {
  using T = value_of<V>;
  V const e = exp(-abs(x));
  V const large = V(T(1)) / (V(T(1)) + e);
  V const small = e * large;
  auto const negative = x < V(T{});
  other = select(negative, large, small);
  return select(negative, small, large);
}

struct gelu_tanh_rule {
  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    V square, other;
    return x * sigmoid_pair(doubled_argument(x, square), other);
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V both(V const& x, V& slope) const {
    using T = value_of<V>;
    V square, other;
    V const s = sigmoid_pair(doubled_argument(x, square), other);
    V const y = x * s;
    slope = fma(y * other, fma(square, V(T(3 * cubic)), V(T(linear))), s);
    return y;
  }

 private:
  // 0.5 (1 + tanh u) = sigmoid(2 u): one exponential, and no cancellation for negative x.  2 u = 2 sqrt(2/pi) (x + 0.044715 x^3)
  static constexpr double linear = 2 * 0.79788456080286536, cubic = linear * 0.044715;

  template <class V>
  static MORTISE_INLINE MORTISE_HD V doubled_argument(V const& x, V& square) {
    using T = value_of<V>;
    square = min(V(T(1e4)), x * x);  // from 100 on the sigmoid is 0 or 1; the limit keeps the slope's factors finite
    return x * fma(square, V(T(cubic)), V(T(linear)));
  }
};

struct silu_rule {
  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    V other;
    return x * sigmoid_pair(x, other);
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V both(V const& x, V& slope) const {
    V other;
    V const s = sigmoid_pair(x, other);
    V const y = x * s;
    slope = fma(y, other, s);
    return y;
  }
};

struct tanh_rule {
  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    return tanh(x);
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V slope_at_output(V const& y) const {
    return fma(-y, y, V(value_of<V>(1)));
  }
};

struct sigmoid_rule {
  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    return sigmoid(x);
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V slope_at_output(V const& y) const {
    return y * (V(value_of<V>(1)) - y);
  }
};

template <class T>
struct leaky_relu_rule {
  T negative_slope;

  template <class V>
  MORTISE_INLINE MORTISE_HD V value(V const& x) const {
    return select(x > V(T{}), x, x * V(negative_slope));
  }
  template <class V>
  MORTISE_INLINE MORTISE_HD V slope_at_input(V const& x) const {
    return select(x > V(T{}), V(T(1)), V(negative_slope));
  }
};

// In the kernels below the last elements go through a vector as well, so that an element's bits do not depend on its place.

template <class Rule, class T>
struct activation_kernel {
  Rule rule;
  T const* x;
  T* y;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) rule.value(V::load(x + i)).store(y + i);
    if (i < n) rule.value(V::load_first(x + i, n - i)).store_first(y + i, n - i);
  }
};

template <class Rule, class T>
struct activation_slope_kernel {
  Rule rule;
  T const* x;
  T* y;
  T* slope;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    V d;
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) {
      rule.both(V::load(x + i), d).store(y + i);
      d.store(slope + i);
    }
    if (i < n) {
      rule.both(V::load_first(x + i, n - i), d).store_first(y + i, n - i);
      d.store_first(slope + i, n - i);
    }
  }
};

enum class slope_source { saved, output, input };

template <slope_source From, class Rule, class V>
MORTISE_INLINE V slope_from(Rule const& rule, V const& v) {
  if constexpr (From == slope_source::saved) return v;
  else if constexpr (From == slope_source::output) return rule.slope_at_output(v);
  else return rule.slope_at_input(v);
}

/// dx = dy f', where f' follows from `values`: the saved slopes, the outputs or the inputs.
template <slope_source From, class Rule, class T>
struct activation_backward_kernel {
  static constexpr int most_bytes = 32;
  Rule rule;
  T const* values;
  T const* dy;
  T* dx;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = arithmetic_simd<T, Bytes>;
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) (V::load(dy + i) * slope_from<From>(rule, V::load(values + i))).store(dx + i);
    if (i < n) (V::load_first(dy + i, n - i) * slope_from<From>(rule, V::load_first(values + i, n - i))).store_first(dx + i, n - i);
  }
};

}  // namespace detail

/// y = max(x, 0), n elements; NaN stays NaN. y may be x.
template <class T>
void relu_forward(host const& device, std::size_t n, T const* x, T* y) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::relu_kernel<T>{x + first, y + first, count});
  });
}

/// dx = dy where y > 0, else 0. dx may be dy.
template <class T>
void relu_backward(host const& device, std::size_t n, T const* y, T const* dy, T* dx) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::relu_backward_kernel<T>{y + first, dy + first, dx + first, count});
  });
}

/// y = f(x), n elements; y may be x.
template <class Rule, class T>
void activation_forward(host const& device, std::size_t n, Rule const& rule, T const* x, T* y) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::activation_kernel<Rule, T>{rule, x + first, y + first, count});
  });
}

/// y = f(x) and slope = f'(x), for a backward pass that only multiplies. y may be x.
template <class Rule, class T>
void activation_forward(host const& device, std::size_t n, Rule const& rule, T const* x, T* y, T* slope) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::activation_slope_kernel<Rule, T>{rule, x + first, y + first, slope + first, count});
  });
}

/// dx = dy f', with f' as saved by the forward pass (`values` = slope), from the outputs, or from the inputs. dx may be dy.
template <detail::slope_source From, class Rule, class T>
void activation_backward(host const& device, std::size_t n, Rule const& rule, T const* values, T const* dy, T* dx) {
  detail::for_each_range(device, n, [=](std::size_t first, std::size_t count) {
    detail::for_this_cpu(detail::activation_backward_kernel<From, Rule, T>{rule, values + first, dy + first, dx + first, count});
  });
}

}  // namespace mortise
