// Which samples of a batch belong to which shard and device.
#pragma once

#include <cstddef>

namespace mortise {

struct sample_range {
  std::size_t first = 0;
  std::size_t count = 0;
};

/// A batch of n samples is cut into min(shards, n) runs of neighbours, as even as can be; devices take runs of shards. Which samples a shard
/// has depends on n and the number of shards alone, never on the number of devices.
struct batch_part {
  std::size_t device = 0;   ///< this one ...
  std::size_t devices = 1;  ///< ... of so many
  std::size_t shards = 0;   ///< 0: one for each device

  constexpr std::size_t shard_count(std::size_t n) const {
    std::size_t const wanted = shards == 0 ? devices : shards;
    return wanted < n ? wanted : n;
  }
  /// The shards of device d: [first_shard(d, n), first_shard(d + 1, n)). The first shard is always the first device's.
  constexpr std::size_t first_shard(std::size_t d, std::size_t n) const { return (d * shard_count(n) + devices - 1) / devices; }
  /// The samples of shard s: [first_sample(s, n), first_sample(s + 1, n)).
  constexpr std::size_t first_sample(std::size_t s, std::size_t n) const { return n == 0 ? 0 : s * n / shard_count(n); }

  constexpr sample_range samples_of_shard(std::size_t s, std::size_t n) const {
    return {first_sample(s, n), first_sample(s + 1, n) - first_sample(s, n)};
  }
  /// The samples of this device; none where the batch is smaller than the number of devices and others have them all.
  constexpr sample_range samples(std::size_t n) const {
    std::size_t const first = first_sample(first_shard(device, n), n);
    return {first, first_sample(first_shard(device + 1, n), n) - first};
  }
  /// No batch of up to n samples has more for this device.
  constexpr std::size_t most_samples(std::size_t n) const {
    if (devices == 1) return n;
    std::size_t const wanted = shards == 0 ? devices : shards;
    std::size_t const own = wanted / devices + 1;
    std::size_t const bound = own * (n / wanted + 1);
    return bound < n ? bound : n;
  }
};

}  // namespace mortise
