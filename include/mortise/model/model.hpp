// A network bound to an input shape, a device and an element type: the one place where plan, device and memory meet.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/detail/words.hpp>
#include <mortise/device/device.hpp>
#include <mortise/model/deferred.hpp>
#include <mortise/model/mixed_precision.hpp>
#include <mortise/model/initializers.hpp>
#include <mortise/model/step_memory.hpp>
#include <mortise/module/plan.hpp>
#include <mortise/operation/map.hpp>
#include <mortise/operation/random.hpp>
#include <mortise/optimizer/path_check.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

/// Names the random numbers of a run: equal seeds, equal bits.
struct seed {
  std::uint64_t value = 0;
};

/// Who wants to know, while backward runs, that the gradients from element `first` on are final: call(context, first).
struct gradient_watch {
  void (*call)(void* context, std::size_t first) = nullptr;
  void* context = nullptr;
};

namespace detail {

/// A module that wants indices says `using input_type = std::int64_t;`; all others take the model's element type.
template <class M, class T>
struct input_element {
  using type = T;
};
template <class M, class T>
  requires requires { typename M::input_type; }
struct input_element<M, T> {
  using type = typename M::input_type;
};

template <std::size_t I, class M>
struct module_slot {
  M value{};
};
template <std::size_t I>
struct module_slot<I, void> {};
template <class Plan, class Indices>
struct module_slots;
template <class Plan, std::size_t... I>
struct module_slots<Plan, std::index_sequence<I...>> : module_slot<I, typename Plan::template module_at<I>>... {};
template <std::size_t I, class M>
M& module_in(module_slot<I, M>& slot) {
  return slot.value;
}
template <std::size_t I, class M>
M const& module_in(module_slot<I, M> const& slot) {
  return slot.value;
}

/// Names that resemble `wanted`, for messages about a name that is not there.
MORTISE_COLD inline std::string list_names(std::string_view wanted, state_entry const* entries, std::size_t count) {
  std::string text;
  std::size_t listed = 0;
  auto const tail = wanted.substr(wanted.rfind('.') == std::string_view::npos ? 0 : wanted.rfind('.') + 1);
  for (int pass = 0; pass < 2 && listed < 6; ++pass) {
    for (std::size_t i = 0; i < count && listed < 6; ++i) {
      auto const name = entries[i].name;
      bool const similar = name.size() >= tail.size() && name.substr(name.size() - tail.size()) == tail;
      if (similar != (pass == 0)) continue;
      text += listed++ == 0 ? "" : ", ";
      text += name;
    }
  }
  return text.empty() ? "this network has no such state at all" : "names here are: " + text + (count > listed ? ", ..." : "");
}

[[noreturn]] MORTISE_COLD inline void throw_batch_error(shape const& got, shape const& input) {
  throw shape_error("mortise::model::forward: the input has shape " + to_string(got) + ", but this network was compiled for (batch" +
                    (input.rank == 0 ? std::string{} : ", ") + to_string(input).substr(1) +
                    "; pass a view with that shape, or a flat one whose size is a multiple of " + std::to_string(input.elements()));
}

/// Batch size of a view that should be (batch, sample...), or flat with a whole number of samples.
inline std::size_t batch_of(shape const& got, std::size_t size, shape const& sample) {
  std::size_t const elements = sample.elements();
  bool fits = size != 0 && size % elements == 0;
  if (got.rank == sample.rank + 1) {
    for (std::size_t i = 0; i < sample.rank; ++i) fits = fits && got[i + 1] == sample[i];
  } else {
    fits = fits && got.rank <= 1;
  }
  if (!fits) throw_batch_error(got, sample);
  return size / elements;
}

// The reports of mistakes: functions, so that one mistake is one error.
template <class Loss, class Output, class Remedy>
constexpr void loss_takes() {
  static_assert(sizeof(Loss) == 0,
                "mortise: the loss does not accept the network's output shape; the loss, that shape and what the network should end with stand "
                "beside this message");
}
template <class Loss, class Targets, class Wanted>
constexpr void loss_takes_targets() {
  static_assert(sizeof(Loss) == 0,
                "mortise: the loss does not take targets of this type; the loss, the targets and what it wants stand beside this message (class indices are "
                "std::int64_t, as PyTorch's are; targets of losses that compare numbers have the model's element type)");
}
template <class NoLoss>
constexpr void is_a_loss() {
  static_assert(sizeof(NoLoss) == 0,
                "mortise: this is no loss: it has no `template <class T> using target_type`; docs/how_to.md shows how to write one. In train_step the loss comes "
                "before the optimizer");
}
template <class Loss, class T>
concept HasTargets = requires { typename Loss::template target_type<T>; };
template <class Loss, class Targets, class T>
concept FitsTargets = HasTargets<Loss, T> && std::convertible_to<Targets, view<typename Loss::template target_type<T> const>>;

template <class Path, class NearestPath>
constexpr void path_names_module() {
  static_assert(sizeof(Path) == 0,
                "mortise::model::module: the path matches no module; the path and the nearest one stand beside this message, "
                "mortise::summary(net) lists all");
}

template <class Loss, class Output>
constexpr void check_loss() {
  if constexpr (Loss::problem(Output::value) != nullptr) {
#if defined(__clang__)
    loss_takes<Loss, Output, void>();
    static_assert(in_words(Loss::problem(Output::value)), "mortise: what to do stands in the note below");
#else
    loss_takes<Loss, Output, remedy<fixed_text<text_length(Loss::problem(Output::value))>(Loss::problem(Output::value))>>();
#endif
  }
}

template <class Input>
inline constexpr bool is_extents = false;
template <std::size_t... Axes>
inline constexpr bool is_extents<extents<Axes...>> = true;

}  // namespace detail

/// A network of type `Network` for samples of shape `Input`, on `D`, computing in `T`.
///
/// All parameters lie in one flat array, the trainable ones first, packed in PyTorch's order; gradients and optimizer state have the same
/// layout. Memory for activations is planned at compile time and allocated by the first forward of a new largest batch; steps after that
/// allocate nothing. The input view must stay valid until `backward` returned. A model is a value: copies are deep.
///
/// With f16 or bf16 as T, layers compute in T (sums in float) on copies of parameters that are kept in float, and so are gradients, losses,
/// inputs and outputs: what an optimizer and a checkpoint see is a float network. CUDA only; see model/mixed_precision.hpp.
///
/// `InputGradient` makes backward compute the input's gradient as well (see `input_gradient`).
template <class Network, class Input, class D = host, class T = float, bool InputGradient = false>
class model {
  static_assert(detail::is_extents<Input>,
                "mortise::model: the second argument is the shape of one sample, without the batch, such as mortise::extents<1, 28, 28>");
  static_assert(Device<D>, "mortise::model: the third argument is a device, such as mortise::host; the element type is the fourth");
  static_assert(std::is_floating_point_v<arithmetic_type<T>>, "mortise::model: networks compute in float or double, on CUDA devices also in f16 or bf16; other types are for storage");

 public:
  using network = Network;
  using input_extents = Input;
  using device_type = D;
  using element = arithmetic_type<T>;  ///< of parameters, gradients, inputs and outputs
  using compute_element = T;           ///< of what layers read and write
  using plan_type = plan<Network, Input, sizeof(T), InputGradient>;
  using output_extents = extents_for<plan_type::output>;

  /// {name, extents, offset, size, trainable} of every parameter, in the order of the flat array.
  static constexpr auto const& parameter_table = plan_type::parameters;
  /// Parameters and buffers in the order of PyTorch's state_dict.
  static constexpr auto const& state_table = plan_type::states;
  static constexpr std::size_t parameter_count = plan_type::tables.parameter_count;
  static constexpr std::size_t trainable_count = plan_type::tables.trainable_count;

 private:
  static constexpr bool mixed = !std::is_same_v<element, T>;
  static_assert(!mixed || !std::is_same_v<typename D::space, host_space>,
                "mortise::model: f16 and bf16 networks run on CUDA devices; on the host use float: mt::model<Network, Input, mt::host, float>");
  static_assert(!mixed || !InputGradient, "mortise::model: an f16 or bf16 network has no input gradient; use float");

  static constexpr auto const& tables = plan_type::tables;
  static constexpr std::size_t node_count = plan_type::node_count;

  template <std::size_t I>
  static constexpr detail::node_info node = plan_type::tables.nodes[I];

  template <std::size_t I>
  struct first_module {
    using type = void;
  };
  template <std::size_t I>
    requires(I < node_count)
  struct first_module<I> {
    using type = typename plan_type::template module_at<I>;
  };

 public:
  /// `element`, or what the first module asks for (std::int64_t for an embedding).
  using input_element = typename detail::input_element<typename first_module<0>::type, element>::type;

  explicit model(D const& device = {}, seed const& s = {})
      : device_{device}, seed_{s.value}, parameters_{device, parameter_count}, gradients_{device, trainable_count},
        buffers_{device, tables.buffer_count}, counters_{device, tables.counter_count}, loss_value_{device, 1} {
    if constexpr (mixed) mixed_ = mixed_precision<D, T>{device, parameter_count, trainable_count};
    initialize();
  }

  // ---- running -----------------------------------------------------------------------------------------------------------------------

  /// x: (batch, Input...) or flat. The result, (batch, output...), lies in the model's memory until the next forward.
  /// Throws shape_error when x is no batch of this network's input; std::bad_alloc when a larger batch finds no memory.
  view<element const> forward(view<input_element const> x) { return forward_part(x, 0); }

  /// The same for samples that stand at `first_sample` of a larger batch: their random numbers are those they would have in the whole.
  view<element const> forward_part(view<input_element const> x, std::size_t first_sample) {
    std::size_t const batch = detail::batch_of(x.extents(), x.size(), Input::value);
    reserve(batch);
    run_ = {layer_input(step_memory_.input(device_, x.data(), x.size()), x.size()), batch, training_steps_, first_sample, training_};
    if constexpr (mixed) transfer_elements<element, T>(device_, device_, parameter_count, parameters_.data(), mixed_.parameters.data());
    if (training_) {
      forward_nodes<true>(std::make_index_sequence<node_count>{});
      ++training_steps_;
    } else {
      forward_nodes<false>(std::make_index_sequence<node_count>{});
    }
    if constexpr (mixed) transfer_elements<T, element>(device_, device_, batch * plan_type::output.elements(), layer_output(), mixed_.output.data());
    return output();
  }

  /// The result of the last forward.
  view<element const> output() const {
    if (run_.batch == 0) return {};
    if constexpr (mixed) return {mixed_.output.data(), plan_type::output.with_batch(run_.batch)};
    else return {layer_output(), plan_type::output.with_batch(run_.batch)};
  }

  /// Loss of the last forward against `target`, and all gradients. The value is read from the device only when it is converted.
  /// Throws usage_error when the last forward was not in training mode, shape_error when the targets do not fit the batch.
  template <class Loss>
  deferred<element, D> backward(Loss const& loss, view<typename Loss::template target_type<element> const> target) {
    return backward_scaled(loss, target, element{1});
  }

  template <class Loss, class Targets>
    requires(!detail::FitsTargets<Loss, Targets, element>)
  deferred<element, D> backward(Loss const&, Targets&&) {
    if constexpr (detail::HasTargets<Loss, element>)
      detail::loss_takes_targets<Loss, std::remove_cvref_t<Targets>, typename Loss::template target_type<element>>();
    else detail::is_a_loss<Loss>();
    return {device_, nullptr};
  }

  /// As `backward`; the loss and the gradients are multiplied by `scale` (parts of a batch, loss scaling).
  template <class Loss>
  deferred<element, D> backward_scaled(Loss const& loss, view<typename Loss::template target_type<element> const> target, element scale) {
    detail::check_loss<Loss, output_extents>();
    if (!run_.training || run_.batch == 0) throw_no_forward();
    check_target<Loss>(target);
    element* const seed_gradient = output_gradient_memory();
    reserve_loss(Loss::workspace(plan_type::output) * run_.batch);
    compute_loss(output_extents{}, loss, device_, run_.batch, output().data(),
                 step_memory_.target(device_, target.data(), target.size()), seed_gradient, loss_value_.data(), loss_workspace_.data());
    if (scale != element{1} && seed_gradient != nullptr) {
      elementwise_scale(device_, run_.batch * plan_type::output.elements(), scale, seed_gradient);
      elementwise_scale(device_, 1, scale, loss_value_.data());
    }
    backward_layers();
    return {device_, loss_value_.data()};
  }

  /// Gradients for a given gradient of the output, (batch, output...): for losses of one's own.
  void backward(view<element const> output_gradient) {
    if (!run_.training || run_.batch == 0) throw_no_forward();
    if (output_gradient.size() != run_.batch * plan_type::output.elements())
      throw shape_error("mortise::model::backward: the gradient has shape " + to_string(output_gradient.extents()) + ", the output " +
                        to_string(plan_type::output.with_batch(run_.batch)));
    if (element* const seed_gradient = output_gradient_memory(); seed_gradient != nullptr)
      device_.copy(seed_gradient, output_gradient.data(), output_gradient.size() * sizeof(element));
    backward_layers();
  }

  /// The loss of the last forward, in training or evaluation mode, without gradients.
  template <class Loss>
  deferred<element, D> evaluate(Loss const& loss, view<typename Loss::template target_type<element> const> target) {
    detail::check_loss<Loss, output_extents>();
    if (run_.batch == 0) throw_no_forward();
    check_target<Loss>(target);
    reserve_loss(Loss::workspace(plan_type::output) * run_.batch);
    compute_loss(output_extents{}, loss, device_, run_.batch, output().data(), step_memory_.target(device_, target.data(), target.size()),
                 static_cast<element*>(nullptr), loss_value_.data(), loss_workspace_.data());
    return {device_, loss_value_.data()};
  }

  /// The gradient of the last backward with respect to its input; only for `InputGradient` models.
  view<element const> input_gradient() const
    requires InputGradient
  {
    return {locate(tables.tensors[0].gradient, run_.batch), Input::value.with_batch(run_.batch)};
  }

  // ---- modes and settings ---------------------------------------------------------------------------------------------------------------

  void train(bool on = true) { training_ = on; }
  void eval() { training_ = false; }
  bool training() const { return training_; }

  D const& device() const { return device_; }
  /// Another thread count, another stream: where work runs, not what comes out.
  void set_device(D const& device) { device_ = device; }
  std::uint64_t seed_value() const { return seed_; }
  std::size_t training_steps() const { return training_steps_; }

  /// The module at a path, to read or change its settings: net.module<"classifier.2">().p = 0.25f.
  template <fixed_string Path>
  auto& module() {
    return detail::module_in<node_at_path<Path>()>(modules_);
  }
  template <fixed_string Path>
  auto const& module() const {
    return detail::module_in<node_at_path<Path>()>(modules_);
  }

  // ---- parameters -----------------------------------------------------------------------------------------------------------------------

  /// All parameters, flat, the trainable ones first.
  view<element> parameters() { return {parameters_.data(), shape{parameter_count}}; }
  view<element const> parameters() const { return {parameters_.data(), shape{parameter_count}}; }
  /// The gradients of the trainable parameters, same layout.
  view<element> gradients() { return {gradients_.data(), shape{trainable_count}}; }
  view<element const> gradients() const { return {gradients_.data(), shape{trainable_count}}; }
  /// All floating-point buffers (running statistics), flat.
  view<element> buffers() { return {buffers_.data(), shape{tables.buffer_count}}; }
  view<element const> buffers() const { return {buffers_.data(), shape{tables.buffer_count}}; }
  /// All integer buffers (num_batches_tracked), flat.
  view<std::int64_t> counters() { return {counters_.data(), shape{tables.counter_count}}; }
  view<std::int64_t const> counters() const { return {counters_.data(), shape{tables.counter_count}}; }

  /// A parameter by PyTorch's name, in its shape. Throws usage_error, with similar names, when there is none.
  view<element> parameter(std::string_view name) {
    auto const& s = find_state(name, state_entry::kind::parameter);
    return {parameters_.data() + s.offset, s.extents};
  }
  view<element const> parameter(std::string_view name) const {
    auto const& s = find_state(name, state_entry::kind::parameter);
    return {parameters_.data() + s.offset, s.extents};
  }
  /// The gradient of a trainable parameter.
  view<element> gradient(std::string_view name) {
    auto const& s = find_state(name, state_entry::kind::parameter);
    if (!s.trainable) throw usage_error("mortise::model::gradient: \"" + std::string{name} + "\" is frozen and has no gradient");
    return {gradients_.data() + s.offset, s.extents};
  }
  /// A floating-point buffer by name, such as "bn1.running_mean".
  view<element> buffer_named(std::string_view name) {
    auto const& s = find_state(name, state_entry::kind::buffer);
    return {buffers_.data() + s.offset, s.extents};
  }
  view<std::int64_t> counter(std::string_view name) {
    auto const& s = find_state(name, state_entry::kind::counter);
    return {counters_.data() + s.offset, s.extents};
  }

  /// Draws all parameters anew, as a model constructed with this seed has them; buffers get their initial values.
  void initialize(seed const& s) {
    seed_ = s.value;
    initialize();
  }

  /// Fills the parameters under these paths (see path_matches) anew: net.initialize<"**.weight">(mt::init::xavier_uniform()).
  /// Their random numbers are those that the model's seed has for them. Initialisers that look at fans leave vectors (biases, norms) alone.
  template <fixed_string... Paths, class Initializer>
    requires(sizeof...(Paths) != 0)
  void initialize(Initializer const& how) {
    static_assert((detail::check_path<model, Paths>() && ...));
    static_assert((detail::fits_a_parameter<Initializer>(parameter_table, Paths.view()) && ...),
                  "mortise::model::initialize: the path matches biases and norms only; fans exist for parameters of two axes or more");
    for (auto const& s : state_table) {
      if (s.what != state_entry::kind::parameter || !(path_matches(Paths.view(), s.name) || ...)) continue;
      if (detail::needs_fans<Initializer>() && s.extents.rank < 2) continue;
      if constexpr (requires { detail::initializer_for(how, s); }) {
        fill(detail::initializer_for(how, s), s);
      } else {
        std::vector<double> values(s.size);
        how.fill(s.extents, random_stream{seed_, stream_id(s.name), 0}, values.data());
        std::vector<element> converted(s.size);
        for (std::size_t i = 0; i < s.size; ++i) converted[i] = static_cast<element>(values[i]);
        device_.copy(parameters_.data() + s.offset, converted.data(), s.size * sizeof(element));
        device_.synchronize();
      }
    }
  }

  // ---- elsewhere ------------------------------------------------------------------------------------------------------------------------

  /// The same network with the same state on another device: a new model.
  template <Device Other>
  model<Network, Input, Other, T, InputGradient> to(Other const& other) const {
    model<Network, Input, Other, T, InputGradient> result{other, seed{seed_}};
    result.take_state_from(*this);
    return result;
  }
  /// The same network computing in another element type: a new model.
  template <class Other>
    requires std::is_floating_point_v<arithmetic_type<Other>>
  model<Network, Input, D, Other, InputGradient> to() const {
    model<Network, Input, D, Other, InputGradient> result{device_, seed{seed_}};
    result.take_state_from(*this);
    return result;
  }

  // ---- parts of a larger whole (parallel/) ------------------------------------------------------------------------------------------------

  /// The step whose random numbers the next forward in training mode takes: parts of one step take the same.
  void set_training_steps(std::size_t steps) { training_steps_ = steps; }
  /// From now on backward writes into `other`, which has trainable_count elements, and `other` is what it wrote into before.
  void swap_gradients(buffer<element, D>& other) noexcept { gradients_.swap(other); }
  /// Exchanges the running statistics: a part of a batch whose statistics nobody keeps runs on a copy.
  void swap_buffers(buffer<element, D>& buffers, buffer<std::int64_t, D>& counters) noexcept {
    buffers_.swap(buffers);
    counters_.swap(counters);
  }
  /// During backward, tells again and again from where on gradients are final: the flat array is finished from its end. Not told by 16-bit
  /// networks, whose gradients become float at the very end. {}: nobody listens.
  void watch_gradients(gradient_watch const& watch) { watch_ = watch; }
  /// Computes with the parameters of `other`, in its memory, which this model's device can read; `other` must stay where it is.
  void share_parameters(model const& other) {
    parameters_ = buffer<element, D>::borrowed(device_, other.parameters_.data(), other.parameters_.size());
  }
  /// Computes with, and trains, the parameter_count elements at `data`, which `owner` keeps. Views of the parameters that were taken before are
  /// no longer of this model.
  void adopt_parameters(element* data, std::shared_ptr<void const> owner) {
    parameters_ = buffer<element, D>::borrowed(device_, data, parameter_count, std::move(owner));
  }
  /// Becomes a replica of `other` in everything but its parameters and buffers: seed, step, mode, settings of modules. Allocates nothing.
  void follow(model const& other) {
    seed_ = other.seed_;
    training_steps_ = other.training_steps_;
    training_ = other.training_;
    modules_ = other.modules_;
  }

  // ---- loss scaling (f16 and bf16) --------------------------------------------------------------------------------------------------------

  /// The loss scaler's settings and state. Waits for the device.
  grad_scaler scaler() const
    requires mixed
  {
    return mixed_.scaler();
  }
  void set_scaler(grad_scaler const& scaler)
    requires mixed
  {
    mixed_.set(scaler);
  }
  /// The scaler for checkpoints: PyTorch's "scaler_state_dict".
  template <class Visitor>
    requires mixed
  void describe_scaler(Visitor&& visit) {
    mixed_.describe(visit);
  }
  /// The gradients of one batch come in parts, summed by somebody else, who asks `judge_gradients` afterwards: no part moves the scale.
  void set_part(bool on)
    requires mixed
  {
    mixed_.of_a_part = on;
  }
  /// On the device: for replicas, which scale as the model does.
  loss_scale_state* loss_scale()
    requires mixed
  {
    mixed_.take_described();
    return mixed_.state.data();
  }
  /// Whether the gradients, as they are now, hold an infinity or NaN; moves the scale as one backward does.
  void judge_gradients()
    requires mixed
  {
    find_overflow(device_, trainable_count, gradients_.data(), mixed_.state.data());
    advance_loss_scale(device_, mixed_.settings.on_device(), mixed_.state.data());
  }
  /// On the device: not 0 when the last gradients hold an infinity or NaN, so that an optimizer must leave everything as it is.
  std::int32_t const* overflow() const
    requires mixed
  {
    return &mixed_.state.data()->overflow;
  }

  /// What the device keeps between steps: for train_step.
  mortise::step_memory<D>& step_memory() { return step_memory_; }

  /// The scalars of a model's state, for checkpoints.
  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("seed", seed_);
    visit("training_steps", training_steps_);
  }

  /// Bytes of the arena for a batch: what is planned at compile time.
  static constexpr std::size_t activation_bytes(std::size_t batch, bool training) {
    auto const& a = training ? tables.training_arena : tables.evaluation_arena;
    return (a.per_sample * batch + a.fixed) * sizeof(T);
  }

 private:
  template <class, class, class, class, bool>
  friend class model;

  using layer_input_element = std::conditional_t<std::is_same_v<input_element, element>, T, input_element>;

  struct run_state {
    layer_input_element const* input = nullptr;
    std::size_t batch = 0;
    std::uint64_t step = 0;
    std::size_t first_sample = 0;
    bool training = false;
  };

  // ---- memory ---------------------------------------------------------------------------------------------------------------------------

  void reserve(std::size_t batch) {
    auto const& need = training_ ? tables.training_arena : tables.evaluation_arena;
    std::size_t const elements = need.per_sample * batch + need.fixed;
    if (elements > arena_.size()) [[unlikely]]
      grow(arena_, elements);
    if constexpr (mixed) {
      if (batch * Input::elements > mixed_.input.size()) [[unlikely]]
        grow(mixed_.input, batch * Input::elements);
      if (batch * plan_type::output.elements() > mixed_.output.size()) [[unlikely]] {
        grow(mixed_.output, batch * plan_type::output.elements());
        grow(mixed_.output_gradient, batch * plan_type::output.elements());
      }
    }
  }
  void reserve_loss(std::size_t elements) {
    if (elements > loss_workspace_.size()) [[unlikely]]
      grow(loss_workspace_, elements);
  }
  template <class E>
  MORTISE_COLD void grow(buffer<E, D>& what, std::size_t elements) {
    device_.synchronize();
    what = buffer<E, D>{};  // contents are scratch: never hold two arenas at once
    if (static_cast<void const*>(&what) != &loss_workspace_) run_.batch = 0;
    what = buffer<E, D>{device_, elements};
  }

  MORTISE_INLINE T* locate(detail::place const& p, std::size_t batch) const {
    if (p.where != detail::place::kind::arena) return nullptr;
    return arena_.data() + ((p.at.per_sample * batch + p.at.fixed) & ~std::size_t{15});
  }

  /// A tensor's values; the caller's own memory where the network only looks at its input.
  template <bool Training>
  MORTISE_INLINE T* value(std::size_t tensor) const {
    auto const& t = tables.tensors[tensor];
    detail::place const& p = Training ? t.training : t.evaluation;
    if (p.where == detail::place::kind::external) {
      if constexpr (std::is_same_v<layer_input_element, T>) return const_cast<T*>(run_.input);  // only ever read
      else return nullptr;
    }
    return locate(p, run_.batch);
  }

  // ---- between float and T, where layers compute in another type -------------------------------------------------------------------------

  /// What the first layer reads.
  layer_input_element const* layer_input(input_element const* x, [[maybe_unused]] std::size_t n) const {
    if constexpr (std::is_same_v<input_element, layer_input_element>) {
      return x;
    } else {
      transfer_elements<input_element, T>(device_, device_, n, x, mixed_.input.data());
      return mixed_.input.data();
    }
  }
  MORTISE_INLINE T* layer_output() const { return run_.training ? value<true>(tables.output_tensor) : value<false>(tables.output_tensor); }
  /// Where a loss writes its gradient; null: nothing learns.
  element* output_gradient_memory() const {
    if constexpr (!tables.tensors[tables.output_tensor].requires_gradient) return nullptr;
    else if constexpr (mixed) return mixed_.output_gradient.data();
    else return locate(tables.tensors[tables.output_tensor].gradient, run_.batch);
  }
  MORTISE_INLINE T const* layer_parameters() const {
    if constexpr (mixed) return mixed_.parameters.data();
    else return parameters_.data();
  }
  MORTISE_INLINE T* layer_gradients() const {
    if constexpr (mixed) return mixed_.gradients.data();
    else return gradients_.data();
  }
  /// All gradients from that of the output.
  void backward_layers() {
    if constexpr (mixed && tables.tensors[tables.output_tensor].requires_gradient) {
      mixed_.take_described();
      scale_output_gradient(device_, run_.batch * plan_type::output.elements(), mixed_.output_gradient.data(), mixed_.state.data(),
                            locate(tables.tensors[tables.output_tensor].gradient, run_.batch));
    }
    backward_nodes(std::make_index_sequence<node_count>{});
    if constexpr (mixed) {
      unscale_gradients(device_, trainable_count, mixed_.gradients.data(), mixed_.state.data(), gradients_.data());
      if (!mixed_.of_a_part) advance_loss_scale(device_, mixed_.settings.on_device(), mixed_.state.data());
    }
  }

  // ---- forward and backward: straight lines ---------------------------------------------------------------------------------------------

  template <bool Training, std::size_t... I>
  void forward_nodes(std::index_sequence<I...>) {
    if constexpr (sizeof...(I) <= 200) (forward_node<Training, I>(), ...);
    else {
      int const order[] = {(forward_node<Training, I>(), 0)...};
      static_cast<void>(order);
    }
  }
  template <std::size_t... I>
  void backward_nodes(std::index_sequence<I...>) {
    if constexpr (sizeof...(I) <= 200) (backward_node<node_count - 1 - I>(), ...);
    else {
      int const order[] = {(backward_node<node_count - 1 - I>(), 0)...};
      static_cast<void>(order);
    }
  }

  template <std::size_t I>
  MORTISE_INLINE random_stream stream_of() const {
    static constexpr std::uint64_t id = stream_id(plan_type::node_path(I));
    return {seed_, id, static_cast<std::uint32_t>(run_.step)};
  }

  template <bool Training, std::size_t I>
  void forward_node() {
    constexpr detail::node_info n = plan_type::tables.nodes[I];
    constexpr std::size_t out = tables.edges[n.edge + n.inputs];
    if constexpr (n.what == detail::token_info::kind::run) {
      if constexpr (!n.view) {
        constexpr std::size_t in = tables.edges[n.edge];
        constexpr bool from_caller = tables.tensors[in].training.where == detail::place::kind::external;
        using X = std::conditional_t<from_caller, layer_input_element, T>;
        X const* x = nullptr;
        if constexpr (from_caller) x = run_.input;
        else x = value<Training>(in);
        forward_args<D, T, extents_for<n.in>, extents_for<n.out>, X, n.clips_input> const a{
            device_, run_.batch, Training && !n.frozen, x, value<Training>(out), layer_parameters() + n.parameter_base,
            parameter_offsets<I>, buffers_.data() + n.buffer_base, counters_.data() + n.counter_base,
            Training ? locate(n.saved_at, run_.batch) : nullptr,
            Training ? reinterpret_cast<std::byte*>(locate(n.saved_bytes_at, run_.batch)) : nullptr,
            locate(Training ? tables.training_workspace : tables.evaluation_workspace, run_.batch), stream_of<I>(), run_.first_sample};
        detail::module_in<I>(modules_).forward(a);
      }
    } else if constexpr (n.what == detail::token_info::kind::add) {
      elementwise_add(device_, run_.batch * n.out.elements(), value<Training>(tables.edges[n.edge]),
                     value<Training>(tables.edges[n.edge + 1]), value<Training>(out));
    } else if constexpr (n.what == detail::token_info::kind::concatenate) {
      copy_parts<Training, I>(std::make_index_sequence<n.inputs>{});
    }
  }

  template <bool Training, std::size_t I, std::size_t... K>
  void copy_parts(std::index_sequence<K...>) {
    constexpr detail::node_info n = plan_type::tables.nodes[I];
    constexpr std::size_t out = tables.edges[n.edge + n.inputs];
    constexpr std::size_t width = n.out.elements();
    std::size_t at = 0;
    auto part = [&](std::size_t tensor) {
      std::size_t const size = tables.tensors[tensor].extents.elements();
      copy_rows(device_, run_.batch, size, value<Training>(tensor), size, value<Training>(out) + at, width);
      at += size;
    };
    (part(tables.edges[n.edge + K]), ...);
  }

  template <std::size_t I>
  static constexpr std::size_t const* parameter_offsets = plan_type::tables.nodes.items[I].parameter_offsets;

  MORTISE_INLINE T* gradient_of(std::size_t tensor) const { return locate(tables.tensors[tensor].gradient, run_.batch); }

  template <std::size_t I>
  void backward_node() {
    constexpr detail::node_info n = plan_type::tables.nodes[I];
    constexpr std::size_t out = tables.edges[n.edge + n.inputs];
    constexpr std::size_t in = tables.edges[n.edge];
    if constexpr (!n.runs_backward) {
      return;
    } else if constexpr (n.what == detail::token_info::kind::run) {
      if constexpr (!n.view) {
        constexpr bool from_caller = tables.tensors[in].training.where == detail::place::kind::external;
        using X = std::conditional_t<from_caller, layer_input_element, T>;
        X const* x = nullptr;
        if constexpr (from_caller) x = run_.input;
        else x = value<true>(in);
        backward_args<D, T, extents_for<n.in>, extents_for<n.out>, X, n.wants_input_gradient> const a{
            device_, run_.batch, !n.frozen, x, value<true>(out), gradient_of(out), n.wants_input_gradient ? gradient_of(in) : nullptr,
            layer_parameters() + n.parameter_base, n.frozen ? nullptr : layer_gradients() + n.parameter_base, parameter_offsets<I>,
            buffers_.data() + n.buffer_base, locate(n.saved_at, run_.batch),
            reinterpret_cast<std::byte const*>(locate(n.saved_bytes_at, run_.batch)), locate(tables.training_workspace, run_.batch),
            stream_of<I>(), run_.first_sample};
        detail::module_in<I>(modules_).backward(a);
        // Earlier layers have earlier places in the flat array.
        if constexpr (n.parameter_count != 0 && !n.frozen && !mixed)
          if (watch_.call != nullptr) [[unlikely]]
            watch_.call(watch_.context, n.parameter_base);
      }
    } else if constexpr (n.what == detail::token_info::kind::fork) {
      if constexpr (n.wants_input_gradient) sum_gradients<I>(std::make_index_sequence<n.outputs - 1>{});
    } else if constexpr (n.what == detail::token_info::kind::concatenate) {
      split_gradient<I>(std::make_index_sequence<n.inputs>{});
    }
    // add: both inputs' gradients lie where the sum's does.
  }

  template <std::size_t I, std::size_t... K>
  void sum_gradients(std::index_sequence<K...>) {
    constexpr detail::node_info n = plan_type::tables.nodes[I];
    constexpr std::size_t in = tables.edges[n.edge];
    T* const dx = gradient_of(in);
    std::size_t const elements = run_.batch * n.in.elements();
    T const* sum = gradient_of(tables.edges[n.edge + 1]);
    ((elementwise_add(device_, elements, sum, gradient_of(tables.edges[n.edge + 2 + K]), dx), sum = dx), ...);
    if constexpr (sizeof...(K) == 0)
      if (sum != dx) device_.copy(dx, sum, elements * sizeof(T));
  }

  template <std::size_t I, std::size_t... K>
  void split_gradient(std::index_sequence<K...>) {
    constexpr detail::node_info n = plan_type::tables.nodes[I];
    constexpr std::size_t out = tables.edges[n.edge + n.inputs];
    std::size_t at = 0;
    auto part = [&](std::size_t tensor) {
      std::size_t const size = tables.tensors[tensor].extents.elements();
      if (tables.tensors[tensor].requires_gradient)
        copy_rows(device_, run_.batch, size, gradient_of(out) + at, n.out.elements(), gradient_of(tensor), size);
      at += size;
    };
    (part(tables.edges[n.edge + K]), ...);
  }

  // ---- the rest ---------------------------------------------------------------------------------------------------------------------------

  template <class Loss>
  void check_target(view<typename Loss::template target_type<element> const> target) const {
    std::size_t const expected = run_.batch * Loss::target_shape(plan_type::output).elements();
    if (target.size() != expected) [[unlikely]]
      throw_target_error(target.extents(), Loss::target_shape(plan_type::output).with_batch(run_.batch));
  }
  [[noreturn]] MORTISE_COLD static void throw_target_error(shape const& got, shape const& expected) {
    throw shape_error("mortise::model: the targets have shape " + to_string(got) + ", but for this forward the loss wants " + to_string(expected));
  }
  [[noreturn]] MORTISE_COLD static void throw_no_forward() {
    throw usage_error("mortise::model::backward: there is no forward in training mode to go back from; call net.train() and net.forward(x) first");
  }

  static constexpr std::size_t nearest_node(std::string_view path) {
    std::size_t runs[node_count + 1] = {};
    std::size_t count = 0;
    for (std::size_t i = 0; i < node_count; ++i)
      if (tables.nodes[i].what == detail::token_info::kind::run) runs[count++] = i;
    return runs[detail::nearest_name(count, [&](std::size_t i) { return plan_type::node_path(runs[i]); }, path)];
  }
  template <fixed_string Path>
  static constexpr std::size_t node_at_path() {
    constexpr std::size_t found = [] {
      for (std::size_t i = 0; i < node_count; ++i)
        if (tables.nodes[i].what == detail::token_info::kind::run && plan_type::node_path(i) == Path.view()) return i;
      return detail::nowhere;
    }();
    if constexpr (found == detail::nowhere) {
      constexpr std::string_view there = plan_type::node_path(nearest_node(Path.view()));
      detail::path_names_module<detail::path_of<Path>, detail::nearest_of<detail::fixed_text<there.size()>(there.data())>>();
      return nearest_node(Path.view());
    } else {
      return found;
    }
  }

  static state_entry const& find_state(std::string_view name, state_entry::kind what) {
    for (auto const& s : state_table)
      if (s.what == what && s.name == name) return s;
    throw usage_error("mortise::model: there is no " +
                      std::string{what == state_entry::kind::parameter ? "parameter" : what == state_entry::kind::buffer ? "buffer" : "counter"} +
                      " \"" + std::string{name} + "\"; " + detail::list_names(name, state_table.items, state_table.size()));
  }

  void fill(initializer const& i, state_entry const& s) {
    fill_elements(device_, i.how == initializer::kind::constant ? 0 : i.how == initializer::kind::uniform ? 1 : 2, i.a, i.b,
                  random_stream{seed_, stream_id(s.name), 0}, s.size, parameters_.data() + s.offset);
  }
  void initialize() {
    for (auto const& s : state_table) {
      switch (s.what) {
        case state_entry::kind::parameter: fill(s.init, s); break;
        case state_entry::kind::buffer:
          fill_elements(device_, 0, s.init.a, 0, random_stream{}, s.size, buffers_.data() + s.offset);
          break;
        case state_entry::kind::counter: device_.fill_zero(counters_.data() + s.offset, s.size * sizeof(std::int64_t)); break;
      }
    }
    training_steps_ = 0;
  }

  template <class Other>
  void take_state_from(Other const& other) {
    using S = typename Other::element;
    transfer_elements<S, element>(other.device_, device_, parameter_count, other.parameters_.data(), parameters_.data());
    transfer_elements<S, element>(other.device_, device_, tables.buffer_count, other.buffers_.data(), buffers_.data());
    transfer_elements<std::int64_t, std::int64_t>(other.device_, device_, tables.counter_count, other.counters_.data(), counters_.data());
    take_modules_from(other, std::make_index_sequence<node_count>{});
    training_steps_ = other.training_steps_;
    training_ = other.training_;
    if constexpr (mixed && std::is_same_v<typename Other::compute_element, T>) set_scaler(other.scaler());
  }
  template <class Other, std::size_t... I>
  void take_modules_from(Other const& other, std::index_sequence<I...>) {
    int const order[] = {0, (take_module_from<I>(other), 0)...};
    static_cast<void>(order);
  }
  template <std::size_t I, class Other>
  void take_module_from(Other const& other) {
    if constexpr (!std::is_void_v<typename plan_type::template module_at<I>>)
      detail::module_in<I>(modules_) = detail::module_in<I>(other.modules_);
  }

  D device_;
  std::uint64_t seed_ = 0;
  std::uint64_t training_steps_ = 0;
  bool training_ = true;
  run_state run_{};
  [[no_unique_address]] detail::module_slots<plan_type, std::make_index_sequence<node_count>> modules_{};
  buffer<element, D> parameters_, gradients_, buffers_;
  buffer<std::int64_t, D> counters_;
  buffer<T, D> arena_;
  buffer<element, D> loss_workspace_, loss_value_;
  [[no_unique_address]] std::conditional_t<mixed, mixed_precision<D, T>, no_mixed_precision> mixed_{};
  [[no_unique_address]] mortise::step_memory<D> step_memory_{};
  gradient_watch watch_{};
};

}  // namespace mortise
