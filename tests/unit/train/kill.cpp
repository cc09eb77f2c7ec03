// A process that is killed while it saves leaves one whole checkpoint: the one before, or the new one.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/progress.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

using network = mt::model<mt::sequential<mt::linear<64>, mt::linear<64>>, mt::extents<64>>;

/// Saves for ever: all parameters are the number of the save.
[[noreturn]] void save_until_killed(std::string const& path, bool durable, int ready) {
  network net{mt::host{1}};
  mt::progress progress;
  mt::checkpoint run{net, progress};
  for (;;) {
    ++progress.global_step;
    for (float& p : net.parameters()) p = static_cast<float>(progress.global_step);
    mt::save(path, run, {.durable = durable});
    if (progress.global_step == 1) static_cast<void>(!::write(ready, "x", 1));
  }
}

}  // namespace

TEST_CASE("killed at 200 moments around saving, the file is always one whole checkpoint") {
  temporary_folder const folder;
  std::string const path = folder.file("run.safetensors");
  std::int64_t different = 0, last = -1;
  for (int round = 0; round < 200; ++round) {
    int channel[2];
    REQUIRE(::pipe(channel) == 0);
    pid_t const child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(channel[0]);
      save_until_killed(path, round % 4 < 2, channel[1]);
    }
    ::close(channel[1]);
    char byte = 0;
    REQUIRE(::read(channel[0], &byte, 1) == 1);
    ::close(channel[0]);
    ::usleep(static_cast<useconds_t>(round * 79 % 200 * 10));  // each of 200 moments within 2 ms once: several saves
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));

    network net{mt::host{1}};
    mt::progress progress;
    mt::checkpoint run{net, progress};
    mt::load(path, run);
    REQUIRE(progress.global_step >= 1);
    for (float const p : net.parameters()) REQUIRE(p == static_cast<float>(progress.global_step));
    different += progress.global_step != last ? 1 : 0;
    last = progress.global_step;
  }
  CHECK(different > 1);  // the kills did come at different saves
}
