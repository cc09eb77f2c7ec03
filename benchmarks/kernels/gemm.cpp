// The three products of a linear layer against OpenBLAS and oneDNN, interleaved in one run.
//
//   gemm [THREADS] [ROUNDS]        environment: unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, or OpenBLAS runs at half its speed
//
// Each line: 2 m n k operations over the median time of a call, in GFLOP/s, and as a share of the peak that was measured first. A round
// times every contender in turn on the same operands, many calls on end, so small shapes are warm in cache.
// Built with -DMORTISE_BENCHMARK_BLAS it links OpenBLAS and oneDNN; without, it times only ours.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <mortise/operation/gemm.hpp>

#if defined(MORTISE_BENCHMARK_BLAS)
#include <cblas.h>
#include <oneapi/dnnl/dnnl.h>
extern "C" void omp_set_num_threads(int);
#endif

namespace mt = mortise;
using seconds = std::chrono::duration<double>;
using steady = std::chrono::steady_clock;

namespace {

/// Independent multiply-adds on registers: what one core can do at best.
struct peak_kernel {
  static constexpr std::size_t steps = 200000;
  float* sink;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / 4;
    using vec = mt::detail::simd<float, W>;
    constexpr int chains = Bytes == 64 ? 24 : 12;
    vec sum[chains];
    vec const a{sink[0]}, b{sink[1]};
    for (std::size_t i = 0; i < steps * 16 / W * 24 / chains; ++i) {
      MORTISE_UNROLL(24)
      for (int c = 0; c < chains; ++c) sum[c] = fma(sum[c], a, b);
    }
    MORTISE_UNROLL(24)
    for (int c = 1; c < chains; ++c) sum[0] += sum[c];
    sum[0].store(sink + 2);
  }
  static double operations() { return 2.0 * steps * 16 * 24; }
};

double measured_peak() {
  float sink[32] = {0.5f, 0.25f};
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    auto const t = steady::now();
    mt::detail::for_this_cpu(peak_kernel{sink});
    best = std::min(best, seconds(steady::now() - t).count());
  }
  return peak_kernel::operations() / best * 1e-9;
}

double median(std::vector<double>& v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

enum class kind { forward, input, weight };
constexpr char const* names[] = {"y = x w^T", "dx = dy w", "dw = dy^T x"};
enum class contender { ours, openblas, onednn };

struct problem {
  std::size_t m, n, k;
  std::vector<float> x, w, y;
  problem(std::size_t m_, std::size_t n_, std::size_t k_) : m(m_), n(n_), k(k_), x(m * k, 0.5f), w(n * k, 0.25f), y(m * n, 0.125f) {}

  void run(contender who, kind what, int threads) {
    mt::host const device{threads};
    auto const M = m, N = n, K = k;
    if (who == contender::ours) {
      switch (what) {
        case kind::forward: return mt::linear_forward(device, M, N, K, x.data(), w.data(), static_cast<float const*>(nullptr), y.data());
        case kind::input: return mt::linear_backward_input(device, M, N, K, y.data(), w.data(), x.data());
        case kind::weight: return mt::linear_backward_weight(device, M, N, K, y.data(), x.data(), w.data(), static_cast<float*>(nullptr));
      }
    }
#if defined(MORTISE_BENCHMARK_BLAS)
    if (who == contender::openblas) {
      int const im = static_cast<int>(m), in = static_cast<int>(n), ik = static_cast<int>(k);
      switch (what) {
        case kind::forward:
          return cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, im, in, ik, 1, x.data(), ik, w.data(), ik, 0, y.data(), in);
        case kind::input:
          return cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, im, ik, in, 1, y.data(), in, w.data(), ik, 0, x.data(), ik);
        case kind::weight:
          return cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, in, ik, im, 1, y.data(), in, x.data(), ik, 0, w.data(), ik);
      }
    }
    auto const dm = static_cast<dnnl_dim_t>(m), dn = static_cast<dnnl_dim_t>(n), dk = static_cast<dnnl_dim_t>(k);
    switch (what) {
      case kind::forward: dnnl_sgemm('N', 'T', dm, dn, dk, 1, x.data(), dk, w.data(), dk, 0, y.data(), dn); break;
      case kind::input: dnnl_sgemm('N', 'N', dm, dk, dn, 1, y.data(), dn, w.data(), dk, 0, x.data(), dk); break;
      case kind::weight: dnnl_sgemm('T', 'N', dn, dk, dm, 1, y.data(), dn, x.data(), dk, 0, w.data(), dk); break;
    }
#endif
  }
};

}  // namespace

int main(int argc, char** argv) {
  int const threads = argc > 1 ? std::atoi(argv[1]) : 1;
  int const rounds = argc > 2 ? std::atoi(argv[2]) : 15;
#if defined(MORTISE_BENCHMARK_BLAS)
  openblas_set_num_threads(threads);
  omp_set_num_threads(threads);
  constexpr int contenders = 3;
#else
  constexpr int contenders = 1;
#endif
  double const peak = measured_peak() * threads;
  std::printf("peak of %d thread(s): %.0f GFLOP/s\n%-12s %5s %5s %5s %10s %16s %16s %16s\n", threads, peak, "product", "m", "n", "k", "us",
              "ours", "openblas", "onednn");
  constexpr std::size_t shapes[][3] = {{64, 512, 784}, {64, 512, 512}, {64, 10, 512}, {1024, 512, 784}, {1024, 512, 512}, {1024, 10, 512},
                                       {16, 32, 64}, {16, 10, 32}, {1, 512, 784}, {1, 512, 512}, {1, 10, 512}, {768, 128, 128},
                                       {768, 384, 128}, {768, 512, 128}, {768, 128, 512}, {32, 512, 128}, {1024, 64, 576}, {256, 128, 1152},
                                       {64, 256, 2304}, {16, 512, 4608}};
  for (auto const& s : shapes)
    for (int what = 0; what < 3; ++what) {
      problem p{s[0], s[1], s[2]};
      double const operations = 2.0 * static_cast<double>(s[0] * s[1] * s[2]);
      int const calls = std::max(1, static_cast<int>(7e8 * threads / (operations + 1e4)));
      std::vector<double> times[3];
      for (int round = -1; round < rounds; ++round)
        for (int who = 0; who < contenders; ++who) {
          // OpenBLAS's idle threads yield for about 30 ms before they sleep, and would take the core of the next contender.
          if (threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds{50});
          for (auto const start = steady::now(); seconds(steady::now() - start).count() < 0.002;)
            p.run(static_cast<contender>(who), static_cast<kind>(what), threads);
          auto const t = steady::now();
          for (int c = 0; c < calls; ++c) p.run(static_cast<contender>(who), static_cast<kind>(what), threads);
          if (round >= 0) times[who].push_back(seconds(steady::now() - t).count() / calls);
        }
      double const us = median(times[0]) * 1e6;
      std::printf("%-12s %5zu %5zu %5zu %10.2f", names[what], s[0], s[1], s[2], us);
      for (int who = 0; who < contenders; ++who) {
        double const rate = operations / median(times[who]) * 1e-9;
        std::printf("   %6.1f (%3.0f %%)", rate, 100 * rate / peak);
      }
      std::printf("\n");
    }
}
