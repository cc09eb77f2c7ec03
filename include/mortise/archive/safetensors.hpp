// The safetensors format: 8 bytes of length, a JSON header, packed tensors.
//
// Reading is stricter than the reference implementation: everything that the format's text forbids is refused. Writing gives the
// bytes that the reference writer gives (order of tensors, spacing, padding); metadata keys are sorted, so equal states are equal files.
// A file that is written to be mapped has another order, in which what lies in one piece in memory lies in one piece in the file.
// Source: huggingface/safetensors, README "Format" and safetensors/src/tensor.rs (0.3.1 to 0.8).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/checkpoint_layout.hpp>
#include <mortise/archive/contents.hpp>
#include <mortise/archive/file.hpp>
#include <mortise/archive/json.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// The format as a policy: `mt::save_archive<mt::safetensors>(path, tree)`.
struct safetensors {
  static constexpr std::string_view name = "safetensors";
  static constexpr std::string_view extension = ".safetensors";
  static constexpr std::uint64_t max_header = 100'000'000;  ///< the reference reader refuses more

  /// Is this what the file begins with? `head`: its first bytes, 9 or all that there are.
  template <class = void>
  static bool recognises(std::string_view head, std::uint64_t file_size);
  /// Checks everything, reads the header only.
  template <class = void>
  static archive_contents parse(byte_source const& file);
  template <class = void>
  static void write(flat_archive archive, byte_sink& out, bool mappable = false);
  /// checksums: a CRC-32 of each tensor among the metadata, which our reader verifies and others ignore. mappable: pieces of memory stay
  /// in one piece, and the largest begins at a multiple of 64 bytes.
  template <class = void>
  MORTISE_COLD static void write(archive_value const& tree, byte_sink& out, archive_metadata const& extra = {}, bool checksums = false, bool mappable = false) {
    flat_archive flat = flatten_checkpoint(tree);
    flat.metadata.insert(flat.metadata.end(), extra.begin(), extra.end());
    if (checksums) add_checksums(flat);
    write(std::move(flat), out, mappable);
  }
};

// ---- implementation -------------------------------------------------------------------------------------------------------

namespace detail {

struct safetensors_type {
  std::string_view name;
  element_type type;
};

/// In the order in which the reference writer stores tensors, last first.
inline constexpr safetensors_type safetensors_types[] = {
    {"BOOL", element_type::boolean},       {"F4", element_type::f4},
    {"F6_E2M3", element_type::f6_e2m3},    {"F6_E3M2", element_type::f6_e3m2},
    {"U8", element_type::u8},              {"I8", element_type::i8},
    {"F8_E5M2", element_type::f8_e5m2},    {"F8_E4M3", element_type::f8_e4m3},
    {"F8_E8M0", element_type::f8_e8m0},    {"F8_E4M3FNUZ", element_type::f8_e4m3fnuz},
    {"F8_E5M2FNUZ", element_type::f8_e5m2fnuz}, {"I16", element_type::i16},
    {"U16", element_type::u16},            {"F16", element_type::f16},
    {"BF16", element_type::bf16},          {"I32", element_type::i32},
    {"U32", element_type::u32},            {"F32", element_type::f32},
    {"C64", element_type::c64},            {"F64", element_type::f64},
    {"I64", element_type::i64},            {"U64", element_type::u64},
};

/// Position in the table, or -1.
template <class = void>
int safetensors_rank(element_type type) {
  for (int i = 0; safetensors_type const& t : safetensors_types) {
    if (t.type == type) return i;
    ++i;
  }
  return -1;
}

template <class = void>
class basic_safetensors_parser {
 public:
  basic_safetensors_parser(byte_source const& file, std::string_view header) : in_{header, file.name(), 8}, file_{file}, header_{header} {}

  MORTISE_COLD archive_contents parse() {
    contents_.format = "safetensors";
    contents_.sources.push_back(file_);
    if (in_.peek() != '{' || in_.position() != 0) in_.fail("the header does not begin with '{'", 0);
    in_.expect('{');
    // A tensor needs 48 characters; counting first keeps vectors from needing three times their size while they grow.
    std::size_t most = 0;
    for (char const c : header_) most += c == '{' ? 1u : 0u;
    if (most > header_.size() / 48 + 1) most = header_.size() / 48 + 1;
    contents_.tensors.reserve(most);
    contents_.places.reserve(most);
    ranges.reserve(most);
    std::string key;
    bool has_metadata = false;
    for (bool first = true; in_.next_key(first, key);) {
      if (key != "__metadata__") entry(key);
      else if (std::exchange(has_metadata, true)) in_.fail("duplicate __metadata__");
      else metadata();
    }
    in_.end();
    return std::move(contents_);
  }

  struct range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  std::vector<range> ranges{};

 private:
  json_cursor in_;
  byte_source const& file_;
  std::string_view header_;
  archive_contents contents_{};

  MORTISE_COLD void metadata() {
    if (in_.peek() != '{') in_.fail("__metadata__ is no object of strings");
    in_.expect('{');
    std::string key;
    std::string value;
    std::vector<std::string_view> keys;
    for (bool first = true; in_.next_key(first, key);) {
      if (in_.peek() != '"') in_.fail({"__metadata__: the value of ", quoted_part(key), " is no string"});
      in_.string(value);
      contents_.metadata.emplace_back(key, value);
    }
    for (auto const& [k, v] : contents_.metadata) keys.push_back(k);
    if (std::size_t const twice = find_duplicate(keys); twice != static_cast<std::size_t>(-1))
      in_.fail({"duplicate key ", quoted_part(keys[twice]), " in __metadata__"});
  }

  MORTISE_COLD void entry(std::string const& name) {
    std::size_t const start = in_.position();
    auto const fail = [&](message_parts reason) { in_.fail({"tensor ", quoted_part(name), ": ", message(reason)}, start); };
    if (in_.peek() != '{') fail({"its entry is no object"});
    in_.expect('{');
    tensor_info info;
    info.name = name;
    range where{0, 0};
    std::string key;
    std::string text;
    bool has_type = false;
    bool has_shape = false;
    bool has_offsets = false;
    std::vector<std::string> others;
    for (bool first = true; in_.next_key(first, key);) {
      if (key == "dtype") {
        if (std::exchange(has_type, true)) fail({"duplicate field dtype"});
        if (in_.peek() != '"') fail({"dtype is no string"});
        in_.string(text);
        bool known = false;
        for (safetensors_type const& t : safetensors_types)
          if (t.name == text) info.type = t.type, known = true;
        if (!known) fail({"unknown dtype ", quoted_part(text)});
      } else if (key == "shape") {
        if (std::exchange(has_shape, true)) fail({"duplicate field shape"});
        if (in_.peek() != '[') fail({"shape is no array"});
        in_.expect('[');
        for (bool none = true; in_.next_item(none);) info.shape.push_back(static_cast<std::size_t>(in_.natural("a dimension")));
        info.shape.shrink_to_fit();
      } else if (key == "data_offsets") {
        if (std::exchange(has_offsets, true)) fail({"duplicate field data_offsets"});
        if (in_.peek() != '[') fail({"data_offsets is no array"});
        in_.expect('[');
        std::size_t n = 0;
        for (bool none = true; in_.next_item(none); ++n) {
          if (n == 2) fail({"data_offsets must hold two offsets, not more"});
          (n == 0 ? where.begin : where.end) = in_.natural("an offset");
        }
        if (n != 2) fail({"data_offsets must hold two offsets"});
      } else {  // of a newer writer; the tiling of the data is checked in any case
        for (std::string const& o : others)
          if (o == key) fail({"duplicate field ", quoted_part(key)});
        if (others.size() == 16) fail({"too many unknown fields"});
        others.push_back(key);
        in_.skip();
      }
    }
    if (!has_type) fail({"has no dtype"});
    if (!has_shape) fail({"has no shape"});
    if (!has_offsets) fail({"has no data_offsets"});
    if (where.begin > where.end) fail({"data_offsets are reversed: [", where.begin, ", ", where.end, "]"});
    std::uint64_t bits = 1;
    for (std::size_t extent : info.shape)
      if (!checked_multiply(bits, extent, bits)) fail({"the product of its shape does not fit 64 bits"});
    if (!checked_multiply(bits, bits_of(info.type), bits)) fail({"its size does not fit 64 bits"});
    if (bits % 8 != 0) fail({"its elements do not fill whole bytes"});
    if (bits / 8 != where.end - where.begin)
      fail({tensor_text(info.type, info.shape), " takes ", bits / 8, " bytes, but data_offsets span ", where.end - where.begin});
    contents_.tensors.push_back(std::move(info));
    ranges.push_back(where);
  }
};
using safetensors_parser = basic_safetensors_parser<>;

}  // namespace detail

template <class>
bool safetensors::recognises(std::string_view head, std::uint64_t) { return head.size() >= 9 && head[8] == '{'; }

template <class>
MORTISE_COLD archive_contents safetensors::parse(byte_source const& file) {
  auto const fail = [&file](std::uint64_t at, detail::message_parts reason) { detail::throw_archive_error(file.name(), at, reason); };
  if (file.size() < 8) fail(0, {"the file is too small for a safetensors header: ", file.size(), " bytes"});
  unsigned char length[8];
  file.read(0, length, 8);
  std::uint64_t n = 0;
  for (int i = 7; i >= 0; --i) n = n << 8 | length[i];
  if (n > max_header) fail(0, {"the header length ", n, " exceeds the format's limit of 100000000 bytes"});
  if (n > file.size() - 8)
    fail(0, {"the header length ", n, " exceeds the file, which has ", file.size() - 8, " bytes after it"});
  std::string header(static_cast<std::size_t>(n), '\0');
  file.read(8, header.data(), header.size());
  detail::safetensors_parser parser{file, header};
  archive_contents c = parser.parse();
  header = {};

  struct key_view {
    std::vector<tensor_info> const& t;
    std::size_t size() const { return t.size(); }
    std::string const& operator[](std::size_t i) const { return t[i].name; }
  };
  if (std::size_t const twice = detail::find_duplicate(key_view{c.tensors}); twice != static_cast<std::size_t>(-1))
    fail(archive_error::no_offset, {"duplicate tensor name ", detail::quoted_part(c.tensors[twice].name), " in the header"});

  // Sorted by offset the tensors must tile the data without hole or overlap: no byte has two meanings, none is hidden.
  auto const& ranges = parser.ranges;
  auto const before = [&](std::uint32_t a, std::uint32_t b) {
    if (ranges[a].begin != ranges[b].begin) return ranges[a].begin < ranges[b].begin;
    if (ranges[a].end != ranges[b].end) return ranges[a].end < ranges[b].end;
    return c.tensors[a].name < c.tensors[b].name;
  };
  std::vector<std::uint32_t> order = detail::sorted_positions(c.tensors.size(), before);
  std::uint64_t const data = 8 + n;
  std::uint64_t at = 0;
  for (std::uint32_t const i : order) {
    detail::message_part const tensor = detail::quoted_part(c.tensors[i].name);
    if (ranges[i].begin > at) fail(data + at, {"tensor ", tensor, ": ", ranges[i].begin - at, " bytes before it belong to no tensor"});
    if (ranges[i].begin < at) fail(data + ranges[i].begin, {"tensor ", tensor, " overlaps the tensor before it"});
    at = ranges[i].end;
    if (at > file.size() - data) fail(file.size(), {"tensor ", tensor, " ends at byte ", at, " of the data, the file has only ", file.size() - data});
  }
  if (at != file.size() - data) fail(data + at, {file.size() - data - at, " bytes after the last tensor belong to no tensor"});

  for (std::uint32_t const i : order) {
    tensor_place place;
    place.offset = data + ranges[i].begin;
    c.places.push_back(place);
  }
  detail::reorder(c.tensors, std::move(order));
  resolve_checksums(c);
  resolve_aliases(c);
  return c;
}

namespace detail {

/// Puts tensors that lie behind one another in memory behind one another, and gives the position of the largest such piece. `tensors` are in
/// the reference order, and pieces keep it, by their first tensor in it: addresses decide within pieces only, so equal states are equal files.
template <class = void>
MORTISE_COLD std::size_t order_by_memory(std::vector<named_tensor>& tensors) {
  auto const by_memory = [&tensors](std::uint32_t a, std::uint32_t b) {
    return reinterpret_cast<std::uintptr_t>(tensors[a].tensor.data) < reinterpret_cast<std::uintptr_t>(tensors[b].tensor.data);
  };
  std::vector<std::uint32_t> order = sorted_positions(tensors.size(), by_memory);
  std::vector<std::uint32_t> piece(order.size());  // of order[i]: the first position in its piece
  std::uint32_t largest = 0;
  std::size_t most_bytes = 0;
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i + 1;
    tensor_ref const* last = &tensors[order[i]].tensor;
    std::size_t bytes = last->bytes();
    std::uint32_t first = order[i];
    for (; end < order.size(); ++end) {
      tensor_ref const& next = tensors[order[end]].tensor;
      if (next.data != last->data + last->bytes() || next.type != last->type) break;
      bytes += next.bytes();
      if (order[end] < first) first = order[end];
      last = &next;
    }
    if (bytes > most_bytes) most_bytes = bytes, largest = order[i];
    for (; i < end; ++i) piece[i] = first;
  }
  auto const by_piece = [&piece](std::uint32_t a, std::uint32_t b) { return piece[a] < piece[b]; };
  reorder(order, sorted_positions(order.size(), by_piece));
  std::size_t position = 0;
  while (position != order.size() && order[position] != largest) ++position;
  reorder(tensors, std::move(order));
  return position;
}

}  // namespace detail

template <class>
MORTISE_COLD void safetensors::write(flat_archive archive, byte_sink& out, bool mappable) {
  auto& tensors = archive.tensors;
  for (named_tensor const& t : tensors) {
    if (t.name == "__metadata__") detail::throw_usage_error({"mortise: safetensors reserves the tensor name __metadata__"});
    if (detail::safetensors_rank(t.tensor.type) < 0)
      detail::throw_usage_error({"mortise: safetensors has no element type ", name_of(t.tensor.type), " (tensor ", detail::quoted_part(t.name), "); save it as torch_zip or npz, or as its real and imaginary parts"});
    if (t.tensor.count() * bits_of(t.tensor.type) % 8 != 0)
      detail::throw_usage_error({"mortise: the elements of tensor ", detail::quoted_part(t.name), " do not fill whole bytes"});
    if (t.tensor.data == nullptr && t.tensor.bytes() != 0)
      detail::throw_usage_error({"mortise: tensor ", detail::quoted_part(t.name), " has no data; a tree that a reader made must be read first (archive_reader::read_tree)"});
  }
  auto const by_type_and_name = [&tensors](std::uint32_t a, std::uint32_t b) {
    int const ra = detail::safetensors_rank(tensors[a].tensor.type);
    int const rb = detail::safetensors_rank(tensors[b].tensor.type);
    return ra != rb ? ra > rb : tensors[a].name < tensors[b].name;
  };
  detail::reorder(tensors, detail::sorted_positions(tensors.size(), by_type_and_name));
  std::size_t const aligned = mappable ? detail::order_by_memory(tensors) : 0;
  detail::sort_metadata(archive.metadata);
  std::string header(8, '\0');
  header += '{';
  if (!archive.metadata.empty()) {
    header += "\"__metadata__\":{";
    for (std::size_t i = 0; i != archive.metadata.size(); ++i) {
      auto const& [key, value] = archive.metadata[i];
      if (!detail::is_utf8(key) || !detail::is_utf8(value)) detail::throw_usage_error({"mortise: metadata ", detail::quoted_part(key), " is no UTF-8"});
      if (i != 0 && archive.metadata[i - 1].first == key) detail::throw_usage_error({"mortise: metadata key ", detail::quoted_part(key), " stands twice"});
      if (i != 0) header += ',';
      append_json(header, std::string_view{key});
      header += ':';
      append_json(header, std::string_view{value});
    }
    header += '}';
  }
  std::uint64_t offset = 0;
  for (named_tensor const& t : tensors) {
    if (header.back() != '{' || header.size() > 9) header += ',';
    append_json(header, std::string_view{t.name});
    header += ":{\"dtype\":\"";
    header += detail::safetensors_types[detail::safetensors_rank(t.tensor.type)].name;
    header += "\",\"shape\":[";
    for (std::size_t i = 0; i != t.tensor.shape.size(); ++i) header += (i ? "," : "") + std::to_string(t.tensor.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(offset) + ',';
    offset += t.tensor.bytes();
    header += std::to_string(offset) + "]}";
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (mappable) {
    std::size_t before = 0;
    for (std::size_t i = 0; i < aligned; ++i) before += tensors[i].tensor.bytes();
    while (before % 8 == 0 && (header.size() + before) % 64 != 0) header.append(8, ' ');
  }
  std::uint64_t const n = header.size() - 8;
  if (n > max_header)
    detail::throw_usage_error({"mortise: the header of this archive would have ", n, " bytes, readers accept 100000000; put long data into tensors"});
  for (unsigned i = 0; i != 8; ++i) header[i] = static_cast<char>(static_cast<unsigned char>(n >> (8 * i)));
  out.write(header.data(), header.size());
  for (named_tensor const& t : tensors) out.write(t.tensor.data, t.tensor.bytes());
}

}  // namespace mortise
