// Metrics that are counted as batches go by. They live where the network lives, and wait for it only when somebody reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/device/host.hpp>
#include <mortise/model/deferred.hpp>
#include <mortise/model/step_memory.hpp>
#include <mortise/operation/count.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

namespace detail {

/// A few numbers in host memory, and what a device has added to them since they were last read.
template <class C>
class counted {
 public:
  explicit counted(std::size_t size) : values_(size, C{}) {}
  counted(counted const& other) : values_{other.read()} {}
  counted(counted&&) noexcept = default;
  counted& operator=(counted other) noexcept {
    values_.swap(other.values_);
    elsewhere_.swap(other.elsewhere_);
    return *this;
  }

  /// Where an operation on this device may add.
  template <class D>
  C* on(D const& device) {
    if constexpr (std::is_same_v<typename D::space, host_space>) return values_.data();
    else return store_on(device).values.data();
  }
  /// A batch's elements where the device can read them.
  template <class D, class T>
  T const* bring(D const& device, T const* elements, std::size_t n) {
    if constexpr (std::is_same_v<typename D::space, host_space>) return elements;
    else return store_on(device).staging.target(device, elements, n);
  }

  /// All of it, in host memory: waits for the device. References into it stay valid.
  std::vector<C>& read() const {
    if (elsewhere_ != nullptr) elsewhere_->take(values_);
    return values_;
  }
  void clear() {
    read();
    for (C& v : values_) v = C{};
  }

 private:
  struct store {
    explicit store(void const* k) : kind{k} {}
    virtual ~store() = default;
    virtual void take(std::vector<C>& to) = 0;  // adds, and begins anew
    void const* kind;  // of device
  };
  template <class D>
  static inline char const kind_of = 0;
  template <class D>
  struct store_of : store {
    store_of(D const& d, std::size_t size) : store{&kind_of<D>}, device{d}, values{d, size} {}
    D device;
    buffer<C, D> values;
    step_memory<D> staging{};
    void take(std::vector<C>& to) override {
      std::vector<C> copy(values.size());
      device.synchronize();
      device.copy(copy.data(), values.data(), values.bytes());
      device.synchronize();
      for (std::size_t i = 0; i < copy.size(); ++i) to[i] += copy[i];
      device.fill_zero(values.data(), values.bytes());
    }
  };

  template <class D>
  store_of<D>& store_on(D const& device) {
    if (elsewhere_ != nullptr && elsewhere_->kind == &kind_of<D>)
      if (auto& known = static_cast<store_of<D>&>(*elsewhere_); known.device == device) return known;
    read();
    auto fresh = std::make_unique<store_of<D>>(device, values_.size());
    auto& reference = *fresh;
    elsewhere_ = std::move(fresh);
    return reference;
  }

  mutable std::vector<C> values_;
  std::unique_ptr<store> elsewhere_{};
};

[[noreturn]] MORTISE_COLD inline void throw_scores(char const* metric, shape const& scores, std::size_t classes, std::size_t wanted) {
  throw shape_error("mortise::" + std::string{metric} + ": scores have shape " + to_string(scores) + ", there are " + std::to_string(classes) +
                    " classes; expected (batch, " + (wanted == 0 ? "classes" : std::to_string(wanted)) + ") and one class a sample");
}
inline void check_scores(char const* metric, shape const& scores, std::size_t classes, std::size_t wanted) {
  if (scores.rank != 2 || scores[0] != classes || (wanted != 0 && scores[1] != wanted)) [[unlikely]]
    throw_scores(metric, scores, classes, wanted);
}

}  // namespace detail

/// The index of the largest of `n` values; the first one among equals, as in PyTorch.
template <class T>
std::size_t argmax(T const* values, std::size_t n) {
  return detail::position_of_largest(values, n);
}

/// The share of samples whose class is among the k highest scores.
///
///     seen.update(net, batch.y);                     what the last forward gave; stays on the network's device, nothing waits
///     seen.update(scores, classes);                  (batch, classes) in host memory
///     ... seen.value()
///
/// Classes outside of the network's (cross entropy's ignore_index) are not counted. Throws shape_error for scores of another shape.
class top_k_accuracy {
 public:
  explicit top_k_accuracy(std::size_t k) : k_{k} {}

  template <class T>
  void update(view<T const> scores, view<std::int64_t const> classes) {
    update_on(host{1}, scores, classes);
  }
  template <class Model>
    requires requires(Model& net) { net.output(); }
  void update(Model& net, view<std::int64_t const> classes) {
    update_on(net.device(), net.output(), classes);
  }
  double value() const {
    auto const& c = counts_.read();
    return c[1] == 0 ? 0.0 : static_cast<double>(c[0]) / static_cast<double>(c[1]);
  }
  std::int64_t correct() const { return counts_.read()[0]; }
  std::int64_t seen() const { return counts_.read()[1]; }
  void reset() { counts_.clear(); }

  template <class Visitor>
  void describe(Visitor&& visit) {
    auto& c = counts_.read();
    visit("correct", c[0]);
    visit("seen", c[1]);
  }

 private:
  template <class D, class T>
  void update_on(D const& device, view<T const> scores, view<std::int64_t const> classes) {
    detail::check_scores(k_ == 1 ? "accuracy" : "top_k_accuracy", scores.extents(), classes.size(), 0);
    count_top_k(device, classes.size(), scores.extent(1), scores.data(), counts_.bring(device, classes.data(), classes.size()), k_, counts_.on(device));
  }

  std::size_t k_;
  detail::counted<std::int64_t> counts_{2};
};

/// The share of samples whose highest score is that of their class.
struct accuracy : top_k_accuracy {
  accuracy() : top_k_accuracy{1} {}
};

/// How the scores of classes become one number: each class alike; each sample alike; each class by how often it occurs.
enum class average { macro, micro, weighted };

/// How often each class was taken for each other one; precision, recall and F1 follow from it.
class confusion_matrix {
 public:
  explicit confusion_matrix(std::size_t classes) : classes_{classes}, counts_{classes * classes} {}

  template <class T>
  void update(view<T const> scores, view<std::int64_t const> classes) {
    update_on(host{1}, scores, classes);
  }
  template <class Model>
    requires requires(Model& net) { net.output(); }
  void update(Model& net, view<std::int64_t const> classes) {
    update_on(net.device(), net.output(), classes);
  }

  std::size_t classes() const { return classes_; }
  /// Samples of class `actual` that were taken for `predicted`.
  std::int64_t operator()(std::size_t actual, std::size_t predicted) const { return counts_.read().at(actual * classes_ + predicted); }
  void reset() { counts_.clear(); }

  double accuracy() const { return scores_of(average::micro).recall; }
  /// Of what was taken for this class, the share that belongs to it; 0 where nothing was.
  double precision(std::size_t c) const { return scores_of(c).precision; }
  /// Of what belongs to this class, the share that was taken for it; 0 where nothing does.
  double recall(std::size_t c) const { return scores_of(c).recall; }
  /// The harmonic mean of both.
  double f1(std::size_t c) const { return scores_of(c).f1; }
  double precision(average how = average::macro) const { return scores_of(how).precision; }
  double recall(average how = average::macro) const { return scores_of(how).recall; }
  double f1(average how = average::macro) const { return scores_of(how).f1; }

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("counts", counts_.read());
  }

 private:
  struct quality {
    double precision = 0, recall = 0, f1 = 0;
  };
  static double share(std::int64_t part, std::int64_t all) { return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all); }

  template <class D, class T>
  void update_on(D const& device, view<T const> scores, view<std::int64_t const> classes) {
    detail::check_scores("confusion_matrix", scores.extents(), classes.size(), classes_);
    count_predictions(device, classes.size(), classes_, scores.data(), counts_.bring(device, classes.data(), classes.size()), counts_.on(device));
  }
  std::int64_t belong(std::vector<std::int64_t> const& n, std::size_t c) const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < classes_; ++i) sum += n[c * classes_ + i];
    return sum;
  }
  MORTISE_COLD quality scores_of(std::size_t c) const {
    if (c >= classes_) throw usage_error("mortise::confusion_matrix: there is no class " + std::to_string(c) + "; there are " + std::to_string(classes_));
    auto const& n = counts_.read();
    std::int64_t taken = 0;
    for (std::size_t i = 0; i < classes_; ++i) taken += n[i * classes_ + c];
    std::int64_t const right = n[c * classes_ + c];
    return {share(right, taken), share(right, belong(n, c)), share(2 * right, taken + belong(n, c))};
  }
  MORTISE_COLD quality scores_of(average how) const {
    auto const& n = counts_.read();
    std::int64_t all = 0, right = 0;
    for (std::size_t c = 0; c < classes_; ++c) {
      all += belong(n, c);
      right += n[c * classes_ + c];
    }
    if (how == average::micro) return {share(right, all), share(right, all), share(right, all)};
    quality mean;
    for (std::size_t c = 0; c < classes_; ++c) {
      quality const s = scores_of(c);
      double const weight = how == average::macro ? 1 / static_cast<double>(classes_) : share(belong(n, c), all);
      mean.precision += weight * s.precision;
      mean.recall += weight * s.recall;
      mean.f1 += weight * s.f1;
    }
    return mean;
  }

  std::size_t classes_;
  detail::counted<std::int64_t> counts_;
};

/// The mean of numbers as they come, weighted: mean_loss.update(mt::train_step(...), batch.size()) leaves the loss where it is.
class running_mean {
 public:
  void update(double value, double weight = 1) { add_weighted(host{}, &value, weight, sums_.on(host{})); }
  template <class T, class D>
  void update(deferred<T, D> const& value, double weight = 1) {
    add_weighted(value.device(), value.data(), weight, sums_.on(value.device()));
  }
  double value() const {
    auto const& s = sums_.read();
    return s[1] == 0 ? 0 : s[0] / s[1];
  }
  void reset() { sums_.clear(); }

  template <class Visitor>
  void describe(Visitor&& visit) {
    auto& s = sums_.read();
    visit("sum", s[0]);
    visit("weight", s[1]);
  }

 private:
  detail::counted<double> sums_{2};
};

}  // namespace mortise
