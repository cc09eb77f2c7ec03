// JSON as RFC 8259 has it and nothing more: for safetensors headers, checkpoint metadata, shard indices.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/detail/text.hpp>
#include <mortise/archive/errors.hpp>
#include <mortise/archive/value.hpp>
#include <mortise/config.hpp>
#include <mortise/detail/order.hpp>

namespace mortise {

/// Walks JSON text without building a tree. Every error says where (offset in the file) and what was wrong.
/// Nothing recurses; nesting is limited to 128, as the reference reader of safetensors has it.
template <class = void>
class basic_json_cursor {
 public:
  static constexpr std::size_t max_depth = 128;

  /// start: the text's offset in the file, added to the offsets of errors.
  basic_json_cursor(std::string_view text, std::string_view file, std::uint64_t start = 0) : text_{text}, file_{file}, start_{start} {}

  [[noreturn]] MORTISE_COLD void fail(detail::message_parts reason, std::size_t at) const { detail::throw_archive_error(file_, start_ + at, reason); }
  [[noreturn]] MORTISE_COLD void fail(detail::message_parts reason) const { fail(reason, at_); }
  [[noreturn]] MORTISE_COLD void fail(char const* reason, std::size_t at) const { detail::throw_archive_error(file_, start_ + at, {reason}); }
  [[noreturn]] MORTISE_COLD void fail(char const* reason) const { fail(reason, at_); }
  std::size_t position() const { return at_; }

  /// The next character that is no white space, or NUL at the end.
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void expect(char c) {
    if (peek() != c) fail_unexpected({"'", c, "'"});
    ++at_;
  }
  /// In an object: moves to the next member's value and gives its key, or leaves the object. `first` starts as true.
  bool next_key(bool& first, std::string& key) {
    if (!next(first, '}')) return false;
    if (peek() != '"') fail_unexpected({"a key in double quotes"});
    string(key);
    expect(':');
    return true;
  }
  /// In an array: moves to the next item, or leaves the array.
  bool next_item(bool& first) { return next(first, ']'); }
  /// A string, decoded.
  void string(std::string& out);
  /// An integer of 0 to 2^64-1 without sign, fraction or exponent.
  std::uint64_t natural(std::string_view what);
  /// An integer that fits 64 bits becomes an integer, every other number a double.
  archive_value number();
  bool literal(std::string_view word) {
    peek();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  /// Any value, checked and dropped.
  void skip();
  /// Nothing but white space up to the end.
  void end() {
    if (peek(); at_ != text_.size()) fail("bytes after the JSON text");
  }
  [[noreturn]] MORTISE_COLD void fail_unexpected(detail::message_parts wanted) {
    peek();
    if (at_ >= text_.size()) fail({"the JSON text ends where ", detail::message(wanted), " should stand"});
    fail({"expected ", detail::message(wanted), ", found ", detail::quoted_part(text_.substr(at_, 1))});
  }

 private:
  bool next(bool& first, char close) {
    char const c = peek();
    if (c == close) {  // a comma before it was refused below
      ++at_;
      return false;
    }
    if (first) {
      first = false;
      return true;
    }
    if (c != ',') fail_unexpected({"',' or '", close, "'"});
    std::size_t const comma = at_++;
    if (peek() == close) fail("a trailing comma", comma);
    return true;
  }
  std::uint32_t hex4();
  /// End of the number token at `at_`; `integral` tells whether it has neither fraction nor exponent.
  std::size_t number_end(bool& integral);

  std::string_view text_;
  std::string_view file_;
  std::uint64_t start_;
  std::size_t at_ = 0;
};
using json_cursor = basic_json_cursor<>;

/// The whole text as a tree: objects are dicts with text keys, arrays are lists. Duplicate keys are errors.
template <class = void>
MORTISE_COLD archive_value parse_json(std::string_view text, std::string_view file, std::uint64_t start = 0);

/// Appends a number so that reading it back gives the same double; it always looks like a float (has a point or an exponent).
template <class = void>
void append_json(std::string& out, double v) {
  char digits[40];
  auto const end = std::to_chars(digits, digits + sizeof digits, v).ptr;  // shortest that round-trips: at most 17 digits; no locale
  std::string_view const text{digits, static_cast<std::size_t>(end - digits)};
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

/// Appends a string in quotes; escapes quotes, backslashes and controls only.
template <class = void>
MORTISE_COLD void append_json(std::string& out, std::string_view text) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  for (char c : text) {
    auto const u = static_cast<unsigned char>(c);
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (u < 0x20) {
          out += "\\u00";
          out += hex[u >> 4];
          out += hex[u & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// ---- implementation -------------------------------------------------------------------------------------------------------

template <class Unused>
std::uint32_t basic_json_cursor<Unused>::hex4() {
  std::uint32_t code = 0;
  for (int i = 0; i != 4; ++i) {
    char const c = at_ < text_.size() ? text_[at_] : '\0';
    std::uint32_t digit = 0;
    if (c >= '0' && c <= '9') digit = static_cast<std::uint32_t>(c - '0');
    else if (c >= 'a' && c <= 'f') digit = static_cast<std::uint32_t>(c - 'a') + 10;
    else if (c >= 'A' && c <= 'F') digit = static_cast<std::uint32_t>(c - 'A') + 10;
    else fail("a \\u escape needs four hexadecimal digits");
    code = code * 16 + digit;
    ++at_;
  }
  return code;
}

template <class Unused>
void basic_json_cursor<Unused>::string(std::string& out) {
  out.clear();
  std::size_t const open = at_;
  expect('"');
  for (;;) {
    if (at_ >= text_.size()) fail("a string without its closing quote", open);
    auto const c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') break;
    if (c < 0x20) fail("a raw control character in a string");
    if (c != '\\') {
      std::size_t const n = detail::utf8_length(text_, at_);
      if (n == 0) fail("invalid UTF-8");
      out.append(text_, at_, n);
      at_ += n;
      continue;
    }
    std::size_t const escape = at_;
    ++at_;
    char const kind = at_ < text_.size() ? text_[at_] : '\0';
    ++at_;
    switch (kind) {
      case '"': out += '"'; break;
      case '\\': out += '\\'; break;
      case '/': out += '/'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'u': {
        std::uint32_t code = hex4();
        if (code >= 0xdc00 && code < 0xe000) fail("a lone surrogate in a string", escape);
        if (code >= 0xd800 && code < 0xdc00) {
          if (text_.substr(at_, 2) != "\\u") fail("a lone surrogate in a string", escape);
          at_ += 2;
          std::uint32_t const low = hex4();
          if (low < 0xdc00 || low >= 0xe000) fail("a lone surrogate in a string", escape);
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        detail::append_utf8(out, code);
        break;
      }
      default: fail("an unknown escape in a string", escape);
    }
  }
  ++at_;
}

template <class Unused>
MORTISE_COLD std::size_t basic_json_cursor<Unused>::number_end(bool& integral) {
  auto const digit = [this](std::size_t i) { return i < text_.size() && text_[i] >= '0' && text_[i] <= '9'; };
  std::size_t end = at_;
  integral = true;
  if (end < text_.size() && text_[end] == '-') ++end;
  if (!digit(end)) fail_unexpected({"a number"});
  if (text_[end] == '0' && digit(end + 1)) fail("a number with a leading zero");
  while (digit(end)) ++end;
  if (end < text_.size() && text_[end] == '.') {
    integral = false;
    if (!digit(++end)) fail("a number without digits after its point");
    while (digit(end)) ++end;
  }
  if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
    integral = false;
    ++end;
    if (end < text_.size() && (text_[end] == '+' || text_[end] == '-')) ++end;
    if (!digit(end)) fail("a number without digits in its exponent");
    while (digit(end)) ++end;
  }
  return end;
}

template <class Unused>
MORTISE_COLD std::uint64_t basic_json_cursor<Unused>::natural(std::string_view what) {
  char const c = peek();
  if (c == '-') fail({what, " is negative"});
  if (c < '0' || c > '9') fail_unexpected({what, " as a non-negative integer"});
  bool integral = true;
  std::size_t const end = number_end(integral);
  if (!integral) fail({what, " must be an integer, found ", detail::quoted_part(text_.substr(at_, end - at_))});
  std::uint64_t value = 0;
  if (std::from_chars(text_.data() + at_, text_.data() + end, value).ec != std::errc{}) fail({what, " does not fit 64 bits"});
  at_ = end;
  return value;
}

template <class Unused>
MORTISE_COLD archive_value basic_json_cursor<Unused>::number() {
  peek();
  bool integral = true;
  std::size_t const end = number_end(integral);
  char const* const first = text_.data() + at_;
  char const* const last = text_.data() + end;
  if (integral) {
    std::int64_t value = 0;
    if (std::from_chars(first, last, value).ec == std::errc{} && !(value == 0 && *first == '-')) {
      at_ = end;
      return value;
    }
  }
  double value = 0;
  if (std::from_chars(first, last, value).ec != std::errc{}) fail("a number beyond the range of a double");
  at_ = end;
  return value;
}

template <class Unused>
MORTISE_COLD void basic_json_cursor<Unused>::skip() {
  std::vector<bool> closes_object;  // one bit a level
  std::vector<bool> firsts;
  std::string text;
  for (;;) {
    char const c = peek();
    if (c == '{' || c == '[') {
      if (closes_object.size() == max_depth) fail("nested deeper than 128 levels");
      ++at_;
      closes_object.push_back(c == '{');
      firsts.push_back(true);
    } else if (c == '"') {
      string(text);
    } else if (c == 't' ? !literal("true") : c == 'f' ? !literal("false") : c == 'n' ? !literal("null") : true) {
      number();
    }
    for (;;) {
      if (closes_object.empty()) return;
      bool first = firsts.back();
      bool const more = closes_object.back() ? next_key(first, text) : next_item(first);
      firsts.back() = first;
      if (more) break;
      closes_object.pop_back();
      firsts.pop_back();
    }
  }
}

namespace detail {

/// The later of two positions of which neither comes before the other; npos when there are none.
template <class = void>
std::size_t duplicate_position(std::size_t count, position_order before) {
  std::vector<std::uint32_t> const order = sorted_positions(count, before);
  for (std::size_t i = 1; i < order.size(); ++i)
    if (!before(order[i - 1], order[i])) return order[i];
  return static_cast<std::size_t>(-1);
}

/// Finds a key that occurs twice; npos when all are different. Sorts positions, not keys.
template <class Keys>
std::size_t find_duplicate(Keys const& keys) {
  auto const before = [&keys](std::uint32_t a, std::uint32_t b) { return keys[a] < keys[b]; };
  return duplicate_position(keys.size(), before);
}

}  // namespace detail

template <class>
archive_value parse_json(std::string_view text, std::string_view file, std::uint64_t start) {
  json_cursor in{text, file, start};
  struct level {
    archive_value node;
    std::string key;
    bool first;
  };
  std::vector<level> stack;
  std::string key;
  for (;;) {
    archive_value value;
    char const c = in.peek();
    if (c == '{' || c == '[') {
      if (stack.size() == json_cursor::max_depth) in.fail("nested deeper than 128 levels");
      in.expect(c);
      stack.push_back({c == '{' ? archive_value::dict() : archive_value::list(), {}, true});
    } else {
      if (c == '"') {
        std::string s;
        in.string(s);
        value = std::move(s);
      } else if (c == 't' && in.literal("true")) {
        value = true;
      } else if (c == 'f' && in.literal("false")) {
        value = false;
      } else if (!(c == 'n' && in.literal("null"))) {
        value = in.number();
      }
      if (stack.empty()) {
        in.end();
        return value;
      }
      level& top = stack.back();
      if (top.node.is_dict()) top.node.append(std::move(top.key), std::move(value));
      else top.node.push_back(std::move(value));
    }
    // Moves to the next value, closing every container that ends here.
    for (;;) {
      level& top = stack.back();
      if (top.node.is_dict() ? in.next_key(top.first, key) : in.next_item(top.first)) {
        top.key = key;
        break;
      }
      if (top.node.is_dict()) {
        std::size_t const twice = detail::find_duplicate(top.node.keys());
        if (twice != static_cast<std::size_t>(-1)) in.fail({"duplicate key ", detail::quoted_part(top.node.keys()[twice].text())});
      }
      archive_value done = std::move(top.node);
      stack.pop_back();
      if (stack.empty()) {
        in.end();
        return done;
      }
      level& parent = stack.back();
      if (parent.node.is_dict()) parent.node.append(std::move(parent.key), std::move(done));
      else parent.node.push_back(std::move(done));
    }
  }
}

}  // namespace mortise
