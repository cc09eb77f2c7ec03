// A model as PyTorch's state_dict: names and tensors, in order.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/archive/save.hpp>
#include <mortise/config.hpp>
#include <mortise/device/host.hpp>
#include <mortise/module/plan.hpp>
#include <mortise/train/tensor_load.hpp>

namespace mortise {

/// Anything whose state is parameters and buffers in flat arrays: a model, or several replicas of one.
template <class M>
concept Stateful = requires(M& m) {
  M::state_table;
  m.parameters();
  m.buffers();
  m.counters();
  m.device();
};

namespace detail {

template <class = void>
std::vector<std::size_t> to_vector(shape const& s) { return {s.begin(), s.end()}; }

/// Host memory with the elements of a device array: the array itself on the host, a copy (kept alive by `owner`) elsewhere.
template <class D, class T>
std::byte const* on_host(D const& device, T const* data, std::size_t count, std::shared_ptr<void const>& owner) {
  if constexpr (std::is_same_v<typename D::space, host_space>) {
    return reinterpret_cast<std::byte const*>(data);
  } else {
    auto copy = std::make_shared<std::vector<T>>(count);
    device.synchronize();
    device.copy(copy->data(), data, count * sizeof(T));
    device.synchronize();
    auto const* bytes = reinterpret_cast<std::byte const*>(copy->data());
    owner = std::move(copy);
    return bytes;
  }
}

/// Runs f, which writes a file: where several processes hold the same state, on one of them, and the others learn how it went.
template <class M, class F>
void write_once(M const& m, F const& f) {
  if constexpr (requires { m.on_one_process(f); }) m.on_one_process(f);
  else f();
}

/// A model whose parameters may be pages of a file.
template <class M>
concept Adopting = std::is_same_v<typename std::remove_cvref_t<decltype(std::declval<M&>().device())>::space, host_space> &&
                   requires(M& m, typename M::element* data, std::shared_ptr<void const> owner) { m.adopt_parameters(data, owner); };

/// Where every entry of a model's state lies.
template <Stateful M>
MORTISE_COLD std::vector<tensor_target> targets_of(M& m) {
  using T = typename M::element;
  std::vector<tensor_target> targets;
  targets.reserve(M::state_table.size());
  for (auto const& s : M::state_table) {
    void* to = nullptr;
    switch (s.what) {
      case state_entry::kind::parameter: to = m.parameters().data() + s.offset; break;
      case state_entry::kind::buffer: to = m.buffers().data() + s.offset; break;
      case state_entry::kind::counter: to = m.counters().data() + s.offset; break;
    }
    targets.push_back({std::string{s.name}, s.what == state_entry::kind::counter ? element_type::i64 : element_type_of<T>, s.extents, to});
  }
  return targets;
}

/// One line for each layer that computes or holds something: "features.0: conv2d weight (6, 1, 5, 5), bias (6,)". Empty for what is no model.
template <class M>
MORTISE_COLD std::vector<std::string> architecture_of(M const&) {
  std::vector<std::string> lines;
  if constexpr (requires { typename M::plan_type; }) {
    using plan_type = typename M::plan_type;
    for (std::size_t i = 0; i < plan_type::node_count; ++i) {
      auto const& node = plan_type::tables.nodes[i];
      if (node.what == token_info::kind::fork) continue;
      std::string const path{plan_type::node_path(i)};
      std::string line = path + (path.empty() ? "" : ": ") + std::string{node.type};
      char separator = ' ';
      for (auto const& s : M::state_table) {
        std::string_view const entry = s.name;
        if (s.what != state_entry::kind::parameter || node.what != token_info::kind::run) continue;
        std::size_t const start = path.empty() ? 0 : path.size() + 1;
        if (entry.size() <= start || entry.substr(0, path.size()) != path || entry.find('.', start) != std::string_view::npos) continue;
        if (separator == ',') line += ',';
        separator = ',';
        line += " " + std::string{entry.substr(start)} + " " + shape_text(s.extents);
      }
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

/// What two architectures differ in, in words; empty when they are the same.
template <class = void>
MORTISE_COLD std::string architecture_difference(archive_value const& file, std::vector<std::string> const& here) {
  std::string text;
  std::size_t differences = 0;
  for (std::size_t i = 0; i < here.size() || i < file.size(); ++i) {
    std::string const theirs = i < file.size() && file[i].is_string() ? file[i].as_string().substr(0, 200) : "nothing";
    std::string const ours = i < here.size() ? here[i] : "nothing";
    if (theirs == ours) continue;
    if (++differences <= 4) text += (differences == 1 ? " layer " : "; layer ") + std::to_string(i) + " is {" + theirs + "} in the file, {" + ours + "} here";
  }
  if (differences > 4) text += "; and " + std::to_string(differences - 4) + " more";
  return text;
}

/// Our own checkpoints say what network they are of: holds that against `m`. Not where names are mapped or a part is loaded.
template <class M>
MORTISE_COLD void compare_architecture(load_plan& plan, M const& m) {
  load_options const& o = plan.options;
  if (!o.strict || !o.strip_prefix.empty() || !o.rename.empty() || !o.add_prefix.empty() || !o.only.empty()) return;
  archive_value const* const file = plan.in.tree().find_path("mortise.model.architecture");
  if (file == nullptr || !file->is_list()) return;
  std::vector<std::string> const here = architecture_of(m);
  if (!here.empty()) plan.architecture = architecture_difference(*file, here);
}

}  // namespace detail

/// The model's parameters and buffers under PyTorch's names. Borrows the model's memory on the host.
template <Stateful M>
MORTISE_COLD archive_value state_dict(M const& m) {
  using T = typename M::element;
  std::shared_ptr<void const> parameter_owner, buffer_owner, counter_owner;
  auto const* const parameters = detail::on_host(m.device(), m.parameters().data(), m.parameters().size(), parameter_owner);
  auto const* const buffers = detail::on_host(m.device(), m.buffers().data(), m.buffers().size(), buffer_owner);
  auto const* const counters = detail::on_host(m.device(), m.counters().data(), m.counters().size(), counter_owner);
  archive_value dict = archive_value::dict();
  for (auto const& s : M::state_table) {
    tensor_ref t;
    t.shape = detail::to_vector(s.extents);
    switch (s.what) {
      case state_entry::kind::parameter: t.data = parameters + s.offset * sizeof(T); t.owner = parameter_owner; break;
      case state_entry::kind::buffer: t.data = buffers + s.offset * sizeof(T); t.owner = buffer_owner; break;
      case state_entry::kind::counter: t.data = counters + s.offset * sizeof(std::int64_t); t.owner = counter_owner; break;
    }
    t.type = s.what == state_entry::kind::counter ? element_type::i64 : element_type_of<T>;
    dict.append(std::string{s.name}, std::move(t));
  }
  return dict;
}

/// Saves parameters and buffers as a state_dict: format by extension. Atomic and durable; io_error leaves the old file.
template <Stateful M>
void save(std::string const& path, M const& m, save_options const& options = {}) {
  detail::write_once(m, [&] { save_archive(path, state_dict(m), options); });
}
/// The same in a named format: mt::save<mt::safetensors>("weights.bin", net).
template <class Format, Stateful M>
void save(std::string const& path, M const& m, save_options const& options = {}) {
  detail::write_once(m, [&] { save_archive<Format>(path, state_dict(m), options); });
}

/// Loads parameters and buffers from a state_dict or from the model part of a checkpoint, from any format that can be read, converting
/// float types to the model's. Throws archive_error, io_error or load_error, and has then changed nothing.
template <Stateful M>
load_report load(archive_reader const& in, M& m, load_options const& options = {}) {
  detail::load_plan plan{in, options};
  plan.match(detail::find_model_dict(in.tree()), detail::targets_of(m), "", options);
  detail::compare_architecture(plan, m);
  [[maybe_unused]] std::shared_ptr<std::byte> pages;
  if (options.adopt) {
    if constexpr (detail::Adopting<M>) pages = plan.adopt(m.parameters().data(), m.parameters().size() * sizeof(typename M::element));
    else plan.report.not_adopted = "only one model on the host can adopt pages";
  }
  plan.run(m.device());
  if constexpr (detail::Adopting<M>)
    if (pages != nullptr) m.adopt_parameters(reinterpret_cast<typename M::element*>(pages.get()), pages);
  return plan.report;
}
template <Stateful M>
load_report load(std::string const& path, M& m, load_options const& options = {}) {
  return load(open_archive(path), m, options);
}

// torch.save and torch.load's habit, what comes first there: one mistake, one error.
template <class Object>
  requires(!std::convertible_to<Object const&, std::string>)
void save(Object const&, std::string const&) {
  static_assert(sizeof(Object) == 0, "mortise::save: the path comes first: mt::save(\"run.pt\", net)");
}
template <class Object>
  requires(!std::convertible_to<Object const&, std::string> && !std::same_as<Object, archive_reader>)
void load(Object const&, std::string const&) {
  static_assert(sizeof(Object) == 0, "mortise::load: the path comes first: mt::load(\"run.pt\", net)");
}

/// FNV-1a (64 bits) over the bytes of all parameters in the order of the state_dict, as 16 hexadecimal digits: equal runs, equal digests.
template <Stateful M>
std::string parameters_digest(M const& m) {
  using T = typename M::element;
  std::shared_ptr<void const> owner;
  auto const* const bytes = detail::on_host(m.device(), m.parameters().data(), m.parameters().size(), owner);
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (auto const& s : M::state_table) {
    if (s.what != state_entry::kind::parameter) continue;
    for (std::size_t i = s.offset * sizeof(T); i < (s.offset + s.size) * sizeof(T); ++i) {
      hash ^= static_cast<std::uint64_t>(bytes[i]);
      hash *= 0x100000001b3u;
    }
  }
  std::string text(16, '0');
  for (std::size_t i = 0; i < 16; ++i) text[15 - i] = "0123456789abcdef"[(hash >> (4 * i)) & 15u];
  return text;
}

}  // namespace mortise
