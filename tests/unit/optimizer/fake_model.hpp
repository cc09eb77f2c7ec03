// A stand-in with just what an optimizer asks of a model.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include <mortise/device/host.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

namespace mt = mortise;

struct fake_entry {
  std::string_view name;
  mt::shape extents;
  std::size_t offset;
  std::size_t size;
  bool trainable;
};
template <std::size_t N>
struct fake_table {
  fake_entry entries[N];
  constexpr std::size_t size() const { return N; }
  constexpr fake_entry const& operator[](std::size_t i) const { return entries[i]; }
};

/// Four trainable parameters of odd sizes, and one that is frozen by its type.
template <class T>
struct fake_model {
  using element = T;
  using device_type = mt::host;
  static constexpr std::size_t trainable_count = 37;
  static constexpr fake_table<5> parameter_table{{{"features.0.weight", {3, 5}, 0, 15, true},
                                                  {"features.0.bias", {3}, 15, 3, true},
                                                  {"classifier.weight", {4, 4}, 18, 16, true},
                                                  {"classifier.bias", {3}, 34, 3, true},
                                                  {"backbone.weight", {4}, 37, 4, false}}};

  mt::host host{};
  std::vector<T> values = std::vector<T>(41);
  std::vector<T> slopes = std::vector<T>(37);

  mt::host const& device() const { return host; }
  mt::view<T> parameters() { return mt::view<T>{values}; }
  mt::view<T> gradients() { return mt::view<T>{slopes}; }
};
