// frozen: a part of the network that never learns.
#pragma once

#include <mortise/module/composition.hpp>

namespace mortise {

/// M in evaluation mode for ever: no gradients of its parameters, no optimizer state, nothing kept for its backward pass unless something
/// before it learns; dropout inside is off and batch norm uses its running statistics. Adds no level to the names.
template <class M>
struct frozen {
  using tokens = detail::join<token_list<token::freeze_begin>, detail::tokens_of<M>, token_list<token::freeze_end>>;
};

}  // namespace mortise
