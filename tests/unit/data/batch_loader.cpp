#include <mortise/data/batch_loader.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <mortise/data/in_memory_dataset.hpp>

#include "samples.hpp"

namespace mt = mortise;

static std::atomic<std::size_t> allocations{0};

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // g++ inlines one half of a pair and misses the other
#endif

// Every way to memory, counted.
void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n)) return p;
  throw std::bad_alloc{};
}
void* operator new(std::size_t n, std::align_val_t a) {
  ++allocations;
  std::size_t const alignment = static_cast<std::size_t>(a);
  if (void* p = std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment)) return p;
  throw std::bad_alloc{};
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

/// What a checkpoint does with an object's state.
struct snapshot {
  std::vector<std::uint64_t> values;
  template <class T>
  static snapshot of(T& object) {
    snapshot s;
    object.describe([&](std::string_view, std::uint64_t& v) { s.values.push_back(v); });
    return s;
  }
  template <class T>
  void load_into(T& object) const {
    std::size_t i = 0;
    object.describe([&](std::string_view, std::uint64_t& v) { v = values[i++]; });
  }
};

using history = std::vector<std::vector<int>>;

template <class Loader>
std::vector<int> epoch_of(Loader& loader) {
  std::vector<int> r;
  for (auto batch : loader)
    for (int const i : indices_of(batch)) r.push_back(i);
  return r;
}

struct setting {
  std::size_t count;
  mt::loader_options options;
};

std::vector<setting> settings() {
  std::vector<setting> r;
  for (std::size_t const count : {0u, 1u, 6u, 7u, 9u})
    for (bool const shuffle : {false, true})
      for (bool const drop_last : {false, true})
        for (bool const prefetch : {false, true})
          r.push_back({count, {.batch = 3, .shuffle = shuffle, .seed = 5, .drop_last = drop_last, .prefetch = prefetch}});
  return r;
}

constexpr int epochs = 3;

/// What a killed process leaves on the disk.
struct saved_run {
  int epoch = 0;
  snapshot loader;
};

/// The contract's loop, with a checkpoint after every batch and after every epoch; it is killed after save number `saves_to_live`.
/// Returns false when killed.
bool run_until_killed(setting const& s, saved_run const* from, int saves_to_live, history& trained, saved_run& disk) {
  mt::batch_loader loader{numbered_samples{s.count}, s.options};
  int epoch = 0;
  if (from != nullptr) {
    from->loader.load_into(loader);
    epoch = from->epoch;
  }
  for (; epoch < epochs; ++epoch) {
    for (auto batch : loader) {
      trained.push_back(indices_of(batch));
      disk = {epoch, snapshot::of(loader)};
      if (--saves_to_live == 0) return false;
    }
    disk = {epoch, snapshot::of(loader)};
    if (--saves_to_live == 0) return false;
  }
  return true;
}

/// The other habit: count the epoch, then save.
bool run_counting_first(setting const& s, saved_run const* from, int saves_to_live, history& trained, saved_run& disk) {
  mt::batch_loader loader{numbered_samples{s.count}, s.options};
  int epoch = 0;
  if (from != nullptr) {
    from->loader.load_into(loader);
    epoch = from->epoch;
  }
  while (epoch < epochs) {
    loader.set_epoch(static_cast<std::uint64_t>(epoch));
    for (auto batch : loader) {
      trained.push_back(indices_of(batch));
      disk = {epoch, snapshot::of(loader)};
      if (--saves_to_live == 0) return false;
    }
    ++epoch;
    disk = {epoch, snapshot::of(loader)};
    if (--saves_to_live == 0) return false;
  }
  return true;
}

template <class Run>
void kill_everywhere(Run run) {
  for (setting const& s : settings()) {
    history whole;
    saved_run disk;
    REQUIRE(run(s, nullptr, -1, whole, disk));
    for (int first = 1;; ++first) {
      history parts;
      if (run(s, nullptr, first, parts, disk)) break;  // it ended before it was to be killed
      // Killed once more after the resume, at once and later, and then left to end.
      for (int second : {1, 2, 4}) {
        history again = parts;
        saved_run on_disk = disk;
        saved_run const resumed = on_disk;
        if (!run(s, &resumed, second, again, on_disk)) {
          saved_run const resumed_twice = on_disk;
          REQUIRE(run(s, &resumed_twice, -1, again, on_disk));
        }
        CAPTURE(s.count);
        CAPTURE(s.options.shuffle);
        CAPTURE(s.options.drop_last);
        CAPTURE(first);
        CAPTURE(second);
        REQUIRE(again == whole);
      }
    }
  }
}

}  // namespace

TEST_CASE("a run killed after any checkpoint and resumed trains on the batches of an uninterrupted run") { kill_everywhere(run_until_killed); }

TEST_CASE("the same for programs that count the epoch before they save") { kill_everywhere(run_counting_first); }

TEST_CASE("an epoch hands out every sample once, in the documented order, and the last batch is short or left out") {
  for (setting const& s : settings()) {
    mt::batch_loader loader{numbered_samples{s.count}, s.options};
    for (std::uint32_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int> expected;
      auto const order = mt::random_permutation(s.options.seed, mt::stream_id("sampler"), epoch, s.count);
      for (std::size_t i = 0; i < s.count; ++i) expected.push_back(static_cast<int>(s.options.shuffle ? order[i] : i));
      if (s.options.drop_last) expected.resize(s.count / 3 * 3);
      std::size_t batches = 0;
      std::vector<int> got;
      for (auto batch : loader) {
        ++batches;
        CHECK(loader.batches_done() == batches);
        CHECK(loader.epoch() == epoch);
        CHECK(batch.x.extents() == mt::shape{batch.size(), 1, 3});
        CHECK(batch.y.extents() == mt::shape{batch.size()});
        CHECK(batch.size() == std::min<std::size_t>(3, expected.size() - got.size()));
        for (int const i : indices_of(batch)) got.push_back(i);
      }
      CHECK(got == expected);
      CHECK(batches == loader.batches());
    }
  }
}

TEST_CASE("the order is a function of seed and epoch alone: not of batch size, thread or how a loop was left") {
  mt::batch_loader one{numbered_samples{23}, {.batch = 1, .shuffle = true, .seed = 9, .prefetch = false}};
  mt::batch_loader many{numbered_samples{23}, {.batch = 7, .shuffle = true, .seed = 9}};
  auto const first = epoch_of(one);
  CHECK(epoch_of(many) == first);
  auto const second = epoch_of(one);
  CHECK(second != first);
  std::vector<int> in_pieces;
  for (int piece = 0; piece < 4; ++piece)
    for (auto batch : many) {
      for (int const i : indices_of(batch)) in_pieces.push_back(i);
      break;
    }
  CHECK(in_pieces == second);
  // All were handed out, but no loop has come to its end yet: this one does, and the next begins the next epoch.
  CHECK(epoch_of(many).empty());
  CHECK(epoch_of(many) == epoch_of(one));
  mt::batch_loader other_seed{numbered_samples{23}, {.batch = 7, .shuffle = true, .seed = 10}};
  CHECK(epoch_of(other_seed) != first);
}

TEST_CASE("a resumed epoch may go on with another batch size and hands out the rest") {
  mt::batch_loader before{numbered_samples{10}, {.batch = 4, .shuffle = true, .seed = 2}};
  std::vector<int> got;
  for (auto batch : before) {
    got = indices_of(batch);
    break;
  }
  mt::batch_loader after{numbered_samples{10}, {.batch = 3, .shuffle = true, .seed = 77}};  // the seed comes with the state
  snapshot::of(before).load_into(after);
  for (auto batch : after)
    for (int const i : indices_of(batch)) got.push_back(i);
  mt::batch_loader whole{numbered_samples{10}, {.batch = 10, .shuffle = true, .seed = 2}};
  CHECK(got == epoch_of(whole));
}

TEST_CASE("a state loaded inside a loop goes on from there with the next batch") {
  for (bool const prefetch : {false, true}) {
    mt::batch_loader loader{numbered_samples{12}, {.batch = 2, .prefetch = prefetch}};
    std::vector<int> got;
    snapshot after_first;
    bool rolled_back = false;
    for (auto batch : loader) {
      for (int const i : indices_of(batch)) got.push_back(i);
      if (loader.batches_done() == 1) after_first = snapshot::of(loader);
      if (loader.batches_done() == 3 && !rolled_back) {
        rolled_back = true;
        after_first.load_into(loader);
      }
    }
    CHECK(got == std::vector<int>{0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  }
}

TEST_CASE("a state of other data, or one that cannot be, is refused before a batch is handed out") {
  mt::batch_loader small{numbered_samples{10}, {.batch = 4}};
  mt::batch_loader large{numbered_samples{11}, {.batch = 4}};
  auto state = snapshot::of(large);
  state.load_into(small);
  CHECK_THROWS_AS(epoch_of(small), mt::usage_error);
  CHECK_THROWS_WITH(epoch_of(small), doctest::Contains("data set of 11 samples; this one has 10"));
  state = snapshot::of(large);
  state.values[2] = 12;  // position
  state.load_into(large);
  CHECK_THROWS_WITH(epoch_of(large), doctest::Contains("after sample 12 of 11"));
  CHECK_THROWS_AS((mt::batch_loader{numbered_samples{10}, {.batch = 0}}), mt::usage_error);
}

TEST_CASE("what a read throws comes out at its own batch, with and without a thread, and the loop may go on from it") {
  for (bool const prefetch : {false, true}) {
    unreadable_sample data;
    data.count = 10;
    data.refused = 7;
    mt::batch_loader loader{data, {.batch = 2, .prefetch = prefetch}};
    for (int attempt = 0; attempt < 2; ++attempt) {
      std::vector<int> got;
      CHECK_THROWS_WITH(([&] {
                          for (auto batch : loader)
                            for (int const i : indices_of(batch)) got.push_back(i);
                        }()),
                        "sample is unreadable");
      CHECK(got == (attempt == 0 ? std::vector<int>{0, 1, 2, 3, 4, 5} : std::vector<int>{}));
      CHECK(loader.samples_done() == 6);
    }
  }
}

TEST_CASE("a failure ahead of a loaded state does not come out") {
  unreadable_sample data;
  data.count = 10;
  data.refused = 4;
  mt::batch_loader loader{data, {.batch = 2}};
  for (auto batch : loader) {
    static_cast<void>(batch);
    if (loader.batches_done() == 2) break;  // the thread is at sample 4
  }
  auto state = snapshot::of(loader);
  state.values[2] = 6;  // position
  state.load_into(loader);
  CHECK(epoch_of(loader) == std::vector<int>{6, 7, 8, 9});
}

TEST_CASE("a batch keeps its elements while the next one is being made") {
  numbered_samples data{64, 2048};
  mt::batch_loader loader{data, {.batch = 16, .shuffle = true, .seed = 3}};
  for (int epoch = 0; epoch < 3; ++epoch)
    for (auto batch : loader) {
      auto const before = indices_of(batch);
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
      CHECK(indices_of(batch) == before);
      CHECK(std::count(before.begin(), before.end(), -1) == 0);
    }
}

TEST_CASE("after the first epoch nothing is allocated, with and without a thread") {
  for (bool const prefetch : {false, true}) {
    mt::batch_loader loader{numbered_samples{100}, {.batch = 8, .shuffle = true, .prefetch = prefetch}};
    float sum = 0;
    auto const epoch = [&] {
      for (auto batch : loader) sum += batch.x[0];
    };
    epoch();
    std::size_t const before = allocations;
    epoch();
    epoch();
    CHECK(allocations == before);
    CHECK(sum != 0);
  }
}

TEST_CASE("a loader that is dropped within an epoch ends its thread") {
  for (int i = 0; i < 20; ++i) {
    mt::batch_loader loader{numbered_samples{100}, {.batch = 8}};
    for (auto batch : loader) {
      static_cast<void>(batch);
      if (static_cast<int>(loader.batches_done()) > i % 4) break;
    }
  }
}

TEST_CASE("the loader copies a data set's handle, not its samples, and outlives it") {
  auto const make = [] {
    return mt::in_memory_dataset<mt::extents<2>>{std::vector<float>{1, 2, 3, 4, 5, 6}, std::vector<std::int64_t>{7, 8, 9}};
  };
  mt::batch_loader loader{make(), {.batch = 2}};
  static_assert(std::is_same_v<decltype(loader)::batch_type, mt::batch<float, std::int64_t>>);
  std::vector<float> x;
  std::vector<std::int64_t> y;
  for (auto batch : loader) {
    x.insert(x.end(), batch.x.begin(), batch.x.end());
    y.insert(y.end(), batch.y.begin(), batch.y.end());
  }
  CHECK(x == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(y == std::vector<std::int64_t>{7, 8, 9});
}
