// expected-error: mortise::checkpoint: this part is neither a model, an optimizer
// expected-error: mortise::own
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/checkpoint.hpp>

namespace mt = mortise;

void save(int& patience) {
  mt::checkpoint run{patience};
  mt::save("run.safetensors", run);
}
