// expected-error: mortise::train_step: the optimizer belongs to another type of model
#include <mortise/data/batch.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/train/train_step.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>> m;
mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>, mt::host, double> other;

void run(mt::batch<float, float> const& batch) {
  mt::optimizer opt{other, mt::sgd{}};
  mt::train_step(m, mt::mse_loss{}, opt, batch);
}
