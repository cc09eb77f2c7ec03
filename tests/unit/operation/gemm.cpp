#include <mortise/operation/gemm.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace mt = mortise;

namespace {

/// Small deterministic values in [-1, 1).
template <class T>
std::vector<T> values(std::size_t count, std::uint64_t seed) {
  std::vector<T> v(count);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (T& x : v) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x = static_cast<T>(static_cast<double>(state >> 40) / static_cast<double>(1u << 23) - 1.0);
  }
  return v;
}

/// Largest |c - a b| in units of its bound, (k + 2) eps (|a| |b| + |start|), with a(i, k) and b(k, j) as functions.
template <class T, class A, class B, class Start>
double worst(std::size_t m, std::size_t n, std::size_t k, A a, B b, Start start, T const* c, std::size_t ldc, bool relu = false) {
  double largest = 0;
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double sum = start(i, j), size = std::fabs(sum);
      for (std::size_t x = 0; x < k; ++x) {
        double const term = static_cast<double>(a(i, x)) * static_cast<double>(b(x, j));
        sum += term;
        size += std::fabs(term);
      }
      if (relu && sum < 0) sum = 0;
      double const bound = (static_cast<double>(k) + 2) * std::numeric_limits<T>::epsilon() * size + std::numeric_limits<T>::min();
      double const error = std::fabs(sum - static_cast<double>(c[i * ldc + j]));
      largest = std::isfinite(error) ? std::fmax(largest, error / bound) : 1e9;
    }
  return largest;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

constexpr std::size_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100};
constexpr std::size_t size_count = sizeof(sizes) / sizeof(sizes[0]);

template <class T>
struct linear_case {
  std::size_t m, n, k;
  std::vector<T> x, w, bias, dy;
  linear_case(std::size_t m_, std::size_t n_, std::size_t k_)
      : m(m_), n(n_), k(k_), x(values<T>(m * k, 1)), w(values<T>(n * k, 2)), bias(values<T>(n, 3)), dy(values<T>(m * n, 4)) {}

  struct result {
    std::vector<T> y, y_relu, dx, dw, dbias;
  };
  result run(int threads) const {
    T const nan = std::numeric_limits<T>::quiet_NaN();
    result r{std::vector<T>(m * n, nan), std::vector<T>(m * n, nan), std::vector<T>(m * k, nan), std::vector<T>(n * k, nan),
             std::vector<T>(n, nan)};
    mt::host const device{threads};
    mt::linear_forward(device, m, n, k, x.data(), w.data(), static_cast<T const*>(nullptr), r.y.data());
    mt::linear_forward(device, m, n, k, x.data(), w.data(), bias.data(), r.y_relu.data(), mt::activation::relu);
    mt::linear_backward_input(device, m, n, k, dy.data(), w.data(), r.dx.data());
    mt::linear_backward_weight(device, m, n, k, dy.data(), x.data(), r.dw.data(), r.dbias.data());
    return r;
  }
  double error(result const& r) const {
    auto const none = [](std::size_t, std::size_t) { return 0.0; };
    auto const X = [&](std::size_t i, std::size_t j) { return x[i * k + j]; };
    auto const WT = [&](std::size_t i, std::size_t j) { return w[j * k + i]; };
    auto const W = [&](std::size_t i, std::size_t j) { return w[i * k + j]; };
    auto const DY = [&](std::size_t i, std::size_t j) { return dy[i * n + j]; };
    auto const DYT = [&](std::size_t i, std::size_t j) { return dy[j * n + i]; };
    auto const one = [&](std::size_t, std::size_t) { return T{1}; };
    double e = worst<T>(m, n, k, X, WT, none, r.y.data(), n);
    e = std::fmax(e, worst<T>(m, n, k, X, WT, [&](std::size_t, std::size_t j) { return static_cast<double>(bias[j]); },
                              r.y_relu.data(), n, true));
    e = std::fmax(e, worst<T>(m, k, n, DY, W, none, r.dx.data(), k));
    e = std::fmax(e, worst<T>(n, k, m, DYT, X, none, r.dw.data(), k));
    return std::fmax(e, worst<T>(n, 1, m, DYT, one, none, r.dbias.data(), 1));
  }
};

}  // namespace

TEST_CASE_TEMPLATE("products of a linear layer agree with plain sums within their rounding", T, float, double) {
  double largest = 0;
  for (std::size_t a = 0; a < size_count; ++a)
    for (std::size_t b = 0; b < size_count; ++b)
      for (std::size_t c = 0; c < size_count; ++c) {
        // All small triples, and of the others a third: the law is the same, the time is not.
        if (sizes[a] + sizes[b] + sizes[c] > 40 && (a + b + c) % 3 != 0) continue;
        linear_case<T> const problem{sizes[a], sizes[b], sizes[c]};
        double const e = problem.error(problem.run(1));
        if (e > 1) FAIL_CHECK("m ", sizes[a], " n ", sizes[b], " k ", sizes[c], " off by ", e, " bounds");
        largest = std::fmax(largest, e);
      }
  CHECK(largest <= 1.0);
}

TEST_CASE_TEMPLATE("the number of threads changes no bit of a product", T, float, double) {
  constexpr std::size_t shapes[][3] = {{64, 130, 300}, {1, 700, 800}, {33, 250, 129}, {300, 10, 500}, {16, 600, 100}, {1000, 40, 70}, {800, 500, 110}};
  for (auto const& s : shapes) {
    linear_case<T> const problem{s[0], s[1], s[2]};
    auto const one = problem.run(1);
    CHECK(problem.error(one) <= 1.0);
    for (int threads = 2; threads <= 3; ++threads) {
      auto const many = problem.run(threads);
      CHECK(same_bits(one.y, many.y));
      CHECK(same_bits(one.y_relu, many.y_relu));
      CHECK(same_bits(one.dx, many.dx));
      CHECK(same_bits(one.dw, many.dw));
      CHECK(same_bits(one.dbias, many.dbias));
    }
  }
}

TEST_CASE_TEMPLATE("a row's result does not depend on the batch around it", T, float, double) {
  constexpr std::size_t n = 70, k = 90, most = 130;
  auto const x = values<T>(most * k, 1), w = values<T>(n * k, 2), bias = values<T>(n, 3), dy = values<T>(most * n, 4);
  std::vector<T> all(most * n), all_dx(most * k);
  mt::host const device{1};
  mt::linear_forward(device, most, n, k, x.data(), w.data(), bias.data(), all.data());
  mt::linear_backward_input(device, most, n, k, dy.data(), w.data(), all_dx.data());
  for (std::size_t const m : {2u, 3u, 5u, 8u, 16u, 17u, 64u, 129u}) {
    std::vector<T> y(m * n), dx(m * k);
    std::size_t const from = most - m;
    mt::linear_forward(device, m, n, k, x.data() + from * k, w.data(), bias.data(), y.data());
    mt::linear_backward_input(device, m, n, k, dy.data() + from * n, w.data(), dx.data());
    CHECK(std::memcmp(y.data(), all.data() + from * n, y.size() * sizeof(T)) == 0);
    CHECK(std::memcmp(dx.data(), all_dx.data() + from * k, dx.size() * sizeof(T)) == 0);
  }
}

TEST_CASE_TEMPLATE("constant sizes give the bits of run-time sizes", T, float, double) {
  constexpr std::size_t m = 16;
  std::integral_constant<std::size_t, 32> const n;
  std::integral_constant<std::size_t, 64> const k;
  linear_case<T> const problem{m, n, k};
  auto const expected = problem.run(1);
  std::vector<T> y(m * n), dx(m * k), dw(n * k), dbias(n);
  mt::host const device{1};
  mt::linear_forward(device, m, n, k, problem.x.data(), problem.w.data(), problem.bias.data(), y.data(), mt::activation::relu);
  mt::linear_backward_input(device, m, n, k, problem.dy.data(), problem.w.data(), dx.data());
  mt::linear_backward_weight(device, m, n, k, problem.dy.data(), problem.x.data(), dw.data(), dbias.data());
  CHECK(same_bits(y, expected.y_relu));
  CHECK(same_bits(dx, expected.dx));
  CHECK(same_bits(dw, expected.dw));
  CHECK(same_bits(dbias, expected.dbias));
}

namespace {

template <bool TransA, bool TransB, class T>
double general_error(std::size_t m, std::size_t n, std::size_t k, int beta, int threads) {
  std::size_t const lda = (TransA ? m : k) + 3, ldb = (TransB ? k : n) + 1, ldc = n + 2;
  // A row more than there is, so that no pointer is null where k is 0.
  auto const a = values<T>(((TransA ? k : m) + 1) * lda, 5), b = values<T>(((TransB ? n : k) + 1) * ldb, 6), start = values<T>(m * ldc, 7);
  auto const column_bias = values<T>(n, 8), row_bias = values<T>(m, 9);
  auto c = start;
  mt::gemm<TransA, TransB>(mt::host{threads}, m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc, beta,
                           {column_bias.data(), row_bias.data(), mt::activation::identity});
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = n; j < ldc; ++j)
      if (c[i * ldc + j] != start[i * ldc + j]) return 1e9;  // wrote between the rows
  return worst<T>(
      m, n, k, [&](std::size_t i, std::size_t x) { return TransA ? a[x * lda + i] : a[i * lda + x]; },
      [&](std::size_t x, std::size_t j) { return TransB ? b[j * ldb + x] : b[x * ldb + j]; },
      [&](std::size_t i, std::size_t j) {
        return (beta != 0 ? static_cast<double>(start[i * ldc + j]) : 0.0) + static_cast<double>(column_bias[j]) + static_cast<double>(row_bias[i]);
      },
      c.data(), ldc);
}

}  // namespace

TEST_CASE_TEMPLATE("strided products agree with plain sums and touch nothing between rows", T, float, double) {
  constexpr std::size_t shapes[][3] = {{1, 1, 1}, {1, 50, 40}, {3, 17, 5}, {8, 48, 16}, {9, 49, 33}, {64, 64, 32}, {50, 1, 70}, {13, 100, 1500}, {100, 30, 0}};
  for (auto const& s : shapes)
    for (int beta = 0; beta <= 1; ++beta) {
      CHECK(general_error<false, false, T>(s[0], s[1], s[2], beta, 1) <= 2.0);
      CHECK(general_error<false, true, T>(s[0], s[1], s[2], beta, 2) <= 2.0);
      CHECK(general_error<true, false, T>(s[0], s[1], s[2], beta, 2) <= 2.0);
      CHECK(general_error<true, true, T>(s[0], s[1], s[2], beta, 1) <= 2.0);
    }
}

TEST_CASE("batched products equal their products one by one") {
  constexpr std::size_t batch = 12, m = 40, n = 33, k = 50;
  auto const a = values<float>(batch * m * k, 1), b = values<float>(batch * n * k, 2);
  std::vector<float> one(batch * m * n), all(batch * m * n);
  for (std::size_t i = 0; i < batch; ++i)
    mt::gemm<false, true>(mt::host{1}, m, n, k, a.data() + i * m * k, k, b.data() + i * n * k, k, one.data() + i * m * n, n);
  for (int threads = 1; threads <= 2; ++threads) {
    mt::gemm_batched<false, true>(mt::host{threads}, batch, m, n, k, a.data(), k, m * k, b.data(), k, n * k, all.data(), n, m * n);
    CHECK(same_bits(one, all));
  }
}
