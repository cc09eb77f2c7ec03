// Samples shifted and scaled to mean 0 and deviation 1, channel by channel.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mortise/data/dataset.hpp>
#include <mortise/detail/error.hpp>

namespace mortise {

/// Mean and standard deviation of each channel, or one of each for all. Compute them on training data, and use the same for all data.
struct normalization {
  std::vector<float> mean;
  std::vector<float> std;
};

/// Mean and standard deviation (biased, as over the whole population) of each index of a sample's first axis, over all samples.
///
/// Two passes in double, in the order of the samples. A constant channel gets deviation 1. Throws usage_error when there are no samples.
template <Dataset D>
normalization compute_normalization(D const& data) {
  shape const sample = data.sample_extents();
  std::size_t const channels = sample.rank > 1 ? sample[0] : 1;
  std::size_t const elements = sample.elements();
  std::size_t const inner = elements / channels;
  if (data.size() == 0) throw usage_error("mortise::compute_normalization: the data set is empty");
  std::vector<typename D::value_type> x(elements);
  std::vector<typename D::target_type> y(static_cast<shape>(data.target_extents()).elements());
  std::vector<double> mean(channels), variance(channels);
  double const count = static_cast<double>(data.size()) * static_cast<double>(inner);
  auto const accumulate = [&](std::vector<double>& sums, auto const& term) {
    for (std::size_t i = 0; i < data.size(); ++i) {
      data.read(i, x.data(), y.data());
      for (std::size_t k = 0; k < elements; ++k) sums[k / inner] += term(static_cast<double>(x[k]), k / inner);
    }
    for (double& sum : sums) sum /= count;
  };
  accumulate(mean, [](double value, std::size_t) { return value; });
  accumulate(variance, [&](double value, std::size_t c) { return (value - mean[c]) * (value - mean[c]); });
  normalization r;
  for (std::size_t c = 0; c < channels; ++c) {
    r.mean.push_back(static_cast<float>(mean[c]));
    r.std.push_back(variance[c] > 0 ? static_cast<float>(std::sqrt(variance[c])) : 1.0f);
  }
  return r;
}

/// (x - mean) / std of a data set's samples, when they are read.
///
///     mt::normalized training{raw, mt::compute_normalization(raw)};
///     mt::normalized testing{raw_test, training.settings()};
///
/// Throws usage_error when the settings have neither one entry nor one for each index of a sample's first axis, or a std is not positive.
template <Dataset D>
class normalized {
 public:
  using value_type = typename D::value_type;
  using target_type = typename D::target_type;
  static constexpr bool in_memory = detail::reads_from_memory<D>();

  normalized(D data, normalization settings) : data_{std::move(data)} {
    shape const sample = data_.sample_extents();
    std::size_t const channels = sample.rank > 0 ? sample[0] : 1;
    std::size_t const given = settings.mean.size();
    if (given != settings.std.size() || (given != 1 && given != channels))
      throw usage_error("mortise::normalized: " + std::to_string(given) + " means and " + std::to_string(settings.std.size()) +
                        " deviations for samples of shape " + to_string(sample) + "; give one of each, or " + std::to_string(channels));
    for (float const s : settings.std)
      if (!(s > 0)) throw usage_error("mortise::normalized: a standard deviation of " + std::to_string(s) + "; it must be positive");
    inner_ = sample.elements() / given;
    settings_ = std::make_shared<normalization const>(std::move(settings));
  }

  normalization const& settings() const { return *settings_; }
  std::size_t size() const { return data_.size(); }
  shape sample_extents() const { return data_.sample_extents(); }
  shape target_extents() const { return data_.target_extents(); }
  void read(std::size_t i, value_type* x, target_type* y) const {
    data_.read(i, x, y);
    for (std::size_t c = 0; c < settings_->mean.size(); ++c, x += inner_) {
      value_type const mean = static_cast<value_type>(settings_->mean[c]);
      value_type const std = static_cast<value_type>(settings_->std[c]);
      for (std::size_t k = 0; k < inner_; ++k) x[k] = (x[k] - mean) / std;
    }
  }

 private:
  D data_;
  std::shared_ptr<normalization const> settings_;
  std::size_t inner_ = 0;
};

}  // namespace mortise
