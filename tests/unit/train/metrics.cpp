// Metrics against counts by hand and against published numbers.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/metrics.hpp>

namespace mt = mortise;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

mt::view<float const> rows(std::vector<float> const& scores, std::size_t classes) {
  return {scores.data(), mt::shape{scores.size() / classes, classes}};
}
/// Scores whose highest is that of the class.
std::vector<float> predicting(std::vector<std::size_t> const& classes, std::size_t count) {
  std::vector<float> scores(classes.size() * count);
  for (std::size_t i = 0; i < classes.size(); ++i) scores[i * count + classes[i]] = 1;
  return scores;
}

}  // namespace

TEST_CASE("accuracy counts over batches, the first among equals, and no class that is ignored") {
  mt::accuracy right;
  CHECK(right.value() == 0.0);
  std::vector<float> const scores{1, 2, 3, 5, 5, 1, 0, 0, 0, -1, -2, -3};
  std::vector<std::int64_t> const classes{2, 1, 0, -100};
  right.update(rows(scores, 3), classes);
  CHECK(right.correct() == 2);  // the 5 at position 0 comes before the one at 1
  CHECK(right.seen() == 3);
  right.update(rows(scores, 3), classes);
  CHECK(right.value() == doctest::Approx(2.0 / 3));
  mt::accuracy copy = right;
  right.reset();
  CHECK(right.seen() == 0);
  CHECK(copy.seen() == 6);
  CHECK_THROWS_WITH_AS(right.update(rows(scores, 4), classes), doctest::Contains("scores have shape (3, 4), there are 4 classes"), mt::shape_error);
}

TEST_CASE("a NaN is never right") {
  mt::accuracy right;
  mt::top_k_accuracy all{3};
  std::vector<float> const scores{not_a_number, not_a_number, not_a_number, not_a_number, 1, 2};
  std::vector<std::int64_t> const classes{0, 2};
  right.update(rows(scores, 3), classes);
  all.update(rows(scores, 3), classes);
  CHECK(right.correct() == 1);
  CHECK(all.correct() == 1);
  CHECK(mt::argmax(scores.data() + 3, 3) == 2);
}

TEST_CASE("top k takes the class among the k highest") {
  std::vector<float> const scores{4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1};
  std::vector<std::int64_t> const classes{0, 1, 2, 3};
  for (std::size_t k = 1; k <= 5; ++k) {
    mt::top_k_accuracy m{k};
    m.update(rows(scores, 4), classes);
    CHECK(m.correct() == static_cast<std::int64_t>(k < 4 ? k : 4));
  }
}

TEST_CASE("precision, recall and F1 are those of scikit-learn's documentation") {
  // sklearn.metrics.precision_recall_fscore_support and its neighbours: y_true, y_pred and the results as printed there.
  std::vector<std::int64_t> const actual{0, 1, 2, 0, 1, 2};
  mt::confusion_matrix m{3};
  m.update(rows(predicting({0, 2, 1, 0, 0, 1}, 3), 3), actual);
  CHECK(m(0, 0) == 2);
  CHECK(m(1, 2) == 1);
  CHECK(m(2, 1) == 2);
  CHECK(m.accuracy() == doctest::Approx(1.0 / 3));
  CHECK(m.precision(0) == doctest::Approx(0.66666).epsilon(1e-4));
  CHECK(m.recall(0) == 1.0);
  CHECK(m.f1(0) == doctest::Approx(0.8));
  CHECK(m.f1(1) == 0.0);
  CHECK(m.precision() == doctest::Approx(0.2222).epsilon(1e-3));
  CHECK(m.precision(mt::average::micro) == doctest::Approx(0.3333).epsilon(1e-3));
  CHECK(m.precision(mt::average::weighted) == doctest::Approx(0.2222).epsilon(1e-3));
  CHECK(m.recall(mt::average::macro) == doctest::Approx(0.3333).epsilon(1e-3));
  CHECK(m.f1(mt::average::macro) == doctest::Approx(0.2667).epsilon(1e-3));
  CHECK(m.f1(mt::average::micro) == doctest::Approx(0.3333).epsilon(1e-3));
  CHECK(m.f1(mt::average::weighted) == doctest::Approx(0.2667).epsilon(1e-3));
  CHECK_THROWS_AS(m.f1(3), mt::usage_error);
  CHECK_THROWS_AS(m.update(rows(predicting({0}, 4), 4), std::vector<std::int64_t>{0}), mt::shape_error);

  // Weighted by how often a class occurs: 0 three times, 1 once.
  mt::confusion_matrix uneven{2};
  uneven.update(rows(predicting({0, 0, 1, 1}, 2), 2), std::vector<std::int64_t>{0, 0, 0, 1});
  CHECK(uneven.precision(mt::average::weighted) == doctest::Approx(0.75 * 1 + 0.25 * 0.5));
  CHECK(uneven.recall(mt::average::weighted) == doctest::Approx(0.75 * (2.0 / 3) + 0.25));
  uneven.reset();
  CHECK(uneven.accuracy() == 0.0);
}

TEST_CASE("a mean takes numbers and losses that still lie on their device") {
  mt::running_mean mean;
  mean.update(1.0, 3);
  mean.update(2.0);
  CHECK(mean.value() == 1.25);

  using net_type = mt::model<mt::sequential<mt::linear<3>>, mt::extents<2>>;
  net_type net{mt::host{1}, mt::seed{2}};
  std::vector<float> const x{1, 2, 3, 4};
  std::vector<std::int64_t> const y{0, 2};
  mt::accuracy right;
  net.forward(x);
  auto loss = net.backward(mt::cross_entropy_loss{}, y);
  mean.reset();
  mean.update(loss, 2);
  CHECK(mean.value() == static_cast<double>(static_cast<float>(loss)));
  right.update(net, y);
  CHECK(right.seen() == 2);
  auto const scores = net.output();
  CHECK(right.correct() == (mt::argmax(scores.data(), 3) == 0 ? 1 : 0) + (mt::argmax(scores.data() + 3, 3) == 2 ? 1 : 0));

  std::map<std::string, double> described;
  mean.describe([&](std::string_view name, double& value) { described[std::string{name}] = value; });
  CHECK(described.at("weight") == 2);
}
