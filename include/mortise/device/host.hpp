// The host as a device: plain memory, and a thread count that changes speed and never bits.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

#include <mortise/detail/thread_pool.hpp>

namespace mortise {

namespace detail {
class batch_group;
}

struct host_space {};

/// The processor this program runs on.
///
/// `threads` is the number of threads an operation may use; 0 means all cores (or MORTISE_NUM_THREADS). Work is always cut in the same
/// pieces, whoever executes them: results have the same bits for every thread count.
struct host {
  using space = host_space;

  int threads = 0;
  /// Of a replica whose batch norms see the whole batch (parallel/): where it meets the other parts.
  detail::batch_group* group = nullptr;

  int thread_count() const { return threads > 0 ? threads : detail::default_thread_count(); }

  /// 64-byte aligned memory; throws std::bad_alloc.
  void* allocate(std::size_t bytes) const { return ::operator new(bytes, std::align_val_t{64}); }
  void deallocate(void* p, std::size_t) const noexcept { ::operator delete(p, std::align_val_t{64}); }
  void copy(void* to, void const* from, std::size_t bytes) const {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void fill_zero(void* to, std::size_t bytes) const {
    if (bytes != 0) std::memset(to, 0, bytes);
  }
  void synchronize() const {}

  friend bool operator==(host const&, host const&) = default;
};

/// Runs f(0) ... f(pieces - 1), possibly at the same time. A piece must write only what no other piece reads or writes, and the cut into
/// pieces must not depend on the thread count where it could change how something rounds.
template <class F>
inline void for_each_piece(host const& device, std::size_t pieces, F const& f) {
  // Not inlined below: f would be compiled twice.
  auto const call = [](void const* context, std::size_t piece) __attribute__((noinline)) { (*static_cast<F const*>(context))(piece); };
  if (pieces > 1 && device.thread_count() > 1) detail::thread_pool::instance().run(device.thread_count(), pieces, call, &f);
  else
    for (std::size_t piece = 0; piece < pieces; ++piece) call(&f, piece);
}

}  // namespace mortise
