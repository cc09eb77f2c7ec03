#include "../../contract/module.hpp"

#include <cmath>

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

using mortise::extents;

MODULE_CONTRACT(on_host<mortise::batch_norm2d, extents<3, 5, 5>>, on_host<mortise::batch_norm1d, extents<19>>, on_host<mortise::batch_norm1d, extents<3, 7>>,
                on_host<mortise::layer_norm, extents<37>>, on_host<mortise::layer_norm, extents<3, 2, 16>>, on_host<mortise::layer_norm_over<3, 7>, extents<2, 3, 7>>)

namespace {

namespace mt = mortise;

/// Mean and variance of channel c, in long double by the definition.
struct statistics {
  long double mean = 0, variance = 0, unbiased = 0;
};
statistics statistics_of(std::vector<float> const& x, std::size_t channels, std::size_t positions, std::size_t c) {
  std::size_t const batch = x.size() / channels / positions;
  statistics s;
  for (int pass = 0; pass < 2; ++pass)
    for (std::size_t n = 0; n < batch; ++n)
      for (std::size_t i = 0; i < positions; ++i) {
        long double const v = x[(n * channels + c) * positions + i];
        if (pass == 0) s.mean += v / static_cast<long double>(batch * positions);
        else s.variance += (v - s.mean) * (v - s.mean) / static_cast<long double>(batch * positions);
      }
  s.unbiased = s.variance * static_cast<long double>(batch * positions) / static_cast<long double>(batch * positions - 1);
  return s;
}

constexpr long double eps = 0x1p-24L;  // half an ulp of float, relative

template <class Module, class Input>
void check_statistics(std::size_t batch, float mean, float deviation) {
  constexpr std::size_t channels = Input::template axis<0>, positions = Input::elements / channels;
  mt::model<Module, Input> net{mt::host{1}, mt::seed{1}};
  std::vector<float> x(batch * Input::elements);
  mt::random_stream const random{9, 9, 0};
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = mean + deviation * random.normal(i);
  net.forward(x);
  auto const running_mean = net.buffer_named("running_mean").to_vector(), running_var = net.buffer_named("running_var").to_vector();
  for (std::size_t c = 0; c < channels; ++c) {
    auto const s = statistics_of(x, channels, positions, c);
    INFO("channel ", c, ", batch ", batch, ", mean ", mean, ", deviation ", deviation);
    // A stored float, and sums of chunks in float around a mean of their own: 4 roundings of the mean's place; the variance's sums have
    // lanes of at most 512 positive terms, whose rounding grows at worst linearly and in fact like a random walk.
    CHECK(std::abs(running_mean[c] - 0.1L * s.mean) <= 4 * eps * std::abs(0.1L * s.mean) + 4 * eps * 0.1L * std::sqrt(s.variance));
    CHECK(std::abs(running_var[c] - (0.9L + 0.1L * s.unbiased)) <= 32 * eps * (0.9L + 0.1L * s.unbiased));
  }
  CHECK(net.counter("num_batches_tracked")[0] == 1);
}

TEST_CASE("batch norm's statistics lose no digits far from zero or over large batches") {
  check_statistics<mt::batch_norm1d, extents<5>>(7, 0, 1);
  check_statistics<mt::batch_norm1d, extents<3>>(100000, 0, 1);
  check_statistics<mt::batch_norm1d, extents<17>>(1000, 1000, 0.5f);
  check_statistics<mt::batch_norm2d, extents<2, 9, 9>>(40, 1000, 0.5f);
  check_statistics<mt::batch_norm2d, extents<2, 80, 70>>(3, -300, 2);
  check_statistics<mt::batch_norm2d, extents<1, 3, 3>>(20000, 0, 1);
}

TEST_CASE("batch norm counts its batches, and evaluation changes nothing") {
  mt::model<mt::sequential<mt::batch_norm1d>, extents<4>> net{mt::host{1}, mt::seed{1}};
  std::vector<float> x(12);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i);
  net.forward(x);
  net.forward(x);
  CHECK(net.counter("0.num_batches_tracked")[0] == 2);
  auto const before = net.buffers().to_vector();
  net.eval();
  net.forward(x);
  CHECK(net.counter("0.num_batches_tracked")[0] == 2);
  CHECK(net.buffers().to_vector() == before);
}

TEST_CASE("batch norm's settings work: momentum 1 makes the running statistics those of the last batch, eps bounds the scale") {
  mt::model<mt::sequential<mt::batch_norm1d>, extents<1>> net{mt::host{1}, mt::seed{1}};
  net.module<"0">().momentum = 1;
  net.module<"0">().eps = 3;
  std::vector<float> const x{-1, 1};  // mean 0, variance 1, unbiased 2
  auto const y = net.forward(x).to_vector();
  CHECK(y == std::vector<float>{-0.5f, 0.5f});
  CHECK(net.buffer_named("0.running_mean")[0] == 0);
  CHECK(net.buffer_named("0.running_var")[0] == 2);
}

TEST_CASE("layer norm ignores a shift and a scale of its input, up to rounding") {
  mt::model<mt::layer_norm, extents<300>> net{mt::host{1}, mt::seed{1}};
  net.module<"">().eps = 0;
  std::vector<float> x(300), z(300);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>((i * 37) % 101);
    z[i] = 4 * x[i] + 4096;  // exact
  }
  auto const y = net.forward(x).to_vector();
  auto const w = net.forward(z).to_vector();
  // The mean is rounded in its own place: relative to the deviation (about 120) an error of ulp(4300) / 2.
  float const bound = 4 * 4300 * 0x1p-24f / 120 + 4 * 2 * 0x1p-24f;
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::abs(y[i] - w[i]) <= bound);
}

TEST_CASE("wrong shapes are refused with a remedy") {
  CHECK(std::string_view{mt::batch_norm2d::describe({8}).problem}.find("batch_norm1d") != std::string_view::npos);
  CHECK(std::string_view{mt::batch_norm1d::describe({3, 8, 8}).problem}.find("batch_norm2d") != std::string_view::npos);
  CHECK(mt::layer_norm::describe({}).problem != nullptr);
  CHECK(mt::layer_norm_over<3, 4>::describe({4, 3}).problem != nullptr);
  CHECK(mt::layer_norm_over<3, 4>::describe({4}).problem != nullptr);
  CHECK(mt::layer_norm_over<3, 4>::describe({9, 3, 4}).problem == nullptr);
}

}  // namespace
