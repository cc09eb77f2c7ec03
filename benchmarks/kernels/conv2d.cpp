// The three directions of a convolution, and pooling, against oneDNN, interleaved in one run.
//
//   conv2d [THREADS] [ROUNDS] [PATTERN]        layers whose name contains PATTERN
//
// Each line: multiply-adds that fall on real inputs and on padding alike, 2 batch out_c out_h out_w taps operations, over the median time of
// a call, in GFLOP/s, and the median in microseconds. oneDNN chooses its own layouts (format any) and algorithm (convolution_auto, so
// Winograd where it likes); its reorders from and to NCHW are not counted, ours are part of the call.
// Built with -DMORTISE_BENCHMARK_DNNL it links oneDNN; without, it times only ours.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <mortise/operation/conv2d.hpp>
#include <mortise/operation/pool2d.hpp>

#if defined(MORTISE_BENCHMARK_DNNL)
#include <oneapi/dnnl/dnnl.hpp>
extern "C" void omp_set_num_threads(int);
#endif

namespace mt = mortise;
using steady = std::chrono::steady_clock;

namespace {

int threads = 1, rounds = 15;
char const* pattern = "";

struct buffer {
  float* data;
  explicit buffer(std::size_t n) : data{static_cast<float*>(mt::host{}.allocate(n * sizeof(float)))} {
    for (std::size_t i = 0; i < n; ++i) data[i] = static_cast<float>(static_cast<int>(i * 7919 % 2001) - 1000) * 1e-3f;
  }
  ~buffer() { mt::host{}.deallocate(data, 0); }
  buffer(buffer const&) = delete;
  buffer& operator=(buffer const&) = delete;
};

struct contender {
  std::vector<double> seconds;
  double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds.empty() ? 0 : seconds[seconds.size() / 2];
  }
  /// Adds the time of one call, from as many as take about 2 ms.
  template <class F>
  void time(F const& call) {
    auto t = steady::now();
    call();
    double const once = std::chrono::duration<double>(steady::now() - t).count();
    int const calls = std::max(1, static_cast<int>(2e-3 / once));
    t = steady::now();
    for (int i = 0; i < calls; ++i) call();
    seconds.push_back(std::chrono::duration<double>(steady::now() - t).count() / calls);
  }
};

#if defined(MORTISE_BENCHMARK_DNNL)
/// The three primitives of one layer, on memory in oneDNN's own layouts.
template <class G>
struct dnnl_layer {
  using md = dnnl::memory::desc;
  using tag = dnnl::memory::format_tag;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::primitive primitive[3];
  std::unordered_map<int, dnnl::memory> arguments[3];

  static md any(dnnl::memory::dims const& d) { return {d, dnnl::memory::data_type::f32, tag::any}; }
  dnnl::memory make(md const& d) {
    dnnl::memory m{d, engine};
    std::memset(m.get_data_handle(), 0, d.get_size());
    return m;
  }
  explicit dnnl_layer(std::size_t batch_size) {
    auto const n = [](std::size_t v) { return static_cast<dnnl::memory::dim>(v); };
    dnnl::memory::dims const x{n(batch_size), n(G::in_c), n(G::in_h), n(G::in_w)}, w{n(G::out_c), n(G::in_c), n(G::kernel_h), n(G::kernel_w)}, b{n(G::out_c)},
        y{n(batch_size), n(G::out_c), n(G::out_h), n(G::out_w)}, stride{n(G::stride_h), n(G::stride_w)}, pad{n(G::pad_h), n(G::pad_w)};
    auto const a = dnnl::algorithm::convolution_auto;
    dnnl::convolution_forward::primitive_desc fwd{{dnnl::prop_kind::forward_training, a, any(x), any(w), any(b), any(y), stride, pad, pad}, engine};
    dnnl::convolution_backward_data::primitive_desc data{{a, any(x), any(w), any(y), stride, pad, pad}, engine, fwd};
    dnnl::convolution_backward_weights::primitive_desc weights{{a, any(x), any(w), any(b), any(y), stride, pad, pad}, engine, fwd};
    primitive[0] = dnnl::convolution_forward{fwd};
    arguments[0] = {{DNNL_ARG_SRC, make(fwd.src_desc())}, {DNNL_ARG_WEIGHTS, make(fwd.weights_desc())}, {DNNL_ARG_BIAS, make(fwd.bias_desc())}, {DNNL_ARG_DST, make(fwd.dst_desc())}};
    primitive[1] = dnnl::convolution_backward_data{data};
    arguments[1] = {{DNNL_ARG_DIFF_DST, make(data.diff_dst_desc())}, {DNNL_ARG_WEIGHTS, make(data.weights_desc())}, {DNNL_ARG_DIFF_SRC, make(data.diff_src_desc())}};
    primitive[2] = dnnl::convolution_backward_weights{weights};
    arguments[2] = {{DNNL_ARG_SRC, make(weights.src_desc())}, {DNNL_ARG_DIFF_DST, make(weights.diff_dst_desc())}, {DNNL_ARG_DIFF_WEIGHTS, make(weights.diff_weights_desc())}, {DNNL_ARG_DIFF_BIAS, make(weights.diff_bias_desc())}};
  }
  void run(int direction) {
    primitive[direction].execute(stream, arguments[direction]);
    stream.wait();
  }
};
#endif

double sum_ours = 0, sum_theirs = 0;

/// `times`: how often the layer occurs in its network, for the total at the end.
template <class G>
void layer(char const* name, std::size_t batch, int times = 1, bool input_gradient = true) {
  if (std::strstr(name, pattern) == nullptr) return;
  buffer x{batch * G::in_elements}, w{G::weight_elements}, b{G::out_c}, y{batch * G::out_elements}, dy{batch * G::out_elements}, dx{batch * G::in_elements},
      dw{G::weight_elements}, db{G::out_c}, workspace{mt::conv2d_workspace<G>().elements(batch)};
  mt::host const device{threads};
  contender ours[3], theirs[3];
#if defined(MORTISE_BENCHMARK_DNNL)
  dnnl_layer<G> peer{batch};
#endif
  for (int round = 0; round < rounds; ++round) {
    ours[0].time([&] { mt::conv2d_forward(device, G{}, batch, x.data, w.data, b.data, y.data, workspace.data); });
    if (input_gradient) ours[1].time([&] { mt::conv2d_backward_input(device, G{}, batch, dy.data, w.data, dx.data, workspace.data); });
    ours[2].time([&] { mt::conv2d_backward_weight(device, G{}, batch, x.data, dy.data, dw.data, db.data, workspace.data); });
#if defined(MORTISE_BENCHMARK_DNNL)
    for (int d = 0; d < 3; ++d)
      if (d != 1 || input_gradient) theirs[d].time([&] { peer.run(d); });
#endif
  }
  char const* const direction[3] = {"forward", "input gradient", "weight gradient"};
  for (int d = 0; d < 3; ++d) {
    if (d == 1 && !input_gradient) continue;
    double const flops = G::flops * static_cast<double>(batch), t = ours[d].median(), u = theirs[d].median();
    std::printf("%-28s %-16s ours %7.1f GFLOP/s %9.1f us", name, direction[d], flops / t * 1e-9, t * 1e6);
    if (u > 0) std::printf("   oneDNN %7.1f GFLOP/s %9.1f us   ratio %.2f", flops / u * 1e-9, u * 1e6, u / t);
    std::printf("\n");
    sum_ours += t * times, sum_theirs += u * times;
  }
}

template <class G>
void pool(char const* name, std::size_t batch) {
  if (std::strstr(name, pattern) == nullptr) return;
  buffer x{batch * G::in_elements}, y{batch * G::out_elements}, dx{batch * G::in_elements};
  std::vector<std::uint8_t> index(batch * G::out_elements);
  mt::host const device{threads};
  contender time[4];
  for (int round = 0; round < rounds; ++round) {
    time[0].time([&] { mt::max_pool2d_forward(device, G{}, batch, x.data, y.data, index.data()); });
    time[1].time([&] { mt::max_pool2d_backward(device, G{}, batch, y.data, index.data(), dx.data); });
    time[2].time([&] { mt::relu_max_pool2d_forward(device, G{}, batch, x.data, y.data, index.data()); });
    time[3].time([&] { mt::max_pool2d_forward(device, G{}, batch, x.data, y.data, static_cast<std::uint8_t*>(nullptr)); });
  }
  char const* const what[4] = {"forward", "backward", "relu + forward", "without index"};
  for (int i = 0; i < 4; ++i)
    std::printf("%-28s %-16s ours %7.1f GB/s    %9.1f us\n", name, what[i],
                static_cast<double>(batch * (G::in_elements + G::out_elements) * 4) / time[i].median() * 1e-9, time[i].median() * 1e6);
}

void total(char const* name) {
  std::printf("%-28s ours %.3f ms, oneDNN %.3f ms\n\n", name, sum_ours * 1e3, sum_theirs * 1e3);
  sum_ours = sum_theirs = 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) threads = std::atoi(argv[1]);
  if (argc > 2) rounds = std::atoi(argv[2]);
  if (argc > 3) pattern = argv[3];
#if defined(MORTISE_BENCHMARK_DNNL)
  omp_set_num_threads(threads);
#endif
#if !defined(MORTISE_BENCHMARK_ONLY) || MORTISE_BENCHMARK_ONLY == 1
  layer<mt::conv2d_geometry<1, 28, 28, 6, 5, 5>>("lenet 1-6 k5", 64, 1, false);
  layer<mt::conv2d_geometry<6, 12, 12, 16, 5, 5>>("lenet 6-16 k5", 64);
  pool<mt::pool2d_geometry<6, 24, 24, 2, 2>>("lenet pool 6x24x24", 64);
  pool<mt::pool2d_geometry<16, 8, 8, 2, 2>>("lenet pool 16x8x8", 64);
  total("lenet, convolutions");
  layer<mt::conv2d_geometry<1, 28, 28, 6, 5, 5, 1, 1, 2, 2>>("lenet-pad 1-6 k5", 64, 1, false);
  layer<mt::conv2d_geometry<6, 14, 14, 16, 5, 5>>("lenet-pad 6-16 k5", 64);
  total("lenet with padding 2");
  layer<mt::conv2d_geometry<1, 28, 28, 6, 5, 5>>("lenet-one 1-6 k5", 1, 1, false);
  layer<mt::conv2d_geometry<6, 12, 12, 16, 5, 5>>("lenet-one 6-16 k5", 1);
  total("lenet, batch 1");
  layer<mt::conv2d_geometry<1, 8, 8, 16, 3, 3, 1, 1, 1, 1>>("digits 1-16 k3", 32, 1, false);
  layer<mt::conv2d_geometry<16, 8, 8, 32, 3, 3, 1, 1, 1, 1>>("digits 16-32 k3", 32);
  total("digits");
#endif
#if !defined(MORTISE_BENCHMARK_ONLY) || MORTISE_BENCHMARK_ONLY == 2
  layer<mt::conv2d_geometry<3, 32, 32, 64, 3, 3, 1, 1, 1, 1>>("resnet 3-64 32x32", 32, 1, false);
  layer<mt::conv2d_geometry<64, 32, 32, 64, 3, 3, 1, 1, 1, 1>>("resnet 64-64 32x32", 32, 4);
  layer<mt::conv2d_geometry<64, 32, 32, 128, 3, 3, 2, 2, 1, 1>>("resnet 64-128 /2", 32);
  layer<mt::conv2d_geometry<64, 32, 32, 128, 1, 1, 2, 2>>("resnet 64-128 1x1 /2", 32);
  layer<mt::conv2d_geometry<128, 16, 16, 128, 3, 3, 1, 1, 1, 1>>("resnet 128-128 16x16", 32, 3);
  layer<mt::conv2d_geometry<128, 16, 16, 256, 3, 3, 2, 2, 1, 1>>("resnet 128-256 /2", 32);
  layer<mt::conv2d_geometry<128, 16, 16, 256, 1, 1, 2, 2>>("resnet 128-256 1x1 /2", 32);
  layer<mt::conv2d_geometry<256, 8, 8, 256, 3, 3, 1, 1, 1, 1>>("resnet 256-256 8x8", 32, 3);
  layer<mt::conv2d_geometry<256, 8, 8, 512, 3, 3, 2, 2, 1, 1>>("resnet 256-512 /2", 32);
  layer<mt::conv2d_geometry<256, 8, 8, 512, 1, 1, 2, 2>>("resnet 256-512 1x1 /2", 32);
  layer<mt::conv2d_geometry<512, 4, 4, 512, 3, 3, 1, 1, 1, 1>>("resnet 512-512 4x4", 32, 3);
  total("resnet-18, all convolutions");
#endif
}
