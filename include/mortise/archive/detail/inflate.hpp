// Decompression of one deflate stream into memory of known size.
// Source: RFC 1951; the canonical-code decoder follows section 3.2.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace mortise::detail {

template <class = void>
class basic_inflater {
 public:
  /// Why it stopped; `done` is the only good end. `full`: the output is filled before the stream ends.
  enum class result { done, full, truncated, malformed };

  basic_inflater(std::span<std::byte const> in, std::span<std::byte> out) : in_{in}, out_{out} {}

  result run() {
    for (;;) {
      std::uint32_t const last = bits(1);
      std::uint32_t const kind = bits(2);
      if (failed_) return reason_;
      if (kind == 0) stored();
      else if (kind == 1) fixed();
      else if (kind == 2) dynamic();
      else fail(result::malformed);
      if (failed_) return reason_;
      if (last) return result::done;
    }
  }
  std::size_t written() const { return at_; }
  /// Bytes of the input that were used.
  std::size_t consumed() const { return in_at_ - held_ / 8; }

 private:
  struct code {
    std::array<std::uint16_t, 16> count{};
    std::array<std::uint16_t, 320> symbol{};
  };

  std::span<std::byte const> in_;
  std::span<std::byte> out_;
  std::size_t in_at_ = 0;
  std::size_t at_ = 0;
  std::uint32_t hold_ = 0;
  unsigned held_ = 0;
  bool failed_ = false;
  result reason_ = result::done;

  void fail(result r) {
    if (!failed_) reason_ = r;
    failed_ = true;
  }
  std::uint32_t bits(unsigned n) {
    while (held_ < n) {
      if (in_at_ == in_.size()) {
        fail(result::truncated);
        return 0;
      }
      hold_ |= static_cast<std::uint32_t>(in_[in_at_++]) << held_;
      held_ += 8;
    }
    std::uint32_t const v = hold_ & ((1u << n) - 1u);
    hold_ >>= n;
    held_ -= n;
    return v;
  }
  void put(std::byte b) {
    if (at_ == out_.size()) fail(result::full);
    else out_[at_++] = b;
  }

  /// False when the lengths over-subscribe the code, or leave it incomplete (but for a single symbol).
  static bool build(code& c, std::uint8_t const* lengths, std::size_t n) {
    c.count.fill(0);
    for (std::size_t i = 0; i != n; ++i) ++c.count[lengths[i]];
    int left = 1;
    for (std::size_t len = 1; len != 16; ++len) {
      left = left * 2 - c.count[len];
      if (left < 0) return false;
    }
    std::array<std::uint16_t, 16> offset{};
    for (std::size_t len = 1; len != 15; ++len) offset[len + 1] = static_cast<std::uint16_t>(offset[len] + c.count[len]);
    for (std::size_t i = 0; i != n; ++i)
      if (lengths[i] != 0) c.symbol[offset[lengths[i]]++] = static_cast<std::uint16_t>(i);
    return left == 0 || n - c.count[0] <= 1;
  }

  std::uint32_t decode(code const& c) {
    int value = 0;
    int first = 0;
    int index = 0;
    for (std::size_t len = 1; len != 16; ++len) {
      value |= static_cast<int>(bits(1));
      if (failed_) return 0;
      int const count = c.count[len];
      if (value - count < first) return c.symbol[static_cast<std::size_t>(index + value - first)];
      index += count;
      first = (first + count) * 2;
      value *= 2;
    }
    fail(result::malformed);
    return 0;
  }

  void stored() {
    hold_ = 0;
    held_ = 0;
    if (in_.size() - in_at_ < 4) return fail(result::truncated);
    auto const byte = [this](std::size_t i) { return static_cast<std::uint32_t>(in_[in_at_ + i]); };
    std::size_t n = byte(0) | byte(1) << 8;
    if (n != (~(byte(2) | byte(3) << 8) & 0xffff)) return fail(result::malformed);
    in_at_ += 4;
    if (in_.size() - in_at_ < n) return fail(result::truncated);
    std::size_t const fits = n < out_.size() - at_ ? n : out_.size() - at_;
    if (fits != 0) std::memcpy(out_.data() + at_, in_.data() + in_at_, fits);
    at_ += fits;
    in_at_ += fits;
    if (fits != n) fail(result::full);
  }

  void fixed() {
    std::uint8_t lengths[320];
    for (std::size_t i = 0; i != 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    for (std::size_t i = 288; i != 318; ++i) lengths[i] = 5;
    code literals;
    code distances;
    build(literals, lengths, 288);
    build(distances, lengths + 288, 30);
    block(literals, distances);
  }

  void dynamic() {
    static constexpr std::uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    std::size_t const literal_count = bits(5) + 257;
    std::size_t const distance_count = bits(5) + 1;
    std::size_t const length_count = bits(4) + 4;
    if (failed_) return;
    if (literal_count > 286 || distance_count > 30) return fail(result::malformed);
    std::uint8_t lengths[320] = {};
    for (std::size_t i = 0; i != length_count; ++i) lengths[order[i]] = static_cast<std::uint8_t>(bits(3));
    code c;
    if (failed_) return;
    if (!build(c, lengths, 19)) return fail(result::malformed);
    std::uint8_t all[320] = {};
    for (std::size_t i = 0; i < literal_count + distance_count;) {
      std::uint32_t const symbol = decode(c);
      if (failed_) return;
      if (symbol < 16) {
        all[i++] = static_cast<std::uint8_t>(symbol);
        continue;
      }
      std::uint8_t const repeated = symbol == 16 ? (i == 0 ? std::uint8_t{255} : all[i - 1]) : std::uint8_t{0};
      std::size_t const times = symbol == 16 ? 3 + bits(2) : symbol == 17 ? 3 + bits(3) : 11 + bits(7);
      if (failed_) return;
      if (repeated == 255 || i + times > literal_count + distance_count) return fail(result::malformed);
      for (std::size_t k = 0; k != times; ++k) all[i++] = repeated;
    }
    if (all[256] == 0) return fail(result::malformed);  // no end-of-block code
    code literals;
    code distances;
    if (!build(literals, all, literal_count) || !build(distances, all + literal_count, distance_count)) return fail(result::malformed);
    block(literals, distances);
  }

  void block(code const& literals, code const& distances) {
    static constexpr std::uint16_t length_base[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr std::uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr std::uint16_t distance_base[30] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static constexpr std::uint8_t distance_extra[30] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
    while (!failed_) {
      std::uint32_t const symbol = decode(literals);
      if (failed_) return;
      if (symbol < 256) {
        put(static_cast<std::byte>(symbol));
        continue;
      }
      if (symbol == 256) return;
      if (symbol > 285) return fail(result::malformed);
      std::size_t const length = length_base[symbol - 257] + bits(length_extra[symbol - 257]);
      std::uint32_t const d = decode(distances);
      if (failed_) return;
      if (d > 29) return fail(result::malformed);
      std::size_t const distance = distance_base[d] + bits(distance_extra[d]);
      if (failed_) return;
      if (distance > at_) return fail(result::malformed);
      for (std::size_t i = 0; i != length && !failed_; ++i) put(out_[at_ - distance]);
    }
  }
};
using inflater = basic_inflater<>;

}  // namespace mortise::detail
