// Convolution of many channels, as products of matrices whose vectors run over channels.
//
// A map is turned to (row, column, lane): W neighbouring channels side by side. Then a convolution is a few products
//
//   M_s (positions, out channels) = V_s (positions, depth_s) U_s (depth_s, out channels)
//
// where V_s is cut from the input and U_s from the weight, in one of two ways:
//
// * taps: V holds, for each position and each tap, the channels under that tap (depth = taps x channels). Forward is one product. The gradient
//   of the input is one product for each residue of the input's row and column modulo the stride: inputs of one residue meet the same taps.
// * Winograd's F(4 x 4, 3 x 3) for windows of 3 x 3 with stride 1: positions are tiles of 4 x 4 outputs, s runs over the 36 points of the
//   transformed tile, depth = channels; a quarter of the multiplications. Lavin and Gray 2016, arXiv:1509.09308, section 4.3. The
//   gradient of the weight is the transpose of that same bilinear map.
//
// Every element of M is one chain of multiply-adds in ascending depth. Neither the chunks of samples that pass through the cache
// together nor threads change that; and a gradient of the weight, whose chain runs over the positions of the whole batch, goes on from chunk to chunk.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/detail/simd.hpp>
#include <mortise/device/host.hpp>
#include <mortise/operation/host/conv2d_direct.hpp>

namespace mortise::detail {

inline constexpr std::size_t panel_channels = 32;   // channels are padded to a multiple: two vectors of any kind
inline constexpr std::size_t panel_pieces = 8;      // pieces that have scratch memory of their own
inline constexpr std::size_t winograd_points = 36;
inline constexpr std::size_t panel_cache = 192 * 1024;  // elements of V that a chunk of samples may have, where a sample does not have more

/// A tap that destinations (row + a spacing, column + b spacing) of one class share: source (a step + row, b step + column).
struct panel_tap {
  std::ptrdiff_t row, column;
  std::size_t weight;  // place in the kernel
};
struct panel_class {
  std::size_t row, column, height, width, first_tap, taps;
};

/// One direction of a convolution (without groups).
struct panel_plan {
  static constexpr std::size_t most_taps = 64, most_classes = 16;

  std::size_t src_c, src_h, src_w, dst_c, dst_h, dst_w;
  std::size_t weight_src, weight_dst;  // how far apart the weights of two source, two destination channels are
  std::size_t kernel;
  bool winograd, flipped;              // flipped: the kernel is read backwards
  std::size_t pad_h, pad_w;            // of the source, for winograd
  std::size_t step_h, step_w, spacing_h, spacing_w, classes;
  panel_class cls[most_classes];
  panel_tap tap[most_taps];

  static constexpr std::size_t padded(std::size_t c) { return (c + panel_channels - 1) / panel_channels * panel_channels; }
  constexpr std::size_t src_padded() const { return padded(src_c); }
  constexpr std::size_t dst_padded() const { return padded(dst_c); }
  constexpr std::size_t tiles_h() const { return (dst_h + 3) / 4; }
  constexpr std::size_t tiles_w() const { return (dst_w + 3) / 4; }
  constexpr std::size_t products() const { return winograd ? winograd_points : classes; }
  /// Rows of V for each sample and its columns, of product s.
  constexpr std::size_t rows(std::size_t s) const { return winograd ? tiles_h() * tiles_w() : cls[s].height * cls[s].width; }
  constexpr std::size_t depth(std::size_t s) const { return winograd ? src_padded() : cls[s].taps * src_padded(); }

  // Elements of V, M, U (of one panel, `columns` wide) and D for product s. The products begin a cache line more than that apart: the 36
  // points of a tile would else fall into the same set of the cache.
  constexpr std::size_t v_step(std::size_t s) const { return chunk() * rows(s) * depth(s) + 16; }
  constexpr std::size_t m_step(std::size_t s, std::size_t columns) const { return chunk() * rows(s) * columns + 16; }
  constexpr std::size_t u_step(std::size_t s, std::size_t columns) const { return depth(s) * columns + 16; }
  constexpr std::size_t d_step() const { return chunk() * rows(0) * dst_padded() + 16; }
  constexpr std::size_t v_elements() const {
    std::size_t n = 0;
    for (std::size_t s = 0; s < products(); ++s) n += v_step(s);
    return n;
  }
  constexpr std::size_t m_elements(std::size_t columns) const {
    std::size_t n = 0;
    for (std::size_t s = 0; s < products(); ++s) n += m_step(s, columns);
    return n;
  }
  constexpr std::size_t u_elements(std::size_t columns) const {
    std::size_t n = 0;
    for (std::size_t s = 0; s < products(); ++s) n += u_step(s, columns);
    return n;
  }
  /// The weight's gradient has one matrix for each point or tap.
  constexpr std::size_t gradients() const { return winograd ? winograd_points : kernel; }
  constexpr std::size_t du_step(std::size_t columns) const { return dst_c * columns + 16; }

  /// Samples that pass through the cache together, at most: their V should stay in the second cache, but have rows enough to pay for reading U.
  constexpr std::size_t chunk() const {
    std::size_t sample = 1, most_rows = 1;
    for (std::size_t s = 0; s < products(); ++s) {
      sample += rows(s) * depth(s);
      if (rows(s) > most_rows) most_rows = rows(s);
    }
    std::size_t const by_cache = panel_cache / sample, by_rows = dst_padded() / 8 / most_rows;
    std::size_t const n = by_cache < by_rows ? by_rows : by_cache;
    return n == 0 ? 1 : n;
  }
  /// A map in lanes; winograd adds the padding and what the last tiles reach.
  constexpr std::size_t lane_h() const { return winograd ? 4 * tiles_h() + 2 : src_h; }
  constexpr std::size_t lane_w() const { return winograd ? 4 * tiles_w() + 2 : src_w; }
  constexpr std::size_t src_lanes() const { return lane_h() * lane_w() * conv2d_lanes; }
  constexpr std::size_t dst_lanes() const { return dst_h * dst_w * conv2d_lanes; }
};

constexpr bool panels_apply(conv2d_sizes const& s) {
  return s.groups == 1 && s.kernel() <= panel_plan::most_taps && s.stride_h * s.stride_w <= panel_plan::most_classes && s.in_c >= 16 && s.out_c >= 16;
}
constexpr bool winograd_applies(conv2d_sizes const& s) {
  return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 && s.dilation_w == 1 && s.pad_h <= 2 &&
         s.pad_w <= 2 && s.in_c >= 32 && s.out_c >= 32 && s.out_h >= 4 && s.out_w >= 4;
}

constexpr panel_plan panel_forward_plan(conv2d_sizes const& s) {
  panel_plan p{};
  p.src_c = s.in_c, p.src_h = s.in_h, p.src_w = s.in_w, p.dst_c = s.out_c, p.dst_h = s.out_h, p.dst_w = s.out_w;
  p.weight_src = s.kernel(), p.weight_dst = s.taps(), p.kernel = s.kernel();
  p.winograd = winograd_applies(s), p.pad_h = s.pad_h, p.pad_w = s.pad_w;
  p.step_h = s.stride_h, p.step_w = s.stride_w, p.spacing_h = p.spacing_w = 1, p.classes = 1;
  p.cls[0] = {0, 0, s.out_h, s.out_w, 0, s.kernel()};
  for (std::size_t t = 0; t < s.kernel(); ++t)
    p.tap[t] = {static_cast<std::ptrdiff_t>(t / s.kernel_w * s.dilation_h) - static_cast<std::ptrdiff_t>(s.pad_h),
                static_cast<std::ptrdiff_t>(t % s.kernel_w * s.dilation_w) - static_cast<std::ptrdiff_t>(s.pad_w), t};
  return p;
}

constexpr panel_plan panel_backward_input_plan(conv2d_sizes const& s) {
  panel_plan p{};
  p.src_c = s.out_c, p.src_h = s.out_h, p.src_w = s.out_w, p.dst_c = s.in_c, p.dst_h = s.in_h, p.dst_w = s.in_w;
  p.weight_src = s.taps(), p.weight_dst = s.kernel(), p.kernel = s.kernel();
  p.winograd = winograd_applies(s), p.flipped = true, p.pad_h = 2 - (s.pad_h < 2 ? s.pad_h : 2), p.pad_w = 2 - (s.pad_w < 2 ? s.pad_w : 2);
  p.step_h = p.step_w = 1, p.spacing_h = s.stride_h, p.spacing_w = s.stride_w;
  std::size_t taps = 0;
  for (std::size_t r = 0; r < s.stride_h && r < s.in_h; ++r)
    for (std::size_t c = 0; c < s.stride_w && c < s.in_w; ++c) {
      panel_class& k = p.cls[p.classes++];
      k = {r, c, (s.in_h - r - 1) / s.stride_h + 1, (s.in_w - c - 1) / s.stride_w + 1, taps, 0};
      for (std::size_t t = 0; t < s.kernel(); ++t) {
        auto const row = static_cast<std::ptrdiff_t>(r + s.pad_h) - static_cast<std::ptrdiff_t>(t / s.kernel_w * s.dilation_h);
        auto const column = static_cast<std::ptrdiff_t>(c + s.pad_w) - static_cast<std::ptrdiff_t>(t % s.kernel_w * s.dilation_w);
        auto const sh = static_cast<std::ptrdiff_t>(s.stride_h), sw = static_cast<std::ptrdiff_t>(s.stride_w);
        if (row % sh != 0 || column % sw != 0) continue;
        p.tap[taps++] = {row / sh, column / sw, t};
        ++k.taps;
      }
    }
  return p;
}

// ---- Winograd's transforms, along one side of a tile -----------------------------------------------------------------------------------

/// B^T d: six inputs to six points.
struct winograd_input {
  static constexpr int from = 6, to = 6;
  template <class V>
  MORTISE_INLINE static void apply(V const (&d)[6], V (&o)[6]) {
    V const four{4}, five{5}, two{2};
    V const a = d[4] - four * d[2], b = d[3] - four * d[1], c = d[4] - d[2], e = two * (d[3] - d[1]);
    o[0] = four * d[0] - five * d[2] + d[4];
    o[1] = a + b, o[2] = a - b, o[3] = c + e, o[4] = c - e;
    o[5] = four * d[1] - five * d[3] + d[5];
  }
};
/// G g: three weights to six points.
struct winograd_weight {
  static constexpr int from = 3, to = 6;
  template <class V>
  MORTISE_INLINE static void apply(V const (&g)[3], V (&o)[6]) {
    using T = typename V::value_type;
    V const quarter{T{1} / 4}, sixth{T{1} / 6}, small{T{1} / 24}, twelfth{T{1} / 12};
    V const ends = sixth * (g[0] + g[2]), middle = sixth * g[1], a = small * g[0] + sixth * g[2], b = twelfth * g[1];
    o[0] = quarter * g[0], o[1] = -ends - middle, o[2] = middle - ends, o[3] = a + b, o[4] = a - b, o[5] = g[2];
  }
};
/// A^T m: six points to four outputs.
struct winograd_output {
  static constexpr int from = 6, to = 4;
  template <class V>
  MORTISE_INLINE static void apply(V const (&m)[6], V (&o)[4]) {
    V const two{2}, four{4}, eight{8};
    V const s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    o[0] = m[0] + s1 + s2, o[1] = d1 + two * d2, o[2] = s1 + four * s2, o[3] = d1 + eight * d2 + m[5];
  }
};
/// A g: the transpose of winograd_output.
struct winograd_output_gradient {
  static constexpr int from = 4, to = 6;
  template <class V>
  MORTISE_INLINE static void apply(V const (&y)[4], V (&o)[6]) {
    V const two{2}, four{4}, eight{8};
    V const a = y[0] + y[2], b = y[1] + y[3], c = y[0] + four * y[2], d = two * y[1] + eight * y[3];
    o[0] = y[0], o[1] = a + b, o[2] = a - b, o[3] = c + d, o[4] = c - d, o[5] = y[3];
  }
};
/// G^T m: the transpose of winograd_weight.
struct winograd_weight_gradient {
  static constexpr int from = 6, to = 3;
  template <class V>
  MORTISE_INLINE static void apply(V const (&m)[6], V (&o)[3]) {
    using T = typename V::value_type;
    V const quarter{T{1} / 4}, sixth{T{1} / 6}, small{T{1} / 24}, twelfth{T{1} / 12};
    V const s1 = m[1] + m[2], s2 = m[3] + m[4];
    o[0] = quarter * m[0] - sixth * s1 + small * s2;
    o[1] = sixth * (m[2] - m[1]) + twelfth * (m[3] - m[4]);
    o[2] = sixth * (s2 - s1) + m[5];
  }
};

/// Both sides of a tile: element (i, j) of the result is at to[i * to_row + j * to_column]; the same for `from`.
template <class Side, int W, class T>
MORTISE_INLINE void winograd_tile(T const* from, std::size_t from_row, std::size_t from_column, T* to, std::size_t to_row, std::size_t to_column) {
  using vec = simd<T, W>;
  alignas(64) T half[Side::to * Side::from * W];
  for (std::size_t j = 0; j < Side::from; ++j) {
    vec in[Side::from], out[Side::to];
    MORTISE_UNROLL(6)
    for (std::size_t i = 0; i < Side::from; ++i) in[i] = vec::load(from + i * from_row + j * from_column);
    Side::apply(in, out);
    MORTISE_UNROLL(6)
    for (std::size_t i = 0; i < Side::to; ++i) out[i].store(half + (i * Side::from + j) * W);
  }
  for (std::size_t i = 0; i < Side::to; ++i) {
    vec in[Side::from], out[Side::to];
    MORTISE_UNROLL(6)
    for (std::size_t j = 0; j < Side::from; ++j) in[j] = vec::load(half + (i * Side::from + j) * W);
    Side::apply(in, out);
    MORTISE_UNROLL(6)
    for (std::size_t j = 0; j < Side::to; ++j) out[j].store(to + i * to_row + j * to_column);
  }
}

// ---- the product -------------------------------------------------------------------------------------------------------------------------

/// c (m, 2 W) = or += p (m, k) q (k, 2 W), p[i * p_row + l * p_step].
template <int Bytes, class T>
MORTISE_INLINE void panel_product(T const* p, std::size_t p_row, std::size_t p_step, T const* q, std::size_t q_step, T* c, std::size_t m, std::size_t k,
                                  bool accumulate) {
  constexpr int W = Bytes / static_cast<int>(sizeof(T)), Rows = Bytes == 64 ? 8 : 6;
  constexpr std::size_t c_row = 2 * static_cast<std::size_t>(W), block = 32768 / (2 * Bytes);  // half of the first cache
  using vec = simd<T, W>;
  using reg = typename vec::reg;
  if (k == 0 && !accumulate)
    for (std::size_t i = 0; i < m * c_row; ++i) c[i] = T{0};
  for (std::size_t done = 0; done < k; done += block) {
    std::size_t const terms = k - done < block ? k - done : block;
    for (std::size_t i = 0; i < m; i += Rows) {
      std::size_t const last = m - i - 1;  // rows beyond it repeat it
      T const* row[Rows];
      reg sum[Rows][2];
      MORTISE_UNROLL(8)
      for (std::size_t r = 0; r < Rows; ++r) {
        std::size_t const at = i + (r < last ? r : last);
        row[r] = p + at * p_row + done * p_step;
        if (accumulate || done != 0) sum[r][0] = vec::load(c + at * c_row).v, sum[r][1] = vec::load(c + at * c_row + W).v;
        else sum[r][0] = sum[r][1] = vec{}.v;
      }
      T const* b = q + done * q_step;
      std::size_t at = 0;
      for (std::size_t l = terms; l != 0; --l, b += q_step, at += p_step) {
        reg const left = vec::load(b).v, right = vec::load(b + W).v;
        MORTISE_UNROLL(8)
        for (int r = 0; r < Rows; ++r) {
          vec const a{row[r][at]};
          sum[r][0] = fma(a, vec{left}, vec{sum[r][0]}).v;
          sum[r][1] = fma(a, vec{right}, vec{sum[r][1]}).v;
        }
      }
      MORTISE_UNROLL(8)
      for (std::size_t r = 0; r < Rows; ++r) {
        T* const to = c + (i + (r < last ? r : last)) * c_row;
        vec{sum[r][0]}.store(to);
        vec{sum[r][1]}.store(to + W);
      }
    }
  }
}

// ---- V from maps ----------------------------------------------------------------------------------------------------------------------------

/// Units [begin, end) of a chunk, unit = (sample, W channels): maps to lanes to V. `lanes` is scratch memory of one map.
template <class T>
struct panel_gather {
  panel_plan const* plan;
  T const* src;
  T* v;
  T* lanes;
  std::size_t begin, end;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    constexpr int W = static_cast<int>(width);
    panel_plan const& p = *plan;
    std::size_t const blocks = p.src_padded() / width, map = p.src_h * p.src_w;
    if (p.winograd)
      for (std::size_t i = 0; i < p.lane_h() * p.lane_w(); ++i) simd<T, W>{}.store(lanes + i * width);
    for (std::size_t unit = begin; unit < end; ++unit) {
      std::size_t const n = unit / blocks, c = unit % blocks * width;
      std::size_t const present = c >= p.src_c ? 0 : p.src_c - c < width ? p.src_c - c : width;
      T const* const from = src + (n * p.src_c + (present == 0 ? 0 : c)) * map;
      if (p.winograd) {
        samples_to_lanes<turned_lanes<W, T>>(from, map, present, map, lanes, width, {p.src_w, p.src_h, p.lane_w() - p.src_w, 0, p.pad_h * p.lane_w() + p.pad_w});
        std::size_t const tiles = p.rows(0), depth = p.src_padded(), point = p.v_step(0);
        T* to = v + n * tiles * depth + c;
        for (std::size_t i = 0; i < p.tiles_h(); ++i)
          for (std::size_t j = 0; j < p.tiles_w(); ++j, to += depth)
            winograd_tile<winograd_input, W>(lanes + (4 * i * p.lane_w() + 4 * j) * width, p.lane_w() * width, width, to, 6 * point, point);
      } else {
        samples_to_lanes<turned_lanes<W, T>>(from, map, present, map, lanes, width, {map, 1, 0, 0, 0});
        T* product = v;
        for (std::size_t s = 0; s < p.classes; ++s) {
          panel_class const& k = p.cls[s];
          T* to = product + n * p.rows(s) * p.depth(s) + c;
          for (std::size_t a = 0; a < k.height; ++a)
            for (std::size_t b = 0; b < k.width; ++b)
              for (std::size_t t = k.first_tap; t < k.first_tap + k.taps; ++t, to += p.src_padded()) {
                std::size_t const row = a * p.step_h + static_cast<std::size_t>(p.tap[t].row), column = b * p.step_w + static_cast<std::size_t>(p.tap[t].column);
                simd<T, W> value;
                if (row < p.src_h && column < p.src_w) value = simd<T, W>::load(lanes + (row * p.src_w + column) * width);
                value.store(to);
              }
          product += p.v_step(s);
        }
      }
    }
  }
};

/// The gradient of the output as the other operand of the weight's gradient: (rows, channels) for each product. Units as above.
template <class T>
struct panel_gather_gradient {
  panel_plan const* plan;  // forward
  T const* dy;
  T* d;
  T* lanes;
  std::size_t begin, end;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    constexpr int W = static_cast<int>(width);
    panel_plan const& p = *plan;
    std::size_t const depth = p.dst_padded(), blocks = depth / width, map = p.dst_h * p.dst_w;
    // Whole tiles: what lies outside the map is zero.
    std::size_t const lane_w = p.winograd ? 4 * p.tiles_w() : p.dst_w, lane_h = p.winograd ? 4 * p.tiles_h() : p.dst_h;
    for (std::size_t i = 0; i < lane_h * lane_w; ++i) simd<T, W>{}.store(lanes + i * width);
    for (std::size_t unit = begin; unit < end; ++unit) {
      std::size_t const n = unit / blocks, c = unit % blocks * width;
      std::size_t const present = c >= p.dst_c ? 0 : p.dst_c - c < width ? p.dst_c - c : width;
      samples_to_lanes<turned_lanes<W, T>>(dy + (n * p.dst_c + (present == 0 ? 0 : c)) * map, map, present, map, lanes, width,
                                          {p.dst_w, p.dst_h, lane_w - p.dst_w, 0, 0});
      T* to = d + n * p.rows(0) * depth + c;
      if (p.winograd) {
        std::size_t const point = p.d_step();
        for (std::size_t i = 0; i < p.tiles_h(); ++i)
          for (std::size_t j = 0; j < p.tiles_w(); ++j, to += depth)
            winograd_tile<winograd_output_gradient, W>(lanes + (4 * i * lane_w + 4 * j) * width, lane_w * width, width, to, 6 * point, point);
      } else {
        for (std::size_t i = 0; i < map; ++i) simd<T, W>::load(lanes + i * width).store(to + i * depth);
      }
    }
  }
};

// ---- U from the weight, M to maps -----------------------------------------------------------------------------------------------------------

/// U of one panel of destination channels: (product, depth, 2 W).
template <class T>
struct panel_weights {
  panel_plan const* plan;
  T const* weight;
  T* u;
  std::size_t panel;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    constexpr int W = static_cast<int>(width);
    panel_plan const& p = *plan;
    std::size_t const depth = p.src_padded();
    for (std::size_t half = 0; half < 2; ++half) {
      std::size_t const first = (2 * panel + half) * width;
      for (std::size_t c = 0; c < depth; ++c) {
        // The kernels of W destination channels for source channel c, by taps.
        alignas(64) T taps[panel_plan::most_taps * width];
        for (std::size_t lane = 0; lane < width; ++lane) {
          bool const real = c < p.src_c && first + lane < p.dst_c;
          T const* const w = weight + (real ? c * p.weight_src + (first + lane) * p.weight_dst : 0);
          for (std::size_t t = 0; t < p.kernel; ++t) taps[t * width + lane] = real ? w[t] : T{0};
        }
        T* to = u + c * 2 * width + half * width;
        if (p.winograd) {
          std::size_t const point = p.u_step(0, 2 * width);
          if (p.flipped) {
            for (std::size_t t = 0; t < 4; ++t) {
              auto const a = simd<T, W>::load(taps + t * width), b = simd<T, W>::load(taps + (8 - t) * width);
              b.store(taps + t * width);
              a.store(taps + (8 - t) * width);
            }
          }
          winograd_tile<winograd_weight, W>(taps, 3 * width, width, to, 6 * point, point);
        } else {
          for (std::size_t s = 0; s < p.classes; to += p.u_step(s, 2 * width), ++s)
            for (std::size_t t = 0; t < p.cls[s].taps; ++t)
              simd<T, W>::load(taps + p.tap[p.cls[s].first_tap + t].weight * width).store(to + t * depth * 2 * width);
        }
      }
    }
  }
};

/// One panel of destination channels of a chunk: the products, then M to maps.
template <class T>
struct panel_compute {
  panel_plan const* plan;
  T const* v;
  T const* u;
  T const* bias;  // or null
  T* m;
  T* lanes;
  T* dst;
  std::size_t panel, samples;
  bool relu;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    panel_plan const& p = *plan;
    T const* factor = v;
    T const* weights = u;
    T* to = m;
    for (std::size_t s = 0; s < p.products(); ++s) {
      std::size_t const rows = p.rows(s), depth = p.depth(s);
      panel_product<Bytes>(factor, depth, 1, weights, 2 * width, to, samples * rows, depth, false);
      factor += p.v_step(s);
      weights += p.u_step(s, 2 * width);
      to += p.m_step(s, 2 * width);
    }
    for (std::size_t half = 0; half < 2; ++half) scatter<static_cast<int>(width)>(half);
  }

 private:
  template <int W>
  MORTISE_INLINE void scatter(std::size_t half) const {
    using vec = simd<T, W>;
    constexpr std::size_t width = static_cast<std::size_t>(W);
    panel_plan const& p = *plan;
    std::size_t const first = (2 * panel + half) * width, map = p.dst_h * p.dst_w;
    if (first >= p.dst_c) return;
    std::size_t const present = p.dst_c - first < width ? p.dst_c - first : width;
    vec shift;
    if (bias != nullptr) {
      alignas(64) T some[width] = {};
      for (std::size_t i = 0; i < present; ++i) some[i] = bias[first + i];
      shift = vec::load(some);
    }
    auto const store = [&](vec const& sum, std::size_t row, std::size_t column) MORTISE_LAMBDA_INLINE {
      vec value = sum + shift;
      if (relu) value = max(vec{}, value);
      value.store(lanes + (row * p.dst_w + column) * width);
    };
    for (std::size_t n = 0; n < samples; ++n) {
      if (p.winograd) {
        std::size_t const tiles = p.rows(0), point = p.m_step(0, 2 * width);
        T const* from = m + n * tiles * 2 * width + half * width;
        for (std::size_t i = 0; i < p.tiles_h(); ++i)
          for (std::size_t j = 0; j < p.tiles_w(); ++j, from += 2 * width) {
            alignas(64) T tile[16 * width];
            winograd_tile<winograd_output, W>(from, 6 * point, point, tile, 4 * width, width);
            for (std::size_t a = 0; a < 4 && 4 * i + a < p.dst_h; ++a)
              for (std::size_t b = 0; b < 4 && 4 * j + b < p.dst_w; ++b) store(vec::load(tile + (4 * a + b) * width), 4 * i + a, 4 * j + b);
          }
      } else {
        T const* product = m;
        for (std::size_t s = 0; s < p.classes; ++s) {
          panel_class const& k = p.cls[s];
          T const* from = product + n * p.rows(s) * 2 * width + half * width;
          for (std::size_t a = 0; a < k.height; ++a)
            for (std::size_t b = 0; b < k.width; ++b, from += 2 * width)
              store(vec::load(from), k.row + a * p.spacing_h, k.column + b * p.spacing_w);
          product += p.m_step(s, 2 * width);
        }
      }
      lanes_to_samples<turned_lanes<W, T>>(lanes, width, map, dst + (n * p.dst_c + first) * map, map, present);
    }
  }
};

/// One panel of source channels: dU (product or tap, destination channel, 2 W) goes on by a chunk; after the last one, dU to the weight's gradient.
template <class T>
struct panel_weight_gradient {
  panel_plan const* plan;  // forward
  T const* v;
  T const* d;
  T* du;
  T* dweight;
  std::size_t panel, samples;
  bool first_chunk, last_chunk;

  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    panel_plan const& p = *plan;
    std::size_t const rows = p.rows(0), depth = p.depth(0);
    for (std::size_t s = 0; s < p.gradients(); ++s) {
      T const* const q = v + (p.winograd ? s * p.v_step(0) : s * p.src_padded()) + panel * 2 * width;
      T const* const g = d + (p.winograd ? s * p.d_step() : 0);
      panel_product<Bytes>(g, 1, p.dst_padded(), q, depth, du + s * p.du_step(2 * width), p.dst_c, samples * rows, !first_chunk);
    }
    if (last_chunk) finish<static_cast<int>(width)>();
  }

 private:
  template <int W>
  MORTISE_INLINE void finish() const {
    constexpr std::size_t width = static_cast<std::size_t>(W);
    panel_plan const& p = *plan;
    std::size_t const point = p.du_step(2 * width);
    for (std::size_t o = 0; o < p.dst_c; ++o)
      for (std::size_t half = 0; half < 2; ++half) {
        std::size_t const first = (2 * panel + half) * width;
        if (first >= p.src_c) continue;
        std::size_t const present = p.src_c - first < width ? p.src_c - first : width;
        T const* from = du + o * 2 * width + half * width;
        alignas(64) T taps[9 * width];
        std::size_t next = point;
        if (p.winograd) {
          winograd_tile<winograd_weight_gradient, W>(from, 6 * point, point, taps, 3 * width, width);
          from = taps, next = width;
        }
        T* const to = dweight + o * p.weight_dst + first * p.weight_src;
        for (std::size_t lane = 0; lane < present; ++lane)
          for (std::size_t t = 0; t < p.kernel; ++t) to[lane * p.weight_src + t] = from[t * next + lane];
      }
  }
};

/// dbias[c] = sum of the maps of channel c over the batch, in ascending order.
template <class T>
struct panel_bias_gradient {
  T const* dy;
  std::size_t batch, channels, map, begin, end;
  T* dbias;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr std::size_t width = Bytes / sizeof(T);
    using vec = simd<T, static_cast<int>(width)>;
    for (std::size_t c = begin; c < end; ++c) {
      typename vec::reg sum[2] = {vec{}.v, vec{}.v};
      T rest{0};
      for (std::size_t n = 0; n < batch; ++n) {
        T const* const from = dy + (n * channels + c) * map;
        std::size_t i = 0;
        for (; i + 2 * width <= map; i += 2 * width) sum[0] += vec::load(from + i).v, sum[1] += vec::load(from + i + width).v;
        for (; i < map; ++i) rest += from[i];
      }
      dbias[c] = sum_lanes(vec{sum[0] + sum[1]}) + rest;
    }
  }
};

// ---- the batch ----------------------------------------------------------------------------------------------------------------------------

constexpr std::size_t panel_max(std::size_t a, std::size_t b) { return a < b ? b : a; }

// Panels are 2 W columns wide, so their number depends on the processor and the element type; these bounds hold for all.
constexpr std::size_t panel_narrowest = 4;
constexpr std::size_t panel_all(std::size_t elements_per_column, std::size_t steps, std::size_t columns) {
  return elements_per_column * columns + 16 * steps * (columns / panel_narrowest);
}
/// V, U of all panels, and for each piece M of a panel and a map in lanes.
constexpr std::size_t panel_apply_workspace(panel_plan const& p) {
  std::size_t depth = 0;
  for (std::size_t s = 0; s < p.products(); ++s) depth += p.depth(s);
  return p.v_elements() + panel_all(depth, p.products(), p.dst_padded()) +
         panel_pieces * (p.m_elements(panel_channels) + panel_max(p.src_lanes(), p.dst_lanes()));
}
constexpr std::size_t panel_weight_workspace(panel_plan const& p) {
  return p.v_elements() + (p.winograd ? winograd_points : 1) * p.d_step() + panel_all(p.gradients() * p.dst_c, p.gradients(), p.src_padded()) +
         panel_pieces * panel_max(p.src_lanes(), 16 * p.tiles_h() * p.tiles_w() * conv2d_lanes);
}

/// Runs f(piece, begin, end) over parts of `count` units.
template <class F>
void for_each_panel_range(host const& device, std::size_t count, F const& f) {
  std::size_t const pieces = device.thread_count() == 1 ? 1 : count < panel_pieces ? count : panel_pieces;
  for_each_piece(device, pieces, [&](std::size_t piece) { f(piece, count * piece / pieces, count * (piece + 1) / pieces); });
}

template <class T>
void panel_apply(host const& device, panel_plan const& p, std::size_t batch, T const* src, T const* weight, T const* bias, T* dst, T* workspace, bool relu) {
  std::size_t const width = samples_in_vector<T>(), panels = p.dst_padded() / (2 * width), chunk = p.chunk() < batch ? p.chunk() : batch;
  T* const v = workspace;
  T* const u = v + p.v_elements();
  std::size_t const u_elements = p.u_elements(2 * width), m_elements = p.m_elements(2 * width), slot = m_elements + panel_max(p.src_lanes(), p.dst_lanes());
  T* const slots = u + panels * u_elements;
  bool const once = chunk >= batch;  // then U is made where it is used, and stays in the cache
  if (!once)
    for_each_panel_range(device, panels, [&](std::size_t, std::size_t begin, std::size_t end) {
      for (std::size_t panel = begin; panel < end; ++panel) for_this_cpu(panel_weights<T>{&p, weight, u + panel * u_elements, panel});
    });
  for (std::size_t first = 0; first < batch; first += chunk) {
    std::size_t const samples = batch - first < chunk ? batch - first : chunk;
    for_each_panel_range(device, samples * p.src_padded() / width, [&](std::size_t piece, std::size_t begin, std::size_t end) {
      for_this_cpu(panel_gather<T>{&p, src + first * p.src_c * p.src_h * p.src_w, v, slots + piece * slot + m_elements, begin, end});
    });
    for_each_panel_range(device, panels, [&](std::size_t piece, std::size_t begin, std::size_t end) {
      for (std::size_t panel = begin; panel < end; ++panel) {
        T* const weights = u + (once ? begin : panel) * u_elements;
        if (once) for_this_cpu(panel_weights<T>{&p, weight, weights, panel});
        for_this_cpu(panel_compute<T>{&p, v, weights, bias, slots + piece * slot, slots + piece * slot + m_elements,
                                      dst + first * p.dst_c * p.dst_h * p.dst_w, panel, samples, relu});
      }
    });
  }
}

template <class T>
void panel_backward_weight(host const& device, panel_plan const& p, std::size_t batch, T const* x, T const* dy, T* dweight, T* dbias, T* workspace) {
  std::size_t const width = samples_in_vector<T>(), panels = p.src_padded() / (2 * width), chunk = p.chunk() < batch ? p.chunk() : batch;
  std::size_t const du_elements = p.gradients() * p.du_step(2 * width);
  T* const v = workspace;
  T* const d = v + p.v_elements();
  T* const du = d + (p.winograd ? winograd_points : 1) * p.d_step();
  T* const slots = du + panels * du_elements;
  std::size_t const slot = panel_max(p.src_lanes(), 16 * p.tiles_h() * p.tiles_w() * conv2d_lanes);
  bool const once = chunk >= batch;
  for (std::size_t first = 0; first < batch; first += chunk) {
    std::size_t const samples = batch - first < chunk ? batch - first : chunk;
    for_each_panel_range(device, samples * p.src_padded() / width, [&](std::size_t piece, std::size_t begin, std::size_t end) {
      for_this_cpu(panel_gather<T>{&p, x + first * p.src_c * p.src_h * p.src_w, v, slots + piece * slot, begin, end});
    });
    for_each_panel_range(device, samples * p.dst_padded() / width, [&](std::size_t piece, std::size_t begin, std::size_t end) {
      for_this_cpu(panel_gather_gradient<T>{&p, dy + first * p.dst_c * p.dst_h * p.dst_w, d, slots + piece * slot, begin, end});
    });
    for_each_panel_range(device, panels, [&](std::size_t, std::size_t begin, std::size_t end) {
      for (std::size_t panel = begin; panel < end; ++panel)
        for_this_cpu(panel_weight_gradient<T>{&p, v, d, du + (once ? begin : panel) * du_elements, dweight, panel, samples, first == 0, first + samples == batch});
    });
  }
  if (dbias != nullptr)
    for_each_panel_range(device, p.dst_c, [&](std::size_t, std::size_t begin, std::size_t end) {
      for_this_cpu(panel_bias_gradient<T>{dy, batch, p.dst_c, p.dst_h * p.dst_w, begin, end, dbias});
    });
}

}  // namespace mortise::detail
