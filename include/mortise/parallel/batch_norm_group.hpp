// Shards that wait for each other at every batch norm.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <mortise/detail/batch_group.hpp>
#include <mortise/detail/error.hpp>

namespace mortise::detail {

/// Where the threads of a step wait for each other, as often as it has batch norms.
class thread_meeting {
 public:
  /// A new step, of so many threads.
  void begin(std::size_t members) {
    members_ = members;
    arrived_ = 0;
    failed_ = false;
  }
  /// Those who wait, or will, throw.
  void abandon() {
    std::lock_guard const lock{mutex_};
    failed_ = true;
    all_here_.notify_all();
  }

 protected:
  std::size_t members() const { return members_; }
  /// How often all have met.
  std::size_t turn() const { return turn_; }
  std::unique_lock<std::mutex> enter() { return std::unique_lock{mutex_}; }
  /// Waits until all have come; what they wrote before, all see behind it. `member` is the word for one of them.
  void meet(std::unique_lock<std::mutex> lock, char const* member) {
    std::size_t const turn = turn_;
    if (++arrived_ == members_) {
      arrived_ = 0;
      ++turn_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return turn_ != turn || failed_; });
    }
    if (turn_ == turn)
      throw usage_error(std::string{"mortise::data_parallel: another "} + member + " failed while this one waited for it at a batch norm");
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  std::size_t members_ = 0, arrived_ = 0, turn_ = 0;
  bool failed_ = false;
};

/// The meeting place of the shards of one process, one thread each.
class batch_norm_group : public thread_meeting {
 public:
  explicit batch_norm_group(std::size_t most) {
    for (std::size_t i = 0; i < most; ++i) ends_.push_back(std::make_unique<end>(*this, i));
  }
  batch_group& member(std::size_t i) { return *ends_[i]; }

  /// A new step, with the first `members` of them.
  void begin(std::size_t members, std::size_t) { thread_meeting::begin(members); }

 private:
  class end final : public batch_group {
   public:
    end(batch_norm_group& group, std::size_t index) : group_{&group}, index_{index} {}
    std::size_t members() const override { return group_->members(); }
    double const* exchange(double const* values, std::size_t n) override { return group_->exchange(index_, values, n); }

   private:
    batch_norm_group* group_;
    std::size_t index_;
  };

  double const* exchange(std::size_t index, double const* values, std::size_t n) {
    auto lock = enter();
    // Two tables in turn: who is late still reads the last one, and nobody comes to the next but one before that.
    std::vector<double>& table = tables_[turn() % 2];
    if (table.size() < members() * n) table.resize(members() * n);
    std::memcpy(table.data() + index * n, values, n * sizeof(double));
    meet(std::move(lock), "shard");
    return table.data();
  }

  std::vector<std::unique_ptr<end>> ends_;
  std::vector<double> tables_[2];
};

}  // namespace mortise::detail
