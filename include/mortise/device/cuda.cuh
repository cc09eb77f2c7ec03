// A CUDA device as a policy: everything that runs on `host` runs here.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mortise/device/cuda_info.cuh>
#include <mortise/device/detail/cuda_context.cuh>
#include <mortise/device/device.hpp>

namespace mortise {

struct cuda_space {};

struct cuda;

namespace detail {

/// Parts of one batch on several devices that know of each other: what synchronised batch norm needs. One part's end of the connection.
class cuda_batch_group {
 public:
  cuda_batch_group() = default;
  cuda_batch_group(cuda_batch_group const&) = delete;
  cuda_batch_group& operator=(cuda_batch_group const&) = delete;
  virtual ~cuda_batch_group() = default;

  virtual std::size_t members() const = 0;
  /// Samples of the whole batch.
  virtual std::size_t samples() const = 0;
  /// Memory on this part's device for n values to give. It may be written by what is issued next.
  virtual double* values(cuda const& device, std::size_t n) = 0;
  /// Gives those n values and takes the others': (members, n) on this part's device, in the order of the parts in the batch, for what is issued
  /// before the next exchange. Waits for the others' threads, not for devices; throws where another part has failed.
  virtual double const* exchange(cuda const& device, std::size_t n) = 0;
};

}  // namespace detail

/// A CUDA device. Copies, and all `cuda{n}` of one process, mean the same stream, pool of memory and cuBLAS handle; work on a device is
/// ordered by that stream, and one thread at a time may issue it.
///
/// `cuda{0}` throws cuda_error where the device cannot be used, and says in words why. `cuda{}` is the device chosen by `set_device`
/// (0 at first) and touches CUDA only when it is used, so that it may exist on a machine without one.
struct cuda {
  using space = cuda_space;

  int ordinal = 0;
  /// Of a replica whose batch norms see the whole batch (parallel/): where it meets the other parts.
  detail::cuda_batch_group* group = nullptr;

  cuda() : ordinal{current().load()} {}
  explicit cuda(int n) : ordinal{n}, context_{detail::cuda_context::of(n)} {}

  /// Device memory, in the order of the stream; throws out_of_memory.
  void* allocate(std::size_t bytes) const { return context().allocate(bytes); }
  void deallocate(void* p, std::size_t) const noexcept {
    if (context_ != nullptr) context_->deallocate(p);
  }
  /// Between any two of host and device memory. Host memory may be changed as soon as this returns, and is read or written in the
  /// order of the stream: `synchronize` before reading what was copied to the host.
  void copy(void* to, void const* from, std::size_t bytes) const {
    if (bytes == 0) return;
    struct description {
      void* to;
      void const* from;
      std::size_t bytes;
    } const d{to, from, bytes};
    run(&issue_copy<description>, d);
  }
  void fill_zero(void* to, std::size_t bytes) const {
    if (bytes == 0) return;
    struct description {
      void* to;
      std::size_t bytes;
    } const d{to, bytes};
    run(&issue_zero<description>, d);
  }
  /// Waits until all work issued so far is done; throws the errors that came up in it.
  void synchronize() const { MORTISE_CUDA(cudaStreamSynchronize(context().stream())); }

  cudaStream_t stream() const { return context().stream(); }

  detail::cuda_context& context() const {
    if (context_ == nullptr) context_ = detail::cuda_context::of(ordinal);
    return *context_;
  }

  /// Issues an operation that is no kernel, or holds it against the recorded step. `issue(stream, context, description)`.
  template <class Description>
  void run(detail::cuda_recording::issuer issue, Description const& d) const {
    auto& c = context();
    using state = detail::cuda_recording::state;
    detail::cuda_recording* const recording = c.recording;
    if (recording != nullptr && recording->mode() == state::replaying && recording->replay_other(c.stream(), &c, issue, &d, sizeof d)) return;
    detail::device_guard const guard{c.ordinal()};
    issue(c.stream(), &c, &d);
    if (recording != nullptr && recording->mode() == state::capturing) recording->note_other(issue, &d, sizeof d);
  }

  /// Issues a kernel, or holds it against the recorded step.
  template <class... P>
  void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, std::type_identity_t<P>... arguments) const {
    auto& c = context();
    void* pointers[] = {const_cast<void*>(static_cast<void const*>(&arguments))...};
    constexpr std::size_t sizes[] = {sizeof(P)...};
    auto const* const function = reinterpret_cast<void const*>(kernel);
    using state = detail::cuda_recording::state;
    detail::cuda_recording* const recording = c.recording;
    if (recording != nullptr && recording->mode() == state::replaying &&
        recording->replay_kernel(c.stream(), &c, function, grid, block, shared, pointers, sizes, sizeof...(P)))
      return;
    detail::device_guard const guard{c.ordinal()};
    MORTISE_CUDA(cudaLaunchKernel(function, grid, block, pointers, shared, c.stream()));
    if (recording != nullptr && recording->mode() == state::capturing)
      recording->note_kernel(c.stream(), function, grid, block, shared, pointers, sizes, sizeof...(P));
  }

  friend bool operator==(cuda const& a, cuda const& b) { return a.ordinal == b.ordinal; }

  // ---- what machine is this ------------------------------------------------------------------------------------------------------------

  /// Devices that this program sees; 0 where there is no driver.
  static int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return 0;
    }
    return count;
  }
  /// What keeps device `n` from being used, in words; empty when it can be.
  static std::string problem(int n = 0) { return detail::cuda_problem(n); }
  static bool available(int n = 0) { return problem(n).empty(); }

  static std::string device_name(int n) { return properties(n).name; }
  static cuda_properties properties(int n) {
    cudaDeviceProp p{};
    MORTISE_CUDA(cudaGetDeviceProperties(&p, n));
    cuda_properties r;
    r.name = p.name;
    r.major = p.major;
    r.minor = p.minor;
    r.multiprocessors = p.multiProcessorCount;
    r.total_memory = p.totalGlobalMem;
    r.shared_memory_per_block = p.sharedMemPerBlock;
    r.l2_bytes = p.l2CacheSize;
    r.memory_bus_bits = p.memoryBusWidth;
    char pci[32] = {};
    if (auto const code = cudaDeviceGetPCIBusId(pci, sizeof pci, n); code == cudaSuccess) r.pci = pci;
    else static_cast<void>(cudaGetLastError());
    return r;
  }
  static cuda_memory memory_info(int n) {
    detail::device_guard const guard{n};
    cuda_memory r;
    MORTISE_CUDA(cudaMemGetInfo(&r.free, &r.total));
    return r;
  }
  /// Ordinals of all devices, the one with the most free memory first; equal ones in their order.
  static std::vector<int> by_free_memory() {
    std::vector<std::pair<std::size_t, int>> devices;
    for (int i = 0; i < device_count(); ++i) devices.emplace_back(memory_info(i).free, i);
    std::stable_sort(devices.begin(), devices.end(), [](auto const& a, auto const& b) { return a.first > b.first; });
    std::vector<int> order;
    for (auto const& d : devices) order.push_back(d.second);
    return order;
  }
  /// What CUDA_VISIBLE_DEVICES means: this program's devices and the machine's.
  static std::vector<cuda_visible_device> visible_devices() {
    return detail::parse_visible_devices(std::getenv("CUDA_VISIBLE_DEVICES"), device_count());
  }
  /// The device that `cuda{}` means from now on. Throws cuda_error when there is no such device.
  static void set_device(int n) {
    cudaError_t code = cudaSuccess;
    if (std::string const why = detail::cuda_problem(n, &code); !why.empty())
      throw cuda_error{"mortise::cuda::set_device: " + why, "set_device", cudaGetErrorName(code), cudaGetErrorString(code), __FILE__, __LINE__,
                       static_cast<int>(code)};
    current().store(n);
  }
  static int current_device() { return current().load(); }
  /// CUDA versions as 1000 major + 10 minor; 0: there is none.
  static int driver_version() {
    int v = 0;
    detail::ignore_cuda(cudaDriverGetVersion(&v));
    return v;
  }
  static int runtime_version() {
    int v = 0;
    detail::ignore_cuda(cudaRuntimeGetVersion(&v));
    return v;
  }

  // ---- seeds ---------------------------------------------------------------------------------------------------------------------------
  // There is no generator to seed: random numbers are functions of a model's seed. These set the seed for whoever asks the device for one:
  // model<...> net{mt::cuda{0}, mt::seed{mt::cuda::seed_of(0)}}.

  /// Sets the seed of the device that `cuda{}` means.
  static void manual_seed(std::uint64_t seed) { seed_slot(current_device()).store(seed); }
  static void manual_seed_all(std::uint64_t seed) {
    for (int i = 0; i < max_devices; ++i) seed_slot(i).store(seed);
  }
  static std::uint64_t seed_of(int n) { return seed_slot(n).load(); }
  static std::uint64_t seed_of() { return seed_of(current_device()); }

 private:
  static constexpr int max_devices = 256;

  static std::atomic<int>& current() {
    static std::atomic<int> device{0};
    return device;
  }
  static std::atomic<std::uint64_t>& seed_slot(int n) {
    static std::array<std::atomic<std::uint64_t>, max_devices> seeds{};
    return seeds[static_cast<std::size_t>(n < 0 || n >= max_devices ? 0 : n)];
  }
  template <class D>
  static void issue_copy(cudaStream_t stream, void*, void const* description) {
    auto const& d = *static_cast<D const*>(description);
    MORTISE_CUDA(cudaMemcpyAsync(d.to, d.from, d.bytes, cudaMemcpyDefault, stream));
  }
  template <class D>
  static void issue_zero(cudaStream_t stream, void*, void const* description) {
    auto const& d = *static_cast<D const*>(description);
    MORTISE_CUDA(cudaMemsetAsync(d.to, 0, d.bytes, stream));
  }

  mutable std::shared_ptr<detail::cuda_context> context_;
};

static_assert(Device<cuda>);

}  // namespace mortise
