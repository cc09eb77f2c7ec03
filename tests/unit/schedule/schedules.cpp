// Every schedule over 100 steps against the rates of PyTorch's schedulers (tests/interop/schedule/generate.py).
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/schedule/schedules.hpp>
#include <mortise/schedule/scheduler.hpp>

namespace mt = mortise;

namespace {

std::map<std::string, std::vector<double>> pytorch_rates() {
  std::map<std::string, std::vector<double>> all;
  char const* const fresh = std::getenv("MORTISE_FIXTURE");  // the interop suite asks the PyTorch of this machine
  std::ifstream in{fresh != nullptr ? fresh : MORTISE_TEST_DATA "/fixtures/schedule/rates.txt"};
  for (std::string line; std::getline(in, line);) {
    std::istringstream words{line};
    std::string name, number;
    words >> name;
    while (words >> number) all[name].push_back(std::strtod(number.c_str(), nullptr));
  }
  return all;
}

/// PyTorch multiplies step by step where we have a closed form: 100 products round 100 times.
void agrees(std::string const& name, auto const& schedule) {
  static auto const rates = pytorch_rates();
  auto const& expected = rates.at(name);
  REQUIRE(expected.size() == 100);
  for (std::size_t i = 0; i < 100; ++i) {
    INFO(name, " at step ", i);
    CHECK(std::abs(schedule(0.5, static_cast<std::int64_t>(i)) - expected[i]) <= 1e-13);
  }
}

/// Two groups with rates and nothing else.
struct rates_only {
  double rates[2] = {0.5, 0.05};
  static constexpr std::size_t group_count = 2;
  double learning_rate(std::size_t g) const { return rates[g]; }
  void set_learning_rate(double r, std::size_t g) { rates[g] = r; }
};

}  // namespace

TEST_CASE("schedules have PyTorch's rates") {
  agrees("step_lr", mt::step_lr{.step_size = 30, .gamma = 0.1});
  agrees("step_lr_7", mt::step_lr{.step_size = 7, .gamma = 0.5});
  agrees("multi_step_lr", mt::multi_step_lr{.milestones = {10, 30, 30, 77}, .gamma = 0.3});
  agrees("exponential_lr", mt::exponential_lr{.gamma = 0.97});
  agrees("cosine_annealing_lr", mt::cosine_annealing_lr{.t_max = 60, .eta_min = 0.02});
  agrees("linear_lr", mt::linear_lr{.start_factor = 0.25, .end_factor = 0.8, .total_iters = 33});
  agrees("constant_lr", mt::constant_lr{.factor = 0.4, .total_iters = 21});
  agrees("polynomial_lr", mt::polynomial_lr{.total_iters = 80, .power = 1.7});
  agrees("lambda_lr", mt::lambda_lr{[](std::int64_t e) { return 1.0 / static_cast<double>(1 + e); }});
  agrees("cosine_annealing_warm_restarts", mt::cosine_annealing_warm_restarts{.t_0 = 9, .t_mult = 2, .eta_min = 0.01});
  agrees("cosine_annealing_warm_restarts_1", mt::cosine_annealing_warm_restarts{.t_0 = 13});
  agrees("one_cycle_lr", mt::one_cycle_lr{.max_lr = 0.7, .total_steps = 101});
  agrees("one_cycle_lr_linear",
         mt::one_cycle_lr{.max_lr = 0.7, .total_steps = 110, .pct_start = 0.4, .linear = true, .div_factor = 10, .final_div_factor = 50});
  agrees("one_cycle_lr_three", mt::one_cycle_lr{.max_lr = 0.7, .total_steps = 120, .three_phase = true});
  agrees("cyclic_lr", mt::cyclic_lr{.base_lr = 0.1, .max_lr = 0.9, .step_size_up = 12, .step_size_down = 20});
  agrees("cyclic_lr_2", mt::cyclic_lr{.base_lr = 0.1, .max_lr = 0.9, .step_size_up = 15, .mode = mt::cyclic_lr::mode_type::triangular2});
  agrees("cyclic_lr_exp",
         mt::cyclic_lr{.base_lr = 0.1, .max_lr = 0.9, .step_size_up = 15, .mode = mt::cyclic_lr::mode_type::exp_range, .gamma = 0.99});
  agrees("sequence", mt::then(mt::then(mt::linear_lr{.start_factor = 0.2, .end_factor = 1.0, .total_iters = 7}, 7,
                                       mt::cosine_annealing_lr{.t_max = 40, .eta_min = 0.01}),
                              50, mt::exponential_lr{.gamma = 0.9}));
}

TEST_CASE("a number of steps that is divided by must be at least one") {
  CHECK_THROWS_WITH_AS(mt::step_lr{.step_size = 0}(1.0, 0), "mortise::step_lr: .step_size is 0; it must be at least 1", mt::usage_error);
  CHECK_THROWS_AS(mt::cosine_annealing_lr{.t_max = 0}(1.0, 0), mt::usage_error);
  CHECK_THROWS_AS((mt::cosine_annealing_warm_restarts{.t_0 = 0}(1.0, 0)), mt::usage_error);
  CHECK_THROWS_AS((mt::cosine_annealing_warm_restarts{.t_0 = 2, .t_mult = 0}(1.0, 5)), mt::usage_error);
  CHECK_THROWS_AS(mt::linear_lr{.total_iters = 0}(1.0, 0), mt::usage_error);
  CHECK_THROWS_AS(mt::polynomial_lr{.total_iters = -1}(1.0, 0), mt::usage_error);
  CHECK_THROWS_AS(mt::one_cycle_lr{.total_steps = 0}(1.0, 0), mt::usage_error);
  CHECK_THROWS_AS(mt::cyclic_lr{.step_size_up = 0}(1.0, 0), mt::usage_error);
  CHECK(mt::one_cycle_lr{.max_lr = 0.5, .total_steps = 10, .pct_start = 0.1}(1.0, 0) == doctest::Approx(0.5));  // a rise of no step
}

TEST_CASE("a warm-up ends at the base rate and hands over at its last step") {
  auto const s = mt::linear_warmup{.steps = 4}.then(mt::exponential_lr{.gamma = 0.5});
  CHECK(s(1.0, 0) == 0.25);
  CHECK(s(1.0, 3) == 1.0);
  CHECK(s(1.0, 4) == 1.0);
  CHECK(s(1.0, 5) == 0.5);
}

TEST_CASE("a scheduler sets every group's rate from its own base rate") {
  rates_only opt;
  mt::scheduler schedule{opt, mt::step_lr{.step_size = 2, .gamma = 0.1}};
  for (int i = 0; i < 4; ++i) schedule.step();
  CHECK(opt.rates[0] == doctest::Approx(0.005));
  CHECK(opt.rates[1] == doctest::Approx(0.0005));
}

TEST_CASE("reduce_lr_on_plateau has PyTorch's rates over 100 epochs") {
  auto const rates = pytorch_rates();
  auto const check = [&](std::string const& name, mt::plateau_settings const& settings) {
    rates_only opt;
    mt::reduce_lr_on_plateau plateau{opt, settings};
    auto const& expected = rates.at(name);
    REQUIRE(expected.size() == 100);
    for (std::size_t epoch = 0; epoch < 100; ++epoch) {
      INFO(name, " at epoch ", epoch);
      CHECK(opt.rates[0] == expected[epoch]);  // the same products in the same order
      plateau.step(4 / (1 + static_cast<double>(epoch / 9)) + static_cast<double>((epoch * 37 + 11) % 17) / 16);
    }
  };
  check("plateau", {});
  check("plateau_fast", {.factor = 0.5, .patience = 2, .cooldown = 3, .min_lr = 0.01});
  check("plateau_max_abs", {.maximize = true, .factor = 0.7, .patience = 4, .threshold = 0.25, .absolute_threshold = true, .eps = 1e-3});
}

TEST_CASE("each group may follow a schedule of its own") {
  rates_only opt;
  mt::scheduler schedule{opt, mt::constant_rate{}, mt::step_lr{.step_size = 2, .gamma = 0.1}};
  for (int i = 0; i < 4; ++i) schedule.step();
  CHECK(opt.rates[0] == 0.5);
  CHECK(opt.rates[1] == doctest::Approx(0.0005));
  CHECK(schedule.last_lr(1) == opt.rates[1]);
}

TEST_CASE("a plateau lowers the rates after patience, and again after the cooldown") {
  rates_only opt;
  mt::reduce_lr_on_plateau plateau{opt, {.factor = 0.5, .patience = 2, .cooldown = 1}};
  for (double const metric : {1.0, 0.5, 0.5, 0.5}) plateau.step(metric);
  CHECK(opt.rates[0] == 0.5);
  plateau.step(0.5);
  CHECK(opt.rates[0] == 0.25);
  for (int i = 0; i < 3; ++i) plateau.step(0.5);
  CHECK(opt.rates[0] == 0.25);
  plateau.step(0.5);
  CHECK(opt.rates[0] == 0.125);
}
