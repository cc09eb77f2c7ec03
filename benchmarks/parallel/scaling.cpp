// One device against several on one machine, in turns: milliseconds a training step, median over the rounds.
//
//   scaling ROUNDS            MLP 784-512-512-10, batch 1024, SGD; with -DMORTISE_BENCHMARK_RESNET also ResNet-18 on 32x32, batch 32
//   mpirun -n 2 scaling ROUNDS mpi                  (built with MPI) the same by processes, and the all-reduce alone
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <mortise/mortise.hpp>
#ifdef MORTISE_BENCHMARK_MPI
#include <mortise/parallel/mpi.hpp>
#endif

#include "../resnet18.hpp"

namespace mt = mortise;

namespace {

using mlp = mt::sequential<mt::linear<512>, mt::relu, mt::linear<512>, mt::relu, mt::linear<10>>;

using clock_type = std::chrono::steady_clock;

double milliseconds(clock_type::time_point from) { return std::chrono::duration<double, std::milli>(clock_type::now() - from).count(); }

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct contender {
  std::string name;
  std::function<void()> step;
  std::vector<double> times{};
};

template <class Net, class Input>
struct setting {
  using model = mt::model<Net, Input>;
  std::vector<float> x;
  std::vector<std::int64_t> y;
  mt::cross_entropy_loss loss;
  struct {
    mt::view<float const> x;
    mt::view<std::int64_t const> y;
  } batch;

  explicit setting(std::size_t n) : x(n * Input::value.elements()), y(n) {
    mt::random_stream const numbers{1, 2, 3};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 2 * numbers.uniform(i) - 1;
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<std::int64_t>(numbers.bits(i) % 10);
    batch.x = x;
    batch.y = y;
  }
  auto alone(int threads) {
    auto net = std::make_shared<model>(mt::host{threads}, mt::seed{1});
    auto opt = std::make_shared<mt::optimizer<model, mt::sgd>>(*net, mt::sgd{.lr = 0.01f});
    return [this, net, opt] { mt::train_step(*net, loss, *opt, batch); };
  }
  template <class Spec>
  auto together(Spec&& spec, mt::buckets const& overlap = {}) {
    auto net = std::make_shared<model>(mt::host{1}, mt::seed{1});
    auto opt = std::make_shared<mt::optimizer<model, mt::sgd>>(*net, mt::sgd{.lr = 0.01f});
    auto many = std::make_shared<mt::data_parallel<model, std::remove_cvref_t<Spec>>>(*net, spec, overlap);
    return [this, net, opt, many] { mt::train_step(*many, loss, *opt, batch); };
  }
  /// The bound: two models that have nothing to do with each other, each with half the batch, at the same time.
  auto apart() {
    struct half {
      model net{mt::host{1}, mt::seed{1}};
      mt::optimizer<model, mt::sgd> opt{net, mt::sgd{.lr = 0.01f}};
      decltype(setting::batch) part{};
    };
    auto halves = std::make_shared<std::vector<std::unique_ptr<half>>>();
    std::size_t const n = y.size() / 2, width = Input::value.elements();
    for (std::size_t i = 0; i < 2; ++i) {
      halves->push_back(std::make_unique<half>());
      halves->back()->part.x = {x.data() + i * n * width, Input::value.with_batch(n)};
      halves->back()->part.y = {y.data() + i * n, mt::shape{n}};
    }
    return [this, halves] {
      auto const step = [&](std::size_t i) { mt::train_step((*halves)[i]->net, loss, (*halves)[i]->opt, (*halves)[i]->part); };
      mt::detail::thread_pool::instance().run(
          2, 2, [](void const* context, std::size_t i) { (*static_cast<decltype(step) const*>(context))(i); }, &step);
    };
  }
};

void compete(char const* what, std::vector<contender>& field, int rounds, int steps, bool tell = true) {
  for (auto& c : field)
    for (int i = 0; i < 2; ++i) c.step();
  for (int r = 0; r < rounds; ++r)
    for (auto& c : field) {
      auto const start = clock_type::now();
      for (int i = 0; i < steps; ++i) c.step();
      c.times.push_back(milliseconds(start) / steps);
    }
  if (!tell) return;
  double const one = median(field[0].times);
  for (auto& c : field)
    std::printf("%-10s %-28s %8.3f ms a step (least %.3f)   %.2fx\n", what, c.name.c_str(), median(c.times),
                *std::min_element(c.times.begin(), c.times.end()), one / median(c.times));
}

}  // namespace

int main(int argc, char** argv) {
  int const rounds = argc > 1 ? std::atoi(argv[1]) : 9;
#ifdef MORTISE_BENCHMARK_MPI
  if (argc > 2 && std::string{argv[2]} == "mpi") {
    mt::distributed<mt::mpi> world{{.threads = 1}};
    setting<mlp, mt::extents<784>> s{1024};
    std::string const name = std::to_string(world.size()) + " processes x 1 thread";
    std::vector<contender> field{{name, s.together(world)}, {name + ", at the end", s.together(world, mt::buckets{0})}};
    compete("mlp_1024", field, rounds, 5, world.rank() == 0);
    for (std::size_t n = 1024; n <= (std::size_t{1} << 24); n *= 4) {
      mt::detail::mpi_team team{world};
      std::vector<float> mine(n, 1.0f), sum(n);
      std::vector<mt::detail::partial_sum<float>> row{{0, world.rank(), mine.data(), 0}};
      std::vector<double> times;
      for (int r = 0; r < 15; ++r) {
        world.barrier();
        auto const start = clock_type::now();
        team.begin_reduce(mt::batch_part{world.rank(), world.size(), 0}, world.size(), n, sum.data(), mt::host{1});
        team.reduce_range(row, 0, n);
        team.end_reduce();
        times.push_back(milliseconds(start));
      }
      if (world.rank() == 0) std::printf("all-reduce of %9zu floats by %zu processes: %.3f ms (least %.3f)\n", n, world.size(), median(times),
                                         *std::min_element(times.begin(), times.end()));
    }
    return 0;
  }
#endif
  {
    setting<mlp, mt::extents<784>> s{1024};
    std::vector<contender> field{{"host, 1 thread", s.alone(1)},
                                 {"host, 2 threads", s.alone(2)},
                                 {"host_mesh{2} x 1 thread", s.together(mt::host_mesh{2, 1})},
                                 {"the same, summed at the end", s.together(mt::host_mesh{2, 1}, mt::buckets{0})},
                                 {"two models apart: the bound", s.apart()}};
    compete("mlp_1024", field, rounds, 5);
  }
#ifdef MORTISE_BENCHMARK_RESNET
  {
    setting<benchmarks::resnet18, mt::extents<3, 32, 32>> s{32};
    std::vector<contender> field{{"host, 1 thread", s.alone(1)},
                                 {"host, 2 threads", s.alone(2)},
                                 {"host_mesh{2} x 1 thread", s.together(mt::host_mesh{2, 1})},
                                 {"the same, summed at the end", s.together(mt::host_mesh{2, 1}, mt::buckets{0})},
                                 {"two models apart: the bound", s.apart()}};
    compete("resnet18_32", field, rounds, 1);
  }
#endif
}
