// A disk that stops to read in the middle of a load. The first pass finds it and the model is as it was; what fails only in the second pass
// of a large load is reported as such, and the next load puts all right.
#include <atomic>
#include <cerrno>
#include <string>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/state_dict.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

std::atomic<long> reads_until_failure{-1};  // -1: never
std::atomic<long> reads{0};

ssize_t read_at(int file, void* to, std::size_t n, off_t offset) {
  ++reads;
  if (reads_until_failure >= 0 && reads_until_failure-- == 0) {
    errno = EIO;
    return -1;
  }
  return ::syscall(SYS_pread64, file, to, n, offset);
}

}  // namespace

// In the place of the C library's, for all of this program.
extern "C" ssize_t pread(int file, void* to, std::size_t n, off_t offset) { return read_at(file, to, n, offset); }
#if !defined(__USE_FILE_OFFSET64)  // there pread is another name of pread64
extern "C" ssize_t pread64(int file, void* to, std::size_t n, off_t offset) { return read_at(file, to, n, offset); }
#endif

namespace {

template <std::size_t Width>
void fail_each_read(std::string const& extension, mt::save_options const& options, long least_reads, bool two_passes) {
  using network = mt::model<mt::sequential<mt::linear<Width>, mt::linear<Width>, mt::linear<Width>>, mt::extents<Width>>;
  CAPTURE(extension);
  temporary_folder const folder;
  std::string const path = folder.file("net" + extension);
  network saved{mt::host{1}, mt::seed{1}};
  mt::save(path, saved, options);
  auto const wanted = saved.parameters().to_vector();
  network net{mt::host{1}, mt::seed{2}};
  auto const before = net.parameters().to_vector();
  reads = 0;
  network probe{mt::host{1}, mt::seed{3}};
  mt::load(path, probe);
  long const all = reads;
  REQUIRE(all >= least_reads);
  long changed = 0;
  for (long n = 0; n < all; ++n) {
    CAPTURE(n);
    reads_until_failure = n;
    std::string words;
    try {
      mt::load(path, net);
    } catch (mt::io_error const& e) {
      words = e.what();
      CHECK(e.code == EIO);
    }
    reads_until_failure = -1;
    REQUIRE(!words.empty());
    CHECK(words.find(path) != std::string::npos);
    if (words.find("now partly changed: load it again") == std::string::npos) {
      CHECK(net.parameters().to_vector() == before);
      continue;
    }
    ++changed;
    mt::load(path, net);
    CHECK(net.parameters().to_vector() == wanted);
    std::copy(before.begin(), before.end(), net.parameters().begin());
  }
  CHECK((changed != 0) == two_passes);
}

}  // namespace

TEST_CASE("a load that is small enough to stage survives a failure of any read") {
  for (char const* extension : {".safetensors", ".pt", ".npz"}) fail_each_read<16>(extension, {.durable = false}, 5, false);
  fail_each_read<16>(".safetensors", {.durable = false, .checksums = true}, 5, false);
}

TEST_CASE("a load in two passes leaves the model as it was, or says that it is partly changed") {
  fail_each_read<800>(".safetensors", {.durable = false, .checksums = true}, 10, true);
  fail_each_read<800>(".pt", {.durable = false}, 10, true);
}
