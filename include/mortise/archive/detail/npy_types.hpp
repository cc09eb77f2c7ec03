// NumPy's names of element types, without their byte order: of npy files and of NumPy's values in pickles.
#pragma once

#include <string_view>

#include <mortise/tensor/element_type.hpp>

namespace mortise::detail {

struct npy_type {
  std::string_view descr;
  element_type type;
};

inline constexpr npy_type npy_types[] = {
    {"b1", element_type::boolean}, {"u1", element_type::u8},  {"i1", element_type::i8},  {"u2", element_type::u16}, {"i2", element_type::i16},
    {"u4", element_type::u32},     {"i4", element_type::i32}, {"u8", element_type::u64}, {"i8", element_type::i64}, {"f2", element_type::f16},
    {"f4", element_type::f32},     {"f8", element_type::f64}, {"c8", element_type::c64}, {"c16", element_type::c128},
};

}  // namespace mortise::detail
