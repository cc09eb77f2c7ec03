// Parameters that are the pages of a mapped file: equal to a copy, shared by processes, never written back.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/serializer.hpp>
#include <mortise/train/state_dict.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

/// The parameters take 1 MiB and 3 KiB.
using network = mt::model<mt::sequential<mt::linear<512>, mt::batch_norm1d>, mt::extents<512>>;

network numbered(float first) {
  network net{mt::host{1}};
  for (float& p : net.parameters()) p = first += 0.5F;
  for (float& b : net.buffers()) b = first += 0.5F;
  for (std::int64_t& c : net.counters()) c = 77;
  return net;
}
bool same(network const& a, network const& b) {
  return a.parameters().to_vector() == b.parameters().to_vector() && a.buffers().to_vector() == b.buffers().to_vector() &&
         a.counters().to_vector() == b.counters().to_vector();
}

/// KiB of a row of /proc/self/smaps for the mapping that holds `at`.
long mapped_kib(void const* at, char const* row) {
  std::FILE* const file = std::fopen("/proc/self/smaps", "r");
  REQUIRE(file != nullptr);
  char line[512];
  bool inside = false;
  long kib = -1;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line, "%lx-%lx ", &begin, &end) == 2) inside = begin <= reinterpret_cast<std::uintptr_t>(at) && reinterpret_cast<std::uintptr_t>(at) < end;
    else if (inside && std::strncmp(line, row, std::strlen(row)) == 0) kib = std::atol(line + std::strlen(row));
  }
  std::fclose(file);
  return kib;
}

float sum(network const& net) {
  float s = 0;
  for (float const p : net.parameters().to_vector()) s += p;
  return s;
}

}  // namespace

TEST_CASE("a model adopts the pages of a file that was saved to be mapped") {
  temporary_folder const folder;
  std::string const path = folder.file("mappable.safetensors");
  network const saved = numbered(1);
  mt::save(path, saved, {.mappable = true});
  std::string const bytes = slurp(path);

  network net = numbered(900);
  float const* const before = net.parameters().data();
  {
    mt::archive_reader const in = mt::map_file(path);
    mt::load_report const report = mt::load(in, net, {.adopt = true});
    CHECK(report.adopted);
    CHECK(report.not_adopted.empty());
    CHECK(report.complete());
    CHECK(report.loaded.size() == 7);
  }  // the pages outlive the reader
  CHECK(net.parameters().data() != before);
  CHECK(reinterpret_cast<std::uintptr_t>(net.parameters().data()) % 64 == 0);
  CHECK(same(net, saved));

  network const copy = net;  // has memory of its own
  net.parameter("0.weight")[7] = -3;
  CHECK(same(copy, saved));
  CHECK_FALSE(same(net, saved));
  CHECK(slurp(path) == bytes);
  network other = numbered(5);
  CHECK(mt::load(mt::map_file(path), other, {.adopt = true}).adopted);
  CHECK(same(other, saved));
  net = other;
  CHECK(same(net, saved));
}

TEST_CASE("processes share the pages that they have not written to") {
  temporary_folder const folder;
  std::string const path = folder.file("mappable.safetensors");
  mt::save(path, numbered(1), {.mappable = true});
  int ready[2];
  int done[2];
  REQUIRE(::pipe(ready) == 0);
  REQUIRE(::pipe(done) == 0);
  pid_t const child = ::fork();
  char byte = 0;
  if (child == 0) {  // loads, looks at every parameter, and stays until the other has counted
    ::close(done[1]);
    network net = numbered(2);
    bool const adopted = mt::load(mt::map_file(path), net, {.adopt = true}).adopted;
    byte = sum(net) > 0 && adopted ? 'y' : 'n';
    static_cast<void>(!::write(ready[1], &byte, 1));
    static_cast<void>(!::read(done[0], &byte, 1));
    ::_exit(0);
  }
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK(byte == 'y');
  network net = numbered(3);
  CHECK(mt::load(mt::map_file(path), net, {.adopt = true}).adopted);
  CHECK(sum(net) > 0);
  float* const data = net.parameters().data();
  CHECK(mapped_kib(data, "Private_Dirty:") == 0);
  CHECK(mapped_kib(data, "Shared_Clean:") + mapped_kib(data, "Shared_Dirty:") >= 1024);
  data[300] = 1;  // one page becomes this process's own
  long const own = mapped_kib(data, "Private_Dirty:");
  CHECK(own >= 4);
  CHECK(own <= 64);
  ::close(done[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  for (int const end : {ready[0], ready[1], done[0]}) ::close(end);
}

TEST_CASE("where pages cannot be adopted the parameters are copied, and the report says why") {
  temporary_folder const folder;
  network const saved = numbered(1);
  auto const copied = [&](mt::archive_reader const& in, std::string const& why) {
    network net = numbered(40);
    float const* const before = net.parameters().data();
    mt::load_report const report = mt::load(in, net, {.adopt = true});
    CHECK_FALSE(report.adopted);
    INFO(report.not_adopted);
    CHECK(report.not_adopted.find(why) != std::string::npos);
    CHECK(net.parameters().data() == before);
    CHECK(same(net, saved));
  };
  std::string const path = folder.file("a.safetensors");
  mt::save(path, saved);
  copied(mt::map_file(path), "in another order");
  mt::save(folder.file("a.pt"), saved);
  copied(mt::map_file(folder.file("a.pt")), "in another order");
  mt::serializer<mt::mappable, mt::fast> const files;
  files.save(path, saved);
  copied(mt::open_archive(path), "not mapped");
  std::vector<std::byte> const bytes = mt::serializer<mt::safetensors, mt::mappable>{}.to_bytes(saved);
  copied(mt::open_archive(bytes), "not mapped");
  CHECK_THROWS_AS(mt::save(folder.file("b.pt"), saved, {.mappable = true}), mt::usage_error);

  mt::model<mt::sequential<mt::linear<512>, mt::batch_norm1d>, mt::extents<512>, mt::host, double> wide{mt::host{1}};
  mt::load_report const report = mt::load(mt::map_file(path), wide, {.adopt = true});
  CHECK(report.not_adopted.find("another element type") != std::string::npos);
  CHECK(wide.parameters()[9] == static_cast<double>(saved.parameters()[9]));
}

TEST_CASE("a mappable file is an ordinary one: equal bytes from equal states, tensors aligned to their elements, checksums verified") {
  temporary_folder const folder;
  network const first = numbered(1);
  std::vector<network> elsewhere(3, first);  // other addresses
  mt::serializer<mt::safetensors, mt::mappable, mt::checksummed> const files;
  std::vector<std::byte> const bytes = files.to_bytes(first);
  for (network const& net : elsewhere) CHECK(files.to_bytes(net) == bytes);
  mt::archive_reader const in = mt::open_archive(bytes);
  for (std::size_t i = 0; i < in.tensors().size(); ++i) CHECK(in.stored(i).offset % (mt::bits_of(in.tensors()[i].type) / 8) == 0);
  CHECK(in.stored(in.position("0.weight")).offset % 64 == 0);

  std::string const path = folder.file("damaged.safetensors");
  std::string damaged{reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  damaged[in.stored(in.position("0.weight")).offset + 5] ^= 1;
  spit(path, damaged);
  network net = numbered(8);
  CHECK_THROWS_AS(mt::load(mt::map_file(path), net, {.adopt = true}), mt::archive_error);
  CHECK(same(net, numbered(8)));
}
