// The part of zip that torch.save and numpy use, read strictly and written plainly.
//
// Reading trusts nothing twice told: central directory, local headers, descriptors and zip64 records must agree; entries must tile the
// file from its first byte to the directory, so that no byte has two meanings and none is hidden.
// Source: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/detail/crc32.hpp>
#include <mortise/archive/detail/text.hpp>
#include <mortise/archive/file.hpp>
#include <mortise/archive/json.hpp>
#include <mortise/config.hpp>

namespace mortise::detail {

struct zip_entry {
  std::string name{};
  std::uint64_t data = 0;  ///< offset of the payload
  std::uint64_t stored_size = 0;
  std::uint64_t size = 0;
  std::uint64_t header = 0;  ///< offset of the local header
  std::uint32_t crc = 0;     ///< 0: may be "not computed"
  std::uint16_t method = 0;  ///< 0 stored, 8 deflated
  std::uint16_t flags = 0;
};

template <class = void>
std::uint64_t little(std::byte const* at, std::size_t n) {
  std::uint64_t v = 0;
  for (std::size_t i = n; i-- != 0;) v = v << 8 | static_cast<std::uint64_t>(at[i]);
  return v;
}

template <class = void>
class basic_zip_reader {
 public:
  explicit basic_zip_reader(byte_source file) : file_{std::move(file)} { read_directory(); }

  byte_source const& file() const { return file_; }
  std::vector<zip_entry> const& entries() const { return entries_; }
  zip_entry const* find(std::string_view name) const {
    std::size_t const at = first_not_less(by_name_.size(), [this, name](std::size_t i) { return entries_[by_name_[i]].name.compare(name) < 0; });
    return at != by_name_.size() && entries_[by_name_[at]].name == name ? &entries_[by_name_[at]] : nullptr;
  }
  /// A stored entry's payload, its CRC checked. `limit`: refuses more.
  MORTISE_COLD std::string text(zip_entry const& e, std::uint64_t limit) const {
    if (e.method != 0) fail(e.header, {"entry ", quoted_part(e.name), " is compressed; this record must be stored"});
    if (e.size > limit) fail(e.header, {"entry ", quoted_part(e.name), " has ", e.size, " bytes, more than the ", limit, " accepted"});
    std::string out(static_cast<std::size_t>(e.size), '\0');
    file_.read(e.data, out.data(), out.size());
    if (e.crc != 0 && crc32(0, out.data(), out.size()) != e.crc) fail(e.data, {"entry ", quoted_part(e.name), ": the CRC of its bytes is wrong"});
    return out;
  }
  [[noreturn]] MORTISE_COLD void fail(std::uint64_t at, message_parts reason) const { throw_archive_error(file_.name(), at, reason); }
  [[noreturn]] MORTISE_COLD void fail(std::uint64_t at, char const* reason) const { throw_archive_error(file_.name(), at, {reason}); }

 private:
  byte_source file_;
  std::vector<zip_entry> entries_{};   // in the directory's order
  std::vector<std::uint32_t> by_name_{};

  void read_directory();
  void read_local(zip_entry& e, std::uint64_t end);
  /// The zip64 extra field: replaces those of the given values that are all ones.
  void resolve_zip64(std::byte const* extra, std::size_t n, std::vector<std::uint64_t*> const& wanted, std::uint64_t at, std::string const& name, bool local);
};
using zip_reader = basic_zip_reader<>;

template <class Unused>
MORTISE_COLD void basic_zip_reader<Unused>::resolve_zip64(std::byte const* extra, std::size_t n, std::vector<std::uint64_t*> const& wanted, std::uint64_t at,
                                      std::string const& name, bool local) {
  bool found = false;
  for (std::size_t i = 0; i < n;) {
    if (n - i < 4) return fail(at, {"entry ", quoted_part(name), ": a truncated extra field"});
    auto const id = little(extra + i, 2);
    auto const size = static_cast<std::size_t>(little(extra + i + 2, 2));
    i += 4;
    if (size > n - i) fail(at, {"entry ", quoted_part(name), ": an extra field longer than its area"});
    if (id == 1) {
      if (std::exchange(found, true)) fail(at, {"entry ", quoted_part(name), ": two zip64 fields"});
      std::size_t k = i;
      for (std::uint64_t* value : wanted) {
        if (value == nullptr) continue;
        if (i + size - k < 8) fail(at, {"entry ", quoted_part(name), ": its zip64 field is too short"});
        *value = little(extra + k, 8);
        k += 8;
      }
      // A local field holds both sizes although the 32-bit ones are valid (Python's zipfile does this); compared below by the caller.
      if (!local && k != i + size && wanted.empty()) fail(at, {"entry ", quoted_part(name), ": a zip64 field that nothing asks for"});
    }
    i += size;
  }
  if (!wanted.empty() && !found) fail(at, {"entry ", quoted_part(name), ": its sizes are in a zip64 field that is missing"});
}

template <class Unused>
MORTISE_COLD void basic_zip_reader<Unused>::read_directory() {
  std::uint64_t const size = file_.size();
  if (size < 22) fail(0, "the zip file is truncated: no end of central directory");
  auto const tail_size = static_cast<std::size_t>(lesser(size, 22 + 65535));
  std::uint64_t const tail_start = size - tail_size;
  std::vector<std::byte> const tail = file_.read(tail_start, tail_size);
  std::size_t end = tail_size - 22;
  for (;; --end) {
    if (tail[end] == std::byte{'P'} && little(&tail[end], 4) == 0x06054b50) break;
    if (end == 0) fail(size, "the zip file is truncated: no end of central directory");
  }
  std::byte const* e = &tail[end];
  std::uint64_t const end_at = tail_start + end;
  std::uint64_t const comment = little(e + 20, 2);
  if (end_at + 22 + comment != size) fail(end_at, "bytes after the end of the zip file, or a comment length that is wrong");
  if (little(e + 4, 2) != 0 || little(e + 6, 2) != 0) fail(end_at, "a zip file in several disks");
  if (little(e + 8, 2) != little(e + 10, 2)) fail(end_at, "the counts of entries disagree (several disks?)");
  std::uint64_t count = little(e + 10, 2);
  std::uint64_t directory_size = little(e + 12, 4);
  std::uint64_t directory = little(e + 16, 4);
  std::uint64_t directory_end = end_at;
  bool const needs64 = count == 0xffff || directory_size == 0xffffffff || directory == 0xffffffff;
  std::byte locator[20] = {};
  if (end_at >= 20) file_.read(end_at - 20, locator, 20);
  if (little(locator, 4) == 0x07064b50) {
    std::uint64_t const at = little(locator + 8, 8);
    if (little(locator + 4, 4) != 0 || little(locator + 16, 4) > 1) fail(end_at - 20, "a zip file in several disks");
    if (at > end_at - 20 || end_at - 20 - at < 56) fail(end_at - 20, "the zip64 locator points outside the file");
    std::byte record[56];
    file_.read(at, record, 56);
    if (little(record, 4) != 0x06064b50) fail(at, "no zip64 end record where the locator points");
    std::uint64_t const record_size = little(record + 4, 8);
    if (record_size != end_at - 20 - at - 12) fail(at, "the zip64 end record's size is wrong");
    if (little(record + 16, 4) != 0 || little(record + 20, 4) != 0) fail(at, "a zip file in several disks");
    std::uint64_t const count64 = little(record + 32, 8);
    std::uint64_t const size64 = little(record + 40, 8);
    std::uint64_t const offset64 = little(record + 48, 8);
    if (little(record + 24, 8) != count64 || (count != 0xffff && count != count64) || (directory_size != 0xffffffff && directory_size != size64) ||
        (directory != 0xffffffff && directory != offset64))
      fail(at, "the zip64 end record disagrees with the end record");
    count = count64;
    directory_size = size64;
    directory = offset64;
    directory_end = at;
  } else if (needs64) {
    fail(end_at, "the zip64 end record is missing");
  }
  if (directory > directory_end || directory_end - directory != directory_size)
    fail(end_at, {"the central directory (offset ", directory, ", ", directory_size, " bytes) does not end where its end record begins"});
  if (count > directory_size / 46) fail(end_at, {"the end record counts ", count, " entries, more than the directory can hold"});
  if (count == 0) fail(end_at, "the zip file is empty");

  std::vector<std::byte> const d = file_.read(directory, static_cast<std::size_t>(directory_size));
  entries_.reserve(static_cast<std::size_t>(count));
  std::size_t i = 0;
  for (std::uint64_t n = 0; n != count; ++n) {
    std::uint64_t const at = directory + i;
    if (d.size() - i < 46 || little(&d[i], 4) != 0x02014b50) fail(at, {"the central directory has no entry ", n + 1, " of ", count});
    std::byte const* h = &d[i];
    auto const name_size = static_cast<std::size_t>(little(h + 28, 2));
    auto const extra_size = static_cast<std::size_t>(little(h + 30, 2));
    auto const comment_size = static_cast<std::size_t>(little(h + 32, 2));
    if (d.size() - i - 46 < name_size + extra_size + comment_size) fail(at, "a directory entry longer than the directory");
    zip_entry entry;
    entry.name.assign(reinterpret_cast<char const*>(h + 46), name_size);
    entry.flags = static_cast<std::uint16_t>(little(h + 8, 2));
    entry.method = static_cast<std::uint16_t>(little(h + 10, 2));
    entry.crc = static_cast<std::uint32_t>(little(h + 16, 4));
    entry.stored_size = little(h + 20, 4);
    entry.size = little(h + 24, 4);
    entry.header = little(h + 42, 4);
    std::string const& name = entry.name;
    std::uint64_t disk = little(h + 34, 2);
    std::vector<std::uint64_t*> wanted;
    if (entry.size == 0xffffffff) wanted.push_back(&entry.size);
    if (entry.stored_size == 0xffffffff) wanted.push_back(&entry.stored_size);
    if (entry.header == 0xffffffff) wanted.push_back(&entry.header);
    resolve_zip64(h + 46 + name_size, extra_size, wanted, at, name, false);
    if (disk != 0) fail(at, {"entry ", quoted_part(name), ": a zip file in several disks"});
    if (entry.flags & 0x2041) fail(at, {"entry ", quoted_part(name), " is encrypted"});
    if (entry.method != 0 && entry.method != 8) fail(at, {"entry ", quoted_part(name), ": compression method ", entry.method, " is not supported"});
    if (entry.method == 0 && entry.size != entry.stored_size) fail(at, {"entry ", quoted_part(name), " is stored, but its two sizes differ"});
    if (name.empty() || name[0] == '/' || name.back() == '/' || name.find('\0') != std::string::npos || name.find('\\') != std::string::npos ||
        find_invalid_utf8(name) != std::string::npos || ("/" + name + "/").find("/../") != std::string::npos || ("/" + name + "/").find("/./") != std::string::npos)
      fail(at, {"entry ", quoted_part(name), ": not an acceptable name"});
    entries_.push_back(std::move(entry));
    i += 46 + name_size + extra_size + comment_size;
  }
  if (i != d.size()) fail(directory + i, "bytes in the central directory after its last entry");

  auto const by_name = [this](std::uint32_t a, std::uint32_t b) { return entries_[a].name < entries_[b].name; };
  by_name_ = sorted_positions(entries_.size(), by_name);
  for (std::size_t k = 1; k < by_name_.size(); ++k)
    if (entries_[by_name_[k]].name == entries_[by_name_[k - 1]].name) fail(directory, {"duplicate entry ", quoted_part(entries_[by_name_[k]].name)});
  auto const by_place = [this](std::uint32_t a, std::uint32_t b) { return entries_[a].header < entries_[b].header; };
  std::vector<std::uint32_t> const order = sorted_positions(entries_.size(), by_place);
  if (entries_[order[0]].header != 0) fail(0, "bytes before the first zip entry");
  for (std::size_t k = 0; k != order.size(); ++k) {
    std::uint64_t const next = k + 1 == order.size() ? directory : entries_[order[k + 1]].header;
    read_local(entries_[order[k]], next);
  }
}

template <class Unused>
MORTISE_COLD void basic_zip_reader<Unused>::read_local(zip_entry& e, std::uint64_t end) {
  if (e.header > file_.size() || file_.size() - e.header < 30) fail(e.header, {"entry ", quoted_part(e.name), ": its local header lies outside the file"});
  std::byte h[30];
  file_.read(e.header, h, 30);
  if (little(h, 4) != 0x04034b50) fail(e.header, {"entry ", quoted_part(e.name), ": no local header where the directory points"});
  auto const name_size = static_cast<std::size_t>(little(h + 26, 2));
  auto const extra_size = static_cast<std::size_t>(little(h + 28, 2));
  if (end < e.header || end - e.header < 30 + name_size + extra_size) fail(e.header, {"entry ", quoted_part(e.name), ": its local header overlaps what follows"});
  std::vector<std::byte> const rest = file_.read(e.header + 30, name_size + extra_size);
  if (std::string_view{reinterpret_cast<char const*>(rest.data()), name_size} != e.name) fail(e.header, {"entry ", quoted_part(e.name), ": the local header has another name"});
  if (little(h + 8, 2) != e.method) fail(e.header, {"entry ", quoted_part(e.name), ": the local header has another method"});
  if (little(h + 6, 2) != e.flags) fail(e.header, {"entry ", quoted_part(e.name), ": the local header has other flags"});
  std::uint64_t stored_size = little(h + 18, 4);
  std::uint64_t size = little(h + 22, 4);
  auto const crc = static_cast<std::uint32_t>(little(h + 14, 4));
  std::vector<std::uint64_t*> wanted;
  if (size == 0xffffffff || stored_size == 0xffffffff) wanted = {&size, &stored_size};  // a local field holds both
  resolve_zip64(rest.data() + name_size, extra_size, wanted, e.header, e.name, true);
  bool const deferred = (e.flags & 8) != 0;
  bool const zeros = crc == 0 && size == 0 && stored_size == 0;
  if (!(deferred && zeros) && (crc != e.crc || size != e.size || stored_size != e.stored_size))
    fail(e.header, {"entry ", quoted_part(e.name), ": size or CRC in the local header differ from the directory"});
  e.data = e.header + 30 + name_size + extra_size;
  std::uint64_t const room = end - e.data;
  if (e.stored_size > room) fail(e.header, {"entry ", quoted_part(e.name), ": its data overlap what follows"});
  std::uint64_t const after = room - e.stored_size;
  if (!deferred) {
    if (after != 0) fail(e.data + e.stored_size, {after, " bytes after entry ", quoted_part(e.name), " belong to no entry"});
    return;
  }
  if (after != 12 && after != 16 && after != 20 && after != 24) fail(e.data + e.stored_size, {"entry ", quoted_part(e.name), ": no data descriptor of a known size after its data"});
  std::byte descriptor[24];
  file_.read(e.data + e.stored_size, descriptor, static_cast<std::size_t>(after));
  bool const has_signature = after == 16 || after == 24;
  std::byte const* at = descriptor + (has_signature ? 4 : 0);
  std::size_t const width = after >= 20 ? 8 : 4;
  if ((has_signature && little(descriptor, 4) != 0x08074b50) || little(at, 4) != e.crc || little(at + 4, width) != e.stored_size ||
      little(at + 4 + width, width) != e.size)
    fail(e.data + e.stored_size, {"entry ", quoted_part(e.name), ": its data descriptor differs from the directory"});
}

/// Writes stored entries whose payloads begin at multiples of 64; zip64 fields only where a number does not fit 32 bits.
template <class = void>
class basic_zip_writer {
 public:
  explicit basic_zip_writer(byte_sink& out) : out_{out} {}

  MORTISE_COLD void add(std::string name, void const* first, std::size_t first_size, void const* second = nullptr, std::size_t second_size = 0) {
    entry e{std::move(name), at_, first_size + second_size, crc32(crc32(0, first, first_size), second, second_size)};
    bool const big = e.size >= 0xffffffff;
    std::string h;
    put(h, 0x04034b50, 4);
    put(h, big ? 45 : 0, 2);
    put(h, 0x0800, 2);  // names are UTF-8
    put(h, 0, 2);
    put(h, 0, 4);
    put(h, e.crc, 4);
    put(h, big ? 0xffffffff : e.size, 4);
    put(h, big ? 0xffffffff : e.size, 4);
    put(h, e.name.size(), 2);
    std::size_t const fixed = 30 + e.name.size() + (big ? 20 : 0) + 4;
    std::size_t const padding = (64 - (at_ + fixed) % 64) % 64;
    put(h, (big ? 20u : 0u) + 4u + padding, 2);
    h += e.name;
    if (big) {
      put(h, 1, 2);
      put(h, 16, 2);
      put(h, e.size, 8);
      put(h, e.size, 8);
    }
    put(h, 0x4246, 2);  // "FB": what torch calls its padding
    put(h, padding, 2);
    h.append(padding, 'Z');
    write(h);
    out_.write(first, first_size);
    if (second_size != 0) out_.write(second, second_size);
    at_ += e.size;
    entries_.push_back(std::move(e));
  }

  MORTISE_COLD void finish() {
    std::uint64_t const directory = at_;
    for (entry const& e : entries_) {
      bool const big = e.size >= 0xffffffff;
      bool const far = e.header >= 0xffffffff;
      std::string h;
      put(h, 0x02014b50, 4);
      put(h, 0, 2);
      put(h, big || far ? 45 : 0, 2);
      put(h, 0x0800, 2);
      put(h, 0, 2);
      put(h, 0, 4);
      put(h, e.crc, 4);
      put(h, big ? 0xffffffff : e.size, 4);
      put(h, big ? 0xffffffff : e.size, 4);
      put(h, e.name.size(), 2);
      std::size_t const extra = (big ? 16u : 0u) + (far ? 8u : 0u);
      put(h, extra ? extra + 4 : 0, 2);
      put(h, 0, 2);
      put(h, 0, 2);
      put(h, 0, 2);
      put(h, 0, 4);
      put(h, far ? 0xffffffff : e.header, 4);
      h += e.name;
      if (extra) {
        put(h, 1, 2);
        put(h, extra, 2);
        if (big) put(h, e.size, 8), put(h, e.size, 8);
        if (far) put(h, e.header, 8);
      }
      write(h);
    }
    std::uint64_t const size = at_ - directory;
    bool const big = directory >= 0xffffffff || size >= 0xffffffff || entries_.size() >= 0xffff;
    std::string h;
    if (big) {
      std::uint64_t const record = at_;
      put(h, 0x06064b50, 4);
      put(h, 44, 8);
      put(h, 0x031e, 2);
      put(h, 45, 2);
      put(h, 0, 4);
      put(h, 0, 4);
      put(h, entries_.size(), 8);
      put(h, entries_.size(), 8);
      put(h, size, 8);
      put(h, directory, 8);
      put(h, 0x07064b50, 4);
      put(h, 0, 4);
      put(h, record, 8);
      put(h, 1, 4);
    }
    std::uint64_t const count = entries_.size() >= 0xffff ? 0xffff : entries_.size();
    put(h, 0x06054b50, 4);
    put(h, 0, 4);
    put(h, count, 2);
    put(h, count, 2);
    put(h, size >= 0xffffffff ? 0xffffffff : size, 4);
    put(h, directory >= 0xffffffff ? 0xffffffff : directory, 4);
    put(h, 0, 2);
    write(h);
  }

 private:
  struct entry {
    std::string name;
    std::uint64_t header;
    std::uint64_t size;
    std::uint32_t crc;
  };
  byte_sink& out_;
  std::uint64_t at_ = 0;
  std::vector<entry> entries_{};

  static void put(std::string& to, std::uint64_t value, std::size_t bytes) {
    for (std::size_t i = 0; i != bytes; ++i) to += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
  void write(std::string const& text) {
    out_.write(text.data(), text.size());
    at_ += text.size();
  }
};
using zip_writer = basic_zip_writer<>;

}  // namespace mortise::detail
