// Rows of a table, looked up by index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <mortise/operation/map.hpp>

namespace mortise {

/// y[i] = table[index[i]].
///
/// index   (count)               in 0 ... rows - 1; any other gives a row of NaN, so that the mistake shows, and reads nothing
/// table   (rows, width)
/// y       (count, width)
template <class T>
void embedding_forward(host const& device, std::size_t count, std::size_t rows, std::size_t width, std::int64_t const* index, T const* table, T* y) {
  detail::for_each_row_block(device, count, width, [=](std::size_t first, std::size_t n) {
    for (std::size_t i = first; i < first + n; ++i) {
      T* const to = y + i * width;
      if (static_cast<std::uint64_t>(index[i]) < rows) {
        device.copy(to, table + static_cast<std::size_t>(index[i]) * width, width * sizeof(T));
      } else {
        for (std::size_t k = 0; k < width; ++k) to[k] = std::numeric_limits<T>::quiet_NaN();
      }
    }
  });
}

/// dtable[r] = sum of dy[i] over index[i] = r, in ascending i; overwrites all of dtable. Indices out of range count for no row.
template <class T>
void embedding_backward(host const& device, std::size_t count, std::size_t rows, std::size_t width, std::int64_t const* index, T const* dy, T* dtable) {
  // A piece owns some columns of every row: whatever the number of threads, each element is summed in one order.
  constexpr std::size_t columns = 64;
  for_each_piece(device, (width + columns - 1) / columns, [=](std::size_t piece) {
    std::size_t const first = piece * columns, n = width - first < columns ? width - first : columns;
    for (std::size_t r = 0; r < rows; ++r) device.fill_zero(dtable + r * width + first, n * sizeof(T));
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::uint64_t>(index[i]) >= rows) continue;
      T* const to = dtable + static_cast<std::size_t>(index[i]) * width + first;
      detail::for_this_cpu(detail::add_kernel<T>{to, dy + i * width + first, to, n});
    }
  });
}

}  // namespace mortise
