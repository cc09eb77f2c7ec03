// The library's side of the interop tests.
//   archive_tool convert IN OUT     reads any archive and writes the tree in the format of OUT's extension
//   archive_tool run OUT            writes a small training run
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

namespace mt = mortise;
using value = mt::archive_value;

static value small_run() {
  value const group = value::dict({{"lr", 1e-3}, {"betas", value::tuple({0.9, 0.999})}, {"eps", 1e-8}, {"weight_decay", 0.0}, {"amsgrad", false},
                                   {"maximize", false}, {"foreach", nullptr}, {"capturable", false}, {"params", value::list({0, 1})}});
  auto const tensor = [](std::vector<std::size_t> shape, float first) {
    std::size_t n = 1;
    for (std::size_t e : shape) n *= e;
    std::vector<float> v(n);
    for (std::size_t i = 0; i != n; ++i) v[i] = first + 0.25f * static_cast<float>(i);
    return mt::owned_tensor(std::move(shape), std::move(v));
  };
  value state = value::dict();
  state.set(0, value::dict({{"step", mt::scalar_tensor(7.0f)}, {"exp_avg", tensor({1, 2}, 0.5f)}, {"exp_avg_sq", tensor({1, 2}, 1)}}));
  state.set(1, value::dict({{"step", mt::scalar_tensor(7.0f)}, {"exp_avg", tensor({1}, 0.5f)}, {"exp_avg_sq", tensor({1}, 1)}}));
  return value::dict({{"model_state_dict", value::dict({{"weight", tensor({1, 2}, 1)}, {"bias", tensor({1}, 0.5f)}})},
                      {"optimizer_state_dict", value::dict({{"state", state}, {"param_groups", value::list({group})}})},
                      {"scheduler_state_dict", value::dict({{"step_size", 2}, {"gamma", 0.5}, {"base_lrs", value::list({0.1})}, {"last_epoch", 3}})},
                      {"epoch", 3}, {"global_step", 123456789012}, {"best_metric", 0.75}, {"metadata", value::dict({{"note", "h\xc3\xa9llo"}})},
                      {"rng_state", value::dict({{"philox", mt::owned_tensor<std::uint8_t>({4}, {1, 2, 3, 4})}})}, {"format_version", 1}});
}

int main(int argc, char** argv) {
  std::vector<std::string> const args{argv + 1, argv + argc};
  try {
    if (args.size() == 3 && args[0] == "convert") mt::save_archive(args[2], mt::open_archive(args[1]).read_tree());
    else if (args.size() == 2 && args[0] == "run") mt::save_archive(args[1], small_run());
    else return 2;
  } catch (mt::error const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
