// What CUDA this machine has, and what is wrong with it if something is.
//
//   cuda_info              lists the devices; the exit status is 0 when at least one can be used
#include <cstdio>
#include <exception>

#include <mortise/device/cuda.cuh>

namespace mt = mortise;

namespace {

double gibibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

void print_version(char const* what, int version) {
  if (version == 0) std::printf("%s: none\n", what);
  else std::printf("%s: CUDA %d.%d\n", what, version / 1000, version % 1000 / 10);
}

}  // namespace

int main() try {
  print_version("driver", mt::cuda::driver_version());
  print_version("runtime", mt::cuda::runtime_version());
  int const count = mt::cuda::device_count();
  if (count == 0) {
    std::printf("no device: %s\n", mt::cuda::problem().c_str());
    return 1;
  }
  bool usable = false;
  for (auto const& visible : mt::cuda::visible_devices()) {
    int const n = visible.logical;
    auto const p = mt::cuda::properties(n);
    std::printf("cuda:%d (the machine's %s): %s, compute capability %d.%d, %d multiprocessors, PCI %s\n", n, visible.physical.c_str(), p.name.c_str(),
                p.major, p.minor, p.multiprocessors, p.pci.empty() ? "unknown" : p.pci.c_str());
    if (auto const problem = mt::cuda::problem(n); !problem.empty()) {
      std::printf("  cannot be used: %s\n", problem.c_str());
      continue;
    }
    usable = true;
    auto const memory = mt::cuda::memory_info(n);
    std::printf("  memory: %.2f GiB, of which %.2f GiB are free\n", gibibytes(memory.total), gibibytes(memory.free));
  }
  std::printf("most free memory first:");
  for (int const n : mt::cuda::by_free_memory()) std::printf(" cuda:%d", n);
  std::printf("\n");
  return usable ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "cuda_info: %s\n", e.what());
  return 1;
}
