// numpy's arrays: .npy (one) and .npz (a zip of them), read and written.
//
// Plain numbers only: no object arrays (they are pickles), no strings, no structures. bfloat16 and the small floats do not exist there.
// Source: numpy/lib/format.py, "Format Version 1.0" to 3.0; numpy.savez.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/checkpoint_layout.hpp>
#include <mortise/archive/contents.hpp>
#include <mortise/archive/detail/inflate.hpp>
#include <mortise/archive/zip.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// One array; reading only through `open_archive`, where its name is "".
struct npy {
  static constexpr std::string_view name = "npy";
  template <class = void>
  static archive_contents parse(byte_source const& file);
};

/// The format as a policy: `mt::save_archive<mt::npz>(path, tree)`. Holds tensors by their dotted names; a tree with other values than
/// tensors is refused, since numpy has no place for them.
struct npz {
  static constexpr std::string_view name = "npz";
  static constexpr std::string_view extension = ".npz";

  template <class = void>
  static bool recognises(detail::zip_reader const& zip) {
    for (detail::zip_entry const& e : zip.entries())
      if (e.name.size() < 5 || e.name.compare(e.name.size() - 4, 4, ".npy") != 0) return false;
    return true;
  }
  template <class = void>
  static archive_contents parse(detail::zip_reader const& zip);
  template <class = void>
  static void write(archive_value const& tree, byte_sink& out, archive_metadata const& = {});
};

// ---- implementation -------------------------------------------------------------------------------------------------------

namespace detail {

struct npy_type {
  std::string_view descr;
  element_type type;
};

inline constexpr npy_type npy_types[] = {
    {"b1", element_type::boolean}, {"u1", element_type::u8},  {"i1", element_type::i8},  {"u2", element_type::u16}, {"i2", element_type::i16},
    {"u4", element_type::u32},     {"i4", element_type::i32}, {"u8", element_type::u64}, {"i8", element_type::i64}, {"f2", element_type::f16},
    {"f4", element_type::f32},     {"f8", element_type::f64}, {"c8", element_type::c64}, {"c16", element_type::c128},
};

struct npy_header {
  tensor_info info{};
  std::uint64_t data = 0;  ///< bytes of the header
  bool big_endian = false;
};

/// The one dict literal that an npy header is. No evaluator: names, quotes, integers, nothing else.
template <class = void>
class basic_npy_parser {
 public:
  static constexpr std::size_t max_header = 10'000;  // numpy's own limit

  basic_npy_parser(std::string_view head, std::string_view file, std::uint64_t start) : head_{head}, file_{file}, start_{start} {}

  /// size: bytes of the whole array file.
  MORTISE_COLD npy_header parse(std::uint64_t size) {
    if (head_.size() < 10 || head_.substr(0, 6) != "\x93NUMPY") fail(0, "no npy file: its magic string is missing");
    unsigned const major = static_cast<unsigned char>(head_[6]);
    unsigned const minor = static_cast<unsigned char>(head_[7]);
    if (major < 1 || major > 3 || minor != 0) fail(6, {"npy version ", major, ".", minor, " is not supported (1.0 to 3.0 are)"});
    std::size_t const width = major == 1 ? 2 : 4;
    if (head_.size() < 8 + width) fail(8, "the npy header is truncated");
    std::uint64_t const length = little(reinterpret_cast<std::byte const*>(head_.data()) + 8, width);
    if (length > max_header) fail(8, {"the npy header has ", length, " bytes, more than the ", max_header, " accepted"});
    at_ = 8 + width;
    if (length > size - at_ || length > head_.size() - at_) fail(8, "the npy header ends beyond the file");
    end_ = at_ + static_cast<std::size_t>(length);
    npy_header h;
    h.data = end_;
    dict(h);
    std::uint64_t bytes = bits_of(h.info.type) / 8;
    for (std::size_t extent : h.info.shape)
      if (!checked_multiply(bytes, extent, bytes)) fail(at_, "the size of the array overflows");
    if (bytes != size - h.data)
      fail(h.data, {tensor_text(h.info.type, h.info.shape), " takes ", bytes, " bytes, the file has ", size - h.data});
    return h;
  }

 private:
  std::string_view head_;
  std::string_view file_;
  std::uint64_t start_;
  std::size_t at_ = 0;
  std::size_t end_ = 0;

  [[noreturn]] MORTISE_COLD void fail(std::uint64_t at, message_parts reason) const { throw_archive_error(file_, start_ + at, reason); }
  [[noreturn]] MORTISE_COLD void fail(std::uint64_t at, char const* reason) const { throw_archive_error(file_, start_ + at, {reason}); }
  char peek() {
    while (at_ != end_ && head_[at_] == ' ') ++at_;
    return at_ == end_ ? '\0' : head_[at_];
  }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(at_, {"the npy header has ", (at_ == end_ ? "no '" : in_quotes(head_.substr(at_, 1)) + " instead of '"), c, "'"});
  }
  MORTISE_COLD std::string_view string() {
    char const quote = peek();
    if (quote != '\'' && quote != '"') fail(at_, "the npy header has something else where a string belongs; structured and object arrays are not supported");
    std::size_t const close = head_.find(quote, ++at_);
    if (close == std::string_view::npos || close >= end_) fail(at_, "a string without its closing quote in the npy header");
    std::string_view const v = head_.substr(at_, close - at_);
    at_ = close + 1;
    return v;
  }
  MORTISE_COLD void dict(npy_header& h) {
    expect('{');
    bool has_descr = false;
    bool has_order = false;
    bool has_shape = false;
    bool fortran = false;
    while (!accept('}')) {
      std::string_view const key = string();
      expect(':');
      if (key == "descr" && !std::exchange(has_descr, true)) {
        descr(h);
      } else if (key == "fortran_order" && !std::exchange(has_order, true)) {
        peek();
        std::string_view const rest = head_.substr(at_, end_ - at_);
        fortran = rest.substr(0, 4) == "True";
        if (!fortran && rest.substr(0, 5) != "False") fail(at_, "fortran_order is neither True nor False");
        at_ += fortran ? 4 : 5;
      } else if (key == "shape" && !std::exchange(has_shape, true)) {
        shape(h);
      } else {
        fail(at_, {"a key of the npy header that is unknown or stands twice: ", quoted_part(key)});
      }
      if (!accept(',') && peek() != '}') fail(at_, {"the npy header has something unexpected after ", quoted_part(key)});
    }
    if (!has_descr || !has_order || !has_shape) fail(at_, {"the npy header has no ", (!has_descr ? "descr" : !has_order ? "fortran_order" : "shape")});
    if (peek() == '\n') ++at_;
    if (peek(), at_ != end_) fail(at_, "the npy header goes on after its dict");
    if (fortran && h.info.shape.size() > 1) {
      h.info.strides.resize(h.info.shape.size());
      std::size_t step = 1;
      for (std::size_t d = 0; d != h.info.shape.size(); ++d) {
        h.info.strides[d] = step;
        if (__builtin_mul_overflow(step, h.info.shape[d] == 0 ? 1 : h.info.shape[d], &step)) fail(at_, "the size of the array overflows");
      }
    }
  }
  MORTISE_COLD void descr(npy_header& h) {
    if (peek() == '[') fail(at_, "a structured array (its descr is a list) is not supported; save each field as an array of its own");
    std::string_view const d = string();
    std::string_view const rest = d.substr(d.empty() ? 0 : 1);
    for (npy_type const& t : npy_types)
      if (t.descr == rest && (d[0] == '<' || d[0] == '>' || (d[0] == '|' && bits_of(t.type) == 8))) {
        h.info.type = t.type;
        h.big_endian = d[0] == '>' && bits_of(t.type) > 8;
        return;
      }
    fail(at_, {"descr ", quoted_part(d), (rest.substr(0, 1) == "O" ? " is an object array, a pickle: not loaded" : " is not supported (plain numbers are)")});
  }
  MORTISE_COLD void shape(npy_header& h) {
    expect('(');
    while (!accept(')')) {
      peek();
      std::uint64_t v = 0;
      std::size_t const digits = at_;
      for (; at_ != end_ && head_[at_] >= '0' && head_[at_] <= '9'; ++at_)
        if (!checked_multiply(v, 10, v) || !checked_add(v, static_cast<std::uint64_t>(head_[at_] - '0'), v)) fail(digits, "a dimension does not fit 64 bits");
      if (at_ == digits) fail(at_, "shape holds something else than non-negative integers");
      if (at_ != end_ && head_[at_] == 'L') ++at_;  // Python 2
      h.info.shape.push_back(static_cast<std::size_t>(v));
      if (h.info.shape.size() > 64) fail(at_, "more than 64 dimensions");
      if (!accept(',') && peek() != ')') fail(at_, "shape holds something else than non-negative integers");
    }
  }
};
using npy_parser = basic_npy_parser<>;

template <class = void>
MORTISE_COLD std::string npy_header_text(tensor_ref const& t, std::string const& name) {
  std::string_view descr;
  for (npy_type const& n : npy_types)
    if (n.type == t.type) descr = n.descr;
  if (descr.empty())
    detail::throw_usage_error({"mortise: numpy has no element type ", name_of(t.type), " (tensor ", quoted_part(name), "); convert it, or save safetensors"});
  std::string text = "{'descr': '";
  text += bits_of(t.type) == 8 ? '|' : '<';
  text += descr;
  text += "', 'fortran_order': False, 'shape': (";
  for (std::size_t d = 0; d != t.shape.size(); ++d) text += (d ? ", " : "") + std::to_string(t.shape[d]);
  text += t.shape.size() == 1 ? ",), }" : "), }";
  std::size_t const total = (10 + text.size() + 1 + 63) / 64 * 64;
  text.resize(total - 11, ' ');
  text += '\n';
  std::string head = "\x93NUMPY\x01";
  head += '\0';
  head += static_cast<char>(static_cast<unsigned char>(text.size() & 0xff));
  head += static_cast<char>(static_cast<unsigned char>(text.size() >> 8));
  return head + text;
}

}  // namespace detail

template <class>
MORTISE_COLD archive_contents npy::parse(byte_source const& file) {
  auto const n = static_cast<std::size_t>(detail::lesser(file.size(), detail::npy_parser::max_header + 12));
  std::string head(n, '\0');
  file.read(0, head.data(), n);
  detail::npy_header h = detail::npy_parser{head, file.name(), 0}.parse(file.size());
  archive_contents c;
  c.format = name;
  c.sources.push_back(file);
  tensor_place place;
  place.offset = h.data;
  place.big_endian = h.big_endian;
  place.packed = h.info.strides.empty() || is_packed(h.info.shape, h.info.strides);
  c.tensors.push_back(std::move(h.info));
  c.places.push_back(place);
  return c;
}

template <class>
MORTISE_COLD archive_contents npz::parse(detail::zip_reader const& zip) {
  archive_contents c;
  c.format = name;
  c.sources.push_back(zip.file());
  for (detail::zip_entry const& e : zip.entries()) {
    // A deflate stream expands at most 1032 times: more is a lie about its size.
    if (e.method == 8 && e.size / 1032 > e.stored_size) zip.fail(e.header, {"entry ", detail::quoted_part(e.name), " claims to inflate to ", e.size, " bytes"});
    auto const n = static_cast<std::size_t>(detail::lesser(e.size, detail::npy_parser::max_header + 12));
    std::string head(n, '\0');
    if (e.method == 0) {
      zip.file().read(e.data, head.data(), n);
    } else {
      std::vector<std::byte> const packed = zip.file().read(e.data, static_cast<std::size_t>(detail::lesser(e.stored_size, 65536)));
      detail::inflater in{packed, {reinterpret_cast<std::byte*>(head.data()), n}};
      auto const result = in.run();
      if (result == detail::inflater::result::malformed) zip.fail(e.data, {"entry ", detail::quoted_part(e.name), ": its compressed data are malformed"});
      head.resize(in.written());
    }
    detail::npy_header h = detail::npy_parser{head, zip.file().name() + ": " + e.name, 0}.parse(e.size);
    h.info.name = e.name.substr(0, e.name.size() - 4);
    tensor_place place;
    place.offset = (e.method == 0 ? e.data : 0) + h.data;
    place.big_endian = h.big_endian;
    place.packed = h.info.strides.empty() || is_packed(h.info.shape, h.info.strides);
    place.record = static_cast<std::uint32_t>(c.records.size());
    c.records.push_back({"entry " + detail::in_quotes(e.name), e.data, e.stored_size, 0, e.crc, e.crc != 0, e.method == 8, e.size});
    c.tensors.push_back(std::move(h.info));
    c.places.push_back(place);
  }
  return c;
}

template <class>
MORTISE_COLD void npz::write(archive_value const& tree, byte_sink& out, archive_metadata const&) {
  if (!tree.is_dict()) detail::throw_usage_error({"mortise: an npz file holds a dict of tensors, not ", name_of(tree.kind())});
  detail::zip_writer zip{out};
  std::vector<std::string> names;
  for_each_leaf(tree, [&](std::string_view leaf_name, archive_value const& v) {
    if (v.is_container() && tree.size() == 0) return;
    if (!v.is_tensor())
      detail::throw_usage_error({"mortise: npz has no place for ", name_of(v.kind()), " (", detail::quoted_part(leaf_name), "); save a state_dict alone, or use safetensors or torch_zip"});
    tensor_ref const& t = v.as_tensor();
    if (t.data == nullptr && t.bytes() != 0) detail::throw_usage_error({"mortise: tensor ", detail::quoted_part(leaf_name), " has no data; read the tree first (archive_reader::read_tree)"});
    names.emplace_back(leaf_name);
    std::string const head = detail::npy_header_text(t, names.back());
    zip.add(names.back() + ".npy", head.data(), head.size(), t.data, t.bytes());
  });
  if (detail::find_duplicate(names) != static_cast<std::size_t>(-1)) detail::throw_usage_error({"mortise: two tensors to save have the same dotted name"});
  if (names.empty()) detail::throw_usage_error({"mortise: an npz file without arrays is no zip file that readers accept"});
  zip.finish();
}

}  // namespace mortise
