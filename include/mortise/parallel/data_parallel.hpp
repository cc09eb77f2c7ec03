// One model trained by several devices: each runs some shards of a batch, the gradients are summed in an order that is always the same.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/loss/class_targets.hpp>
#include <mortise/loss/reduction.hpp>
#include <mortise/model/deferred.hpp>
#include <mortise/model/model.hpp>
#include <mortise/model/optimizer_of_model.hpp>
#include <mortise/operation/map.hpp>
#include <mortise/operation/reduce.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/parallel/batch_norm_group.hpp>
#include <mortise/parallel/devices.hpp>
#include <mortise/parallel/distributed.hpp>
#include <mortise/parallel/host_mesh.hpp>
#include <mortise/parallel/reduce.hpp>
#include <mortise/tensor/batch_part.hpp>
#include <mortise/tensor/buffer.hpp>
#include <mortise/tensor/view.hpp>

namespace mortise {

/// Into how many parts a batch is cut, whoever computes them: results have the same bits for every number of devices up to `count`.
/// 0, the default: one for each device.
struct shards {
  std::size_t count = 0;
};

/// Batch norms see the whole batch instead of a shard: torch.nn.SyncBatchNorm. Shards then run at the same time, each in a thread and with
/// activations of its own; on CUDA devices, and over several processes, with one shard in each.
///
///     mt::data_parallel many{net, mt::host_mesh{4}, mt::shards{4}, mt::sync_batch_norm{}};
struct sync_batch_norm {};

/// Gradients are summed in pieces of about this many bytes while the backward pass still computes those of earlier layers; no piece
/// changes a bit. PyTorch's DistributedDataParallel takes 25 MiB, which is all of a small network; 0: sum when backward is done.
struct buckets {
  std::size_t bytes = std::size_t{1} << 20;
};

namespace detail {

[[noreturn]] MORTISE_COLD inline void refuse_synchronized_shards(std::size_t shards, std::size_t devices) {
  throw usage_error("mortise::data_parallel: sync_batch_norm over " + std::to_string(devices) +
                    " CUDA devices or processes wants one shard in each, not " + std::to_string(shards) + " in all; take shards{" +
                    std::to_string(devices) + "}, or leave shards out");
}
[[noreturn]] MORTISE_COLD inline void refuse_synchronized_batch(std::size_t batch, std::size_t processes) {
  throw shape_error("mortise::data_parallel: a batch of " + std::to_string(batch) + " samples for " + std::to_string(processes) +
                    " processes with sync_batch_norm; each wants one sample at least");
}
[[noreturn]] MORTISE_COLD inline void refuse_more_devices_than_shards(std::size_t devices, std::size_t shards) {
  throw usage_error("mortise::data_parallel: " + std::to_string(shards) + " shards for " + std::to_string(devices) +
                    " devices leave some without work; take at least shards{" + std::to_string(devices) + "}, or fewer devices");
}
[[noreturn]] MORTISE_COLD inline void refuse_batch_below_shards(std::size_t batch, std::size_t shards) {
  throw shape_error("mortise::data_parallel: a batch of " + std::to_string(batch) + " samples cannot be cut into " + std::to_string(shards) +
                    " shards; take larger batches, fewer shards, or let the loader leave out a short last batch (drop_last)");
}
[[noreturn]] MORTISE_COLD inline void refuse_other_first_device(std::string const& model, std::string const& first) {
  throw usage_error("mortise::data_parallel: the model lives on " + model + ", but the first device is " + first +
                    "; list the model's device first: its parameters are the ones that are updated and saved");
}
[[noreturn]] MORTISE_COLD inline void refuse_backward_without_forward() {
  throw usage_error("mortise::data_parallel::backward: there is no forward in training mode to go back from; call train() and forward(x) first");
}

/// Losses over class indices: what counts is found by looking at the targets.
template <class Loss>
concept CountsTargets = requires(Loss const& loss) {
  loss.reduction;
  loss.ignore_index;
  loss.weight;
};
template <class Loss>
concept Reduces = requires(Loss const& loss) { loss.reduction; };

/// Sum of the weights of targets; `first_sample` is for the message about a target that is no class.
template <class Loss>
double weight_of_targets(Loss const& loss, shape const& out, std::size_t first_sample, std::size_t samples, std::int64_t const* target) {
  std::size_t const classes = out[0], positions = positions_of(out);
  if (!loss.weight.empty() && loss.weight.size() != classes) throw_weight_count("data_parallel", "weight", loss.weight.size(), classes);
  double sum = 0;
  for (std::size_t i = 0; i < samples * positions; ++i) {
    if (target[i] == loss.ignore_index) continue;
    if (static_cast<std::uint64_t>(target[i]) >= classes) [[unlikely]]
      throw_class_index("data_parallel", target[i], first_sample + i / positions, i % positions, positions, classes, loss.ignore_index);
    sum += loss.weight.empty() ? 1.0 : loss.weight[static_cast<std::size_t>(target[i])];
  }
  return sum;
}

/// What may stand behind the devices of a data_parallel, in any order.
struct parallel_settings {
  shards cut{};
  buckets overlap{};
  bool synchronized = false;

  parallel_settings() = default;
  template <class... Policies>
  explicit parallel_settings(std::size_t, Policies const&... policies) {
    (take(policies), ...);
  }
  void take(shards const& s) { cut = s; }
  void take(buckets const& b) { overlap = b; }
  void take(sync_batch_norm const&) { synchronized = true; }
};
template <class P>
concept ParallelPolicy = std::same_as<P, shards> || std::same_as<P, buckets> || std::same_as<P, sync_batch_norm>;

/// Which team works for what a user passes to data_parallel.
template <class Spec>
struct team_of;
template <>
struct team_of<host_mesh> {
  using type = host_team;
};
template <class D>
struct team_of<devices<D>> {
  using type = device_team<D>;
};

/// Where replicas on these devices meet at batch norms.
template <class D>
struct batch_norm_meeting {
  using type = batch_norm_group;
};

/// A team of several processes knows its rank; all others are one process.
template <class Team>
concept ProcessTeam = requires(Team& team) {
  team.rank();
  team.processes();
};

template <class Loss>
inline constexpr char loss_identity = 0;

}  // namespace detail

/// Trains `net` on several devices at once.
///
///     mt::data_parallel many{net, mt::host_mesh{4}, mt::shards{4}};
///     mt::optimizer opt{net, mt::adamw{}};
///     mt::train_step(many, loss, opt, batch);
///
/// `net` stays the master: the optimizer updates it, and `many` saves and loads as it, under the same keys. The first device works on `net`
/// itself, the others on replicas that are made once and take over its parameters at the start of each step (on the host they read them where
/// they are). So `net` may be loaded, changed or evaluated at any time in between. It must outlive `many` and stay where it is.
///
/// **Bits.** The batch is cut into shards of neighbouring samples, each shard's gradient is computed alone, and the gradients are summed by
/// a tree that depends on the number of shards alone. With `shards{S}` results have the same bits on 1 to S devices; without, each device is
/// one shard. A mean loss is the mean over the whole batch, also where shards are uneven, classes have weights or targets are ignored;
/// a loss of one's own, without a member `reduction`, is taken for a mean over samples.
///
/// **Batch norm** normalises each shard by itself and keeps the running statistics of the first shard, as PyTorch's DataParallel keeps those
/// of the first device; with `sync_batch_norm`, each sees the whole batch.
///
/// A batch may be smaller than the number of devices; with `shards{S}`, training throws shape_error for batches below S samples.
template <class Model, class Spec>
class data_parallel {
  using team_type = typename detail::team_of<Spec>::type;
  static constexpr bool several_processes = detail::ProcessTeam<team_type>;
  using group_type = typename detail::batch_norm_meeting<typename Model::device_type>::type;
  static constexpr bool on_host = std::is_same_v<typename Model::device_type::space, host_space>;

 public:
  using model_type = Model;
  using device_type = typename Model::device_type;
  using element = typename Model::element;
  using input_element = typename Model::input_element;
  using input_extents = typename Model::input_extents;
  using output_extents = typename Model::output_extents;

  static constexpr auto const& parameter_table = Model::parameter_table;
  static constexpr auto const& state_table = Model::state_table;
  static constexpr std::size_t parameter_count = Model::parameter_count;
  static constexpr std::size_t trainable_count = Model::trainable_count;

  /// Makes the replicas. Behind the devices: shards, buckets, sync_batch_norm, as wanted. Throws usage_error when there are more devices than
  /// shards, or the model does not live on the first device.
  template <class S, detail::ParallelPolicy... Policies>
  data_parallel(Model& net, S&& spec, Policies const&... policies)
      : data_parallel{net, spec, detail::parallel_settings{std::size_t{}, policies...}} {}
  data_parallel(data_parallel const&) = delete;
  data_parallel& operator=(data_parallel const&) = delete;

  // ---- running ------------------------------------------------------------------------------------------------------------------------

  /// x (batch, Input...): the whole batch. The result (batch, output...) lies on the model's device until the next forward.
  /// In training mode x must stay valid until `backward` returned. Throws as the model's forward.
  view<element const> forward(view<input_element const> x) {
    begin(x, {0, 0}, true);
    run_forward();
    statistics_done_ = true;
    return output();
  }

  /// The output of the last forward or training step, in the order of the samples. Where processes were given parts of a batch: this part's.
  view<element const> output() const {
    if (output_rows_ == 0) return {};
    if (model_has_output_) return std::as_const(*net_).output();
    return {output_.data(), Model::plan_type::output.with_batch(output_rows_)};
  }

  /// Loss of the last forward against all its targets, and all gradients, summed over the devices, in the model's `gradients()`.
  /// Where a device has several shards, their activations are computed anew: train_step needs half the work.
  template <class Loss>
  deferred<element, device_type> backward(Loss const& loss, view<typename Loss::template target_type<element> const> target) {
    return backward_scaled(loss, target, element{1});
  }
  /// As `backward`; loss and gradients are multiplied by `scale`.
  template <class Loss>
  deferred<element, device_type> backward_scaled(Loss const& loss, view<typename Loss::template target_type<element> const> target, element scale) {
    if (whole_ == 0 || !trained_) detail::refuse_backward_without_forward();
    return run_backward(loss, target, scale, prepare_backward());
  }

  /// Gradients for a given gradient of the output, (batch, output...): for losses of one's own.
  void backward(view<element const> output_gradient) {
    static_assert(!several_processes, "mortise::data_parallel: over several processes, gradients come from a loss; give backward a loss and targets");
    if (whole_ == 0 || !trained_) detail::refuse_backward_without_forward();
    std::size_t const width = Model::plan_type::output.elements();
    if (output_gradient.size() != whole_ * width)
      throw shape_error("mortise::data_parallel::backward: the gradient has shape " + to_string(output_gradient.extents()) + ", the output " +
                        to_string(Model::plan_type::output.with_batch(whole_)));
    run_training(prepare_backward(), [&](Model& m, std::size_t, sample_range const& r) {
      m.backward(view<element const>{output_gradient.data() + r.first * width, Model::plan_type::output.with_batch(r.count)});
      return static_cast<element const*>(nullptr);
    });
    end_sum();
  }

  /// The loss of the last forward, without gradients.
  template <class Loss>
  deferred<element, device_type> evaluate(Loss const& loss, view<typename Loss::template target_type<element> const> target) {
    check_target<Loss>(target);
    if (output_rows_ != whole_) detail::refuse_backward_without_forward();
    std::size_t const need = Loss::workspace(Model::plan_type::output) * whole_;
    if (need > loss_workspace_.size()) loss_workspace_ = buffer<element, device_type>{net_->device(), need};
    compute_loss(output_extents{}, loss, net_->device(), whole_, output().data(),
                 net_->step_memory().target(net_->device(), target.data(), target.size()), static_cast<element*>(nullptr), loss_value_.data(),
                 loss_workspace_.data());
    return {net_->device(), loss_value_.data()};
  }

  /// Forward, loss and gradients in one go: each shard goes back as soon as it came forward. `batch` is the whole batch, or, from a loader
  /// that reads one process's part, that part.
  template <class Loss, class Batch>
  deferred<element, device_type> forward_backward(Loss const& loss, Batch const& batch) {
    if (!net_->training()) net_->train();
    if constexpr (requires { batch.whole; }) begin(batch.x, {batch.first_sample, batch.whole});
    else begin(batch.x, {0, 0});
    try {
      return run_backward(loss, batch.y, element{1}, true);
    } catch (...) {  // the step has not been: it may be taken again
      net_->set_training_steps(step_);
      keep_gradient_array();
      throw;
    }
  }

  /// One device of one process with one shard: nothing but the model.
  bool is_alone() const { return !several_processes && team_.size() == 1 && shards_ <= 1; }
  /// The model has made a training step on the batch x by itself: its output is the output.
  void take_output(view<input_element const> x) {
    whole_ = detail::batch_of(x.extents(), x.size(), input_extents::value);
    local_ = {0, whole_};
    output_rows_ = whole_;
    model_has_output_ = true;
    trained_ = false;
  }

  // ---- the model ----------------------------------------------------------------------------------------------------------------------

  Model& model() { return *net_; }
  Model const& model() const { return *net_; }
  device_type const& device() const { return net_->device(); }
  void train(bool on = true) { net_->train(on); }
  void eval() { net_->eval(); }
  bool training() const { return net_->training(); }
  std::uint64_t seed_value() const { return net_->seed_value(); }
  std::size_t training_steps() const { return net_->training_steps(); }

  view<element> parameters() { return net_->parameters(); }
  view<element const> parameters() const { return std::as_const(*net_).parameters(); }
  view<element> gradients() { return net_->gradients(); }
  view<element const> gradients() const { return std::as_const(*net_).gradients(); }
  view<element> buffers() { return net_->buffers(); }
  view<element const> buffers() const { return std::as_const(*net_).buffers(); }
  view<std::int64_t> counters() { return net_->counters(); }
  view<std::int64_t const> counters() const { return std::as_const(*net_).counters(); }
  template <class Visitor>
  void describe(Visitor&& visit) {
    net_->describe(std::forward<Visitor>(visit));
  }

  /// Devices of all processes together, and shards of a large batch.
  std::size_t devices() const {
    if constexpr (several_processes) return team_.processes();
    else return team_.size();
  }
  std::size_t shard_count() const { return shards_ == 0 ? devices() : shards_; }
  /// What of each batch this process works on: for loader_options::part.
  batch_part part() const {
    if constexpr (several_processes) return {team_.rank(), team_.processes(), shards_};
    else return {};
  }

  /// Runs f on one process only, and lets the others wait for it; what it throws is thrown on all. For saving.
  template <class F>
  void on_one_process(F const& f) const {
    if constexpr (several_processes) team_.once(f);
    else f();
  }

  /// Which of n elements this process keeps and updates where the work is shared: for sharded_optimizer.
  optimizer_window window(std::size_t n) const {
    batch_part const p = part();
    std::size_t const first = p.device * n / p.devices;
    return {first, (p.device + 1) * n / p.devices - first};
  }
  /// Everybody gets the n elements of which each process has its window.
  void gather_windows([[maybe_unused]] element* data, [[maybe_unused]] std::size_t n) {
    if constexpr (several_processes) {
      std::vector<std::size_t> first(devices() + 1);
      for (std::size_t d = 0; d <= devices(); ++d) first[d] = d * n / devices();
      team_.gather(data, first);
      team_.settle();
    }
  }

  /// The replica of a device of this process, the model itself for 0: for tests and for looking at what a device did.
  Model const& replica_of(std::size_t device) const { return *replicas_[device].net; }

  /// Throws usage_error where the optimizer, or what stands in for one, updates another model.
  template <class Optimizer>
  void check_optimizer(Optimizer& optimizer) const { detail::check_optimizer(*net_, optimizer); }

 private:
  using D = device_type;
  static constexpr bool scales_losses = requires(Model& m) { m.judge_gradients(); };
  using partial = detail::partial_sum<element>;
  using addition = detail::array_addition<element>;

  data_parallel(Model& net, Spec& spec, detail::parallel_settings const& settings)
      : net_{&net}, team_{make_team(spec, settings)}, shards_{settings.cut.count}, synchronized_{settings.synchronized},
        bucket_{settings.overlap.bytes / sizeof(element)} {
    static_assert(std::is_same_v<typename D::space, typename decltype(team_.device(0))::space>,
                  "mortise::data_parallel: the model lives on another kind of device than those that are to train it; move it first: "
                  "auto on_gpu = net.to(mt::cuda{0}), or use mt::host_mesh{N} for a model on the host");
    if (shards_ != 0 && devices() > shards_) detail::refuse_more_devices_than_shards(devices(), shards_);
    if constexpr (several_processes) {
      if (synchronized_ && shards_ != 0 && shards_ != devices()) detail::refuse_synchronized_shards(shards_, devices());
    } else if (synchronized_) {
      if (!on_host && shards_ != 0 && shards_ != devices()) detail::refuse_synchronized_shards(shards_, devices());
      group_ = std::make_unique<group_type>(team_.size());
    }
    if constexpr (!on_host)
      if (!(team_.device(0) == net.device())) detail::refuse_other_first_device(detail::device_text(net.device()), detail::device_text(team_.device(0)));
    replicas_.resize(team_.size());
    for (std::size_t d = 0; d < team_.size(); ++d) {
      replica& r = replicas_[d];
      if (d != 0) r.own = std::make_unique<Model>(net.to(team_.device(d)));
      r.net = d == 0 ? net_ : r.own.get();
      if (r.own) r.own->set_device(replica_device(d));
      r.row.reserve(64);
      r.index = d;
    }
    loss_value_ = buffer<element, D>{net.device(), 1};
    net.set_device(team_.whole());
    if constexpr (several_processes) team_.agree_on(net, shards_);
  }
  data_parallel(Model& net, Spec const& spec, detail::parallel_settings const& settings)
    requires(!several_processes)
      : data_parallel{net, const_cast<Spec&>(spec), settings} {}

  static team_type make_team(Spec& spec, [[maybe_unused]] detail::parallel_settings const& settings) {
    if constexpr (std::is_same_v<team_type, detail::host_team>) {
      std::size_t const count = settings.cut.count;
      if (count != 0 && spec.count > count) detail::refuse_more_devices_than_shards(spec.count, count);
      return team_type{spec, !settings.synchronized ? 0 : count == 0 ? spec.count : count};
    } else if constexpr (several_processes) {
      return team_type{spec};
    } else {
      return team_type{spec, settings.synchronized};
    }
  }

  /// A device of this process, as its replica knows it.
  D replica_device(std::size_t d) {
    D device = team_.device(d);
    if constexpr (requires { device.group; })
      if (group_) device.group = &group_->member(d);
    if constexpr (several_processes)
      if (synchronized_) device.group = &team_.batch_norm_end();
    return device;
  }

  struct replica {
    Model* net = nullptr;
    std::unique_ptr<Model> own;               // null: the caller's model
    std::vector<buffer<element, D>> spare;    // gradients that wait for their neighbours
    std::vector<partial> row;                 // what they are, oldest first
    std::vector<addition> additions;          // of this device alone, with the gradients of its last shard
    std::size_t ranges = 0;                   // how many ranges of those are final
    data_parallel* many = nullptr;
    std::size_t index = 0;

    /// Its gradients are final from element `first` on.
    static void tell(void* of, std::size_t first) {
      replica& r = *static_cast<replica*>(of);
      r.many->arrive(r, first);
    }
  };

  /// Exchanges the model's running statistics with a copy, and back.
  class on_copied_statistics {
   public:
    explicit on_copied_statistics(data_parallel& of) : of_{of} {}
    ~on_copied_statistics() {
      if (on_) exchange();
    }
    void start() {
      if (!on_) exchange();
      on_ = true;
    }

   private:
    void exchange() { of_.net_->swap_buffers(of_.copied_buffers_, of_.copied_counters_); }
    data_parallel& of_;
    bool on_ = false;
  };

  /// While it lives, a model computes a part of a batch: a 16-bit network leaves it to the sum of all parts to move its loss scale.
  struct as_part {
    Model& net;
    explicit as_part(Model& n) : net{n} {
      if constexpr (scales_losses) net.set_part(true);
    }
    ~as_part() {
      net.watch_gradients({});
      if constexpr (scales_losses) net.set_part(false);
    }
    as_part(as_part const&) = delete;
    as_part& operator=(as_part const&) = delete;
  };

  batch_part cut(std::size_t device) const { return {device, devices(), shards_}; }
  std::size_t first_device() const {
    if constexpr (several_processes) return team_.rank();
    else return 0;
  }
  bool one_shard_each() const {
    std::size_t const s = cut(0).shard_count(whole_);
    return s <= devices();
  }

  /// True where activations are gone and the forward has to run again: with the random numbers it had, and statistics counted once.
  bool prepare_backward() {
    if (one_shard_each()) return false;
    net_->set_training_steps(step_);
    return true;
  }

  /// `given`: {first sample, size of the whole batch}, or {0, 0} when x is the whole batch. `gather`: everybody wants all of the output.
  void begin(view<input_element const> x, sample_range const& given, bool gather = false) {
    std::size_t count = 0;
    if (!(given.count != 0 && x.size() == 0)) count = detail::batch_of(x.extents(), x.size(), input_extents::value);
    std::size_t const whole = given.count == 0 ? count : given.count;
    if (net_->training() && shards_ != 0 && whole < shards_) detail::refuse_batch_below_shards(whole, shards_);
    if (several_processes && synchronized_ && net_->training() && whole < devices()) detail::refuse_synchronized_batch(whole, devices());
    sample_range local{0, whole};
    if constexpr (several_processes) {
      local = cut(first_device()).samples(whole);
      if (given.count == 0) x = {x.data() + local.first * input_extents::value.elements(), input_extents::value.with_batch(local.count)};
      else if (given.first != local.first || count != local.count) detail::refuse_part(team_.rank(), given, count, local);
      targets_are_local_ = given.count != 0;
    }
    whole_ = whole;
    local_ = local;
    check_batch_memory(net_->device(), team_.size(), x.data());
    x_ = x.data();
    trained_ = net_->training();
    statistics_done_ = false;
    step_ = net_->training_steps();
    original_ = net_->gradients().data();
    model_has_output_ = false;
    output_rows_ = gather ? whole_ : local_.count;
    output_first_ = gather ? local_.first : 0;
    std::size_t const need = output_rows_ * Model::plan_type::output.elements();
    if (need > output_.size()) [[unlikely]]
      output_ = buffer<element, D>{net_->device(), need};
    std::size_t const most = cut(0).shard_count(whole_);
    if (most > losses_.size()) [[unlikely]]
      losses_ = buffer<element, D>{net_->device(), most};
  }

  /// Before the devices start: everything that is read from the model while its device is already changing it.
  void prepare() {
    if (copied_buffers_.size() != net_->buffers().size() || copied_counters_.size() != net_->counters().size()) {
      copied_buffers_ = buffer<element, D>{net_->device(), net_->buffers().size()};
      copied_counters_ = buffer<std::int64_t, D>{net_->device(), net_->counters().size()};
    }
    auto const copy_statistics = [&](D const& to, element* buffers, std::int64_t* counters) {
      copy_across(to, net_->device(), to, net_->buffers().size(), std::as_const(*net_).buffers().data(), buffers);
      copy_across(to, net_->device(), to, net_->counters().size(), std::as_const(*net_).counters().data(), counters);
    };
    copy_statistics(net_->device(), copied_buffers_.data(), copied_counters_.data());
    constexpr bool spreads = requires(std::vector<element*> where) { team_.spread(where, parameter_count); };
    std::vector<element*> where;
    for (replica& r : replicas_) {
      if constexpr (spreads) where.push_back(r.net->parameters().data());
      if (!r.own) continue;
      r.own->follow(*net_);
      order_work(net_->device(), r.own->device());
      if constexpr (on_host) r.own->share_parameters(*net_);
      else if constexpr (!spreads) bring_parameters(r);
      if constexpr (scales_losses)
        copy_across(r.own->device(), net_->device(), r.own->device(), 1, net_->loss_scale(), r.own->loss_scale());
      copy_statistics(r.own->device(), r.own->buffers().data(), r.own->counters().data());
    }
    if constexpr (spreads) team_.spread(where, parameter_count);
  }

  void bring_parameters(replica& r) {
    copy_across(r.own->device(), net_->device(), r.own->device(), parameter_count, std::as_const(*net_).parameters().data(), r.own->parameters().data());
  }

  /// Runs f(replica, shard, samples in this process's part) for all shards of all devices of this process.
  template <class F>
  void for_all_shards(F const& f) {
    prepare();
    std::uint64_t const step = net_->training_steps();
    run_team([&](std::size_t d) {
      replica& r = replicas_[d];
      batch_part const part = cut(first_device() + d);
      on_copied_statistics copied{*this};
      std::size_t const last = part.first_shard(part.device + 1, whole_);
      for (std::size_t s = part.first_shard(part.device, whole_); s < last; ++s) {
        if (d == 0 && (s != 0 || statistics_done_)) copied.start();
        r.net->set_training_steps(step);
        sample_range range = part.samples_of_shard(s, whole_);
        range.first -= local_.first;
        f(r, s, range, s + 1 == last);
      }
    });
    if (trained_) net_->set_training_steps(step + 1);
  }

  /// Runs f(device) for the devices of this process, the model itself being the first one's for the time.
  template <class F>
  void run_team(F const& f) {
    if (group_) group_->begin(cut(0).shard_count(whole_), whole_);
    if constexpr (several_processes && !on_host)
      if (synchronized_) team_.begin_batch(whole_);
    std::uint64_t const step = net_->training_steps();
    net_->set_device(replica_device(0));
    try {
      team_.run([&](std::size_t d) {
        try {
          f(d);
        } catch (...) {
          if (group_) group_->abandon();
          throw;
        }
      });
    } catch (...) {
      net_->set_device(team_.whole());
      net_->set_training_steps(step);
      throw;
    }
    net_->set_device(team_.whole());
    for (replica& r : replicas_)
      if (r.own) order_work(r.own->device(), net_->device());
  }

  void forward_shard(replica& r, sample_range const& range) {
    std::size_t const width = input_extents::value.elements();
    auto const y = r.net->forward_part({x_ + range.first * width, input_extents::value.with_batch(range.count)}, local_.first + range.first);
    copy_across(r.net->device(), r.net->device(), net_->device(), y.size(), y.data(),
                        output_.data() + (output_first_ + range.first) * Model::plan_type::output.elements());
  }

  void run_forward() {
    for_all_shards([&](replica& r, std::size_t, sample_range const& range, bool) { forward_shard(r, range); });
    share_statistics();
    if constexpr (several_processes) {
      // Everybody gets all rows: a forward was given the whole batch.
      std::size_t const width = Model::plan_type::output.elements();
      std::vector<std::size_t> first(devices() + 1);
      for (std::size_t d = 0; d <= devices(); ++d) first[d] = (d == devices() ? whole_ : cut(d).samples(whole_).first) * width;
      team_.gather(output_.data(), first);
      team_.settle();
    }
  }

  /// Runs `back(model, shard, samples)` for each shard, behind a forward where `forward` says so, and sums the gradients: the last shard of
  /// each device tells what is final, and what is final on all devices is added. `back` returns where the shard's loss is, or null.
  template <class Back>
  void run_training(bool forward, Back const& back) {
    begin_sum();
    auto const work = [&](replica& r, std::size_t s, sample_range const& range, bool last) {
      if (forward) forward_shard(r, range);
      element* const gradient = r.net->gradients().data();
      if (last) {
        join(r, s, [&](element const* a, element const* b, element* sum) { r.additions.push_back({a, b, sum, r.index, r.index}); });
        if (bucket_ != 0) r.net->watch_gradients({&replica::tell, &r});
      }
      element const* const value = [&] {
        as_part const mode{*r.net};
        return back(*r.net, s, range);
      }();
      if (value != nullptr) copy_across(r.net->device(), r.net->device(), net_->device(), 1, value, losses_.data() + s);
      if (last) return arrive(r, 0);
      join(r, s, [&](element const* a, element const* b, element* sum) { elementwise_add(r.net->device(), trainable_count, a, b, sum); });
      if (r.row.back().data == gradient) r.net->swap_gradients(free_array(r));
    };
    if (forward) {
      for_all_shards(work);
    } else {  // what the last forward left is still there, one shard on each device
      run_without_forward(work);
    }
  }

  /// Shard s of replica r, whose gradients are where backward writes them, joins the partial sums of this device.
  template <class Add>
  void join(replica& r, std::size_t s, Add const& add) {
    detail::join_partial_sums(r.row, partial{0, s, r.net->gradients().data(), r.index}, cut(0).shard_count(whole_),
                              [&](partial& left, partial const& right, bool root) {
                                element* const sum = root ? original_ : left.data;
                                add(left.data, right.data, sum);
                                left.data = sum;
                              });
  }

  // ---- summing ---------------------------------------------------------------------------------------------------------------------------

  void begin_sum() {
    original_ = net_->gradients().data();
    std::size_t workers = 0;
    for (replica& r : replicas_) {
      r.many = this;
      r.row.clear();
      r.additions.clear();
      r.ranges = 0;
      std::size_t const d = first_device() + r.index;
      workers += cut(0).first_shard(d, whole_) != cut(0).first_shard(d + 1, whole_);
    }
    planned_ = false;
    arrivals_.begin(trainable_count, bucket_ == 0 ? trainable_count + 1 : bucket_, workers);
    std::vector<D>& list = devices_;
    list.clear();
    for (replica& r : replicas_) list.push_back(r.net->device());
    adder_.begin(list, arrivals_.count(), trainable_count);
    if constexpr (several_processes) team_.begin_reduce(cut(0), whole_, trainable_count, original_, net_->device());
  }

  /// The gradients of replica r are final from element `first` on.
  void arrive(replica& r, std::size_t first) {
    bool const at_the_end = bucket_ == 0 && !several_processes;  // then all threads add
    for (; r.ranges < arrivals_.count() && arrivals_.first(r.ranges) >= first; ++r.ranges) {
      adder_.mark(r.index, r.ranges);
      if (!at_the_end && arrivals_.arrive(r.ranges)) add_range(r.net->device(), r.ranges);
    }
    if constexpr (several_processes) team_.progress();
  }

  void add_range(D const& worker, std::size_t range) {
    plan_sum();
    adder_.add(worker, range, arrivals_.first(range), arrivals_.size(range), additions_);
    if constexpr (several_processes) {
      if constexpr (!on_host) adder_.hold(range, team_.stream());
      team_.reduce_range(replicas_[0].row, arrivals_.first(range), arrivals_.size(range));
    }
  }

  /// All additions, once each device has begun its last shard: its own, and then those across devices.
  void plan_sum() {
    std::lock_guard const lock{plan_mutex_};
    if (planned_) return;
    planned_ = true;
    additions_.clear();
    for (replica const& r : replicas_) additions_.insert(additions_.end(), r.additions.begin(), r.additions.end());
    if constexpr (!several_processes) {
      row_.clear();
      for (replica const& r : replicas_)
        for (partial const& node : r.row)
          detail::join_partial_sums(row_, node, cut(0).shard_count(whole_), [&](partial& left, partial const& right, bool root) {
            element* const sum = root ? original_ : left.data;
            additions_.push_back({left.data, right.data, sum, left.owner, right.owner});
            left.data = sum;
          });
    }
  }

  /// What is not yet summed, into the array that the model's gradients were in before. `failed`: a process that has nothing to give takes part
  /// all the same, so that no other one waits for it.
  void end_sum([[maybe_unused]] bool failed = false) {
    if constexpr (several_processes) {
      replica& r = replicas_[0];
      if (failed) {
        batch_part const part = cut(first_device());
        r.row.clear();
        r.additions.clear();
        for (std::size_t s = part.first_shard(part.device, whole_); s < part.first_shard(part.device + 1, whole_); ++s)
          join(r, s, [](element const*, element const*, element*) {});
      }
      for (; r.ranges < arrivals_.count(); ++r.ranges) {
        adder_.mark(0, r.ranges);
        add_range(r.net->device(), r.ranges);
      }
      team_.end_reduce();
    } else if (bucket_ == 0 && arrivals_.count() != 0) {
      plan_sum();
      adder_.add(team_.whole(), 0, 0, trainable_count, additions_);
    }
    adder_.end();
    keep_gradient_array();
    if constexpr (scales_losses) net_->judge_gradients();  // one verdict, on the sum, for all devices
  }

  template <class F>
  void run_without_forward(F const& f) {
    run_team([&](std::size_t d) {
      batch_part const part = cut(first_device() + d);
      std::size_t const s = part.first_shard(part.device, whole_);
      if (s == part.first_shard(part.device + 1, whole_)) return;
      sample_range range = part.samples_of_shard(s, whole_);
      range.first -= local_.first;
      f(replicas_[d], s, range, true);
    });
  }

  /// An array of the replica that holds no partial sum.
  buffer<element, D>& free_array(replica& r) {
    for (auto& b : r.spare) {
      bool used = false;
      for (partial const& p : r.row) used = used || p.data == b.data();
      if (!used) return b;
    }
    r.spare.emplace_back(r.net->device(), trainable_count);
    return r.spare.back();
  }

  /// The model's gradients lie where they lay before, whatever became of the arrays in between.
  void keep_gradient_array() {
    if (original_ == nullptr || net_->gradients().data() == original_) return;
    for (auto& b : replicas_[0].spare)
      if (b.data() == original_) net_->swap_gradients(b);
  }

  template <class Loss>
  void check_target(view<typename Loss::template target_type<element> const> target) const {
    std::size_t const samples = targets_are_local_ ? local_.count : whole_;
    std::size_t const expected = samples * Loss::target_shape(Model::plan_type::output).elements();
    if (target.size() != expected) [[unlikely]]
      throw shape_error("mortise::data_parallel: the targets have shape " + to_string(target.extents()) + ", but for this batch the loss wants " +
                        to_string(Loss::target_shape(Model::plan_type::output).with_batch(samples)));
  }

  /// A copy of the loss that sums, kept from step to step so that nothing is allocated.
  template <class Loss>
  Loss& sum_of(Loss const& loss) {
    if (loss_type_ != &detail::loss_identity<Loss>) {
      loss_copy_ = std::make_shared<Loss>(loss);
      loss_type_ = &detail::loss_identity<Loss>;
    }
    Loss& copy = *static_cast<Loss*>(loss_copy_.get());
    copy = loss;
    copy.reduction = reduction::sum;
    return copy;
  }

  template <class Loss>
  deferred<element, device_type> run_backward(Loss const& loss, view<typename Loss::template target_type<element> const> target, element scale,
                                              bool forward) {
    detail::check_loss<Loss, output_extents>();
    check_target<Loss>(target);
    std::size_t const shards = cut(0).shard_count(whole_);
    auto const* y = target.data();
    std::size_t const width = Loss::target_shape(Model::plan_type::output).elements();
    if (several_processes && !targets_are_local_) y += local_.first * width;

    auto const go = [&](auto const& part_loss, auto const& factor_of) {
      auto const back = [&](Model& m, std::size_t s, sample_range const& r) {
        return m
            .backward_scaled(part_loss, {y + r.first * width, Loss::target_shape(Model::plan_type::output).with_batch(r.count)}, factor_of(s, r))
            .data();
      };
      if constexpr (several_processes) {
        std::exception_ptr failure;
        try {
          run_training(forward, back);
        } catch (distributed_error const&) {
          throw;
        } catch (...) {
          failure = std::current_exception();
        }
        end_sum(failure != nullptr);
        std::vector<std::size_t> first(devices() + 1);
        for (std::size_t d = 0; d <= devices(); ++d) first[d] = cut(0).first_shard(d, whole_);
        team_.gather(losses_.data(), first);
        if (forward) share_statistics();
        team_.attempt([&] {  // the last message of a step: who waits for it has waited for all
          if (failure) std::rethrow_exception(failure);
        });
      } else {
        run_training(forward, back);
        end_sum();
      }
      sum_losses(shards);
    };

    if (shards == 1) {
      go(loss, [&](std::size_t, sample_range const&) { return scale; });
    } else if constexpr (detail::Reduces<Loss>) {
      double total = 1;
      if (loss.reduction == reduction::mean) total = static_cast<double>(whole_ * width);
      if (loss.reduction == reduction::batchmean) total = static_cast<double>(whole_);
      if constexpr (detail::CountsTargets<Loss>)
        if (loss.reduction == reduction::mean) total = weight_of_batch(loss, y, width);
      element const factor = static_cast<element>(static_cast<double>(scale) / total);
      go(sum_of(loss), [&](std::size_t, sample_range const&) { return factor; });
    } else {
      go(loss, [&](std::size_t, sample_range const& r) {
        return static_cast<element>(static_cast<double>(scale) * static_cast<double>(r.count) / static_cast<double>(whole_));
      });
    }
    return {net_->device(), loss_value_.data()};
  }

  /// The sum of the targets' weights, shard by shard, so that it has the same bits however many processes look at them.
  template <class Loss>
  double weight_of_batch(Loss const& loss, std::int64_t const* y, std::size_t width) {
    std::size_t const shards = cut(0).shard_count(whole_);
    weights_.assign(shards, 0.0);
    std::int64_t const* const seen = readable_on_host(net_->device(), y, local_.count * width, targets_);
    std::size_t const begin = cut(0).first_shard(first_device(), whole_), end = cut(0).first_shard(first_device() + team_.size(), whole_);
    auto const weigh = [&] {
      for (std::size_t s = begin; s < end; ++s) {
        sample_range const r = cut(0).samples_of_shard(s, whole_);
        weights_[s] =
            detail::weight_of_targets(loss, Model::plan_type::output, r.first, r.count, seen + (r.first - local_.first) * width);
      }
    };
    if constexpr (several_processes) {
      team_.attempt(weigh);
      std::vector<std::size_t> first(devices() + 1);
      for (std::size_t d = 0; d <= devices(); ++d) first[d] = cut(0).first_shard(d, whole_);
      team_.gather(weights_.data(), first);
    } else {
      weigh();
    }
    double total = 0;
    for (double const w : weights_) total += w;
    return total;
  }

  /// The batch's loss from those of its shards, by the tree of the gradients.
  void sum_losses(std::size_t shards) {
    element* const values = losses_.data();
    for (std::size_t n = shards; n > 1; n = (n + 1) / 2) {
      for (std::size_t i = 0; i + 1 < n; i += 2) elementwise_add(net_->device(), 1, values + i, values + i + 1, values + i / 2);
      if (n % 2 == 1) net_->device().copy(values + n / 2, values + n - 1, sizeof(element));
    }
    net_->device().copy(loss_value_.data(), values, sizeof(element));
  }

  void share_statistics() {
    if constexpr (several_processes)
      if (trained_) team_.broadcast_statistics(*net_);
  }

  Model* net_;
  team_type team_;
  std::size_t shards_;
  bool synchronized_;
  std::unique_ptr<group_type> group_;  // where shards of this process meet; null: they do not
  std::vector<replica> replicas_;

  // The batch at work.
  input_element const* x_ = nullptr;
  std::size_t whole_ = 0;
  sample_range local_{};            // this process's samples of it
  std::size_t output_rows_ = 0;     // samples in output_,
  bool model_has_output_ = false;   // no: they are still the model's
  std::size_t output_first_ = 0;    // and where this process's begin there
  bool targets_are_local_ = false;
  bool trained_ = false;
  bool statistics_done_ = false;  // the first shard's forward has run: running it again must not count its statistics twice
  std::uint64_t step_ = 0;

  buffer<element, D> output_, losses_, loss_value_, loss_workspace_;
  buffer<element, D> copied_buffers_;
  buffer<std::int64_t, D> copied_counters_;
  element* original_ = nullptr;
  std::vector<partial> row_;
  std::size_t bucket_;  // elements; 0: sum when all is done
  detail::range_arrivals arrivals_;
  detail::range_adder<D, element> adder_;
  std::vector<D> devices_;
  std::mutex plan_mutex_;
  bool planned_ = false;
  std::vector<addition> additions_;
  std::vector<double> weights_;
  std::vector<std::int64_t> targets_;
  std::shared_ptr<void> loss_copy_;
  void const* loss_type_ = nullptr;
};

template <class Model, class Spec, detail::ParallelPolicy... Policies>
data_parallel(Model&, Spec&&, Policies const&...) -> data_parallel<Model, std::remove_cvref_t<Spec>>;

/// A training step on several devices: scatter, forward, backward, reduce, update. See data_parallel for its bits.
template <class Model, class Spec, class Loss, class Optimizer, class Batch>
deferred<typename Model::element, typename Model::device_type> train_step(data_parallel<Model, Spec>& many, Loss const& loss, Optimizer& optimizer, Batch const& batch) {
  many.check_optimizer(optimizer);
  // One device with one shard is the model alone, which may have a better step (a recorded graph).
  if constexpr (requires { train_step(many.model(), loss, optimizer, batch); }) {
    if (many.is_alone()) {
      auto value = train_step(many.model(), loss, optimizer, batch);
      many.take_output(batch.x);
      return value;
    }
  }
  auto value = many.forward_backward(loss, batch);
  optimizer.step();
  return value;
}

}  // namespace mortise
