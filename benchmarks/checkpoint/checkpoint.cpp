// Saves and loads a run of 1 GB (84 million parameters with Adam's two moments), beside the bare system calls in the same minute.
//   checkpoint FOLDER [REPETITIONS [THREADS]]      prints lines "name seconds seconds s MiB": the best and the median of the repetitions,
//                                                  and the most extra memory
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <mortise/model/model.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/serializer.hpp>

namespace mt = mortise;

namespace {

using layer = mt::linear<4096>;
using network = mt::model<mt::sequential<layer, layer, layer, layer, layer>, mt::extents<4096>>;

double seconds_of(std::function<void()> const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double status_mib(char const* key) {
  std::FILE* const file = std::fopen("/proc/self/status", "r");
  char line[256];
  double kib = 0;
  while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr)
    if (std::strncmp(line, key, std::strlen(key)) == 0) kib = std::atof(line + std::strlen(key));
  if (file != nullptr) std::fclose(file);
  return kib / 1024;
}
/// The most resident memory during f beyond what there was, file pages included.
double extra_mib(std::function<void()> const& f) {
  if (std::FILE* const reset = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", reset);
    std::fclose(reset);
  }
  double const before = status_mib("VmRSS:");
  f();
  return status_mib("VmHWM:") - before;
}

void check(bool good, char const* what) {
  if (good) return;
  std::perror(what);
  std::exit(1);
}

/// As every save that may be interrupted: a new file, renamed over the old one. (Truncating the old one gives its memory back first, and
/// the kernel takes the same pages again; a virtual machine pays much more for others.)
void raw_write(std::string const& path, std::vector<char> const& bytes, bool sync) {
  std::string const fresh = path + ".new";
  int const file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0666);
  check(file >= 0, "open");
  for (std::size_t at = 0; at != bytes.size();) {
    ssize_t const n = ::write(file, bytes.data() + at, std::min<std::size_t>(bytes.size() - at, 1 << 24));
    check(n > 0, "write");
    at += static_cast<std::size_t>(n);
  }
  if (sync) check(::fsync(file) == 0, "fsync");
  ::close(file);
  check(std::rename(fresh.c_str(), path.c_str()) == 0, "rename");
}
void raw_read(std::string const& path, std::vector<char>& bytes) {
  int const file = ::open(path.c_str(), O_RDONLY);
  check(file >= 0, "open");
  for (std::size_t at = 0; at != bytes.size();) {
    ssize_t const n = ::read(file, bytes.data() + at, bytes.size() - at);
    check(n > 0, "read");
    at += static_cast<std::size_t>(n);
  }
  ::close(file);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  std::string const folder = std::string{argv[1]} + "/";
  int const repetitions = argc > 2 ? std::atoi(argv[2]) : 3;
  network net{mt::host{argc > 3 ? std::atoi(argv[3]) : 0}, mt::seed{1}};
  mt::optimizer opt{net, mt::adam{}};
  for (std::size_t s = 0; s != opt.slot_count(); ++s) {
    float v = 0;
    for (float& x : opt.slot(s)) x = v += 1e-6f;
  }
  opt.step();
  mt::checkpoint run{net, opt};
  std::vector<char> raw(3 * net.parameters().size() * sizeof(float), 'x');  // touched, as the model is
  std::map<std::string, std::vector<double>> times;
  std::map<std::string, double> memory;
  auto const measure = [&](std::string const& name, std::function<void()> const& f) {
    ::sync();  // what others wrote before is not this one's time
    ::usleep(300'000);
    double t = 0;
    double const extra = extra_mib([&] { t = seconds_of(f); });
    times[name].push_back(t);
    memory[name] = std::max(memory[name], extra);
  };
  mt::serializer<mt::safetensors, mt::checksummed> const checked;
  for (int i = 0; i != repetitions; ++i) {
    // In both orders: a disk that allows bursts serves the first better.
    for (int k = 0; k != 2; ++k) {
      if (k != i % 2) measure("raw write+fsync", [&] { raw_write(folder + "raw", raw, true); });
      else measure("save safetensors", [&] { mt::save(folder + "run.safetensors", run); });
    }
    measure("raw write", [&] { raw_write(folder + "raw", raw, false); });
    measure("save safetensors, not durable", [&] { mt::save(folder + "run.safetensors", run, {.durable = false}); });
    measure("save torch_zip", [&] { mt::save(folder + "run.pt", run); });
    measure("save checksummed", [&] { checked.save(folder + "checked.safetensors", run); });
    std::pair<char const*, std::function<void()>> const loads[] = {
        {"raw read", [&] { raw_read(folder + "raw", raw); }},
        {"load safetensors", [&] { mt::load(folder + "run.safetensors", run); }},
        {"load safetensors, mapped", [&] { mt::load(mt::map_file(folder + "run.safetensors"), run); }},
        {"load torch_zip", [&] { mt::load(folder + "run.pt", run); }},
        {"load torch_zip, mapped", [&] { mt::load(mt::map_file(folder + "run.pt"), run); }},
        {"load checksummed", [&] { checked.load(folder + "checked.safetensors", run); }},
    };
    for (std::size_t k = 0; k != std::size(loads); ++k) {
      auto const& [name, f] = loads[(k + static_cast<std::size_t>(i)) % std::size(loads)];
      measure(name, f);
    }
  }
  // A model of the same size, for reading only.
  using whole = mt::model<mt::sequential<layer, layer, layer, layer, layer, layer, layer, layer, layer, layer, layer, layer, layer, layer, layer>, mt::extents<4096>>;
  raw = {};
  whole large{mt::host{}, mt::seed{1}};
  mt::save(folder + "mappable.safetensors", large, {.mappable = true});
  for (int i = 0; i != repetitions; ++i)
    measure("load adopted", [&] { check(mt::load(mt::map_file(folder + "mappable.safetensors"), large, {.adopt = true}).adopted, "adopt"); });
  for (auto& [name, all] : times) {
    std::sort(all.begin(), all.end());
    std::printf("%-30s %7.3f %7.3f s %8.1f MiB\n", name.c_str(), all[0], all[all.size() / 2], memory[name]);
  }
  return 0;
}
