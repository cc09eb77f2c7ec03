#include <mortise/operation/conv2d.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using namespace mortise;

/// Small deterministic values; `place` separates the arrays.
template <class T>
std::vector<T> values(std::size_t n, std::uint32_t place) {
  std::vector<T> v(n);
  std::uint32_t state = place * 2654435761u + 12345u;
  for (T& e : v) {
    state = state * 1664525u + 1013904223u;
    e = static_cast<T>(static_cast<std::int32_t>(state >> 8) % 2001 - 1000) / T{997};
  }
  return v;
}

/// A sum in double, and the sum of its terms' magnitudes, which bounds the rounding error.
struct bounded_sum {
  double value = 0, magnitude = 0;
  void add(double a, double b) { value += a * b, magnitude += std::fabs(a * b); }
};

/// Every term of a convolution: f(n, output index, weight index, input index).
template <class G, class F>
void for_each_term(std::size_t batch, F const& f) {
  for (std::size_t n = 0; n < batch; ++n)
    for (std::size_t o = 0; o < G::out_c; ++o)
      for (std::size_t p = 0; p < G::out_h; ++p)
        for (std::size_t q = 0; q < G::out_w; ++q)
          for (std::size_t c = 0; c < G::group_in; ++c)
            for (std::size_t i = 0; i < G::kernel_h; ++i)
              for (std::size_t j = 0; j < G::kernel_w; ++j) {
                std::size_t const r = p * G::stride_h + i * G::dilation_h - G::pad_h, s = q * G::stride_w + j * G::dilation_w - G::pad_w;
                if (r >= G::in_h || s >= G::in_w) continue;
                f(((n * G::out_c + o) * G::out_h + p) * G::out_w + q, ((o * G::group_in + c) * G::kernel_h + i) * G::kernel_w + j,
                  ((n * G::in_c + o / G::group_out * G::group_in + c) * G::in_h + r) * G::in_w + s);
              }
}

template <class T>
struct results {
  std::vector<T> y, relu_y, dx, dw, db;
  friend bool operator==(results const& a, results const& b) {
    auto const same = [](std::vector<T> const& u, std::vector<T> const& v) { return std::memcmp(u.data(), v.data(), u.size() * sizeof(T)) == 0; };
    return same(a.y, b.y) && same(a.relu_y, b.relu_y) && same(a.dx, b.dx) && same(a.dw, b.dw) && same(a.db, b.db);
  }
};

template <class G, class T>
results<T> run(host const& device, std::size_t batch, std::vector<T> const& x, std::vector<T> const& w, std::vector<T> const& b, std::vector<T> const& dy) {
  T const untouched = std::numeric_limits<T>::quiet_NaN();
  results<T> r;
  r.y.assign(dy.size(), untouched), r.relu_y = r.y, r.dx.assign(x.size(), untouched), r.dw.assign(w.size(), untouched), r.db.assign(b.size(), untouched);
  std::size_t const elements = conv2d_workspace<G>().elements(batch), guard = 64;
  T* const workspace = static_cast<T*>(device.allocate((elements + guard) * sizeof(T)));
  for (std::size_t i = 0; i < elements + guard; ++i) workspace[i] = untouched;  // leftovers must not matter
  conv2d_forward(device, G{}, batch, x.data(), w.data(), b.data(), r.y.data(), workspace);
  conv2d_forward<activation::relu>(device, G{}, batch, x.data(), w.data(), b.data(), r.relu_y.data(), workspace);
  conv2d_backward_input(device, G{}, batch, dy.data(), w.data(), r.dx.data(), workspace);
  conv2d_backward_weight(device, G{}, batch, x.data(), dy.data(), r.dw.data(), r.db.data(), workspace);
  bool whole = true;
  for (std::size_t i = 0; i < guard; ++i) whole = whole && std::isnan(workspace[elements + i]);
  CHECK_MESSAGE(whole, "the workspace is large enough");
  device.deallocate(workspace, (elements + guard) * sizeof(T));
  return r;
}

/// Largest error in units of its bound: (terms + 2) eps times the sum of magnitudes. Winograd's transforms lose more than a plain sum does, by
/// a small factor that does not grow with the number of terms; over 32 channels and more the plain bound holds for it too.
template <class T>
double worst(std::vector<T> const& got, std::vector<bounded_sum> const& want, double terms) {
  double w = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const bound = (terms + 2) * static_cast<double>(std::numeric_limits<T>::epsilon()) * (want[i].magnitude + 1e-30);
    double const error = std::fabs(static_cast<double>(got[i]) - want[i].value) / bound;
    w = error <= w ? w : error;  // also catches NaN
    if (std::isnan(error)) return error;
  }
  return w;
}

template <class G, class T = float>
void check(std::size_t batch) {
  INFO("batch ", batch, ", input ", G::in_c, "x", G::in_h, "x", G::in_w, ", output ", G::out_c, "x", G::out_h, "x", G::out_w);
  auto const x = values<T>(batch * G::in_elements, 1), w = values<T>(G::weight_elements, 2), b = values<T>(G::out_c, 3),
             dy = values<T>(batch * G::out_elements, 4);
  std::vector<bounded_sum> y(dy.size()), dx(x.size()), dw(w.size()), db(b.size());
  for (std::size_t e = 0; e < y.size(); ++e) {
    std::size_t const o = e / (G::out_h * G::out_w) % G::out_c;
    y[e].add(static_cast<double>(b[o]), 1);
    db[o].add(static_cast<double>(dy[e]), 1);
  }
  for_each_term<G>(batch, [&](std::size_t at_y, std::size_t at_w, std::size_t at_x) {
    y[at_y].add(static_cast<double>(w[at_w]), static_cast<double>(x[at_x]));
    dx[at_x].add(static_cast<double>(w[at_w]), static_cast<double>(dy[at_y]));
    dw[at_w].add(static_cast<double>(x[at_x]), static_cast<double>(dy[at_y]));
  });
  auto const got = run<G>(host{1}, batch, x, w, b, dy);
  CHECK(worst(got.y, y, static_cast<double>(G::taps)) <= 1);
  CHECK(worst(got.dx, dx, static_cast<double>(G::group_out * G::kernel_h * G::kernel_w)) <= 1);
  CHECK(worst(got.dw, dw, static_cast<double>(batch * G::out_h * G::out_w)) <= 1);
  CHECK(worst(got.db, db, static_cast<double>(batch * G::out_h * G::out_w)) <= 1);
  bool relu = true;
  for (std::size_t e = 0; e < y.size(); ++e) relu = relu && got.relu_y[e] == (got.y[e] > T{0} ? got.y[e] : T{0});
  CHECK_MESSAGE(relu, "the fused relu is relu of the sums");
  for (int threads : {2, 3}) CHECK_MESSAGE((run<G>(host{threads}, batch, x, w, b, dy) == got), threads, " threads give the bits of one");
  if (batch > 1) {
    auto const one = run<G>(host{1}, 1, std::vector<T>(x.end() - G::in_elements, x.end()), w, b, std::vector<T>(dy.end() - G::out_elements, dy.end()));
    CHECK_MESSAGE(std::memcmp(one.y.data(), got.y.data() + (batch - 1) * G::out_elements, G::out_elements * sizeof(T)) == 0, "a sample alone: y");
    CHECK_MESSAGE(std::memcmp(one.dx.data(), got.dx.data() + (batch - 1) * G::in_elements, G::in_elements * sizeof(T)) == 0, "a sample alone: dx");
  }
}

}  // namespace

TEST_CASE("a small convolution and its gradients equal sums in double for every batch size") {
  for (std::size_t batch = 1; batch <= 17; ++batch) check<conv2d_geometry<2, 7, 9, 6, 5, 5>>(batch);
  check<conv2d_geometry<2, 7, 9, 6, 5, 5>>(67);
  check<conv2d_geometry<2, 7, 9, 6, 5, 5>, double>(19);
}

TEST_CASE("padding, stride, dilation, groups and sides that differ") {
  check<conv2d_geometry<3, 8, 8, 16, 3, 3, 1, 1, 1, 1>>(5);
  check<conv2d_geometry<3, 9, 8, 5, 3, 3, 2, 2, 1, 1>>(3);
  check<conv2d_geometry<4, 9, 12, 6, 3, 2, 2, 1, 1, 0, 1, 2, 2>>(4);
  check<conv2d_geometry<2, 11, 10, 3, 3, 4, 3, 2, 0, 2, 2, 3>, double>(2);
  check<conv2d_geometry<5, 6, 5, 7, 1, 1>>(17);
  check<conv2d_geometry<5, 6, 7, 9, 1, 1, 2, 2>>(2);
  check<conv2d_geometry<6, 5, 5, 6, 3, 3, 1, 1, 1, 1, 1, 1, 6>>(3);
  check<conv2d_geometry<1, 4, 3, 1, 4, 3>>(2);
  check<conv2d_geometry<1, 5, 17, 2, 1, 9, 1, 1, 0, 4>>(3);
}

TEST_CASE("many channels: taps as products") {
  check<conv2d_geometry<32, 8, 8, 32, 3, 3, 2, 2, 1, 1>>(3);
  check<conv2d_geometry<40, 7, 5, 33, 2, 3, 1, 2, 1, 0, 2, 1>>(2);
  check<conv2d_geometry<35, 6, 6, 50, 1, 1, 2, 2>>(5);
  check<conv2d_geometry<32, 17, 18, 32, 1, 1>>(3);
}

TEST_CASE("many channels: Winograd's tiles") {
  check<conv2d_geometry<32, 4, 4, 32, 3, 3, 1, 1, 1, 1>>(9);
  check<conv2d_geometry<35, 8, 7, 50, 3, 3, 1, 1, 1, 1>>(3);
  check<conv2d_geometry<33, 7, 14, 34, 3, 3, 1, 1, 0, 2>>(2);
  check<conv2d_geometry<32, 25, 50, 32, 3, 3, 1, 1, 1, 1>, double>(3);
}
