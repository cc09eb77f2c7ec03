// What every worker of the step benchmark shares: the line protocol, the clock, and numbers that all of them can generate.
//
//   list                            -> one line "CASE VARIANT" each, then "."
//   check CASE VARIANT STEPS        -> the loss of each of STEPS steps from the common weights; for inference, the outputs
//   run CASE VARIANT STEPS          -> nanoseconds a step, after a warm-up of a tenth of the steps
//   machine                         -> "key value" lines, then "."   (our own worker only)
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Element `i` of array `seed`, uniform in [-1, 1) and a multiple of 2^-23: the same float in every worker (peers/torch_steps.py).
inline float number(std::uint64_t seed, std::uint64_t i) {
  constexpr std::uint64_t low = 0xffffffffu;
  std::uint64_t h = (i * 2654435761u + seed * 40503u + 12345u) & low;
  h = ((h ^ (h >> 16)) * 0x45d9f3bu) & low;
  h = ((h ^ (h >> 16)) * 0x45d9f3bu) & low;
  h ^= h >> 16;
  return static_cast<float>(h >> 8) * 0x1p-23f - 1.0f;
}
inline std::uint64_t integer(std::uint64_t seed, std::uint64_t i, std::uint64_t below) {
  return static_cast<std::uint64_t>((static_cast<double>(number(seed, i)) + 1.0) * 0.5 * static_cast<double>(below));
}

constexpr std::uint64_t input_seed = 1000, target_seed = 1001;  // parameters use 0, 1, ... in PyTorch's order

inline std::vector<float> inputs(std::size_t n) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = number(input_seed, i);
  return v;
}
inline std::vector<std::int64_t> indices(std::uint64_t seed, std::size_t n, std::uint64_t below) {
  std::vector<std::int64_t> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<std::int64_t>(integer(seed, i, below));
  return v;
}
inline std::vector<std::int64_t> targets(std::size_t batch) { return indices(target_seed, batch, 10); }
/// Parameter tensor `index`: U(-b, b) with b = 1 / sqrt(fan_in), PyTorch's default distribution.
inline void fill_parameter(float* p, std::size_t n, std::uint64_t index, std::size_t fan_in) {
  float const bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(fan_in)));
  for (std::size_t i = 0; i < n; ++i) p[i] = number(index, i) * bound;
}

/// One thing to time. It exists while it is being run, so that its memory is warm; a worker keeps those it has made.
struct workload {
  virtual ~workload() = default;
  virtual void step() = 0;
  virtual std::vector<double> values() = 0;  // the last step's loss, or the outputs
};

struct entry {
  std::string name, variant;
  std::function<std::unique_ptr<workload>()> make;
};

inline int serve(std::vector<entry> const& entries, std::function<void()> const& machine = {}) {
  std::ios::sync_with_stdio(false);
  std::map<std::string, std::unique_ptr<workload>> kept;
  auto find = [&](std::string const& name, std::string const& variant) -> entry const* {
    for (auto const& e : entries)
      if (e.name == name && e.variant == variant) return &e;
    return nullptr;
  };
  std::cout.precision(9);
  for (std::string command; std::cin >> command;) {
    if (command == "list") {
      for (auto const& e : entries) std::cout << e.name << ' ' << e.variant << '\n';
      std::cout << "." << std::endl;
    } else if (command == "machine") {
      if (machine) machine();
      std::cout << "." << std::endl;
    } else {
      std::string name, variant;
      long steps = 0;
      std::cin >> name >> variant >> steps;
      entry const* const e = find(name, variant);
      if (e == nullptr) {
        std::cout << "unknown" << std::endl;
        continue;
      }
      if (command == "check") {
        auto const fresh = e->make();
        for (long i = 0; i < steps; ++i) {
          fresh->step();
          for (double const v : fresh->values()) std::cout << v << ' ';
        }
        std::cout << std::endl;
      } else {
        auto& w = kept[name + ' ' + variant];
        if (!w) w = e->make();
        for (long i = 0; i < steps / 10 + 1; ++i) w->step();
        auto const start = std::chrono::steady_clock::now();
        for (long i = 0; i < steps; ++i) w->step();
        std::chrono::duration<double, std::nano> const spent = std::chrono::steady_clock::now() - start;
        std::cout << spent.count() / static_cast<double>(steps) << std::endl;
      }
    }
  }
  return 0;
}

}  // namespace bench
