// Parts of data sets.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mortise/data/dataset.hpp>
#include <mortise/detail/error.hpp>

namespace mortise {

/// Some samples of a data set, in the order of their indices; an index may come more than once.
///
/// Throws usage_error when an index is too large.
template <Dataset D>
class subset {
 public:
  using value_type = typename D::value_type;
  using target_type = typename D::target_type;
  static constexpr bool in_memory = detail::reads_from_memory<D>();

  subset(D data, std::vector<std::size_t> indices) : data_{std::move(data)} {
    for (std::size_t const i : indices)
      if (i >= data_.size())
        throw usage_error("mortise::subset: index " + std::to_string(i) + " in a data set of " + std::to_string(data_.size()) + " samples");
    indices_ = std::make_shared<std::vector<std::size_t> const>(std::move(indices));
  }

  std::size_t size() const { return indices_->size(); }
  shape sample_extents() const { return data_.sample_extents(); }
  shape target_extents() const { return data_.target_extents(); }
  void read(std::size_t i, value_type* x, target_type* y) const { data_.read((*indices_)[i], x, y); }

 private:
  D data_;
  std::shared_ptr<std::vector<std::size_t> const> indices_;
};

/// The first n samples, and the others.  `auto [training, testing] = mt::split(digits, 1437);`
template <Dataset D>
std::pair<D, D> split(D const& data, std::size_t n)
  requires requires { data.first(n); data.last(n); }
{
  auto head = data.first(n);
  return {std::move(head), data.last(data.size() - n)};
}

}  // namespace mortise
