// Several CUDA devices of one process: peer copies where the hardware has them, by way of the host where not.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/parallel/batch_norm_group.hpp>
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

namespace detail {

/// An event of a device, for other streams to wait for.
class cuda_event {
 public:
  explicit cuda_event(cuda const& device) : device_{device} {
    device_guard const guard{device.ordinal};
    MORTISE_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  cuda_event(cuda_event const&) = delete;
  cuda_event& operator=(cuda_event const&) = delete;
  ~cuda_event() { ignore_cuda(cudaEventDestroy(event_)); }

  /// Happens when `stream`, one of the same device, has done what it was given so far.
  void record(cudaStream_t stream) const {
    device_guard const guard{device_.ordinal};
    MORTISE_CUDA(cudaEventRecord(event_, stream));
  }
  /// `stream`, of any device, goes on behind it.
  void hold(cuda const& device, cudaStream_t stream) const {
    device_guard const guard{device.ordinal};
    MORTISE_CUDA(cudaStreamWaitEvent(stream, event_, 0));
  }

 private:
  cuda device_;
  cudaEvent_t event_ = nullptr;
};

template <class T>
struct sum_of_elements {
  T const* a;
  T const* b;
  T* y;
  __device__ void operator()(std::uint64_t i) const { y[i] = a[i] + b[i]; }
};

/// y = a + b on a stream of the current device, n elements.
template <class T>
void add_on(cudaStream_t stream, std::size_t n, T const* a, T const* b, T* y) {
  if (n == 0) return;
  sum_of_elements<T> f{a, b, y};
  std::uint64_t count = n;
  void* arguments[] = {&f, &count};
  MORTISE_CUDA(cudaLaunchKernel(reinterpret_cast<void const*>(&index_kernel<sum_of_elements<T>>),
                                dim3{static_cast<unsigned>((n + block_threads - 1) / block_threads)}, dim3{block_threads}, arguments, 0,
                                stream));
}

/// On CUDA devices ranges are added on a second stream of each device, while the first one goes back through the layers.
template <class T>
class range_adder<cuda, T> {
 public:
  void begin(std::vector<cuda> const& devices, std::size_t ranges, std::size_t elements) {
    if (sides_.empty())
      for (cuda const& d : devices) sides_.push_back(std::make_unique<side>(d, devices.size() > 1 ? elements : 0));
    end();  // what a step that failed has left
    for (auto& s : sides_)
      while (s->final.size() < ranges) s->final.push_back(std::make_unique<cuda_event>(s->device));
  }
  void mark(std::size_t d, std::size_t range) { sides_[d]->final[range]->record(sides_[d]->device.stream()); }

  void add(cuda const&, std::size_t range, std::size_t first, std::size_t n, std::vector<array_addition<T>> const& additions) {
    if (additions.empty()) return;
    for (auto& s : sides_) s->final[range]->hold(s->device, s->stream);
    used_ = true;
    for (auto const& x : additions) {
      side& here = *sides_[x.owner];
      T const* b = x.b + first;
      if (x.owner != x.other) {
        side& there = *sides_[x.other];
        there.done->record(there.stream);
        there.done->hold(here.device, here.stream);
        T* const arrived = here.arrived.data() + first;
        device_guard const guard{here.device.ordinal};
        MORTISE_CUDA(cudaMemcpyPeerAsync(arrived, here.device.ordinal, b, there.device.ordinal, n * sizeof(T), here.stream));
        b = arrived;
      }
      device_guard const guard{here.device.ordinal};
      add_on(here.stream, n, x.a + first, b, x.y + first);
    }
  }
  /// `stream`, of the first device, goes on when range r is final and added there.
  void hold(std::size_t range, cudaStream_t stream) {
    side& s = *sides_[0];
    s.final[range]->hold(s.device, stream);
    if (!used_) return;
    s.done->record(s.stream);
    s.done->hold(s.device, stream);
  }
  void end() {
    if (!used_) return;
    for (auto& s : sides_) {
      s->done->record(s->stream);
      s->done->hold(s->device, s->device.stream());
    }
    used_ = false;
  }

 private:
  struct side {
    cuda device;
    buffer<T, cuda> arrived;  // what another device's array has at the same place
    std::unique_ptr<cuda_event> done;
    std::vector<std::unique_ptr<cuda_event>> final{};
    cudaStream_t stream = nullptr;

    side(cuda const& d, std::size_t elements) : device{d}, arrived{d, elements}, done{std::make_unique<cuda_event>(d)} {
      device_guard const guard{d.ordinal};
      MORTISE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    side(side const&) = delete;
    side& operator=(side const&) = delete;
    ~side() {
      ignore_cuda(cudaStreamSynchronize(stream));
      ignore_cuda(cudaStreamDestroy(stream));
    }
  };

  std::vector<std::unique_ptr<side>> sides_;
  bool used_ = false;
};

/// The meeting place of several CUDA devices of one process, a thread each. Only threads wait for each other; devices order their streams.
class cuda_batch_norm_group : public thread_meeting {
 public:
  explicit cuda_batch_norm_group(std::size_t most) {
    for (std::size_t i = 0; i < most; ++i) ends_.push_back(std::make_unique<end>(*this, i));
  }
  cuda_batch_group& member(std::size_t i) { return *ends_[i]; }

  /// A new step, with the first `members` of them and so many samples.
  void begin(std::size_t members, std::size_t samples) {
    thread_meeting::begin(members);
    samples_ = samples;
  }

 private:
  class end final : public cuda_batch_group {
   public:
    end(cuda_batch_norm_group& group, std::size_t index) : group_{&group}, index_{index} {}
    std::size_t members() const override { return group_->members(); }
    std::size_t samples() const override { return group_->samples_; }
    double* values(cuda const& device, std::size_t n) override {
      next_ = group_->turn() % 2;
      if (!ready_[next_]) ready_[next_] = std::make_unique<cuda_event>(device);
      grow(own_[next_], device, n);
      return own_[next_].back().data();
    }
    double const* exchange(cuda const& device, std::size_t n) override {
      ready_[next_]->record(device.stream());
      grow(table_, device, group_->members() * n);
      group_->meet(group_->enter(), "device");
      // Two sets of values in turn: who writes over one has waited for the event of everybody's next exchange, behind all that read it.
      for (std::size_t p = 0; p < group_->members(); ++p) {
        end const& from = *group_->ends_[p];
        if (p != index_) from.ready_[next_]->hold(device, device.stream());
        copy_across(device, from.own_[next_].back().device(), device, n, static_cast<double const*>(from.own_[next_].back().data()),
                    table_.back().data() + p * n);
      }
      return table_.back().data();
    }

   private:
    /// Larger memory; the old one may still be read, and stays.
    static void grow(std::vector<buffer<double, cuda>>& what, cuda const& device, std::size_t n) {
      if (what.empty() || what.back().size() < n) what.emplace_back(cuda{device.ordinal}, n);
    }

    cuda_batch_norm_group* group_;
    std::size_t index_;
    std::size_t next_ = 0;
    std::array<std::vector<buffer<double, cuda>>, 2> own_{};
    std::array<std::unique_ptr<cuda_event>, 2> ready_{};
    std::vector<buffer<double, cuda>> table_{};
  };

  std::vector<std::unique_ptr<end>> ends_;
  std::size_t samples_ = 0;
};

template <>
struct batch_norm_meeting<cuda> {
  using type = cuda_batch_norm_group;
};

}  // namespace detail
}  // namespace mortise
