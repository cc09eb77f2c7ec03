// What a batch_loader asks of data.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include <mortise/tensor/shape.hpp>

namespace mortise {

/// Numbered samples of one shape, each with a target of one shape.
///
///     value_type, target_type   the element types of samples and targets
///     size()                    number of samples
///     sample_extents()          shape of one sample
///     target_extents()          shape of one target; rank 0 for a class index
///     read(i, x, y)             writes sample i < size() to x and its target to y, every element of both; may throw
///
/// A loader keeps a copy and reads it from one thread at a time, so a data set is best a handle whose copies share their samples.
/// `static constexpr bool in_memory = true` says that `read` only copies: a loader then fetches small batches without a thread.
template <class D>
concept Dataset = std::copy_constructible<D> && std::is_trivially_copyable_v<typename D::value_type> &&
                  std::is_trivially_copyable_v<typename D::target_type> &&
                  requires(D const& data, std::size_t i, typename D::value_type* x, typename D::target_type* y) {
                    { data.size() } -> std::convertible_to<std::size_t>;
                    { data.sample_extents() } -> std::convertible_to<shape>;
                    { data.target_extents() } -> std::convertible_to<shape>;
                    data.read(i, x, y);
                  };

namespace detail {
template <class D>
constexpr bool reads_from_memory() {
  if constexpr (requires { D::in_memory; }) return D::in_memory;
  else return false;
}
}  // namespace detail

}  // namespace mortise
