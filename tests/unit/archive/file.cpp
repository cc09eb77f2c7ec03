#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <mortise/archive/file.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

/// Lets the n-th system call fail with a given errno; may also write in small pieces and be interrupted in between.
struct faulty_calls {
  static inline int calls_until_failure = -1;  // -1: never
  static inline int error = EIO;
  static inline bool nervous = false;  // short writes, EINTR on every other call
  static inline bool interrupted = false;
  static inline int calls = 0;

  static bool fails() {
    ++calls;
    if (calls_until_failure >= 0 && calls_until_failure-- == 0) {
      errno = error;
      return true;
    }
    return false;
  }
  static int open(char const* path, int flags, mode_t mode) { return fails() ? -1 : ::open(path, flags, mode); }
  static ssize_t write(int file, void const* bytes, std::size_t n) {
    if (nervous && (interrupted = !interrupted)) {
      errno = EINTR;
      return -1;
    }
    if (fails()) return -1;
    return ::write(file, bytes, nervous && n > 1000 ? 1000 : n);
  }
  static int fchmod(int file, mode_t mode) { return fails() ? -1 : ::fchmod(file, mode); }
  static int fsync(int file) { return fails() ? -1 : ::fsync(file); }
  static int close(int file) {
    bool const fail = fails();
    int const result = ::close(file);
    return fail ? (errno = error, -1) : result;
  }
  static int rename(char const* from, char const* to) { return fails() ? -1 : ::rename(from, to); }
  static int unlink(char const* path) { return ::unlink(path); }
  static void start_writeback(int, off_t, off_t) {}
};

using faulty_writer = mt::basic_atomic_file_writer<faulty_calls>;

void save(std::string const& path, std::string const& text) {
  faulty_writer out{path};
  out.write(text.substr(0, 10));
  out.write(text.substr(10));
  out.commit();
}

}  // namespace

TEST_CASE("whichever system call of a save fails, the old file is whole and nothing is left beside it") {
  temporary_folder folder;
  std::string const path = folder.file("run.bin");
  std::string const before(300'000, 'a');
  std::string const after(200'000, 'b');
  spit(path, before);
  faulty_calls::calls = 0;
  save(path, after);
  int const calls = faulty_calls::calls;
  CHECK(slurp(path) == after);
  CHECK(calls >= 8);  // open, fchmod, writes, fsync, close, rename, open, fsync, close
  int after_rename = 0;
  for (int error : {ENOSPC, EIO, EDQUOT})
    for (int n = 0; n != calls - 1; ++n) {  // the last call closes the directory; nothing depends on it
      CAPTURE(n);
      spit(path, before);
      faulty_calls::calls_until_failure = n;
      faulty_calls::error = error;
      try {
        save(path, after);
        FAIL("the failure went unnoticed");
      } catch (mt::io_error const& e) {
        CHECK(e.code == error);
        CHECK(!e.operation.empty());
      }
      faulty_calls::calls_until_failure = -1;
      std::string const now = slurp(path);
      if (now == after) ++after_rename;  // the directory's open or fsync failed: the new file is in place, complete
      else CHECK(now == before);
      CHECK(folder.files() == std::vector<std::string>{"run.bin"});
    }
  CHECK(after_rename == 2 * 3);
}

TEST_CASE("short writes and interruptions lose nothing") {
  temporary_folder folder;
  std::string text;
  for (int i = 0; i != 50'000; ++i) text += std::to_string(i);
  faulty_calls::nervous = true;
  save(folder.file("x"), text);
  faulty_calls::nervous = false;
  CHECK(slurp(folder.file("x")) == text);
}

TEST_CASE("a writer that is not committed leaves nothing") {
  temporary_folder folder;
  {
    mt::atomic_file_writer out{folder.file("x")};
    out.write("abc");
    CHECK(folder.files().size() == 1);
    CHECK(folder.files()[0].rfind("x.tmp-" + std::to_string(::getpid()) + "-", 0) == 0);
  }
  CHECK(folder.files().empty());
}

TEST_CASE("a save keeps the old file's mode, follows a link, and refuses what is no file") {
  temporary_folder folder;
  spit(folder.file("x"), "old");
  ::chmod(folder.file("x").c_str(), 0640);
  CHECK(::symlink("x", folder.file("latest").c_str()) == 0);
  {
    mt::atomic_file_writer out{folder.file("latest")};
    out.write("new");
    out.commit();
  }
  struct stat info{};
  CHECK(::stat(folder.file("x").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0640);
  CHECK(slurp(folder.file("x")) == "new");
  CHECK(::lstat(folder.file("latest").c_str(), &info) == 0);
  CHECK(S_ISLNK(info.st_mode));
  CHECK_THROWS_AS(mt::atomic_file_writer{folder.path()}, mt::io_error);
  CHECK_THROWS_AS(mt::atomic_file_writer{"/dev/null"}, mt::io_error);
  CHECK_THROWS_AS(mt::atomic_file_writer{folder.file("none/x")}, mt::io_error);
}

TEST_CASE("what a killed save left beside its target is removed by the next one, and nothing else is") {
  temporary_folder folder;
  std::string const path = folder.file("a.pt");
  pid_t const child = ::fork();
  if (child == 0) ::_exit(0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);  // a number that no process has now
  std::string const dead = std::to_string(child);
  std::string const random = "-0123456789abcdef";
  auto const make = [&folder](std::string const& name, int age) {
    spit(folder.file(name), "old");
    timespec const then{std::time(nullptr) - age, 0};
    timespec const times[2] = {then, then};
    REQUIRE(::utimensat(AT_FDCWD, folder.file(name).c_str(), times, 0) == 0);
  };
  make("a.pt.tmp-" + dead + random, 100);
  make("a.pt.tmp-" + std::to_string(::getpid()) + random, 1'000'000);  // of an earlier process with this one's number
  std::vector<std::string> const kept{
      "a.pt.tmp-" + dead + "-0123456789abcdee",                        // written to a moment ago
      "a.pt.tmp-" + std::to_string(::getppid()) + random,              // its process lives
      "a.pt.tmp-" + std::to_string(::getpid()) + "-0123456789abcdee",  // ours: another thread saves
      "b.pt.tmp-" + dead + random,                                     // for another target
      "a.pt.tmp-" + dead + random + "0",                               // not one of our names
      "a.pt.tmp-" + dead + "-0123456789abcdeg",
      "a.pt.tmp-x" + random,
      "a.pt.tmp-" + dead + "-fedcba9876543210",                        // in use somewhere
  };
  mt::atomic_file_writer{folder.file("c.pt")};  // this process has saved before the files of its own number
  for (std::string const& name : kept) make(name, &name == &kept[0] || &name == &kept[2] ? 0 : 100);
  int const lock = ::open(folder.file(kept.back()).c_str(), O_RDONLY);
  REQUIRE(::flock(lock, LOCK_EX) == 0);
  {
    mt::atomic_file_writer out{path};
    out.write("new");
    out.commit();
  }
  ::close(lock);
  CHECK(slurp(path) == "new");
  std::vector<std::string> expected = kept;
  expected.push_back("a.pt");
  std::sort(expected.begin(), expected.end());
  std::vector<std::string> names = folder.files();
  std::sort(names.begin(), names.end());
  CHECK(names == expected);
}

TEST_CASE("a name as long as the file system allows can be saved") {
  temporary_folder folder;
  std::string const name(255, 'n');
  mt::atomic_file_writer out{folder.file(name)};
  out.write("x");
  out.commit();
  CHECK(folder.files() == std::vector<std::string>{name});
}

TEST_CASE("directories, pipes and absent files are io_errors at once; a file that ends early is an archive_error") {
  temporary_folder folder;
  CHECK_THROWS_AS(mt::byte_source::open(folder.path()), mt::io_error);
  CHECK_THROWS_AS(mt::byte_source::open(folder.file("absent")), mt::io_error);
  CHECK(::mkfifo(folder.file("pipe").c_str(), 0600) == 0);
  CHECK_THROWS_AS(mt::byte_source::open(folder.file("pipe")), mt::io_error);
  spit(folder.file("x"), "0123456789");
  mt::byte_source const source = mt::byte_source::open(folder.file("x"));
  CHECK(source.read(8, 2).size() == 2);
  CHECK_THROWS_AS(source.read(8, 3), mt::archive_error);
  CHECK_THROWS_AS(source.read(static_cast<std::uint64_t>(-1), 3), mt::archive_error);
  CHECK(::truncate(folder.file("x").c_str(), 5) == 0);
  CHECK_THROWS_AS(source.read(4, 3), mt::archive_error);
  CHECK(mt::byte_source::map(folder.file("x")).data()[4] == std::byte{'4'});
}
