// A folder of its own for a test, removed at the end.
#pragma once

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <dirent.h>
#include <unistd.h>

class temporary_folder {
 public:
  temporary_folder() {
    char const* base = std::getenv("TMPDIR");
    std::string pattern = std::string{base ? base : "/tmp"} + "/mortise-test-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  temporary_folder(temporary_folder const&) = delete;
  temporary_folder& operator=(temporary_folder const&) = delete;
  ~temporary_folder() {
    for (std::string const& name : files()) ::unlink((path_ + "/" + name).c_str());
    ::rmdir(path_.c_str());
  }

  std::string file(std::string const& name) const { return path_ + "/" + name; }
  std::string const& path() const { return path_; }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    DIR* folder = ::opendir(path_.c_str());
    while (dirent const* entry = ::readdir(folder))
      if (std::string const name = entry->d_name; name != "." && name != "..") names.push_back(name);
    ::closedir(folder);
    return names;
  }

 private:
  std::string path_;
};

inline std::string slurp(std::string const& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

inline void spit(std::string const& path, std::string const& text) { std::ofstream{path, std::ios::binary} << text; }
