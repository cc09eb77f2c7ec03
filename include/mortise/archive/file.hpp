// Where archives come from and go to: files, memory, memory maps, streams. Saving is atomic and durable.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/vfs.h>
#endif

#include <mortise/archive/errors.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// Random access to bytes that do not change: a file, a memory map, or memory. Copies share.
class byte_source {
 public:
  /// Opens a regular file; io_error for everything else (a directory, a FIFO, no permission).
  static byte_source open(std::string const& path);
  /// Maps a file read-only; processes that map the same file share its pages. A file that somebody truncates while it is mapped
  /// raises SIGBUS on access: replace checkpoints by rename (as every save here does), never in place.
  static byte_source map(std::string const& path);
  /// Memory that the caller keeps alive.
  static byte_source view(std::span<std::byte const> bytes, std::string name = "memory");
  static byte_source own(std::vector<std::byte> bytes, std::string name);

  std::uint64_t size() const { return state_->size; }
  /// The path of a file.
  std::string const& name() const { return state_->name; }
  bool is_file() const { return state_->file >= 0; }
  /// All bytes, where they lie in memory (a map, or memory); null for a file that is read.
  std::byte const* data() const { return state_->data; }
  /// Memory of this process's own that begins as bytes [offset, offset + n) of the file: every page is shared with all who map the file until
  /// it is written to. null where the source is not a mapped file.
  std::shared_ptr<std::byte> private_pages(std::uint64_t offset, std::size_t n) const;
  /// Reads n bytes; archive_error when they are not there.
  void read(std::uint64_t offset, void* to, std::size_t n) const;
  /// Throws unless n bytes can be read now: they are brought into the page cache, and not copied.
  void check_readable(std::uint64_t offset, std::uint64_t n) const;
  std::vector<std::byte> read(std::uint64_t offset, std::size_t n) const {
    if (offset > size() || n > size() - offset) past_end(offset);
    std::vector<std::byte> bytes(n);
    read(offset, bytes.data(), n);
    return bytes;
  }

 private:
  struct state {
    std::string name{};
    std::uint64_t size = 0;
    std::byte const* data = nullptr;
    int file = -1;
    bool mapped = false;
    std::vector<std::byte> owned{};

    state() = default;
    state(state const&) = delete;
    state& operator=(state const&) = delete;
    ~state() {
      if (mapped) ::munmap(const_cast<std::byte*>(data), static_cast<std::size_t>(size));
      if (file >= 0) ::close(file);
    }
  };
  explicit byte_source(std::shared_ptr<state const> s) : state_{std::move(s)} {}
  static std::shared_ptr<state> open_state(std::string const& path);
  [[noreturn]] void past_end(std::uint64_t offset) const {
    detail::throw_archive_error(name(), offset, {"the file ends here; it is truncated, or was changed while it was read"});
  }

  std::shared_ptr<state const> state_;
};

/// Takes bytes in order. What a writer of a format writes to.
class byte_sink {
 public:
  byte_sink() = default;
  byte_sink(byte_sink const&) = delete;
  byte_sink& operator=(byte_sink const&) = delete;
  virtual ~byte_sink() = default;

  virtual void write(void const* bytes, std::size_t n) = 0;
  void write(std::string_view text) { write(text.data(), text.size()); }
};

class memory_sink final : public byte_sink {
 public:
  using byte_sink::write;
  void write(void const* bytes, std::size_t n) override {
    auto const* first = static_cast<std::byte const*>(bytes);
    bytes_.insert(bytes_.end(), first, first + n);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_{};
};

class stream_sink final : public byte_sink {
 public:
  using byte_sink::write;
  explicit stream_sink(std::ostream& out) : out_{out} {}
  void write(void const* bytes, std::size_t n) override {
    if (!out_.write(static_cast<char const*>(bytes), static_cast<std::streamsize>(n))) throw io_error{"stream", "write", EIO};
  }

 private:
  std::ostream& out_;
};

/// The system calls that a save makes, so that a test can let each of them fail.
struct posix_calls {
  static int open(char const* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
  static ssize_t write(int file, void const* bytes, std::size_t n) { return ::write(file, bytes, n); }
  static int fchmod(int file, mode_t mode) { return ::fchmod(file, mode); }
  static int fsync(int file) { return ::fsync(file); }
  static int close(int file) { return ::close(file); }
  static int rename(char const* from, char const* to) { return ::rename(from, to); }
  static int unlink(char const* path) { return ::unlink(path); }
  /// A hint: starts writing these bytes to the disk now, so that the fsync finds little left.
  static void start_writeback(int file, off_t offset, off_t n) {
#if defined(SYNC_FILE_RANGE_WRITE)
    ::sync_file_range(file, offset, n, SYNC_FILE_RANGE_WRITE);
#else
    (void)file, (void)offset, (void)n;
#endif
  }
};

/// Writes NAME.tmp-<pid>-<random> beside NAME; `commit` makes it NAME. Before that, and on every failure, NAME is what it was.
///
/// Durable: the data is on the disk before the rename, the rename before `commit` returns. A failure of that last step (the
/// directory's fsync) is reported although NAME is already the new, complete file. Not durable: atomic against a crash of the
/// program, not of the machine. A symbolic link is followed: what it points to is replaced. What a process that was killed while it saved to
/// NAME left beside it is removed by the next save.
template <class Calls = posix_calls>
class basic_atomic_file_writer final : public byte_sink {
 public:
  using byte_sink::write;
  explicit basic_atomic_file_writer(std::string const& path, bool durable = true);
  ~basic_atomic_file_writer() override { discard(); }

  /// Small writes are gathered; large ones go to the kernel from where they lie.
  void write(void const* bytes, std::size_t n) override;
  /// Everything is written and, where durable, on the disk; only the rename is left. `commit` does this too.
  void finish();
  void commit();
  /// Removes the temporary file; a no-op after `commit`.
  void discard() noexcept;

 private:
  static constexpr std::size_t buffer_bytes = std::size_t{1} << 16;
  static constexpr std::size_t writeback_bytes = std::size_t{1} << 24;

  [[noreturn]] MORTISE_COLD void fail(char const* operation, int code) {
    discard();
    throw io_error{path_, operation, code};
  }
  void write_through(std::byte const* bytes, std::size_t n);
  void flush() {
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  std::string path_;       // as the caller named it
  std::string target_;     // after links
  std::string temporary_{};
  std::vector<std::byte> buffer_{};
  std::uint64_t written_ = 0;
  std::uint64_t handed_over_ = 0;
  int file_ = -1;
  bool durable_;
};

using atomic_file_writer = basic_atomic_file_writer<>;

// ---- implementation -------------------------------------------------------------------------------------------------------

inline std::shared_ptr<byte_source::state> byte_source::open_state(std::string const& path) {
  auto s = std::make_shared<state>();
  s->name = path;
  // O_NONBLOCK: opening a FIFO that nobody writes would wait for ever.
  do s->file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (s->file < 0 && errno == EINTR);
  if (s->file < 0) throw io_error{path, "open for reading", errno};
  struct stat info{};
  if (::fstat(s->file, &info) != 0) throw io_error{path, "fstat", errno};
  if (S_ISDIR(info.st_mode)) throw io_error{path, "open for reading", EISDIR};
  if (!S_ISREG(info.st_mode)) throw io_error{path, "open for reading (an archive must be a regular file)", EINVAL};
  s->size = static_cast<std::uint64_t>(info.st_size);
  return s;
}

inline byte_source byte_source::open(std::string const& path) { return byte_source{open_state(path)}; }

inline byte_source byte_source::map(std::string const& path) {
  auto s = open_state(path);
  if (s->size != 0) {
    void* at = ::mmap(nullptr, static_cast<std::size_t>(s->size), PROT_READ, MAP_SHARED, s->file, 0);
    if (at == MAP_FAILED) throw io_error{path, "mmap", errno};
    s->data = static_cast<std::byte const*>(at);
    s->mapped = true;
  }
  return byte_source{std::move(s)};
}

inline std::shared_ptr<std::byte> byte_source::private_pages(std::uint64_t offset, std::size_t n) const {
  if (offset > size() || n > size() - offset) past_end(offset);
  if (!state_->mapped || n == 0) return nullptr;
  auto const page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::size_t const before = static_cast<std::size_t>(offset % page);
  void* const at = ::mmap(nullptr, before + n, PROT_READ | PROT_WRITE, MAP_PRIVATE, state_->file, static_cast<off_t>(offset - before));
  if (at == MAP_FAILED) throw io_error{name(), "mmap", errno};
  return {static_cast<std::byte*>(at) + before, [at, length = before + n](std::byte*) { ::munmap(at, length); }};
}

inline byte_source byte_source::view(std::span<std::byte const> bytes, std::string name) {
  auto s = std::make_shared<state>();
  s->name = std::move(name);
  s->size = bytes.size();
  s->data = bytes.data();
  return byte_source{std::move(s)};
}

inline byte_source byte_source::own(std::vector<std::byte> bytes, std::string name) {
  auto s = std::make_shared<state>();
  s->name = std::move(name);
  s->owned = std::move(bytes);
  s->size = s->owned.size();
  s->data = s->owned.data();
  return byte_source{std::move(s)};
}

namespace detail {

/// memcpy of so much that none of it will be in the cache when it is needed: the stores go past the cache, and the target is not read first.
inline void copy_past_cache(std::byte* to, std::byte const* from, std::size_t n) {
#if defined(__x86_64__) && !defined(__CUDACC__)
  using words [[gnu::vector_size(16)]] = long long;
  if (n >= std::size_t{1} << 20) {
    std::size_t const head = (64 - reinterpret_cast<std::uintptr_t>(to) % 64) % 64;
    std::memcpy(to, from, head);
    to += head, from += head, n -= head;
    for (; n >= 64; to += 64, from += 64, n -= 64) {
      words v[4];
      std::memcpy(v, from, 64);
      for (int i = 0; i < 4; ++i) {
#if defined(__clang__)
        __builtin_nontemporal_store(v[i], reinterpret_cast<words*>(to) + i);
#else
        __builtin_ia32_movntdq(reinterpret_cast<words*>(to) + i, v[i]);
#endif
      }
    }
    __builtin_ia32_sfence();
  }
#endif
  std::memcpy(to, from, n);
}

}  // namespace detail

inline void byte_source::read(std::uint64_t offset, void* to, std::size_t n) const {
  if (offset > size() || n > size() - offset) past_end(offset);
  if (n == 0) return;
  if (data() != nullptr) {
    detail::copy_past_cache(static_cast<std::byte*>(to), data() + offset, n);
    return;
  }
  auto* at = static_cast<std::byte*>(to);
  while (n != 0) {
    ssize_t const got = ::pread(state_->file, at, n < (std::size_t{1} << 30) ? n : std::size_t{1} << 30, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw io_error{name(), "read", errno};
    if (got == 0) past_end(offset);
    at += got;
    offset += static_cast<std::uint64_t>(got);
    n -= static_cast<std::size_t>(got);
  }
}

inline void byte_source::check_readable(std::uint64_t offset, std::uint64_t n) const {
  if (offset > size() || n > size() - offset) past_end(offset);
  if (data() != nullptr || n == 0) return;
  struct stat info{};
  if (::fstat(state_->file, &info) != 0) throw io_error{name(), "fstat", errno};
  if (static_cast<std::uint64_t>(info.st_size) < offset + n) past_end(static_cast<std::uint64_t>(info.st_size));
#if defined(__linux__)
  if (struct statfs system{}; ::fstatfs(state_->file, &system) == 0 && system.f_type == 0x01021994) return;  // tmpfs: the bytes are memory
#endif
  constexpr std::uint64_t window = std::uint64_t{1} << 22;
#if defined(MADV_POPULATE_READ)
  // Faults that would end a program come back as an error here; the window is unmapped at once, so it never counts as memory.
  auto const page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::uint64_t at = offset / page * page;
  bool supported = true;
  for (; at < offset + n; at += window) {
    auto const length = static_cast<std::size_t>(offset + n - at < window ? offset + n - at : window);
    void* const map = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, state_->file, static_cast<off_t>(at));
    if (map == MAP_FAILED) {
      supported = false;
      break;
    }
    int const result = ::madvise(map, length, MADV_POPULATE_READ);
    ::munmap(map, length);
    if (result == 0) continue;
    supported = false;  // an old kernel, or bytes that cannot be read: the loop below tells which
    break;
  }
  if (supported) return;
#endif
  std::vector<std::byte> scratch(static_cast<std::size_t>(n < (window >> 2) ? n : window >> 2));
  while (n != 0) {
    auto const part = static_cast<std::size_t>(n < scratch.size() ? n : scratch.size());
    read(offset, scratch.data(), part);
    offset += part;
    n -= part;
  }
}

namespace detail {

/// Where a path leads after symbolic links (a link that leads nowhere stays as it is).
inline std::string follow_links(std::string const& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISLNK(info.st_mode)) return path;
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;
  std::string target{resolved};
  std::free(resolved);
  return target;
}

inline std::string directory_of(std::string const& path) {
  std::size_t const slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// "/a/b.pt" -> "/a/b.pt.tmp-123-0123456789abcdef", within the 255 bytes of a file name.
inline std::string temporary_name(std::string const& path, std::uint64_t attempt) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  std::uint64_t random = static_cast<std::uint64_t>(now.tv_nsec) * 0x9e3779b97f4a7c15ull + static_cast<std::uint64_t>(now.tv_sec) +
                         attempt * 0xd1342543de82ef95ull + reinterpret_cast<std::uintptr_t>(&path);
  random = (random ^ (random >> 32)) * 0xbf58476d1ce4e5b9ull;  // O_EXCL decides; this only makes collisions rare
  random ^= random >> 29;
  char suffix[64];
  std::snprintf(suffix, sizeof suffix, ".tmp-%ld-%016llx", static_cast<long>(::getpid()), static_cast<unsigned long long>(random));
  std::size_t const base = path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1;
  return path.substr(0, base) + path.substr(base, 200) + suffix;
}

/// The process in a name that `temporary_name` made for `base` (the path without its folder), or 0.
template <class = void>
MORTISE_COLD long process_of_temporary(std::string_view name, std::string_view base) {
  constexpr std::string_view mark = ".tmp-";
  base = base.substr(0, 200);
  if (name.size() < base.size() + mark.size() || name.substr(0, base.size()) != base || name.substr(base.size(), mark.size()) != mark) return 0;
  std::string_view const rest = name.substr(base.size() + mark.size());
  std::size_t const dash = rest.find('-');
  if (dash == 0 || dash > 10 || rest.size() != dash + 17 || rest.find_first_not_of("0123456789abcdef", dash + 1) != std::string_view::npos) return 0;
  long process = 0;
  for (char const c : rest.substr(0, dash)) {
    if (c < '0' || c > '9') return 0;
    process = process * 10 + (c - '0');
  }
  return process;
}

/// Removes temporary files for `path` of processes that are no more. Sparing beats tidiness: a file goes only when its name is exactly ours, it
/// belongs to this user, its process is dead on this machine, no process (of another container or machine) holds its lock, and nobody has
/// written to it for a minute. Failures are ignored.
template <class = void>
MORTISE_COLD void remove_stale_temporaries(std::string const& path) {
  static std::time_t const first_save = std::time(nullptr);  // a file with this process's number is not ours when it is older
  std::size_t const slash = path.rfind('/');
  std::string_view const base = std::string_view{path}.substr(slash == std::string::npos ? 0 : slash + 1);
  DIR* const folder = ::opendir(directory_of(path).c_str());
  if (folder == nullptr) return;
  while (dirent const* const entry = ::readdir(folder)) {
    long const process = process_of_temporary(entry->d_name, base);
    bool const own = process == static_cast<long>(::getpid());
    if (process <= 0 || (!own && (::kill(static_cast<pid_t>(process), 0) == 0 || errno != ESRCH))) continue;
    int const file = ::openat(::dirfd(folder), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) continue;
    struct stat info{};
    std::time_t const now = std::time(nullptr);
    if (::fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() && info.st_mtime < now - 60 &&
        (!own || info.st_mtime < first_save) && ::flock(file, LOCK_EX | LOCK_NB) == 0)
      ::unlinkat(::dirfd(folder), entry->d_name, 0);
    ::close(file);
  }
  ::closedir(folder);
}

}  // namespace detail

template <class Calls>
basic_atomic_file_writer<Calls>::basic_atomic_file_writer(std::string const& path, bool durable)
    : path_{path}, target_{detail::follow_links(path)}, durable_{durable} {
  struct stat old{};
  bool const replaces = ::lstat(target_.c_str(), &old) == 0;
  if (replaces && S_ISDIR(old.st_mode)) throw io_error{path_, "save", EISDIR};
  if (replaces && !S_ISREG(old.st_mode) && !S_ISLNK(old.st_mode)) throw io_error{path_, "save (the target is no regular file)", EINVAL};
  detail::remove_stale_temporaries(target_);
  buffer_.reserve(buffer_bytes);
  for (std::uint64_t attempt = 0; file_ < 0; ++attempt) {
    temporary_ = detail::temporary_name(target_, attempt);
    file_ = Calls::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ >= 0) break;
    int const code = errno;
    if (code == EINTR || (code == EEXIST && attempt < 100)) continue;
    temporary_.clear();
    throw io_error{path_, "create a temporary file beside it", code};
  }
  static_cast<void>(::flock(file_, LOCK_EX | LOCK_NB));  // tells others that it is in use; where there are no locks, its process's number does
  if (replaces && S_ISREG(old.st_mode) && Calls::fchmod(file_, old.st_mode & 0777) != 0) fail("fchmod", errno);
}

template <class Calls>
void basic_atomic_file_writer<Calls>::write(void const* bytes, std::size_t n) {
  if (n == 0) return;
  if (file_ < 0) detail::throw_usage_error({"mortise::atomic_file_writer: write after commit or after a failure"});
  auto const* first = static_cast<std::byte const*>(bytes);
  if (buffer_.size() + n > buffer_bytes) flush();
  if (n >= buffer_bytes) write_through(first, n);
  else buffer_.insert(buffer_.end(), first, first + n);
}

template <class Calls>
void basic_atomic_file_writer<Calls>::write_through(std::byte const* bytes, std::size_t n) {
  while (n != 0) {
    ssize_t const put = Calls::write(file_, bytes, n < writeback_bytes ? n : writeback_bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("write", errno);
    if (put == 0) fail("write", ENOSPC);
    bytes += put;
    n -= static_cast<std::size_t>(put);
    written_ += static_cast<std::uint64_t>(put);
    if (durable_ && written_ - handed_over_ >= writeback_bytes) {
      Calls::start_writeback(file_, static_cast<off_t>(handed_over_), static_cast<off_t>(written_ - handed_over_));
      handed_over_ = written_;
    }
  }
}

template <class Calls>
void basic_atomic_file_writer<Calls>::finish() {
  if (file_ < 0) detail::throw_usage_error({"mortise::atomic_file_writer: commit twice or after a failure"});
  flush();
  if (durable_)
    while (Calls::fsync(file_) != 0)
      if (errno != EINTR) fail("fsync", errno);
  int const file = std::exchange(file_, -1);
  // After EINTR the descriptor is gone on Linux; some network file systems report a failed write only here.
  if (Calls::close(file) != 0 && errno != EINTR) fail("close", errno);
}

template <class Calls>
void basic_atomic_file_writer<Calls>::commit() {
  if (file_ >= 0 || temporary_.empty()) finish();
  if (Calls::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename the temporary file over it", errno);
  temporary_.clear();
  if (!durable_) return;
  std::string const folder = detail::directory_of(target_);
  int directory = -1;
  do directory = Calls::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  while (directory < 0 && errno == EINTR);
  if (directory < 0) throw io_error{folder, "open for fsync (the new file is in place)", errno};
  int result = 0;
  do result = Calls::fsync(directory);
  while (result != 0 && errno == EINTR);
  int const code = errno;
  Calls::close(directory);
  if (result != 0 && code != EINVAL) throw io_error{folder, "fsync (the new file is in place)", code};  // EINVAL: a file system without
}

template <class Calls>
void basic_atomic_file_writer<Calls>::discard() noexcept {
  if (file_ >= 0) Calls::close(std::exchange(file_, -1));
  if (!temporary_.empty()) Calls::unlink(temporary_.c_str());
  temporary_.clear();
}

}  // namespace mortise
