// What CUDA devices this machine has.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <mortise/device/detail/cuda_context.cuh>

namespace mortise {

/// Bytes of a device's memory.
struct cuda_memory {
  std::size_t free = 0;
  std::size_t total = 0;
};

/// What a device is.
struct cuda_properties {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  std::size_t total_memory = 0;             ///< bytes
  std::size_t shared_memory_per_block = 0;  ///< bytes
  int l2_bytes = 0;
  int memory_bus_bits = 0;
  std::string pci;  ///< "0000:65:00.0"
};

/// A device that CUDA_VISIBLE_DEVICES lets through: this program's cuda:`logical` is the machine's `physical`.
struct cuda_visible_device {
  int logical = 0;
  std::string physical;  ///< an ordinal, or the UUID as CUDA_VISIBLE_DEVICES names it
};

namespace detail {

/// CUDA's rules: entries separated by commas; the list ends at the first invalid one, and a device named twice leaves none.
/// `count`: devices that the runtime reports.
inline std::vector<cuda_visible_device> parse_visible_devices(char const* text, int count) {
  std::vector<cuda_visible_device> list;
  if (text == nullptr) {
    for (int i = 0; i < count; ++i) list.push_back({i, std::to_string(i)});
    return list;
  }
  std::string entry;
  for (char const* c = text;; ++c) {
    if (*c == ',' || *c == '\0') {
      std::size_t const first = entry.find_first_not_of(" \t"), last = entry.find_last_not_of(" \t");
      entry = first == std::string::npos ? "" : entry.substr(first, last - first + 1);
      bool number = !entry.empty();
      for (char const x : entry) number = number && x >= '0' && x <= '9';
      if (!number && entry.rfind("GPU-", 0) != 0 && entry.rfind("MIG-", 0) != 0) break;
      if (static_cast<int>(list.size()) == count) break;
      list.push_back({static_cast<int>(list.size()), entry});
      entry.clear();
      if (*c == '\0') break;
    } else {
      entry += *c;
    }
  }
  return list;
}

}  // namespace detail
}  // namespace mortise
