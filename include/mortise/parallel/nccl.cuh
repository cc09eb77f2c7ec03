// Several processes train one model on CUDA devices, one device each. Needs NCCL (nccl.h and -lnccl), and nvcc.
//
//     mt::distributed<mt::mpi> processes;                                        // started by mpirun; or any other way to agree on an id
//     mt::distributed<mt::nccl> world{mt::cuda{processes.local_rank()}, mt::nccl_id(processes), processes.rank(), processes.size()};
//     mt::data_parallel many{net, world, mt::shards{4}};
//
// NCCL moves bytes. Sums are ours, in the order of the tree of shards, so that bits are those of one device; ncclAllReduce sums in an order
// that depends on ring and version, and is not used.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/operation/cuda/launch.cuh>
#include <mortise/parallel/cuda.cuh>
#include <mortise/parallel/data_parallel.hpp>
#include <mortise/parallel/distributed.hpp>

namespace mortise {

/// Names the engine: distributed<nccl>.
struct nccl {};

/// A NCCL call failed, or the others did not come in time. The communicator is gone; see distributed_error.
struct nccl_error : distributed_error {
  std::string call;  ///< as written
  int code;          ///< ncclResult_t

  nccl_error(std::string const& what, std::string c, int number) : distributed_error{what}, call{std::move(c)}, code{number} {}
};

/// What all ranks of one run have to know; made by one of them.
inline ncclUniqueId make_nccl_id() {
  ncclUniqueId id{};
  if (auto const code = ncclGetUniqueId(&id); code != ncclSuccess)
    throw nccl_error(std::string{"mortise::nccl: ncclGetUniqueId failed: "} + ncclGetErrorString(code), "ncclGetUniqueId", code);
  return id;
}
/// The same id on all processes of another engine, such as distributed<mpi>.
template <class Processes>
ncclUniqueId nccl_id(Processes& processes) {
  ncclUniqueId id{};
  processes.once([&] { id = make_nccl_id(); });
  processes.broadcast(id.internal, sizeof id.internal, 0);
  return id;
}
/// The same id by way of a file that all ranks can reach: rank 0 writes it, the others wait for it, at most `timeout` seconds. The file must
/// not be there before; rank 0 removes an old one only where the run's starter does not.
inline ncclUniqueId nccl_id(std::string const& path, std::size_t rank, double timeout = 300) {
  ncclUniqueId id{};
  if (rank == 0) {
    id = make_nccl_id();
    std::string const unfinished = path + ".part";
    std::ofstream out{unfinished, std::ios::binary};
    out.write(id.internal, sizeof id.internal);
    out.close();
    if (!out || std::rename(unfinished.c_str(), path.c_str()) != 0)
      throw distributed_error("mortise::nccl: \"" + path + "\", through which the ranks find each other, cannot be written");
    return id;
  }
  auto const start = std::chrono::steady_clock::now();
  for (;;) {
    std::ifstream in{path, std::ios::binary};
    if (in.read(id.internal, sizeof id.internal)) return id;
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > timeout)
      throw distributed_error("mortise::nccl: rank " + std::to_string(rank) + " waited " + std::to_string(static_cast<long>(timeout)) +
                              " s for \"" + path + "\", which rank 0 writes");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// One rank of a run on CUDA devices: who it is comes from the caller, so ranks may be processes (mpirun, srun) or threads.
///
/// Every wait for another rank has an end: after `timeout` seconds the communicator is aborted and nccl_error thrown. All work of NCCL runs on a
/// stream of its own, in one order on all ranks. Used by one thread at a time.
template <>
class distributed<nccl> {
 public:
  distributed(cuda const& device, ncclUniqueId const& id, std::size_t rank, std::size_t size, distributed_options const& options = {})
      : options_{options}, device_{device}, rank_{rank}, size_{size} {
    if (rank >= size)
      throw usage_error("mortise::distributed: rank " + std::to_string(rank) + " of " + std::to_string(size) + "; ranks count from 0");
    detail::device_guard const guard{device.ordinal};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // a rank that never comes must not hold this one for ever
    MORTISE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    try {
      here_ = std::make_unique<detail::cuda_event>(device);
      there_ = std::make_unique<detail::cuda_event>(device);
      check(ncclCommInitRankConfig(&comm_, static_cast<int>(size), id, static_cast<int>(rank), &config), "ncclCommInitRankConfig");
    } catch (...) {
      release();
      throw;
    }
  }
  distributed(distributed const&) = delete;
  distributed& operator=(distributed const&) = delete;
  ~distributed() { release(); }

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return size_; }
  cuda const& device() const { return device_; }
  distributed_options const& options() const { return options_; }
  /// On which NCCL works. `start` and `finish` order it after and before the device's own.
  cudaStream_t stream() const { return stream_; }
  void start() {
    here_->record(device_.stream());
    here_->hold(device_, stream_);
  }
  void finish() {
    there_->record(stream_);
    there_->hold(device_, device_.stream());
  }

  /// Waits until all ranks are here.
  void barrier() {
    std::vector<char> present(size_);
    gather(present.data(), detail::equal_parts(size_));
  }
  /// Runs f on rank 0 only; all wait for it, and what it throws there is thrown everywhere.
  template <class F>
  void once(F const& f) {
    attempt([&] {
      if (rank_ == 0) f();
    });
  }
  /// Runs f on every rank, and waits for all that was issued. Where it throws on any, it throws on all: its own error there,
  /// distributed_error elsewhere.
  template <class F>
  void attempt(F const& f) {
    std::exception_ptr failure;
    try {
      f();
    } catch (distributed_error const&) {  // the others are out of reach
      throw;
    } catch (std::exception const&) {
      failure = std::current_exception();
    }
    detail::share_failure(*this, failure);
  }

  /// Rank r has elements [first[r], first[r + 1]) of `data`; afterwards all have all. Device memory: in the order of the device's stream; memory
  /// of the host: waits.
  template <class T>
  void gather(T* data, std::vector<std::size_t> const& first) {
    if (first[size_] == 0) return;
    if (detail::in_device_memory(data)) {
      start();
      spread(data, first);
      return finish();
    }
    T* const staged = reinterpret_cast<T*>(staging(first[size_] * sizeof(T)));
    device_.copy(staged + first[rank_], data + first[rank_], (first[rank_ + 1] - first[rank_]) * sizeof(T));
    start();
    spread(staged, first);
    finish();
    wait("gathering what the ranks have");  // before the copy, which would wait for ever
    device_.copy(data, staged, first[size_] * sizeof(T));
    device_.synchronize();
  }
  template <class T>
  void broadcast(T* data, std::size_t n, std::size_t from) {
    std::vector<std::size_t> first(size_ + 1);
    for (std::size_t r = 0; r <= size_; ++r) first[r] = r <= from ? 0 : n;
    gather(data, first);
  }

  /// The same on NCCL's stream, for device memory.
  template <class T>
  void spread(T* data, std::vector<std::size_t> const& first) {
    group([&] {
      for (std::size_t r = 0; r < size_; ++r)
        if (first[r + 1] != first[r])
          call(ncclBroadcast(data + first[r], data + first[r], (first[r + 1] - first[r]) * sizeof(T), ncclUint8, static_cast<int>(r), comm_,
                             stream_),
               "ncclBroadcast");
    });
  }
  template <class T>
  void send(T const* data, std::size_t n, std::size_t to) {
    call(ncclSend(data, n * sizeof(T), ncclUint8, static_cast<int>(to), comm_, stream_), "ncclSend");
  }
  template <class T>
  void receive(T* data, std::size_t n, std::size_t from) {
    call(ncclRecv(data, n * sizeof(T), ncclUint8, static_cast<int>(from), comm_, stream_), "ncclRecv");
  }
  /// Issues what f asks for at once: sends and receives find each other.
  template <class F>
  void group(F const& f) {
    if (comm_ == nullptr)
      throw nccl_error(
          "mortise::distributed: rank " + std::to_string(rank_) + " has lost the others; start the run again from its last checkpoint", "",
          ncclInvalidUsage);
    detail::device_guard const guard{device_.ordinal};
    check(ncclGroupStart(), "ncclGroupStart");
    try {
      f();
    } catch (...) {  // the group ends before the communicator that it mentions
      static_cast<void>(ncclGroupEnd());
      abort();
      throw;
    }
    check(ncclGroupEnd(), "ncclGroupEnd");
  }

  /// Waits for all that the device was asked, at most `timeout` seconds.
  void wait(char const* what) {
    auto const begin = std::chrono::steady_clock::now();
    for (unsigned long turn = 0;; ++turn) {
      auto const code = [&] {
        detail::device_guard const guard{device_.ordinal};
        return cudaStreamQuery(device_.stream());
      }();
      if (code == cudaSuccess) return;
      if (code != cudaErrorNotReady) detail::check_cuda(code, what, __FILE__, __LINE__);
      check_asynchronous(what);
      rest(begin, turn, what);
    }
  }

 private:
  using instant = std::chrono::steady_clock::time_point;

  void rest(instant begin, unsigned long turn, char const* what) {
    if (turn < 2000) return;
    std::chrono::duration<double> const waited = std::chrono::steady_clock::now() - begin;
    if (waited.count() > options_.timeout) {
      abort();
      throw nccl_error("mortise::distributed: rank " + std::to_string(rank_) + " of " + std::to_string(size_) + " waited " +
                           std::to_string(static_cast<long>(options_.timeout)) + " s for the others, in " + what +
                           "; a process has died or hangs. Start the run again from its last checkpoint, or raise the timeout",
                       what, ncclInProgress);
    }
    if (waited.count() > 0.02) std::this_thread::sleep_for(std::chrono::microseconds(200));
    else std::this_thread::yield();
  }
  void check_asynchronous(char const* what) {
    ncclResult_t found = ncclSuccess;
    if (comm_ == nullptr) return;
    if (auto const code = ncclCommGetAsyncError(comm_, &found); code != ncclSuccess) found = code;
    if (found != ncclSuccess && found != ncclInProgress) fail(found, what);
  }
  /// A call inside a group: done when the group is.
  void call(ncclResult_t code, char const* what) {
    if (code != ncclSuccess && code != ncclInProgress) throw error_of(code, what);
  }
  /// Waits until the communicator has taken the call.
  void check(ncclResult_t code, char const* what) {
    auto const begin = std::chrono::steady_clock::now();
    for (unsigned long turn = 0; code == ncclInProgress; ++turn) {
      if (auto const e = ncclCommGetAsyncError(comm_, &code); e != ncclSuccess) code = e;
      if (code == ncclInProgress) rest(begin, turn, what);
    }
    if (code != ncclSuccess) fail(code, what);
  }
  MORTISE_COLD nccl_error error_of(ncclResult_t code, char const* what) const {
    std::string const last = ncclGetLastError(comm_);
    return {"mortise::distributed: rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ": " + what + " failed: " +
                ncclGetErrorString(code) + (last.empty() ? "" : " (" + last + ")") + "; start the run again from its last checkpoint",
            what, code};
  }
  [[noreturn]] MORTISE_COLD void fail(ncclResult_t code, char const* what) {
    nccl_error const e = error_of(code, what);
    abort();
    throw e;
  }
  void abort() noexcept {
    detail::device_guard const guard{device_.ordinal};
    if (comm_ != nullptr) static_cast<void>(ncclCommAbort(std::exchange(comm_, nullptr)));
  }
  void release() noexcept {
    detail::device_guard const guard{device_.ordinal};
    if (comm_ != nullptr && std::uncaught_exceptions() > 0) abort();
    if (comm_ != nullptr) {
      detail::ignore_cuda(cudaStreamSynchronize(stream_));
      static_cast<void>(ncclCommDestroy(std::exchange(comm_, nullptr)));
    }
    if (stream_ != nullptr) detail::ignore_cuda(cudaStreamSynchronize(stream_));
    if (stream_ != nullptr) detail::ignore_cuda(cudaStreamDestroy(std::exchange(stream_, nullptr)));
  }

  std::byte* staging(std::size_t bytes) {
    if (staging_.size() < bytes) staging_ = buffer<std::byte, cuda>{device_, bytes};
    return staging_.data();
  }

  distributed_options options_;
  cuda device_;
  std::size_t rank_, size_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<detail::cuda_event> here_, there_;
  buffer<std::byte, cuda> staging_{};
};

/// The devices of one process, as devices{...}, whose parameters travel by NCCL's broadcast: along the links between all of them instead of
/// (N - 1) times out of the first.
///
///     mt::data_parallel many{net, mt::nccl_devices{mt::devices{mt::cuda{0}, mt::cuda{1}}}};
struct nccl_devices {
  devices<cuda> list;
};

namespace detail {

class nccl_device_team : public device_team<cuda> {
 public:
  nccl_device_team(nccl_devices const& of, bool together) : device_team<cuda>{of.list, together}, comms_(of.list.size()) {
    std::vector<int> ordinals;
    for (cuda const& d : of.list.all()) ordinals.push_back(d.ordinal);
    check(ncclCommInitAll(comms_.data(), static_cast<int>(ordinals.size()), ordinals.data()), "ncclCommInitAll");
  }
  nccl_device_team(nccl_device_team&& other) noexcept : device_team<cuda>{std::move(other)}, comms_{std::exchange(other.comms_, {})} {}
  ~nccl_device_team() {
    for (ncclComm_t const c : comms_) static_cast<void>(ncclCommDestroy(c));
  }

  /// where[0] on the first device becomes where[d] on each device d, in the order of their streams.
  template <class T>
  void spread(std::vector<T*> const& where, std::size_t n) {
    check(ncclGroupStart(), "ncclGroupStart");
    ncclResult_t code = ncclSuccess;
    for (std::size_t d = 0; d < where.size() && code == ncclSuccess; ++d) {
      device_guard const guard{device(d).ordinal};
      code = ncclBroadcast(where[0], where[d], n * sizeof(T), ncclUint8, 0, comms_[d], device(d).stream());
    }
    auto const end = ncclGroupEnd();
    check(code, "ncclBroadcast");
    check(end, "ncclGroupEnd");
  }

 private:
  static void check(ncclResult_t code, char const* call) {
    if (code == ncclSuccess) return;
    throw nccl_error(std::string{"mortise::data_parallel: "} + call + " failed: " + ncclGetErrorString(code) + " (" +
                         ncclGetLastError(nullptr) + "); devices{...} in place of nccl_devices copies from device to device",
                     call, code);
  }

  std::vector<ncclComm_t> comms_;
};
template <>
struct team_of<nccl_devices> {
  using type = nccl_device_team;
};

/// Where the ranks' shards meet at batch norms, one of each.
class nccl_batch_norm_end final : public cuda_batch_group {
 public:
  explicit nccl_batch_norm_end(distributed<nccl>& world) : world_{&world} {}
  std::size_t members() const override { return world_->size(); }
  std::size_t samples() const override { return samples_; }
  void set_samples(std::size_t n) { samples_ = n; }
  double* values(cuda const& device, std::size_t n) override {
    std::size_t const all = n * members();
    if (table_.size() < all) table_ = buffer<double, cuda>{device, all};
    return table_.data() + world_->rank() * n;
  }
  double const* exchange(cuda const&, std::size_t n) override {
    world_->gather(table_.data(), equal_parts(members(), n));
    return table_.data();
  }

 private:
  distributed<nccl>* world_;
  buffer<double, cuda> table_{};
  std::size_t samples_ = 0;
};

/// One CUDA device in each of several processes.
class nccl_team {
 public:
  explicit nccl_team(distributed<nccl>& world) : world_{&world}, end_{std::make_unique<nccl_batch_norm_end>(world)} {}
  cuda_batch_group& batch_norm_end() { return *end_; }
  void begin_batch(std::size_t samples) { end_->set_samples(samples); }

  std::size_t size() const { return 1; }
  cuda device(std::size_t) const { return world_->device(); }
  cuda whole() const { return world_->device(); }
  template <class F>
  void run(F const& f) {
    f(std::size_t{0});
  }

  std::size_t rank() const { return world_->rank(); }
  std::size_t processes() const { return world_->size(); }
  cudaStream_t stream() const { return world_->stream(); }
  template <class F>
  void once(F const& f) const {
    world_->once(f);
  }
  template <class F>
  void attempt(F const& f) {
    world_->attempt(f);
  }
  template <class T>
  void gather(T* data, std::vector<std::size_t> const& first) {
    world_->gather(data, first);
  }

  /// Waits for what was asked of the others, no longer than the timeout: what reads the device next waits without an end.
  void settle() { world_->wait("sharing what the ranks have"); }

  /// Compares what must be equal, and starts all ranks from rank 0's parameters, buffers and step.
  template <class Model>
  void agree_on(Model& net, std::size_t shards) {
    std::vector<run_identity> all(processes());
    all[rank()] = run_identity_of<Model>(shards);
    world_->gather(all.data(), equal_parts(processes()));
    check_identities(all);
    world_->broadcast(net.parameters().data(), net.parameters().size(), 0);
    std::uint64_t step = net.training_steps();
    world_->broadcast(&step, 1, 0);
    net.set_training_steps(step);
    broadcast_statistics(net);
    settle();
  }
  template <class Model>
  void broadcast_statistics(Model& net) {
    if (net.buffers().size() != 0) world_->broadcast(net.buffers().data(), net.buffers().size(), 0);
    if (net.counters().size() != 0) world_->broadcast(net.counters().data(), net.counters().size(), 0);
  }

  // ---- sums of gradients: as in parallel/mpi.hpp, in the order of a stream --------------------------------------------------------------

  template <class T>
  void begin_reduce(batch_part const& cut, std::size_t batch, std::size_t n, T* result, cuda const&) {
    list_partial_sums(cut, batch, processes(), nodes_);
    shards_ = cut.shard_count(batch);
    result_ = result;
    used_ = 0;
    std::size_t const bytes = nodes_.size() * (n + 1) * sizeof(T);
    if (arrived_.size() < bytes) arrived_ = buffer<std::byte, cuda>{world_->device(), bytes};
    world_->start();
  }
  /// On NCCL's stream, which waits for the range already.
  template <class T>
  void reduce_range(std::vector<partial_sum<T>> const& mine, std::size_t first, std::size_t n) {
    std::size_t const size = processes(), me = rank();
    std::vector<std::size_t> slice(size + 1);
    for (std::size_t p = 0; p <= size; ++p) slice[p] = p * n / size;
    std::size_t const count = slice[me + 1] - slice[me];
    std::vector<T*> where;
    std::size_t own = 0;
    world_->group([&] {
      for (auto const& node : nodes_) {
        if (node.owner == me) {
          T* const data = mine[own++].data + first;
          where.push_back(data + slice[me]);
          for (std::size_t p = 0; p < size; ++p)
            if (p != me && slice[p + 1] != slice[p]) world_->send(data + slice[p], slice[p + 1] - slice[p], p);
        } else {
          T* const next = reinterpret_cast<T*>(arrived_.data()) + used_;
          where.push_back(next);
          if (count != 0) world_->receive(next, count, node.owner);
          used_ += count;
        }
      }
    });
    T* const result = static_cast<T*>(result_) + first;
    std::vector<array_addition<T>> additions;
    plan_additions(nodes_, where, shards_, result + slice[me], additions);
    device_guard const guard{world_->device().ordinal};
    for (auto const& x : additions) add_on(world_->stream(), count, x.a, x.b, x.y);
    if (additions.empty() && count != 0 && where[0] != result + slice[me])
      MORTISE_CUDA(cudaMemcpyAsync(result + slice[me], where[0], count * sizeof(T), cudaMemcpyDefault, world_->stream()));
    world_->spread(result, slice);
  }
  void progress() {}
  /// The device's stream goes on behind the sums.
  void end_reduce() { world_->finish(); }

 private:
  distributed<nccl>* world_;
  std::unique_ptr<nccl_batch_norm_end> end_;
  std::vector<partial_sum<char>> nodes_;
  buffer<std::byte, cuda> arrived_{};
  std::size_t used_ = 0, shards_ = 0;
  void* result_ = nullptr;
};

template <>
struct team_of<distributed<nccl>> {
  using type = nccl_team;
};

}  // namespace detail
}  // namespace mortise
