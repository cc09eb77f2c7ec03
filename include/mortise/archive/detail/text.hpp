// Messages, and text that came out of a file and goes into one: bounded and printable. UTF-8 checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include <mortise/config.hpp>

namespace mortise::detail {

/// In quotes, control characters and bytes outside ASCII as \xNN, cut after `limit` bytes.
template <class = void>
MORTISE_COLD std::string in_quotes(std::string_view text, std::size_t limit = 80) {
  constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (char c : text.substr(0, limit)) {
    auto const u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7f) {
      out += "\\x";
      out += hex[u >> 4];
      out += hex[u & 15];
    } else {
      out += c;
    }
  }
  return out + (text.size() > limit ? "...\"" : "\"");
}

/// A part of a message: text, a number, or a file's text that is to be quoted. Borrows; lives as long as the call that it is made for.
///
/// What throws takes a list of these. A place that may fail then costs a few stores; a chain of `+` would be compiled into each of hundreds.
class message_part {
 public:
  message_part(char const* text) : message_part{std::string_view{text}} {}
  message_part(std::string_view text) : text_{text.data()}, value_{text.size()} {}
  message_part(std::string const& text) : text_{text.data()}, value_{text.size()} {}
  message_part(char const& letter) : text_{&letter}, value_{1} {}
  template <class I>
    requires(std::is_integral_v<I> && !std::is_same_v<I, bool>)
  message_part(I number) : value_{static_cast<std::uint64_t>(number)}, kind_{kind::number} {
    if constexpr (std::is_signed_v<I>)
      if (number < 0) kind_ = kind::negative;
  }
  /// At most `limit` characters, in quotes.
  static message_part in_quotes(std::string_view text, std::size_t limit) {
    message_part part{text};
    part.kind_ = kind::quoted;
    part.limit_ = static_cast<std::uint32_t>(limit);
    return part;
  }

  template <class = void>
  void append_to(std::string& message) const {
    switch (kind_) {
      case kind::text: message.append(text_, static_cast<std::size_t>(value_)); break;
      case kind::quoted: message += detail::in_quotes({text_, static_cast<std::size_t>(value_)}, limit_); break;
      case kind::number: message += std::to_string(value_); break;
      case kind::negative: message += std::to_string(static_cast<std::int64_t>(value_)); break;
    }
  }

 private:
  enum class kind : std::uint8_t { text, quoted, number, negative };
  char const* text_ = nullptr;
  std::uint64_t value_ = 0;  // the number, or the text's length
  std::uint32_t limit_ = 0;
  kind kind_ = kind::text;
};
using message_parts = std::initializer_list<message_part>;

inline message_part quoted_part(std::string_view text, std::size_t limit = 80) { return message_part::in_quotes(text, limit); }

template <class = void>
MORTISE_COLD std::string message(message_parts parts) {
  std::string text;
  for (message_part const& part : parts) part.append_to(text);
  return text;
}

/// Length of the UTF-8 sequence at text[i], or 0: stray or overlong bytes, surrogates, beyond U+10FFFF (Unicode 15, table 3-7).
template <class = void>
std::size_t utf8_length(std::string_view text, std::size_t i) {
  auto const at = [text](std::size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  auto const tail = [at](std::size_t k) { return (at(k) & 0xc0u) == 0x80u; };
  unsigned const a = at(i);
  unsigned const b = at(i + 1);
  if (a < 0x80) return 1;
  if (a < 0xc2) return 0;
  if (a < 0xe0) return tail(i + 1) ? 2 : 0;
  if (a < 0xf0) {
    if (!tail(i + 1) || !tail(i + 2) || (a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f)) return 0;
    return 3;
  }
  if (a < 0xf5) {
    if (!tail(i + 1) || !tail(i + 2) || !tail(i + 3) || (a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f)) return 0;
    return 4;
  }
  return 0;
}

/// Position of the first byte that is no UTF-8, or npos.
template <class = void>
std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    std::size_t const n = utf8_length(text, i);
    if (n == 0) return i;
    i += n;
  }
  return std::string_view::npos;
}

template <class = void>
void append_utf8(std::string& out, std::uint32_t code) {
  auto const put = [&out](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | (code >> 6));
    put(0x80 | (code & 63));
  } else if (code < 0x10000) {
    put(0xe0 | (code >> 12));
    put(0x80 | ((code >> 6) & 63));
    put(0x80 | (code & 63));
  } else {
    put(0xf0 | (code >> 18));
    put(0x80 | ((code >> 12) & 63));
    put(0x80 | ((code >> 6) & 63));
    put(0x80 | (code & 63));
  }
}

/// std::min without <algorithm>, which every program would have to parse.
constexpr std::uint64_t lesser(std::uint64_t a, std::uint64_t b) { return a < b ? a : b; }

/// a * b, or false when it does not fit.
template <class = void>
bool checked_multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

template <class = void>
bool checked_add(std::uint64_t a, std::uint64_t b, std::uint64_t& sum) { return !__builtin_add_overflow(a, b, &sum); }

}  // namespace mortise::detail
