// Saving while training goes on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mortise/archive/value.hpp>
#include <mortise/config.hpp>
#include <mortise/train/serializer.hpp>

namespace mortise {

namespace detail {

/// Copies the tensors that belong to somebody else into `memory`, and points the tree there. Tensors that share memory go on to share it.
template <class = void>
MORTISE_COLD void take_snapshot(archive_value& tree, std::vector<std::byte>& memory) {
  constexpr std::size_t alignment = 64;
  std::vector<tensor_ref*> borrowed;
  std::vector<archive_value*> pending{&tree};
  while (!pending.empty()) {
    archive_value& v = *pending.back();
    pending.pop_back();
    if (v.is_tensor()) {
      if (v.as_tensor().owner == nullptr && v.as_tensor().bytes() != 0) borrowed.push_back(&v.as_tensor());
    } else if (v.is_container()) {
      for (archive_value& child : v.items()) pending.push_back(&child);
    }
  }
  // By address, the longest first: those that begin alike share one copy.
  auto const before = [&borrowed](std::uint32_t a, std::uint32_t b) {
    tensor_ref const& x = *borrowed[a];
    tensor_ref const& y = *borrowed[b];
    return x.data != y.data ? reinterpret_cast<std::uintptr_t>(x.data) < reinterpret_cast<std::uintptr_t>(y.data) : x.bytes() > y.bytes();
  };
  reorder(borrowed, sorted_positions(borrowed.size(), before));
  std::size_t total = 0;
  for (std::size_t i = 0; i != borrowed.size(); ++i)
    if (i == 0 || borrowed[i]->data != borrowed[i - 1]->data) total += (borrowed[i]->bytes() + alignment - 1) / alignment * alignment;
  if (memory.size() < total) {
    memory = {};  // no copy of the last snapshot
    memory.resize(total);
  }
  std::size_t next = 0;
  std::byte const* from = nullptr;
  std::byte const* to = nullptr;
  for (tensor_ref* const t : borrowed) {
    if (t->data != from) {
      from = t->data;
      to = memory.data() + next;
      std::memcpy(memory.data() + next, from, t->bytes());
      next += (t->bytes() + alignment - 1) / alignment * alignment;
    }
    t->data = to;
  }
}

}  // namespace detail

/// Saves in a thread of its own: `save` copies the state (the only time that the caller waits for) and returns.
///
///     mt::async_saver saver;
///     for (...) { train; saver.save("run.safetensors", run); }
///     saver.wait();
///
/// One save is in flight: the next `save` waits for it first. An error surfaces at the next call of `save` or `wait`, which then has started
/// nothing. The destructor finishes the save; an error that nobody asked for is lost there, so call `wait` at the end. The memory of
/// the snapshot, as large as the state, is kept for the next one. Where several processes hold the same state, all call `save`, and the one
/// that writes learns of errors.
template <class Serializer = serializer<>>
class async_saver {
 public:
  async_saver() = default;
  explicit async_saver(Serializer const& files) : files_{files} {}
  async_saver(async_saver const&) = delete;
  async_saver& operator=(async_saver const&) = delete;
  ~async_saver() {
    if (worker_.joinable()) worker_.join();
  }

  template <class X>
  void save(std::string path, X const& x, archive_metadata extra = {}) {
    wait();
    tree_ = detail::tree_of(x);
    bool writes = true;
    auto const chosen = [&] { writes = true; };
    if constexpr (requires { x.on_one_process(chosen); }) {  // several processes may hold the same state
      writes = false;
      x.on_one_process(chosen);
    }
    if (!writes) return;
    detail::take_snapshot(tree_, memory_);
    saving_.store(true);
    try {
      worker_ = std::thread{[this, to = std::move(path), text = std::move(extra)] {
        try {
          files_.save(to, tree_, text);
        } catch (...) {
          error_ = std::current_exception();
        }
        saving_.store(false);
      }};
    } catch (...) {
      saving_.store(false);
      throw;
    }
  }
  /// Returns when nothing is in flight; throws what went wrong.
  void wait() {
    if (worker_.joinable()) worker_.join();
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  }
  bool saving() const { return saving_.load(); }

 private:
  Serializer files_{};
  archive_value tree_{};
  std::vector<std::byte> memory_{};
  std::thread worker_{};
  std::exception_ptr error_{};
  std::atomic<bool> saving_{false};
};

}  // namespace mortise
