// A hundred steps here against the same hundred in PyTorch (tests/interop/optimizer/generate.py).
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <mortise/optimizer/optimizer.hpp>

#include "../fixture.hpp"
#include "fake_model.hpp"

namespace pytorch {

inline auto const& cases() {
  static auto const all = fixture::read(MORTISE_TEST_DATA "/fixtures/optimizer/steps.txt");
  return all;
}

template <class T>
void compare(std::string const& what, T const* got, std::vector<double> const& want, double steps) {
  // Each step rounds a handful of times; the updates of 100 steps are of the parameters' size, the moments' sums shorter.
  double const bound = (8 + 4 * steps) * static_cast<double>(std::numeric_limits<T>::epsilon());
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    double const error = std::fabs(static_cast<double>(got[i]) - want[i]) / (1 + std::fabs(want[i]));
    if (!(error <= worst)) worst = error;
  }
  INFO(what, ": worst relative error ", worst);
  CHECK(worst <= bound);
}

template <class T, class Rule, class... Groups>
void check_in(fixture::record const& r, Rule const& rule, Groups const&... groups) {
  auto const seed = static_cast<std::int64_t>(r["seed"][0]);
  fake_model<T> net;
  for (std::int64_t i = 0; i < 37; ++i) net.values[static_cast<std::size_t>(i)] = static_cast<T>((i * 13 + seed) % 29 - 14) / 16;
  mt::optimizer opt{net, rule, groups...};
  for (std::int64_t step = 1; step <= 100; ++step) {
    for (std::int64_t i = 0; i < 37; ++i)
      net.slopes[static_cast<std::size_t>(i)] = static_cast<T>((step * 31 + i * 17 + step * i * seed) % 23 - 11) / 8;
    opt.step();
    if (step == 1 || step == 2 || step == 10 || step == 100) {
      std::string const name = "after" + std::to_string(step);
      compare(name, net.values.data(), r[name], static_cast<double>(step));
    }
  }
  for (auto const& [name, values] : r.values) {
    if (name.rfind("after", 0) == 0 || name == "seed") continue;
    compare(name, opt.state(name).data(), values, 100);
  }
  for (std::size_t i = 37; i < 41; ++i) CHECK(net.values[i] == T(0));  // frozen by its type
}

template <class Rule, class... Groups>
void check(char const* name, Rule const& rule, Groups const&... groups) {
  CAPTURE(name);
  auto const at = cases().find(name);
  REQUIRE(at != cases().end());
  check_in<double>(at->second, rule, groups...);
  check_in<float>(at->second, rule, groups...);
}

}  // namespace pytorch
