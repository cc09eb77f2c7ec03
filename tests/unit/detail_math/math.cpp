// The elementary functions against libm in the next larger type.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <mortise/detail/math.hpp>

namespace md = mortise::detail;

namespace {

struct exp_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::exp(x); } static long double exact(long double x) { return std::exp(x); } };
struct expm1_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::expm1(x); } static long double exact(long double x) { return std::expm1(x); } };
struct log_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::log(x); } static long double exact(long double x) { return std::log(x); } };
struct log1p_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::log1p(x); } static long double exact(long double x) { return std::log1p(x); } };
struct tanh_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::tanh(x); } static long double exact(long double x) { return std::tanh(x); } };
struct sigmoid_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::sigmoid(x); } static long double exact(long double x) { return 1 / (1 + std::exp(-x)); } };
struct erf_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::erf(x); } static long double exact(long double x) { return std::erf(x); } };
struct sqrt_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::sqrt(x); } static long double exact(long double x) { return std::sqrt(x); } };
struct sqrt_by_multiplication_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::sqrt_by_multiplication(x); } static long double exact(long double x) { return std::sqrt(x); } };
struct rsqrt_f { template <class V> MORTISE_INLINE static V ours(V const& x) { return md::rsqrt(x); } static long double exact(long double x) { return 1 / std::sqrt(x); } };

template <class F, class T>
struct apply {
  T const* x;
  T* y;
  std::size_t n;  // a multiple of 16
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using V = md::simd<T, Bytes / static_cast<int>(sizeof(T))>;
    for (std::size_t i = 0; i < n; i += V::width) F::ours(V::load(x + i)).store(y + i);
  }
};

// Largest error in units of the last place over `x`; results outside the normal range count only when they are off by more than the
// smallest normal number.
template <class F, class T>
double worst_ulp(std::vector<T> x, double* where = nullptr) {
  while (x.size() % 16 != 0) x.push_back(x.back());
  std::vector<T> y(x.size());
  md::for_this_cpu(apply<F, T>{x.data(), y.data(), x.size()});
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    long double const exact = F::exact(static_cast<long double>(x[i]));
    T const rounded = static_cast<T>(exact);
    double error;
    if (std::isnan(rounded)) error = std::isnan(y[i]) ? 0 : 1e30;
    else if (std::isinf(rounded) || std::isinf(y[i])) {
      T const largest = std::numeric_limits<T>::max();
      error = rounded == y[i] || (std::fabs(exact) > largest * (1 - 4 * std::numeric_limits<T>::epsilon())) ? 0 : 1e30;
    } else {
      T const magnitude = std::fabs(rounded);
      T const ulp = magnitude < std::numeric_limits<T>::min()
                        ? std::numeric_limits<T>::min() * std::numeric_limits<T>::epsilon()
                        : std::nextafter(magnitude, std::numeric_limits<T>::infinity()) - magnitude;
      error = static_cast<double>(std::fabs(static_cast<long double>(y[i]) - exact) / static_cast<long double>(ulp));
      if (magnitude < std::numeric_limits<T>::min() && y[i] == 0) error = 0;  // flushed
    }
    if (error > worst) {
      worst = error;
      if (where != nullptr) *where = static_cast<double>(x[i]);
    }
  }
  return worst;
}

template <class T>
std::vector<T> line(double from, double to, int n) {
  std::vector<T> x;
  for (int i = 0; i <= n; ++i) x.push_back(static_cast<T>(from + (to - from) * i / n));
  return x;
}
// Magnitudes of every binary order, both signs or one.
template <class T>
std::vector<T> orders(bool negative, int per_order = 16) {
  std::vector<T> x;
  for (int e = std::numeric_limits<T>::min_exponent - 20; e < std::numeric_limits<T>::max_exponent; ++e)
    for (int i = 0; i < per_order; ++i) {
      T const v = std::ldexp(static_cast<T>(1 + (i + 0.37) / per_order), e - 1);
      x.push_back(v);
      if (negative) x.push_back(-v);
    }
  return x;
}

// Without fused multiply-add the polynomials round once more per step: on the baseline, and where clang does not optimise, since it fuses
// only then.
#if defined(__clang__) && !defined(__OPTIMIZE__)
constexpr bool fuses = false;
#else
constexpr bool fuses = true;
#endif
double const slack = !fuses || md::current_instruction_set() == md::instruction_set::baseline ? 2.0 : 0.0;

template <class F, class T>
void check(std::vector<T> const& x, double bound) {
  double where = 0;
  double const worst = worst_ulp<F, T>(x, &where);
  INFO("at ", where);
  CHECK(worst <= bound + slack);
}

}  // namespace

TEST_CASE_TEMPLATE("elementary functions keep their stated error", T, float, double) {
  bool const f = sizeof(T) == 4;
  int const n = 200000;
  SUBCASE("exp") {
    check<exp_f, T>(line<T>(f ? -87 : -708, f ? 88.7 : 709.7, n), 1.1);
    check<exp_f, T>(line<T>(f ? -110 : -750, f ? 100 : 720, n), 1.5);  // through the subnormals and both ends
    check<exp_f, T>(line<T>(-1, 1, n), 1.1);
  }
  SUBCASE("expm1") {
    check<expm1_f, T>(line<T>(-3, 3, n), 2.5);
    check<expm1_f, T>(line<T>(f ? -90 : -750, f ? 100 : 720, n), 2.5);
    check<expm1_f, T>(orders<T>(true), 2.5);
  }
  SUBCASE("log") {
    check<log_f, T>(orders<T>(false, 64), 1);
    check<log_f, T>(line<T>(0.25, 4, n), 1);
  }
  SUBCASE("log1p") {
    check<log1p_f, T>(line<T>(-0.999, 3, n), 2);
    check<log1p_f, T>(orders<T>(false), 2);
    check<log1p_f, T>(line<T>(-1e-3, 1e-3, n), 2);
  }
  SUBCASE("tanh") {
    check<tanh_f, T>(line<T>(-22, 22, n), 3);
    check<tanh_f, T>(line<T>(-1, 1, n), 3);
    check<tanh_f, T>(orders<T>(true), 3);
  }
  SUBCASE("sigmoid") {
    check<sigmoid_f, T>(line<T>(f ? -87 : -708, 100, n), 2.5);
    check<sigmoid_f, T>(line<T>(-4, 4, n), 2.5);
  }
  SUBCASE("erf") {
    check<erf_f, T>(line<T>(-7, 7, n), 1.5);
    check<erf_f, T>(line<T>(-1, 1, n), 1.5);
    check<erf_f, T>(orders<T>(true), 1.5);
  }
  SUBCASE("sqrt") {
    check<sqrt_f, T>(orders<T>(false, 64), 0.7);
    check<sqrt_f, T>(line<T>(0, 4, n), 0.7);
    check<sqrt_by_multiplication_f, T>(orders<T>(false, 64), 0.7);
    check<sqrt_by_multiplication_f, T>(line<T>(0, 4, n), 0.7);
  }
  SUBCASE("rsqrt") {
    check<rsqrt_f, T>(orders<T>(false, 64), 1.5);
    check<rsqrt_f, T>(line<T>(0.25, 4, n), 1.5);
  }
}

TEST_CASE_TEMPLATE("limits are reached and NaN passes through", T, float, double) {
  T const inf = std::numeric_limits<T>::infinity();
  T const nan = std::numeric_limits<T>::quiet_NaN();
  CHECK(md::exp(-inf) == T(0));
  CHECK(md::exp(inf) == inf);
  CHECK(md::exp(T(0)) == T(1));
  CHECK(md::expm1(-inf) == T(-1));
  CHECK(md::log(T(0)) == -inf);
  CHECK(md::log(inf) == inf);
  CHECK(md::log(T(1)) == T(0));
  CHECK(std::isnan(md::log(T(-1))));
  CHECK(md::log1p(T(-1)) == -inf);
  CHECK(md::log1p(T(0)) == T(0));
  CHECK(md::tanh(inf) == T(1));
  CHECK(md::tanh(-inf) == T(-1));
  CHECK(std::signbit(md::tanh(T(-0.0))));
  CHECK(md::sigmoid(-inf) == T(0));
  CHECK(md::sigmoid(inf) == T(1));
  CHECK(md::erf(inf) == T(1));
  CHECK(md::erf(-inf) == T(-1));
  CHECK(md::sqrt(T(0)) == T(0));
  CHECK(md::sqrt(inf) == inf);
  CHECK(std::isnan(md::sqrt(T(-1))));
  CHECK(md::rsqrt(T(0)) == inf);
  CHECK(md::rsqrt(inf) == T(0));
  CHECK(md::sqrt_normal(T(0)) == T(0));
  for (T const y : {md::exp(nan), md::expm1(nan), md::log(nan), md::log1p(nan), md::tanh(nan), md::sigmoid(nan), md::erf(nan), md::sqrt(nan), md::sqrt_by_multiplication(nan),
                    md::rsqrt(nan)})
    CHECK(std::isnan(y));
}
