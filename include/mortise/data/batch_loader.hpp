// Batches of a data set, epoch after epoch, in an order that a checkpoint can hold in four numbers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <mortise/data/batch.hpp>
#include <mortise/data/dataset.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/device/host.hpp>
#include <mortise/tensor/batch_part.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/philox.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

struct loader_options {
  std::size_t batch = 1;
  bool shuffle = false;     ///< another order in each epoch, a function of seed and epoch
  std::uint64_t seed = 0;
  bool drop_last = false;   ///< leave out a last batch that is not full
  batch_part part = {};     ///< read only what one of several processes needs of each batch: data_parallel::part()
  bool prefetch = true;     ///< a thread makes the next batch while this one is used, where that is worth a thread
};

namespace detail {

/// Where a loader stands: all that a checkpoint needs of it.
struct loader_state {
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;
  std::uint64_t position = 0;  // samples handed out in this epoch
  std::uint64_t samples = 0;   // of the data set, to notice that another one came
  friend bool operator==(loader_state const&, loader_state const&) = default;
};

/// One thread that does one thing at a time, when asked.
class background_task {
 public:
  using function = void (*)(void*);

  background_task() = default;
  background_task(background_task const&) = delete;
  background_task& operator=(background_task const&) = delete;
  ~background_task() {
    if (!thread_.joinable()) return;
    wait();
    set(stop);
    thread_.join();
  }

  /// Starts f(context); false when there can be no thread, and then nothing happens. `wait` comes before the next start.
  bool start(function f, void* context) {
    function_ = f;
    context_ = context;
    if (!thread_.joinable()) {
      try {
        thread_ = std::thread{[this] { work(); }};
      } catch (std::system_error const&) {
        return false;
      }
    }
    set(requested);
    return true;
  }
  void wait() const {
    while (state_.load(std::memory_order_acquire) == requested) state_.wait(requested, std::memory_order_acquire);
  }

 private:
  enum : int { idle, requested, stop };

  void set(int state) {
    state_.store(state, std::memory_order_release);
    state_.notify_all();
  }
  void work() {
    for (;;) {
      int const state = state_.load(std::memory_order_acquire);
      if (state == stop) return;
      if (state == idle) {
        state_.wait(idle, std::memory_order_acquire);
        continue;
      }
      function_(context_);
      set(idle);
    }
  }

  std::atomic<int> state_{idle};
  function function_ = nullptr;
  void* context_ = nullptr;
  std::thread thread_;
};

[[noreturn]] inline void refuse_loader_batch() { throw usage_error("mortise::batch_loader: a batch of 0 samples; set .batch to at least 1"); }
[[noreturn]] inline void refuse_loader_rank(shape const& sample, shape const& target) {
  throw usage_error("mortise::batch_loader: samples of shape " + to_string(sample) + " with targets of shape " + to_string(target) +
                    " leave no axis for the batch; at most 7 axes each");
}
inline void check_restored(loader_state const& state, std::size_t samples) {
  if (state.samples != samples)
    throw usage_error("mortise::batch_loader: the state that was loaded is of a data set of " + std::to_string(state.samples) +
                      " samples; this one has " + std::to_string(samples) + ". Resume with the same data");
  if (state.position > samples)
    throw usage_error("mortise::batch_loader: the state that was loaded stands after sample " + std::to_string(state.position) + " of " +
                      std::to_string(samples));
}

}  // namespace detail

/// Batches of a data set. One `for` is one epoch, or what is left of it:
///
///     mt::batch_loader loader{digits, {.batch = 64, .shuffle = true, .seed = 1}};
///     for (; progress.epoch < 20; ++progress.epoch)
///       for (auto batch : loader) mt::train_step(net, loss, opt, batch);
///
/// Epoch e of a shuffled loader has the order `random_permutation(seed, stream_id("sampler"), e, size)`, whatever the batch size, the
/// thread or the machine. batch.x and batch.y stay valid until the next batch is taken. Allocates when constructed and (a thread) when a
/// loop first begins, never after. One loop at a time; not for use by two threads at once.
///
/// **Position.** The state is seed, epoch and the number of samples handed out in it; it changes when a batch is handed out.
/// * A checkpoint taken in the loop's body, after the step of batch k, goes on with batch k + 1. So does a `for` after a `break`.
/// * When a `for` has come to its end, the next `for` begins the next epoch.
/// * A `for` over a state that was just loaded finishes the epoch it was saved in, also when nothing of it is left: the body does not run,
///   and what follows the inner loop (evaluation, ++progress.epoch) does. So a run saved after the last batch, or between the inner loop
///   and ++progress.epoch, repeats no epoch and skips none.
/// * A program that counts the epoch before it saves says which epoch it means: `loader.set_epoch(progress.epoch)` before each `for`.
/// Another batch size may be resumed with: the samples that were handed out are not handed out again.
///
/// With `part`, each batch holds this process's samples of it alone, and is empty where it has none. Position, order and state are those
/// of whole batches, the same for every process, so that a run goes on under another number of them.
template <Dataset D>
class batch_loader {
 public:
  using value_type = typename D::value_type;
  using target_type = typename D::target_type;
  using batch_type = batch<value_type, target_type>;

  static constexpr std::string_view state_name = "loader_state_dict";

  /// Throws usage_error for a batch of 0 samples, and for samples with 8 axes.
  batch_loader(D data, loader_options const& options = {}) : data_{std::move(data)}, options_{options}, samples_{data_.size()} {
    if (options_.batch == 0) detail::refuse_loader_batch();
    sample_ = data_.sample_extents();
    target_ = data_.target_extents();
    if (sample_.rank == shape::max_rank || target_.rank == shape::max_rank) detail::refuse_loader_rank(sample_, target_);
    now_ = shown_ = {options_.seed, 0, 0, samples_};
    std::size_t const largest = options_.part.most_samples(options_.batch < samples_ ? options_.batch : samples_);
    // Waking a thread costs about as much as copying this many bytes.
    std::size_t const worth_a_thread = detail::reads_from_memory<D>() ? 64 * 1024 : 0;
    prefetch_ = options_.prefetch && batches() > 1 && largest * sample_.elements() * sizeof(value_type) >= worth_a_thread;
    for (int s = 0; s < (prefetch_ ? 2 : 1); ++s) {
      slots_[s].x = buffer<value_type, host>{host{}, largest * sample_.elements()};
      slots_[s].y = buffer<target_type, host>{host{}, largest * target_.elements()};
    }
    if (options_.shuffle) order_.resize(samples_);
  }
  batch_loader(batch_loader const&) = delete;  // a thread writes into the slots
  batch_loader& operator=(batch_loader const&) = delete;

  struct sentinel {};
  class iterator {
   public:
    explicit iterator(batch_loader* loader) : loader_{loader} {}
    batch_type const& operator*() const { return loader_->current_; }
    batch_type const* operator->() const { return &loader_->current_; }
    iterator& operator++() {
      loader_->advance();
      return *this;
    }
    bool done() const { return loader_->exhausted_; }
    friend bool operator==(iterator const& i, sentinel) { return i.done(); }

   private:
    batch_loader* loader_;
  };

  /// Takes the first batch. What `read` throws comes out here or at ++, for the batch it belongs to; the position then stays before it.
  iterator begin() {
    notice_loaded_state();
    if (ended_) {
      ended_ = false;
      ++now_.epoch;
      now_.position = 0;
      shown_ = now_;
    }
    advance();
    return iterator{this};
  }
  sentinel end() const { return {}; }

  /// The next `for` is over epoch `epoch`: from its start, or, when the loader already stands in it, what is left of it.
  void set_epoch(std::uint64_t epoch) {
    notice_loaded_state();
    ended_ = false;
    if (epoch != now_.epoch) {
      now_.epoch = epoch;
      now_.position = 0;
      shown_ = now_;
    }
  }

  D const& dataset() const { return data_; }
  loader_options const& options() const { return options_; }
  std::uint64_t seed() const { return now_.seed; }
  std::uint64_t epoch() const { return now_.epoch; }
  std::size_t samples() const { return samples_; }
  std::size_t samples_done() const { return static_cast<std::size_t>(now_.position); }
  /// Batches of an epoch, and those of the present one that were handed out.
  std::size_t batches() const { return options_.drop_last ? samples_ / options_.batch : batches_for(samples_); }
  std::size_t batches_done() const { return batches_for(samples_done()); }

  /// The state as (name, reference), for saving and loading. A loader notices by itself that its state was loaded.
  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("seed", now_.seed);
    visit("epoch", now_.epoch);
    visit("position", now_.position);
    visit("samples", now_.samples);
  }

 private:
  struct slot {
    buffer<value_type, host> x;
    buffer<target_type, host> y;
  };
  /// A batch that is wanted: `count` samples from `from.position` on.
  struct request {
    detail::loader_state from;
    std::size_t count = 0;
    friend bool operator==(request const&, request const&) = default;
  };

  std::size_t batches_for(std::size_t samples) const { return samples / options_.batch + (samples % options_.batch != 0 ? 1 : 0); }

  void notice_loaded_state() {
    if (now_ == shown_) return;
    detail::check_restored(now_, samples_);
    shown_ = now_;
    ended_ = false;
  }

  request next_from(detail::loader_state const& state) const {
    std::size_t const left = samples_ - static_cast<std::size_t>(state.position);
    if (left >= options_.batch) return {state, options_.batch};
    return {state, options_.drop_last ? 0 : left};
  }

  /// Hands out the next batch, or ends the epoch.
  void advance() {
    current_ = {};
    exhausted_ = true;
    notice_loaded_state();
    request const wanted = next_from(now_);
    if (wanted.count == 0) {
      ended_ = true;
      return;
    }
    fetch(wanted);
    sample_range const here = options_.part.samples(wanted.count);
    current_ = {{slots_[in_use_].x.data(), sample_.with_batch(here.count)}, {slots_[in_use_].y.data(), target_.with_batch(here.count)}};
    if (options_.part.devices > 1) {
      current_.first_sample = here.first;
      current_.whole = wanted.count;
    }
    exhausted_ = false;
    now_.position += wanted.count;
    shown_ = now_;
    if (prefetch_) start_fetching();
  }

  /// Brings `wanted` into the slot in use.
  void fetch(request const& wanted) {
    if (fetching_) {
      fetching_ = false;
      task_.wait();
      if (ahead_ == wanted) {
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
        in_use_ = 1 - in_use_;
        return;
      }
      failure_ = nullptr;  // of a batch that nobody wants any more: another state was loaded
    }
    fill(wanted, slots_[in_use_]);
  }

  /// Has the thread bring what comes after the batch in use into the other slot.
  void start_fetching() {
    ahead_ = next_from(now_);
    if (ahead_.count == 0) {
      detail::loader_state next_epoch = now_;
      ++next_epoch.epoch;
      next_epoch.position = 0;
      ahead_ = next_from(next_epoch);
    }
    fetching_ = task_.start(
        [](void* self) {
          auto& loader = *static_cast<batch_loader*>(self);
          try {
            loader.fill(loader.ahead_, loader.slots_[1 - loader.in_use_]);
          } catch (...) {
            loader.failure_ = std::current_exception();
          }
        },
        this);
    if (!fetching_) prefetch_ = false;  // no thread to be had: the same batches, one by one
  }

  void fill(request const& r, slot& to) {
    if (options_.shuffle && (!order_known_ || order_seed_ != r.from.seed || order_epoch_ != r.from.epoch)) {
      random_permutation(random_stream{r.from.seed, stream_id("sampler"), static_cast<std::uint32_t>(r.from.epoch)}, samples_, order_.data());
      order_known_ = true;
      order_seed_ = r.from.seed;
      order_epoch_ = r.from.epoch;
    }
    std::size_t const sample_elements = sample_.elements();
    std::size_t const target_elements = target_.elements();
    sample_range const here = options_.part.samples(r.count);
    for (std::size_t k = 0; k < here.count; ++k) {
      std::size_t const at = static_cast<std::size_t>(r.from.position) + here.first + k;
      data_.read(options_.shuffle ? order_[at] : at, to.x.data() + k * sample_elements, to.y.data() + k * target_elements);
    }
  }

  D data_;
  loader_options options_;
  std::size_t samples_;
  shape sample_, target_;

  detail::loader_state now_;    // what checkpoints see, and may overwrite
  detail::loader_state shown_;  // the same as this class left it: a difference means that a checkpoint was loaded
  bool ended_ = false;          // a loop came to its end, so the next one begins the next epoch
  batch_type current_;
  bool exhausted_ = true;       // there is no batch in current_

  bool prefetch_ = false;
  bool fetching_ = false;  // the thread was asked for `ahead_`, into the slot that is not in use
  int in_use_ = 0;
  slot slots_[2];
  request ahead_;
  std::exception_ptr failure_;

  // Used by whoever fills, of whom there is one at a time.
  std::vector<std::size_t> order_;
  bool order_known_ = false;
  std::uint64_t order_seed_ = 0;
  std::uint64_t order_epoch_ = 0;

  detail::background_task task_;  // last, so that its thread is gone before anything it uses
};

template <class D>
batch_loader(D, loader_options) -> batch_loader<D>;
template <class D>
batch_loader(D) -> batch_loader<D>;

}  // namespace mortise
