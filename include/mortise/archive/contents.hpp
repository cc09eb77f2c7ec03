// What a format's parser hands to `archive_reader`: the same for every format.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <mortise/archive/errors.hpp>
#include <mortise/archive/file.hpp>
#include <mortise/archive/value.hpp>
#include <mortise/detail/order.hpp>

namespace mortise {

using archive_metadata = std::vector<std::pair<std::string, std::string>>;

/// Where a tensor's element 0 lies.
struct tensor_place {
  std::uint64_t offset = 0;  ///< in bytes, within its source
  std::uint32_t source = 0;  ///< which of `archive_contents::sources`
  std::uint32_t record = static_cast<std::uint32_t>(-1);  ///< which of `archive_contents::records` holds it; -1: none is checked
  bool big_endian = false;
  bool packed = true;        ///< row-major without gaps, whatever `tensor_info::strides` says
};

/// Bytes with a checksum, verified when a tensor in them is first read.
struct archive_record {
  std::string name{};        ///< for messages
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint32_t source = 0;
  std::uint32_t crc = 0;     ///< CRC-32 as in zip
  bool has_crc = false;
  bool deflated = false;     ///< `size` bytes of a deflate stream; offsets of tensors count in what it inflates to
  std::uint64_t inflated_size = 0;
};

/// Strides of a packed row-major tensor, as PyTorch counts them.
template <class Shape>
bool is_packed(Shape const& shape, Shape const& strides) {
  std::size_t expected = 1;
  std::size_t count = 1;
  for (std::size_t extent : shape) count = extent == 0 ? 0 : count;
  if (count == 0) return true;
  for (std::size_t d = shape.size(); d-- != 0;) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

struct archive_contents {
  std::string format{};                  ///< "safetensors", "torch_zip", "torch_legacy", "npy", "npz"
  std::vector<byte_source> sources{};    ///< the file; its shards; inflated members
  std::vector<tensor_info> tensors{};    ///< checked against the sources: every read stays inside
  std::vector<tensor_place> places{};    ///< beside `tensors`
  std::vector<archive_record> records{};
  archive_metadata metadata{};           ///< text that the format keeps beside the tensors
  archive_value tree{};                  ///< for formats that store one; its tensor nodes hold positions in `tensors`
  bool has_tree = false;                 ///< false: the tree follows from names and metadata (checkpoint_layout.hpp)
};

namespace detail {

/// Positions of tensors in the order of their names.
template <class = void>
std::vector<std::uint32_t> positions_by_name(std::vector<tensor_info> const& tensors) {
  auto const before = [&tensors](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; };
  return sorted_positions(tensors.size(), before);
}

/// Where a text stands in a sorted list, or would stand.
template <class = void>
std::size_t find_sorted(std::vector<std::string> const& list, std::string_view text) {
  return first_not_less(list.size(), [&list, text](std::size_t i) { return list[i].compare(text) < 0; });
}

/// Where the first tensor of this name stands in such an order, or no_entry.
template <class = void>
std::size_t find_by_name(std::vector<tensor_info> const& tensors, std::vector<std::uint32_t> const& order, std::string_view name) {
  std::size_t const at = first_not_less(order.size(), [&](std::size_t i) { return tensors[order[i]].name.compare(name) < 0; });
  return at == order.size() || tensors[order[at]].name != name ? no_entry : at;
}

/// Sorts metadata by key; equal keys by their text, or where `keep` is set, as they stood.
template <class = void>
void sort_metadata(archive_metadata& metadata, bool keep = false) {
  auto const before = [&metadata, keep](std::uint32_t a, std::uint32_t b) {
    int const by_key = metadata[a].first.compare(metadata[b].first);
    return by_key != 0 ? by_key < 0 : !keep && metadata[a].second < metadata[b].second;
  };
  reorder(metadata, sorted_positions(metadata.size(), before));
}

}  // namespace detail

}  // namespace mortise
