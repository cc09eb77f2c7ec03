// Convolution on the host. See operation/conv2d.hpp for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include <mortise/device/host.hpp>
#include <mortise/operation/conv2d_workspace.hpp>
#include <mortise/operation/gemm.hpp>
#include <mortise/operation/window2d.hpp>
#include <mortise/operation/host/conv2d_direct.hpp>
#include <mortise/operation/host/conv2d_panels.hpp>

namespace mortise {

namespace detail {

constexpr std::size_t conv2d_larger(std::size_t a, std::size_t b) { return a < b ? b : a; }

/// Elements of scratch memory that one piece of a batch needs, in any direction.
constexpr std::size_t conv2d_direct_scratch(conv2d_sizes const& s) {
  return conv2d_larger(conv2d_direct_forward_scratch(s),
                       conv2d_larger(conv2d_direct_backward_input_scratch(s), conv2d_direct_backward_weight_scratch(s)));
}
/// Elements of one partial gradient: weight and bias.
constexpr std::size_t conv2d_partial(conv2d_sizes const& s) { return conv2d_round_up(s.groups * s.out_c * (s.taps() + 1)); }

/// to[i] = sum over the parts, in ascending order.
template <class T>
struct sum_parts {
  static constexpr int most_bytes = 32;
  T const* part;
  std::size_t step, parts, n;
  T* to;
  template <int Bytes>
  MORTISE_INLINE void operator()() const {
    constexpr int W = Bytes / static_cast<int>(sizeof(T));
    using vec = simd<T, W>;
    std::size_t i = 0;
    for (; i + static_cast<std::size_t>(W) <= n; i += static_cast<std::size_t>(W)) {
      vec sum = vec::load(part + i);
      for (std::size_t p = 1; p < parts; ++p) sum += vec::load(part + p * step + i);
      sum.store(to + i);
    }
    for (; i < n; ++i) {
      T sum = part[i];
      for (std::size_t p = 1; p < parts; ++p) sum += part[p * step + i];
      to[i] = sum;
    }
  }
};

/// Pieces of a batch that have scratch memory of their own: fewer where it is large.
constexpr std::size_t conv2d_pieces(conv2d_sizes const& s) {
  std::size_t const n = (std::size_t{1} << 22) / conv2d_direct_scratch(s);
  return n < 1 ? 1 : n < conv2d_most_pieces ? n : conv2d_most_pieces;
}

/// A geometry and what follows from it, so that it is found when the program is compiled.
struct conv2d_direct_plan {
  conv2d_sizes sizes;
  std::size_t scratch, partial, pieces;
};
constexpr conv2d_direct_plan conv2d_direct_plan_of(conv2d_sizes const& s) { return {s, conv2d_direct_scratch(s), conv2d_partial(s), conv2d_pieces(s)}; }

/// Pieces of `count` things that may run at the same time; for results that do not depend on the cut.
inline std::size_t conv2d_pieces(host const& device, conv2d_direct_plan const& p, std::size_t count) {
  std::size_t const wanted = device.thread_count() == 1 ? 1 : p.pieces;
  return count < wanted ? count : wanted;
}

template <class T>
void conv2d_direct_forward_batch(host const& device, conv2d_direct_plan const& plan, std::size_t batch, T const* x, T const* weight, T const* bias, T* y,
                                 T* workspace, bool relu) {
  conv2d_sizes const& s = plan.sizes;
  std::size_t const pieces = conv2d_pieces(device, plan, batch);
  for_each_piece(device, pieces, [&](std::size_t piece) {
    std::size_t const begin = batch * piece / pieces, end = batch * (piece + 1) / pieces;
    T* const copies = workspace + piece * plan.scratch;
    auto* const offset = reinterpret_cast<std::uint32_t*>(copies + conv2d_round_up(conv2d_direct_copies(s)) + 4 * conv2d_lanes);
    auto* const copied = reinterpret_cast<conv2d_copied*>(offset + conv2d_round_up(2 * s.kernel()));
    conv2d_direct_tables(s, offset, copied);
    if (s.pad_h + s.pad_w != 0) device.fill_zero(copies, conv2d_direct_copies(s) * sizeof(T));
    for_this_cpu(conv2d_direct_forward<T>{s, x + begin * s.groups * s.in_group(), weight, bias, y + begin * s.groups * s.out_group(), copies, offset,
                                          copied, end - begin, relu});
  });
}

template <int Rows, class T>
void conv2d_direct_backward_input_batch(host const& device, conv2d_direct_plan const& plan, std::size_t batch, T const* dy, T const* weight, T* dx,
                                        T* workspace) {
  conv2d_sizes const& s = plan.sizes;
  constexpr std::size_t pad = conv2d_row_tile - 1;
  std::size_t const dy_w = conv2d_direct_dy_width(s), dy_rows = s.groups * s.out_c * s.out_h, dy_elements = dy_rows * dy_w;
  std::size_t const in_elements = s.groups * s.in_group(), out_elements = s.groups * s.out_group();
  std::size_t const width = samples_in_vector<T>(), blocks = (batch + width - 1) / width, pieces = conv2d_pieces(device, plan, blocks);
  for_each_piece(device, pieces, [&](std::size_t piece) {
    T* const dy_lanes = workspace + piece * plan.scratch;
    T* const dx_lanes = dy_lanes + dy_elements * width;
    auto* const taps = reinterpret_cast<std::uint32_t*>(dx_lanes + in_elements * width);
    for (std::size_t row = 0; row < dy_rows; ++row) {
      device.fill_zero(dy_lanes + row * dy_w * width, pad * width * sizeof(T));
      device.fill_zero(dy_lanes + (row * dy_w + pad + s.out_w) * width, pad * width * sizeof(T));
    }
    for (std::size_t block = blocks * piece / pieces; block < blocks * (piece + 1) / pieces; ++block) {
      std::size_t const first = block * width, samples = batch - first < width ? batch - first : width;
      for_this_cpu(samples_to_lanes_task<T>{dy + first * out_elements, out_elements, samples, out_elements, dy_lanes, width,
                                                {s.out_w, s.out_h, 2 * pad, 0, pad}});
      for_this_cpu(conv2d_direct_backward_input<T, Rows>{s, weight, dy_lanes, dx_lanes, taps});
      for_this_cpu(lanes_to_samples_task<T>{dx_lanes, width, in_elements, dx + first * in_elements, in_elements, samples});
    }
  });
}

template <int Columns, bool Sliding, class T>
void conv2d_direct_backward_weight_batch(host const& device, conv2d_direct_plan const& plan, std::size_t batch, T const* x, T const* dy, T* dweight,
                                         T* dbias, T* workspace) {
  conv2d_sizes const& s = plan.sizes;
  std::size_t const partial = plan.partial, x_elements = s.groups * s.in_c * s.padded_h() * s.padded_w();
  std::size_t const in_elements = s.groups * s.in_group(), out_elements = s.groups * s.out_group(), weights = s.groups * s.out_c * s.taps();
  // The cut into partial sums depends on the batch alone (and on the vector's length).
  std::size_t const width = samples_in_vector<T>(), blocks = (batch + width - 1) / width;
  std::size_t const pieces = blocks < plan.pieces ? blocks : plan.pieces;
  std::size_t const most = conv2d_weight_rows_here(Columns), rows = most < s.out_c ? most : s.out_c;
  bool const alone = device.thread_count() == 1;
  T* const partials = workspace + plan.pieces * plan.scratch;
  for_each_piece(device, pieces, [&](std::size_t piece) {
    T* const x_lanes = workspace + (alone ? 0 : piece) * plan.scratch;
    T* const dy_lanes = x_lanes + x_elements * width;
    T* const part = partials + piece * partial;
    if (s.pad_h + s.pad_w != 0) device.fill_zero(x_lanes, x_elements * width * sizeof(T));
    std::size_t const begin = blocks * piece / pieces;
    for (std::size_t block = begin; block < blocks * (piece + 1) / pieces; ++block) {
      std::size_t const first = block * width, samples = batch - first < width ? batch - first : width;
      for_this_cpu(samples_to_lanes_task<T>{x + first * in_elements, in_elements, samples, in_elements, x_lanes, width,
                                                {s.in_w, s.in_h, 2 * s.pad_w, 2 * s.pad_h * s.padded_w(), s.pad_h * s.padded_w() + s.pad_w}});
      for (std::size_t group = 0; group < s.groups; ++group)
        for (std::size_t o = 0; o < s.out_c; o += rows) {
          std::size_t const skip = o + rows <= s.out_c ? 0 : o + rows - s.out_c;  // rows that the tile before has done
          std::size_t const channel = group * s.out_c + o - skip, n = rows * s.positions();
          for_this_cpu(samples_to_lanes_task<T>{dy + first * out_elements + channel * s.positions(), out_elements, samples, n, dy_lanes, width,
                                                    {n, 1, 0, 0, 0}});
          for_this_cpu(conv2d_direct_backward_weight<T, Columns, Sliding>{s, x_lanes + group * s.in_c * s.padded_h() * s.padded_w() * width, dy_lanes,
                                                                          part + channel * s.taps(), part + weights + channel, rows, skip,
                                                                          block != begin});
        }
    }
  });
  for_this_cpu(sum_parts<T>{partials, partial, pieces, weights, dweight});
  if (dbias != nullptr) for_this_cpu(sum_parts<T>{partials + weights, partial, pieces, s.groups * s.out_c, dbias});
}

/// Many channels fill vectors, and their weights do not fit the first cache: products. Few channels: direct loops.
template <class G>
inline constexpr bool conv2d_by_panels = panels_apply(conv2d_sizes_of<G>()) && G::in_c >= 32 && G::out_c >= 32;

}  // namespace detail

template <class Geometry>
constexpr conv2d_workspace_size conv2d_workspace() {
  constexpr detail::conv2d_sizes s = detail::conv2d_sizes_of<Geometry>();
  if constexpr (detail::conv2d_by_panels<Geometry>) {
    constexpr detail::panel_plan forward = detail::panel_forward_plan(s);
    return {detail::conv2d_larger(detail::panel_weight_workspace(forward),
                                  detail::conv2d_larger(detail::panel_apply_workspace(forward), detail::panel_apply_workspace(detail::panel_backward_input_plan(s)))),
            0};
  } else {
    return {detail::conv2d_pieces(s) * detail::conv2d_direct_scratch(s) + detail::conv2d_most_pieces * detail::conv2d_partial(s), 0};
  }
}

template <activation Activation = activation::identity, class Geometry, class T>
void conv2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T const* weight, T const* bias, T* y, T* workspace) {
  if constexpr (detail::conv2d_by_panels<Geometry>) {
    static constexpr detail::panel_plan plan = detail::panel_forward_plan(detail::conv2d_sizes_of<Geometry>());
    detail::panel_apply(device, plan, batch, x, weight, bias, y, workspace, Activation == activation::relu);
  } else {
    static constexpr detail::conv2d_direct_plan plan = detail::conv2d_direct_plan_of(detail::conv2d_sizes_of<Geometry>());
    detail::conv2d_direct_forward_batch(device, plan, batch, x, weight, bias, y, workspace, Activation == activation::relu);
  }
}

template <class Geometry, class T>
void conv2d_backward_input(host const& device, Geometry, std::size_t batch, T const* dy, T const* weight, T* dx, T* workspace) {
  if constexpr (detail::conv2d_by_panels<Geometry>) {
    static constexpr detail::panel_plan plan = detail::panel_backward_input_plan(detail::conv2d_sizes_of<Geometry>());
    detail::panel_apply(device, plan, batch, dy, weight, static_cast<T const*>(nullptr), dx, workspace, false);
  } else {
    static constexpr detail::conv2d_direct_plan plan = detail::conv2d_direct_plan_of(detail::conv2d_sizes_of<Geometry>());
    detail::conv2d_direct_backward_input_batch<detail::conv2d_tile_rows(plan.sizes.in_c, 6)>(device, plan, batch, dy, weight, dx, workspace);
  }
}

template <class Geometry, class T>
void conv2d_backward_weight(host const& device, Geometry, std::size_t batch, T const* x, T const* dy, T* dweight, T* dbias, T* workspace) {
  if constexpr (detail::conv2d_by_panels<Geometry>) {
    static constexpr detail::panel_plan plan = detail::panel_forward_plan(detail::conv2d_sizes_of<Geometry>());
    detail::panel_backward_weight(device, plan, batch, x, dy, dweight, dbias, workspace);
  } else {
    static constexpr detail::conv2d_direct_plan plan = detail::conv2d_direct_plan_of(detail::conv2d_sizes_of<Geometry>());
    constexpr detail::conv2d_sizes s = plan.sizes;
    constexpr int columns = s.kernel_w <= 6 ? static_cast<int>(s.kernel_w) : detail::conv2d_tile_rows(s.kernel_w, 6);
    detail::conv2d_direct_backward_weight_batch<columns, s.stride_w == 1 && s.dilation_w == 1>(device, plan, batch, x, dy, dweight, dbias, workspace);
  }
}

}  // namespace mortise
