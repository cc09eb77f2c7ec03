// A view: where the elements are, and their shape. Row-major, contiguous, not owning.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// Elements in the memory of some device, row-major and contiguous; `extents()` says their shape, batch first where there is a batch.
/// Only views into host memory may be indexed or iterated.
template <class T>
class view {
 public:
  using element_type = T;
  using value_type = std::remove_const_t<T>;

  constexpr view() = default;
  constexpr view(T* data, shape const& extents) : data_{data}, extents_{extents} {}
  /// A flat view of a container.
  view(std::vector<value_type>& values) : view{values.data(), shape{values.size()}} {}
  view(std::vector<value_type> const& values) requires std::is_const_v<T> : view{values.data(), shape{values.size()}} {}
  view(std::span<T> values) : view{values.data(), shape{values.size()}} {}
  view(std::span<value_type> values) requires std::is_const_v<T> : view{values.data(), shape{values.size()}} {}
  template <std::size_t N>
  view(std::array<value_type, N>& values) : view{values.data(), shape{N}} {}
  template <std::size_t N>
  view(std::array<value_type, N> const& values) requires std::is_const_v<T> : view{values.data(), shape{N}} {}
  template <std::size_t N>
  view(T (&values)[N]) : view{values, shape{N}} {}
  /// A container seen in a shape; throws shape_error when the number of elements differs.
  view(std::vector<value_type>& values, shape const& extents) : view{values.data(), extents} { check(values.size()); }
  view(std::vector<value_type> const& values, shape const& extents) requires std::is_const_v<T> : view{values.data(), extents} {
    check(values.size());
  }
  view(std::span<T> values, shape const& extents) : view{values.data(), extents} { check(values.size()); }
  constexpr view(view<value_type> const& other) requires std::is_const_v<T> : data_{other.data()}, extents_{other.extents()} {}
  constexpr view(view const&) = default;
  constexpr view& operator=(view const&) = default;

  constexpr T* data() const { return data_; }
  constexpr std::size_t size() const { return data_ == nullptr ? 0 : extents_.elements(); }
  constexpr bool empty() const { return size() == 0; }
  constexpr shape const& extents() const { return extents_; }
  constexpr std::size_t extent(std::size_t axis) const { return extents_[axis]; }
  constexpr std::size_t rank() const { return extents_.rank; }

  constexpr T* begin() const { return data_; }
  constexpr T* end() const { return data_ + size(); }
  constexpr T& operator[](std::size_t i) const { return data_[i]; }
  /// Element at (i0, i1, ...), one index for each axis.
  template <class... I>
  constexpr T& operator()(I... index) const {
    std::size_t const at[] = {static_cast<std::size_t>(index)...};
    std::size_t offset = 0;
    for (std::size_t k = 0; k < sizeof...(I); ++k) offset = offset * extents_[k] + at[k];
    return data_[offset];
  }

  std::span<T> span() const { return {data_, size()}; }
  operator std::span<T>() const { return span(); }
  std::vector<value_type> to_vector() const { return std::vector<value_type>(begin(), end()); }

 private:
  void check(std::size_t size) const {
    if (size != extents_.elements())
      throw shape_error("mortise::view: " + std::to_string(size) + " elements cannot be seen as " + to_string(extents_));
  }

  T* data_ = nullptr;
  shape extents_;
};

template <class T> view(T*, shape const&) -> view<T>;
template <class T> view(std::span<T>) -> view<T>;
template <class T> view(std::span<T>, shape const&) -> view<T>;
template <class T, std::size_t N> view(std::array<T, N>&) -> view<T>;
template <class T, std::size_t N> view(std::array<T, N> const&) -> view<T const>;
template <class T, std::size_t N> view(T (&)[N]) -> view<T>;
template <class T> view(std::vector<T>&) -> view<T>;
template <class T> view(std::vector<T> const&) -> view<T const>;
template <class T> view(std::vector<T>&, shape const&) -> view<T>;
template <class T> view(std::vector<T> const&, shape const&) -> view<T const>;

}  // namespace mortise
