// The fused update on the host.
#pragma once

#include <cstddef>
#include <cstring>

#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/operation/update_arrays.hpp>

namespace mortise {

namespace detail {

/// Elements of a piece for one thread, and the size from which on threads pay.
inline constexpr std::size_t update_piece = 16384;

/// The elements [begin, end) of the parts one after the other.
template <unsigned Used, class U, class T, std::size_t Slots>
struct update_kernel {
  update_part<U> const* parts;
  std::size_t part_count;
  std::size_t all;  // elements of all parts
  update_arrays<T, Slots> const& arrays;
  std::size_t begin;
  std::size_t end;

  template <class V>
  static MORTISE_INLINE void advance(U const& f, T* p, T const* g, T* const* s) {
    V slots[Slots == 0 ? 1 : Slots];
    load_slots<V>(slots, s);
    V const parameter = V::load(p);
    (parameter - f(parameter, V::load(g), slots)).store(p);
    store_slots<V>(slots, s);
  }
  template <class V, std::size_t I = 0>
  static MORTISE_INLINE void load_slots(V* slots, T* const* s) {
    if constexpr (I < Slots) {
      if constexpr ((Used >> I & 1u) != 0) slots[I] = V::load(s[I]);
      load_slots<V, I + 1>(slots, s);
    }
  }
  template <class V, std::size_t I = 0>
  static MORTISE_INLINE void store_slots(V const* slots, T* const* s) {
    if constexpr (I < Slots) {
      if constexpr ((Used >> I & 1u) != 0) slots[I].store(s[I]);
      store_slots<V, I + 1>(slots, s);
    }
  }

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    std::size_t at = 0;  // the last part that begins at or before `begin`
    for (std::size_t step = part_count; step > 1;) {
      step = (step + 1) / 2;
      if (at + step < part_count && parts[at + step].begin <= begin) at += step;
    }
    for (std::size_t from = begin; from < end; ++at) {
      std::size_t const part_end = at + 1 < part_count ? parts[at + 1].begin : all;
      std::size_t const to = part_end < end ? part_end : end;
      run<Bytes>(parts[at].function, parts[at].first + (from - parts[at].begin), to - from);
      from = to;
    }
  }
  template <int Bytes>
  MORTISE_INLINE void run(U const& function, std::size_t first, std::size_t count) const {
    using V = arithmetic_simd<T, Bytes>;
    constexpr std::size_t w = V::width;
    U const f = function;  // a copy: what is stored below cannot alias it, so its broadcasts leave the loop
    T* p = arrays.parameters + first;
    T const* g = arrays.gradients + first;
    T* s[Slots == 0 ? 1 : Slots];
    for (std::size_t k = 0; k < Slots; ++k) s[k] = (Used >> k & 1u) != 0 ? arrays.slots[k] + first : nullptr;
    std::size_t const whole = count / w;
    for (std::size_t n = 0; n < whole; ++n) {
      advance<V>(f, p, g, s);
      p += w;
      g += w;
      for (std::size_t k = 0; k < Slots; ++k)
        if ((Used >> k & 1u) != 0) s[k] += w;
    }
    if (std::size_t const rest = count % w) {
      // The last vector goes through a copy, with the same arithmetic as all others.
      T local[2 + Slots][w] = {};
      T* slots[Slots == 0 ? 1 : Slots] = {};
      std::memcpy(local[0], p, rest * sizeof(T));
      std::memcpy(local[1], g, rest * sizeof(T));
      for (std::size_t k = 0; k < Slots; ++k) {
        slots[k] = local[2 + k];
        if ((Used >> k & 1u) != 0) std::memcpy(slots[k], s[k], rest * sizeof(T));
      }
      advance<V>(f, local[0], local[1], slots);
      std::memcpy(p, local[0], rest * sizeof(T));
      for (std::size_t k = 0; k < Slots; ++k)
        if ((Used >> k & 1u) != 0) std::memcpy(s[k], slots[k], rest * sizeof(T));
    }
  }
};

}  // namespace detail

template <unsigned Used, class U, class T, std::size_t Slots>
void update_parts(host const& device, update_part<U> const* parts, std::size_t part_count, std::size_t count, update_arrays<T, Slots> const& arrays) {
  using kernel = detail::update_kernel<Used, U, T, Slots>;
  if (count <= 2 * detail::update_piece) {
    detail::for_this_cpu(kernel{parts, part_count, count, arrays, 0, count});
    return;
  }
  std::size_t const pieces = (count + detail::update_piece - 1) / detail::update_piece;
  for_each_piece(device, pieces, [&](std::size_t piece) {
    std::size_t const begin = piece * detail::update_piece;
    detail::for_this_cpu(kernel{parts, part_count, count, arrays, begin, begin + detail::update_piece < count ? begin + detail::update_piece : count});
  });
}

}  // namespace mortise
