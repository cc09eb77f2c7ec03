// Counts the bytes that live on the heap. A unit of its own: where the compiler sees both sides, it warns that delete does not belong to new.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <malloc.h>

#include "counted_memory.hpp"

static std::size_t live = 0;
static std::size_t peak = 0;
static std::size_t limit = static_cast<std::size_t>(-1);

std::size_t live_bytes() { return live; }
std::size_t peak_bytes() { return peak; }
void start_peak(std::size_t most) {
  peak = live;
  limit = most == 0 ? static_cast<std::size_t>(-1) : live + most;
}

static void* counted(std::size_t bytes) {
  if (bytes > limit - std::min(limit, live)) throw std::bad_alloc{};
  void* const p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc{};
  live += malloc_usable_size(p);
  peak = std::max(peak, live);
  return p;
}
static void release(void* p) {
  if (p == nullptr) return;
  live -= malloc_usable_size(p);
  std::free(p);
}

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete[](void* p, std::size_t) noexcept { release(p); }
