// Parameter groups by path: settings of their own, or none at all (frozen).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mortise/detail/decimal.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/detail/fixed_string.hpp>
#include <mortise/optimizer/path_check.hpp>
#include <mortise/optimizer/path_pattern.hpp>

namespace mortise {

namespace detail {

enum class spec_kind : std::uint8_t { group, freeze, no_weight_decay, layer_wise };

/// The paths of a specification. Each names its own as `paths`: nvcc 13 does not find them in the specification's type.
template <fixed_string... P>
struct path_list {
  static constexpr std::size_t count = sizeof...(P);
  /// The position of the last path that matches, from 1; 0: none does.
  static constexpr std::size_t last_match([[maybe_unused]] std::string_view name) {
    [[maybe_unused]] std::size_t at = 0;
    std::size_t found = 0;
    ((++at, found = path_matches(P.view(), name) ? at : found), ...);
    return found;
  }
  static constexpr bool match([[maybe_unused]] std::string_view name) { return (path_matches(P.view(), name) || ...); }
  template <class Model>
  static constexpr bool name_parameters_of() {
    return (check_path<Model, P>() && ...);
  }
  static std::string text() {
    std::string t;
    ((t += t.empty() ? "\"" : ", \"", t += P.view(), t += '"'), ...);
    return t;
  }
};

}  // namespace detail

/// The parameters under one of these paths (see path_matches) get settings of their own; what is left out is as in the optimizer's rule.
/// Where several groups match a parameter, the last one has it.
template <fixed_string... Paths>
struct group {
  using paths = detail::path_list<Paths...>;
  static constexpr detail::spec_kind kind = detail::spec_kind::group;

  std::optional<detail::decimal> lr{};
  std::optional<detail::decimal> momentum{};
  std::optional<detail::decimal> dampening{};
  std::optional<detail::decimal_pair> betas{};
  std::optional<detail::decimal> eps{};
  std::optional<detail::decimal> alpha{};
  std::optional<detail::decimal> rho{};
  std::optional<detail::decimal> lr_decay{};
  std::optional<detail::decimal> momentum_decay{};
  std::optional<detail::decimal> weight_decay{};
  std::optional<bool> nesterov{};
  std::optional<bool> amsgrad{};
  std::optional<bool> centered{};
  std::optional<bool> maximize{};
};

/// The parameters under one of these paths stay as they are, to the bit, until `unfreeze`.
template <fixed_string... Paths>
struct freeze {
  using paths = detail::path_list<Paths...>;
  static constexpr detail::spec_kind kind = detail::spec_kind::freeze;
};

/// No weight decay on the parameters under these paths, whatever group they are in; without paths: on all parameters of one axis at most,
/// which are the biases and the gains of norms.
///
///     mt::optimizer opt{net, mt::adamw{.weight_decay = 0.05f}, mt::group<"head">{.lr = 0.01f}, mt::no_weight_decay<>{}};
///
/// Splits groups: such parameters of a group are a group of their own behind all that were written, with its other settings.
template <fixed_string... Paths>
struct no_weight_decay {
  using paths = detail::path_list<Paths...>;
  static constexpr detail::spec_kind kind = detail::spec_kind::no_weight_decay;
};

/// Lower learning rates for layers that are farther from the output: the last layer keeps its group's rate, each layer before it has `decay`
/// times the rate of the next. A layer is what one path names, from the input to the output; without paths it is a module with parameters.
/// Parameters under none of the paths keep their rate. Splits groups, as no_weight_decay does.
/// Source: Howard, Ruder, "Universal Language Model Fine-tuning", 2018, arXiv:1801.06146, section 3.2 (there 1 / 2.6).
template <fixed_string... Paths>
struct layer_wise_lr_decay {
  using paths = detail::path_list<Paths...>;
  static constexpr detail::spec_kind kind = detail::spec_kind::layer_wise;

  detail::decimal decay = 0.75;
};

namespace detail {

template <class Spec, spec_kind Kind>
inline constexpr bool is_spec_of = false;
template <class Spec, spec_kind Kind>
  requires requires { Spec::kind; typename Spec::paths; }
inline constexpr bool is_spec_of<Spec, Kind> = Spec::kind == Kind;
template <class Spec>
inline constexpr bool is_group = is_spec_of<Spec, spec_kind::group>;
template <class Spec>
inline constexpr bool is_freeze = is_spec_of<Spec, spec_kind::freeze>;
template <class Spec>
inline constexpr bool is_no_weight_decay = is_spec_of<Spec, spec_kind::no_weight_decay>;
template <class Spec>
inline constexpr bool is_layer_wise = is_spec_of<Spec, spec_kind::layer_wise>;

template <class Spec>
using spec_paths = typename Spec::paths;

template <class Model, class Spec>
struct spec_fits {
  static constexpr bool value = Spec::paths::template name_parameters_of<Model>();
};

/// The path of the module that a parameter belongs to.
constexpr std::string_view module_path(std::string_view parameter) {
  std::size_t const dot = parameter.rfind('.');
  return dot == std::string_view::npos ? std::string_view{} : parameter.substr(0, dot);
}

/// How far layers are from the output: 0 for the last one.
template <std::size_t N>
struct layer_distances {
  std::array<std::uint32_t, N == 0 ? 1 : N> of{};
};
template <std::size_t N, class Spec, class Table>
constexpr layer_distances<N> distances_of_layers(Table const& table) {
  layer_distances<N> d;
  if constexpr (spec_paths<Spec>::count != 0) {
    for (std::size_t i = 0; i < N; ++i)
      if (std::size_t const at = spec_paths<Spec>::last_match(table[i].name); at != 0)
        d.of[i] = static_cast<std::uint32_t>(spec_paths<Spec>::count - at);
  } else {
    for (std::size_t i = N; i-- > 1;)
      d.of[i - 1] = d.of[i] + (module_path(table[i - 1].name) == module_path(table[i].name) ? 0 : 1);
  }
  return d;
}

/// What sets one group apart from the others.
struct group_key {
  std::uint32_t written = 0;   // 0: no group<...> names it; k: the k-th
  std::uint32_t distance = 0;  // of its layer from the output
  bool no_decay = false;
  friend constexpr bool operator==(group_key const& a, group_key const& b) {
    return a.written == b.written && a.distance == b.distance && a.no_decay == b.no_decay;
  }
};

/// Which group each of N trainable parameters belongs to, and whether it starts out frozen. Groups as written come first, then their parts
/// with other layers or without decay, in the order of the parameters.
template <std::size_t N, std::size_t Written>
struct group_assignment {
  std::array<std::uint32_t, N == 0 ? 1 : N> group{};
  std::array<bool, N == 0 ? 1 : N> frozen{};
  std::array<group_key, N + Written> groups{};
  std::size_t group_count = Written;
};
template <std::size_t N, class... Specs, class Table>
constexpr auto assign_groups(Table const& table) {
  constexpr std::size_t written = (std::size_t{1} + ... + (is_group<Specs> ? 1 : 0));
  group_assignment<N, written> a;
  std::array<group_key, N == 0 ? 1 : N> keys{};
  [[maybe_unused]] std::uint32_t number = 0;
  [[maybe_unused]] auto const look = [&]<class Spec>(std::type_identity<Spec>) {
    if constexpr (is_layer_wise<Spec>) {
      auto const distances = distances_of_layers<N, Spec>(table);
      for (std::size_t i = 0; i < N; ++i) keys[i].distance = distances.of[i];
    } else {
      if (is_group<Spec>) ++number;
      for (std::size_t i = 0; i < N; ++i) {
        if constexpr (is_no_weight_decay<Spec>) {
          if (spec_paths<Spec>::count == 0 ? table[i].extents.rank <= 1 : spec_paths<Spec>::match(table[i].name)) keys[i].no_decay = true;
        } else if (spec_paths<Spec>::match(table[i].name)) {
          a.frozen[i] = is_freeze<Spec>;
          if (is_group<Spec>) keys[i].written = number;
        }
      }
    }
  };
  (look(std::type_identity<Specs>{}), ...);
  for (std::uint32_t g = 0; g < written; ++g) a.groups[g].written = g;
  for (std::size_t i = 0; i < N; ++i) {
    std::size_t g = 0;
    while (g < a.group_count && !(a.groups[g] == keys[i])) ++g;
    if (g == a.group_count) a.groups[a.group_count++] = keys[i];
    a.group[i] = static_cast<std::uint32_t>(g);
  }
  return a;
}

[[noreturn]] MORTISE_COLD inline void throw_no_setting(std::string const& paths, std::string_view name) {
  throw usage_error("mortise::group<" + paths + ">: the optimizer's rule has no setting \"" + std::string{name} +
                    "\"; leave it out, or use a rule that has it");
}

/// Writes a group's own settings into a copy of the rule. Throws usage_error for a setting that the rule does not have.
template <class Group, class Rule>
void apply_group(Group const& g, Rule& rule) {
  auto const set = [&](std::string_view name, auto const& wanted) {
    if (!wanted) return;
    bool found = false;
    auto const take = [&](std::string_view n, auto& value) {
      using setting = std::remove_reference_t<decltype(value)>;
      using given = std::remove_cvref_t<decltype(*wanted)>;
      if constexpr (std::is_same_v<setting, given> || (std::is_same_v<setting, double> && std::is_same_v<given, decimal>)) {
        if (n == name) {
          value = *wanted;
          found = true;
        }
      }
    };
    if constexpr (requires { rule.settings(take); }) rule.settings(take);
    if (!found) throw_no_setting(spec_paths<Group>::text(), name);
  };
  set("lr", g.lr);
  set("momentum", g.momentum);
  set("dampening", g.dampening);
  set("betas", g.betas);
  set("eps", g.eps);
  set("alpha", g.alpha);
  set("rho", g.rho);
  set("lr_decay", g.lr_decay);
  set("momentum_decay", g.momentum_decay);
  set("weight_decay", g.weight_decay);
  set("nesterov", g.nesterov);
  set("amsgrad", g.amsgrad);
  set("centered", g.centered);
  set("maximize", g.maximize);
}

}  // namespace detail
}  // namespace mortise
