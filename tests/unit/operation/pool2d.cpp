#include <mortise/operation/pool2d.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using namespace mortise;

/// Values with many ties.
template <class T>
std::vector<T> values(std::size_t n, std::uint32_t place, int range = 4) {
  std::vector<T> v(n);
  std::uint32_t state = place * 2654435761u + 12345u;
  for (T& e : v) {
    state = state * 1664525u + 1013904223u;
    e = static_cast<T>(static_cast<int>(state >> 10) % (2 * range + 1) - range);
  }
  return v;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
template <class T>
bool same_values(std::vector<T> const& a, std::vector<T> const& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(a[i] == b[i] || (a[i] != a[i] && b[i] != b[i]))) return false;
  return a.size() == b.size();
}

/// PyTorch's rule, written over windows cut to the map: a later element wins when it is greater or NaN.
template <class G, class T>
void reference(std::size_t batch, std::vector<T> const& x, std::vector<T> const& dy, bool relu, std::vector<T>& y, std::vector<T>& dx) {
  y.assign(batch * G::out_elements, T{}), dx.assign(batch * G::in_elements, T{});
  std::size_t e = 0;
  for (std::size_t m = 0; m < batch * G::channels; ++m)
    for (std::size_t p = 0; p < G::out_h; ++p)
      for (std::size_t q = 0; q < G::out_w; ++q, ++e) {
        T best = -std::numeric_limits<T>::infinity();
        std::size_t at = static_cast<std::size_t>(-1);
        for (std::size_t i = 0; i < G::kernel_h; ++i)
          for (std::size_t j = 0; j < G::kernel_w; ++j) {
            std::size_t const r = p * G::stride_h + i * G::dilation_h - G::pad_h, s = q * G::stride_w + j * G::dilation_w - G::pad_w;
            if (r >= G::in_h || s >= G::in_w) continue;
            std::size_t const here = (m * G::in_h + r) * G::in_w + s;
            T const v = relu && x[here] <= T{0} ? T{0} : x[here];
            if (at == static_cast<std::size_t>(-1) || v > best || std::isnan(v)) best = v, at = here;
          }
        y[e] = best;
        if (!relu || !(x[at] <= T{0})) dx[at] += dy[e];
      }
}

template <class G, class T = float>
void check(std::size_t batch, bool with_nan = false) {
  INFO("batch ", batch, ", map ", G::in_h, "x", G::in_w, ", window ", G::kernel_h, "x", G::kernel_w);
  auto x = values<T>(batch * G::in_elements, 1);
  auto const dy = values<T>(batch * G::out_elements, 2, 1000);
  if (with_nan)
    for (std::size_t i = 0; i < x.size(); i += 5) x[i] = i % 2 == 0 ? std::numeric_limits<T>::quiet_NaN() : -std::numeric_limits<T>::infinity();
  for (bool relu : {false, true}) {
    std::vector<T> want_y, want_dx;
    reference<G>(batch, x, dy, relu, want_y, want_dx);
    for (int threads : {1, 2, 3}) {
      host const device{threads};
      std::vector<T> y(want_y.size(), T{77}), evaluated(want_y.size(), T{77}), dx(x.size(), T{77});
      std::vector<std::uint8_t> index(y.size(), 99);
      auto const forward = [&](T* to, std::uint8_t* places) {
        if (relu) relu_max_pool2d_forward(device, G{}, batch, x.data(), to, places);
        else max_pool2d_forward(device, G{}, batch, x.data(), to, places);
      };
      forward(y.data(), index.data());
      forward(evaluated.data(), nullptr);
      max_pool2d_backward(device, G{}, batch, dy.data(), index.data(), dx.data());
      CHECK(same_values(y, want_y));
      CHECK(same_bits(evaluated, y));
      CHECK(same_values(dx, want_dx));
    }
  }
}

}  // namespace

TEST_CASE("max_pool2d takes the first of equal maxima, NaN wins, and dx is the transpose of that choice") {
  for (std::size_t batch = 1; batch <= 4; ++batch) {
    check<pool2d_geometry<3, 8, 8, 2, 2>>(batch);
    check<pool2d_geometry<3, 8, 8, 2, 2>>(batch, true);
  }
  check<pool2d_geometry<6, 24, 24, 2, 2>>(40);
  check<pool2d_geometry<2, 7, 11, 2, 2>>(3, true);
  check<pool2d_geometry<2, 4, 67, 2, 2>>(3, true);
  check<pool2d_geometry<2, 9, 19, 2, 2>, double>(3, true);
  check<pool2d_geometry<2, 6, 4, 2, 2>>(3, true);
  check<pool2d_geometry<2, 7, 8, 3, 3, 2, 2, 1, 1>>(3);
  check<pool2d_geometry<2, 7, 8, 3, 3, 2, 2, 1, 1>>(3, true);
  check<pool2d_geometry<2, 9, 8, 3, 2, 1, 2, 0, 1, 2, 1>>(2, true);
}

TEST_CASE("the gradient of avg_pool2d is its transpose, and padding counts") {
  using G = pool2d_geometry<2, 5, 6, 3, 2, 2, 2, 1, 1>;
  constexpr std::size_t batch = 3;
  auto const x = values<float>(batch * G::in_elements, 1), dy = values<float>(batch * G::out_elements, 2);
  std::vector<float> y(dy.size()), dx(x.size());
  avg_pool2d_forward(host{2}, G{}, batch, x.data(), y.data());
  avg_pool2d_backward(host{2}, G{}, batch, dy.data(), dx.data());
  CHECK(y[0] == (x[0] + x[6]) / 6);  // the corner window sees two elements, and divides by six
  double left = 0, right = 0;        // <dy, A x> = <A^T dy, x>
  for (std::size_t i = 0; i < y.size(); ++i) left += static_cast<double>(dy[i]) * static_cast<double>(y[i]);
  for (std::size_t i = 0; i < x.size(); ++i) right += static_cast<double>(dx[i]) * static_cast<double>(x[i]);
  CHECK(std::fabs(left - right) <= 1e-6 * 16 * static_cast<double>(y.size()));
}

TEST_CASE("adaptive_avg_pool2d averages from floor(o n / m) to ceil((o + 1) n / m), and its gradient is its transpose") {
  using G = adaptive_pool2d_geometry<2, 5, 7, 3, 2>;
  constexpr std::size_t batch = 2;
  auto const x = values<float>(batch * G::in_elements, 1), dy = values<float>(batch * G::out_elements, 2);
  std::vector<float> y(dy.size()), dx(x.size());
  adaptive_avg_pool2d_forward(host{2}, G{}, batch, x.data(), y.data());
  adaptive_avg_pool2d_backward(host{2}, G{}, batch, dy.data(), dx.data());
  // Rows 0-1, 1-3, 3-4; columns 0-3, 3-6.
  CHECK(y[0] == doctest::Approx((x[0] + x[1] + x[2] + x[3] + x[7] + x[8] + x[9] + x[10]) / 8));
  CHECK(y[3] == doctest::Approx((x[10] + x[11] + x[12] + x[13] + x[17] + x[18] + x[19] + x[20] + x[24] + x[25] + x[26] + x[27]) / 12));
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) left += static_cast<double>(dy[i]) * static_cast<double>(y[i]);
  for (std::size_t i = 0; i < x.size(); ++i) right += static_cast<double>(dx[i]) * static_cast<double>(x[i]);
  CHECK(std::fabs(left - right) <= 1e-6 * 16 * static_cast<double>(y.size()));

  using whole = adaptive_pool2d_geometry<3, 4, 4, 1, 1>;
  std::vector<float> const ones(batch * whole::in_elements, 1.0f);
  std::vector<float> mean(batch * whole::out_elements);
  adaptive_avg_pool2d_forward(host{1}, whole{}, batch, ones.data(), mean.data());
  CHECK(mean == std::vector<float>(mean.size(), 1.0f));
}
