#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/sgd.hpp>

#include "pytorch.hpp"

using pytorch::check;

TEST_CASE("sgd makes PyTorch's steps") {
  check("sgd", mt::sgd{.lr = 0.01f});
  check("sgd_decay_maximize", mt::sgd{.lr = 0.01f, .weight_decay = 0.05f, .maximize = true});
  check("sgd_momentum", mt::sgd{.lr = 0.01f, .momentum = 0.9f});
  check("sgd_all", mt::sgd{.lr = 0.01f, .momentum = 0.9f, .dampening = 0.3f, .weight_decay = 0.01f});
  check("sgd_nesterov", mt::sgd{.lr = 0.01f, .momentum = 0.8f, .weight_decay = 0.01f, .nesterov = true});
}
TEST_CASE("adam makes PyTorch's steps") {
  check("adam", mt::adam{});
  check("adam_decay", mt::adam{.lr = 0.02f, .betas = {0.8f, 0.95f}, .eps = 1e-6f, .weight_decay = 0.1f});
  check("adam_amsgrad", mt::adam{.lr = 0.01f, .amsgrad = true});
  check("adam_maximize", mt::adam{.lr = 0.01f, .weight_decay = 0.01f, .maximize = true});
}
TEST_CASE("adamw makes PyTorch's steps, also with groups of its own settings") {
  check("adamw", mt::adamw{});
  check("adamw_all", mt::adamw{.lr = 0.01f, .betas = {0.8f, 0.95f}, .weight_decay = 0.1f, .amsgrad = true});
  check("adamw_groups", mt::adamw{.lr = 0.01f}, mt::group<"features">{.lr = 0.001f}, mt::group<"classifier.bias">{.weight_decay = 0});
}
TEST_CASE("a chain is its rules in turn") {
  using mt::chain;
  check("adamw", chain{mt::scale_by_adam{}, mt::add_decayed_weights{.weight_decay = 1e-2f}, mt::scale_by_learning_rate{.lr = 1e-3f}});
  check("adam_amsgrad", chain{mt::scale_by_adam{.amsgrad = true}, mt::scale_by_learning_rate{.lr = 0.01f}});
  check("sgd_momentum", chain{mt::trace{.decay = 0.9f}, mt::scale_by_learning_rate{.lr = 0.01f}});
  check("sgd_clip_norm", chain{mt::clip_grad_norm{.max_norm = 2.5f}, mt::trace{.decay = 0.9f}, mt::scale_by_learning_rate{.lr = 0.01f}});
  check("sgd_clip_norm_wide", chain{mt::clip_grad_norm{.max_norm = 1000}, mt::sgd{.lr = 0.01f}});
  check("sgd_clip_value", chain{mt::clip_grad_value{.clip_value = 0.5f}, mt::sgd{.lr = 0.01f}});
}
