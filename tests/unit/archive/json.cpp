#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <mortise/archive/json.hpp>

namespace mt = mortise;
using value = mt::archive_value;

static value parse(std::string const& text) { return mt::parse_json(text, "test"); }

TEST_CASE("JSON text becomes the tree that it describes") {
  CHECK(parse(R"( {"a":[1,-2,3.5,true,false,null,"x\u00e9\ud83d\ude00\n"],"b":{}} )") ==
        value::dict({{"a", value::list({1, -2, 3.5, true, false, nullptr, "x\xc3\xa9\xf0\x9f\x98\x80\n"})}, {"b", value::dict()}}));
  CHECK(parse("9223372036854775807") == value{std::numeric_limits<std::int64_t>::max()});
  CHECK(parse("9223372036854775808").as_double() == 9223372036854775808.0);
  CHECK(parse("-0") == value{-0.0});
  CHECK(parse("[]") == value::list());
}

TEST_CASE("whatever RFC 8259 does not allow is refused with its position") {
  char const* bad[] = {"", " ", "{", "[1,]", "{\"a\":1,}", "[1 2]", "{\"a\" 1}", "{a:1}", "'a'", "01", "+1", "1.", ".5", "1e", "-", "NaN", "Infinity", "nul",
                       "tru", "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\n\"", "\"\xff\"", "\"\xc0\x80\"",
                       "\"\xed\xa0\x80\"", "\xef\xbb\xbf{}", "{} {}", "// c\n1", "[1]x", "1e999", "{\"a\":1,\"a\":2}", "{\"p\":1,\"\\u0070\":2}", "[,1]", "]"};
  for (std::string const text : bad) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse(text), mt::archive_error);
  }
  try {
    mt::parse_json("[1, 2, x]", "f.json", 100);
    FAIL("accepted");
  } catch (mt::archive_error const& e) {
    CHECK(e.offset == 107);
    CHECK(e.file == "f.json");
  }
}

TEST_CASE("nesting is bounded, also where values are skipped") {
  for (char open : {'[', '{'}) {
    std::string deep;
    for (int i = 0; i != 100'000; ++i) deep += open == '[' ? "[" : "{\"a\":";
    CHECK_THROWS_AS(parse(deep), mt::archive_error);
    mt::json_cursor cursor{deep, "test"};
    CHECK_THROWS_AS(cursor.skip(), mt::archive_error);
  }
  std::string const fine = std::string(128, '[') + std::string(128, ']');
  CHECK_NOTHROW(parse(fine));
  mt::json_cursor cursor{fine, "test"};
  cursor.skip();
  CHECK_NOTHROW(cursor.end());
}

TEST_CASE("a written double reads back as the same double, and as a float") {
  for (double d : {0.0, -0.0, 1.0, 0.1, 1e-3, 1e300, 5e-324, 1.7976931348623157e308, 1.0 / 3, 123456789.0, 1e21}) {
    std::string text;
    mt::append_json(text, d);
    CAPTURE(text);
    CHECK(parse(text) == value{d});
  }
}

TEST_CASE("a written string reads back as the same string") {
  std::string all;
  for (char c = 1; c < 127; ++c) all += c;
  all += std::string{"\0", 1} + "\xc3\xa9\xf0\x9f\x98\x80";
  std::string text;
  mt::append_json(text, std::string_view{all});
  CHECK(parse(text).as_string() == all);
}
