#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

#include "temporary_folder.hpp"

namespace mt = mortise;
using value = mt::archive_value;

namespace {

mt::tensor_ref floats(std::vector<std::size_t> shape, float first) {
  std::size_t n = 1;
  for (std::size_t e : shape) n *= e;
  std::vector<float> data(n);
  for (std::size_t i = 0; i != n; ++i) data[i] = first + static_cast<float>(i);
  return mt::owned_tensor(std::move(shape), std::move(data));
}

value whole_run() {
  value const group = value::dict({{"lr", 1e-3}, {"betas", value::tuple({0.9, 0.999})}, {"eps", 1e-8}, {"weight_decay", 0}, {"amsgrad", false},
                                   {"foreach", nullptr}, {"params", value::list({0, 1})}});
  value slots = value::dict();
  for (int i : {0, 1, 10})
    slots.set(i, value::dict({{"step", mt::scalar_tensor(7.0f)}, {"exp_avg", floats({2, 3}, 1)}, {"exp_avg_sq", floats({2, 3}, 2)}}));
  return value::dict({{"model_state_dict", value::dict({{"features.0.weight", floats({2, 3}, 0)}, {"bn.num_batches_tracked", mt::scalar_tensor(std::int64_t{5})}})},
                      {"optimizer_state_dict", value::dict({{"state", slots}, {"param_groups", value::list({group})}, {"type", "Adam"}})},
                      {"scheduler_state_dict", value::dict({{"step_size", 2}, {"gamma", 0.5}, {"base_lrs", value::list({0.1})}, {"best", HUGE_VAL}})},
                      {"scaler_state_dict", value::dict()}, {"epoch", 3}, {"global_step", 1234567890123}, {"best_metric", 0.1},
                      {"rng_state", value::dict({{"philox", mt::owned_tensor<std::uint8_t>({4}, {1, 2, 3, 4})}})},
                      {"metadata", value::dict({{"git", "abc"}, {"n\xc3\xa4me", ""}})}, {"format_version", 1},
                      {"loader_state_dict", value::dict({{"position", 17}, {"seed", 42}})}, {"user", value::list({1, "two", 3.0})}});
}

void check_round_trip(value const& tree) {
  auto const bytes = mt::archive_bytes<mt::safetensors>(tree);
  mt::archive_reader const reader = mt::open_archive(bytes);
  value const back = reader.read_tree();
  INFO("wrote ", to_string(tree), "\nread  ", to_string(back));
  CHECK(back == tree);
  // What was read once has its final order: from here on files are equal byte for byte.
  auto const again = mt::archive_bytes<mt::safetensors>(back);
  CHECK(mt::archive_bytes<mt::safetensors>(mt::open_archive(again).read_tree()) == again);
}

}  // namespace

TEST_CASE("a whole run comes back from safetensors as it was") {
  check_round_trip(whole_run());
  CHECK(mt::archive_bytes<mt::safetensors>(whole_run()) == mt::archive_bytes<mt::safetensors>(whole_run()));
  mt::archive_reader const reader = mt::open_archive(mt::byte_source::own(mt::archive_bytes<mt::safetensors>(whole_run()), "run"));
  CHECK(reader.value("epoch").as_int() == 3);
  CHECK(reader.value("optimizer_state_dict.param_groups.0.betas.1").as_double() == 0.999);
  CHECK(reader.value("metadata.git").as_string() == "abc");
  CHECK(reader.contains("model.features.0.weight"));
  CHECK(reader.contains("model_state_dict.features.0.weight"));
  CHECK(reader.read("optimizer_state_dict.state.10.exp_avg") == reader.read("optimizer.state.10.exp_avg"));
  CHECK_FALSE(reader.contains("features.0.weight"));
  CHECK_THROWS_AS(reader.read("nothing"), mt::usage_error);
  CHECK_THROWS_AS(reader.value("nothing"), mt::usage_error);
  CHECK_THROWS_AS(reader.value("model_state_dict.features.0.weight"), mt::usage_error);
  std::vector<std::byte> small(3);
  CHECK_THROWS_AS(reader.read_into("model.features.0.weight", small), mt::usage_error);
  bool found = false;
  for (auto const& [name, v] : reader.values()) {
    CHECK(reader.value(name) == v);
    found = found || name == "optimizer_state_dict.param_groups.0.lr";
  }
  CHECK(found);
}

TEST_CASE("any tree comes back as it was: unusual keys, mixed containers, special floats, irregular optimizer states") {
  value const t = floats({2}, 1);
  check_round_trip(value::dict());
  check_round_trip(value::dict({{"w", t}, {"", t}}));
  check_round_trip(value::list({1, t, value::dict({{1, t}, {"$tensor", "x"}})}));
  check_round_trip(value{5});
  check_round_trip(value::dict({{7, 1}}));
  check_round_trip(value::dict({{"model_state_dict", value::dict()}, {"epoch", 1.0}, {"best_metric", nullptr}}));
  for (value best : {value{HUGE_VAL}, value{-HUGE_VAL}, value{std::nan("")}, value{"inf"}, value{3}, value{t}, value::dict({{"$absent", ""}})})
    check_round_trip(value::dict({{"best_metric", best}, {"format_version", 1}}));
  for (value state : {value::dict(), value{nullptr}, value{"$absent"}, value::dict({{0, value::dict({{"step", 5}, {"square_avg", t}})}, {1, value::dict({{"m", t}})}}),
                      value::dict({{0, value::dict()}}), value::dict({{-1, value::dict({{"m", t}})}}), value::dict({{0, value::dict({{"", t}})}}),
                      value::dict({{"a", value::dict({{"m", t}})}}), value::dict({{0, value::dict({{"momentum_buffer", nullptr}})}})})
    check_round_trip(value::dict({{"optimizer_state_dict", value::dict({{"state", state}, {"param_groups", value::list()}})}}));
  check_round_trip(value::dict({{"optimizer_state_dict", value::dict({{"$x", 1}})}}));
  check_round_trip(value::dict({{"optimizer_state_dict", nullptr}, {"rng_state", value::dict()}, {"metadata", value::dict({{"k", 1}})}, {"format_version", "one"}}));
  // Names of unknown keys that collide with the layout's own.
  check_round_trip(value::dict({{"model_state_dict", value::dict({{"x", t}})}, {"model", value::dict({{"x", floats({3}, 5)}})},
                                {"optimizer", value::dict({{"state", value::dict({{0, value::dict({{"m", floats({1}, 1)}})}})}})}, {"version", 2},
                                {"alias.b", "a"}, {"tree", 1}, {"key.version", 1}, {"rng.x", 2}}));
  check_round_trip(value::dict({{"x", value::tuple({value::bytes(std::string{"\0\xff", 2}), "nan", "\xff", -0.0, value::dict({{"betas", value::list({1})}})})}}));
}

TEST_CASE("tensors that share memory are stored once and come back under every name") {
  std::vector<float> const w{1, 2, 3, 4};
  mt::tensor_ref const t{mt::element_type::f32, {2, 2}, reinterpret_cast<std::byte const*>(w.data())};
  mt::tensor_ref const other_shape{mt::element_type::f32, {4}, t.data};
  value const tree = value::dict({{"embedding.weight", t}, {"head.weight", t}, {"flat", other_shape}});
  auto const bytes = mt::archive_bytes<mt::safetensors>(tree);
  mt::archive_reader const reader = mt::open_archive(bytes);
  CHECK(reader.metadata().size() == 2);  // format, and one alias
  CHECK(reader.read("head.weight") == reader.read("embedding.weight"));
  CHECK(reader.read_tree() == tree);
}

TEST_CASE("the reference example of a checkpoint reads as a run") {
  mt::archive_reader const reader = mt::open_archive(std::string{MORTISE_CORPUS "/examples/tiny_checkpoint.safetensors"});
  CHECK(reader.value("epoch").as_int() == 3);
  CHECK(reader.value("format_version").as_int() == 1);
  CHECK(reader.tree().find_path("optimizer_state_dict.state.1.momentum_buffer"));
  CHECK(reader.tree().at("model_state_dict").size() == 2);
}

TEST_CASE("a checkpoint of a newer version, or with malformed text, is refused by its reason") {
  auto const with = [](std::string key, std::string text) {
    mt::flat_archive flat;
    flat.metadata = {{"ckpt.version", "1"}};
    if (key == "ckpt.version") flat.metadata.clear();
    flat.metadata.emplace_back(key, text);
    mt::memory_sink out;
    mt::safetensors::write(flat, out);
    auto const bytes = out.take();
    try {
      (void)mt::open_archive(bytes).tree();
    } catch (mt::archive_error const& e) {
      return std::string{e.what()};
    }
    return std::string{};
  };
  CHECK(with("ckpt.version", "2").find("newer mortise") != std::string::npos);
  for (char const* text : {"", "0", "-1", "1x", "99999999999999999999", "one"}) CHECK(with("ckpt.version", text).find("version") != std::string::npos);
  CHECK(with("ckpt.optimizer", "{\"param_groups\":[}").find("ckpt.optimizer") != std::string::npos);
  CHECK(with("ckpt.optimizer", "3").find("no object") != std::string::npos);
  CHECK(with("ckpt.optimizer", "{\"state\":4}") != "");
  CHECK(with("ckpt.epoch", "3 4") != "");
  CHECK(with("ckpt.epoch", "") != "");
  CHECK(with("ckpt.x", "{\"$tensor\":\"none\"}").find("does not hold") != std::string::npos);
  CHECK(with("ckpt.x", "{\"$what\":\"none\"}").find("unknown tag") != std::string::npos);
  CHECK(with("ckpt.x", "{\"$bytes\":\"0g\"}") != "");
  CHECK(with("ckpt.alias.a", "b").find("does not hold") != std::string::npos);
  CHECK(with("ckpt.key.epoch", "1") == "");
}

TEST_CASE("what cannot be written is refused and leaves no file") {
  temporary_folder folder;
  std::string const path = folder.file("x.safetensors");
  value deep = 1;
  for (int i = 0; i != 200; ++i) deep = value::list({deep});
  CHECK_THROWS_AS(mt::save_archive(path, value::dict({{"deep", deep}})), mt::usage_error);
  CHECK_THROWS_AS(mt::save_archive(path, value::dict({{"w", mt::tensor_ref{mt::element_type::c128, {}, nullptr}}})), mt::usage_error);
  CHECK_THROWS_AS(mt::save_archive(path, value::dict({{"__metadata__", floats({1}, 1)}})), mt::usage_error);
  CHECK_THROWS_AS(mt::save_archive(path, value::dict({{"w", mt::tensor_ref{mt::element_type::f32, {2}, nullptr}}})), mt::usage_error);
  CHECK_THROWS_AS(mt::save_archive(folder.file("x.unknown"), value::dict()), mt::usage_error);
  CHECK(folder.files().empty());
}
