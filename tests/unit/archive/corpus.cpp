// Every file of the corpus against its manifest: good files read with the right values, bad ones are refused with a reason.
#include <doctest/doctest.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/json.hpp>
#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

#include "sha256.hpp"
#include "temporary_folder.hpp"

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
  for (std::string_view f : {"safetensors", "safetensors-index", "torch-zip", "torch-legacy", "torchscript", "npy", "npz"})
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

mt::element_type type_of_torch(std::string const& name) {
  for (std::size_t t = 0; t != mt::element_type_count; ++t)
    if (name_of(static_cast<mt::element_type>(t)) == name) return static_cast<mt::element_type>(t);
  FAIL("the manifest has an unknown dtype " << name);
  return {};
}

std::vector<std::size_t> packed_strides(std::vector<std::size_t> const& shape) {
  std::vector<std::size_t> strides(shape.size());
  std::size_t step = 1;
  for (std::size_t d = shape.size(); d-- != 0; step *= shape[d] == 0 ? 1 : shape[d]) strides[d] = step;
  return strides;
}

void check_tensor(value const& expected, mt::archive_reader const& reader, std::size_t entry) {
  mt::tensor_info const& info = reader.tensors().at(entry);
  CAPTURE(info.name);
  CHECK(info.type == type_of_torch(text_of(expected, "dtype")));
  CHECK(info.shape == shape_of(expected.at("shape")));
  CHECK((info.strides.empty() ? packed_strides(info.shape) : info.strides) == shape_of(expected.at("stride")));
  if (auto const* offset = expected.find("storage_offset")) CHECK(info.storage_offset == static_cast<std::size_t>(offset->as_int()));
  CHECK(sha256(reader.read_entry(entry)) == text_of(expected, "sha256"));
}

double parse_hex(std::string text) {
  bool const negative = text[0] == '-';
  if (negative) text = text.substr(1);
  double v = text == "inf" ? HUGE_VAL : text == "nan" ? static_cast<double>(NAN) : 0;
  if (text.rfind("0x", 0) == 0) std::from_chars(text.data() + 2, text.data() + text.size(), v, std::chars_format::hex);
  return negative ? -v : v;
}

/// The manifest's tagged tree against ours.
void check_object(value const& expected, value const& got, mt::archive_reader const& reader) {
  auto const check_items = [&](value const& items) {
    REQUIRE(got.size() == items.size());
    for (std::size_t i = 0; i != items.size(); ++i) check_object(items[i], got[i], reader);
  };
  if (expected.is_list()) {
    CHECK(got.is_list());
    check_items(expected);
  } else if (!expected.is_dict()) {
    CHECK(got == expected);
  } else {
    std::string const tag = expected.keys().at(0).text();
    value const& content = expected[0];
    if (tag == "$tensor") {
      REQUIRE(got.is_tensor());
      check_tensor(content, reader, got.as_tensor().entry);
    } else if (tag == "$dict" || tag == "$odict" || tag == "$counter") {
      REQUIRE(got.is_dict());
      REQUIRE(got.size() == content.size());
      for (std::size_t i = 0; i != content.size(); ++i) {
        value const& key = content[i][0];
        if (key.is_int()) CHECK(got.keys()[i] == mt::archive_key{key.as_int()});
        else if (key.is_string()) CHECK(got.keys()[i] == mt::archive_key{key.as_string()});
        else CHECK_FALSE(got.keys()[i].is_integer());  // a tuple, a boolean, None or a float as Python prints it
        check_object(content[i][1], got[i], reader);
      }
    } else if (tag == "$tuple" || tag == "$size") {
      CHECK(got.is_tuple());
      check_items(content);
    } else if (tag == "$set") {
      CHECK(got.is_list());
      check_items(content);
    } else if (tag == "$float") {
      CHECK(got == value{parse_hex(text_of(expected, "hex"))});
    } else if (tag == "$int") {
      CHECK((got.is_int() ? std::to_string(got.as_int()) : got.as_string()) == content.as_string());
    } else if (tag == "$bytes") {
      REQUIRE(got.is_bytes());
      CHECK(mt::detail::hex_text(got.as_string()) == content.as_string());
    } else if (tag == "$complex") {
      REQUIRE(got.size() == 2);
      CHECK(got[0].as_double() == std::atof(content[0].as_string().c_str()));
      CHECK(got[1].as_double() == std::atof(content[1].as_string().c_str()));
    } else if (tag == "$dtype") {
      CHECK(got == value{"torch." + content.as_string()});
    } else if (tag == "$device") {
      CHECK(got == content);
    } else {
      FAIL("an unknown tag in the manifest: " << tag);
    }
  }
}

void check_arrays(value const& entry, mt::archive_reader const& reader) {
  value const& expected = entry.at("arrays");
  CHECK(reader.tensors().size() == expected.size());
  for (std::size_t i = 0; i != expected.size(); ++i) {
    std::string const& name = expected.keys()[i].text();
    CAPTURE(name);
    mt::tensor_info const* info = reader.find(name);
    REQUIRE(info != nullptr);
    std::string const descr = text_of(expected[i], "dtype").substr(1);
    bool known = false;
    for (auto const& t : mt::detail::npy_types)
      if (t.descr == descr) {
        CHECK(info->type == t.type);
        known = true;
      }
    CHECK(known);
    CHECK(info->shape == shape_of(expected[i].at("shape")));
    CHECK(sha256(reader.read(name)) == text_of(expected[i], "sha256_c_order_le"));
  }
}

/// Plain values, as the manifest tells hand-made files.
void check_listed_values(value const& entry, mt::archive_reader const& reader) {
  for (std::size_t i = 0; i != entry.at("tensors").size(); ++i) {
    std::string const& name = entry.at("tensors").keys()[i].text();
    value const& expected = entry.at("tensors")[i];
    auto const bytes = reader.read(name);
    CAPTURE(name);
    if (expected.is_dict()) {
      mt::tensor_info const* info = reader.find(name);
      CHECK(info->type == type_of_torch(text_of(expected, "dtype")));
      CHECK(info->shape == shape_of(expected.at("shape")));
      if (expected.contains("raw_hex")) CHECK(mt::detail::hex_text({reinterpret_cast<char const*>(bytes.data()), bytes.size()}) == text_of(expected, "raw_hex"));
      continue;
    }
    REQUIRE(bytes.size() == 4 * expected.size());
    for (std::size_t k = 0; k != expected.size(); ++k) {
      float v = 0;
      std::memcpy(&v, bytes.data() + 4 * k, 4);
      CHECK(static_cast<double>(v) == expected[k].as_double());
    }
  }
}

void check_values(value const& entry, mt::archive_reader const& reader) {
  std::string const& format = text_of(entry, "format");
  if (format == "safetensors-index")
    for (mt::archive_key const& name : entry.at("index").at("weight_map").keys()) CHECK(reader.read(name.text()).size() != 0);
  else if (format == "safetensors") check_safetensors(entry, reader);
  else if (entry.contains("arrays")) check_arrays(entry, reader);
  else if (entry.contains("object")) check_object(entry.at("object"), reader.tree(), reader);
  else if (entry.contains("tensors")) check_listed_values(entry, reader);
  else CHECK(text_of(entry, "verdict") == "either");
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
      check_values(entry, mt::map_file(corpus + "/" + file));
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

TEST_CASE("a pickled module is refused with its class and the advice to save its state_dict") {
  std::pair<char const*, char const*> const modules[] = {{"/zip/whole_module.pt", "\"torch.nn.modules.container.Sequential\""},
                                                        {"/legacy/whole_module.pth", "\"torch.nn.modules.container.Sequential\""},
                                                        {"/zip/custom_module.pt", "\"__main__.LeNetish\""},
                                                        {"/zip/module_inside_checkpoint.pt", "\"torch.nn.modules.linear.Linear\""},
                                                        {"/zip/torchscript.pt", "TorchScript module"}};
  for (auto const& module : modules) {
    char const *const file = module.first, *const name = module.second;  // clang 14 captures no structured bindings
    CAPTURE(file);
    std::string reason;
    try {
      mt::open_archive(corpus + file);
    } catch (mt::archive_error const& e) {
      reason = e.what();
    }
    CAPTURE(reason);
    CHECK(reason.find(name) != std::string::npos);
    CHECK(reason.find("save its state_dict()") != std::string::npos);
  }
}

TEST_CASE("a file of very many small values reads, whatever they take more in memory than on the disk") {
  value losses = value::list(), words = value::dict(), scalars = value::dict();
  for (int i = 0; i != 100'000; ++i) losses.push_back(1.0 / (i + 1));
  for (int i = 0; i != 30'000; ++i) words.set("word " + std::to_string(i), i);
  for (int i = 0; i != 10'000; ++i) scalars.set("p" + std::to_string(i), mt::scalar_tensor(static_cast<float>(i)));
  value const tree = value::dict({{"losses", losses}, {"words", words}, {"scalars", scalars}});
  temporary_folder folder;
  for (char const* name : {"many.pt", "many.safetensors"}) {
    CAPTURE(name);
    mt::save_archive(folder.file(name), tree);
    mt::archive_reader const in = mt::open_archive(folder.file(name));
    CHECK(in.tensors().size() == 10'000);
    CHECK(in.values().size() >= 130'000);
    CHECK(in.value("losses.99999") == 1e-5);
  }
}
