// Matrix products by cuBLAS, with a bias by cuBLASLt. Contracts: operation/gemm.hpp; sums run in their order, the same run after run on one kind of
// device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <mortise/operation/cuda/launch.cuh>
#include <mortise/operation/cuda/reduce.cuh>
#include <mortise/operation/gemm.hpp>

namespace mortise {

namespace detail {

/// c = op(a) op(b) + beta c in row-major terms, `batch` times.
struct cublas_product {
  void const* a;
  void const* b;
  void* c;
  long long stride_a, stride_b, stride_c;
  long long m, n, k, lda, ldb, ldc, batch;
  long long transpose_a, transpose_b, beta, type;  // a cudaDataType
};

template <class T>
inline constexpr cudaDataType cublas_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType cublas_type<double> = CUDA_R_64F;
template <>
inline constexpr cudaDataType cublas_type<f16> = CUDA_R_16F;
template <>
inline constexpr cudaDataType cublas_type<bf16> = CUDA_R_16BF;

inline void issue_product(cudaStream_t, void* context, void const* description) {
  auto const& p = *static_cast<cublas_product const*>(description);
  cublasHandle_t const blas = static_cast<cuda_context*>(context)->blas();
  // Row-major matrices are the transposes of column-major ones: c^T = op(b)^T op(a)^T.
  auto const op_a = p.transpose_a != 0 ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = p.transpose_b != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
  auto const m = static_cast<int>(p.n), n = static_cast<int>(p.m), k = static_cast<int>(p.k);
  auto const lda = static_cast<int>(p.ldb), ldb = static_cast<int>(p.lda), ldc = static_cast<int>(p.ldc);
  if (p.type == CUDA_R_16F || p.type == CUDA_R_16BF) {  // sums in float
    float const one = 1, beta = static_cast<float>(p.beta);
    auto const type = static_cast<cudaDataType>(p.type);
    MORTISE_CUDA(cublasGemmStridedBatchedEx(blas, op_b, op_a, m, n, k, &one, p.b, type, lda, p.stride_b, p.a, type, ldb, p.stride_a, &beta, p.c, type, ldc,
                                            p.stride_c, static_cast<int>(p.batch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  } else if (p.type == CUDA_R_32F) {
    float const one = 1, beta = static_cast<float>(p.beta);
    auto const *const a = static_cast<float const*>(p.b), *const b = static_cast<float const*>(p.a);
    auto* const c = static_cast<float*>(p.c);
    if (p.batch == 1) MORTISE_CUDA(cublasSgemm(blas, op_b, op_a, m, n, k, &one, a, lda, b, ldb, &beta, c, ldc));
    else MORTISE_CUDA(cublasSgemmStridedBatched(blas, op_b, op_a, m, n, k, &one, a, lda, p.stride_b, b, ldb, p.stride_a, &beta, c, ldc, p.stride_c,
                                                static_cast<int>(p.batch)));
  } else {
    double const one = 1, beta = static_cast<double>(p.beta);
    auto const *const a = static_cast<double const*>(p.b), *const b = static_cast<double const*>(p.a);
    auto* const c = static_cast<double*>(p.c);
    if (p.batch == 1) MORTISE_CUDA(cublasDgemm(blas, op_b, op_a, m, n, k, &one, a, lda, b, ldb, &beta, c, ldc));
    else MORTISE_CUDA(cublasDgemmStridedBatched(blas, op_b, op_a, m, n, k, &one, a, lda, p.stride_b, b, ldb, p.stride_a, &beta, c, ldc, p.stride_c,
                                                static_cast<int>(p.batch)));
  }
}

template <class T>
void multiply_on_device(cuda const& device, bool transpose_a, bool transpose_b, std::size_t m, std::size_t n, std::size_t k, T const* a,
                        std::size_t lda, T const* b, std::size_t ldb, T* c, std::size_t ldc, int beta = 0, std::size_t batch = 1,
                        std::size_t stride_a = 0, std::size_t stride_b = 0, std::size_t stride_c = 0) {
  if (m == 0 || n == 0 || batch == 0) return;
  auto const number = [](std::size_t x) { return static_cast<long long>(x); };
  cublas_product const p{a, b, c, number(stride_a), number(stride_b), number(stride_c), number(m), number(n), number(k), number(lda), number(ldb),
                         number(ldc), number(batch), transpose_a, transpose_b, beta, cublas_type<T>};
  device.run(&issue_product, p);
}

/// y = activation(y + column bias[column] + row bias[row]) for one column of a few rows.
template <class T>
struct epilogue_columns {
  T* y;
  std::uint64_t rows, columns, ldc;
  T const* column_bias;
  T const* row_bias;
  int relu;
  __device__ void operator()(std::uint64_t i) const {
    std::uint64_t const column = i % columns, first = i / columns * rows_of_thread, end = first + rows_of_thread < rows ? first + rows_of_thread : rows;
    using A = arithmetic_type<T>;
    A const bias = column_bias == nullptr ? A{} : static_cast<A>(column_bias[column]);
    for (std::uint64_t row = first; row < end; ++row) {
      A v = static_cast<A>(y[row * ldc + column]);
      if (column_bias != nullptr) v += bias;
      if (row_bias != nullptr) v += static_cast<A>(row_bias[row]);
      y[row * ldc + column] = static_cast<T>(relu != 0 && v <= A{} ? A{} : v);
    }
  }
};
template <class T>
void run_epilogue(cuda const& device, std::size_t rows, std::size_t columns, T* y, std::size_t ldc, T const* column_bias, T const* row_bias, activation act) {
  if (column_bias != nullptr || row_bias != nullptr || act == activation::relu)
    for_each_index(device, row_groups(rows) * columns, epilogue_columns<T>{y, rows, columns, ldc, column_bias, row_bias, act == activation::relu});
}

// ---- a product with its bias ----------------------------------------------------------------------------------------------------------------

/// y = x w^T + bias by cuBLASLt, which adds the bias before it stores an element.
struct biased_product {
  void const* x;
  void const* w;
  void const* bias;
  void* y;
  std::int64_t m, n, k, type;  // a cudaDataType
  cublasLtMatmulAlgo_t algorithm;
};

/// A biased product in cuBLASLt's words: column by column, y^T = op(w) x^T, and the bias belongs to the rows.
class cublaslt_description {
 public:
  explicit cublaslt_description(biased_product const& p) {
    auto const type = static_cast<cudaDataType>(p.type);
    auto const sums = type == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F;
    auto const n = static_cast<std::uint64_t>(p.n), m = static_cast<std::uint64_t>(p.m), k = static_cast<std::uint64_t>(p.k);
    MORTISE_CUDA(cublasLtMatmulDescInit(&product, type == CUDA_R_64F ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, sums));
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    MORTISE_CUDA(cublasLtMatrixLayoutInit(&w, type, k, n, p.k));
    MORTISE_CUDA(cublasLtMatrixLayoutInit(&x, type, k, m, p.k));
    MORTISE_CUDA(cublasLtMatrixLayoutInit(&y, type, n, m, p.n));
  }

  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t w, x, y;

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, V const& value) {
    MORTISE_CUDA(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof value));
  }
};

/// cuBLASLt takes cuBLAS's handle for its own.
inline cublasLtHandle_t cublaslt_handle(cuda_context const& context) { return reinterpret_cast<cublasLtHandle_t>(context.blas()); }

inline void issue_biased_product(cudaStream_t stream, void* context, void const* description) {
  auto const& p = *static_cast<biased_product const*>(description);
  auto const& c = *static_cast<cuda_context*>(context);
  cublaslt_description d{p};
  float const one = 1, zero = 0;
  double const wide_one = 1, wide_zero = 0;
  bool const wide = p.type == CUDA_R_64F;
  void const* const alpha = wide ? static_cast<void const*>(&wide_one) : &one;
  void const* const beta = wide ? static_cast<void const*>(&wide_zero) : &zero;
  MORTISE_CUDA(cublasLtMatmul(cublaslt_handle(c), &d.product, alpha, p.w, &d.w, p.x, &d.x, beta, p.y, &d.y, p.y, &d.y, &p.algorithm,
                              c.blas_workspace(), cuda_context::blas_workspace_bytes, stream));
}

/// Asks cuBLASLt how it would compute a product. Sums that are cut into parts are joined in a pass of their own, in a fixed order.
MORTISE_COLD inline biased_product_choice choose_biased_product(cuda_context const& context, biased_product const& p,
                                                                std::array<std::uint32_t, 7> const& question) {
  device_guard const guard{context.ordinal()};
  cublaslt_description d{p};
  cublasLtMatmulPreferenceOpaque_t wanted;
  MORTISE_CUDA(cublasLtMatmulPreferenceInit(&wanted));
  auto const want = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto const& value) {
    MORTISE_CUDA(cublasLtMatmulPreferenceSetAttribute(&wanted, attribute, &value, sizeof value));
  };
  want(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{cuda_context::blas_workspace_bytes});
  want(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, question[4]);
  want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, question[5]);
  want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, question[6]);
  want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, question[6]);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  auto const code = cublasLtMatmulAlgoGetHeuristic(cublaslt_handle(context), &d.product, &d.w, &d.x, &d.y, &d.y, &wanted, 1, &best, &found);
  return {question, code == CUBLAS_STATUS_SUCCESS && found != 0 && best.state == CUBLAS_STATUS_SUCCESS, best.algo};
}

/// The largest power of two, up to 256, that divides an address.
inline std::uint32_t alignment_of(void const* p) {
  auto const address = reinterpret_cast<std::uintptr_t>(p) | 256u;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

/// The product in one call, where cuBLASLt offers it; its algorithm is chosen once for all products of a kind. False: nothing was done.
/// A bias must lie on 16 bytes. Nothing but the bias is left to cuBLASLt: its ReLU need not keep a NaN, and its GELU is the tanh form.
template <class T>
bool multiply_with_bias(cuda const& device, std::size_t m, std::size_t n, std::size_t k, T const* x, T const* w, T const* bias, T* y) {
  if (alignment_of(bias) < 16 || m == 0 || n == 0 || k == 0) return false;
  biased_product p{x, w, bias, y, static_cast<std::int64_t>(m), static_cast<std::int64_t>(n), static_cast<std::int64_t>(k), cublas_type<T>,
                   {}};
  auto const small = [](std::size_t value) { return static_cast<std::uint32_t>(value); };
  std::array<std::uint32_t, 7> const question{small(m),        small(n),        small(k),       static_cast<std::uint32_t>(cublas_type<T>),
                                              alignment_of(w), alignment_of(x), alignment_of(y)};
  auto& known = device.context().biased_products;
  auto found = known.begin();
  while (found != known.end() && found->question != question) ++found;
  if (found == known.end()) found = known.insert(found, choose_biased_product(device.context(), p, question));
  if (!found->offered) return false;
  p.algorithm = found->algorithm;
  device.run(&issue_biased_product, p);
  return true;
}

}  // namespace detail

template <class T, class M, class N, class K>
inline void linear_forward(cuda const& device, M m, N n, K k, T const* x, T const* w, T const* bias, T* y, activation act = activation::identity) {
  if (bias != nullptr && act == activation::identity && detail::multiply_with_bias<T>(device, m, n, k, x, w, bias, y)) return;
  detail::multiply_on_device<T>(device, false, true, m, n, k, x, k, w, k, y, n);
  detail::run_epilogue<T>(device, m, n, y, n, bias, nullptr, act);
}
template <class T, class M, class N, class K>
inline void linear_backward_input(cuda const& device, M m, N n, K k, T const* dy, T const* w, T* dx) {
  detail::multiply_on_device<T>(device, false, false, m, k, n, dy, n, w, k, dx, k);
}
template <class T, class M, class N, class K>
inline void linear_backward_weight(cuda const& device, M m, N n, K k, T const* dy, T const* x, T* dw, T* dbias) {
  if (dbias != nullptr) detail::column_sums<T>(device, m, n, dy, dbias);
  detail::multiply_on_device<T>(device, true, false, n, k, m, dy, n, x, k, dw, k);
}

template <bool TransA, bool TransB, class T>
inline void gemm(cuda const& device, std::size_t m, std::size_t n, std::size_t k, T const* a, std::size_t lda, T const* b, std::size_t ldb, T* c,
                 std::size_t ldc, int beta = 0, gemm_epilogue<T> const& epilogue = {}) {
  detail::multiply_on_device<T>(device, TransA, TransB, m, n, k, a, lda, b, ldb, c, ldc, beta);
  detail::run_epilogue<T>(device, m, n, c, ldc, epilogue.column_bias, epilogue.row_bias, epilogue.act);
}
template <bool TransA, bool TransB, class T>
inline void gemm_batched(cuda const& device, std::size_t batch, std::size_t m, std::size_t n, std::size_t k, T const* a, std::size_t lda,
                         std::size_t stride_a, T const* b, std::size_t ldb, std::size_t stride_b, T* c, std::size_t ldc, std::size_t stride_c,
                         int beta = 0) {
  detail::multiply_on_device<T>(device, TransA, TransB, m, n, k, a, lda, b, ldb, c, ldc, beta, batch, stride_a, stride_b, stride_c);
}

}  // namespace mortise
