// The loops around the register tiles: packing, blocking, threads. None of them can change a bit (host/gemm_kernels.hpp says why), so they
// are free to follow the shapes and the thread count.
#pragma once

#include <cstddef>

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

/// What a thread packs, in static storage since a training step may not allocate.
inline constexpr std::size_t gemm_panel_bytes = 256 * 1024;   // of the vector operand: at least one panel of `gemm_depth`
inline constexpr std::size_t gemm_turned_bytes = 640 * 1024;  // of the other
inline constexpr std::size_t gemm_group_bytes = 160 * 1024;   // of panels packed at a time, to be found in the second cache
/// Sums are cut into blocks of so many steps. Each block costs a pass over c, but turned rows should outlive one panel in the second cache.
inline constexpr std::size_t gemm_depth = 1024;
inline constexpr std::size_t gemm_turned_depth = 288;  // 784 and 1024 make three and four blocks of it
inline constexpr std::size_t gemm_tile_elements = 8 * 3 * 16;  // of the largest tile
template <class T>
alignas(64) inline constexpr T gemm_no_bias[gemm_tile_elements / 8] = {};
struct gemm_memory {
  alignas(64) unsigned char panels[gemm_panel_bytes];
  alignas(64) unsigned char turned[gemm_turned_bytes];
};
inline gemm_memory& gemm_memory_of_this_thread() {
  static thread_local gemm_memory memory;
  return memory;
}

struct range {
  std::size_t begin, end;
};
/// The `piece`-th of `pieces` nearly equal parts of 0 ... count - 1.
inline range part_of(std::size_t count, std::size_t pieces, std::size_t piece) {
  return {count * piece / pieces, count * (piece + 1) / pieces};
}

/// Elements from one packed panel or row to the next, of `elements` each: an odd number of cache lines, since many of them are read or written
/// side by side, and at a multiple of 4 kB they would evict each other.
template <class T>
inline std::size_t packed_distance(std::size_t elements) {
  std::size_t const line = 64 / sizeof(T);
  return ((elements + line - 1) / line | 1) * line;
}

/// Columns [begin, end) of a panel's tiles: its q, and where c is written.
template <class T>
struct panel {
  T const* q;
  std::size_t q_step;
  std::size_t column, width, wanted;  // width - wanted of them exist in the panel only
};

/// One panel of a product, rows [rows): p has `p_row` elements from one of them to the next.
template <class T>
void run_panel(product<T> const& g, gemm_kernels<T> const& kernels, panel<T> const& of, T const* p, std::size_t p_row, std::size_t depth, range rows,
               bool accumulate, bool last) {
  // Tiles load and store whole vectors: what lies past the last column stays in these.
  alignas(64) T edge[gemm_tile_elements];
  alignas(64) T edge_bias[gemm_tile_elements / 8];
  bool const narrow = of.wanted < of.width;
  tile_task<T> t{};
  t.k = depth;
  t.p_row = p_row;
  t.q = of.q;
  t.q_step = of.q_step;
  t.accumulate = accumulate;
  t.relu = g.relu;
  t.finish = last && (g.relu || g.column_bias != nullptr || g.row_bias != nullptr);
  t.column_bias = g.column_bias != nullptr ? g.column_bias + of.column : gemm_no_bias<T>;
  if (narrow && t.finish) {
    for (std::size_t x = 0; x < of.width; ++x) edge_bias[x] = x < of.wanted ? t.column_bias[x] : T{0};
    t.column_bias = edge_bias;
  }
  t.row_bias_step = g.row_bias != nullptr ? 1 : 0;
  t.row_bias = g.row_bias != nullptr ? g.row_bias + rows.begin : gemm_no_bias<T>;
  t.p = p;
  t.c_row = narrow ? of.width : g.c_row;
  auto const run = kernels.tiles[of.width / kernels.lanes - 2];
  T* c = g.c + rows.begin * g.c_row + of.column;
  for (std::size_t left = rows.end - rows.begin; left != 0; left -= t.rows) {
    t.rows = left < kernels.rows ? left : kernels.rows;
    t.c = narrow ? edge : c;
    if (narrow && accumulate)
      for (std::size_t r = 0; r < t.rows; ++r)
        for (std::size_t x = 0; x < of.width; ++x) edge[r * of.width + x] = x < of.wanted ? c[r * g.c_row + x] : T{0};
    // What the next tile adds to, or overwrites: on the way while this one computes, if that is long enough to pay.
    if (depth >= 192 && !narrow)
      for (std::size_t r = t.rows, end = left < 2 * t.rows ? left : 2 * t.rows; r < end; ++r) {
        __builtin_prefetch(c + r * g.c_row);
        __builtin_prefetch(c + r * g.c_row + of.width - 1);
      }
    run(t);
    if (narrow)
      for (std::size_t r = 0; r < t.rows; ++r)
        for (std::size_t x = 0; x < of.wanted; ++x) c[r * g.c_row + x] = edge[r * of.width + x];
    t.p += t.rows * p_row;
    t.row_bias += t.rows * t.row_bias_step;
    c += t.rows * g.c_row;
  }
}

/// Rows [rows) and columns [columns) of a product, with b as the vector operand.
///
/// Sums are cut into blocks of k, rows into chunks, columns into panels of a tile's width, panels into groups of what the second cache can
/// spare. For each block and chunk, groups are packed (or b is read in place), and every tile of the chunk runs down a panel.
/// Where a's rows do not lie along k, each chunk of them is turned first.
template <class T>
void product_direct(product<T> const& g, gemm_kernels<T> const& kernels, range rows, range columns) {
  std::size_t const lanes = kernels.lanes;
  gemm_memory& memory = gemm_memory_of_this_thread();
  T* const panels = reinterpret_cast<T*>(memory.panels);
  T* const turned = reinterpret_cast<T*>(memory.turned);
  bool const turning = g.a_step != 1;
  std::size_t const height = rows.end - rows.begin;
  std::size_t const limit = turning ? gemm_turned_depth : gemm_depth;
  std::size_t const blocks = (g.k + limit - 1) / limit, block = blocks > 1 ? (g.k + blocks - 1) / blocks : g.k;
  // Reading b in place costs the tiles 2 %, copying it about 14 rows' worth; but rows a large power of two apart evict each other.
  bool const copying_pays = height >= 512 || (height > 16 && g.b_step * sizeof(T) % 1024 == 0);
  for (std::size_t done = 0; done < g.k || done == 0; done += block) {
    std::size_t const depth = g.k - done < block ? g.k - done : block;
    bool const last = done + depth == g.k, accumulate = g.accumulate || done != 0;
    std::size_t const turned_row = packed_distance<T>(depth);
    std::size_t const chunk = turning ? gemm_turned_bytes / sizeof(T) / turned_row / 48 * 48 : height;
    for (std::size_t top = rows.begin; top < rows.end; top += chunk) {
      std::size_t const bottom = rows.end - top < chunk ? rows.end : top + chunk;
      T const* p = g.a + top * g.a_row + done;
      std::size_t p_row = g.a_row;
      if (turning) {
        p = turned;
        p_row = turned_row;
        // 48 rows at a time: their lines stay in the first cache until they are full.
        for (std::size_t i = top; i < bottom; i += 48)
          kernels.transposed({bottom - i < 48 ? bottom - i : 48, depth, g.a + i * g.a_row + done * g.a_step, g.a_step, turned + (i - top) * turned_row,
                              turned_row, (depth + lanes - 1) / lanes * lanes, 0});
      }
      std::size_t panels_left = ((columns.end - columns.begin + lanes - 1) / lanes + kernels.vectors - 1) / kernels.vectors;
      for (std::size_t j = columns.begin; j < columns.end;) {
        // Panels of nearly the same number of vectors, the wider ones first: a last panel of a single vector would starve the multipliers.
        std::size_t const vectors_left = (columns.end - j + lanes - 1) / lanes;
        std::size_t const fair = (vectors_left + panels_left - 1) / panels_left, width = (fair < 2 ? 2 : fair) * lanes;
        std::size_t const of_this_width = fair < 2 ? 1 : vectors_left - (fair - 1) * panels_left;
        std::size_t const distance = packed_distance<T>(depth * width), fitting = gemm_group_bytes / sizeof(T) / distance, most = fitting == 0 ? 1 : fitting;
        bool const in_place = g.b_column == 1 && !copying_pays && columns.end - j >= width;
        std::size_t const count = in_place ? 1 : most < of_this_width ? most : of_this_width;
        std::size_t const end = columns.end - j < count * width ? columns.end : j + count * width;
        T const* const b = g.b + done * g.b_step + j * g.b_column;
        if (g.b_column != 1) {
          for (std::size_t x = j, at = 0; x < end; x += width, at += distance)
            kernels.transposed({depth, end - x < width ? end - x : width, b + (x - j) * g.b_column, g.b_column, panels + at, width, width, 0});
        } else if (!in_place) {
          kernels.copied({depth, end - j, b, g.b_step, panels, width, width, distance});
        }
        for (std::size_t x = j, at = 0; x < end; x += width, at += distance)
          run_panel(g, kernels, {in_place ? b : panels + at, in_place ? g.b_step : width, x, width, end - x < width ? end - x : width}, p, p_row, depth,
                    {top, bottom}, accumulate, last);
        panels_left -= count;
        j = end;
      }
    }
    if (depth == 0) break;
  }
}

/// The same by way of c's transpose, b a^T: nothing of b needs packing, which pays when there are few rows.
template <class T>
void product_transposed(product<T> const& g, gemm_kernels<T> const& kernels, range rows, range columns) {
  std::size_t const lanes = kernels.lanes;
  T* const turned = reinterpret_cast<T*>(gemm_memory_of_this_thread().turned);  // b lies along k, so this is free
  for (std::size_t i = rows.begin; i < rows.end;) {
    std::size_t const height = rows.end - i < 256 ? rows.end - i : 256;
    std::size_t const row = packed_distance<T>(height), most = gemm_turned_bytes / sizeof(T) / row;
    for (std::size_t j = columns.begin; j < columns.end;) {
      std::size_t const width = columns.end - j < most ? columns.end - j : most;
      product<T> const part{width, height, g.k, g.b + j * g.b_column, g.b_column, 1, g.a + i * g.a_row, g.a_step, g.a_row, turned, row, nullptr,
                            g.column_bias != nullptr ? g.column_bias + j : nullptr, false, g.relu};
      product_direct(part, kernels, {0, width}, {0, height});
      std::size_t const whole = width / lanes * lanes;
      T* const c = g.c + i * g.c_row + j;
      kernels.transposed({height, whole, turned, row, c, g.c_row, whole, 0});
      for (std::size_t y = whole; y < width; ++y)
        for (std::size_t x = 0; x < height; ++x) c[x * g.c_row + y] = turned[y * row + x];
      j += width;
    }
    i += height;
  }
}

/// Whether transposing a's rows and the result costs less than transposing b. A row's bits are the same either way.
template <class T>
inline bool transposed_pays(product<T> const& g) {
  if (g.b_column == 1 || g.accumulate || g.row_bias != nullptr || g.k == 0) return false;
  // Each transposition is paid per element of its matrix: n k for b; m k and m n for a and c.
  return g.m * (g.k + g.n) < g.n * g.k;
}

/// Whether sums in vector lanes replace the chains: for a single row, and for few columns over a long k. Decided by shape and layout alone,
/// and but for the single row without m.
template <class T>
inline bool dots_pay(product<T> const& g) {
  return g.a_step == 1 && g.b_step == 1 && g.b_column != 1 && g.row_bias == nullptr && (g.m == 1 || (g.n <= 4 && g.k >= 128));
}

inline constexpr std::size_t gemm_parallel_flops = 1u << 19;  // 2 us: sharing work with a thread that is awake costs 0.3

template <class T>
void run_product(host const& device, product<T> const& g) {
  gemm_kernels<T> const& kernels = gemm_kernels_for_this_cpu<T>();
  if (g.m == 0 || g.n == 0) return;
  std::size_t const threads = 2 * g.m * g.n * g.k < gemm_parallel_flops ? 1 : static_cast<std::size_t>(device.thread_count());
  if (dots_pay(g)) {
    bool const single = g.m == 1;
    std::size_t const many = single ? g.n : g.m, unit = 16, units = (many + unit - 1) / unit, pieces = units < threads ? units : threads;
    for_each_piece(device, pieces, [&](std::size_t piece) {
      range const u = part_of(units, pieces, piece);
      std::size_t const end = u.end * unit < many ? u.end * unit : many;
      // A few columns share what they read of 64 rows.
      for (std::size_t at = u.begin * unit, next; at < end; at = next) {
        next = single || end - at < 64 ? end : at + 64;
        if (single)
          kernels.dot({next - at, g.k, g.a, g.b + at * g.b_column, g.b_column, g.c + at, 1, g.column_bias != nullptr ? g.column_bias + at : nullptr, 1,
                       g.relu, g.accumulate});
        for (std::size_t j = 0; !single && j < g.n; ++j)
          kernels.dot({next - at, g.k, g.b + j * g.b_column, g.a + at * g.a_row, g.a_row, g.c + at * g.c_row + j, g.c_row,
                       g.column_bias != nullptr ? g.column_bias + j : nullptr, 0, g.relu, g.accumulate});
      }
    });
    return;
  }
  bool const transposed = transposed_pays(g);
  auto const run = [&](range rows, range columns) {
    if (transposed) product_transposed(g, kernels, rows, columns);
    else product_direct(g, kernels, rows, columns);
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
