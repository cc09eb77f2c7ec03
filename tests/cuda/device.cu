// The device itself: memory, errors, information.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <mortise/device/cuda.cuh>
#include <mortise/tensor/buffer.hpp>

namespace mt = mortise;

TEST_CASE("what is copied to the device comes back, also through a copied buffer") {
  mt::cuda const device{0};
  std::vector<int> from(1000), to(1000);
  for (int i = 0; i < 1000; ++i) from[static_cast<std::size_t>(i)] = i * i;
  mt::buffer<int, mt::cuda> a{device, 1000};
  device.copy(a.data(), from.data(), a.bytes());
  mt::buffer<int, mt::cuda> const b = a;
  device.copy(to.data(), b.data(), b.bytes());
  device.synchronize();
  CHECK(from == to);
}

TEST_CASE("too large an allocation says what was wanted and what is free, and the device goes on") {
  mt::cuda const device{0};
  std::size_t const wanted = mt::cuda::memory_info(0).total * 4;
  bool thrown = false;
  try {
    device.allocate(wanted);
  } catch (mt::out_of_memory const& e) {
    thrown = true;
    CHECK(e.wanted == wanted);
    CHECK(e.free > 0);
    CHECK(e.free <= mt::cuda::memory_info(0).total);
    CHECK(e.name == "cudaErrorMemoryAllocation");
    CHECK(std::string{e.what()}.find("by_free_memory") != std::string::npos);
    CHECK(!e.file.empty());
  }
  CHECK(thrown);
  CHECK(cudaGetLastError() == cudaSuccess);
  mt::buffer<char, mt::cuda> const works{device, 16};
  CHECK(works.data() != nullptr);
}

TEST_CASE("a device that does not exist is refused in words") {
  int const count = mt::cuda::device_count();
  try {
    mt::cuda const none{count};
    CHECK(false);
  } catch (mt::cuda_error const& e) {
    CHECK(std::string{e.what()}.find("there is no device cuda:" + std::to_string(count)) != std::string::npos);
  }
  CHECK_THROWS_AS(mt::cuda::set_device(-1), mt::cuda_error);
}

TEST_CASE("a failed call throws with call, name, text, file and line, and clears the error") {
  try {
    MORTISE_CUDA(cudaMemcpy(nullptr, nullptr, 16, static_cast<cudaMemcpyKind>(77)));
    CHECK(false);
  } catch (mt::cuda_error const& e) {
    CHECK(e.call.rfind("cudaMemcpy(", 0) == 0);
    CHECK(e.name.rfind("cudaError", 0) == 0);
    CHECK(!e.text.empty());
    CHECK(e.file == __FILE__);
    CHECK(e.line > 0);
  }
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("information names devices, their memory and what is visible") {
  REQUIRE(mt::cuda::device_count() > 0);
  CHECK(!mt::cuda::device_name(0).empty());
  auto const memory = mt::cuda::memory_info(0);
  CHECK(memory.free <= memory.total);
  CHECK(memory.total == mt::cuda::properties(0).total_memory);
  auto const order = mt::cuda::by_free_memory();
  REQUIRE(order.size() == static_cast<std::size_t>(mt::cuda::device_count()));
  for (std::size_t i = 1; i < order.size(); ++i) CHECK(mt::cuda::memory_info(order[i - 1]).free >= mt::cuda::memory_info(order[i]).free);
  CHECK(mt::cuda::visible_devices().size() == static_cast<std::size_t>(mt::cuda::device_count()));
  CHECK(mt::cuda::problem(0).empty());
}

TEST_CASE("CUDA_VISIBLE_DEVICES is read by CUDA's rules") {
  using mt::detail::parse_visible_devices;
  auto const list = parse_visible_devices("3, 1", 2);
  REQUIRE(list.size() == 2);
  CHECK(list[0].physical == "3");
  CHECK(list[1].physical == "1");
  CHECK(list[1].logical == 1);
  CHECK(parse_visible_devices("1,x,0", 1).size() == 1);
  CHECK(parse_visible_devices("", 0).empty());
  CHECK(parse_visible_devices("GPU-abc", 1)[0].physical == "GPU-abc");
  CHECK(parse_visible_devices(nullptr, 2)[1].physical == "1");
}

TEST_CASE("set_device and manual_seed mean the device that comes next") {
  mt::cuda::manual_seed_all(5);
  CHECK(mt::cuda::seed_of(0) == 5);
  if (mt::cuda::device_count() > 1) {
    mt::cuda::set_device(1);
    mt::cuda::manual_seed(6);
    CHECK(mt::cuda{}.ordinal == 1);
    CHECK(mt::cuda::seed_of(1) == 6);
    CHECK(mt::cuda::seed_of(0) == 5);
    mt::cuda::set_device(0);
  }
}
