// residual: body(x) + shortcut(x).
#pragma once

#include <mortise/module/sequential.hpp>

namespace mortise {

/// y = Body(x) + Shortcut(x); without a shortcut y = Body(x) + x.
///
/// Adds no level to the names: the children of `Body` and the shortcut stand directly under the residual's own path, so that
/// residual<sequential<named<"conv1", ...>, named<"bn1", ...>>, named<"downsample", sequential<...>>> has the keys of torchvision's blocks.
template <class Body, class Shortcut = void>
struct residual {
  using tokens = detail::join<token_list<token::fork<2>>, detail::tokens_of<Body>, token_list<token::rotate<2>>,
                              detail::tokens_of<Shortcut>, token_list<token::add>>;
};
template <class Body>
struct residual<Body, void> {
  using tokens = detail::join<token_list<token::fork<2>>, detail::tokens_of<Body>, token_list<token::add>>;
};

}  // namespace mortise
