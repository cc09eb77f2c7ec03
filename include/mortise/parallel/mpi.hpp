// Several processes train one model: one device each, started by mpirun. Needs MPI (Debian: libopenmpi-dev).
//
//     mt::distributed<mt::mpi> world;
//     mt::data_parallel many{net, world, mt::shards{4}};
//     mt::batch_loader loader{data, {.batch = 64, .shuffle = true, .part = many.part()}};
#pragma once

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1  // the C interface is all that is used
#endif
#include <mpi.h>

#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/detail/batch_group.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/device/host.hpp>
#include <mortise/parallel/distributed.hpp>
#include <mortise/parallel/host_mesh.hpp>
#include <mortise/parallel/reduce.hpp>
#include <mortise/tensor/batch_part.hpp>

namespace mortise {

/// Names the engine: distributed<mpi>.
struct mpi {};

/// The processes that mpirun started. Initialises MPI unless the program has done so, and ends it if it began it.
///
/// Every wait for another process has an end: after `timeout` seconds it throws distributed_error, whatever became of the other. A process
/// that leaves by an exception does not end MPI, which tells mpirun to stop the others. Used by one thread at a time.
template <>
class distributed<mpi> {
 public:
  explicit distributed(distributed_options const& options = {}) : options_{options} {
    int running = 0;
    MPI_Initialized(&running);
    if (running == 0) {
      int provided = 0;
      if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        throw distributed_error("mortise::distributed: MPI could not be initialised; start the program with mpirun -n N");
      ours_ = true;
    }
    for (MPI_Comm* const c : {&comm_, &side_}) {
      MPI_Comm_dup(MPI_COMM_WORLD, c);
      MPI_Comm_set_errhandler(*c, MPI_ERRORS_RETURN);
    }
    int rank = 0, size = 1;
    MPI_Comm_rank(comm_, &rank);
    MPI_Comm_size(comm_, &size);
    rank_ = static_cast<std::size_t>(rank);
    size_ = static_cast<std::size_t>(size);
    neighbours_ = 1;
    MPI_Comm local = MPI_COMM_NULL;
    if (MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local) == MPI_SUCCESS && local != MPI_COMM_NULL) {
      MPI_Comm_size(local, &neighbours_);
      MPI_Comm_rank(local, &local_rank_);
      MPI_Comm_free(&local);
    }
  }
  ~distributed() {
    if (broken_ || std::uncaught_exceptions() > 0) return;  // mpirun sees a process that ends without MPI_Finalize, and stops all
    MPI_Comm_free(&side_);
    MPI_Comm_free(&comm_);
    if (ours_) MPI_Finalize();
  }
  distributed(distributed const&) = delete;
  distributed& operator=(distributed const&) = delete;

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return size_; }
  distributed_options const& options() const { return options_; }
  /// Among the processes of this machine: for choosing a CUDA device.
  int local_rank() const { return local_rank_; }

  /// Threads of one process.
  int threads() const {
    if (options_.threads > 0) return options_.threads;
    int const each = detail::default_thread_count() / neighbours_;
    return each > 0 ? each : 1;
  }

  /// Waits until all processes are here.
  void barrier() {
    MPI_Request request{};
    check(MPI_Ibarrier(comm_, &request), "a barrier");
    wait(&request, 1, "a barrier");
  }

  /// Runs f on process 0 only; all wait for it, and what it throws there is thrown everywhere.
  template <class F>
  void once(F const& f) {
    attempt([&] {
      if (rank_ == 0) f();
    });
  }

  /// Runs f on every process. Where it throws on any, it throws on all: its own error there, distributed_error elsewhere.
  template <class F>
  void attempt(F const& f) {
    std::exception_ptr failure;
    try {
      f();
    } catch (std::exception const&) {
      failure = std::current_exception();
    }
    detail::share_failure(*this, failure);
  }

  /// Rank r has elements [first[r], first[r + 1]) of `data`; afterwards all have all.
  template <class T>
  void gather(T* data, std::vector<std::size_t> const& first) {
    std::vector<int> numbers;
    MPI_Request request = start_gather(comm_, data, first, numbers);
    wait(&request, 1, "gathering what the processes have");
  }
  /// The same beside what else is sent: all have all when the request is done. Until then `numbers` belongs to MPI. All processes start these in
  /// the same order, but when is each one's own business.
  template <class T>
  MPI_Request start_gather(T* data, std::vector<std::size_t> const& first, std::vector<int>& numbers) {
    return start_gather(side_, data, first, numbers);
  }
  template <class T>
  void broadcast(T* data, std::size_t n, std::size_t from) {
    MPI_Request request{};
    check(MPI_Ibcast(data, element_number(n), type_of<T>(), static_cast<int>(from), comm_, &request), "a broadcast");
    wait(&request, 1, "a broadcast");
  }

  template <class T>
  MPI_Request send(T const* data, std::size_t n, std::size_t to, int tag) {
    MPI_Request request{};
    check(MPI_Isend(data, element_number(n), type_of<T>(), static_cast<int>(to), tag, side_, &request), "sending");
    return request;
  }
  template <class T>
  MPI_Request receive(T* data, std::size_t n, std::size_t from, int tag) {
    MPI_Request request{};
    check(MPI_Irecv(data, element_number(n), type_of<T>(), static_cast<int>(from), tag, side_, &request), "receiving");
    return request;
  }

  /// Whether all requests are done.
  bool test(MPI_Request* requests, std::size_t n, char const* what) {
    int done = 0;
    check(MPI_Testall(static_cast<int>(n), requests, &done, MPI_STATUSES_IGNORE), what);
    return done != 0;
  }

  /// Waits for all requests, at most `timeout` seconds.
  void wait(MPI_Request* requests, std::size_t n, char const* what) {
    auto const start = std::chrono::steady_clock::now();
    for (unsigned long turn = 0;; ++turn) {
      if (test(requests, n, what)) return;
      if (turn < 2000) continue;  // some 0.1 ms
      std::chrono::duration<double> const waited = std::chrono::steady_clock::now() - start;
      if (waited.count() > options_.timeout) {
        broken_ = true;
        throw distributed_error("mortise::distributed: rank " + std::to_string(rank_) + " of " + std::to_string(size_) + " waited " +
                                std::to_string(static_cast<long>(options_.timeout)) + " s for the others, in " + what +
                                "; a process has died or hangs. Start the run again from its last checkpoint, or raise the timeout");
      }
      if (waited.count() > 0.02) std::this_thread::sleep_for(std::chrono::microseconds(200));
      else std::this_thread::yield();
    }
  }

  template <class T>
  static MPI_Datatype type_of() {
    if constexpr (std::is_same_v<T, float>) return MPI_FLOAT;
    else if constexpr (std::is_same_v<T, double>) return MPI_DOUBLE;
    else if constexpr (std::is_same_v<T, std::int64_t>) return MPI_INT64_T;
    else if constexpr (std::is_same_v<T, std::uint64_t>) return MPI_UINT64_T;
    else if constexpr (std::is_same_v<T, int>) return MPI_INT;
    else {
      static_assert(std::is_same_v<T, char>, "mortise::distributed: no MPI type for these elements");
      return MPI_CHAR;
    }
  }

 private:
  template <class T>
  MPI_Request start_gather(MPI_Comm comm, T* data, std::vector<std::size_t> const& first, std::vector<int>& numbers) {
    numbers.resize(2 * size_);
    int* const counts = numbers.data();
    int* const offsets = counts + size_;
    for (std::size_t r = 0; r < size_; ++r) {
      offsets[r] = element_number(first[r]);
      counts[r] = element_number(first[r + 1] - first[r]);
    }
    MPI_Request request{};
    check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, counts, offsets, type_of<T>(), comm, &request), "gathering");
    return request;
  }
  static int element_number(std::size_t n) {
    if (n > static_cast<std::size_t>(INT_MAX))
      throw usage_error("mortise::distributed: a message of " + std::to_string(n) + " elements; MPI counts to " + std::to_string(INT_MAX));
    return static_cast<int>(n);
  }
  void check(int code, char const* what) {
    if (code == MPI_SUCCESS) return;
    broken_ = true;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw distributed_error("mortise::distributed: rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ": " + what + ": " +
                            std::string(text, static_cast<std::size_t>(length)));
  }

  distributed_options options_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Comm side_ = MPI_COMM_NULL;  // of what goes on beside the steps of the program: gradients on their way
  std::size_t rank_ = 0;
  std::size_t size_ = 1;
  int neighbours_ = 1, local_rank_ = 0;
  bool ours_ = false;
  bool broken_ = false;
};

namespace detail {

/// Where the processes' shards meet at batch norms, one of each.
class mpi_batch_norm_end final : public batch_group {
 public:
  explicit mpi_batch_norm_end(distributed<mpi>& world) : world_{&world} {}
  std::size_t members() const override { return world_->size(); }
  double const* exchange(double const* values, std::size_t n) override {
    if (table_.size() < members() * n) table_.resize(members() * n);
    std::memcpy(table_.data() + world_->rank() * n, values, n * sizeof(double));
    world_->gather(table_.data(), equal_parts(members(), n));
    return table_.data();
  }

 private:
  distributed<mpi>* world_;
  std::vector<double> table_;
};

/// One host device in each of several processes.
class mpi_team {
 public:
  explicit mpi_team(distributed<mpi>& world) : world_{&world}, end_{std::make_unique<mpi_batch_norm_end>(world)} {}
  batch_group& batch_norm_end() { return *end_; }

  std::size_t size() const { return 1; }
  host device(std::size_t) const { return {world_->threads()}; }
  host whole() const { return {world_->threads()}; }
  template <class F>
  void run(F const& f) {
    f(std::size_t{0});
  }

  std::size_t rank() const { return world_->rank(); }
  std::size_t processes() const { return world_->size(); }
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

  /// Waits for what was asked of the others; here that has been waited for.
  void settle() {}

  /// Compares what must be equal, and starts all processes from process 0's parameters, buffers and step.
  template <class Model>
  void agree_on(Model& net, std::size_t shards) {
    std::vector<run_identity> all(processes());
    all[rank()] = run_identity_of<Model>(shards);
    world_->gather(all[0].values, equal_parts(processes(), run_identity::count));
    check_identities(all);
    world_->broadcast(net.parameters().data(), net.parameters().size(), 0);
    std::uint64_t step = net.training_steps();
    world_->broadcast(&step, 1, 0);
    net.set_training_steps(step);
    broadcast_statistics(net);
  }

  template <class Model>
  void broadcast_statistics(Model& net) {
    if (net.buffers().size() != 0) world_->broadcast(net.buffers().data(), net.buffers().size(), 0);
    if (net.counters().size() != 0) world_->broadcast(net.counters().data(), net.counters().size(), 0);
  }

  // ---- sums of gradients -----------------------------------------------------------------------------------------------------------------
  //
  // Each process adds up its slice of a range, and the slices are gathered: 2 (N - 1) / N of the range in traffic for each process where it has
  // one partial sum. Several ranges are on their way at once; MPI moves them when it is called, so `progress` is called between layers.

  /// Before a step: what is to be summed, into `result` everywhere, over n elements.
  template <class T>
  void begin_reduce(batch_part const& cut, std::size_t batch, std::size_t n, T* result, host const& device) {
    list_partial_sums(cut, batch, processes(), nodes_);
    shards_ = cut.shard_count(batch);
    result_ = result;
    device_ = device;
    used_ = 0;
    pending_ = summed_ = done_ = 0;
    add_ = [](mpi_team& team, range& r) { team.add_slice<T>(r); };
    std::size_t const bytes = nodes_.size() * (n + 1) * sizeof(T);
    if (arrived_.size() < bytes) arrived_.resize(bytes);
  }

  /// This process's partial sums of n elements from `first` on are final. All processes call this for the same ranges in the same order.
  template <class T>
  void reduce_range(std::vector<partial_sum<T>> const& mine, std::size_t first, std::size_t n) {
    std::size_t const size = processes(), me = rank();
    if (pending_ == ranges_.size()) ranges_.emplace_back();
    range& r = ranges_[pending_++];
    r.first = first;
    r.slice.resize(size + 1);
    for (std::size_t p = 0; p <= size; ++p) r.slice[p] = p * n / size;
    std::size_t const count = r.slice[me + 1] - r.slice[me];
    r.requests.clear();
    r.where.clear();
    std::size_t own = 0;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      int const tag = static_cast<int>(i);
      if (nodes_[i].owner == me) {
        T* const data = mine[own++].data + first;
        r.where.push_back(data + r.slice[me]);
        for (std::size_t p = 0; p < size; ++p)
          if (p != me && r.slice[p + 1] != r.slice[p])
            r.requests.push_back(world_->send(data + r.slice[p], r.slice[p + 1] - r.slice[p], p, tag));
      } else {
        T* const next = reinterpret_cast<T*>(arrived_.data()) + used_;
        r.where.push_back(next);
        if (count != 0) r.requests.push_back(world_->receive(next, count, nodes_[i].owner, tag));
        used_ += count;
      }
    }
  }

  /// Looks what has arrived, and goes on with that. Waits for nothing.
  void progress() { advance(false); }
  /// Waits until all ranges are summed everywhere.
  void end_reduce() { advance(true); }

 private:
  /// A range on its way: its pieces travel, are summed by those whose slice they are, and travel again.
  struct range {
    std::size_t first = 0;
    std::vector<std::size_t> slice{};
    std::vector<void*> where{};  // the partial sums of this process's slice
    std::vector<MPI_Request> requests{};
    std::vector<int> numbers{};
  };

  void advance(bool wait) {
    for (;;) {
      // In order, so that all processes gather the ranges in the same order.
      for (; summed_ < pending_ && is_done(ranges_[summed_]); ++summed_) add_(*this, ranges_[summed_]);
      while (done_ < summed_ && is_done(ranges_[done_])) ++done_;
      if (!wait || done_ == pending_) return;
      world_->wait(ranges_[done_].requests.data(), ranges_[done_].requests.size(), exchanging);
    }
  }
  bool is_done(range& r) { return world_->test(r.requests.data(), r.requests.size(), exchanging); }

  template <class T>
  void add_slice(range& r) {
    T* const result = static_cast<T*>(result_) + r.first;
    std::size_t const begin = r.slice[rank()], count = r.slice[rank() + 1] - begin;
    std::vector<T*> where;
    for (void* const p : r.where) where.push_back(static_cast<T*>(p));
    std::vector<array_addition<T>> additions;
    plan_additions(nodes_, where, shards_, result + begin, additions);
    run_additions(device_, 0, count, additions);
    if (additions.empty() && where[0] != result + begin) std::memcpy(result + begin, where[0], count * sizeof(T));
    r.requests.assign(1, world_->start_gather(result, r.slice, r.numbers));
  }

  static constexpr char const* exchanging = "exchanging gradients";
  distributed<mpi>* world_;
  std::unique_ptr<mpi_batch_norm_end> end_;
  std::vector<partial_sum<char>> nodes_;
  std::vector<std::byte> arrived_;  // other processes' partial sums of this one's slices
  std::vector<range> ranges_;       // those of a step, kept for their memory
  std::size_t pending_ = 0, summed_ = 0, done_ = 0, used_ = 0, shards_ = 0;
  void* result_ = nullptr;
  host device_{};
  void (*add_)(mpi_team&, range&) = nullptr;
};

template <class Spec>
struct team_of;
template <>
struct team_of<distributed<mpi>> {
  using type = mpi_team;
};

}  // namespace detail
}  // namespace mortise
