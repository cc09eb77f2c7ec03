// Reads the fixtures that tests/interop/*/generate.py write: "case NAME", then lines of "NAME COUNT value...", hexadecimal floats.
#pragma once

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fixture {

struct record {
  std::map<std::string, std::vector<double>> values;
  std::vector<double> const& operator[](std::string const& name) const {
    auto const at = values.find(name);
    if (at == values.end()) throw std::runtime_error("fixture without " + name);
    return at->second;
  }
  template <class T>
  std::vector<T> as(std::string const& name) const {
    std::vector<T> result;
    for (double const v : (*this)[name]) result.push_back(static_cast<T>(v));
    return result;
  }
};

/// MORTISE_FIXTURE, a file, takes the place of the committed one: the interop suite generates fresh numbers.
inline std::map<std::string, record> read(std::string path) {
  if (char const* other = std::getenv("MORTISE_FIXTURE")) path = other;
  std::ifstream in{path};
  if (!in) throw std::runtime_error("cannot open " + path);
  std::map<std::string, record> cases;
  record* current = nullptr;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words{line};
    std::string name;
    words >> name;
    if (name == "end") return cases;
    if (name == "case") {
      words >> name;
      current = &cases[name];
      continue;
    }
    if (current == nullptr || name.empty() || name[0] == '#') continue;
    std::size_t count = 0;
    words >> count;
    auto& list = current->values[name];
    std::string text;
    while (words >> text) list.push_back(std::strtod(text.c_str(), nullptr));
    if (list.size() != count) throw std::runtime_error(path + ": " + name + " is cut off");
  }
  throw std::runtime_error(path + " is cut off");
}

}  // namespace fixture
