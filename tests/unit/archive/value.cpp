#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include <mortise/archive/value.hpp>

namespace mt = mortise;
using value = mt::archive_value;

TEST_CASE("a tree nested a million deep is built, copied, compared, printed and destroyed without recursion") {
  value tree = 1;
  for (int i = 0; i != 1'000'000; ++i) {
    value outer = i % 2 ? value::list() : value::dict();
    if (outer.is_list()) outer.push_back(std::move(tree));
    else outer.set("k", std::move(tree));
    tree = std::move(outer);
  }
  value const copy = tree;
  CHECK(copy == tree);
  CHECK(to_string(copy, 100).size() < 200);
}

TEST_CASE("a dotted path finds keys that hold dots, integer keys and list positions") {
  value const tree = value::dict({{"model", value::dict({{"features.0.weight", 7}, {"features", value::dict({{"1", 8}})}})},
                                  {"state", value::dict({{0, value::list({value::dict({{"lr", 0.5}})})}})}});
  REQUIRE(tree.find_path("model.features.0.weight"));
  CHECK(tree.find_path("model.features.0.weight")->as_int() == 7);
  CHECK(tree.find_path("model.features.1")->as_int() == 8);
  CHECK(tree.find_path("state.0.0.lr")->as_double() == 0.5);
  for (char const* absent : {"", "model.", "model.features.0", "state.1", "state.0.1", "state.0.00000000000000000000", "model.features.1.x"})
    CHECK(tree.find_path(absent) == nullptr);
}

TEST_CASE("every leaf's dotted name leads back to that leaf") {
  value const tree = value::dict({{"a", value::list({1, value::tuple({2.5, "x"}), value::dict()})}, {3, nullptr}, {"b.c", true}});
  int leaves = 0;
  for_each_leaf(tree, [&](std::string_view name, value const& leaf) {
    CHECK(tree.find_path(name) == &leaf);
    ++leaves;
  });
  CHECK(leaves == 6);
}

TEST_CASE("equality ignores the order of keys, tells integers from floats and zeros apart, and holds NaNs equal") {
  CHECK(value::dict({{"a", 1}, {"b", 2}}) == value::dict({{"b", 2}, {"a", 1}}));
  CHECK_FALSE(value{1} == value{1.0});
  CHECK_FALSE(value{0.0} == value{-0.0});
  CHECK(value{std::nan("")} == value{-std::nan("")});
  CHECK_FALSE(value::list({1}) == value::tuple({1}));
  CHECK_FALSE(value::dict({{1, 2}}) == value::dict({{"1", 2}}));
  CHECK_FALSE(value{"a"} == value::bytes("a"));
}

TEST_CASE("asking a value for what it is not is an error that says both kinds") {
  CHECK_THROWS_WITH_AS((void)value{"x"}.as_int(), "mortise: an archive's value is a string, not an integer", mt::usage_error);
  CHECK_THROWS_AS((void)value{1.5}.as_int(), mt::usage_error);
  CHECK(value{2.0}.as_int() == 2);
  CHECK(value{2}.as_double() == 2.0);
  CHECK_THROWS_AS((void)value::dict().at("k"), mt::usage_error);
}
