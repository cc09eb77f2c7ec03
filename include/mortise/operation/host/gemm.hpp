// The loops around the register tiles: packing, blocking, threads. None of them can change a bit (host/gemm_kernels.hpp says why), so they
// are free to follow the shapes and the thread count.
#pragma once

#include <cstddef>
#include <cstring>

#include <mortise/device/host.hpp>
#include <mortise/operation/host/gemm_kernels.hpp>

namespace mortise::detail {

/// c(i, j) = relu(sum over k of a(i, k) b(k, j) + bias), c row-major; a and b have unit stride along one of their axes.
template <class T>
struct product {
  std::size_t m, n, k;
  T const* a;
  std::size_t a_row, a_step;     // a[i * a_row + k * a_step]
  T const* b;
  std::size_t b_step, b_column;  // b[k * b_step + j * b_column]
  T* c;
  std::size_t c_row;
  T const* column_bias = nullptr;
  T const* row_bias = nullptr;
  bool accumulate = false;
  bool relu = false;
};

/// Panels of the vector operand; one per thread, in static storage since a training step may not allocate.
inline constexpr std::size_t gemm_panel_bytes = 320 * 1024;
inline constexpr std::size_t gemm_group_bytes = 128 * 1024;  // of panels packed at a time
inline constexpr std::size_t gemm_column_depth = 288;        // 784 and 1024 make three and four blocks of it
inline constexpr std::size_t gemm_tile_elements = 8 * 3 * 16;  // of the largest tile
inline constexpr std::size_t gemm_strip_bytes = 512 * 1024;
struct gemm_panel {
  alignas(64) unsigned char bytes[gemm_panel_bytes + gemm_strip_bytes];
};
inline unsigned char* gemm_panel_of_this_thread() {
  static thread_local gemm_panel panel;
  return panel.bytes;
}

struct range {
  std::size_t begin, end;
};
/// The `piece`-th of `pieces` nearly equal parts of 0 ... count - 1.
inline range part_of(std::size_t count, std::size_t pieces, std::size_t piece) {
  return {count * piece / pieces, count * (piece + 1) / pieces};
}

/// Elements from one packed panel or strip to the next, of `elements` each: an odd number of cache lines, since many of them are written side by
/// side, and at a multiple of 4 kB they would evict each other.
template <class T>
inline std::size_t packed_distance(std::size_t elements) {
  std::size_t const line = 64 / sizeof(T);
  return ((elements + line - 1) / line | 1) * line;
}

/// Columns of a matrix turned into strips of a tile's rows: column i, step k, comes to to[i / tall * strip + k * tall + i % tall]; what the
/// last strip lacks repeats the last column. 96 columns at a time: whole lines, and many of a page, are read in order.
template <class T>
void pack_strips(T const* from, std::size_t step, std::size_t count, std::size_t k, std::size_t tall, T* to, std::size_t strip) {
  std::size_t const whole = count / tall * tall;
  for (std::size_t group = 0; group < whole; group += 96) {
    std::size_t const end = whole - group < 96 ? whole : group + 96;
    for (std::size_t at = 0; at < k; ++at) {
      T const* const line = from + at * step;
      T* into = to + group / tall * strip + at * tall;
      for (std::size_t r = group; r < end; r += tall, into += strip) {
        std::memcpy(into, line + r, 4 * sizeof(T));
        if (tall == 6) std::memcpy(into + 4, line + r + 4, 2 * sizeof(T));
        if (tall == 8) std::memcpy(into + 4, line + r + 4, 4 * sizeof(T));
      }
    }
  }
  to += whole / tall * strip;
  if (whole < count)
    for (std::size_t at = 0; at < k; ++at)
      for (std::size_t r = 0; r < tall; ++r) to[at * tall + r] = from[at * step + (whole + r < count ? whole + r : count - 1)];
}

/// Rows [rows) and columns [columns) of a product, with b as the vector operand.
///
/// Sums are cut into blocks of k, rows into chunks, columns into panels of a tile's width, panels into groups of what the second cache can
/// spare: for each block and chunk, groups are packed (or b is read in place), and every tile of the chunk runs down a panel.
/// `strips`: a is read along its columns, far apart, so each chunk of it is packed too.
template <class T>
void product_direct(product<T> const& g, gemm_kernels<T> const& kernels, bool strips, range rows, range columns) {
  std::size_t const lanes = kernels.lanes;
  std::size_t const tile_rows = strips ? kernels.strip_rows : kernels.rows, tile_vectors = strips ? kernels.strip_vectors : kernels.vectors;
  std::size_t const width_limit = lanes * tile_vectors;
  T* const panels = reinterpret_cast<T*>(gemm_panel_of_this_thread());
  T* const strip_memory = reinterpret_cast<T*>(gemm_panel_of_this_thread() + gemm_panel_bytes);
  // Tiles load and store whole vectors: what lies past the last column stays in these.
  alignas(64) T edge[gemm_tile_elements];
  alignas(64) T edge_bias[gemm_tile_elements / 8];
  std::size_t depth_limit = gemm_panel_bytes / sizeof(T) / width_limit - 32;
  // Columns of a in place touch one line a step: few enough that the second level keeps them for the neighbouring tile.
  if ((strips || g.a_step != 1) && depth_limit > gemm_column_depth) depth_limit = gemm_column_depth;
  std::size_t const blocks = (g.k + depth_limit - 1) / depth_limit;
  std::size_t const block = blocks > 1 ? (g.k + blocks - 1) / blocks : g.k;
  // Reading b in place costs the tiles 2 %, copying it about 14 rows' worth; but rows a large power of two apart evict each other.
  std::size_t const height_in_all = rows.end - rows.begin;
  bool const copying_pays = strips || height_in_all >= 512 || (height_in_all > 2 * kernels.rows && g.b_step * sizeof(T) % 1024 == 0);
  for (std::size_t done = 0; done < g.k || done == 0; done += block) {
    std::size_t const depth = g.k - done < block ? g.k - done : block;
    bool const last = done + depth == g.k;
    std::size_t const strip = packed_distance<T>(depth * tile_rows);
    std::size_t const chunk = strips ? gemm_strip_bytes / sizeof(T) / strip * tile_rows : height_in_all;
    for (std::size_t top = rows.begin; top < rows.end; top += chunk) {
      std::size_t const bottom = rows.end - top < chunk ? rows.end : top + chunk;
      if (strips) pack_strips(g.a + top + done * g.a_step, g.a_step, bottom - top, depth, tile_rows, strip_memory, strip);
      tile_task<T> t{};
      t.k = depth;
      t.p_row = strips ? 1 : g.a_row;
      t.p_step = strips ? tile_rows : g.a_step;
      t.accumulate = g.accumulate || done != 0;
      t.relu = g.relu && last;
      t.finish = last && (g.relu || g.column_bias != nullptr || g.row_bias != nullptr);
      std::size_t panels_left = (columns.end - columns.begin + width_limit - 1) / width_limit;
      for (std::size_t j = columns.begin, packed_begin = j, packed_end = j; j < columns.end; --panels_left) {
        // Panels of nearly the same number of vectors, the wider ones first: a last panel of a single vector would starve the multipliers.
        std::size_t const vectors_left = (columns.end - j + lanes - 1) / lanes;
        std::size_t const fair = (vectors_left + panels_left - 1) / panels_left, vectors = fair < 2 ? 2 : fair;
        std::size_t const width = vectors * lanes;
        std::size_t const wanted = columns.end - j < width ? columns.end - j : width;
        bool const narrow = wanted < width;
        T const* const b = g.b + done * g.b_step + j * g.b_column;
        if (g.b_column != 1) {
          kernels.transposed({depth, wanted, b, g.b_column, panels, width, 0});
          t.q = panels;
          t.q_step = width;
        } else if (narrow || copying_pays) {
          std::size_t const distance = packed_distance<T>(depth * width);
          if (j >= packed_end) {
            std::size_t const of_this_width = vectors_left - (fair - 1) * panels_left;
            std::size_t const fitting = gemm_group_bytes / sizeof(T) / distance, most = fitting == 0 ? 1 : fitting;
            std::size_t const count = (most < of_this_width ? most : of_this_width) * width;
            packed_begin = j;
            packed_end = columns.end - j < count ? columns.end : j + count;
            kernels.copied({depth, packed_end - j, b, g.b_step, panels, width, distance});
          }
          t.q = panels + (j - packed_begin) / width * distance;
          t.q_step = width;
        } else {
          t.q = b;
          t.q_step = g.b_step;
        }
        if (last && g.column_bias != nullptr) {
          t.column_bias = g.column_bias + j;
          if (narrow) {
            for (std::size_t x = 0; x < width; ++x) edge_bias[x] = x < wanted ? t.column_bias[x] : T{0};
            t.column_bias = edge_bias;
          }
        }
        for (std::size_t i = top; i < bottom;) {
          bool const low = bottom - i <= 4;
          std::size_t const height = low ? 4 : tile_rows;
          std::size_t const tall = bottom - i < height ? bottom - i : height;
          t.p = strips ? strip_memory + (i - top) / tile_rows * strip : g.a + i * g.a_row + done * g.a_step;
          t.rows = tall;
          if (last && g.row_bias != nullptr) t.row_bias = g.row_bias + i;
          T* const c = g.c + i * g.c_row + j;
          t.c = narrow ? edge : c;
          t.c_row = narrow ? width : g.c_row;
          if (narrow && t.accumulate)
            for (std::size_t r = 0; r < tall; ++r)
              for (std::size_t x = 0; x < width; ++x) edge[r * width + x] = x < wanted ? c[r * g.c_row + x] : T{0};
          (strips && !low && vectors == tile_vectors ? kernels.strip_tile : kernels.tiles[0][low][vectors - 2])(t);
          if (narrow)
            for (std::size_t r = 0; r < tall; ++r)
              for (std::size_t x = 0; x < wanted; ++x) c[r * g.c_row + x] = edge[r * width + x];
          i += tall;
        }
        j += wanted;
      }
    }
    if (depth == 0) break;
  }
}

/// The same with a as the vector operand and b read along k: nothing of b needs packing, which pays when there are few rows.
template <class T>
void product_transposed(product<T> const& g, gemm_kernels<T> const& kernels, range rows, range columns) {
  std::size_t const lanes = kernels.lanes;
  std::size_t const vectors_at_once = gemm_panel_bytes / (g.k * lanes * sizeof(T)) / 2 * 2;
  T* const panel = reinterpret_cast<T*>(gemm_panel_of_this_thread());
  while (rows.begin < rows.end) {
    std::size_t const chunk = rows.end - rows.begin < vectors_at_once * lanes ? rows.end - rows.begin : vectors_at_once * lanes;
    // Parts of two or more: the panel has room for an even number, and zeros fill what is missing.
    std::size_t const needed = (chunk + lanes - 1) / lanes, vectors = needed < 2 || kernels.vectors == 2 ? (needed + 1) / 2 * 2 : needed;
    std::size_t const panels = (vectors + kernels.vectors - 1) / kernels.vectors;
    for (std::size_t which = 0; which < panels; ++which) {
      range const v = part_of(vectors, panels, which);
      std::size_t const width = (v.end - v.begin) * lanes;
      std::size_t const i = v.begin * lanes;
      std::size_t const wanted = chunk - i < width ? chunk - i : width;
      T const* const a = g.a + (rows.begin + i) * g.a_row;
      (g.a_row == 1 ? kernels.copied : kernels.transposed)({g.k, wanted, a, g.a_row == 1 ? g.a_step : g.a_row, panel + i * g.k, width, 0});
    }
    for (std::size_t j = columns.begin; j < columns.end;) {
      bool const low = columns.end - j <= 4;
      std::size_t const height = low ? 4 : kernels.rows;
      std::size_t const tall = columns.end - j < height ? columns.end - j : height;
      tile_task<T> t{};
      t.k = g.k;
      t.p = g.b + j * g.b_column;
      t.p_row = g.b_column;
      t.p_step = g.b_step;
      t.rows = tall;
      t.relu = g.relu;
      alignas(64) T bounce_bias[8];
      if (g.column_bias != nullptr) {
        t.row_bias = g.column_bias + j;
        if (tall < height) {
          for (std::size_t x = 0; x < height; ++x) bounce_bias[x] = x < tall ? g.column_bias[j + x] : T{0};
          t.row_bias = bounce_bias;
        }
      }
      for (std::size_t which = 0; which < panels; ++which) {
        range const v = part_of(vectors, panels, which);
        std::size_t const width = (v.end - v.begin) * lanes;
        std::size_t const i = v.begin * lanes;
        std::size_t const wanted = chunk - i < width ? chunk - i : width;
        t.q = panel + i * g.k;
        t.q_step = width;
        t.columns = wanted;
        auto const run = kernels.tiles[1][low][v.end - v.begin - 2];
        T* const c = g.c + (rows.begin + i) * g.c_row + j;
        if (tall == height) {
          t.c = c;
          t.c_row = g.c_row;
          run(t);
        } else {
          alignas(64) T bounce[gemm_tile_elements];
          t.c = bounce;
          t.c_row = height;
          run(t);
          for (std::size_t r = 0; r < wanted; ++r)
            for (std::size_t x = 0; x < tall; ++x) c[r * g.c_row + x] = bounce[r * height + x];
        }
      }
      j += tall;
    }
    rows.begin += chunk;
  }
}

/// Whether transposing a's rows and the result costs less than transposing b. A row's bits are the same either way.
template <class T>
inline bool transposed_pays(product<T> const& g, gemm_kernels<T> const& kernels) {
  if (g.b_column == 1 || g.accumulate || g.row_bias != nullptr || g.k == 0) return false;
  if (2 * g.k * kernels.lanes * sizeof(T) > gemm_panel_bytes) return false;
  // Each transposition is paid per element of its matrix: n k for b; m k and m n for a and c.
  return g.m * (g.k + g.n) < g.n * g.k;
}

/// Whether sums in vector lanes replace the chains: for a single row, and for few columns over a long k. Decided by shape and layout alone,
/// and but for the single row without m.
template <class T>
inline bool dots_pay(product<T> const& g) {
  return g.a_step == 1 && g.b_step == 1 && g.b_column != 1 && g.row_bias == nullptr && (g.m == 1 || (g.n <= 16 && g.k >= 128));
}

inline constexpr std::size_t gemm_parallel_flops = 1u << 19;  // 2 us: sharing work with a thread that is awake costs 0.3

template <class T>
void run_product(host const& device, product<T> const& g) {
  gemm_kernels<T> const& kernels = gemm_kernels_for_this_cpu<T>();
  if (g.m == 0 || g.n == 0) return;
  std::size_t const threads = 2 * g.m * g.n * g.k < gemm_parallel_flops ? 1 : static_cast<std::size_t>(device.thread_count());
  if (dots_pay(g)) {
    bool const along_rows = g.m >= 4 * threads;
    std::size_t const unit = along_rows ? 4 : 16, limit = along_rows ? g.m : g.n;
    std::size_t const units = (limit + unit - 1) / unit, pieces = units < threads ? units : threads;
    for_each_piece(device, pieces, [&](std::size_t piece) {
      range const u = part_of(units, pieces, piece);
      std::size_t const begin = u.begin * unit, end = u.end * unit < limit ? u.end * unit : limit;
      std::size_t const i = along_rows ? begin : 0, j = along_rows ? 0 : begin;
      kernels.dot({along_rows ? end - begin : g.m, along_rows ? g.n : end - begin, g.k, g.a + i * g.a_row, g.a_row, g.b + j * g.b_column,
                   g.b_column, g.c + i * g.c_row + j, g.c_row, g.column_bias != nullptr ? g.column_bias + j : nullptr, g.relu, g.accumulate});
    });
    return;
  }
  bool const transposed = transposed_pays(g, kernels);
  // Rows as they lie are read in order, four at a time: packing them, too, was measured to cost more than the strip tile wins.
  bool const strips = g.a_step != 1 && g.a_row == 1 && g.a_step * sizeof(T) >= 1024 && g.n >= 96 && g.m >= 32 && g.k != 0;
  auto const run = [&](range rows, range columns) {
    if (transposed) product_transposed(g, kernels, rows, columns);
    else product_direct(g, kernels, strips, rows, columns);
  };
  if (threads == 1) return run({0, g.m}, {0, g.n});
  // Cut the axis whose operand is packed, so that no packing is done twice; but weights read in place are read by one thread each, and a few
  // rows cut in two would fill no tile of three vectors.
  std::size_t const vector_axis = transposed ? g.m : g.n, scalar_axis = transposed ? g.n : g.m;
  std::size_t const vectors = (vector_axis + kernels.lanes - 1) / kernels.lanes;
  bool const along_vectors = vectors >= 2 * threads && !(transposed && scalar_axis >= 16 * threads);
  std::size_t const units = along_vectors ? vectors : (scalar_axis + kernels.rows - 1) / kernels.rows;
  std::size_t const unit = along_vectors ? kernels.lanes : kernels.rows;
  std::size_t const limit = along_vectors ? vector_axis : scalar_axis;
  std::size_t const pieces = units < threads ? units : threads;
  for_each_piece(device, pieces, [&](std::size_t piece) {
    range const u = part_of(units, pieces, piece);
    range const cut{u.begin * unit, u.end * unit < limit ? u.end * unit : limit};
    if (along_vectors == transposed) run(cut, {0, g.n});
    else run({0, g.m}, cut);
  });
}

}  // namespace mortise::detail
