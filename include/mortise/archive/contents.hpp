// What a format's parser hands to `archive_reader`: the same for every format.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <mortise/archive/file.hpp>
#include <mortise/archive/value.hpp>

namespace mortise {

using archive_metadata = std::vector<std::pair<std::string, std::string>>;

/// Where a tensor's element 0 lies.
struct tensor_place {
  std::uint64_t offset = 0;  ///< in bytes, within its source
  std::uint32_t source = 0;  ///< which of `archive_contents::sources`
  bool big_endian = false;
};

struct archive_contents {
  std::string format{};                  ///< "safetensors", "torch_zip", "torch_legacy", "npy", "npz"
  std::vector<byte_source> sources{};    ///< the file; its shards; inflated members
  std::vector<tensor_info> tensors{};    ///< checked against the sources: every read stays inside
  std::vector<tensor_place> places{};    ///< beside `tensors`
  archive_metadata metadata{};           ///< text that the format keeps beside the tensors
  archive_value tree{};                  ///< for formats that store one; its tensor nodes hold positions in `tensors`
  bool has_tree = false;                 ///< false: the tree follows from names and metadata (checkpoint_layout.hpp)
};

}  // namespace mortise
