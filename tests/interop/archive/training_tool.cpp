// The library's side of the test that passes whole training runs between PyTorch and this library.
//   training_tool RECIPE IN STEPS OUT     loads the run in IN ("-": starts anew), trains, saves the run to OUT
// torch_training.py beside this file does the same steps on the same numbers.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <mortise/loss/mse_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/tanh.hpp>
#include <mortise/optimizer/adagrad.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/rmsprop.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/schedule/scheduler.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>

namespace mt = mortise;

namespace {

using network = mt::model<mt::sequential<mt::linear<8>, mt::tanh, mt::batch_norm1d, mt::linear<3>>, mt::extents<4>>;

constexpr std::size_t batch = 16;
constexpr int steps_per_epoch = 2;

/// Step `s` of every run, there as here: small fractions that both sides round alike.
float sample(std::size_t row, std::size_t column, std::int64_t s) {
  return static_cast<float>(static_cast<double>((row * 7 + column * 5 + static_cast<std::size_t>(s) * 3) % 11) / 8 - 0.625);
}

template <class Optimizer, class Scheduler>
void train(network& net, Optimizer& opt, Scheduler& schedule, std::string const& in, int steps, std::string const& out) {
  mt::progress progress;
  mt::checkpoint run{net, opt, schedule, progress};
  if (in != "-") mt::load(in, run);
  std::vector<float> x(batch * 4), y(batch * 3);
  for (int i = 0; i != steps; ++i) {
    std::int64_t const s = progress.epoch * steps_per_epoch + i % steps_per_epoch;
    for (std::size_t k = 0; k != x.size(); ++k) x[k] = sample(k / 4, k % 4, s);
    for (std::size_t k = 0; k != y.size(); ++k) y[k] = sample(k % 3, k / 3, s + 1);
    net.train();
    net.forward(x);
    net.backward(mt::mse_loss{}, y);
    opt.step();
    if (i % steps_per_epoch != steps_per_epoch - 1) continue;
    if constexpr (requires { schedule.step(1.0); }) schedule.step(1.0);
    else schedule.step();
    ++progress.epoch;
  }
  mt::save(out, run);
}

template <class Rule, class Schedule>
void train(Rule const& rule, Schedule const& schedule, std::string const& in, int steps, std::string const& out) {
  network net{mt::host{1}, mt::seed{7}};
  mt::optimizer opt{net, rule};
  if constexpr (std::is_same_v<Schedule, mt::plateau_settings>) {
    mt::reduce_lr_on_plateau plateau{opt, schedule};
    train(net, opt, plateau, in, steps, out);
  } else {
    mt::scheduler scheduler{opt, schedule};
    train(net, opt, scheduler, in, steps, out);
  }
}

void run(std::string const& recipe, std::string const& in, int steps, std::string const& out) {
  if (recipe == "sgd") return train(mt::sgd{.lr = 0.1, .momentum = 0.9, .dampening = 0.2, .weight_decay = 1e-3}, mt::step_lr{.step_size = 2, .gamma = 0.5}, in, steps, out);
  if (recipe == "sgd, other schedule") return train(mt::sgd{.lr = 0.1, .momentum = 0.9, .dampening = 0.2, .weight_decay = 1e-3}, mt::step_lr{.step_size = 3, .gamma = 0.5}, in, steps, out);
  if (recipe == "restarts") return train(mt::sgd{.lr = 0.1, .momentum = 0.9}, mt::cosine_annealing_warm_restarts{.t_0 = 2, .t_mult = 2, .eta_min = 1e-3}, in, steps, out);
  if (recipe == "nesterov") return train(mt::sgd{.lr = 0.1, .momentum = 0.9, .nesterov = true}, mt::exponential_lr{.gamma = 0.9}, in, steps, out);
  if (recipe == "adam") return train(mt::adam{.lr = 0.01, .weight_decay = 1e-3, .amsgrad = true}, mt::multi_step_lr{.milestones = {1, 3}, .gamma = 0.5}, in, steps, out);
  if (recipe == "rmsprop") return train(mt::rmsprop{.lr = 0.01, .momentum = 0.5, .centered = true}, mt::plateau_settings{.factor = 0.5, .patience = 1}, in, steps, out);
  if (recipe == "adagrad") return train(mt::adagrad{.lr = 0.05, .lr_decay = 1e-2}, mt::exponential_lr{.gamma = 0.9}, in, steps, out);
  if (recipe == "adamw") {  // two groups
    network net{mt::host{1}, mt::seed{7}};
    mt::optimizer opt{net, mt::adamw{.lr = 0.01, .betas = {0.8, 0.95}}, mt::group<"**.bias">{.lr = 0.02, .weight_decay = 0.0}};
    mt::scheduler scheduler{opt, mt::cosine_annealing_lr{.t_max = 8, .eta_min = 1e-3}};
    return train(net, opt, scheduler, in, steps, out);
  }
  throw mt::usage_error{"no recipe " + recipe};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  try {
    run(argv[1], argv[2], std::stoi(argv[3]), argv[4]);
  } catch (mt::error const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
