// sequential: one module after another.
#pragma once

#include <mortise/module/composition.hpp>

namespace mortise {

/// Modules applied in order, each to the output of the one before. Children are named by position ("0", "1", ...) unless `named`;
/// a position counts also for children without parameters, as in PyTorch.
template <class... Ms>
struct sequential {
  using tokens = typename detail::tokens_of_children<std::index_sequence_for<Ms...>, Ms...>::type;
};

}  // namespace mortise
