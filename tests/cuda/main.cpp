// Exits with 77, which Meson reports as skipped, where there is no CUDA device, real or emulated.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

extern "C" int cudaGetDeviceCount(int*);  // as the runtime declares it: without its headers g++ takes a third of nvcc's time

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != 0 || devices == 0) {
    std::puts("skipped: no CUDA device and no emulator");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
