// The pool: every piece once, whoever calls, from wherever.
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/detail/thread_pool.hpp>

namespace {

using mortise::detail::thread_pool;

template <class F>
void run(thread_pool& pool, int threads, std::size_t pieces, F const& f) {
  pool.run(
      threads, pieces, [](void const* context, std::size_t piece) { (*static_cast<F const*>(context))(piece); }, &f);
}

/// What a job wrote is seen by its caller without further ado: plain integers, for the thread sanitizer to watch.
bool each_once(thread_pool& pool, int threads, std::size_t pieces) {
  std::vector<int> count(pieces, 0);
  run(pool, threads, pieces, [&](std::size_t piece) { ++count[piece]; });
  bool all = true;
  for (int const n : count) all = all && n == 1;
  return all;
}

}  // namespace

TEST_CASE("every piece of every job runs once, and its caller sees what it wrote") {
  thread_pool pool;
  for (int const threads : {1, 2, 4})
    for (std::size_t job = 0; job < 300; ++job) CHECK(each_once(pool, threads, job % 37));
}

TEST_CASE("jobs inside of jobs run where they are, or on a pool of their own") {
  thread_pool outer, inner[3];
  for (int round = 0; round < 50; ++round) {
    std::vector<int> fine(6, 0);
    run(outer, 3, 3, [&](std::size_t piece) {
      fine[piece] = each_once(outer, 2, 11);
      thread_pool::scope const own{inner[piece]};
      fine[3 + piece] = each_once(thread_pool::instance(), 2, 11);
    });
    for (int const f : fine) CHECK(f == 1);
  }
}

TEST_CASE("several threads may call one pool") {
  thread_pool pool;
  std::vector<int> fine(3, 0);
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < fine.size(); ++i)
    callers.emplace_back([&, i] {
      bool all = true;
      for (std::size_t job = 0; job < 200; ++job) all = each_once(pool, 2, job % 9) && all;
      fine[i] = all;
    });
  for (auto& c : callers) c.join();
  for (int const f : fine) CHECK(f == 1);
}
