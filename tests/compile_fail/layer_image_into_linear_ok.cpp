#include <mortise/model/model.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

using net = mt::sequential<mt::named<"features", mt::sequential<mt::conv2d<6, 5>>>, mt::flatten, mt::named<"classifier", mt::sequential<mt::linear<10>>>>;
mt::model<net, mt::extents<1, 28, 28>> m;
