// Errors of CUDA calls as exceptions with all that is known about them.
#pragma once

#include <cstddef>
#include <string>

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>

namespace mortise {

/// A CUDA call that failed. The runtime's own record of the error is cleared; an error that broke the device ("sticky", such as an
/// illegal address) stays with the device until the process ends or resets it.
struct cuda_error : error {
  std::string call;  ///< as written: "cudaLaunchKernel(...)"
  std::string name;  ///< "cudaErrorInvalidValue", "CUBLAS_STATUS_NOT_SUPPORTED"
  std::string text;  ///< the runtime's words
  std::string file;
  int line;
  int code;

  cuda_error(std::string const& what, std::string c, std::string n, std::string t, std::string f, int l, int number)
      : error{what}, call{std::move(c)}, name{std::move(n)}, text{std::move(t)}, file{std::move(f)}, line{l}, code{number} {}
};

/// The device has not enough memory. Nothing has changed.
struct out_of_memory : cuda_error {
  std::size_t wanted;  ///< bytes
  std::size_t free;    ///< bytes, when the allocation failed

  out_of_memory(cuda_error const& e, std::size_t bytes_wanted, std::size_t bytes_free)
      : cuda_error{e}, wanted{bytes_wanted}, free{bytes_free} {}
};

namespace detail {

[[noreturn]] MORTISE_COLD inline void throw_cuda_error(cudaError_t code, char const* call, char const* file, int line,
                                                       std::string const& advice = {}) {
  static_cast<void>(cudaGetLastError());  // clears it
  std::string const name = cudaGetErrorName(code), text = cudaGetErrorString(code);
  throw cuda_error{"mortise::cuda: " + std::string{call} + " failed: " + name + ": " + text + " (" + file + ":" + std::to_string(line) + ")" +
                       (advice.empty() ? "" : ". " + advice),
                   call, name, text, file, line, static_cast<int>(code)};
}
[[noreturn]] MORTISE_COLD inline void throw_cublas_error(cublasStatus_t code, char const* call, char const* file, int line) {
  std::string const name = cublasGetStatusName(code), text = cublasGetStatusString(code);
  static_cast<void>(cudaGetLastError());
  throw cuda_error{"mortise::cuda: " + std::string{call} + " failed: " + name + ": " + text + " (" + file + ":" + std::to_string(line) + ")",
                   call, name, text, file, line, static_cast<int>(code)};
}
[[noreturn]] MORTISE_COLD inline void throw_out_of_memory(cudaError_t code, char const* call, char const* file, int line, std::size_t wanted) {
  std::size_t free = 0, total = 0;
  static_cast<void>(cudaGetLastError());
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) static_cast<void>(cudaGetLastError());
  std::string const name = cudaGetErrorName(code), text = cudaGetErrorString(code);
  cuda_error const e{"mortise::cuda: out of device memory: " + std::to_string(wanted) + " bytes wanted, " + std::to_string(free) + " free (" + name +
                         " from " + call + ", " + file + ":" + std::to_string(line) +
                         "). Use smaller batches, or another device: mortise::cuda::by_free_memory() lists them",
                     call, name, text, file, line, static_cast<int>(code)};
  throw out_of_memory{e, wanted, free};
}

inline void check_cuda(cudaError_t code, char const* call, char const* file, int line) {
  if (code != cudaSuccess) [[unlikely]]
    throw_cuda_error(code, call, file, line);
}
inline void check_cuda(cublasStatus_t code, char const* call, char const* file, int line) {
  if (code != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw_cublas_error(code, call, file, line);
}
/// For destructors: the error is cleared and forgotten.
inline void ignore_cuda(cudaError_t code) noexcept {
  if (code != cudaSuccess) static_cast<void>(cudaGetLastError());
}

}  // namespace detail
}  // namespace mortise

/// Calls the CUDA runtime or cuBLAS; failures become mortise::cuda_error.
#define MORTISE_CUDA(...) ::mortise::detail::check_cuda((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
