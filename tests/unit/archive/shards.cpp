// Several files that are one archive, and checksums beside tensors.
#include <doctest/doctest.h>

#include <cerrno>
#include <string>
#include <vector>

#include <sys/types.h>
#include <unistd.h>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>
#include <mortise/archive/shards.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;
using value = mt::archive_value;

namespace {

std::string const corpus = MORTISE_CORPUS;

value small_run(float first) {
  auto const tensor = [first](std::size_t n) {
    std::vector<float> v(n);
    for (std::size_t i = 0; i != n; ++i) v[i] = first + static_cast<float>(i);
    return mt::owned_tensor<float>({n}, std::move(v));
  };
  value weights = value::dict({{"a", tensor(10)}, {"b", tensor(3)}, {"c", tensor(100)}, {"d", tensor(1)}});
  weights.set("tied", weights.at("c"));
  return value::dict({{"model_state_dict", weights}, {"epoch", 4}, {"metadata", value::dict({{"note", "x"}})}, {"format_version", 1}});
}

std::string reason(std::string const& path) {
  try {
    mt::archive_reader const in = mt::open_archive(path);
    for (std::size_t i = 0; i != in.tensors().size(); ++i) (void)in.read_entry(i);
  } catch (mt::archive_error const& e) {
    return e.what();
  } catch (mt::io_error const& e) {
    return e.what();
  }
  return "";
}

struct failing_rename : mt::posix_calls {
  static inline int until_failure = 0;
  static int rename(char const* from, char const* to) {
    if (until_failure-- == 0) return errno = EIO, -1;
    return ::rename(from, to);
  }
};

}  // namespace

TEST_CASE("the corpus's shards read as one archive, from a file and from a map") {
  std::string const path = corpus + "/safetensors/shard.safetensors.index.json";
  for (mt::archive_reader const& in : {mt::open_archive(path), mt::map_file(path), mt::open_archive(corpus + "/safetensors/shard.safetensors")}) {
    CHECK(in.format() == "safetensors");
    CHECK(in.tensors().size() == 2);
    CHECK(in.read("weight").size() + in.read("bias").size() == 36);
    CHECK(in.tree().at("weight").is_tensor());
  }
}

TEST_CASE("a run in shards is the same tree, whatever the size of a shard") {
  value const run = small_run(1);
  for (std::uint64_t const size : {1u, 50u, 450u, 100'000u})
    for (bool const checksums : {false, true}) {
      temporary_folder folder;
      std::string const path = folder.file("run.safetensors");
      mt::detail::write_shards(path, run, {.max_bytes = size}, checksums, true, {});
      mt::archive_reader const in = mt::open_archive(path);
      CHECK(in.name() == path + ".index.json");
      CHECK(in.read_tree() == run);
      in.verify();
      CHECK(folder.files().size() == (size <= 50 ? 5u : size == 450 ? 3u : 2u));
      std::string const index = slurp(path + ".index.json");
      CHECK(index.find("\"total_size\": 456") != std::string::npos);
      CHECK(index.find("\"model.a\": \"run-00001-of-0000") != std::string::npos);
      // Equal states are equal files.
      std::string const shard = folder.file("run-00001-of-0000" + std::to_string(folder.files().size() - 1) + ".safetensors");
      std::string const before = slurp(shard);
      mt::detail::write_shards(path + ".index.json", run, {.max_bytes = size}, checksums, false, {});
      CHECK(slurp(path + ".index.json") == index);
      CHECK(slurp(shard) == before);
    }
}

TEST_CASE("files of two saves do not pass for one") {
  temporary_folder folder;
  std::string const path = folder.file("run.safetensors");
  mt::detail::write_shards(path, small_run(1), {.max_bytes = 50}, false, false, {});
  std::string const old = slurp(folder.file("run-00001-of-00004.safetensors"));
  mt::detail::write_shards(path, small_run(2), {.max_bytes = 50}, false, false, {});
  CHECK(reason(path) == "");
  spit(folder.file("run-00001-of-00004.safetensors"), old);
  CHECK(reason(path).find("another save") != std::string::npos);
}

TEST_CASE("a save in shards that fails before the last rename says so, and what stands is never taken for a whole") {
  temporary_folder folder;
  std::string const path = folder.file("run.safetensors");
  mt::detail::write_shards(path, small_run(1), {.max_bytes = 50}, false, false, {});
  std::size_t const files = folder.files().size();
  failing_rename::until_failure = 0;
  CHECK_THROWS_AS(mt::detail::write_shards<failing_rename>(path, small_run(2), {.max_bytes = 50}, false, false, {}), mt::io_error);
  CHECK(folder.files().size() == files);
  CHECK(mt::open_archive(path).read_tree() == small_run(1));
  failing_rename::until_failure = 2;
  CHECK_THROWS_AS(mt::detail::write_shards<failing_rename>(path, small_run(2), {.max_bytes = 50}, false, false, {}), mt::io_error);
  CHECK(folder.files().size() == files);
  CHECK(reason(path).find("another save") != std::string::npos);
}

TEST_CASE("an index that does not fit its shards is refused, with the tensor and the file") {
  temporary_folder folder;
  std::string const index = folder.file("m.safetensors.index.json");
  mt::save_archive(folder.file("one.safetensors"), value::dict({{"a", mt::owned_tensor<float>({1}, {1})}}));
  mt::save_archive(folder.file("two.safetensors"), value::dict({{"b", mt::owned_tensor<float>({1}, {1})}}));
  auto const with = [&](std::string const& map) {
    spit(index, "{\"metadata\":{\"total_size\":8},\"weight_map\":" + map + "}");
    return reason(index);
  };
  auto const has = [](std::string const& text, char const* words) { return text.find(words) != std::string::npos; };
  CHECK(with(R"({"a":"one.safetensors","b":"two.safetensors"})") == "");
  CHECK(with(R"({"a":"one.safetensors"})") == "");  // a file that the index does not name is nobody's business
  CHECK(has(with(R"({"a":"one.safetensors","b":"one.safetensors"})"), "\"b\" is missing in \"one.safetensors\""));
  CHECK(has(with(R"({"a":"two.safetensors","b":"two.safetensors"})"), "missing"));
  CHECK(has(with(R"({"a":"one.safetensors","b":"three.safetensors"})"), "three.safetensors"));
  CHECK(has(with(R"({"a":"one.safetensors","a":"one.safetensors"})"), "twice"));
  for (char const* name : {"../one.safetensors", "/etc/passwd", "a\\\\b", "c:x", "", "..", "x\\u0000y"})
    CHECK(has(with("{\"a\":\"" + std::string{name} + "\"}"), "no plain file name"));
  CHECK(has(with(R"({"a":"m.safetensors.index.json"})"), "JSON text where a shard"));
  CHECK(has(with(R"({"a":3})"), "no string"));
  CHECK(has(with("[]"), "no object"));
  CHECK(has(with("{}"), "names no tensor"));
  spit(index, "{\"metadata\":{\"total_size\":8}}");
  CHECK(has(reason(index), "no \"weight_map\""));
}

TEST_CASE("checksums are verified when a tensor is read, and are only text to other readers") {
  temporary_folder folder;
  std::string const path = folder.file("run.safetensors");
  value const weights = value::dict({{"a", mt::owned_tensor<float>({4}, {1, 2, 3, 4})}, {"b", mt::owned_tensor<std::int64_t>({}, {5})}});
  {
    mt::atomic_file_writer out{path, false};
    mt::safetensors::write(weights, out, {}, true);
    out.commit();
  }
  CHECK(mt::open_archive(path).read_tree() == weights);
  CHECK(mt::open_archive(path).metadata().size() == 3);
  std::string damaged = slurp(path);
  damaged[damaged.size() - 2] ^= 1;
  spit(path, damaged);
  mt::archive_reader const in = mt::open_archive(path);
  CHECK(in.read("b").size() == 8);
  CHECK_THROWS_WITH_AS(in.read("a"), doctest::Contains("checksum"), mt::archive_error);
  CHECK_THROWS_AS(in.verify(), mt::archive_error);
  CHECK_THROWS_AS(mt::map_file(path).mapped("a"), mt::archive_error);
}
