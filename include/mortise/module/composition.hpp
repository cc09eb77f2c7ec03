// How containers say what they contain: a network becomes one flat list of tokens for a stack machine over tensors.
//
//   run<M>          takes the top tensor, leaves M's output        enter<Name>, enter_index<I>, leave    the path of names
//   fork<K>         K copies of the top tensor (no memory moves)   freeze_begin, freeze_end              no gradients inside
//   rotate<K>       the K-th tensor from the top comes to the top
//   add             takes two tensors, leaves their sum            concatenate<K>   takes K, leaves them joined along the first axis
//
// Flat lists compile faster than nested types and make the plan (plan.hpp) an ordinary loop. A new container defines `tokens` and nothing else.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mortise/detail/fixed_string.hpp>
#include <mortise/module/description.hpp>

namespace mortise {

template <class... Tokens>
struct token_list {
  static constexpr std::size_t size = sizeof...(Tokens);
};

namespace token {
template <Module M>
struct run {
  using module_type = M;
};
// Types with a name say it themselves: nvcc 13 does not find it in their template arguments.
template <fixed_string Name>
struct enter {
  static constexpr auto entered_name = Name;
};
template <std::size_t Index>
struct enter_index {};
struct leave {};
template <std::size_t Copies>
struct fork {};
template <std::size_t Depth>
struct rotate {};
struct add {};
template <std::size_t Count>
struct concatenate {};
struct freeze_begin {};
struct freeze_end {};
}  // namespace token

/// A container: it has tokens instead of a description.
template <class C>
concept Container = requires { typename C::tokens; };

/// Gives a child its own name in paths, as `self.features = ...` does in PyTorch.
template <fixed_string Name, class M>
struct named;

namespace detail {

template <class... Lists>
struct join_lists;
template <>
struct join_lists<> {
  using type = token_list<>;
};
template <class... A>
struct join_lists<token_list<A...>> {
  using type = token_list<A...>;
};
template <class... A, class... B>
struct join_lists<token_list<A...>, token_list<B...>> {
  using type = token_list<A..., B...>;
};
template <class... A, class... B, class... C>
struct join_lists<token_list<A...>, token_list<B...>, token_list<C...>> {
  using type = token_list<A..., B..., C...>;
};
// Eight at a time keeps the depth of recursion at length / 8.
template <class... A, class... B, class... C, class... D, class... E, class... F, class... G, class... H, class... Rest>
struct join_lists<token_list<A...>, token_list<B...>, token_list<C...>, token_list<D...>, token_list<E...>, token_list<F...>,
                  token_list<G...>, token_list<H...>, Rest...> {
  using type = typename join_lists<token_list<A..., B..., C..., D..., E..., F..., G..., H...>, Rest...>::type;
};
template <class... A, class... B, class... C, class... D, class... Rest>
struct join_lists<token_list<A...>, token_list<B...>, token_list<C...>, token_list<D...>, Rest...> {
  using type = typename join_lists<token_list<A..., B..., C..., D...>, Rest...>::type;
};
template <class... Lists>
using join = typename join_lists<Lists...>::type;

// Checks are functions: clang goes on as if nothing had happened, and one mistake is one error.
template <class NoModule>
constexpr bool network_contains() {
  static_assert(sizeof(NoModule) == 0,
                "mortise: something in a network is neither a module nor a container; it stands beside this message (a module is a trivially "
                "copyable type with `static constexpr std::string_view name` and `static constexpr module_description describe(shape)`)");
  return true;
}
template <fixed_string Name>
constexpr bool name_is_whole() {
  static_assert(Name.size() > 0 && Name.view().find('.') == std::string_view::npos,
                "mortise::named: a name may neither be empty nor hold a '.', which separates names; nest one mortise::named in another");
  return true;
}

template <class M>
struct tokens_of_module {
  using type = std::conditional_t<network_contains<M>(), token_list<>, void>;
};
template <Module M>
struct tokens_of_module<M> {
  using type = token_list<token::run<M>>;
};
template <Container M>
struct tokens_of_module<M> {
  using type = typename M::tokens;
};
template <class M>
using tokens_of = typename tokens_of_module<M>::type;

/// A child at position I of a container: its own name, or its position as in PyTorch's Sequential.
template <std::size_t I, class M>
struct tokens_of_child {
  using type = join<token_list<token::enter_index<I>>, tokens_of<M>, token_list<token::leave>>;
};
template <std::size_t I, class M>
  requires requires { typename M::named_module; }
struct tokens_of_child<I, M> {
  using type = tokens_of<M>;
};

template <class Indices, class... Ms>
struct tokens_of_children;
template <std::size_t... I, class... Ms>
struct tokens_of_children<std::index_sequence<I...>, Ms...> {
  using type = join<typename tokens_of_child<I, Ms>::type...>;
};

}  // namespace detail

template <fixed_string Name, class M>
struct named {
  static_assert(detail::name_is_whole<Name>());
  using named_module = M;
  using tokens = detail::join<token_list<token::enter<Name>>, detail::tokens_of<M>, token_list<token::leave>>;
};

}  // namespace mortise
