// How runs become files: policies of a serializer, saves in the background, files of every released version.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/train/async_saver.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>
#include <mortise/train/serializer.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using network = mt::model<mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::linear<3>>, mt::extents<4>>;

/// A run whose numbers follow from `first`.
struct small_run {
  network net{mt::host{1}, mt::seed{1}};
  mt::optimizer<network, mt::adam> opt{net};
  mt::progress progress{};
  std::vector<double> losses{};

  explicit small_run(float first) {
    std::size_t i = 0;
    for (float& p : net.parameters()) p = first + static_cast<float>(i++) / 8;
    for (float& b : net.buffers()) b = first + static_cast<float>(i++) / 16;
    for (std::int64_t& c : net.counters()) c = static_cast<std::int64_t>(first) + 40;
    opt.step();  // from the gradients, which are zero: every parameter has state now
    for (std::size_t s = 0; s != opt.slot_count(); ++s)
      for (float& v : opt.slot(s)) v = first + static_cast<float>(i++) / 4;
    i = 0;
    for (float& p : net.parameters()) p = first + static_cast<float>(i++) / 8;
    opt.set_learning_rate(static_cast<double>(first) + 0.0625);
    progress.epoch = static_cast<std::int64_t>(first) + 3;
    progress.global_step = 123456789012;
    progress.best_metric = 0.75;
    losses = {1.5, static_cast<double>(first)};
  }
  auto checkpoint() { return mt::checkpoint{net, opt, progress, mt::own{"losses", losses}}; }
};

bool same(small_run& a, small_run& b) {
  bool equal = a.net.parameters().to_vector() == b.net.parameters().to_vector() && a.net.buffers().to_vector() == b.net.buffers().to_vector() &&
               a.net.counters().to_vector() == b.net.counters().to_vector() && a.opt.learning_rate() == b.opt.learning_rate() &&
               a.opt.updates(0) == b.opt.updates(0) && a.progress.epoch == b.progress.epoch && a.progress.global_step == b.progress.global_step &&
               a.progress.best_metric == b.progress.best_metric && a.losses == b.losses;
  for (std::size_t s = 0; s != a.opt.slot_count(); ++s) equal = equal && a.opt.slot(s).to_vector() == b.opt.slot(s).to_vector();
  return equal;
}

template <class Serializer>
void check_round_trip(Serializer const& files, std::string const& path) {
  small_run saved{2};
  small_run loaded{7};
  auto from = saved.checkpoint();
  auto to = loaded.checkpoint();
  files.save(path, from);
  CHECK_FALSE(same(saved, loaded));
  CHECK(files.load(path, to).complete());
  CHECK(same(saved, loaded));
}

std::string const released = std::string{MORTISE_TEST_DATA} + "/released";

}  // namespace

TEST_CASE("every composition of policies gives the run back") {
  temporary_folder const folder;
  check_round_trip(mt::serializer<>{}, folder.file("a.safetensors"));
  check_round_trip(mt::serializer<>{}, folder.file("a.pt"));
  check_round_trip(mt::serializer<mt::torch_zip, mt::fast, mt::memory_mapped>{}, folder.file("named_otherwise.dat"));
  check_round_trip(mt::serializer<mt::safetensors, mt::checksummed, mt::fast>{}, folder.file("b.safetensors"));
  check_round_trip(mt::serializer<mt::checksummed, mt::memory_mapped>{}, folder.file("c.safetensors"));
  check_round_trip(mt::serializer<mt::safetensors, mt::sharded, mt::checksummed>{mt::sharded{.max_bytes = 100}}, folder.file("d.safetensors"));
  check_round_trip(mt::serializer<mt::sharded, mt::memory_mapped, mt::fast>{mt::sharded{.max_bytes = 100}}, folder.file("e.safetensors"));
  CHECK(mt::open_archive(folder.file("d.safetensors")).name() == folder.file("d.safetensors.index.json"));
}

TEST_CASE("a serializer writes to memory and streams, and loads from them") {
  mt::serializer<mt::safetensors, mt::checksummed> const files;
  small_run saved{2};
  auto run = saved.checkpoint();
  std::vector<std::byte> const bytes = files.to_bytes(run);
  std::stringstream stream;
  files.save(stream, run);
  CHECK(stream.str().size() == bytes.size());
  CHECK(std::memcmp(stream.str().data(), bytes.data(), bytes.size()) == 0);
  small_run a{5};
  auto from_memory = a.checkpoint();
  files.load(bytes, from_memory);
  CHECK(same(a, saved));
  small_run b{6};
  auto from_stream = b.checkpoint();
  files.load(stream, from_stream);
  CHECK(same(b, saved));
}

TEST_CASE("checksums that are demanded must be there, and be right; a load that throws has changed nothing") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  mt::serializer<mt::safetensors, mt::checksummed> const strict;
  small_run saved{2};
  small_run target{4};
  small_run untouched{4};
  auto run = saved.checkpoint();
  auto to = target.checkpoint();
  mt::save(path, run);
  CHECK_THROWS_WITH_AS(strict.load(path, to), doctest::Contains("has no checksum"), mt::archive_error);
  mt::save(path, run, {.checksums = true});
  std::string bytes = slurp(path);
  for (std::size_t const back : {1u, 100u, 700u}) {
    std::string damaged = bytes;
    damaged[damaged.size() - back] = static_cast<char>(damaged[damaged.size() - back] ^ 4);
    spit(path, damaged);
    CHECK_THROWS_WITH_AS(mt::load(path, to), doctest::Contains("checksum"), mt::archive_error);
    CHECK(same(target, untouched));
  }
  spit(path, bytes);
  strict.load(path, to);
  CHECK(same(target, saved));
}

TEST_CASE("a save in the background writes what was there when it was called; errors surface at the next call") {
  temporary_folder const folder;
  small_run live{2};
  auto run = live.checkpoint();
  {
    mt::async_saver saver;
    for (int i = 0; i != 5; ++i) {
      live.net.parameters()[0] = static_cast<float>(i);
      live.progress.epoch = i;
      saver.save(folder.file("run.safetensors"), run);
      live.net.parameters()[0] = -1;
      live.progress.epoch = -1;
      if (i != 3) continue;
      saver.wait();
      CHECK_FALSE(saver.saving());
      small_run read{9};
      auto to = read.checkpoint();
      mt::load(folder.file("run.safetensors"), to);
      CHECK(read.net.parameters()[0] == 3);
      CHECK(read.progress.epoch == 3);
    }
  }  // finishes the last one
  small_run read{9};
  auto to = read.checkpoint();
  mt::load(folder.file("run.safetensors"), to);
  CHECK(read.net.parameters()[0] == 4);
  CHECK(folder.files().size() == 1);

  mt::async_saver saver{mt::serializer<mt::torch_zip, mt::fast>{}};
  saver.save(folder.file("no such folder/run.pt"), live.net);
  CHECK_THROWS_AS(saver.save(folder.file("run.pt"), live.net), mt::io_error);
  CHECK(folder.files().size() == 1);
  saver.save(folder.file("run.pt"), live.net);
  saver.wait();
  CHECK(mt::load(folder.file("run.pt"), read.net).complete());
}

TEST_CASE("files of every released version stay readable") {
  // MORTISE_WRITE_RELEASED=tests/data/released/N writes those of a new version.
  if (char const* folder = std::getenv("MORTISE_WRITE_RELEASED")) {
    small_run written{2};
    auto run = written.checkpoint();
    for (char const* name : {"/run.safetensors", "/run.pt"}) mt::save(folder + std::string{name}, run);
    mt::serializer<mt::safetensors, mt::sharded, mt::checksummed>{mt::sharded{.max_bytes = 200}}.save(folder + std::string{"/sharded.safetensors"}, run);
    mt::save(folder + std::string{"/weights.safetensors"}, written.net);
  }
  small_run expected{2};
  for (std::int64_t version = 1; version <= mt::checkpoint_version; ++version)
    for (char const* name : {"run.safetensors", "run.pt", "sharded.safetensors"}) {
      CAPTURE(name);
      small_run read{9};
      auto run = read.checkpoint();
      CHECK(mt::load(released + "/" + std::to_string(version) + "/" + name, run).complete());
      CHECK(same(read, expected));
    }
  small_run read{9};
  CHECK(mt::load(released + "/1/weights.safetensors", read.net).complete());
  CHECK(read.net.parameters().to_vector() == expected.net.parameters().to_vector());
}
