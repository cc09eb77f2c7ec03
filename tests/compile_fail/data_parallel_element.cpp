// expected-error: mortise::train_step: the optimizer belongs to another type of model
#include <mortise/loss/mse_loss.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/parallel/data_parallel.hpp>
using net = mortise::sequential<mortise::linear<2>>;
using in_float = mortise::model<net, mortise::extents<3>>;
using in_double = mortise::model<net, mortise::extents<3>, mortise::host, double>;
struct batch {
  mortise::view<float const> x, y;
};
void f(mortise::data_parallel<in_float, mortise::host_mesh>& many, mortise::optimizer<in_double, mortise::sgd>& opt, batch const& b) {
  mortise::train_step(many, mortise::mse_loss{}, opt, b);
}
