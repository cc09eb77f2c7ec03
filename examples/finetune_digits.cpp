// Transfer learning: what a network has learned of the digits 0 to 4 helps it with 5 to 9, of which it sees 50 images only.
//
//   finetune_digits                              pretrain, save, load under another head, and compare four ways to go on
//   finetune_digits --constant 0.123             the first exercise: fill a LeNet with a constant, save it, load it into a new one, show both
//
// The table gives mean and standard deviation of the test accuracy over the seeds; a step's cost and the optimizer's memory are the reasons
// to freeze what need not learn.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include <mortise/mortise.hpp>
#if defined(__CUDACC__)
#include <mortise/cuda.cuh>
#endif

namespace mt = mortise;

namespace {

using features = mt::sequential<mt::conv2d<16, 3, 1, 1>, mt::relu, mt::conv2d<32, 3, 1, 1>, mt::relu, mt::max_pool2d<2>>;
using image = mt::extents<1, 8, 8>;

/// The digits 0 to 4: features and a classifier of two layers.
using old_net = mt::sequential<mt::named<"features", features>, mt::flatten,
                               mt::named<"classifier", mt::sequential<mt::dropout, mt::linear<64>, mt::relu, mt::dropout, mt::linear<5>>>>;
/// The digits 5 to 9: the same features, another head.
template <class Features>
using new_net = mt::sequential<mt::named<"features", Features>, mt::flatten, mt::named<"head", mt::linear<5>>>;

using lenet = mt::sequential<
    mt::named<"features", mt::sequential<mt::conv2d<6, 5>, mt::relu, mt::max_pool2d<2>, mt::conv2d<16, 5>, mt::relu, mt::max_pool2d<2>>>, mt::flatten,
    mt::named<"classifier", mt::sequential<mt::linear<120>, mt::relu, mt::linear<84>, mt::relu, mt::linear<10>>>>;

using dataset = mt::in_memory_dataset<image>;

struct settings {
  std::string data = "examples/data";
  std::string device = "host";
  std::string save;
  std::int64_t epochs = 30;
  std::int64_t pretrain_epochs = 8;
  std::int64_t seeds = 5;
  std::uint64_t seed = 1;
  std::size_t images = 50;
  double constant = std::nan("");
};

/// A folder that goes away with what is in it.
class temporary_folder {
 public:
  temporary_folder() : path_{(std::filesystem::temp_directory_path() / "finetune_digits-XXXXXX").string()} {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make a folder like " + path_);
  }
  temporary_folder(temporary_folder const&) = delete;
  temporary_folder& operator=(temporary_folder const&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(char const* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// ---- data --------------------------------------------------------------------------------------------------------------------------------

/// The images of five neighbouring digits, as classes 0 to 4; at most `per_class` of each, chosen by the seed.
dataset five_digits(mt::idx_dataset const& all, std::int64_t first_digit, std::size_t per_class = static_cast<std::size_t>(-1), std::uint64_t seed = 0) {
  std::vector<std::size_t> order(all.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (per_class < all.size()) {
    mt::random_stream const numbers{seed, mt::stream_id("finetune_digits.choice"), 0};
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[numbers.bits(i) % i]);
  }
  std::vector<float> x;
  std::vector<std::int64_t> y;
  std::size_t taken[5] = {};
  for (std::size_t const i : order) {
    float pixels[image::elements];
    std::int64_t digit = 0;
    all.read(i, pixels, &digit);
    if (digit < first_digit || digit >= first_digit + 5 || taken[digit - first_digit] == per_class) continue;
    ++taken[digit - first_digit];
    x.insert(x.end(), pixels, pixels + image::elements);
    y.push_back(digit - first_digit);
  }
  return {std::move(x), std::move(y)};
}

/// The images and their neighbours: shifted by up to one pixel each way. What is learned of many kinds of images serves others better.
dataset with_shifts(dataset const& images) {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  float pixels[image::elements];
  std::int64_t digit = 0;
  for (std::size_t i = 0; i < images.size(); ++i) {
    images.read(i, pixels, &digit);
    for (int down = -1; down <= 1; ++down)
      for (int right = -1; right <= 1; ++right) {
        for (int row = 0; row < 8; ++row)
          for (int column = 0; column < 8; ++column) {
            int const r = row - down, c = column - right;
            x.push_back(r < 0 || r > 7 || c < 0 || c > 7 ? 0.0f : pixels[r * 8 + c]);
          }
        y.push_back(digit);
      }
  }
  return {std::move(x), std::move(y)};
}

// ---- training ----------------------------------------------------------------------------------------------------------------------------

template <class Net>
double accuracy_on(Net& net, dataset const& data) {
  mt::accuracy right;
  mt::batch_loader loader{data, {.batch = 60}};
  net.eval();
  for (auto batch : loader) {
    net.forward(batch.x);
    right.update(net, batch.y);
  }
  net.train();
  return right.value();
}

/// Trains, calling before_epoch(epoch) first.
template <class Net, class Optimizer, class BeforeEpoch>
void train(Net& net, Optimizer& opt, dataset const& data, std::int64_t epochs, std::size_t batch_size, std::uint64_t seed, BeforeEpoch const& before_epoch) {
  mt::cross_entropy_loss const loss;
  mt::scheduler schedule{opt, mt::cosine_annealing_lr{.t_max = epochs}};
  mt::batch_loader loader{data, {.batch = batch_size, .shuffle = true, .seed = seed}};
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    before_epoch(epoch);
    for (auto batch : loader) mt::train_step(net, loss, opt, batch);
    schedule.step();
  }
}

constexpr auto nothing = [](std::int64_t) {};

/// What one way of training came to, over all seeds.
struct result {
  char const* name;
  std::vector<double> accuracy{};
  std::size_t trained = 0;
  std::size_t state_bytes = 0;
  double seconds = 0;

  double mean() const {
    double sum = 0;
    for (double const a : accuracy) sum += a;
    return sum / static_cast<double>(accuracy.size());
  }
  double deviation() const {
    if (accuracy.size() < 2) return 0;
    double sum = 0;
    for (double const a : accuracy) sum += (a - mean()) * (a - mean());
    return std::sqrt(sum / static_cast<double>(accuracy.size() - 1));
  }
};

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

template <class Device>
void compare(settings const& s, Device const& device) {
  mt::idx_dataset const all{s.data + "/digits-images.idx3-ubyte", s.data + "/digits-labels.idx1-ubyte", {.scale = 1.0f / 16}};
  auto const [training, testing] = mt::split(all, all.size() - 360);
  dataset const old_digits = five_digits(training, 0), old_test = five_digits(testing, 0), new_test = five_digits(testing, 5);
  temporary_folder const folder;
  std::string const file = s.save.empty() ? folder.file("digits_0_to_4.safetensors") : s.save;

  {
    mt::model<old_net, image, Device> net{device, mt::seed{s.seed}};
    mt::optimizer opt{net, mt::adamw{.lr = 2e-3f}};
    train(net, opt, with_shifts(old_digits), s.pretrain_epochs, 64, s.seed, nothing);
    std::printf("pretrained on %zu images of the digits 0 to 4, shifted by up to a pixel: test accuracy %.4f\n", old_digits.size(), accuracy_on(net, old_test));
    mt::save(file, net);
  }

  using free_model = mt::model<new_net<features>, image, Device>;
  using frozen_model = mt::model<new_net<mt::frozen<features>>, image, Device>;
  {
    free_model net{device};
    std::printf("loading it into a network for 5 to 9:\n  %s\n\n", mt::to_string(mt::load(file, net, {.strict = false})).c_str());
  }

  result scratch{"from scratch"}, frozen{"frozen features"}, slow{"features at a tenth of the rate"}, gradual{"gradual unfreezing"};
  mt::adamw const rule{.lr = 3e-3f};
  std::size_t const batch = 10;
  for (std::int64_t k = 0; k < s.seeds; ++k) {
    std::uint64_t const seed = s.seed + static_cast<std::uint64_t>(k);
    dataset const few = five_digits(training, 5, s.images / 5, seed);
    auto const run = [&](result& r, auto& net, auto& opt, auto const& before_epoch) {
      stopwatch const watch;
      train(net, opt, few, s.epochs, batch, seed, before_epoch);
      r.accuracy.push_back(accuracy_on(net, new_test));
      r.seconds += watch.seconds();
      r.trained = net.trainable_count;
      r.state_bytes = opt.state_bytes();
    };
    {
      free_model net{device, mt::seed{seed}};
      mt::optimizer opt{net, rule};
      run(scratch, net, opt, nothing);
    }
    {
      frozen_model net{device, mt::seed{seed}};
      mt::load(file, net, {.strict = false});
      mt::optimizer opt{net, rule};
      run(frozen, net, opt, nothing);
    }
    {
      free_model net{device, mt::seed{seed}};
      mt::load(file, net, {.strict = false});
      mt::optimizer opt{net, rule, mt::group<"features">{.lr = 3e-4f}};
      run(slow, net, opt, nothing);
    }
    {
      free_model net{device, mt::seed{seed}};
      mt::load(file, net, {.strict = false});
      mt::optimizer opt{net, rule, mt::group<"features">{.lr = 1e-3f}, mt::freeze<"features">{}};
      run(gradual, net, opt, [&](std::int64_t epoch) {
        if (epoch == s.epochs / 3) opt.template unfreeze<"features.2">();
        if (epoch == 2 * s.epochs / 3) opt.template unfreeze<"features.0">();
      });
    }
  }

  std::printf("%zu images of 5 to 9, %lld epochs, %lld seeds; %zu test images\n\n", s.images / 5 * 5, static_cast<long long>(s.epochs),
              static_cast<long long>(s.seeds), new_test.size());
  std::printf("%-32s  %-18s  %18s  %15s  %7s\n", "run", "test accuracy", "trained parameters", "optimizer state", "seconds");
  std::printf("%s\n", std::string(98, '-').c_str());
  for (result const* r : {&scratch, &frozen, &slow, &gradual})
    std::printf("%-32s  %.4f +- %.4f   %18zu  %13zu B  %7.2f\n", r->name, r->mean(), r->deviation(), r->trained, r->state_bytes, r->seconds);
  // The same images and the same seed in each run: what the choice of images does to all of them cancels in the difference.
  std::printf("\nagainst training from scratch, seed by seed:\n");
  for (result* r : {&frozen, &slow, &gradual}) {
    for (std::size_t i = 0; i < r->accuracy.size(); ++i) r->accuracy[i] -= scratch.accuracy[i];
    std::printf("  %-32s  %+.4f, standard error %.4f\n", r->name, r->mean(), r->deviation() / std::sqrt(static_cast<double>(s.seeds)));
  }
}

// ---- the first exercise ------------------------------------------------------------------------------------------------------------------

template <class Net>
void show(char const* title, Net& net) {
  std::printf("%s\n", title);
  auto const host = net.to(mt::host{});
  for (auto const& p : Net::parameter_table) {
    auto const v = host.parameter(p.name);
    std::size_t same = 0;
    for (float const x : v) same += x == v[0] ? 1 : 0;
    std::printf("  %-22s %-16s %10g %10g %10g ...  %zu of %zu are alike\n", std::string{p.name}.c_str(), mt::to_string(p.extents).c_str(),
                static_cast<double>(v[0]), static_cast<double>(v[1]), static_cast<double>(v[2]), same, v.size());
  }
}

template <class Device>
void fill_with_constant(settings const& s, Device const& device) {
  temporary_folder const folder;
  std::string const file = s.save.empty() ? folder.file("constant.safetensors") : s.save;
  using model = mt::model<lenet, mt::extents<1, 28, 28>, Device>;
  model net{device, mt::seed{s.seed}};
  net.template initialize<"**">(mt::init::constant(s.constant));
  mt::save(file, net);
  show("saved:", net);
  model fresh{device, mt::seed{s.seed + 1}};
  show("a new network:", fresh);
  auto const report = mt::load(file, fresh);
  show("the new network after loading:", fresh);
  std::printf("%zu tensors loaded; parameters digest %s, saved %s\n", report.loaded.size(), mt::parameters_digest(fresh).c_str(),
              mt::parameters_digest(net).c_str());
}

template <class Device>
void start(settings const& s, Device const& device) {
  if (std::isnan(s.constant)) compare(s, device);
  else fill_with_constant(s, device);
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  CLI::App app{"Transfer learning on handwritten digits (UCI): from 0 to 4 to 50 images of 5 to 9, in four ways."};
  app.add_option("--data", s.data, "folder with digits-images.idx3-ubyte and digits-labels.idx1-ubyte")->capture_default_str();
  app.add_option("--epochs", s.epochs, "passes over the images of 5 to 9")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--pretrain-epochs", s.pretrain_epochs, "passes over the images of 0 to 4")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seed", s.seed, "names all random numbers")->capture_default_str();
  app.add_option("--seeds", s.seeds, "repetitions, each with other images")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--images", s.images, "images of 5 to 9 to learn from")->check(CLI::Range(5, 500))->capture_default_str();
  app.add_option("--save", s.save, "keep the pretrained (or constant) state_dict in this file");
  app.add_option("--constant", s.constant, "fill a LeNet with this number, save it, load it into a new one, show both");
#if defined(__CUDACC__)
  app.add_option("--device", s.device, "host, or cuda:0, cuda:1, ...")->capture_default_str();
#else
  app.add_option("--device", s.device, "host (built by nvcc: also cuda:0, ...)")->check(CLI::IsMember({"host"}))->capture_default_str();
#endif
  CLI11_PARSE(app, argc, argv);

#if defined(__CUDACC__)
  if (s.device.rfind("cuda", 0) == 0) {
    start(s, mt::cuda{s.device.size() > 5 ? std::stoi(s.device.substr(5)) : 0});
    return 0;
  }
#endif
  start(s, mt::host{});
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "finetune_digits: %s\n", e.what());
  return 1;
}
