// What a module says about itself for an input shape: everything that has to be known to plan memory before anything runs.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include <mortise/tensor/float16.hpp>
#include <mortise/tensor/philox.hpp>
#include <mortise/tensor/shape.hpp>

namespace mortise {

/// A list of at most N values inside a constant expression.
template <class T, std::size_t N>
struct short_list {
  T items[N] = {};
  std::size_t count = 0;

  constexpr void push_back(T const& item) {
    if (count == N) throw "mortise::short_list: full";
    items[count++] = item;
  }
  constexpr T const& operator[](std::size_t i) const { return items[i]; }
  constexpr std::size_t size() const { return count; }
  constexpr T const* begin() const { return items; }
  constexpr T const* end() const { return items + count; }
};

/// How a parameter is filled at first. Element i of the parameter takes the random number i of the stream named by its path.
struct initializer {
  enum class kind { constant, uniform, normal };
  kind how = kind::constant;
  double a = 0;  // the constant; lower bound; mean
  double b = 0;  // upper bound; standard deviation
};

namespace init {
constexpr initializer constant(double value) { return {initializer::kind::constant, value, 0}; }
constexpr initializer zeros() { return constant(0); }
constexpr initializer ones() { return constant(1); }
constexpr initializer uniform(double low, double high) { return {initializer::kind::uniform, low, high}; }
constexpr initializer normal(double mean, double deviation) { return {initializer::kind::normal, mean, deviation}; }

namespace detail {
constexpr double square_root(double x) {  // std::sqrt is not constexpr in C++20
  double r = x > 1 ? x : 1;
  for (int i = 0; i < 64; ++i) r = 0.5 * (r + x / r);
  return r;
}
}  // namespace detail

/// PyTorch's default for the weights and biases of linear and convolution layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)),
/// which is kaiming_uniform with a = sqrt(5).
constexpr initializer fan_in_uniform(std::size_t fan_in) {
  double const bound = fan_in == 0 ? 0 : 1 / detail::square_root(static_cast<double>(fan_in));
  return uniform(-bound, bound);
}
}  // namespace init

struct parameter_description {
  std::string_view name;
  shape extents;
  initializer init;
};

/// State that is not learned: a floating-point buffer of the model's element type, or (`counter`) 64-bit integers.
struct buffer_description {
  std::string_view name;
  shape extents;
  double initial = 0;
  bool counter = false;
};

namespace detail {
/// The image (channels, height, width) that somebody meant who gave a map without channels, or a batch of images; else rank 0.
constexpr shape image_meant_by(shape const& in) { return in.rank == 2 ? in.with_batch(1) : in.rank == 4 ? in.without_batch() : shape{}; }
}  // namespace detail

/// The answer of `M::describe(in)`. Sizes are in elements of the model's type unless they say bytes.
struct module_description {
  char const* problem = nullptr;  ///< why `in` is not accepted, and what to do about it; nullptr: it is
  shape fitting = {};             ///< beside `problem`: a shape like `in` that would be accepted, where one is near; else rank 0
  shape output = {};

  short_list<parameter_description, 16> parameters = {};
  short_list<buffer_description, 4> buffers = {};

  std::size_t saved = 0;            ///< per sample, written by forward, read by backward
  std::size_t saved_fixed = 0;      ///< the same, once for the whole batch
  std::size_t saved_bytes = 0;      ///< per sample, in bytes (indices, masks)
  bool saved_in_training_only = false;  ///< a frozen module, which runs as in evaluation, saves nothing
  std::size_t workspace = 0;        ///< per sample, free for use inside one call
  std::size_t workspace_fixed = 0;  ///< the same, once for the whole batch

  bool reads_input = true;         ///< backward reads x
  bool input_for_parameters_only = false;  ///< it reads x for the gradients of parameters alone: a frozen module's input is not kept
  bool reads_output = false;       ///< backward reads y
  bool in_place = false;           ///< forward works when y is x's memory
  bool backward_in_place = false;  ///< backward works when dx is dy's memory
  bool view = false;               ///< y is x seen in another shape: forward and backward do nothing
  bool clips = false;              ///< y = max(x, 0), element by element, which the module behind may do in its stead
  bool may_clip_input = false;     ///< it can do so: where Args::clips_input, forward takes max(x, 0) for x, and backward gives the gradient of x

  static constexpr module_description rejected(char const* why, shape const& would_fit = {}) {
    module_description d;
    d.problem = why;
    d.fitting = would_fit;
    return d;
  }
  constexpr module_description& parameter(std::string_view name, shape const& extents, initializer const& init) {
    parameters.push_back({name, extents, init});
    return *this;
  }
  constexpr module_description& buffer(std::string_view name, shape const& extents, double initial) {
    buffers.push_back({name, extents, initial, false});
    return *this;
  }
  constexpr module_description& counter(std::string_view name) {
    buffers.push_back({name, shape{}, 0, true});
    return *this;
  }
};

/// Workspace that follows from the input's shape as a type (the blocking of a convolution), which `describe` cannot see. Such a module has
/// `static constexpr bool has_workspace_by_type = true` and `template <class Input> static constexpr workspace_by_type workspace()`.
struct workspace_by_type {
  std::size_t per_sample = 0;
  std::size_t fixed = 0;
};

/// A differentiable map with a fixed per-sample output shape: a trivially copyable value with a name and a description, and
///
///     template <class Args> void forward(Args const& a) const;     // Args: forward_args<Device, T, Input, Output>
///     template <class Args> void backward(Args const& a) const;    // Args: backward_args<Device, T, Input, Output>
///
/// `forward` writes every element of `a.y`. `backward` writes every element of `a.dx` (unless it is null: nobody needs it) and of
/// `a.parameter_gradient(i)` (unless `a.frozen()`), and may read what `forward` left in `a.saved`. Neither allocates, synchronizes or throws.
template <class M>
concept Module = std::is_trivially_copyable_v<M> && std::default_initializable<M> && requires(shape in) {
  { M::name } -> std::convertible_to<std::string_view>;
  { M::describe(in) } -> std::same_as<module_description>;
};

/// What `forward` gets. Pointers are into the device's memory; shapes are types, so loops have constant bounds.
template <class D, class T, class Input, class Output, class X = T, bool ClipsInput = false>
struct forward_args {
  static constexpr bool clips_input = ClipsInput;
  using device_type = D;
  using element = T;
  using input = Input;
  using output = Output;

  D const& device;
  std::size_t batch;
  bool training;             // of this module: dropout and batch norm differ
  X const* x;                // (batch, input...)
  T* y;                      // (batch, output...)
  T const* parameters;       // those of this module
  std::size_t const* parameter_offsets;
  arithmetic_type<T>* buffers;  // floating-point buffers of this module, packed in the order of its description
  std::int64_t* counters;
  T* saved;                  // (batch, saved) then (saved_fixed)
  std::byte* saved_bytes;    // (batch, saved_bytes)
  T* workspace;
  random_stream random;      // the module's own stream at this step
  std::size_t first_sample;  // position of this part in the whole batch: random numbers belong to samples, not to devices

  T const* parameter(std::size_t i) const { return parameters + parameter_offsets[i]; }
};

/// What `backward` gets: in addition the gradient dy (batch, output...) that comes, and where dx and the parameters' gradients go.
/// WantsInput: false where nobody reads dx, which is then null: what only computes it need not be compiled.
template <class D, class T, class Input, class Output, class X = T, bool WantsInput = true>
struct backward_args {
  static constexpr bool wants_input_gradient = WantsInput;
  using device_type = D;
  using element = T;
  using input = Input;
  using output = Output;

  D const& device;
  std::size_t batch;
  bool training;
  X const* x;        // valid if the description says reads_input
  T const* y;        // valid if the description says reads_output
  T const* dy;       // (batch, output...)
  T* dx;             // (batch, input...) or nullptr
  T const* parameters;
  T* gradients;      // nullptr when frozen
  std::size_t const* parameter_offsets;
  arithmetic_type<T> const* buffers;
  T const* saved;
  std::byte const* saved_bytes;
  T* workspace;
  random_stream random;
  std::size_t first_sample;

  T const* parameter(std::size_t i) const { return parameters + parameter_offsets[i]; }
  T* parameter_gradient(std::size_t i) const { return gradients + parameter_offsets[i]; }
  bool frozen() const { return gradients == nullptr; }
};

}  // namespace mortise
