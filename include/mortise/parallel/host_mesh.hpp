// Several devices on one host: each a share of the cores.
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/detail/thread_pool.hpp>
#include <mortise/device/host.hpp>

namespace mortise {

/// N host devices that work at the same time, each on threads of its own: `mt::host_mesh{4}`.
///
/// `threads` is the number for each device; 0 shares the cores (or MORTISE_NUM_THREADS) among them, and where there are fewer cores than
/// devices a core works for one device after the other. It never changes a bit.
struct host_mesh {
  std::size_t count = 1;
  int threads = 0;
};

namespace detail {

[[noreturn]] MORTISE_COLD inline void refuse_mesh_of_none() {
  throw usage_error("mortise::host_mesh: a mesh of 0 devices; host_mesh{1} is the host itself");
}

/// Runs f(0) ... f(count - 1) on so many threads of this thread's pool; what the first of them threw, whoever threw first, comes out.
template <class F>
void run_beside(int threads, std::size_t count, std::vector<std::exception_ptr>& failures, F const& f) {
  failures.assign(count, nullptr);
  auto const piece = [&](std::size_t d) {
    try {
      f(d);
    } catch (...) {
      failures[d] = std::current_exception();
    }
  };
  thread_pool::instance().run(
      threads, count, [](void const* context, std::size_t d) { (*static_cast<decltype(piece) const*>(context))(d); }, &piece);
  for (auto const& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

/// The devices of a host_mesh at work.
class host_team {
 public:
  /// `together`: so many devices that have to run at the same time, since they wait for each other; 0: those of the mesh, as it comes.
  explicit host_team(host_mesh const& mesh, std::size_t together = 0) : count_{together == 0 ? mesh.count : together} {
    if (mesh.count == 0) refuse_mesh_of_none();
    if (together != 0) {
      own_ = std::make_unique<thread_pool>();
      side_by_side_ = static_cast<int>(count_);
      return;
    }
    int const cores = default_thread_count();
    int const devices = static_cast<int>(count_);
    each_ = mesh.threads > 0 ? mesh.threads : cores > devices ? cores / devices : 1;
    side_by_side_ = mesh.threads > 0 || cores > devices ? devices : cores;
    if (count_ > 1 && each_ > 1)
      for (std::size_t d = 0; d < count_; ++d) pools_.push_back(std::make_unique<thread_pool>());
  }

  std::size_t size() const { return count_; }
  host device(std::size_t) const { return {each_}; }
  /// All threads together: for work that is not of one device.
  host whole() const { return {each_ * side_by_side_}; }

  /// Runs f(0) ... f(size - 1), each as its device: side by side, or after each other where threads lack. Returns when all are done.
  template <class F>
  void run(F const& f) {
    if (count_ == 1) return f(std::size_t{0});
    std::optional<thread_pool::scope> here;
    if (own_) here.emplace(*own_);
    run_beside(side_by_side_, count_, failures_, [&](std::size_t d) {
      if (pools_.empty()) return f(d);
      thread_pool::scope const own{*pools_[d]};
      f(d);
    });
  }

 private:
  std::size_t count_;
  int each_ = 1;
  int side_by_side_ = 1;
  std::unique_ptr<thread_pool> own_;                  // of devices that wait for each other: each piece must have a thread
  std::vector<std::unique_ptr<thread_pool>> pools_;   // for each device, where it has several threads
  std::vector<std::exception_ptr> failures_;
};

}  // namespace detail
}  // namespace mortise
