// Images and class indices from a pair of IDX files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <mortise/data/idx_file.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// How a byte b becomes a value: (b * scale - mean) / std.
struct idx_options {
  float scale = 1.0f / 255;
  float mean = 0.0f;
  float std = 1.0f;
};

/// Images (bytes) and labels (bytes) from IDX files such as MNIST's. Copies share the bytes.
///
///     auto digits = mt::idx_dataset{"images.idx3", "labels.idx1"};                        // values in [0, 1]
///     auto digits = mt::idx_dataset{"images.idx3", "labels.idx1", {.scale = 1.0f / 16}};   // bytes 0 to 16
///
/// Files (N, rows, columns) give samples of shape (1, rows, columns), one channel; (N, channels, rows, columns) and (N, features) keep
/// their axes. Bytes stay bytes in memory and become floats when a batch is made. Throws data_error naming the file and the reason.
class idx_dataset {
 public:
  using value_type = float;
  using target_type = std::int64_t;
  static constexpr bool in_memory = true;

  idx_dataset(std::string const& images, std::string const& labels, idx_options const& options = {})
      : options_{options}, files_{std::make_shared<files const>(files{read_idx(images), read_idx(labels)})} {
    shape const& all = files_->images.extents;
    shape const& classes = files_->labels.extents;
    if (all.rank < 2) detail::refuse_idx(images, "holds one number for each sample, no images; are images and labels exchanged?");
    if (classes.rank != 1)
      detail::refuse_idx(labels, "holds samples of shape " + to_string(classes.without_batch()) + ", no class indices; are images and labels exchanged?");
    if (all[0] != classes[0])
      detail::refuse_idx(labels, "has " + std::to_string(classes[0]) + " labels for the " + std::to_string(all[0]) + " images of " + images);
    size_ = all[0];
    elements_ = all.without_batch().elements();
    sample_ = all.rank == 3 ? all.without_batch().with_batch(1) : all.without_batch();
    if (!(options_.std > 0)) throw usage_error("mortise::idx_dataset: std must be positive, it is " + std::to_string(options_.std));
    for (int b = 0; b < 256; ++b) value_of_[b] = (static_cast<float>(b) * options_.scale - options_.mean) / options_.std;
  }

  std::size_t size() const { return size_; }
  shape sample_extents() const { return sample_; }
  static constexpr shape target_extents() { return {}; }
  void read(std::size_t i, float* x, std::int64_t* y) const {
    std::uint8_t const* const from = files_->images.bytes.data() + (first_ + i) * elements_;
    for (std::size_t k = 0; k < elements_; ++k) x[k] = value_of_[from[k]];
    *y = files_->labels.bytes[first_ + i];
  }

  /// The first or last n samples, sharing memory. Throws usage_error when there are fewer.
  idx_dataset first(std::size_t n) const { return part("idx_dataset::first", 0, n); }
  idx_dataset last(std::size_t n) const { return part("idx_dataset::last", size_ - n, n); }

 private:
  struct files {
    idx_file images, labels;
  };

  idx_dataset part(char const* what, std::size_t from, std::size_t n) const {
    if (n > size_) detail::refuse_part(what, n, size_);
    idx_dataset r = *this;
    r.first_ += from;
    r.size_ = n;
    return r;
  }

  idx_options options_;
  std::shared_ptr<files const> files_;
  shape sample_;
  std::size_t elements_ = 0;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
  float value_of_[256];
};

}  // namespace mortise
