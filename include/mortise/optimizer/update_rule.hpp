// What an update rule is, and how rules chain.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <mortise/config.hpp>
#include <mortise/detail/decimal.hpp>
#include <mortise/detail/math.hpp>

namespace mortise {

/// Where a run of updates stands: `number` counts from 1.
struct update_step {
  std::int64_t number = 1;
};

/// A transform of gradients, per element, with a fixed number of state slots of the parameters' layout.
///
/// `r.at<T>(step)` computes, once a step on the host and in double, everything that is the same for all elements, and returns a small
/// trivially copyable function object
///     template <class V> MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& update, V* slots) const;
/// that turns the update so far (at first the gradient) into the next one and advances its slots; what comes out last is subtracted from
/// the parameter. V is T, or a vector of T. A rule whose function object needs no per-step scalars may return itself.
///
/// Optional members: `slot_names`, PyTorch's names of the slots; `used_slots()`, a mask of the slots that the settings need, with
/// `slot_masks`, the masks that can occur (other slots are neither allocated nor touched, and read as zero); `settings(visit)`, which
/// calls visit(name, reference) for each setting (double, detail::decimal, detail::decimal_pair, bool); `needs_gradient_norm`, after which the
/// function object's `set_gradient_norm(T)` is called before the pass.
template <class R>
concept UpdateRule = std::copyable<R> && requires(R const& rule, update_step step, float x, float* slots) {
  { R::slots } -> std::convertible_to<std::size_t>;
  { rule.template at<float>(step)(x, x, slots) } -> std::same_as<float>;
};

namespace detail {

template <class R, class T>
using update_function = decltype(std::declval<R const&>().template at<T>(update_step{}));

template <class R>
constexpr bool needs_gradient_norm() {
  if constexpr (requires { R::needs_gradient_norm; }) return R::needs_gradient_norm;
  else return false;
}

template <class R>
constexpr std::string_view slot_name(std::size_t i) {
  if constexpr (requires { R::slot_names; }) {
    return R::slot_names[i];
  } else {
    constexpr std::string_view unnamed[] = {"slot0", "slot1", "slot2", "slot3", "slot4", "slot5", "slot6", "slot7"};
    static_assert(R::slots <= 8, "mortise::UpdateRule: a rule with more than 8 slots must name them in slot_names");
    return unnamed[i];
  }
}

template <class R>
constexpr unsigned all_slots = (1u << R::slots) - 1u;

template <class R>
constexpr unsigned used_slots(R const& rule) {
  if constexpr (requires { rule.used_slots(); }) return rule.used_slots();
  else return all_slots<R>;
}

template <class R>
constexpr auto slot_masks() {
  if constexpr (requires { R::slot_masks; }) return R::slot_masks;
  else return std::array<unsigned, 1>{all_slots<R>};
}

template <class R, class Visitor>
void visit_settings(R& rule, Visitor&& visit) {
  if constexpr (requires { rule.settings(visit); }) rule.settings(visit);
}

/// base^n in double, for bias corrections: a few multiplications instead of a call of pow, the same bits everywhere.
constexpr double integer_power(double base, std::int64_t n) {
  double result = 1;
  for (; n > 0; n >>= 1) {
    if (n & 1) result *= base;
    base *= base;
  }
  return result;
}

/// Function objects one after the other, each with its own slots.
template <class... U>
struct chained_update;
template <>
struct chained_update<> {
  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const&, V const& update, V*) const {
    return update;
  }
  template <class T>
  MORTISE_HD void set_gradient_norm(T) {}
};
template <std::size_t Slots, class U>
struct update_with_slots {
  U function;
};
template <std::size_t Slots, class U, class... Rest>
struct chained_update<update_with_slots<Slots, U>, Rest...> {
  U first;
  chained_update<Rest...> rest;

  template <class V>
  MORTISE_INLINE MORTISE_HD V operator()(V const& parameter, V const& update, V* slots) const {
    return rest(parameter, first(parameter, update, slots), slots + Slots);
  }
  template <class T>
  MORTISE_HD void set_gradient_norm(T norm) {
    if constexpr (requires { first.set_gradient_norm(norm); }) first.set_gradient_norm(norm);
    rest.set_gradient_norm(norm);
  }
};

template <class... R>
constexpr std::size_t slots_of_all = (std::size_t{0} + ... + R::slots);

/// The product of the rules' masks.
template <class... R>
constexpr auto chain_masks() {
  constexpr std::size_t count = (std::size_t{1} * ... * slot_masks<R>().size());
  std::array<unsigned, count> masks{};
  std::size_t repeat = 1;
  std::size_t shift = 0;
  auto const add = [&](auto const& own, std::size_t slots) {
    for (std::size_t i = 0; i < count; ++i) masks[i] |= own[i / repeat % own.size()] << shift;
    repeat *= own.size();
    shift += slots;
  };
  (add(slot_masks<R>(), R::slots), ...);
  return masks;
}

template <class... R>
constexpr auto chain_slot_names() {
  std::array<std::string_view, slots_of_all<R...>> names{};
  std::size_t n = 0;
  auto const add = [&]<class Rule>(std::type_identity<Rule>) {
    for (std::size_t i = 0; i != Rule::slots; ++i) names[n++] = slot_name<Rule>(i);
  };
  (add(std::type_identity<R>{}), ...);
  return names;
}

}  // namespace detail

/// Rules applied left to right in one pass. `chain<clip_grad_norm, scale_by_adam, scale_by_learning_rate>{}` or
/// `chain{clip_grad_norm{.max_norm = 1}, ...}`.
template <UpdateRule... Rules>
struct chain {
  static constexpr std::size_t slots = detail::slots_of_all<Rules...>;
  static constexpr auto slot_names = detail::chain_slot_names<Rules...>();
  static constexpr auto slot_masks = detail::chain_masks<Rules...>();
  static constexpr bool needs_gradient_norm = (detail::needs_gradient_norm<Rules>() || ...);

  std::tuple<Rules...> rules{};

  constexpr chain() = default;
  constexpr chain(Rules const&... r)
    requires(sizeof...(Rules) > 0)
      : rules{r...} {}

  constexpr unsigned used_slots() const {
    unsigned mask = 0;
    std::size_t shift = 0;
    std::apply(
        [&](auto const&... r) {
          ((mask |= detail::used_slots(r) << shift, shift += std::remove_cvref_t<decltype(r)>::slots), ...);
        },
        rules);
    return mask;
  }

  /// Names of settings that several rules share get a number: "eps", "eps_2".
  template <class Visitor>
  void settings(Visitor&& visit) {
    // A schedule comes through here at every step: names are counted anew instead of being kept in memory.
    std::size_t position = 0;
    auto const numbered = [&](std::string_view name, auto& value) {
      int times = 1;
      std::size_t index = 0;
      auto const count = [&](std::string_view other, auto&) { times += index++ < position && other == name; };
      std::apply([&](auto&... r) { (detail::visit_settings(r, count), ...); }, rules);
      ++position;
      if (times == 1) visit(name, value);
      else visit(std::string_view{std::string{name} + "_" + std::to_string(times)}, value);
    };
    std::apply([&](auto&... r) { (detail::visit_settings(r, numbered), ...); }, rules);
  }

  template <class T>
  constexpr auto at(update_step step) const {
    return std::apply(
        [&](auto const&... r) {
          return make(detail::update_with_slots<std::remove_cvref_t<decltype(r)>::slots, detail::update_function<std::remove_cvref_t<decltype(r)>, T>>{
              r.template at<T>(step)}...);
        },
        rules);
  }

 private:
  static constexpr detail::chained_update<> make() { return {}; }
  template <class U, class... Rest>
  static constexpr detail::chained_update<U, Rest...> make(U const& first, Rest const&... rest) {
    return {first.function, make(rest...)};
  }
};

}  // namespace mortise
