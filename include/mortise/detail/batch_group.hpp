// Parts of one batch that are computed at the same time and know of each other: what synchronised batch norm needs.
#pragma once

#include <cstddef>
#include <vector>

namespace mortise::detail {

/// One part's end of the connection.
class batch_group {
 public:
  batch_group() = default;
  batch_group(batch_group const&) = delete;
  batch_group& operator=(batch_group const&) = delete;
  virtual ~batch_group() = default;

  virtual std::size_t members() const = 0;
  /// Gives n values and waits for the others': (members, n), in the order of the parts in the batch, valid until the next exchange. Throws
  /// where another part has failed.
  virtual double const* exchange(double const* values, std::size_t n) = 0;

  /// Memory of this part for `n` values to give.
  double* values(std::size_t n) {
    if (values_.size() < n) values_.resize(n);
    return values_.data();
  }

 private:
  std::vector<double> values_;
};

}  // namespace mortise::detail
