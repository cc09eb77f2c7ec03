#include "../../contract/module.hpp"

#include <mortise/module/gelu.hpp>
#include <mortise/module/leaky_relu.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sigmoid.hpp>
#include <mortise/module/silu.hpp>
#include <mortise/module/tanh.hpp>

using mortise::extents;

struct steep : mortise::leaky_relu {
  constexpr steep() : mortise::leaky_relu{-1.5} {}
};

MODULE_CONTRACT(on_host<mortise::relu, extents<37>>, on_host<mortise::leaky_relu, extents<5, 7>>, on_host<steep, extents<16>>,
                on_host<mortise::gelu, extents<37>>, on_host<mortise::gelu_tanh, extents<2, 3, 5>>, on_host<mortise::silu, extents<19>>,
                on_host<mortise::tanh, extents<33>>, on_host<mortise::sigmoid, extents<3>>)
