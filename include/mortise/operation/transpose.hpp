// Matrices turned over their diagonal.
#pragma once

#include <cstddef>

#include <mortise/operation/map.hpp>

namespace mortise {

/// y[b][j][i] = x[b][i][j].   x (batch, rows, columns)   y (batch, columns, rows), not x
template <class T>
void transpose_each(host const& device, std::size_t batch, std::size_t rows, std::size_t columns, T const* x, T* y) {
  // Tiles of a cache line: each line is read and written once.
  constexpr std::size_t tile = 64 / sizeof(T);
  detail::for_each_row_block(device, batch, rows * columns, [=](std::size_t first, std::size_t n) {
    for (std::size_t b = first; b < first + n; ++b) {
      T const* const from = x + b * rows * columns;
      T* const to = y + b * rows * columns;
      for (std::size_t top = 0; top < rows; top += tile)
        for (std::size_t left = 0; left < columns; left += tile) {
          std::size_t const bottom = rows - top < tile ? rows : top + tile, right = columns - left < tile ? columns : left + tile;
          for (std::size_t j = left; j < right; ++j)
            for (std::size_t i = top; i < bottom; ++i) to[j * rows + i] = from[i * columns + j];
        }
    }
  });
}

}  // namespace mortise
