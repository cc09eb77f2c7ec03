// What a network consists of, as a table.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/module/plan.hpp>
#include <mortise/optimizer/update_rule.hpp>

namespace mortise {

namespace detail {

struct summary_row {
  std::string path, layer, output;
  std::size_t parameters = 0;
  bool frozen = false;
};

/// "1,234,567"
inline std::string with_separators(std::size_t n) {
  std::string text = std::to_string(n);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

/// "235.2 KiB"
inline std::string readable_bytes(std::size_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  std::size_t unit = 0;
  double value = static_cast<double>(bytes) / 1024;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  auto const tenths = static_cast<std::size_t>(value * 10 + 0.5);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + std::string{" KiB MiB GiB TiB"}.substr(unit * 4, 4);
}

MORTISE_COLD inline std::string format_summary(std::vector<summary_row> const& rows, std::size_t element_bytes, std::size_t parameters,
                                               std::size_t trainable, std::size_t buffers, std::size_t training_bytes,
                                               std::size_t evaluation_bytes) {
  std::size_t widths[5] = {4, 5, 12, 10, 5};
  std::vector<std::vector<std::string>> lines;
  lines.push_back({"path", "layer", "output shape", "parameters", "bytes"});
  for (auto const& r : rows)
    lines.push_back({r.path.empty() ? "-" : r.path, r.layer, r.output, with_separators(r.parameters) + (r.frozen && r.parameters != 0 ? " (frozen)" : ""),
                     readable_bytes(r.parameters * element_bytes)});
  for (auto const& line : lines)
    for (std::size_t i = 0; i < 5; ++i)
      if (line[i].size() > widths[i]) widths[i] = line[i].size();
  std::string text;
  std::size_t total = 0;
  for (std::size_t const w : widths) total += w + 2;
  for (std::size_t row = 0; row < lines.size(); ++row) {
    for (std::size_t i = 0; i < 5; ++i) {
      std::string const pad(widths[i] - lines[row][i].size(), ' ');
      text += i < 3 ? lines[row][i] + pad : pad + lines[row][i];
      text += i == 4 ? "\n" : "  ";
    }
    if (row == 0) text += std::string(total - 2, '-') + "\n";
  }
  text += std::string(total - 2, '-') + "\n";
  text += "parameters: " + with_separators(parameters) + " (" + readable_bytes(parameters * element_bytes) + "), of which " +
          with_separators(trainable) + " learn; buffers: " + with_separators(buffers) + "\n";
  text += "activations, planned: " + readable_bytes(training_bytes) + " a sample in training, " + readable_bytes(evaluation_bytes) +
          " in evaluation\n";
  return text;
}

}  // namespace detail

/// A table of layers with path, output shape, parameters and bytes; then the totals and the planned activation memory.
/// std::cout << mt::summary(net);
template <class Model>
std::string summary(Model const&) {
  using plan_type = typename Model::plan_type;
  auto const& tables = plan_type::tables;
  std::vector<detail::summary_row> rows;
  for (std::size_t i = 0; i < plan_type::node_count; ++i) {
    auto const& n = tables.nodes[i];
    if (n.what == detail::token_info::kind::fork) continue;
    rows.push_back({std::string{plan_type::node_path(i)}, std::string{n.type}, to_string(n.out), n.parameter_size, n.frozen});
  }
  return detail::format_summary(rows, sizeof(typename Model::element), Model::parameter_count, Model::trainable_count,
                                tables.buffer_count + tables.counter_count,
                                tables.training_arena.per_sample * sizeof(typename Model::element),
                                tables.evaluation_arena.per_sample * sizeof(typename Model::element));
}

namespace detail {

/// "0.001", "1e-08": as few digits as tell it apart.
MORTISE_COLD inline std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

/// "lr 0.01, betas (0.9, 0.999), amsgrad": booleans only where they are true.
template <class Rule>
std::string settings_text(Rule rule) {
  std::string text;
  visit_settings(rule, [&](std::string_view name, auto const& setting) {
    std::string value;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(setting)>, bool>) {
      if (!setting) return;
    } else if constexpr (requires { setting[1]; }) {
      value = " (" + short_number(setting[0]) + ", " + short_number(setting[1]) + ")";
    } else {
      value = " " + short_number(setting);
    }
    text += (text.empty() ? "" : ", ") + std::string{name} + value;
  });
  return text;
}

struct parameter_row {
  std::string name, shape;
  std::size_t values = 0;
  std::string group;
};

MORTISE_COLD inline std::string format_parameters(std::vector<parameter_row> const& rows, std::vector<std::string> const& groups, std::size_t state_bytes) {
  std::size_t widths[3] = {9, 5, 6};
  for (auto const& r : rows) {
    std::size_t const sizes[3] = {r.name.size(), r.shape.size(), with_separators(r.values).size()};
    for (std::size_t i = 0; i < 3; ++i)
      if (sizes[i] > widths[i]) widths[i] = sizes[i];
  }
  auto const line = [&](std::string const& name, std::string const& shape, std::string const& values, std::string const& group) {
    return name + std::string(widths[0] - name.size() + 2, ' ') + shape + std::string(widths[1] - shape.size() + 2 + widths[2] - values.size(), ' ') + values +
           "  " + group + "\n";
  };
  std::string text = line("parameter", "shape", "values", "group");
  text += std::string(widths[0] + widths[1] + widths[2] + 11, '-') + "\n";
  for (auto const& r : rows) text += line(r.name, r.shape, with_separators(r.values), r.group);
  text += std::string(widths[0] + widths[1] + widths[2] + 11, '-') + "\n";
  for (std::size_t g = 0; g < groups.size(); ++g) text += "group " + std::to_string(g) + ": " + groups[g] + "\n";
  return text + "optimizer state: " + readable_bytes(state_bytes) + "\n";
}

}  // namespace detail

/// The same, then every parameter with its group in an optimizer, or what keeps it from learning; then what each group is and its settings.
/// std::cout << mt::summary(net, opt);
template <class Model, class Optimizer>
std::string summary(Model const& net, Optimizer const& optimizer) {
  std::vector<detail::parameter_row> rows;
  for (std::size_t i = 0; i < Model::parameter_table.size(); ++i) {
    auto const& p = Model::parameter_table[i];
    std::string group = "- (frozen by its type)";
    if (p.trainable) group = std::to_string(Optimizer::group_of(i)) + (optimizer.is_frozen(i) ? " (frozen)" : "");
    rows.push_back({std::string{p.name}, to_string(p.extents), p.size, std::move(group)});
  }
  std::vector<std::string> groups;
  for (std::size_t g = 0; g < Optimizer::group_count; ++g) groups.push_back(Optimizer::group_text(g) + ": " + detail::settings_text(optimizer.rule(g)));
  return summary(net) + "\n" + detail::format_parameters(rows, groups, optimizer.state_bytes());
}

}  // namespace mortise
