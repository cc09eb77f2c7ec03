// Batches on their way to a CUDA device, and the recorded steps of a model.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/model/step_memory.hpp>

namespace mortise {

namespace detail {

/// One of a batch's arrays, by way of pinned memory, into one of two buffers in turn: while the device works on one batch, the next one is
/// copied on a stream of its own.
class staged_array {
 public:
  staged_array() = default;
  staged_array(staged_array const&) : staged_array{} {}
  staged_array(staged_array&& other) noexcept { swap(other); }
  staged_array& operator=(staged_array other) noexcept {
    swap(other);
    return *this;
  }
  ~staged_array() { release(); }

  /// `from`, or a copy of it on the device. The caller may change its memory as soon as this returns.
  void const* bring(cuda const& device, void const* from, std::size_t bytes) {
    if (bytes == 0) return from;
    cudaPointerAttributes attributes{};
    MORTISE_CUDA(cudaPointerGetAttributes(&attributes, from));
    if (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged) return from;
    auto& c = device.context();
    device_guard const guard{c.ordinal()};
    if (bytes > bytes_ || !(device_ == device) || slots_[0].memory == nullptr) grow(device, bytes);
    turn_ ^= 1;
    slot& s = slots_[turn_];
    // Work issued so far is done with the other buffer when this event comes; the one before was for this buffer.
    MORTISE_CUDA(cudaEventRecord(s.issued, c.stream()));
    if (auto const code = cudaEventQuery(s.copied); code == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      MORTISE_CUDA(cudaEventSynchronize(s.copied));
    } else {
      MORTISE_CUDA(code);
    }
    std::memcpy(s.pinned, from, bytes);
    MORTISE_CUDA(cudaStreamWaitEvent(c.copy_stream(), slots_[turn_ ^ 1].issued, 0));
    MORTISE_CUDA(cudaMemcpyAsync(s.memory, s.pinned, bytes, cudaMemcpyHostToDevice, c.copy_stream()));
    MORTISE_CUDA(cudaEventRecord(s.copied, c.copy_stream()));
    MORTISE_CUDA(cudaStreamWaitEvent(c.stream(), s.copied, 0));
    return s.memory;
  }

 private:
  struct slot {
    void* pinned = nullptr;
    void* memory = nullptr;
    cudaEvent_t issued = nullptr, copied = nullptr;
  };

  void swap(staged_array& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(slots_, other.slots_);
    std::swap(bytes_, other.bytes_);
    std::swap(turn_, other.turn_);
    retired_.swap(other.retired_);
  }
  MORTISE_COLD void grow(cuda const& device, std::size_t bytes) {
    // Freeing pinned memory waits for all devices of the process, also for one that waits for a rank whose thread is here. So it is kept.
    for (slot& s : slots_)
      if (s.pinned != nullptr) {
        retired_.push_back(s.pinned);
        s.pinned = nullptr;
      }
    if (device_ == device && bytes < 2 * bytes_) bytes = 2 * bytes_;
    release_slots();
    device_ = device;
    for (slot& s : slots_) {
      s.memory = device.allocate(bytes);
      MORTISE_CUDA(cudaHostAlloc(&s.pinned, bytes, cudaHostAllocDefault));
      MORTISE_CUDA(cudaEventCreateWithFlags(&s.issued, cudaEventDisableTiming));
      MORTISE_CUDA(cudaEventCreateWithFlags(&s.copied, cudaEventDisableTiming));
    }
    device.synchronize();  // the copying stream must not run ahead of the allocation
    bytes_ = bytes;
  }
  void release() noexcept {
    release_slots();
    for (void* const p : retired_) ignore_cuda(cudaFreeHost(p));
    retired_.clear();
  }
  void release_slots() noexcept {
    if (slots_[0].memory != nullptr) {
      ignore_cuda(cudaStreamSynchronize(device_.context().copy_stream()));
      ignore_cuda(cudaStreamSynchronize(device_.context().stream()));
    }
    for (slot& s : slots_) {
      if (s.memory != nullptr) device_.deallocate(s.memory, bytes_);
      if (s.pinned != nullptr) ignore_cuda(cudaFreeHost(s.pinned));
      if (s.issued != nullptr) ignore_cuda(cudaEventDestroy(s.issued));
      if (s.copied != nullptr) ignore_cuda(cudaEventDestroy(s.copied));
      s = slot{};
    }
    bytes_ = 0;
  }

  cuda device_{};
  slot slots_[2];
  std::vector<void*> retired_{};  // pinned memory that became too small
  std::size_t bytes_ = 0;
  int turn_ = 0;
};

/// A step that ran once, was captured the second time, and is launched as a graph from the third on.
struct recorded_step {
  void const* x = nullptr;
  void const* y = nullptr;
  std::size_t batch = 0;
  void const* loss = nullptr;
  void const* optimizer = nullptr;
  std::size_t runs = 0;
  cuda_recording recording;
};

}  // namespace detail

template <>
struct step_memory<cuda> {
 public:
  step_memory() = default;
  step_memory(step_memory const&) : step_memory{} {}
  step_memory(step_memory&&) noexcept = default;
  step_memory& operator=(step_memory other) noexcept {
    input_ = std::move(other.input_);
    target_ = std::move(other.target_);
    steps_ = std::move(other.steps_);
    return *this;
  }

  template <class T>
  T const* input(cuda const& device, T const* elements, std::size_t n) {
    return static_cast<T const*>(input_.bring(device, elements, n * sizeof(T)));
  }
  template <class T>
  T const* target(cuda const& device, T const* elements, std::size_t n) {
    return static_cast<T const*>(target_.bring(device, elements, n * sizeof(T)));
  }

  /// The record of steps on these buffers; at most eight are kept.
  detail::recorded_step& step(void const* x, void const* y, std::size_t batch, void const* loss, void const* optimizer) {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      auto& s = *steps_[i];
      if (s.x == x && s.y == y && s.batch == batch && s.loss == loss && s.optimizer == optimizer) {
        for (; i > 0; --i) std::swap(steps_[i], steps_[i - 1]);
        return *steps_[0];
      }
    }
    if (steps_.size() == 8) steps_.pop_back();
    auto fresh = std::make_unique<detail::recorded_step>();
    fresh->x = x;
    fresh->y = y;
    fresh->batch = batch;
    fresh->loss = loss;
    fresh->optimizer = optimizer;
    steps_.insert(steps_.begin(), std::move(fresh));
    return *steps_[0];
  }

  /// False: every step is issued kernel by kernel. The bits are the same.
  bool graphs = true;

 private:
  detail::staged_array input_, target_;
  std::vector<std::unique_ptr<detail::recorded_step>> steps_;
};

}  // namespace mortise
