#include <doctest/doctest.h>

#include <mortise/optimizer/path_pattern.hpp>

using mortise::path_matches;

static_assert(path_matches("features", "features.0.weight"));
static_assert(path_matches("features.*", "features.0.weight"));
static_assert(path_matches("features.0.weight", "features.0.weight"));
static_assert(!path_matches("features.0.weight", "features.0.weight_v"));
static_assert(!path_matches("feature", "features.0.weight"));
static_assert(!path_matches("features.0", "features.01.weight"));
static_assert(!path_matches("features.*", "features"));
static_assert(path_matches("**.bias", "bias"));
static_assert(path_matches("**.bias", "a.b.c.bias"));
static_assert(!path_matches("**.bias", "a.b.weight"));
static_assert(path_matches("*.weight", "0.weight"));
static_assert(!path_matches("*.weight", "0.1.weight"));
static_assert(path_matches("layer*.**.conv*.weight", "layer3.0.conv2.weight"));
static_assert(path_matches("layer*.**.conv*.weight", "layer3.conv.weight"));
static_assert(!path_matches("layer*.**.conv*.weight", "layer3.0.bn2.weight"));
static_assert(path_matches("**", "anything.at.all"));
static_assert(path_matches("a.**.b.**.c", "a.x.b.b.y.c"));
static_assert(!path_matches("a.**.b.**.c", "a.x.b.b.y.d"));

TEST_CASE("a pattern without stars means exactly what is under it") {
  CHECK(path_matches("classifier", "classifier.weight"));
  CHECK_FALSE(path_matches("classifier.weight.x", "classifier.weight"));
}
