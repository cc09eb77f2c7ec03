#include <mortise/data/idx_dataset.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/data/normalized.hpp>
#include <mortise/data/subset.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "samples.hpp"

namespace mt = mortise;

static_assert(mt::Dataset<numbered_samples>);
static_assert(mt::Dataset<mt::idx_dataset>);
static_assert(mt::Dataset<mt::in_memory_dataset<mt::extents<1, 28, 28>>>);
static_assert(mt::Dataset<mt::in_memory_dataset<mt::extents<4>, float, double, mt::extents<2>>>);
static_assert(mt::Dataset<mt::subset<mt::idx_dataset>>);
static_assert(mt::Dataset<mt::normalized<mt::idx_dataset>>);
static_assert(!mt::Dataset<int>);
static_assert(!mt::Dataset<std::vector<float>>);
static_assert(!mt::Dataset<mt::batch<>>);

namespace {

using bytes = std::vector<unsigned char>;

struct temporary_file {
  std::string path;
  explicit temporary_file(bytes const& content) {
    static int count = 0;
    path = std::string{TEST_FOLDER} + "/idx-" + std::to_string(count++);
    std::FILE* const f = std::fopen(path.c_str(), "wb");
    REQUIRE(f != nullptr);
    if (!content.empty()) REQUIRE(std::fwrite(content.data(), 1, content.size(), f) == content.size());
    REQUIRE(std::fclose(f) == 0);
  }
  temporary_file(temporary_file const&) = delete;
  ~temporary_file() { std::remove(path.c_str()); }
};

bytes idx(std::vector<std::uint32_t> axes, bytes const& data, unsigned char type = 8) {
  bytes r{0, 0, type, static_cast<unsigned char>(axes.size())};
  for (std::uint32_t const n : axes)
    for (int shift : {24, 16, 8, 0}) r.push_back(static_cast<unsigned char>(n >> shift));
  r.insert(r.end(), data.begin(), data.end());
  return r;
}

void refused(bytes const& content, char const* reason) {
  temporary_file const file{content};
  CHECK_THROWS_AS(mt::read_idx(file.path), mt::data_error);
  CHECK_THROWS_WITH(mt::read_idx(file.path), doctest::Contains(reason));
  CHECK_THROWS_WITH(mt::read_idx(file.path), doctest::Contains(file.path.c_str()));
}

}  // namespace

TEST_CASE("an IDX file is read as its header says") {
  temporary_file const file{idx({2, 1, 3}, {1, 2, 3, 253, 254, 255})};
  auto const r = mt::read_idx(file.path);
  CHECK(r.extents == mt::shape{2, 1, 3});
  CHECK(r.bytes == bytes{1, 2, 3, 253, 254, 255});
}

TEST_CASE("a file that is not what an IDX file should be is refused with its name and the reason") {
  refused({}, "no IDX file");
  refused({0, 0, 8}, "no IDX file");
  refused({0x1f, 0x8b, 8, 0}, "gunzip");
  refused({'P', 'K', 3, 4, 0, 0}, "two zero bytes");
  refused(idx({1}, {0, 0, 0, 0}, 0x0d), "type 13");
  refused(idx({}, {}), "0 axes");
  refused(idx({1, 1, 1, 1, 1, 1, 1, 1}, {0}), "8 axes");
  refused(idx({2, 0, 3}, {}), "length 0");
  refused(idx({0xffffffffu, 0xffffffffu, 0xffffffffu}, {1}), "more elements than any file");
  refused(idx({0xffffffffu, 0x3fffffffu}, {1}), "truncated");
  refused(idx({2, 3}, {1, 2, 3, 4, 5}), "truncated");
  refused(idx({2, 3}, {1, 2, 3, 4, 5, 6, 7}), "followed by something else");
  CHECK_THROWS_WITH(mt::read_idx("/nonexistent/images"), doctest::Contains("/nonexistent/images: cannot be opened: No such file"));
  CHECK_THROWS_AS(mt::read_idx(TEST_FOLDER), mt::data_error);
}

TEST_CASE("an IDX file cut at any byte is refused") {
  bytes const whole = idx({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  for (std::size_t n = 0; n < whole.size(); ++n) {
    temporary_file const file{bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n))};
    CHECK_THROWS_AS(mt::read_idx(file.path), mt::data_error);
  }
}

TEST_CASE("images and labels that do not belong together are refused") {
  temporary_file const images{idx({2, 1, 2}, {1, 2, 3, 4})};
  temporary_file const labels{idx({2}, {0, 1})};
  temporary_file const more_labels{idx({3}, {0, 1, 2})};
  CHECK_THROWS_WITH((mt::idx_dataset{images.path, more_labels.path}), doctest::Contains("3 labels for the 2 images"));
  CHECK_THROWS_WITH((mt::idx_dataset{labels.path, images.path}), doctest::Contains("exchanged"));
  CHECK_THROWS_WITH((mt::idx_dataset{images.path, images.path}), doctest::Contains("exchanged"));
  CHECK_THROWS_AS((mt::idx_dataset{images.path, labels.path, {.std = 0}}), mt::usage_error);
}

TEST_CASE("bytes become (b * scale - mean) / std, and axes become those of a sample") {
  temporary_file const images{idx({2, 1, 2}, {0, 255, 51, 102})};
  temporary_file const labels{idx({2}, {3, 200})};
  float x[2];
  std::int64_t y = 0;
  mt::idx_dataset const plain{images.path, labels.path};
  CHECK(plain.size() == 2);
  CHECK(plain.sample_extents() == mt::shape{1, 1, 2});
  plain.read(0, x, &y);
  CHECK(x[0] == 0.0f);
  CHECK(x[1] == 255 * (1.0f / 255));
  CHECK(y == 3);
  mt::idx_dataset const scaled{images.path, labels.path, {.scale = 0.5f, .mean = 1.0f, .std = 4.0f}};
  scaled.read(1, x, &y);
  CHECK(x[0] == (51 * 0.5f - 1) / 4);
  CHECK(x[1] == (102 * 0.5f - 1) / 4);
  CHECK(y == 200);

  temporary_file const color{idx({2, 3, 1, 1}, {1, 2, 3, 4, 5, 6})};
  CHECK(mt::idx_dataset{color.path, labels.path}.sample_extents() == mt::shape{3, 1, 1});
  temporary_file const features{idx({2, 3}, {1, 2, 3, 4, 5, 6})};
  CHECK(mt::idx_dataset{features.path, labels.path}.sample_extents() == mt::shape{3});
}

TEST_CASE("the digits that come with the project are all there") {
  mt::idx_dataset const digits{DIGITS "/digits-images.idx3-ubyte", DIGITS "/digits-labels.idx1-ubyte", {.scale = 1.0f / 16}};
  REQUIRE(digits.size() == 1797);
  CHECK(digits.sample_extents() == mt::shape{1, 8, 8});
  // scikit-learn's documentation of load_digits: values 0 to 16, about 180 samples a class; its first sample's first row and label.
  std::vector<float> x(64);
  std::int64_t y = -1;
  digits.read(0, x.data(), &y);
  CHECK(y == 0);
  CHECK(std::vector<float>(x.begin(), x.begin() + 8) == std::vector<float>{0, 0, 5.f / 16, 13.f / 16, 9.f / 16, 1.f / 16, 0, 0});
  int per_class[10] = {};
  for (std::size_t i = 0; i < digits.size(); ++i) {
    digits.read(i, x.data(), &y);
    REQUIRE(y >= 0);
    REQUIRE(y < 10);
    ++per_class[y];
    for (float const value : x) REQUIRE((value >= 0 && value <= 1));
  }
  CHECK(std::vector<int>(per_class, per_class + 10) == std::vector<int>{178, 182, 177, 183, 181, 182, 181, 179, 174, 180});
}

TEST_CASE("values that make no whole samples, or too few targets, are refused with both numbers") {
  using data = mt::in_memory_dataset<mt::extents<1, 2, 2>>;
  CHECK_THROWS_AS((data{std::vector<float>(9), std::vector<std::int64_t>(2)}), mt::shape_error);
  CHECK_THROWS_WITH((data{std::vector<float>(9), std::vector<std::int64_t>(2)}), doctest::Contains("9 values of x are no whole number of samples of shape (1, 2, 2)"));
  CHECK_THROWS_WITH((data{std::vector<float>(8), std::vector<std::int64_t>(3)}), doctest::Contains("y should hold 2 values, but it holds 3"));
  using regression = mt::in_memory_dataset<mt::extents<1>, float, float, mt::extents<2>>;
  CHECK_THROWS_WITH((regression{std::vector<float>(3), std::vector<float>(3)}), doctest::Contains("y should hold 6 values ((2) for each), but it holds 3"));
  CHECK(data{{}, {}}.size() == 0);
}

TEST_CASE("parts of a data set hold its samples in order") {
  mt::in_memory_dataset<mt::extents<1>> const data{std::vector<float>{0, 1, 2, 3, 4}, std::vector<std::int64_t>{0, 10, 20, 30, 40}};
  auto const check = [](auto const& part, std::vector<float> const& expected) {
    REQUIRE(part.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      float x = -1;
      std::int64_t y = -1;
      part.read(i, &x, &y);
      CHECK(x == expected[i]);
      CHECK(y == static_cast<std::int64_t>(expected[i]) * 10);
    }
  };
  check(data.first(2), {0, 1});
  check(data.last(2), {3, 4});
  check(data.last(4).first(2).last(1), {2});
  check(data.first(0), {});
  check(mt::subset{data, {4, 0, 4}}, {4, 0, 4});
  auto const [head, tail] = mt::split(data, 3);
  check(head, {0, 1, 2});
  check(tail, {3, 4});
  CHECK_THROWS_AS(data.first(6), mt::usage_error);
  CHECK_THROWS_AS(data.last(6), mt::usage_error);
  CHECK_THROWS_AS((mt::subset{data, {5}}), mt::usage_error);
}

TEST_CASE("normalised samples have mean 0 and deviation 1 in every channel") {
  // Three channels of two values: an arbitrary one, a constant one, one far from zero.
  std::vector<float> x;
  for (int i = 0; i < 50; ++i)
    for (float const value : {static_cast<float>(i % 7), static_cast<float>(i % 3), 4.0f, 4.0f, 1000.0f + static_cast<float>(i), 1000.0f}) x.push_back(value);
  mt::in_memory_dataset<mt::extents<3, 2>> const raw{x, std::vector<std::int64_t>(50)};
  auto const settings = mt::compute_normalization(raw);
  REQUIRE(settings.mean.size() == 3);
  CHECK(settings.mean[1] == 4.0f);
  CHECK(settings.std[1] == 1.0f);
  mt::normalized const data{raw, settings};
  auto const after = mt::compute_normalization(data);
  for (std::size_t c : {0u, 2u}) {
    // One rounding of mean and of std to float, relative to values of up to 1000 over deviations of about 18.
    CHECK(std::abs(after.mean[c]) < 1000.0f / 18 * 0x1p-22f);
    CHECK(std::abs(after.std[c] - 1) < 0x1p-21f);
  }
  CHECK(after.mean[1] == 0.0f);
  float got[6];
  std::int64_t y = 0;
  mt::normalized const plain{raw, {{1.0f}, {2.0f}}};
  plain.read(1, got, &y);
  CHECK(got[0] == 0.0f);
  CHECK(got[4] == 500.0f);
  CHECK_THROWS_AS((mt::normalized{raw, {{1.0f, 2.0f}, {1.0f, 2.0f}}}), mt::usage_error);
  CHECK_THROWS_AS((mt::normalized{raw, {{1.0f}, {0.0f}}}), mt::usage_error);
  CHECK_THROWS_AS(mt::compute_normalization(raw.first(0)), mt::usage_error);
}
