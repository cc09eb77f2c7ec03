// One pool of threads for the whole process: two pools that both spin make everything slower. Devices that are promised threads of their own
// bring a pool each (thread_pool::scope).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include <mortise/config.hpp>

namespace mortise::detail {

MORTISE_COLD inline int find_thread_count() noexcept {
  if (char const* asked = std::getenv("MORTISE_NUM_THREADS")) {
    int const n = std::atoi(asked);
    if (n > 0) return n > 1024 ? 1024 : n;
  }
  unsigned const cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : static_cast<int>(cores);
}
/// MORTISE_NUM_THREADS, or the number of cores. Inlined in every operation, so that only the check for the first call is.
inline int default_thread_count() {
  static int const count = find_thread_count();
  return count;
}

MORTISE_INLINE void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// The processor this thread runs on, or -1 where the system does not say.
inline int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

/// Moves the calling thread off processor `cpu` if it may run on another, and leaves its set of allowed processors as it was.
///
/// A kernel that wakes a worker likes to put it where the waker runs. There it waits for a slice of time that comes when the job is over,
/// finds nothing, sleeps again, and is woken in the same place: two threads take turns on one core while the other idles.
inline void leave_cpu([[maybe_unused]] int cpu) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  if (!CPU_ISSET(cpu, &allowed) || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

/// Executes numbered pieces of a job on the caller and on workers that join as they wake. The caller never waits for a worker that has not
/// taken a piece, so a sleeping worker (or one that a fork() left behind) costs nothing but its help.
///
/// A job's pieces are claimed by compare-and-swap on {generation, next piece}: a worker that read the fields of an old job cannot claim
/// a piece of a new one. Workers spin for a moment between jobs (a step is many short jobs), then sleep in the kernel.
class thread_pool {
 public:
  using function = void (*)(void const* context, std::size_t piece);

  thread_pool() = default;
  ~thread_pool() {
    stop_.store(true);
    wake_.fetch_add(1);
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  /// The process's pool, or that of the scope this thread is in. Not inlined: it would carry the pool's construction into every operation.
  [[gnu::noinline]] static thread_pool& instance() {
    if (thread_pool* const own = pool_of_thread()) return *own;
    static thread_pool pool;
    return pool;
  }

  /// While it lives, jobs of this thread run on `pool`, also from inside a job of another pool.
  class scope {
   public:
    explicit scope(thread_pool& pool) : pool_{std::exchange(pool_of_thread(), &pool)}, inside_{std::exchange(inside_job(), false)} {}
    ~scope() {
      pool_of_thread() = pool_;
      inside_job() = inside_;
    }
    scope(scope const&) = delete;
    scope& operator=(scope const&) = delete;

   private:
    thread_pool* pool_;
    bool inside_;
  };

  /// Runs all pieces; returns when every one is done. A call from inside a job, or while another thread's job runs, executes alone.
  /// Pieces must not throw.
  void run(int threads, std::size_t pieces, function f, void const* context) {
    if (inside_job() || pieces > piece_limit || busy_.exchange(true, std::memory_order_acquire)) {
      for (std::size_t piece = 0; piece < pieces; ++piece) f(context, piece);
      return;
    }
    inside_job() = true;
    ensure_workers(threads - 1);
    std::uint64_t const generation = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    // Closes the old job before its fields change: a worker that reads new fields under the old generation can claim nothing.
    state_.exchange(((generation - 1) << 32) | 0xffffffffu, std::memory_order_acq_rel);
    function_.store(f, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    pieces_.store(pieces, std::memory_order_relaxed);
    allowed_.store(threads - 1, std::memory_order_relaxed);
    remaining_.store(pieces, std::memory_order_relaxed);
    state_.store(generation << 32, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) {
      caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
      wake_.fetch_add(1, std::memory_order_release);
      wake_.notify_all();
    }
    execute(generation, f, context, pieces);
    for (unsigned spins = 0; remaining_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < 4096) spin_pause();
      else std::this_thread::yield();
    }
    inside_job() = false;
    busy_.store(false, std::memory_order_release);
  }

  thread_pool(thread_pool const&) = delete;
  thread_pool& operator=(thread_pool const&) = delete;

 private:
  static constexpr std::size_t piece_limit = 0xffffffffu - 1;
  static constexpr unsigned spins_before_sleep = 20000;  // about 0.2 ms

  static bool& inside_job() {
    thread_local bool inside = false;
    return inside;
  }
  static thread_pool*& pool_of_thread() {
    thread_local thread_pool* pool = nullptr;
    return pool;
  }

  void ensure_workers(int wanted) {
    while (static_cast<int>(workers_.size()) < wanted) {
      int const index = static_cast<int>(workers_.size());
      try {
        workers_.emplace_back([this, index] { work(index); });
      } catch (...) {
        return;  // fewer workers: the same result, later
      }
    }
  }

  void execute(std::uint64_t generation, function f, void const* context, std::size_t pieces) {
    for (;;) {
      std::uint64_t seen = state_.load(std::memory_order_acquire);
      do {
        if ((seen >> 32) != generation || (seen & 0xffffffffu) >= pieces) return;
      } while (!state_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire));
      f(context, static_cast<std::size_t>(seen & 0xffffffffu));
      remaining_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void work(int index) {
    inside_job() = true;
    std::uint64_t last = 0;
    unsigned const patience = std::thread::hardware_concurrency() > static_cast<unsigned>(index + 1) ? spins_before_sleep : 1;
    while (!stop_.load(std::memory_order_relaxed)) {
      std::uint64_t seen = state_.load(std::memory_order_acquire) >> 32;
      for (unsigned spins = 0; seen == last && spins < patience && !stop_.load(std::memory_order_relaxed); ++spins) {
        spin_pause();
        seen = state_.load(std::memory_order_acquire) >> 32;
      }
      if (seen == last) {
        std::uint32_t const ticket = wake_.load(std::memory_order_acquire);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        if ((state_.load(std::memory_order_seq_cst) >> 32) == last && !stop_.load()) wake_.wait(ticket, std::memory_order_acquire);
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        int const cpu = current_cpu();
        if (cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) leave_cpu(cpu);
        continue;
      }
      last = seen;
      if (index >= allowed_.load(std::memory_order_relaxed)) continue;
      function const f = function_.load(std::memory_order_relaxed);
      void const* const context = context_.load(std::memory_order_relaxed);
      std::size_t const pieces = pieces_.load(std::memory_order_relaxed);
      execute(seen, f, context, pieces);
    }
  }

  alignas(64) std::atomic<std::uint64_t> state_{0};  // generation << 32 | next piece
  alignas(64) std::atomic<std::size_t> remaining_{0};
  alignas(64) std::atomic<function> function_{nullptr};
  std::atomic<void const*> context_{nullptr};
  std::atomic<std::size_t> pieces_{0};
  std::atomic<int> allowed_{0};
  alignas(64) std::atomic<std::uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<int> caller_cpu_{-1};
  std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace mortise::detail
