#include <mortise/tensor/philox.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace mortise;

namespace {
constexpr random_stream here{.seed = 0x123456789abcdef0u, .stream = stream_id("features.3"), .step = 17};
constexpr double pi = 3.14159265358979323846;
}  // namespace

TEST_CASE("vectors give the same numbers as one element at a time, whatever the start and the length") {
  for (std::uint64_t const first : {0u, 1u, 2u, 3u, 4u, 30u, 4001u})
    for (std::size_t const n : {0u, 1u, 3u, 4u, 5u, 15u, 16u, 31u, 32u, 33u, 64u, 101u}) {
      std::vector<std::uint32_t> got(n + 1, 0xdeadbeefu);
      fill_bits(here, first, n, got.data());
      for (std::size_t i = 0; i < n; ++i) REQUIRE(got[i] == here.bits(first + i));
      REQUIRE(got[n] == 0xdeadbeefu);
    }
}

TEST_CASE("every vector length gives the same numbers") {
  std::vector<std::uint32_t> got(203);
  detail::fill_bits_kernel const kernel{here, 5, got.size(), got.data()};
  auto const agrees = [&] {
    for (std::size_t i = 0; i < got.size(); ++i)
      if (got[i] != here.bits(20 + i)) return false;
    return true;
  };
  detail::run_baseline(kernel);
  CHECK(agrees());
#if defined(__x86_64__)
  if (detail::current_instruction_set() >= detail::instruction_set::avx2) {
    std::fill(got.begin(), got.end(), 0u);
    detail::run_avx2(kernel);
    CHECK(agrees());
  }
  if (detail::current_instruction_set() >= detail::instruction_set::avx512) {
    std::fill(got.begin(), got.end(), 0u);
    detail::run_avx512(kernel);
    CHECK(agrees());
  }
#endif
}

TEST_CASE("a normal pair is Box and Muller's transform of its bits") {
  // Two double functions with errors of a few ulp, then one rounding to float: half an ulp of float and a little.
  for (std::uint64_t i = 0; i < 4000; i += 2) {
    double const radius = std::sqrt(-2 * std::log((here.bits(i) + 1.0) * 0x1p-32));
    double const angle = 2 * pi * here.bits(i + 1) * 0x1p-32;
    CHECK(std::abs(here.normal(i) - radius * std::cos(angle)) <= 0.51 * 0x1p-23 * std::max(0x1p-20, std::abs(radius * std::cos(angle))));
    CHECK(std::abs(here.normal(i + 1) - radius * std::sin(angle)) <= 0.51 * 0x1p-23 * std::max(0x1p-20, std::abs(radius * std::sin(angle))));
  }
}

TEST_CASE("the radius and the angle of a normal pair hold at the ends of their ranges") {
  for (std::uint32_t const bits : {0u, 1u, 2u, 255u, 65535u, 65536u, 0x7fffffffu, 0x80000000u, 0xb504f333u, 0xb504f334u, 0xfffffffeu, 0xffffffffu}) {
    double const exact = std::sqrt(-2 * std::log1p((static_cast<double>(bits) + 1 - 0x1p32) * 0x1p-32));
    CHECK(std::abs(detail::box_muller_radius(bits) - exact) <= 0x1p-48 * std::max(1.0, exact));
  }
  for (std::uint32_t const bits : {0u, 1u, 0x1fffffffu, 0x20000000u, 0x3fffffffu, 0x40000000u, 0x60000000u, 0x80000000u, 0xa0000000u, 0xc0000000u, 0xdfffffffu,
                                   0xe0000000u, 0xffffffffu}) {
    double c = 0, s = 0;
    detail::box_muller_angle(bits, c, s);
    CHECK(std::abs(c - std::cos(2 * pi * bits * 0x1p-32)) <= 0x1p-49);
    CHECK(std::abs(s - std::sin(2 * pi * bits * 0x1p-32)) <= 0x1p-49);
  }
}

TEST_CASE("uniform and normal numbers have the moments of their distribution") {
  constexpr std::size_t n = 1 << 16;
  double sum = 0, squares = 0, uniform_sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double const x = here.normal(i);
    sum += x;
    squares += x * x;
    float const u = here.uniform(i);
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    uniform_sum += u;
  }
  // Five standard deviations of each mean: 1/sqrt(n), sqrt(2/n), sqrt(1/12n).
  double const root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(sum / n) < 5 / root);
  CHECK(std::abs(squares / n - 1) < 5 * std::sqrt(2.0) / root);
  CHECK(std::abs(uniform_sum / n - 0.5) < 5 / std::sqrt(12.0) / root);
}

TEST_CASE("a permutation holds every index once and is a function of seed, stream, epoch and length") {
  for (std::size_t const n : {0u, 1u, 2u, 3u, 10u, 257u, 1437u}) {
    auto order = random_permutation(7, stream_id("sampler"), 3, n);
    CHECK(order == random_permutation(7, stream_id("sampler"), 3, n));
    if (n > 10) {
      CHECK(order != random_permutation(7, stream_id("sampler"), 4, n));
      CHECK(order != random_permutation(8, stream_id("sampler"), 3, n));
      CHECK(order != random_permutation(7, stream_id("other"), 3, n));
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < n; ++i) REQUIRE(order[i] == i);
  }
}

TEST_CASE("a permutation follows its documented algorithm, evaluated plainly") {
  std::size_t const n = 1000;
  random_stream const from{42, stream_id("sampler"), 5};
  std::vector<std::size_t> expected(n);
  for (std::size_t i = 0; i < n; ++i) expected[i] = i;
  std::uint64_t used = 0;
  for (std::uint64_t left = n; left > 1; --left) {
    for (;;) {
      // The word w stands for floor(w * left / 2^32); words below 2^32 mod left in the fraction are one too many.
      std::uint64_t const product = from.bits(used++) * left;
      if (product % (1ull << 32) < (1ull << 32) % left) continue;
      std::swap(expected[left - 1], expected[product >> 32]);
      break;
    }
  }
  CHECK(random_permutation(42, stream_id("sampler"), 5, n) == expected);
}

TEST_CASE("each order of four elements comes equally often") {
  int count[256] = {};
  int const runs = 24 * 400;
  for (int run = 0; run < runs; ++run) {
    auto const order = random_permutation(1, 2, static_cast<std::uint32_t>(run), 4);
    ++count[order[0] * 64 + order[1] * 16 + order[2] * 4 + order[3]];
  }
  double chi_squared = 0;
  int seen = 0;
  for (int const c : count) {
    if (c == 0) continue;
    ++seen;
    chi_squared += (c - 400.0) * (c - 400.0) / 400.0;
  }
  CHECK(seen == 24);
  CHECK(chi_squared < 49.7);  // 23 degrees of freedom, p = 0.001
}
