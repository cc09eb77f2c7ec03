// Several CUDA devices of one process: peer copies where the hardware has them, by way of the host where not.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/parallel/data_parallel.hpp>

namespace mortise {

namespace detail {

inline bool in_device_memory(void const* p) {
  cudaPointerAttributes attributes{};
  MORTISE_CUDA(cudaPointerGetAttributes(&attributes, p));
  return attributes.type == cudaMemoryTypeDevice;
}

}  // namespace detail

inline void order_work(cuda const& earlier, cuda const& later) {
  if (earlier == later) return;
  {
    detail::device_guard const guard{earlier.ordinal};
    MORTISE_CUDA(cudaEventRecord(earlier.context().mark(), earlier.stream()));
  }
  detail::device_guard const guard{later.ordinal};
  MORTISE_CUDA(cudaStreamWaitEvent(later.stream(), earlier.context().mark(), 0));
}

template <class T>
void copy_across(cuda const& issuer, cuda const& from_device, cuda const& to_device, std::size_t n, T const* from, T* to) {
  if (n == 0) return;
  if (from_device == to_device) return issuer.copy(to, from, n * sizeof(T));
  detail::device_guard const guard{issuer.ordinal};
  MORTISE_CUDA(cudaMemcpyPeerAsync(to, to_device.ordinal, from, from_device.ordinal, n * sizeof(T), issuer.stream()));
}

template <class T>
T const* readable_on_host(cuda const& device, T const* data, std::size_t n, std::vector<T>& storage) {
  if (n == 0 || !detail::in_device_memory(data)) return data;
  storage.resize(n);
  device.copy(storage.data(), data, n * sizeof(T));
  device.synchronize();
  return storage.data();
}

/// Lets each device read the others' memory where the hardware can; copies between the others go by way of the host.
inline void connect(std::vector<cuda> const& devices) {
  for (cuda const& owner : devices)
    for (cuda const& reader : devices) {
      int can = 0;
      if (owner == reader || cudaDeviceCanAccessPeer(&can, reader.ordinal, owner.ordinal) != cudaSuccess || can == 0) continue;
      cudaMemAccessDesc access{};
      access.location.type = cudaMemLocationTypeDevice;
      access.location.id = reader.ordinal;
      access.flags = cudaMemAccessFlagsProtReadWrite;
      MORTISE_CUDA(cudaMemPoolSetAccess(owner.context().pool(), &access, 1));
    }
}

template <class T>
void check_batch_memory(cuda const& device, std::size_t devices, T const* x) {
  if (devices > 1 && x != nullptr && detail::in_device_memory(x))
    throw usage_error("mortise::data_parallel: the batch lies in the memory of " + detail::device_text(device) + ", which " + std::to_string(devices) +
                      " devices cannot share; give it in the host's memory, from where each device fetches its part");
}

}  // namespace mortise
