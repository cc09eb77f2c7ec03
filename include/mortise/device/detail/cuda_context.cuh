// What a CUDA device needs for work: a stream, a pool of memory, cuBLAS with its workspace, scratch memory. One for each device and process,
// made when first needed and freed with its last user.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <cublasLt.h>

#include <mortise/device/detail/cuda_error.cuh>
#include <mortise/device/detail/cuda_recording.cuh>

namespace mortise::detail {

/// Makes a device current, and the one before it afterwards.
class device_guard {
 public:
  explicit device_guard(int ordinal) {
    if (cudaGetDevice(&before_) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      before_ = -1;
    }
    if (before_ == ordinal) before_ = -1;
    else MORTISE_CUDA(cudaSetDevice(ordinal));
  }
  device_guard(device_guard const&) = delete;
  device_guard& operator=(device_guard const&) = delete;
  ~device_guard() {
    if (before_ >= 0) ignore_cuda(cudaSetDevice(before_));
  }

 private:
  int before_ = -1;
};

/// Does nothing: asked whether this program has code for a device.
template <int>
__global__ void empty_kernel() {}

inline std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

/// What is wrong with CUDA on this machine, in words; empty: nothing. `ordinal`: the device that is wanted.
MORTISE_COLD inline std::string cuda_problem(int ordinal, cudaError_t* code = nullptr) {
  int driver = 0, runtime = 0, count = 0;
  cudaError_t ignored{};
  cudaError_t& found = code == nullptr ? ignored : *code;
  found = cudaSuccess;
  ignore_cuda(cudaDriverGetVersion(&driver));
  ignore_cuda(cudaRuntimeGetVersion(&runtime));
  found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    if (driver == 0)
      return "there is no NVIDIA driver on this machine; install it, or use mortise::host";
    if (found == cudaErrorInsufficientDriver)
      return "the NVIDIA driver is too old: it knows CUDA " + version_text(driver) + ", this program was built with the CUDA runtime " + version_text(runtime) +
             "; install a newer driver, or build with an older toolkit";
    if (found == cudaErrorNoDevice)
      return "there is a driver (CUDA " + version_text(driver) + ") but no CUDA device; see whether nvidia-smi lists one and CUDA_VISIBLE_DEVICES allows it";
    return std::string{"CUDA does not start: "} + cudaGetErrorName(found) + ": " + cudaGetErrorString(found);
  }
  if (count == 0) {
    found = cudaErrorNoDevice;
    return "there is no CUDA device; see whether nvidia-smi lists one and CUDA_VISIBLE_DEVICES allows it";
  }
  if (ordinal < 0 || ordinal >= count) {
    found = cudaErrorInvalidDevice;
    return "there is no device cuda:" + std::to_string(ordinal) + "; visible are cuda:0 to cuda:" + std::to_string(count - 1) +
           " (mortise::cuda::visible_devices() says which these are)";
  }
  device_guard const guard{ordinal};
  cudaFuncAttributes attributes{};
  found = cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&empty_kernel<0>));
  if (found != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    int major = 0, minor = 0;
    ignore_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
    ignore_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
    std::string const capability = std::to_string(major) + std::to_string(minor);
    if (found == cudaErrorNoKernelImageForDevice || found == cudaErrorInvalidDeviceFunction)
      return "this program has no code for cuda:" + std::to_string(ordinal) + ", whose compute capability is " + std::to_string(major) + "." +
             std::to_string(minor) + "; build with -gencode arch=compute_" + capability + ",code=sm_" + capability +
             " (Meson: -Dgpu_architectures=" + capability + ")";
    return std::string{"cuda:"} + std::to_string(ordinal) + " cannot be used: " + cudaGetErrorName(found) + ": " + cudaGetErrorString(found);
  }
  return {};
}

/// What cuBLASLt's choice of an algorithm depends on, and the choice.
struct biased_product_choice {
  std::array<std::uint32_t, 7> question;
  bool offered;
  cublasLtMatmulAlgo_t algorithm;
};

class cuda_context {
 public:
  explicit cuda_context(int ordinal) : ordinal_{ordinal} {
    cudaError_t code = cudaSuccess;
    if (std::string const problem = cuda_problem(ordinal, &code); !problem.empty())
      throw cuda_error{"mortise::cuda{" + std::to_string(ordinal) + "}: " + problem, "mortise::cuda", cudaGetErrorName(code), cudaGetErrorString(code),
                       __FILE__, __LINE__, static_cast<int>(code)};
    device_guard const guard{ordinal_};
    try {
      MORTISE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
      MORTISE_CUDA(cudaStreamCreateWithFlags(&copy_stream_, cudaStreamNonBlocking));
      cudaMemPoolProps properties{};
      properties.allocType = cudaMemAllocationTypePinned;
      properties.location.type = cudaMemLocationTypeDevice;
      properties.location.id = ordinal_;
      MORTISE_CUDA(cudaMemPoolCreate(&pool_, &properties));
      // Freed memory stays with the pool: the next model or batch size gets it without a system call.
      unsigned long long keep = ~0ull;
      MORTISE_CUDA(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
      MORTISE_CUDA(cublasCreate(&blas_));
      MORTISE_CUDA(cublasSetStream(blas_, stream_));
      blas_workspace_ = allocate(blas_workspace_bytes);
      MORTISE_CUDA(cublasSetWorkspace(blas_, blas_workspace_, blas_workspace_bytes));
      // Full products of 32 bits, no atomics: the same bits run after run.
      MORTISE_CUDA(cublasSetMathMode(blas_, CUBLAS_DEFAULT_MATH));
      MORTISE_CUDA(cublasSetAtomicsMode(blas_, CUBLAS_ATOMICS_NOT_ALLOWED));
      MORTISE_CUDA(cublasSetPointerMode(blas_, CUBLAS_POINTER_MODE_HOST));
    } catch (...) {
      release();
      throw;
    }
  }
  cuda_context(cuda_context const&) = delete;  // owns a stream
  cuda_context& operator=(cuda_context const&) = delete;
  ~cuda_context() { release(); }

  /// The context of a device; throws cuda_error that says in words what is wrong when there is none.
  static std::shared_ptr<cuda_context> of(int ordinal) {
    static std::mutex mutex;
    static std::vector<std::weak_ptr<cuda_context>> known;
    std::scoped_lock const lock{mutex};
    if (ordinal >= 0 && static_cast<std::size_t>(ordinal) < known.size())
      if (auto found = known[static_cast<std::size_t>(ordinal)].lock()) return found;
    auto made = std::make_shared<cuda_context>(ordinal);
    if (known.size() <= static_cast<std::size_t>(ordinal)) known.resize(static_cast<std::size_t>(ordinal) + 1);
    known[static_cast<std::size_t>(ordinal)] = made;
    return made;
  }

  int ordinal() const { return ordinal_; }
  cudaStream_t stream() const { return stream_; }
  cudaStream_t copy_stream() const { return copy_stream_; }
  cublasHandle_t blas() const { return blas_; }
  /// Memory that products may use: work on this stream takes it one after the other.
  void* blas_workspace() const { return blas_workspace_; }
  static constexpr std::size_t blas_workspace_bytes = 8u << 20;
  /// How cuBLASLt computes the products that were asked for so far (operation/cuda/gemm.cuh).
  std::vector<biased_product_choice> biased_products;
  cudaMemPool_t pool() const { return pool_; }
  /// An event to order this stream before others. A wait takes the event as it was recorded last, so one is enough.
  cudaEvent_t mark() {
    if (mark_ == nullptr) {
      device_guard const guard{ordinal_};
      MORTISE_CUDA(cudaEventCreateWithFlags(&mark_, cudaEventDisableTiming));
    }
    return mark_;
  }

  void* allocate(std::size_t bytes) const {
    device_guard const guard{ordinal_};
    void* p = nullptr;
    auto const code = cudaMallocFromPoolAsync(&p, bytes, pool_, stream_);
    if (code == cudaErrorMemoryAllocation) throw_out_of_memory(code, "cudaMallocFromPoolAsync", __FILE__, __LINE__, bytes);
    check_cuda(code, "cudaMallocFromPoolAsync", __FILE__, __LINE__);
    return p;
  }
  void deallocate(void* p) const noexcept {
    if (p != nullptr) ignore_cuda(cudaFreeAsync(p, stream_));
  }

  /// At least `bytes` of memory that the next operation on the stream may overwrite. Grows outside of captures only, and old blocks live as
  /// long as the device, since graphs may refer to them.
  void* scratch(std::size_t bytes) {
    if (bytes > scratch_bytes_) [[unlikely]] {
      std::size_t const grown = bytes > 2 * scratch_bytes_ ? bytes : 2 * scratch_bytes_;
      scratch_.reserve(scratch_.size() + 1);
      scratch_.push_back(allocate(grown));
      scratch_bytes_ = grown;
    }
    return scratch_.empty() ? nullptr : scratch_.back();
  }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  /// The step that is being captured or replayed on this stream, or null.
  cuda_recording* recording = nullptr;

 private:
  void release() noexcept {
    int before = -1;
    ignore_cuda(cudaGetDevice(&before));
    ignore_cuda(cudaSetDevice(ordinal_));
    if (stream_ != nullptr) ignore_cuda(cudaStreamSynchronize(stream_));
    if (copy_stream_ != nullptr) ignore_cuda(cudaStreamSynchronize(copy_stream_));
    if (blas_ != nullptr) static_cast<void>(cublasDestroy(blas_));
    deallocate(blas_workspace_);
    for (void* const p : scratch_) deallocate(p);
    if (stream_ != nullptr) ignore_cuda(cudaStreamSynchronize(stream_));
    if (mark_ != nullptr) ignore_cuda(cudaEventDestroy(mark_));
    if (pool_ != nullptr) ignore_cuda(cudaMemPoolDestroy(pool_));
    if (copy_stream_ != nullptr) ignore_cuda(cudaStreamDestroy(copy_stream_));
    if (stream_ != nullptr) ignore_cuda(cudaStreamDestroy(stream_));
    if (before >= 0) ignore_cuda(cudaSetDevice(before));
  }

  int ordinal_;
  cudaStream_t stream_ = nullptr;
  cudaStream_t copy_stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  cudaEvent_t mark_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  std::vector<void*> scratch_;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace mortise::detail
