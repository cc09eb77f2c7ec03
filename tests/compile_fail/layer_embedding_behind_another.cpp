// expected-error: mortise::embedding: it looks up indices, so it has to be the first module of the network
#include <mortise/model/model.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

mt::model<mt::sequential<mt::linear<4>, mt::embedding<10, 4>>, mt::extents<3>> m;

void run(mt::view<float const> x) { m.forward(x); }
