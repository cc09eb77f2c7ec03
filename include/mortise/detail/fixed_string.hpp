// Text as a template argument: the names in named<"features", ...> and the paths in group<"features.*">.
#pragma once

#include <cstddef>
#include <string_view>

namespace mortise {

/// A structural string; `N` counts the terminating zero. Host only: it must not become part of a kernel's type (nvcc 13.0).
template <std::size_t N>
struct fixed_string {
  char text[N] = {};

  constexpr fixed_string(char const (&s)[N]) {
    for (std::size_t i = 0; i < N; ++i) text[i] = s[i];
  }
  constexpr std::string_view view() const { return {text, N - 1}; }
  constexpr operator std::string_view() const { return view(); }
  constexpr char const* c_str() const { return text; }
  constexpr std::size_t size() const { return N - 1; }
};

template <std::size_t N, std::size_t M>
constexpr bool operator==(fixed_string<N> const& a, fixed_string<M> const& b) {
  return a.view() == b.view();
}

}  // namespace mortise
