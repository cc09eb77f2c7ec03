// Convolution on the host. See operation/conv2d.hpp for the contract.
#pragma once

#include <cstddef>

#include <mortise/device/host.hpp>
#include <mortise/operation/conv2d.hpp>

namespace mortise {

template <class Geometry>
constexpr conv2d_workspace_size conv2d_workspace() {
  return {64, 0};
}

template <conv2d_activation Activation = conv2d_activation::identity, class Geometry, class T>
void conv2d_forward(host const& device, Geometry, std::size_t batch, T const* x, T const* weight, T const* bias, T* y, T*) {
  using g = Geometry;
  for_each_piece(device, batch * g::out_c, [=](std::size_t piece) {
    std::size_t const n = piece / g::out_c, o = piece % g::out_c;
    T const* const xg = x + n * g::in_elements + o / g::group_out * g::group_in * g::in_h * g::in_w;
    for (std::size_t p = 0; p < g::out_h; ++p)
      for (std::size_t q = 0; q < g::out_w; ++q) {
        T sum = bias != nullptr ? bias[o] : T{0};
        for (std::size_t c = 0; c < g::group_in; ++c)
          for (std::size_t i = 0; i < g::kernel_h; ++i)
            for (std::size_t j = 0; j < g::kernel_w; ++j) {
              std::size_t const r = p * g::stride_h + i * g::dilation_h - g::pad_h, s = q * g::stride_w + j * g::dilation_w - g::pad_w;
              if (r < g::in_h && s < g::in_w)
                sum += weight[o * g::taps + (c * g::kernel_h + i) * g::kernel_w + j] * xg[(c * g::in_h + r) * g::in_w + s];
            }
        if (Activation == conv2d_activation::relu && T{0} > sum) sum = T{0};
        y[((n * g::out_c + o) * g::out_h + p) * g::out_w + q] = sum;
      }
  });
}

template <class Geometry, class T>
void conv2d_backward_input(host const& device, Geometry, std::size_t batch, T const* dy, T const* weight, T* dx, T*) {
  using g = Geometry;
  for_each_piece(device, batch, [=](std::size_t n) {
    T* const dxn = dx + n * g::in_elements;
    for (std::size_t e = 0; e < g::in_elements; ++e) dxn[e] = T{0};
    for (std::size_t o = 0; o < g::out_c; ++o)
      for (std::size_t c = 0; c < g::group_in; ++c)
        for (std::size_t i = 0; i < g::kernel_h; ++i)
          for (std::size_t j = 0; j < g::kernel_w; ++j) {
            T const w = weight[o * g::taps + (c * g::kernel_h + i) * g::kernel_w + j];
            for (std::size_t p = 0; p < g::out_h; ++p)
              for (std::size_t q = 0; q < g::out_w; ++q) {
                std::size_t const r = p * g::stride_h + i * g::dilation_h - g::pad_h, s = q * g::stride_w + j * g::dilation_w - g::pad_w;
                if (r < g::in_h && s < g::in_w)
                  dxn[((o / g::group_out * g::group_in + c) * g::in_h + r) * g::in_w + s] +=
                      w * dy[((n * g::out_c + o) * g::out_h + p) * g::out_w + q];
              }
          }
  });
}

template <class Geometry, class T>
void conv2d_backward_weight(host const& device, Geometry, std::size_t batch, T const* x, T const* dy, T* dweight, T* dbias, T*) {
  using g = Geometry;
  for_each_piece(device, g::out_c, [=](std::size_t o) {
    for (std::size_t k = 0; k < g::taps; ++k) {
      std::size_t const c = k / (g::kernel_h * g::kernel_w), i = k / g::kernel_w % g::kernel_h, j = k % g::kernel_w;
      T sum{0};
      for (std::size_t n = 0; n < batch; ++n)
        for (std::size_t p = 0; p < g::out_h; ++p)
          for (std::size_t q = 0; q < g::out_w; ++q) {
            std::size_t const r = p * g::stride_h + i * g::dilation_h - g::pad_h, s = q * g::stride_w + j * g::dilation_w - g::pad_w;
            if (r < g::in_h && s < g::in_w)
              sum += dy[((n * g::out_c + o) * g::out_h + p) * g::out_w + q] *
                     x[((n * g::in_c + o / g::group_out * g::group_in + c) * g::in_h + r) * g::in_w + s];
          }
      dweight[o * g::taps + k] = sum;
    }
    if (dbias != nullptr) {
      T sum{0};
      for (std::size_t n = 0; n < batch; ++n)
        for (std::size_t e = 0; e < g::out_h * g::out_w; ++e) sum += dy[(n * g::out_c + o) * g::out_h * g::out_w + e];
      dbias[o] = sum;
    }
  });
}

}  // namespace mortise
