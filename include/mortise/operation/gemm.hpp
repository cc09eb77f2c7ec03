// Matrix products: the three of a linear layer, and a general one for attention, recurrent layers and convolutions.
#pragma once

#include <cstddef>

#include <mortise/device/host.hpp>
#include <mortise/operation/host/gemm.hpp>

namespace mortise {

/// What a product applies to each element as it is stored.
enum class activation : unsigned char { identity, relu };

// All matrices are row-major. Sizes m (batch), n (outputs), k (inputs) are `std::size_t` or `std::integral_constant`; constants let small
// layers unroll. T is float or double. Nothing allocates, throws or reads its output first.
//
// Exactness. Each element of a result is one chain of multiply-adds (fused where the processor fuses) in ascending order of the summed
// index, whatever the thread count, the tile or the other sizes: row i of a batch has the bits it would have in any other batch of
// two or more rows. Two cases of a b^T are summed in vector lanes instead: a single row, bound by reading the weights, and n <= 4 with
// k >= 128, where a tile's lanes would idle.

/// y = activation(x w^T + bias).
///
/// x       (m, k)
/// w       (n, k)   PyTorch's layout
/// bias    (n)      or null
/// y       (m, n)   may not overlap the others
template <class T, class M, class N, class K>
inline void linear_forward(host const& device, M m, N n, K k, T const* x, T const* w, T const* bias, T* y,
                           activation act = activation::identity) {
  detail::run_product<T>(device, {m, n, k, x, k, 1, w, 1, k, y, n, bias, nullptr, false, act == activation::relu});
}

/// dx = dy w.
///
/// dy      (m, n)
/// w       (n, k)
/// dx      (m, k)   may not overlap the others
template <class T, class M, class N, class K>
inline void linear_backward_input(host const& device, M m, N n, K k, T const* dy, T const* w, T* dx) {
  detail::run_product<T>(device, {m, k, n, dy, n, 1, w, k, 1, dx, k});
}

/// dw = dy^T x, dbias = sum of the rows of dy; both are overwritten.
///
/// dy      (m, n)
/// x       (m, k)
/// dw      (n, k)   may not overlap the others
/// dbias   (n)      or null
template <class T, class M, class N, class K>
inline void linear_backward_weight(host const& device, M m, N n, K k, T const* dy, T const* x, T* dw, T* dbias) {
  if (dbias != nullptr) detail::gemm_kernels_for_this_cpu<T>().column_sum({m, n, dy, dbias});
  detail::run_product<T>(device, {n, k, m, dy, 1, n, x, k, 1, dw, k});
}

/// What `gemm` does to an element after its sum: adds bias, then applies the activation.
template <class T>
struct gemm_epilogue {
  T const* column_bias = nullptr;  // (n)
  T const* row_bias = nullptr;     // (m)
  activation act = activation::identity;
};

/// c = op(a) op(b), or c += op(a) op(b) with `beta` = 1 (then each chain starts from c).
///
/// a       (m, k), or (k, m) with TransA; consecutive rows are lda elements apart
/// b       (k, n), or (n, k) with TransB; ldb
/// c       (m, n); ldc; may not overlap a or b
template <bool TransA, bool TransB, class T>
inline void gemm(host const& device, std::size_t m, std::size_t n, std::size_t k, T const* a, std::size_t lda, T const* b,
                 std::size_t ldb, T* c, std::size_t ldc, int beta = 0, gemm_epilogue<T> const& epilogue = {}) {
  detail::run_product<T>(device, {m, n, k, a, TransA ? 1 : lda, TransA ? lda : 1, b, TransB ? 1 : ldb, TransB ? ldb : 1, c, ldc,
                                  epilogue.column_bias, epilogue.row_bias, beta != 0, epilogue.act == activation::relu});
}

/// `batch` products at once: the i-th on a + i * stride_a, b + i * stride_b, c + i * stride_c. A stride of 0 shares an operand (not c).
template <bool TransA, bool TransB, class T>
inline void gemm_batched(host const& device, std::size_t batch, std::size_t m, std::size_t n, std::size_t k, T const* a,
                         std::size_t lda, std::size_t stride_a, T const* b, std::size_t ldb, std::size_t stride_b, T* c,
                         std::size_t ldc, std::size_t stride_c, int beta = 0) {
  auto const one = [&](host const& on, std::size_t i) {
    gemm<TransA, TransB, T>(on, m, n, k, a + i * stride_a, lda, b + i * stride_b, ldb, c + i * stride_c, ldc, beta);
  };
  if (2 * batch * m * n * k < detail::gemm_parallel_flops || batch < 2) {
    for (std::size_t i = 0; i < batch; ++i) one(device, i);
  } else {
    for_each_piece(device, batch, [&](std::size_t i) { one(host{1}, i); });
  }
}

}  // namespace mortise
