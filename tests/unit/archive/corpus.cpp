// Every file of the corpus against its manifest: good files read with the right values, bad ones are refused with a reason.
#include <doctest/doctest.h>

#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <mortise/archive/json.hpp>
#include <mortise/archive/reader.hpp>

#include "sha256.hpp"

namespace mt = mortise;
using value = mt::archive_value;

namespace {

std::string const corpus = MORTISE_CORPUS;

value const& manifest() {
  static value const parsed = [] {
    mt::byte_source const file = mt::byte_source::open(corpus + "/manifest.json");
    auto const bytes = file.read(0, static_cast<std::size_t>(file.size()));
    return mt::parse_json({reinterpret_cast<char const*>(bytes.data()), bytes.size()}, file.name());
  }();
  return parsed;
}

bool is_supported(std::string_view format) {
  for (std::string_view f : {"safetensors"})
    if (f == format) return true;
  return false;
}

std::vector<std::size_t> shape_of(value const& list) {
  std::vector<std::size_t> shape;
  for (value const& extent : list.items()) shape.push_back(static_cast<std::size_t>(extent.as_int()));
  return shape;
}

std::string const& text_of(value const& entry, char const* key) { return entry.at(key).as_string(); }

mt::element_type type_of_safetensors(std::string const& name) {
  for (auto const& t : mt::detail::safetensors_types)
    if (t.name == name) return t.type;
  FAIL("the manifest has an unknown dtype " << name);
  return {};
}

void check_safetensors(value const& entry, mt::archive_reader const& reader) {
  value const& expected = entry.at("tensors");
  CHECK(reader.tensors().size() == expected.size());
  for (std::size_t i = 0; i != expected.size(); ++i) {
    std::string const& name = expected.keys()[i].text();
    CAPTURE(name);
    mt::tensor_info const* info = reader.find(name);
    REQUIRE(info != nullptr);
    CHECK(info->type == type_of_safetensors(text_of(expected[i], "dtype")));
    CHECK(info->shape == shape_of(expected[i].at("shape")));
    auto const bytes = reader.read(name);
    CHECK(bytes.size() == static_cast<std::size_t>(expected[i].at("bytes").as_int()));
    CHECK(sha256(bytes) == text_of(expected[i], "sha256"));
  }
  value metadata = value::dict();
  for (auto const& [key, text] : reader.metadata()) metadata.set(key, text);
  value const& expected_metadata = entry.at("metadata");
  CHECK(metadata == (expected_metadata.is_none() ? value::dict() : expected_metadata));
}

void check_values(value const& entry, mt::archive_reader const& reader) {
  if (text_of(entry, "format") == "safetensors") check_safetensors(entry, reader);
}

}  // namespace

TEST_CASE("every good file of the corpus reads with the values of the manifest") {
  int checked = 0;
  for (value const& entry : manifest().at("good").items()) {
    std::string const& file = text_of(entry, "file");
    std::string const& verdict = text_of(entry, "verdict");
    if (!is_supported(text_of(entry, "format"))) continue;
    CAPTURE(file);
    ++checked;
    if (verdict == "refuse") {
      std::string reason;
      try {
        mt::open_archive(corpus + "/" + file);
      } catch (mt::archive_error const& e) {
        reason = e.what();
      }
      CAPTURE(reason);
      CHECK(reason.find(file) != std::string::npos);
      if (entry.contains("message_should_mention")) CHECK(reason.find(text_of(entry, "message_should_mention")) != std::string::npos);
      continue;
    }
    try {
      check_values(entry, mt::open_archive(corpus + "/" + file));
      check_values(entry, mt::open_archive(mt::byte_source::map(corpus + "/" + file)));
    } catch (mt::archive_error const& e) {
      INFO("refused: ", e.what());
      CHECK(verdict != "accept");
    }
  }
  CHECK(checked > 0);
}

TEST_CASE("every bad file of the corpus is refused, and the message says why and where") {
  int checked = 0;
  for (value const& entry : manifest().at("bad").items()) {
    std::string const& file = text_of(entry, "file");
    if (!is_supported(text_of(entry, "format"))) continue;
    CAPTURE(file);
    ++checked;
    std::string reason;
    try {
      mt::archive_reader const reader = mt::open_archive(corpus + "/" + file);
      for (std::size_t i = 0; i != reader.tensors().size(); ++i)
        if (reader.tensors()[i].bytes() < 1 << 20) reader.read_entry(i);
    } catch (mt::archive_error const& e) {
      reason = e.what();
    }
    CAPTURE(reason);
    if (text_of(entry, "verdict") == "bounded") continue;  // either way, and quickly
    CHECK(reason.size() > file.size() + 10);
    CHECK(reason.size() < corpus.size() + 600);
    CHECK(reason.find(file) != std::string::npos);
    if (entry.contains("message_should_mention")) CHECK(reason.find(text_of(entry, "message_should_mention")) != std::string::npos);
  }
  CHECK(checked > 0);
}
