// expected-error: mortise: this is no loss
// expected-error: my_loss
#include <vector>

#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<2>>, mt::extents<4>> m;

struct my_loss {};

void run(std::vector<float> const& y) { m.backward(my_loss{}, y); }
