// What all engines that train by several processes have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/detail/simd.hpp>
#include <mortise/parallel/reduce.hpp>
#include <mortise/tensor/batch_part.hpp>

namespace mortise {

/// The processes of a run, on an engine: distributed<mpi> (parallel/mpi.hpp), distributed<nccl> (parallel/nccl.cuh).
template <class Engine>
class distributed;

/// A process failed, or did not answer in time: what() says which and where. This process cannot go on with the others; it should end,
/// and the run start again from its last checkpoint.
struct distributed_error : error {
  using error::error;
};

struct distributed_options {
  double timeout = 300;  ///< seconds to wait for the other processes before they are given up
  int threads = 0;       ///< of this process; 0: the cores of this machine (or MORTISE_NUM_THREADS) shared among its processes
};

namespace detail {

/// What all processes must have in common, in an order that a message can name.
struct run_identity {
  static constexpr std::size_t count = 6;
  static constexpr char const* names[count] = {"bytes of an element", "number of parameters", "names and shapes of the network", "shards",
                                               "instruction set",     "version of mortise"};
  std::uint64_t values[count];
};

template <class Model>
run_identity run_identity_of(std::size_t shards) {
  std::uint64_t names = 0xcbf29ce484222325u;
  auto const mix = [&](std::uint64_t v) { names = (names ^ v) * 0x100000001b3u; };
  for (auto const& s : Model::state_table) {
    for (char const c : s.name) mix(static_cast<unsigned char>(c));
    for (std::size_t const n : s.extents) mix(n);
  }
  return {{sizeof(typename Model::element), Model::parameter_count, names, shards, static_cast<std::uint64_t>(current_instruction_set()),
           (MORTISE_VERSION_MAJOR * 1000 + MORTISE_VERSION_MINOR) * 1000 + MORTISE_VERSION_PATCH}};
}

/// Throws usage_error where the processes differ; `all` is in the order of the ranks.
template <class = void>
MORTISE_COLD void check_identities(std::vector<run_identity> const& all) {
  for (std::size_t r = 1; r < all.size(); ++r)
    for (std::size_t i = 0; i < run_identity::count; ++i)
      if (all[r].values[i] != all[0].values[i])
        throw usage_error("mortise::data_parallel: rank " + std::to_string(r) + " differs from rank 0 in its " + run_identity::names[i] +
                          ": " + std::to_string(all[r].values[i]) + " against " + std::to_string(all[0].values[i]) +
                          "; all processes must run the same program in the same way (MORTISE_ISA sets the instruction set)");
}

template <class = void>
[[noreturn]] MORTISE_COLD void refuse_part(std::size_t rank, sample_range const& given, std::size_t count, sample_range const& wanted) {
  throw usage_error("mortise::data_parallel: rank " + std::to_string(rank) + " was given samples " + std::to_string(given.first) + " to " +
                    std::to_string(given.first + count) + " of a batch of " + std::to_string(given.count) + ", but its part is " +
                    std::to_string(wanted.first) + " to " + std::to_string(wanted.first + wanted.count) +
                    "; give the loader this run's part: {.part = many.part()}");
}

/// Where the parts of an array begin that has `n` elements of each rank, and its end.
inline std::vector<std::size_t> equal_parts(std::size_t ranks, std::size_t n = 1) {
  std::vector<std::size_t> first(ranks + 1);
  for (std::size_t r = 0; r <= ranks; ++r) first[r] = r * n;
  return first;
}

/// Every rank says whether it failed. Where any did, all throw: `failure` on that rank, distributed_error with its words on the others.
template <class Processes>
MORTISE_COLD void share_failure(Processes& processes, std::exception_ptr const& failure) {
  constexpr std::size_t most = 4096;
  std::size_t const size = processes.size(), rank = processes.rank();
  std::string words;
  if (failure) try {
      std::rethrow_exception(failure);
    } catch (std::exception const& e) {
      words = e.what();
      if (words.empty()) words = "an error without words";
      if (words.size() > most) words.resize(most);
    }
  std::vector<std::int64_t> lengths(size);
  lengths[rank] = static_cast<std::int64_t>(words.size());
  processes.gather(lengths.data(), equal_parts(size));
  for (std::size_t r = 0; r < size; ++r) {
    if (lengths[r] == 0) continue;
    if (lengths[r] < 0 || lengths[r] > static_cast<std::int64_t>(most))
      throw distributed_error("mortise::distributed: rank " + std::to_string(r) + " of " + std::to_string(size) + " has left");
    if (r != rank) words.assign(static_cast<std::size_t>(lengths[r]), ' ');
    processes.broadcast(words.data(), words.size(), r);
    if (failure) std::rethrow_exception(failure);
    throw distributed_error("mortise::distributed: rank " + std::to_string(r) + " of " + std::to_string(size) + " failed: " + words);
  }
}

/// The partial sums that the processes hold when all their shards are done, in the order of the tree; `owner` is the process.
template <class = void>
void list_partial_sums(batch_part const& cut, std::size_t batch, std::size_t processes, std::vector<partial_sum<char>>& nodes) {
  std::size_t const shards = cut.shard_count(batch);
  nodes.clear();
  std::vector<partial_sum<char>> held;
  for (std::size_t r = 0; r < processes; ++r) {
    held.clear();
    for (std::size_t s = cut.first_shard(r, batch); s < cut.first_shard(r + 1, batch); ++s)
      join_partial_sums(held, partial_sum<char>{0, s, nullptr, 0}, shards, [](auto&, auto const&, bool) {});
    for (auto const& h : held) nodes.push_back({h.level, h.index, nullptr, r});
  }
}

/// The additions that make one sum of the partial sums `nodes`, which lie at `where`, and end in `result`.
template <class T>
void plan_additions(std::vector<partial_sum<char>> const& nodes, std::vector<T*> const& where, std::size_t shards, T* result,
                    std::vector<array_addition<T>>& additions) {
  std::vector<partial_sum<T>> row;
  additions.clear();
  for (std::size_t i = 0; i < nodes.size(); ++i)
    join_partial_sums(row, partial_sum<T>{nodes[i].level, nodes[i].index, where[i], 0}, shards,
                      [&](auto& left, auto const& right, bool root) {
                        T* const sum = root ? result : left.data;
                        additions.push_back({left.data, right.data, sum});
                        left.data = sum;
                      });
}

}  // namespace detail
}  // namespace mortise
