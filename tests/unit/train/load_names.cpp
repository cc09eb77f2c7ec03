// Parameters of one network into another: names are changed, chosen, explained; every difference is reported by name, and no mistake in an
// option is silent.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <mortise/model/model.hpp>
#include <mortise/module/batch_norm.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/train/state_dict.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;

namespace {

template <std::size_t Classes>
using body_and_head =
    mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::relu, mt::linear<5>>>, mt::named<"fc", mt::linear<Classes>>>;
template <class Network>
using on_four = mt::model<Network, mt::extents<4>>;
using net_type = on_four<body_and_head<3>>;

template <class Net>
std::vector<float> values(Net& net, char const* name) {
  return net.parameter(name).to_vector();
}

/// The words of the load_error, and the promise that it has changed nothing.
template <class Net>
std::string refusal(std::string const& path, Net& net, mt::load_options const& options = {}) {
  auto const before = net.parameters().to_vector();
  std::string words = "no error";
  try {
    mt::load(path, net, options);
  } catch (mt::load_error const& e) {
    words = e.what();
  }
  CHECK(net.parameters().to_vector() == before);
  return words;
}
bool says(std::string const& text, std::string const& words) {
  INFO(text);
  bool const found = text.find(words) != std::string::npos;
  CHECK_MESSAGE(found, words);
  return found;
}

}  // namespace

TEST_CASE("a pretrained body loads under another head from every format, and the report has every name") {
  temporary_folder const folder;
  net_type source{mt::host{}, mt::seed{3}};
  for (char const* name : {"weights.safetensors", "weights.pt", "weights.npz"}) {
    std::string const path = folder.file(name);
    mt::save(path, source);
    on_four<body_and_head<7>> target{mt::host{}, mt::seed{4}};
    auto const head = values(target, "fc.weight");
    auto const report = mt::load(path, target, {.strict = false});
    CHECK(report.loaded == std::vector<std::string>{"features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias", "features.1.running_mean",
                                                    "features.1.running_var", "features.1.num_batches_tracked", "features.3.weight", "features.3.bias"});
    REQUIRE(report.mismatched.size() == 2);
    CHECK(report.mismatched[0].name == "fc.weight");
    CHECK(report.mismatched[0].found == "float32 (3, 5)");
    CHECK(report.mismatched[0].expected == "float32 (7, 5)");
    CHECK(report.missing.empty());
    CHECK(report.unexpected.empty());
    says(mt::to_string(report), "loaded (9): features.0.weight");
    says(mt::to_string(report), "mismatched (2): fc.weight (file float32 (3, 5), model float32 (7, 5))");
    CHECK(values(target, "features.3.weight") == values(source, "features.3.weight"));
    CHECK(values(target, "fc.weight") == head);

    std::string const words = refusal(path, target);
    says(words, "only `fc` has another shape (fc.weight: file float32 (3, 5), model float32 (7, 5))");
    says(words, "pass {.strict = false}");
  }
}

TEST_CASE("PyTorch's files load alike: zip, legacy, safetensors") {
  on_four<mt::sequential<mt::linear<10>, mt::named<"fc2", mt::linear<3>>>> net{mt::host{}, mt::seed{4}};
  std::vector<float> weights;
  for (char const* name : {"zip/lenetish_state.pt", "legacy/lenetish_state.pth", "safetensors/lenetish.safetensors"}) {
    net.initialize(mt::seed{5});
    auto const report = mt::load(std::string{MORTISE_TEST_DATA "/corpus/"} + name, net, {.strict = false, .only = {"fc2"}});
    CHECK(report.loaded == std::vector<std::string>{"fc2.weight", "fc2.bias"});
    CHECK(report.complete());
    if (weights.empty()) weights = values(net, "fc2.weight");
    CHECK(values(net, "fc2.weight") == weights);
  }
}

TEST_CASE("a head of another name is missing on one side and unexpected on the other") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  net_type source{mt::host{}, mt::seed{3}};
  mt::save(path, source);
  on_four<mt::sequential<mt::named<"features", mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::relu, mt::linear<5>>>, mt::named<"head", mt::linear<9>>>> net;
  std::string const words = refusal(path, net);
  says(words, "missing in the file (2): head.weight, head.bias");
  says(words, "unexpected in the file (2): fc.bias, fc.weight");
  auto const report = mt::load(path, net, {.strict = false});
  CHECK(report.loaded.size() == 9);
  CHECK(report.missing.size() == 2);
  CHECK(report.unexpected.size() == 2);
  CHECK(report.advice.empty());  // other shapes: no renaming would help
}

TEST_CASE("another type is a mismatch with both types, where it does not convert") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  on_four<mt::sequential<mt::linear<2>>> net{mt::host{}, mt::seed{3}};
  std::vector<std::int64_t> const integers(8, 1);
  std::vector<double> const reals(2, 0.5);
  mt::archive_value dict = mt::archive_value::dict();
  mt::tensor_ref weight;
  weight.type = mt::element_type::i64;
  weight.shape = {2, 4};
  weight.data = reinterpret_cast<std::byte const*>(integers.data());
  dict.set("0.weight", weight);
  mt::tensor_ref bias;
  bias.type = mt::element_type::f64;
  bias.shape = {2};
  bias.data = reinterpret_cast<std::byte const*>(reals.data());
  dict.set("0.bias", bias);
  mt::save_archive(path, dict);
  says(refusal(path, net), "mismatched (1): 0.weight (file int64 (2, 4), model float32 (2, 4))");
  auto const report = mt::load(path, net, {.strict = false});
  CHECK(report.loaded == std::vector<std::string>{"0.bias"});  // a wider float converts
  CHECK(net.parameter("0.bias")[1] == 0.5f);
}

TEST_CASE("the advice finds a prefix of the file, one of the model, and parts with other names") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  on_four<mt::sequential<mt::named<"net", mt::sequential<mt::named<"model", body_and_head<3>>>>>> wrapped{mt::host{}, mt::seed{3}};
  net_type plain{mt::host{}, mt::seed{4}};
  mt::save(path, wrapped);
  std::string words = refusal(path, plain);
  says(words, "all 11 names match after removing `net.model.`; pass {.strip_prefix = \"net.model.\"}");
  words = refusal(path, plain, {.strict = false});  // nothing at all would be loaded: that is never meant
  says(words, "nothing in this file fits the model: all 11 names match after removing `net.model.`");
  CHECK(mt::load(path, plain, {.strip_prefix = "net.model."}).complete());
  CHECK(values(plain, "fc.weight") == values(wrapped, "net.model.fc.weight"));

  mt::save(path, plain);
  words = refusal(path, wrapped);
  says(words, "all 11 names match after adding `net.model.`; pass {.add_prefix = \"net.model.\"}");
  CHECK(mt::load(path, wrapped, {.add_prefix = "net.model."}).complete());

  on_four<mt::sequential<mt::named<"trunk", mt::sequential<mt::named<"layers", mt::sequential<mt::linear<6>, mt::batch_norm1d, mt::relu, mt::linear<5>>>>>,
                         mt::named<"head", mt::linear<3>>>>
      other{mt::host{}, mt::seed{5}};
  words = refusal(path, other);
  says(words, "all 11 names match after renaming `features.` to `trunk.layers.`, `fc.` to `head.`");
  says(words, "pass {.rename = {{\"features.\", \"trunk.layers.\"}, {\"fc.\", \"head.\"}}}");
  CHECK(mt::load(path, other, {.rename = {{"features.", "trunk.layers."}, {"fc.", "head."}}}).complete());
  CHECK(values(other, "head.bias") == values(plain, "fc.bias"));
}

TEST_CASE("renames are whole names, prefixes and patterns, and the first that fits counts") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  using blocks = mt::sequential<mt::named<"a", mt::sequential<mt::named<"x", mt::linear<4>>>>, mt::named<"b", mt::sequential<mt::named<"x", mt::linear<4>>>>>;
  using layers = mt::sequential<mt::named<"a", mt::sequential<mt::named<"dense", mt::sequential<mt::named<"y", mt::linear<4>>>>>>,
                                mt::named<"b", mt::sequential<mt::named<"dense", mt::sequential<mt::named<"y", mt::linear<4>>>>>>>;
  on_four<mt::sequential<mt::named<"blocks", blocks>>> source{mt::host{}, mt::seed{3}};
  on_four<mt::sequential<mt::named<"layers", layers>>> target{mt::host{}, mt::seed{4}};
  mt::save(path, source);
  CHECK(mt::load(path, target, {.rename = {{"blocks.*.x.**", "layers.*.dense.y.**"}}}).complete());
  CHECK(values(target, "layers.b.dense.y.weight") == values(source, "blocks.b.x.weight"));

  target.initialize(mt::seed{9});
  CHECK(mt::load(path, target, {.rename = {{"blocks.a.x.weight", "layers.a.dense.y.weight"}, {"blocks.*.x.", "layers.*.dense.y."}}}).complete());
  CHECK(values(target, "layers.a.dense.y.weight") == values(source, "blocks.a.x.weight"));
  CHECK(values(target, "layers.b.dense.y.bias") == values(source, "blocks.b.x.bias"));
}

TEST_CASE("only the paths that were asked for are loaded, and only they can be missing") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  net_type source{mt::host{}, mt::seed{3}};
  mt::save(path, source);
  on_four<body_and_head<7>> target{mt::host{}, mt::seed{4}};
  auto const before = values(target, "features.3.weight");
  auto const report = mt::load(path, target, {.only = {"features.0", "features.1"}});  // strict
  CHECK(report.loaded.size() == 7);
  CHECK(report.complete());
  CHECK(values(target, "features.0.weight") == values(source, "features.0.weight"));
  CHECK(values(target, "features.3.weight") == before);
  CHECK(mt::load(path, target, {.only = {"features.*.weight"}}).loaded.size() == 3);
}

TEST_CASE("an option that fits nothing is an error, strict or not") {
  temporary_folder const folder;
  std::string const path = folder.file("weights.safetensors");
  net_type net{mt::host{}, mt::seed{3}};
  mt::save(path, net);
  for (bool const strict : {true, false}) {
    std::string words = refusal(path, net, {.strict = strict, .rename = {{"classifer.", "fc."}}});
    says(words, ".rename: \"classifer.\" fits no name in the file; nothing was loaded. There are: ");
    words = refusal(path, net, {.strict = strict, .only = {"feature"}});
    says(words, ".only: \"feature\" fits no name in the model; nothing was loaded. There are: features.0.weight");
    words = refusal(path, net, {.strict = strict, .rename = {{"features.0.", "fc."}}});
    says(words, "of the file both become \"fc.");
    CHECK_THROWS_WITH_AS(mt::load(path, net, {.strict = strict, .rename = {{"features.*.weight", "fc.weight"}}}),
                         doctest::Contains("the old name has 1 wildcards, the new one 0"), mt::usage_error);
  }
}

TEST_CASE("one of several networks in a file loads by its prefix, a list of parameters by renaming, and a file of no tensors says so") {
  temporary_folder const folder;
  using value = mt::archive_value;
  net_type source{mt::host{}, mt::seed{3}}, other{mt::host{}, mt::seed{5}}, target{mt::host{}, mt::seed{4}};
  for (char const* name : {"two.pt", "two.safetensors"}) {
    std::string const path = folder.file(name);
    mt::save_archive(path, value::dict({{"generator", mt::state_dict(source)}, {"discriminator", mt::state_dict(other)}, {"epoch", 3}}));
    says(refusal(path, target), "11 of 22 names match after removing `discriminator.`; pass {.strip_prefix = \"discriminator.\"}");
    mt::load(path, target, {.strict = false, .strip_prefix = "discriminator."});
    CHECK(target.parameters().to_vector() == other.parameters().to_vector());
    mt::load(path, target, {.strict = false, .strip_prefix = "generator."});
    CHECK(target.parameters().to_vector() == source.parameters().to_vector());
  }
  using one_layer = on_four<mt::linear<2>>;
  one_layer layer{mt::host{}, mt::seed{3}}, again{mt::host{}, mt::seed{4}};
  value const state = mt::state_dict(layer);
  mt::save_archive(folder.file("list.pt"), value::list({*state.find("weight"), *state.find("bias")}));
  mt::load(folder.file("list.pt"), again, {.rename = {{"0", "weight"}, {"1", "bias"}}});
  CHECK(again.parameters().to_vector() == layer.parameters().to_vector());
  mt::save_archive(folder.file("none.pt"), value::dict({{"epoch", 3}}));
  says(refusal(folder.file("none.pt"), target), "the file holds no tensor that has a name; in PyTorch, save model.state_dict()");
}
