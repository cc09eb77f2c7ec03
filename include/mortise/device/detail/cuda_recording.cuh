// A step as a CUDA graph: captured once, launched again as long as the host code asks for the same work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <mortise/device/detail/cuda_error.cuh>

namespace mortise::detail {

/// What the host code of a step asked for, and the graph that does it.
///
/// The first time, operations are captured; each is noted with all its arguments. Later the same host code runs again but nothing is
/// issued: each operation is compared with its note. A kernel whose arguments have changed (the step's number in a random stream, a
/// learning rate, a pointer) gets the new ones in its node of the executable graph; any other difference means that this is another step:
/// what was compared so far is issued from the notes, the rest as it comes, and the next step is captured anew. So whatever an operation's
/// arguments depend on, a replayed step has the bits of an issued one, and the host code runs exactly once for each step.
class cuda_recording {
 public:
  cuda_recording() = default;
  cuda_recording(cuda_recording const&) = delete;  // owns a graph
  cuda_recording& operator=(cuda_recording const&) = delete;
  ~cuda_recording() { clear(); }

  /// An operation other than a kernel: issues what `description` says on the stream.
  using issuer = void (*)(cudaStream_t stream, void* context, void const* description);

  enum class state { off, capturing, replaying };

  bool ready() const { return exec_ != nullptr; }
  state mode() const { return mode_; }
  std::size_t size() const { return notes_.size(); }
  std::size_t updates() const { return updates_; }  ///< kernel nodes that got other arguments, over all replays

  void clear() noexcept {
    if (exec_ != nullptr) ignore_cuda(cudaGraphExecDestroy(exec_));
    if (graph_ != nullptr) ignore_cuda(cudaGraphDestroy(graph_));
    exec_ = nullptr;
    graph_ = nullptr;
    notes_.clear();
  }

  void begin_capture(cudaStream_t stream) {
    clear();
    MORTISE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    mode_ = state::capturing;
  }
  /// Throws what instantiation throws; then nothing is recorded.
  void end_capture(cudaStream_t stream) {
    mode_ = state::off;
    if (auto const code = cudaStreamEndCapture(stream, &graph_); code != cudaSuccess) {
      graph_ = nullptr;
      clear();
      throw_cuda_error(code, "cudaStreamEndCapture", __FILE__, __LINE__);
    }
    if (auto const code = cudaGraphInstantiate(&exec_, graph_, 0); code != cudaSuccess) {
      exec_ = nullptr;
      clear();
      throw_cuda_error(code, "cudaGraphInstantiate", __FILE__, __LINE__);
    }
  }
  /// After an exception: nothing stays recorded.
  void abandon(cudaStream_t stream) noexcept {
    if (mode_ == state::capturing) {
      cudaGraph_t graph = nullptr;
      ignore_cuda(cudaStreamEndCapture(stream, &graph));
      if (graph != nullptr) ignore_cuda(cudaGraphDestroy(graph));
    }
    mode_ = state::off;
    clear();
  }

  void begin_replay() {
    next_ = 0;
    mode_ = state::replaying;
  }
  /// True when the host code asked for exactly the recorded operations, which `launch` then does; otherwise all of them have been issued.
  bool end_replay(cudaStream_t stream, void* context) {
    if (mode_ == state::replaying && next_ != notes_.size()) diverge(stream, context);
    bool const same_step = mode_ == state::replaying;
    mode_ = state::off;
    return same_step;
  }
  void launch(cudaStream_t stream) { MORTISE_CUDA(cudaGraphLaunch(exec_, stream)); }

  /// Notes a kernel that was just captured on `stream`.
  void note_kernel(cudaStream_t stream, void const* function, dim3 grid, dim3 block, std::size_t shared, void** arguments,
                   std::size_t const* sizes, std::size_t count) {
    note n;
    n.function = function;
    n.grid = grid;
    n.block = block;
    n.shared = shared;
    for (std::size_t i = 0; i < count; ++i) {
      auto const* const bytes = static_cast<std::byte const*>(arguments[i]);
      n.offsets.push_back(n.bytes.size());
      n.bytes.insert(n.bytes.end(), bytes, bytes + sizes[i]);
      n.bytes.resize((n.bytes.size() + 15) / 16 * 16);
    }
    n.node = last_node(stream);
    notes_.push_back(std::move(n));
  }
  /// Notes anything else: it must come again with the same description.
  void note_other(issuer issue, void const* description, std::size_t bytes) {
    note n;
    n.issue = issue;
    n.bytes.assign(static_cast<std::byte const*>(description), static_cast<std::byte const*>(description) + bytes);
    notes_.push_back(std::move(n));
  }

  /// False: the step has diverged, and the caller issues this operation itself.
  bool replay_kernel(cudaStream_t stream, void* context, void const* function, dim3 grid, dim3 block, std::size_t shared, void** arguments,
                     std::size_t const* sizes, std::size_t count) {
    if (next_ == notes_.size() || notes_[next_].function != function || !same(notes_[next_].grid, grid) || !same(notes_[next_].block, block) ||
        notes_[next_].shared != shared) {
      diverge(stream, context);
      return false;
    }
    note& n = notes_[next_];
    bool changed = false;
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* const known = n.bytes.data() + n.offsets[i];
      if (std::memcmp(known, arguments[i], sizes[i]) == 0) continue;
      std::memcpy(known, arguments[i], sizes[i]);
      changed = true;
    }
    if (changed) {
      cudaKernelNodeParams p{};
      p.func = const_cast<void*>(function);
      p.gridDim = grid;
      p.blockDim = block;
      p.sharedMemBytes = static_cast<unsigned>(shared);
      p.kernelParams = arguments;
      MORTISE_CUDA(cudaGraphExecKernelNodeSetParams(exec_, n.node, &p));
      ++updates_;
    }
    ++next_;
    return true;
  }
  bool replay_other(cudaStream_t stream, void* context, issuer issue, void const* description, std::size_t bytes) {
    if (next_ == notes_.size() || notes_[next_].issue != issue || notes_[next_].bytes.size() != bytes ||
        std::memcmp(notes_[next_].bytes.data(), description, bytes) != 0) {
      diverge(stream, context);
      return false;
    }
    ++next_;
    return true;
  }

 private:
  struct note {
    void const* function = nullptr;  // a kernel,
    issuer issue = nullptr;          // or something else
    cudaGraphNode_t node = nullptr;
    dim3 grid{}, block{};
    std::size_t shared = 0;
    std::vector<std::byte> bytes{};
    std::vector<std::size_t> offsets{};
  };

  static bool same(dim3 const& a, dim3 const& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

  /// Another step than the recorded one: issues what was only compared so far, and forgets the recording.
  MORTISE_COLD void diverge(cudaStream_t stream, void* context) {
    mode_ = state::off;
    for (std::size_t i = 0; i < next_; ++i) {
      note& n = notes_[i];
      if (n.issue != nullptr) {
        n.issue(stream, context, n.bytes.data());
      } else {
        std::vector<void*> arguments;
        for (std::size_t const offset : n.offsets) arguments.push_back(n.bytes.data() + offset);
        MORTISE_CUDA(cudaLaunchKernel(n.function, n.grid, n.block, arguments.data(), n.shared, stream));
      }
    }
    clear();
  }

  static cudaGraphNode_t last_node(cudaStream_t stream) {
    cudaStreamCaptureStatus status{};
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
    cudaGraphNode_t const* nodes = nullptr;
    std::size_t count = 0;
    MORTISE_CUDA(cudaStreamGetCaptureInfo(stream, &status, &id, &graph, &nodes, nullptr, &count));
    return count == 0 ? nullptr : nodes[count - 1];
  }

  std::vector<note> notes_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  std::size_t next_ = 0;
  std::size_t updates_ = 0;
  state mode_ = state::off;
};

}  // namespace mortise::detail
