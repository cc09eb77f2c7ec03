// Elementary functions without libm: one generic body for float, double and vectors of them, inlined into the caller's loop.
//
// libm calls do not vectorise at -O2, set errno, and differ in their last bits between machines; these are polynomials in plain
// arithmetic, so that the same instruction set gives the same bits anywhere. Errors below are in units of the last place of the result
// for finite results in the normal range, held by tests/unit/detail_math over the whole range; NaN goes in and comes out, infinities
// give the limits.
//
//   exp 1.1   expm1 2.5   log 1   log1p 2   tanh 3   sigmoid 2.5   erf 1.5   sqrt 0.7   rsqrt 1.5   (2 more without fused multiply-add)
//
// Coefficients: tests/unit/detail_math/fit_polynomials.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <mortise/config.hpp>
#include <mortise/detail/simd.hpp>

namespace mortise::detail {

/// Integers as wide as the lanes of simd<T, W>.
template <class T, int W>
struct simd_integers {
  using reg = typename simd<T, W>::bits;
  using value = typename simd<T, W>::integer;
  reg v;

  MORTISE_INLINE simd_integers() : v{} {}
  MORTISE_INLINE simd_integers(value s) : v(s - reg{}) {}
  MORTISE_INLINE explicit simd_integers(reg const& r) : v(r) {}
  MORTISE_INLINE friend simd_integers operator+(simd_integers const& a, simd_integers const& b) { return simd_integers{a.v + b.v}; }
  MORTISE_INLINE friend simd_integers operator-(simd_integers const& a, simd_integers const& b) { return simd_integers{a.v - b.v}; }
  MORTISE_INLINE friend simd_integers operator&(simd_integers const& a, simd_integers const& b) { return simd_integers{a.v & b.v}; }
  MORTISE_INLINE friend simd_integers operator|(simd_integers const& a, simd_integers const& b) { return simd_integers{a.v | b.v}; }
  MORTISE_INLINE friend simd_integers operator<<(simd_integers const& a, int n) { return simd_integers{a.v << n}; }
  MORTISE_INLINE friend simd_integers operator>>(simd_integers const& a, int n) { return simd_integers{a.v >> n}; }  // keeps the sign
};

/// What a generic function needs to know about its argument: element type, integers of the same width, the view of one as the other.
template <class V>
struct lanes_of;
template <>
struct lanes_of<float> {
  using value = float;
  using integer = std::int32_t;
  static constexpr int width = 1;
};
template <>
struct lanes_of<double> {
  using value = double;
  using integer = std::int64_t;
  static constexpr int width = 1;
};
template <class T, int W>
struct lanes_of<simd<T, W>> {
  using value = T;
  using integer = simd_integers<T, W>;
  static constexpr int width = W;
};
#if defined(__CUDACC__)
template <class T>
struct lanes_of<simd<T, 1>> : lanes_of<T> {};
#endif

/// float of a float, of a vector of floats.
template <class V>
using value_of = typename lanes_of<V>::value;
template <class V>
using integer_of = typename lanes_of<V>::integer;

// The vocabulary of detail/simd.hpp on scalars. a * b + c is fused where the target fuses; never a call of libm's fma.
MORTISE_INLINE MORTISE_HD float fma(float a, float b, float c) { return a * b + c; }
MORTISE_INLINE MORTISE_HD double fma(double a, double b, double c) { return a * b + c; }
MORTISE_INLINE MORTISE_HD float select(bool m, float a, float b) { return m ? a : b; }
MORTISE_INLINE MORTISE_HD double select(bool m, double a, double b) { return m ? a : b; }
MORTISE_INLINE MORTISE_HD float max(float a, float b) { return a > b ? a : b; }
MORTISE_INLINE MORTISE_HD double max(double a, double b) { return a > b ? a : b; }
MORTISE_INLINE MORTISE_HD float min(float a, float b) { return a < b ? a : b; }
MORTISE_INLINE MORTISE_HD double min(double a, double b) { return a < b ? a : b; }

MORTISE_INLINE MORTISE_HD std::int32_t to_bits(float x) { return __builtin_bit_cast(std::int32_t, x); }
MORTISE_INLINE MORTISE_HD std::int64_t to_bits(double x) { return __builtin_bit_cast(std::int64_t, x); }
MORTISE_INLINE MORTISE_HD float from_bits(std::int32_t b, float) { return __builtin_bit_cast(float, b); }
MORTISE_INLINE MORTISE_HD double from_bits(std::int64_t b, double) { return __builtin_bit_cast(double, b); }
template <class T, int W>
MORTISE_INLINE simd_integers<T, W> to_bits(simd<T, W> const& x) {
  return simd_integers<T, W>{reinterpret_cast<typename simd<T, W>::bits>(x.v)};
}
template <class T, int W>
MORTISE_INLINE simd<T, W> from_bits(simd_integers<T, W> const& b, simd<T, W> const&) {
  return simd<T, W>{reinterpret_cast<typename simd<T, W>::reg>(b.v)};
}
#if defined(__CUDACC__)
template <class T>
MORTISE_INLINE MORTISE_HD typename simd<T, 1>::integer to_bits(simd<T, 1> const& x) {
  return to_bits(x.v);
}
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> from_bits(typename simd<T, 1>::integer b, simd<T, 1> const& x) {
  return {from_bits(b, x.v)};
}
#endif

/// The layout of a floating-point type, and the constants of the functions below.
template <class T>
struct float_layout;
template <>
struct float_layout<float> {
  using integer = std::int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr integer bias = 127;
  static constexpr integer sign = std::numeric_limits<integer>::min();
  static constexpr integer magnitude = std::numeric_limits<integer>::max();
  static constexpr integer sqrt_half = 0x3f3504f3;  // bits of 0.70710677
  static constexpr float rounder = 12582912.0f;     // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_high = 0x1.62e4p-1f;   // 15 bits: k * ln2_high is exact
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f;      // below: 0
  static constexpr float exp_highest = 89.0f;       // above: infinity
  static constexpr float subnormal_scale = 0x1p25f;
  static constexpr float subnormal_exponent = 25.0f;
  static constexpr float erf_highest = 4.1f;
  static constexpr float infinity = std::numeric_limits<float>::infinity();
  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  static constexpr float smallest_normal = std::numeric_limits<float>::min();
  static constexpr float epsilon = std::numeric_limits<float>::epsilon();
};
template <>
struct float_layout<double> {
  using integer = std::int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr integer bias = 1023;
  static constexpr integer sign = std::numeric_limits<integer>::min();
  static constexpr integer magnitude = std::numeric_limits<integer>::max();
  static constexpr integer sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0x1.62e42feep-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746.0;
  static constexpr double exp_highest = 710.0;
  static constexpr double subnormal_scale = 0x1p54;
  static constexpr double subnormal_exponent = 54.0;
  static constexpr double erf_highest = 6.1;
  static constexpr double infinity = std::numeric_limits<double>::infinity();
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  static constexpr double smallest_normal = std::numeric_limits<double>::min();
  static constexpr double epsilon = std::numeric_limits<double>::epsilon();
};
template <class V>
using layout_of = float_layout<value_of<V>>;

template <class V>
MORTISE_INLINE MORTISE_HD V abs(V const& x) {
  return from_bits(to_bits(x) & integer_of<V>(layout_of<V>::magnitude), x);
}
/// |magnitude| with the sign of `sign`; `magnitude` must not be negative.
template <class V>
MORTISE_INLINE MORTISE_HD V with_sign_of(V const& magnitude, V const& sign) {
  return from_bits(to_bits(magnitude) | (to_bits(sign) & integer_of<V>(layout_of<V>::sign)), magnitude);
}
/// Limits to [low, high]; NaN stays NaN.
template <class V>
MORTISE_INLINE MORTISE_HD V clamp(V const& x, value_of<V> low, value_of<V> high) {
  return min(V(high), max(V(low), x));
}

template <std::size_t Last, class V, std::size_t N>
MORTISE_INLINE MORTISE_HD V horner(V const& x, value_of<V> const (&c)[N]) {
  if constexpr (Last == 0) return V(c[0]);
  else return fma(horner<Last - 1>(x, c), x, V(c[Last]));
}
/// c[0] x^n + c[1] x^(n-1) + ... + c[n].
template <class V, std::size_t N>
MORTISE_INLINE MORTISE_HD V polynomial(V const& x, value_of<V> const (&c)[N]) {
  return horner<N - 1>(x, c);
}

/// exp(x) = 2^k (1 + fraction), |fraction| < 0.42.
template <class V>
struct exp_parts {
  V fraction;
  V k;          // integral
  integer_of<V> exponent;
};

/// For finite x of magnitude below 2^20.
template <class V>
MORTISE_INLINE MORTISE_HD exp_parts<V> split_exp(V const& x) {
  using L = layout_of<V>;
  using T = value_of<V>;
  V const rounded = fma(x, V(T(1.4426950408889634)), V(L::rounder));
  V const k = rounded - V(L::rounder);
  V r = fma(k, V(-L::ln2_high), x);
  r = fma(k, V(-L::ln2_low), r);
  V tail;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.001381314788f, 0.008369419047f, 0.04166845674f, 0.1666651479f, 0.4999999305f};
    tail = polynomial(r, c);
  } else {
    constexpr T c[] = {2.4998989666597085e-8,  2.76316868750456932e-7, 2.75575971961238817e-6, 0.0000248014893537308389, 0.000198412694861536891,
                       0.00138888889469184317, 0.00833333333350766136, 0.0416666666665191593,  0.166666666666663863,     0.50000000000000117};
    tail = polynomial(r, c);
  }
  return {fma(r * r, tail, r), k, to_bits(rounded) - integer_of<V>(to_bits(L::rounder))};
}

/// 2^n for n in the exponents of normal numbers.
template <class V>
MORTISE_INLINE MORTISE_HD V power_of_two(integer_of<V> const& n) {
  using L = layout_of<V>;
  return from_bits((n + integer_of<V>(L::bias)) << L::mantissa_bits, V{});
}

template <class V>
MORTISE_INLINE MORTISE_HD V exp(V const& x) {
  using L = layout_of<V>;
  auto const p = split_exp(clamp(x, L::exp_lowest, L::exp_highest));
  // 2^k in two factors reaches subnormal results and infinity.
  integer_of<V> const half = p.exponent >> 1;
  V const high = power_of_two<V>(half);
  V const low = power_of_two<V>(p.exponent - half);
  return (fma(p.fraction, high, high)) * low;
}

/// exp for arguments in [-87, 88] (double: [-708, 709]); others give nonsense. Four operations less.
template <class V>
MORTISE_INLINE MORTISE_HD V exp_bounded(V const& x) {
  auto const p = split_exp(x);
  V const scale = power_of_two<V>(p.exponent);
  return fma(p.fraction, scale, scale);
}

template <class V>
MORTISE_INLINE MORTISE_HD V expm1(V const& x) {
  using L = layout_of<V>;
  // Factors as in exp: 2^high is moderate for every k, and below -1 nothing is left to subtract from.
  auto const p = split_exp(clamp(x, sizeof(value_of<V>) == 4 ? -17.5 : -37.5, L::exp_highest));
  integer_of<V> const half = p.exponent >> 1;
  V const high = power_of_two<V>(half);
  V const low = power_of_two<V>(p.exponent - half);
  // 2^k (1 + f) - 1 = ((2^half - 2^(half-k)) + 2^half f) 2^(k-half)
  V const back = power_of_two<V>(half - p.exponent);
  return fma(p.fraction, high, high - back) * low;
}

/// log(m 2^k) for m in [sqrt(1/2), sqrt(2)), with `correction` added at full precision.
template <class V>
MORTISE_INLINE MORTISE_HD V log_parts(V const& m, V const& k, V const& correction) {
  using L = layout_of<V>;
  using T = value_of<V>;
  V const f = m - V(T(1));
  V const s = f / (V(T(2)) + f);
  V const z = s * s;
  V series;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.2358276701f, 0.2853727803f, 0.4000033564f, 0.6666666564f};
    series = polynomial(z, c);
  } else {
    constexpr T c[] = {0.147966242594878903, 0.153139868411487449, 0.181835666643295995, 0.222221985312859873,
                       0.285714287427637381, 0.399999999994131438, 0.666666666666673462};
    series = polynomial(z, c);
  }
  // log(1+f) = 2s + s z P = f - (f^2/2 - s (f^2/2 + z P)): the small parts first
  V const half_square = V(T(0.5)) * f * f;
  V const low = fma(s, fma(z, series, half_square), fma(k, V(L::ln2_low), correction));
  return fma(k, V(L::ln2_high), f - (half_square - low));
}

/// x = m 2^k with m in [sqrt(1/2), sqrt(2)); x positive and normal.
template <class V>
MORTISE_INLINE MORTISE_HD void split_log(V const& x, V& m, V& k) {
  using L = layout_of<V>;
  using I = integer_of<V>;
  I const shifted = to_bits(x) - I(L::sqrt_half);
  I const exponent = shifted >> L::mantissa_bits;
  m = from_bits(to_bits(x) - (exponent << L::mantissa_bits), x);
  k = from_bits(exponent + I(to_bits(L::rounder)), x) - V(L::rounder);
}

/// The values of log and log1p at the ends of their domain: -inf at zero, NaN below, infinity and NaN unchanged.
template <class V>
MORTISE_INLINE MORTISE_HD V log_limits(V const& x, V const& result) {
  using T = value_of<V>;
  using L = layout_of<V>;
  V const outside = select(x == V(T(0)), V(-L::infinity), V(L::nan));
  return select(x > V(T(0)), select(x < V(L::infinity), result, x), outside);
}

template <class V>
MORTISE_INLINE MORTISE_HD V log(V const& x) {
  using L = layout_of<V>;
  using T = value_of<V>;
  auto const subnormal = x < V(L::smallest_normal);
  V m;
  V k;
  split_log(select(subnormal, x * V(L::subnormal_scale), x), m, k);
  k = select(subnormal, k - V(L::subnormal_exponent), k);
  return log_limits(x, log_parts(m, k, V(T(0))));
}

/// log(1 + x)
template <class V>
MORTISE_INLINE MORTISE_HD V log1p(V const& x) {
  using T = value_of<V>;
  V const one = V(T(1));
  V const u = one + x;
  V m;
  V k;
  split_log(u, m, k);
  // What the rounding of 1 + x lost, relative to u.
  V const lost = select(x < one, x - (u - one), one - (u - x));
  V const result = log_limits(u, log_parts(m, k, lost / u));
  return select(abs(x) < V(layout_of<V>::epsilon / 4), x, result);
}

template <class V>
MORTISE_INLINE MORTISE_HD V tanh(V const& x) {
  using T = value_of<V>;
  // (e - 1) / (e + 1) with e = exp(2 |x|), in terms of expm1 so that small x keep their digits. From 9.1 (19.1) on it rounds to 1.
  V const magnitude = min(V(T(sizeof(T) == 4 ? 9.1 : 19.1)), abs(x));
  auto const p = split_exp(magnitude + magnitude);
  V const scale = power_of_two<V>(p.exponent);
  V const e = fma(p.fraction, scale, scale - V(T(1)));
  return with_sign_of(e / (e + V(T(2))), x);
}

/// 1 / (1 + exp(-x)); results below the smallest normal number become 0.
template <class V>
MORTISE_INLINE MORTISE_HD V sigmoid(V const& x) {
  using T = value_of<V>;
  return V(T(1)) / (V(T(1)) + exp(-x));
}

template <class V>
MORTISE_INLINE MORTISE_HD V erf(V const& x) {
  using L = layout_of<V>;
  using T = value_of<V>;
  V const t = min(V(L::erf_highest), abs(x));
  V const square = t * t;
  V near;
  V far;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {-0.0005943145107f, 0.004984379559f, -0.0267611077f, 0.1128168186f, -0.376124831f, 0.1283791484f};
    constexpr T d[] = {-0.0002133744043f, 0.003209901081f, -0.02287367592f, 0.1052362946f, 0.6357378316f, 0.128508548f};
    near = polynomial(square, c);
    far = polynomial(t, d);
  } else {
    constexpr T c[] = {-8.23787025899159996e-10, 1.39380487069322934e-8,   -1.62548726089452875e-7,  1.64529976416475077e-6,
                       -0.0000149251520855131404, 0.000120553147417114694, -0.000854832658285469514, 0.00522397761868537216,
                       -0.0268661706445193207,    0.112837916709522611,    -0.376126389031836999,    0.128379167095512572};
    constexpr T d[] = {-1.68421884464804031e-12, 7.39880152605578558e-11,  -1.52236114759075278e-9,  1.94850434348474310e-8,
                       -1.73568989542350164e-7,  1.13820997096605138e-6,   -5.64461923419702510e-6,  0.0000212179556876984387,
                       -0.0000583070979638195257, 0.000100166368662510806, -8.58274248957419242e-6,  -0.000564966672893369583,
                       0.00168304994228796415,   -0.000204892133413589214, -0.019128874012071454,    0.102772302995119466,
                       0.636619909358438889,     0.12837914791515019};
    near = polynomial(square, c);
    far = polynomial(t, d);
  }
  // |x| < 0.9375: t + t P(t^2); beyond: 1 - exp(-(t + t Q(t))). Both leave out the 1, which would cost a rounding.
  V const small = fma(near, t, t);
  V const exponent = fma(far, t, t);
  V const large = V(T(1)) - exp_bounded(-exponent);
  return with_sign_of(select(t < V(T(0.9375)), small, large), x);
}

/// 1/sqrt(x) to 1.5 ulp for positive normal x, in multiplications only; finite for 0 (so that x * rsqrt_normal(x) is 0), nonsense else.
template <class V>
MORTISE_INLINE MORTISE_HD V rsqrt_normal(V const& x) {
  using T = value_of<V>;
  using I = integer_of<V>;
  if constexpr (sizeof(T) == 4) {
    // Start and first step: Moroz, Walczyk, Hrynchyshyn, Holimath, Cieslinski, "Fast calculation of inverse square root with the use
    // of magic constant", 2018: relative error 6.5e-4. Then one step of third order.
    V y = from_bits(I(std::int32_t{0x5f1ffff9}) - (to_bits(x) >> 1), x);
    y = (V(0.703952253f) * y) * fma(-(x * y), y, V(2.38924456f));
    V const e = fma(-(x * y), y, V(1.0f));
    return fma(y * e, fma(e, V(0.375f), V(0.5f)), y);
  } else {
    V y = from_bits(I(std::int64_t{0x5fe6eb50c7b537a9}) - (to_bits(x) >> 1), x);
    for (int i = 0; i < 3; ++i) {  // relative error 3e-2, 1e-5, 4e-16: third order each
      V const e = fma(-(x * y), y, V(1.0));
      y = fma(y * e, fma(e, V(0.375), V(0.5)), y);
    }
    return y;
  }
}

/// Square root of a positive normal number or 0 to 0.7 ulp; anything else gives nonsense.
template <class V>
MORTISE_INLINE MORTISE_HD V sqrt_normal(V const& x) {
  using T = value_of<V>;
  V const y = rsqrt_normal(x);
  V const s = x * y;
  return fma(fma(-s, s, x), V(T(0.5)) * y, s);
}

/// Square root in multiplications, for vectors that the compiler cannot be told to take the root of.
template <class V>
MORTISE_INLINE V sqrt_by_multiplication(V const& x) {
  using L = layout_of<V>;
  using T = value_of<V>;
  // Subnormals go up by an even power of two and come back by its root; 2^26 and 2^54.
  constexpr T up = sizeof(T) == 4 ? T(0x1p26) : T(0x1p54);
  constexpr T down = sizeof(T) == 4 ? T(0x1p-13) : T(0x1p-27);
  auto const subnormal = x < V(L::smallest_normal);
  V const s = sqrt_normal(select(subnormal, x * V(up), x));
  V const result = select(subnormal, s * V(down), s);
  // 0, -0, infinity and NaN are their own roots
  V const outside = select(x < V(T(0)), V(L::nan), x);
  return select(x > V(T(0)), select(x < V(L::infinity), result, x), outside);
}

/// Square root: 0.5 ulp where the processor's instruction is used (scalars, g++), 0.7 elsewhere.
template <class V>
MORTISE_INLINE MORTISE_HD V sqrt(V const& x) {
  if constexpr (lanes_of<V>::width == 1) {
    if constexpr (sizeof(V) == 4) return __builtin_sqrtf(x);
    else return __builtin_sqrt(x);
  } else {
#if defined(__x86_64__) && !defined(__clang__) && !defined(__CUDACC__)
    // g++ has no generic root of vectors, and calls of sqrtf do not vectorise while errno is observed. An Adam step of 2410 parameters
    // takes 0.32 us with the instruction, 0.41 us with multiplications (AVX-512; 0.58 and 0.80 with AVX2).
    V r;
    if constexpr (sizeof(typename V::reg) == 16) {
      if constexpr (sizeof(value_of<V>) == 4) asm("sqrtps %1, %0" : "=x"(r.v) : "x"(x.v));
      else asm("sqrtpd %1, %0" : "=x"(r.v) : "x"(x.v));
    } else {
      if constexpr (sizeof(value_of<V>) == 4) asm("vsqrtps %1, %0" : "=v"(r.v) : "v"(x.v));
      else asm("vsqrtpd %1, %0" : "=v"(r.v) : "v"(x.v));
    }
    return r;
#else
    return sqrt_by_multiplication(x);
#endif
  }
}

#if defined(__CUDACC__)
template <class T>
MORTISE_INLINE MORTISE_HD simd<T, 1> sqrt(simd<T, 1> const& x) {
  return {sqrt(x.v)};
}
#endif

/// 1/sqrt(x)
template <class V>
MORTISE_INLINE MORTISE_HD V rsqrt(V const& x) {
  using T = value_of<V>;
  using L = layout_of<V>;
  constexpr T up = sizeof(T) == 4 ? T(0x1p26) : T(0x1p54);
  constexpr T down = sizeof(T) == 4 ? T(0x1p13) : T(0x1p27);
  auto const subnormal = x < V(L::smallest_normal);
  V const y = rsqrt_normal(select(subnormal, x * V(up), x));
  V const result = select(subnormal, y * V(down), y);
  V const outside = select(x == V(T(0)), V(L::infinity), V(L::nan));
  return select(x > V(T(0)), select(x < V(L::infinity), result, select(x == V(L::infinity), V(T(0)), x)), outside);
}

}  // namespace mortise::detail
