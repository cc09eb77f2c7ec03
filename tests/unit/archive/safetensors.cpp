#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;
using value = mt::archive_value;

namespace {

std::string file_of(std::string header, std::string const& data) {
  std::uint64_t const n = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &n, 8);
  return out + header + data;
}

std::string refusal(std::string const& file) {
  try {
    mt::open_archive(std::as_bytes(std::span{file}));
    return "";
  } catch (mt::archive_error const& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("what is written is the reference writer's file, byte for byte") {
  CHECK(slurp(MORTISE_CORPUS "/safetensors/empty.safetensors") == [] {
    mt::memory_sink out;
    mt::safetensors::write(mt::flat_archive{}, out);
    auto const bytes = out.take();
    return std::string{reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  }());
  for (char const* name : {"tiny", "all_dtypes", "scalar_empty_odd", "lenetish", "empty_meta", "shard-00001-of-00002"}) {
    CAPTURE(name);
    std::string const path = std::string{MORTISE_CORPUS "/safetensors/"} + name + ".safetensors";
    mt::archive_reader const reader = mt::open_archive(path);
    mt::flat_archive flat;
    value const tree = reader.read_tree();
    for (std::size_t i = 0; i != tree.size(); ++i) flat.tensors.push_back({tree.keys()[i].text(), tree[i].as_tensor()});
    flat.metadata = reader.metadata();
    std::ostringstream out;
    mt::stream_sink sink{out};
    mt::safetensors::write(flat, sink);
    CHECK(out.str() == slurp(path));
  }
}

TEST_CASE("rules beyond the reference reader's: hidden duplicates, fields told twice, wrong kinds") {
  std::string const w = R"("w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(refusal(file_of("{" + w + "}", "")) == "");
  CHECK(refusal(file_of("{" + w + "," + w + "}", "")).find("duplicate") != std::string::npos);
  CHECK(refusal(file_of("{" + w + R"(,"\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "")).find("duplicate") != std::string::npos);
  for (char const* entry : {R"("w":null)", R"("w":["U8",[0],[0,0]])", R"("w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]})", R"("w":{"dtype":8,"shape":[0],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"U8","shape":0,"data_offsets":[0,0]})", R"("w":{"dtype":"U8","shape":["0"],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"U8","shape":[0],"data_offsets":[0]})", R"("w":{"dtype":"U8","shape":[0],"data_offsets":{}})",
                            R"("w":{"dtype":"U8","shape":[0]})", R"("w":{"dtype":"U8","data_offsets":[0,0]})", R"("w":{})",
                            R"("w":{"dtype":"U8","shape":[1e2],"data_offsets":[0,0]})", R"("w":{"dtype":"U8","shape":[02],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"U8","shape":[18446744073709551615,2,0],"data_offsets":[0,0]})",
                            R"("w":{"dtype":"F4","shape":[1],"data_offsets":[0,1]})", R"("__metadata__":null)", R"("__metadata__":{"a":"1","a":"2"})",
                            R"("__metadata__":[])", R"("__metadata__":{"a":null})", R"("w":{"x":1,"x":2,"dtype":"U8","shape":[0],"data_offsets":[0,0]})"}) {
    CAPTURE(entry);
    CHECK(refusal(file_of("{" + std::string{entry} + "}", "")) != "");
  }
  // A zero-size tensor must sit on a boundary.
  std::string const two = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})";
  CHECK(refusal(file_of(two, "0123")).find("overlaps") != std::string::npos);
}

TEST_CASE("a hundred thousand tensors and a rank of ten thousand read in their own time and memory") {
  std::string header = "{";
  for (int i = 0; i != 100'000; ++i)
    header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  std::string const many = file_of(header + "}", std::string(100'000, 'x'));
  CHECK(mt::open_archive(std::as_bytes(std::span{many})).tensors().size() == 100'000);
  std::string ones = "1";
  for (int i = 1; i != 10'000; ++i) ones += ",1";
  std::string const rank = file_of(R"({"w":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]}})", "x");
  CHECK(mt::open_archive(std::as_bytes(std::span{rank})).tensors()[0].shape.size() == 10'000);
}

TEST_CASE("a file cut anywhere is refused; a changed byte never does harm") {
  std::string const whole = slurp(MORTISE_CORPUS "/safetensors/tiny_meta.safetensors");
  for (std::size_t n = 0; n != whole.size(); ++n) CHECK(refusal(whole.substr(0, n)) != "");
}

TEST_CASE("kinds of files that are known and not read are refused by name") {
  CHECK(refusal("\x1f\x8b gzip data").find("gzip") != std::string::npos);
  CHECK(refusal("GGUF data").find("GGUF") != std::string::npos);
  CHECK(refusal("").find("empty") != std::string::npos);
}

TEST_CASE("what is saved to a file is mapped without a copy") {
  temporary_folder folder;
  std::string const path = folder.file("w.safetensors");
  mt::save_archive(path, value::dict({{"w", mt::owned_tensor<float>({2}, {1.5f, -2.0f})}}));
  mt::archive_reader const reader = mt::open_archive(mt::byte_source::map(path));
  auto const bytes = reader.mapped("w");
  REQUIRE(bytes.size() == 8);
  float first = 0;
  std::memcpy(&first, bytes.data(), 4);
  CHECK(first == 1.5f);
  CHECK(mt::open_archive(path).mapped("w").empty());
}
