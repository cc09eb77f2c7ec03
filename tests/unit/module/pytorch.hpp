// Modules against numbers that PyTorch computed (tests/interop/module/make_fixtures.py).
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <mortise/model/model.hpp>

namespace pytorch {

namespace mt = mortise;

struct tensor {
  std::string name;
  mt::shape extents;
  std::vector<double> values;
};

struct fixture {
  std::string title;
  std::vector<tensor> tensors;

  explicit fixture(std::string const& name) {
    char const* const live = std::getenv("MORTISE_MODULE_FIXTURES");
    std::string const path = std::string{live != nullptr ? live : MORTISE_FIXTURES} + "/" + name + ".txt";
    std::ifstream in{path};
    INFO("cannot read ", path);
    REQUIRE(in.good());
    std::getline(in, title);
    for (std::string head, body; std::getline(in, head) && std::getline(in, body);) {
      tensor t;
      std::istringstream words{head};
      words >> t.name;
      for (std::size_t n = 0; words >> n;) t.extents.push_back(n);
      char const* p = body.c_str();
      for (char* end = nullptr;; p = end) {
        double const v = std::strtod(p, &end);
        if (end == p) break;
        t.values.push_back(v);
      }
      REQUIRE(t.values.size() == t.extents.elements());
      tensors.push_back(t);
    }
  }
  tensor const* find(std::string const& name) const {
    for (auto const& t : tensors)
      if (t.name == name) return &t;
    return nullptr;
  }
  tensor const& operator[](std::string const& name) const {
    tensor const* const t = find(name);
    INFO("the fixture has no ", name);
    REQUIRE(t != nullptr);
    return *t;
  }
};

/// Each value within `terms` roundings of the tensor's largest magnitude (at least 1): what sums of that many terms lose at worst.
template <class T, class View>
void check_close(View const& ours, tensor const& theirs, double terms) {
  REQUIRE(ours.size() == theirs.values.size());
  double largest = 1, worst = 0;
  for (double const v : theirs.values) largest = std::fmax(largest, std::abs(v));
  std::size_t at = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    double const d = std::abs(static_cast<double>(ours[i]) - theirs.values[i]);
    if (!(d <= worst)) {
      worst = d;
      at = i;
    }
  }
  double const eps = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
  INFO(theirs.name, "[", at, "]: ours ", static_cast<double>(ours[at]), ", PyTorch's ", theirs.values[at], ": ", worst / largest / eps, " roundings");
  CHECK(worst <= terms * eps * largest);
}

template <class Network, class Input, class T>
void compare_as(fixture const& f, double terms) {
  using plain = mt::model<Network, Input, mt::host, T>;
  constexpr bool indices = std::is_integral_v<typename plain::input_element>;
  using M = mt::model<Network, Input, mt::host, T, !indices>;
  M net{mt::host{1}, mt::seed{1}};

  // The state: PyTorch's names, shapes and order.
  std::string ours, theirs;
  for (auto const& s : M::state_table) ours += std::string{s.name} + to_string(s.extents) + " ";
  for (auto const& t : f.tensors)
    for (char const* const kind : {"param.", "buffer.", "counter."})
      if (t.name.rfind(kind, 0) == 0) theirs += t.name.substr(std::string{kind}.size()) + to_string(t.extents) + " ";
  CHECK(ours == theirs);
  for (auto const& s : M::state_table) {
    std::string const name{s.name};
    if (s.what == mt::state_entry::kind::parameter)
      for (std::size_t i = 0; i < s.size; ++i) net.parameter(name)[i] = static_cast<T>(f["param." + name].values[i]);
    if (s.what == mt::state_entry::kind::buffer)
      for (std::size_t i = 0; i < s.size; ++i) net.buffer_named(name)[i] = static_cast<T>(f["buffer." + name].values[i]);
    if (s.what == mt::state_entry::kind::counter) net.counter(name)[0] = static_cast<std::int64_t>(f["counter." + name].values[0]);
  }

  std::vector<typename M::input_element> x;
  for (double const v : f["x"].values) x.push_back(static_cast<typename M::input_element>(v));
  std::vector<T> dy;
  for (double const v : f["dy"].values) dy.push_back(static_cast<T>(v));
  CHECK(f["x"].extents.without_batch() == Input::value);
  CHECK(f["y"].extents.without_batch() == M::plan_type::output);

  check_close<T>(net.forward(x), f["y"], terms);
  net.backward(mt::view<T const>{dy});
  if constexpr (!indices) check_close<T>(net.input_gradient(), f["dx"], terms);
  for (auto const& p : M::parameter_table) {
    std::string const name{p.name};
    CHECK((f.find("grad." + name) != nullptr) == p.trainable);
    if (p.trainable) check_close<T>(net.gradient(name), f["grad." + name], terms);
  }
  for (auto const& s : M::state_table) {
    std::string const name{s.name};
    if (s.what == mt::state_entry::kind::buffer) check_close<T>(net.buffer_named(name), f["after." + name], terms);
    if (s.what == mt::state_entry::kind::counter) CHECK(static_cast<double>(net.counter(name)[0]) == f["after." + name].values[0]);
  }
  net.eval();
  check_close<T>(net.forward(x), f["eval_y"], terms);
}

template <class Network, class Input>
void compare(std::string const& name, double terms) {
  fixture const f{name};
  CAPTURE(f.title);
  compare_as<Network, Input, float>(f, terms);
  compare_as<Network, Input, double>(f, terms);
}

}  // namespace pytorch
