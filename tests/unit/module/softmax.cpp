#include "../../contract/module.hpp"

#include <cmath>

#include <mortise/module/softmax.hpp>

using mortise::extents;

MODULE_CONTRACT(on_host<mortise::softmax, extents<10>>, on_host<mortise::softmax, extents<3, 40>>, on_host<mortise::softmax_along<1>, extents<5, 19>>,
                on_host<mortise::softmax_along<-2>, extents<2, 5, 3>>, on_host<mortise::log_softmax, extents<21>>, on_host<mortise::log_softmax_along<1>, extents<4, 33>>)

namespace {

namespace mt = mortise;

TEST_CASE("softmax sums to one, ignores a shift, and gives minus infinity no probability") {
  constexpr std::size_t n = 37;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  mt::model<mt::softmax, extents<n>> net{mt::host{1}};
  std::vector<float> x(n), shifted(n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = static_cast<float>((i * 29) % 17) - 8;
    shifted[i] = x[i] + 4096;  // exact
  }
  auto const y = net.forward(x).to_vector();
  double sum = 0;
  for (float const v : y) {
    CHECK(v > 0);
    sum += double{v};
  }
  CHECK(std::abs(sum - 1) <= n * 0x1p-24);
  CHECK(net.forward(shifted).to_vector() == y);
  x[3] = -infinity;
  x[n - 1] = -infinity;
  auto const masked = net.forward(x).to_vector();
  CHECK(masked[3] == 0);
  CHECK(masked[n - 1] == 0);
}

TEST_CASE("log_softmax stays exact where softmax has underflown") {
  mt::model<mt::log_softmax, extents<3>> net{mt::host{1}};
  std::vector<float> const x{0, -200, -1000};
  CHECK(net.forward(x).to_vector() == x);
}

TEST_CASE("the axis is counted as in PyTorch, and the batch is none") {
  CHECK(mt::softmax_along<1>::describe({3, 4}).problem == nullptr);
  CHECK(mt::softmax_along<2>::describe({3, 4}).problem == nullptr);
  CHECK(mt::softmax_along<-2>::describe({3, 4}).problem == nullptr);
  CHECK(mt::softmax_along<3>::describe({3, 4}).problem != nullptr);
  CHECK(mt::softmax_along<-3>::describe({3, 4}).problem != nullptr);
  CHECK(mt::softmax_along<0>::describe({3, 4}).problem != nullptr);
  CHECK(mt::softmax::describe({}).problem != nullptr);
}

}  // namespace
