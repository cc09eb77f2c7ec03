// Damaged files: every file of the corpus cut at every byte, and with every byte changed that is no tensor's data. Whatever comes of it is an
// archive_error or a file that reads; memory stays within four times the file's size, what its values may take, and a constant.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <string>
#include <vector>

#include <dirent.h>

#include <mortise/archive/reader.hpp>

#include "counted_memory.hpp"
#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

std::string const corpus = MORTISE_CORPUS;
/// Four times the size, and what the many small values of a pickle may take.
std::size_t proportion(std::size_t size) { return 4 * size + std::min(64 * size, std::size_t{1} << 28); }
constexpr std::size_t constant_bytes = (std::size_t{1} << 20) + (std::size_t{1} << 18);  // a small file's values; a read window, a message

/// MORTISE_THOROUGH=1: three changes of every byte instead of one of the three, tensors' data and repeated patterns too; minutes more.
bool const thorough = std::getenv("MORTISE_THOROUGH") != nullptr;

std::vector<std::string> corpus_files() {
  std::vector<std::string> files;
  for (char const* folder : {"safetensors", "zip", "legacy", "npy", "examples", "bad"}) {
    std::string const path = corpus + "/" + folder;
    DIR* const d = ::opendir(path.c_str());
    REQUIRE(d != nullptr);
    while (dirent const* e = ::readdir(d))
      if (e->d_name[0] != '.') files.push_back(path + "/" + e->d_name);
    ::closedir(d);
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Is this place in the middle of a pattern that goes on repeating (padding, the same opcode a hundred thousand times)? What happens there happens
/// at its first and last repetitions too, which are tried; of the middle, every 211th byte.
bool repeats(std::vector<std::byte> const& bytes, std::size_t at) {
  constexpr std::size_t around = 64;
  if (at < around || bytes.size() - at <= around) return false;
  for (std::size_t period : {1u, 2u, 3u, 4u, 8u}) {
    std::size_t i = at - around;
    while (i + period < at + around && bytes[i] == bytes[i + period]) ++i;
    if (i + period == at + around) return true;
  }
  return false;
}

/// The bytes of tensors, which no reader interprets; empty for a file that does not open.
std::vector<bool> payload_of(std::vector<std::byte> const& bytes) {
  std::vector<bool> payload;
  try {
    mt::archive_reader const reader = mt::open_archive(std::span<std::byte const>{bytes});
    payload.resize(bytes.size());
    for (std::size_t i = 0; i != reader.tensors().size(); ++i) {
      auto const place = reader.stored(i);
      for (std::size_t k = 0; place.source != nullptr && k != reader.tensors()[i].bytes(); ++k) payload.at(place.offset + k) = true;
    }
  } catch (mt::archive_error const&) {
    payload.clear();
  }
  return payload;
}

struct outcome {
  std::size_t opened = 0;
  std::size_t refused = 0;
  std::size_t most_over = 0;  // bytes beyond the proportion
};

/// Opens and reads everything there is. `bytes` is what a file would hold.
void try_to_read(std::vector<std::byte> const& bytes, std::size_t size, outcome& all) {
  std::size_t const before = live_bytes();
  std::size_t const most = proportion(size) + constant_bytes;
  start_peak(most);
  try {
    mt::archive_reader const reader = mt::open_archive(mt::byte_source::view({bytes.data(), size}, "damaged"));
    std::vector<std::byte> one;
    for (std::size_t i = 0; i != reader.tensors().size(); ++i)
      if (reader.tensors()[i].bytes() <= 4 * size) one = reader.read_entry(i);
    one = {};
    (void)reader.values();
    ++all.opened;
  } catch (mt::archive_error const& e) {
    if (e.reason.size() > 1000 || e.reason.empty()) FAIL("a reason of " << e.reason.size() << " bytes: " << e.reason.substr(0, 300));
    ++all.refused;
  } catch (std::bad_alloc const&) {
    start_peak();
    FAIL("more than " << most << " bytes of memory for a file of " << size);
  }
  std::size_t const used = peak_bytes() - before;
  if (used > proportion(size) && used - proportion(size) > all.most_over) all.most_over = used - proportion(size);
  start_peak();
}

std::vector<std::byte> bytes_of(std::string const& file) {
  mt::byte_source const source = mt::byte_source::open(file);
  return source.read(0, static_cast<std::size_t>(source.size()));
}

}  // namespace

TEST_CASE("a file that is cut anywhere is refused, or was whole before") {
  outcome all;
  for (std::string const& file : corpus_files()) {
    CAPTURE(file);
    std::vector<std::byte> const bytes = bytes_of(file);
    for (std::size_t n = 0; n < bytes.size(); ++n)
      if (thorough || n % 211 == 0 || !repeats(bytes, n)) try_to_read(bytes, n, all);
  }
  MESSAGE(all.opened << " opened, " << all.refused << " refused, at most the proportion + " << all.most_over << " bytes");
  CHECK(all.refused > 300'000);
}

TEST_CASE("a file with any byte changed never crashes, hangs or takes memory out of proportion") {
  outcome all;
  constexpr std::byte changes[] = {std::byte{0xff}, std::byte{0x01}, std::byte{0x80}};
  for (std::string const& file : corpus_files()) {
    CAPTURE(file);
    std::vector<std::byte> bytes = bytes_of(file);
    std::vector<bool> const payload = payload_of(bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (!thorough && i % 211 != 0 && ((!payload.empty() && payload[i]) || repeats(bytes, i))) continue;
      std::byte const old = bytes[i];
      for (std::size_t k = 0; k < (thorough ? 3 : 1); ++k) {
        bytes[i] = old ^ changes[(i + k) % 3];
        try_to_read(bytes, bytes.size(), all);
      }
      bytes[i] = old;
    }
  }
  MESSAGE(all.opened << " opened, " << all.refused << " refused, at most the proportion + " << all.most_over << " bytes");
  CHECK(all.refused > 100'000);
}

TEST_CASE("files on the disk are refused as their bytes in memory are") {
  temporary_folder folder;
  std::string const path = folder.file("cut");
  for (char const* name : {"/examples/tiny_checkpoint.pt", "/examples/tiny_checkpoint.safetensors", "/legacy/minimal.pth", "/npy/stored.npz"}) {
    CAPTURE(name);
    std::string const whole = slurp(corpus + name);
    for (std::size_t n = 0; n < whole.size(); n += 7) {
      spit(path, whole.substr(0, n));
      CHECK_THROWS_AS(mt::open_archive(path), mt::archive_error);
      CHECK_THROWS_AS(mt::open_archive(mt::byte_source::map(path)), mt::archive_error);
    }
  }
}
