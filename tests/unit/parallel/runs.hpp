// What the tests of this folder train: small networks with dropout and batch norm, on numbers that depend on the step alone.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <thread>
#include <vector>

#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/description.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/tensor/philox.hpp>

namespace runs {

namespace mt = mortise;

/// Does nothing, at a pace that differs from call to call.
struct dawdle {
  static constexpr std::string_view name = "dawdle";
  static constexpr mt::module_description describe(mt::shape in) {
    mt::module_description d;
    d.output = in;
    d.reads_input = false;
    return d;
  }
  template <class Args>
  void forward(Args const& a) const {
    sleep();
    a.device.copy(a.y, a.x, a.batch * Args::input::elements * sizeof(typename Args::element));
  }
  template <class Args>
  void backward(Args const& a) const {
    sleep();
    if (a.dx != nullptr) a.device.copy(a.dx, a.dy, a.batch * Args::input::elements * sizeof(typename Args::element));
  }

 private:
  static void sleep() {
    thread_local std::uint32_t state = static_cast<std::uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    state = state * 1664525u + 1013904223u;
    std::this_thread::sleep_for(std::chrono::microseconds(state >> 22));  // up to 1 ms
  }
};

using plain = mt::sequential<mt::linear<7>, mt::relu, mt::linear<5>>;
using dropping = mt::sequential<mt::linear<17>, mt::relu, mt::dropout, mt::linear<5>>;
using normalized = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::linear<5>>;
using both = mt::sequential<mt::linear<17>, mt::batch_norm1d, mt::relu, mt::dropout, mt::linear<9>, mt::batch_norm1d, mt::linear<5>>;
using dawdling = mt::sequential<dawdle, mt::linear<17>, dawdle, mt::batch_norm1d, mt::relu, mt::dropout, dawdle, mt::linear<5>>;
using input = mt::extents<6>;

struct data {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  data(std::size_t n, std::uint32_t step) : x(n * 6), y(n) {
    mt::random_stream const numbers{7, 1, step};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = numbers.uniform(i) - 0.5f;
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<std::int64_t>(numbers.bits(100000 + i) % 5);
  }
  struct batch_type {
    mt::view<float const> x;
    mt::view<std::int64_t const> y;
  };
  batch_type batch() const { return {x, y}; }
};

}  // namespace runs
