// Opening any archive that this library reads, recognised by its content.
//
//   archive_reader open_archive(std::string const& path)                     file; also a sharded model's index.json
//   archive_reader open_archive(byte_source source)                          memory
//   archive_reader map_file(std::string const& path)                         file, through a memory map
//
//   std::string const&              reader.format()                          "safetensors", "torch_zip", "torch_legacy", "npz", "npy"
//   std::vector<tensor_info> const& reader.tensors()                         name, type, shape (dotted names)
//   tensor_info const*              reader.find(name)                        null when it is not there
//   std::vector<std::byte>          reader.read(name)                        packed, row-major, little-endian
//   void                            reader.read_into(name, span<std::byte>)  the same into the caller's memory
//   std::span<std::byte const>      reader.mapped(name)                      without a copy; empty where that cannot be
//   archive_value                   reader.value("epoch")                    any value but a tensor, by dotted name
//   std::vector<std::pair<std::string, archive_value>> reader.values()       all of them
//   archive_value const&            reader.tree()                            tensor nodes: tensor_ref.entry = position in tensors()
//   archive_value                   reader.read_tree()                       the same with the tensors' data read (owned)
//   archive_metadata const&         reader.metadata()                        text beside the tensors, as it stands in the file
//   void                            reader.verify()                          every checksum that the file carries
#pragma once

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <mortise/archive/contents.hpp>
#include <mortise/archive/detail/crc32.hpp>
#include <mortise/archive/detail/inflate.hpp>
#include <mortise/archive/file.hpp>
#include <mortise/archive/npz.hpp>
#include <mortise/archive/safetensors.hpp>
#include <mortise/archive/shards.hpp>
#include <mortise/archive/torch.hpp>
#include <mortise/archive/zip.hpp>
#include <mortise/archive/value.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// An open archive. The whole structure was checked on opening; tensors' data is read when asked for. Copies share the file.
template <class = void>
class basic_archive_reader {
 public:
  explicit basic_archive_reader(archive_contents contents);

  std::string const& format() const { return state_->contents.format; }
  std::string const& name() const { return state_->contents.sources.at(0).name(); }
  std::vector<tensor_info> const& tensors() const { return state_->contents.tensors; }
  archive_metadata const& metadata() const { return state_->contents.metadata; }
  archive_value const& tree() const;

  /// By the name in the file, or by the dotted name in `tree()`.
  tensor_info const* find(std::string_view tensor) const {
    std::size_t const i = position(tensor);
    return i == no_entry ? nullptr : &tensors()[i];
  }
  bool contains(std::string_view tensor) const { return position(tensor) != no_entry; }
  /// Position in `tensors()`, or no_entry.
  std::size_t position(std::string_view tensor) const;

  /// Packed, row-major, little-endian. usage_error when there is no such tensor.
  std::vector<std::byte> read(std::string_view tensor) const { return read_entry(entry(tensor)); }
  std::vector<std::byte> read_entry(std::size_t i) const;
  /// `to` must have exactly the tensor's bytes. Packed tensors are read straight into it.
  void read_into(std::string_view tensor, std::span<std::byte> to) const { read_entry_into(entry(tensor), to); }
  void read_entry_into(std::size_t i, std::span<std::byte> to) const;
  /// Bytes [offset, offset + to.size()) of the packed tensor, for tensors that `reads_in_parts`. Verifies no checksum: `check_readable` does.
  void read_entry_part(std::size_t i, std::size_t offset, std::span<std::byte> to) const;
  /// False for strided and compressed tensors, which are read as a whole.
  bool reads_in_parts(std::size_t i) const;
  /// Does the file carry a checksum of this tensor's bytes?
  bool has_checksum(std::size_t i) const {
    tensor_place const& place = state_->contents.places.at(i);
    return place.record < state_->contents.records.size() && state_->contents.records[place.record].has_crc;
  }
  /// Checks the checksums of these tensors, and that all their bytes can be read, without keeping them: the reads that follow find them in
  /// the page cache. archive_error, io_error.
  void check_readable(std::span<std::size_t const> entries) const;
  /// Where the tensor's bytes stand, packed: in which source, at which byte. Its source is null where they do not (strided, compressed, byte-swapped).
  struct stored_place {
    byte_source const* source = nullptr;
    std::uint64_t offset = 0;
  };
  stored_place stored(std::size_t i) const {
    tensor_place const& place = state_->contents.places.at(i);
    if (!reads_in_parts(i) || place.big_endian) return {};
    return {&state_->contents.sources[place.source], place.offset};
  }
  /// The tensor's bytes where they lie; empty when the source is a file that is read, or the tensor is strided or byte-swapped.
  std::span<std::byte const> mapped(std::string_view tensor) const { return mapped_entry(entry(tensor)); }
  std::span<std::byte const> mapped_entry(std::size_t i) const;

  /// A value by its dotted name: in the tree, else in the metadata. usage_error when there is none, or when it is a tensor.
  archive_value value(std::string_view path) const;
  bool has_value(std::string_view path) const;
  /// Everything that is no tensor: dotted name and value.
  std::vector<std::pair<std::string, archive_value>> values() const;
  archive_value read_tree() const;
  /// Checks every checksum that the file carries, without reading tensors into memory; reading a tensor checks its own.
  void verify() const;

 private:
  struct state {
    archive_contents contents{};
    std::vector<std::uint32_t> by_name{};
    std::unique_ptr<std::atomic<bool>[]> verified{};  // beside contents.records
    mutable std::once_flag tree_once{};
    mutable archive_value tree{};
  };
  std::shared_ptr<state const> state_;

  void verify_record(std::size_t i) const;
  std::vector<std::byte> inflate_record(archive_record const& record) const;
  [[noreturn]] MORTISE_COLD void wrong_crc(archive_record const& record) const;
  std::size_t entry(std::string_view tensor) const;
  bool is_checkpoint() const;
};
using archive_reader = basic_archive_reader<>;

/// Recognises the format by content and checks the file's whole structure. archive_error, io_error. Where there is no such file but
/// PATH.index.json, that is opened with its shards.
template <class = void>
archive_reader open_archive(std::string const& path);
/// The same through a memory map: tensors are copied from the page cache straight to where they go, nothing is read into memory in between,
/// and processes that map the same file share its pages. `reader.mapped(name)` is a tensor where it lies. The file must not be cut short
/// or overwritten in place while it is mapped (SIGBUS); the saves of this library replace files, which is safe.
template <class = void>
archive_reader map_file(std::string const& path);
template <class = void>
archive_reader open_archive(byte_source source);
template <class = void>
archive_reader open_archive(std::span<std::byte const> memory) { return open_archive(byte_source::view(memory)); }

// ---- implementation -------------------------------------------------------------------------------------------------------

template <class Unused>
basic_archive_reader<Unused>::basic_archive_reader(archive_contents contents) {
  auto s = std::make_shared<state>();
  s->contents = std::move(contents);
  s->verified = std::make_unique<std::atomic<bool>[]>(s->contents.records.size());
  s->by_name = detail::positions_by_name(s->contents.tensors);
  state_ = std::move(s);
}

template <class Unused>
archive_value const& basic_archive_reader<Unused>::tree() const {
  std::call_once(state_->tree_once, [this] {
    if (!state_->contents.has_tree) state_->tree = unflatten_checkpoint(state_->contents);
  });
  return state_->contents.has_tree ? state_->contents.tree : state_->tree;
}

template <class Unused>
bool basic_archive_reader<Unused>::is_checkpoint() const {
  if (state_->contents.has_tree) return true;
  for (auto const& [key, text] : metadata())
    if (key == "ckpt.version") return true;
  return false;
}

template <class Unused>
MORTISE_COLD std::size_t basic_archive_reader<Unused>::position(std::string_view tensor) const {
  auto const& all = tensors();
  auto const& order = state_->by_name;
  std::size_t const at = detail::find_by_name(all, order, tensor);
  if (at != no_entry) {
    if (at + 1 != order.size() && all[order[at + 1]].name == tensor)
      detail::throw_archive_error(name(), archive_error::no_offset, {"two tensors have the dotted name ", detail::quoted_part(tensor), "; read them by position"});
    return order[at];
  }
  if (!state_->contents.has_tree && is_checkpoint())
    if (archive_value const* v = tree().find_path(tensor); v != nullptr && v->is_tensor()) return v->as_tensor().entry;
  return no_entry;
}

template <class Unused>
std::size_t basic_archive_reader<Unused>::entry(std::string_view tensor) const {
  std::size_t const i = position(tensor);
  if (i == no_entry) detail::throw_usage_error({name(), ": holds no tensor ", detail::quoted_part(tensor)});
  return i;
}

template <class Unused>
std::vector<std::byte> basic_archive_reader<Unused>::read_entry(std::size_t i) const {
  tensor_info const& t = tensors().at(i);
  byte_source const& source = state_->contents.sources[state_->contents.places[i].source];
  // An expanded view (stride 0) can be far larger than what is stored: such a tensor needs memory that the caller provides.
  constexpr std::size_t always_fine = std::size_t{1} << 28;
  if (!state_->contents.places[i].packed && t.bytes() > always_fine && t.bytes() / 4 > source.size())
    detail::throw_archive_error(name(), archive_error::no_offset, {"tensor ", detail::quoted_part(t.name), " is an expanded view of ", t.bytes(), " bytes; read it into memory of your own"});
  std::vector<std::byte> bytes(t.bytes());
  read_entry_into(i, bytes);
  return bytes;
}

template <class Unused>
std::span<std::byte const> basic_archive_reader<Unused>::mapped_entry(std::size_t i) const {
  tensor_info const& t = tensors().at(i);
  tensor_place const& place = state_->contents.places[i];
  byte_source const& source = state_->contents.sources[place.source];
  if (source.data() == nullptr || !place.packed || place.big_endian) return {};
  if (place.record < state_->contents.records.size()) {
    if (state_->contents.records[place.record].deflated) return {};
    verify_record(place.record);
  }
  return {source.data() + place.offset, t.bytes()};
}

namespace detail {

/// Reverses the bytes of each `width`-byte number.
template <class = void>
void swap_bytes(std::span<std::byte> bytes, std::size_t width) {
  for (std::size_t i = 0; i + width <= bytes.size(); i += width)
    for (std::size_t k = 0; k != width / 2; ++k) std::swap(bytes[i + k], bytes[i + width - 1 - k]);
}

/// Packs a strided tensor. `base`: element 0; strides in elements of `width` bytes.
template <class = void>
void gather(tensor_info const& t, bool packed, std::byte const* base, std::size_t width, std::span<std::byte> target) {
  if (target.empty()) return;
  std::byte* to = target.data();
  if (packed) {
    std::memcpy(to, base, target.size());
    return;
  }
  std::size_t const rank = t.shape.size();
  std::vector<std::size_t> index(rank, 0);
  std::size_t const inner = rank == 0 ? 1 : t.shape[rank - 1];
  std::size_t const step = rank == 0 ? 0 : t.strides[rank - 1] * width;
  for (;;) {
    std::size_t at = 0;
    for (std::size_t d = 0; d + 1 < rank; ++d) at += index[d] * t.strides[d];
    std::byte const* from = base + at * width;
    if (step == width) {
      std::memcpy(to, from, inner * width);
      to += inner * width;
    } else {
      for (std::size_t i = 0; i != inner; ++i, from += step, to += width) std::memcpy(to, from, width);
    }
    std::size_t d = rank < 2 ? 0 : rank - 1;
    for (; d != 0; --d) {
      if (++index[d - 1] != t.shape[d - 1]) break;
      index[d - 1] = 0;
    }
    if (d == 0) return;
  }
}

}  // namespace detail

template <class Unused>
void basic_archive_reader<Unused>::read_entry_into(std::size_t i, std::span<std::byte> to) const {
  tensor_info const& t = tensors().at(i);
  tensor_place const& place = state_->contents.places[i];
  byte_source const& source = state_->contents.sources[place.source];
  if (to.size() != t.bytes())
    detail::throw_usage_error({name(), ": tensor ", detail::quoted_part(t.name), " has ", t.bytes(), " bytes, memory for ", to.size(), " was given"});
  if (to.empty()) return;
  std::size_t const width = bits_of(t.type) / 8;
  archive_record const* record = place.record < state_->contents.records.size() ? &state_->contents.records[place.record] : nullptr;
  if (record != nullptr && record->deflated) {
    // The whole member is inflated and checked; only then are the tensor's bytes taken from it.
    std::vector<std::byte> const bytes = inflate_record(*record);
    detail::gather(t, place.packed, bytes.data() + place.offset, width, to);
  } else if (place.packed) {
    bool const checked = record == nullptr || !record->has_crc || state_->verified[place.record].load(std::memory_order_acquire);
    bool const whole = !checked && record->offset == place.offset && record->size == to.size();
    if (!checked && !whole) verify_record(place.record);
    source.read(place.offset, to.data(), to.size());
    if (whole && detail::crc32(0, to.data(), to.size()) != record->crc) wrong_crc(*record);
  } else {
    if (record != nullptr) verify_record(place.record);
    std::size_t last = 0;
    for (std::size_t d = 0; d != t.shape.size(); ++d) last += (t.shape[d] - 1) * t.strides[d];
    if (source.data() != nullptr) detail::gather(t, false, source.data() + place.offset, width, to);
    else detail::gather(t, false, source.read(place.offset, (last + 1) * width).data(), width, to);
  }
  if (place.big_endian) detail::swap_bytes(to, t.type == element_type::c64 || t.type == element_type::c128 ? width / 2 : width);
}

template <class Unused>
bool basic_archive_reader<Unused>::reads_in_parts(std::size_t i) const {
  tensor_place const& place = state_->contents.places.at(i);
  return place.packed && (place.record >= state_->contents.records.size() || !state_->contents.records[place.record].deflated);
}

template <class Unused>
void basic_archive_reader<Unused>::read_entry_part(std::size_t i, std::size_t offset, std::span<std::byte> to) const {
  tensor_info const& t = tensors().at(i);
  tensor_place const& place = state_->contents.places[i];
  if (offset > t.bytes() || to.size() > t.bytes() - offset) detail::throw_usage_error({name(), ": a part outside of tensor ", detail::quoted_part(t.name)});
  state_->contents.sources[place.source].read(place.offset + offset, to.data(), to.size());
  if (!place.big_endian) return;
  std::size_t const width = bits_of(t.type) / 8;
  detail::swap_bytes(to, t.type == element_type::c64 || t.type == element_type::c128 ? width / 2 : width);
}

template <class Unused>
void basic_archive_reader<Unused>::check_readable(std::span<std::size_t const> entries) const {
  auto const& records = state_->contents.records;
  for (std::size_t const i : entries) {
    tensor_info const& t = tensors().at(i);
    tensor_place const& place = state_->contents.places[i];
    if (t.count() == 0) continue;
    if (place.record < records.size() && records[place.record].deflated) {
      (void)inflate_record(records[place.record]);
    } else if (place.record < records.size() && records[place.record].has_crc) {
      verify_record(place.record);
    } else {
      std::size_t bytes = t.bytes();
      if (!place.packed) {
        bytes = 1;
        for (std::size_t d = 0; d != t.shape.size(); ++d) bytes += (t.shape[d] - 1) * t.strides[d];
        bytes *= bits_of(t.type) / 8;
      }
      state_->contents.sources[place.source].check_readable(place.offset, bytes);
    }
  }
}

template <class Unused>
void basic_archive_reader<Unused>::wrong_crc(archive_record const& record) const {
  detail::throw_archive_error(state_->contents.sources[record.source].name(), record.offset, {"the checksum (CRC-32) of ", record.name, " is wrong: its bytes have changed since they were written"});
}

template <class Unused>
void basic_archive_reader<Unused>::verify_record(std::size_t i) const {
  archive_record const& record = state_->contents.records[i];
  if (!record.has_crc || record.deflated || state_->verified[i].load(std::memory_order_acquire)) return;
  byte_source const& source = state_->contents.sources[record.source];
  std::uint32_t crc = 0;
  if (source.data() != nullptr) {
    crc = detail::crc32(0, source.data() + record.offset, static_cast<std::size_t>(record.size));
  } else {
    std::vector<std::byte> buffer(static_cast<std::size_t>(detail::lesser(record.size, std::uint64_t{1} << 20)));
    for (std::uint64_t at = 0; at != record.size;) {
      auto const n = static_cast<std::size_t>(detail::lesser(record.size - at, buffer.size()));
      source.read(record.offset + at, buffer.data(), n);
      crc = detail::crc32(crc, buffer.data(), n);
      at += n;
    }
  }
  if (crc != record.crc) wrong_crc(record);
  state_->verified[i].store(true, std::memory_order_release);
}

template <class Unused>
void basic_archive_reader<Unused>::verify() const {
  for (std::size_t i = 0; i != state_->contents.records.size(); ++i)
    if (state_->contents.records[i].deflated) (void)inflate_record(state_->contents.records[i]);
    else verify_record(i);
}

template <class Unused>
std::vector<std::byte> basic_archive_reader<Unused>::inflate_record(archive_record const& record) const {
  byte_source const& source = state_->contents.sources[record.source];
  std::vector<std::byte> const packed = source.read(record.offset, static_cast<std::size_t>(record.size));
  std::vector<std::byte> bytes(static_cast<std::size_t>(record.inflated_size));  // bounded by the parser: at most 1032 times the input
  detail::inflater in{packed, bytes};
  if (in.run() != detail::inflater::result::done || in.written() != bytes.size() || in.consumed() != packed.size())
    detail::throw_archive_error(source.name(), record.offset, {record.name, ": its compressed data are malformed"});
  if (record.has_crc && detail::crc32(0, bytes.data(), bytes.size()) != record.crc) wrong_crc(record);
  return bytes;
}

template <class Unused>
bool basic_archive_reader<Unused>::has_value(std::string_view path) const {
  if (is_checkpoint())
    if (archive_value const* v = tree().find_path(path)) return !v->is_tensor();
  for (auto const& [key, text] : metadata())
    if (key == path) return true;
  return false;
}

template <class Unused>
MORTISE_COLD archive_value basic_archive_reader<Unused>::value(std::string_view path) const {
  if (is_checkpoint())
    if (archive_value const* v = tree().find_path(path)) {
      if (v->is_tensor()) detail::throw_usage_error({name(), ": ", detail::quoted_part(path), " is a tensor; use read"});
      return *v;
    }
  for (auto const& [key, text] : metadata())
    if (key == path) return text;
  detail::throw_usage_error({name(), ": holds no value ", detail::quoted_part(path)});
}

template <class Unused>
MORTISE_COLD std::vector<std::pair<std::string, archive_value>> basic_archive_reader<Unused>::values() const {
  std::vector<std::pair<std::string, archive_value>> all;
  if (!is_checkpoint()) {
    for (auto const& [key, text] : metadata()) all.emplace_back(key, text);
    return all;
  }
  // Long keys over many values could make the names far longer than the file.
  std::uint64_t budget = std::uint64_t{1} << 20;
  for (byte_source const& s : state_->contents.sources) budget += 4 * s.size() + detail::lesser(64 * s.size(), std::uint64_t{1} << 28);
  for_each_leaf(tree(), [&](std::string_view path, archive_value const& leaf) {
    if (leaf.is_tensor()) return;
    if (path.size() + 64 > budget) detail::throw_archive_error(name(), archive_error::no_offset, {"the dotted names of its values take more memory than the file explains"});
    budget -= path.size() + 64;
    all.emplace_back(std::string{path}, leaf);
  });
  return all;
}

template <class Unused>
MORTISE_COLD archive_value basic_archive_reader<Unused>::read_tree() const {
  archive_value copy = tree();
  std::vector<std::shared_ptr<std::vector<std::byte>>> read(tensors().size());
  // Names that share one stored tensor share one piece of memory, so that a save of this tree stores it once again.
  auto const& places = state_->contents.places;
  std::vector<std::uint32_t> first(tensors().size());
  for (std::size_t i = 0; i != first.size(); ++i) first[i] = static_cast<std::uint32_t>(i);
  auto const before = [&places](std::uint32_t a, std::uint32_t b) {
    return places[a].source != places[b].source ? places[a].source < places[b].source : places[a].offset < places[b].offset;
  };
  std::vector<std::uint32_t> const order = detail::sorted_positions(first.size(), before);
  for (std::size_t k = 1; k < order.size(); ++k) {
    std::uint32_t const a = order[k - 1];
    std::uint32_t const b = order[k];
    if (places[a].source == places[b].source && places[a].offset == places[b].offset && tensors()[a].type == tensors()[b].type &&
        tensors()[a].shape == tensors()[b].shape && tensors()[a].strides == tensors()[b].strides && tensors()[a].count() != 0)
      first[b] = first[a];
  }
  std::vector<archive_value*> pending{&copy};
  while (!pending.empty()) {
    archive_value& v = *pending.back();
    pending.pop_back();
    if (v.is_tensor()) {
      tensor_ref& t = v.as_tensor();
      auto& data = read.at(first.at(t.entry));
      if (!data) data = std::make_shared<std::vector<std::byte>>(read_entry(t.entry));
      t.data = data->data();
      t.owner = data;
      t.entry = no_entry;
    } else if (v.is_container()) {
      for (archive_value& child : v.items()) pending.push_back(&child);
    }
  }
  return copy;
}

namespace detail {

/// What a file is whose kind is known and not read here; empty for all others.
template <class = void>
MORTISE_COLD std::string_view known_but_refused(std::string_view head) {
  if (head.substr(0, 2) == "\x1f\x8b") return "a gzip file; unpack it first";
  if (head.substr(0, 8) == "\x89HDF\r\n\x1a\n") return "an HDF5 file (Keras?); convert it to safetensors first";
  if (head.substr(0, 4) == "GGUF") return "a GGUF file; convert it to safetensors first";
  if (head.substr(0, 8) == "PYTORCH1") return "a container of the PyTorch 1.0 previews (PYTORCH1); re-save it with a newer torch";
  if (head.size() >= 262 && head.substr(257, 5) == "ustar") return "a very old tar checkpoint (torch 0.1); re-save it with a newer torch";
  return {};
}

}  // namespace detail

namespace detail {

/// A text that begins like JSON, where safetensors would have a length beyond its limit.
template <class = void>
bool looks_like_json(std::string_view head) {
  std::size_t const at = head.find_first_not_of(" \t\r\n");
  if (at == std::string_view::npos || head[at] != '{' || head.size() < 8) return false;
  std::uint64_t const length = little(reinterpret_cast<std::byte const*>(head.data()), 8);
  return length > safetensors::max_header;
}

/// index: shards of a model may be given; they are looked for beside it.
template <class = void>
MORTISE_COLD archive_contents parse_archive(byte_source const& source, bool index) {
  std::string head(static_cast<std::size_t>(detail::lesser(source.size(), 512)), '\0');
  source.read(0, head.data(), head.size());
  if (head.empty()) detail::throw_archive_error(source.name(), 0, {"the file is empty"});
  if (std::string_view const kind = known_but_refused(head); !kind.empty()) detail::throw_archive_error(source.name(), 0, {"this is ", kind});
  std::string_view const first = head;
  if (first.substr(0, 4) == "PK\5\6") detail::throw_archive_error(source.name(), 0, {"this is an empty zip file"});
  if (first.substr(0, 2) == "PK") {
    zip_reader const zip{source};
    return npz::recognises(zip) ? npz::parse(zip) : torch_zip::parse(zip);
  }
  if (first.substr(0, 6) == "\x93NUMPY") return npy::parse(source);
  if (looks_like_json(first)) {
    if (!index) detail::throw_archive_error(source.name(), 0, {"this is JSON text where a shard of tensors belongs"});
    if (!source.is_file()) detail::throw_archive_error(source.name(), 0, {"this is JSON text; an index of shards must be opened by its path, since the shards lie beside it"});
    bool const mapped = source.data() != nullptr;
    return parse_index(source, [mapped](std::string const& path) { return parse_archive(mapped ? byte_source::map(path) : byte_source::open(path), false); });
  }
  if (first[0] == '\x80' && !safetensors::recognises(first, source.size())) return torch_legacy::parse(source);
  return safetensors::parse(source);
}

/// The file, or where there is none, the index of the shards that a sharded save to this path made.
template <class = void>
MORTISE_COLD std::string file_or_index(std::string const& path) {
  struct stat info{};
  std::string const index = path + std::string{index_ending};
  return ::stat(path.c_str(), &info) != 0 && errno == ENOENT && ::stat(index.c_str(), &info) == 0 ? index : path;
}

}  // namespace detail

template <class>
archive_reader open_archive(byte_source source) { return archive_reader{detail::parse_archive(source, true)}; }
template <class>
archive_reader open_archive(std::string const& path) { return open_archive(byte_source::open(detail::file_or_index(path))); }
template <class>
archive_reader map_file(std::string const& path) { return open_archive(byte_source::map(detail::file_or_index(path))); }

}  // namespace mortise
