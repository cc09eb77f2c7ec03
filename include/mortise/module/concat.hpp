// concat: several modules on the same input, their outputs joined.
#pragma once

#include <mortise/module/composition.hpp>

namespace mortise {

namespace detail {
// Each branch works on the top of the stack; after it, the copy that lies deepest comes to the top for the next one, so that in the end
// the outputs lie in order.
template <std::size_t Count, class Indices, class... Ms>
struct tokens_of_branches;
template <std::size_t Count, std::size_t... I, class... Ms>
struct tokens_of_branches<Count, std::index_sequence<I...>, Ms...> {
  using type = join<join<token_list<token::rotate<Count>>, typename tokens_of_child<I, Ms>::type>...>;
};
}  // namespace detail

/// The outputs of all branches joined along the first axis (channels), as torch.cat(..., dim=1). Branches are named as in `sequential`.
template <class... Ms>
struct concat {
  static_assert(sizeof...(Ms) > 0, "mortise::concat: at least one branch");
  using tokens = detail::join<token_list<token::fork<sizeof...(Ms)>>,
                              typename detail::tokens_of_branches<sizeof...(Ms), std::index_sequence_for<Ms...>, Ms...>::type,
                              token_list<token::concatenate<sizeof...(Ms)>>>;
};

}  // namespace mortise
