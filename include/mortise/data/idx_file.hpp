// IDX files, the format of MNIST: two zero bytes, element type, number of axes, the axes as big-endian 32-bit numbers, the elements.
// Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "FILE FORMATS".
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <mortise/data/data_error.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// Unsigned bytes and their shape, row-major, the number of samples first.
struct idx_file {
  shape extents;
  std::vector<std::uint8_t> bytes;
};

namespace detail {

[[noreturn]] inline void refuse_idx(std::string const& path, std::string const& reason) { throw data_error(path + ": " + reason); }

struct close_file {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

}  // namespace detail

/// Reads an IDX file of unsigned bytes with 1 to 7 axes. Strict: the file ends where its header says. Takes memory only for bytes that the
/// file has. Throws data_error with the path and what is wrong.
inline idx_file read_idx(std::string const& path) {
  std::unique_ptr<std::FILE, detail::close_file> const file{std::fopen(path.c_str(), "rb")};
  if (!file) detail::refuse_idx(path, std::string{"cannot be opened: "} + std::strerror(errno));
  auto const read = [&](void* to, std::size_t bytes, char const* what) {
    errno = 0;
    if (std::fread(to, 1, bytes, file.get()) == bytes) return;
    if (std::ferror(file.get())) detail::refuse_idx(path, std::string{"cannot be read: "} + std::strerror(errno));
    detail::refuse_idx(path, std::string{"ends within "} + what);
  };

  std::uint8_t magic[4];
  read(magic, sizeof magic, "the first four bytes; this is no IDX file");
  if (magic[0] == 0x1f && magic[1] == 0x8b) detail::refuse_idx(path, "is compressed; decompress it with gunzip");
  if (magic[0] != 0 || magic[1] != 0) detail::refuse_idx(path, "is no IDX file: it does not begin with two zero bytes");
  if (magic[2] != 0x08)
    detail::refuse_idx(path, "has elements of IDX type " + std::to_string(magic[2]) + "; only unsigned bytes (type 8) are read");
  if (magic[3] == 0 || magic[3] >= shape::max_rank)
    detail::refuse_idx(path, "has " + std::to_string(magic[3]) + " axes; 1 to " + std::to_string(shape::max_rank - 1) + " are read");

  idx_file r;
  std::uint64_t elements = 1;
  constexpr std::uint64_t limit = std::uint64_t{1} << 62;
  for (int axis = 0; axis < magic[3]; ++axis) {
    std::uint8_t b[4];
    read(b, sizeof b, "its list of axes");
    std::uint64_t const n = std::uint64_t{b[0]} << 24 | std::uint64_t{b[1]} << 16 | std::uint64_t{b[2]} << 8 | b[3];
    if (n == 0) detail::refuse_idx(path, "has an axis of length 0");
    if (elements > limit / n) detail::refuse_idx(path, "claims more elements than any file holds");
    elements *= n;
    r.extents.push_back(static_cast<std::size_t>(n));
  }

  long const header = 4 + 4 * static_cast<long>(magic[3]);
  if (std::fseek(file.get(), 0, SEEK_END) != 0) detail::refuse_idx(path, "is no regular file");
  long const end = std::ftell(file.get());
  if (end < header || std::fseek(file.get(), header, SEEK_SET) != 0) detail::refuse_idx(path, "is no regular file");
  std::uint64_t const held = static_cast<std::uint64_t>(end - header);
  if (held != elements)
    detail::refuse_idx(path, "its header " + to_string(r.extents) + " promises " + std::to_string(elements) + " bytes of data, but " +
                                 std::to_string(held) + " follow; it is " + (held < elements ? "truncated" : "followed by something else"));
  r.bytes.resize(static_cast<std::size_t>(elements));
  read(r.bytes.data(), r.bytes.size(), "its data");
  return r;
}

}  // namespace mortise
