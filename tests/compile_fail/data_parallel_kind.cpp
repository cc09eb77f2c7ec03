// expected-error: mortise::data_parallel: the model lives on another kind of device
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/parallel/data_parallel.hpp>
struct accelerator : mortise::host {
  using space = int;
};
void f(mortise::model<mortise::sequential<mortise::linear<2>>, mortise::extents<3>>& net) {
  mortise::data_parallel many{net, mortise::devices{accelerator{}}};
}
