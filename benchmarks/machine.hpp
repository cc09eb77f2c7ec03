// What this machine can do at best, measured: multiply-adds in registers, and triads in each level of memory.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <thread>
#include <vector>

#include <mortise/detail/simd.hpp>

namespace bench {

/// Independent chains of multiply-adds on registers.
struct multiply_add_kernel {
  static constexpr std::size_t rounds = 400000;
  float* values;
  double* operations;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using vec = mortise::detail::simd<float, Bytes / 4>;
    constexpr int chains = Bytes == 64 ? 24 : 12;  // two units of latency four want eight; the register file allows these
    vec sum[chains];
    vec const a{values[0]}, b{values[1]};
    for (std::size_t i = 0; i < rounds; ++i) {
      MORTISE_UNROLL(24)
      for (int c = 0; c < chains; ++c) sum[c] = fma(sum[c], a, b);
    }
    MORTISE_UNROLL(24)
    for (int c = 1; c < chains; ++c) sum[0] += sum[c];
    sum[0].store(values + 2);
    *operations = 2.0 * chains * vec::width * static_cast<double>(rounds);
  }
};

/// a = b + s * c.
struct triad_kernel {
  float* a;
  float const* b;
  float const* c;
  std::size_t n;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    using vec = mortise::detail::simd<float, Bytes / 4>;
    vec const s{0.5f};
    for (std::size_t i = 0; i + 4 * vec::width <= n; i += 4 * vec::width) {
      MORTISE_UNROLL(4)
      for (int k = 0; k < 4; ++k) {
        std::size_t const at = i + static_cast<std::size_t>(k) * vec::width;
        fma(vec::load(c + at), s, vec::load(b + at)).store(a + at);
      }
    }
  }
};

/// Runs f(thread) on `threads` threads and returns the seconds from a common start to the last end; the best of `repeats`.
template <class F>
double best_seconds(int threads, int repeats, F const& f) {
  double best = 1e9;
  for (int r = 0; r < repeats; ++r) {
    std::vector<double> spent(static_cast<std::size_t>(threads));
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] {
        auto const start = std::chrono::steady_clock::now();
        f(t);
        spent[static_cast<std::size_t>(t)] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      });
    for (auto& t : team) t.join();
    best = std::min(best, *std::max_element(spent.begin(), spent.end()));
  }
  return best;
}

inline double peak_gflops(int threads) {
  std::vector<std::vector<float>> values(static_cast<std::size_t>(threads), std::vector<float>(64, 0.5f));
  std::vector<double> operations(static_cast<std::size_t>(threads));
  double const seconds = best_seconds(threads, 8, [&](int t) {
    auto const at = static_cast<std::size_t>(t);
    mortise::detail::for_this_cpu(multiply_add_kernel{values[at].data(), &operations[at]});
  });
  return operations[0] * threads / seconds * 1e-9;
}

/// GB/s of triads over `bytes` a thread in all three arrays together: 12 bytes an element, the read for ownership not counted.
inline double triad_gbps(int threads, std::size_t bytes) {
  std::size_t const n = bytes / 12 / 64 * 64;
  std::vector<std::vector<float>> arrays(static_cast<std::size_t>(threads), std::vector<float>(3 * n, 1.0f));
  std::size_t const passes = std::max<std::size_t>(1, (std::size_t{64} << 20) / bytes);
  double const seconds = best_seconds(threads, 6, [&](int t) {
    float* const a = arrays[static_cast<std::size_t>(t)].data();
    for (std::size_t p = 0; p < passes; ++p) {
      mortise::detail::for_this_cpu(triad_kernel{a, a + n, a + 2 * n, n});
      __asm__ volatile("" : : "r"(a) : "memory");
    }
  });
  return 12.0 * static_cast<double>(n) * static_cast<double>(passes) * threads / seconds * 1e-9;
}

inline void print_machine(int threads) {
  constexpr char const* names[] = {"baseline", "avx2", "avx512"};
  std::cout << "isa " << names[static_cast<int>(mortise::detail::current_instruction_set())] << '\n'
            << "compiler " << __VERSION__ << '\n'
            << "peak_gflops " << peak_gflops(threads) << '\n'
            << "triad_24k_gbps " << triad_gbps(threads, 24 << 10) << '\n'
            << "triad_512k_gbps " << triad_gbps(threads, 512 << 10) << '\n'
            << "triad_8m_gbps " << triad_gbps(threads, 8 << 20) << '\n'
            << "triad_192m_gbps " << triad_gbps(threads, 192 << 20) << '\n';
}

}  // namespace bench
