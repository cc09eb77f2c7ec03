// Tensors from an archive into memory: everything is matched, read and converted before the first byte of the model changes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/tensor/float16.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/train/load_options.hpp>
#include <mortise/train/state_visitor.hpp>

namespace mortise::detail {

/// A tensor that wants to be loaded: its name, and where it goes in some device's memory.
struct tensor_target {
  std::string name;
  element_type type;
  shape extents;
  void* to;
};

/// A tensor that will be loaded; entry `no_entry`: zeros.
struct tensor_transfer {
  std::size_t entry;
  element_type from_type;
  element_type to_type;
  std::size_t count;
  void* to;
  std::vector<std::byte> staged;
};

inline bool is_float_type(element_type t) {
  return t == element_type::f16 || t == element_type::bf16 || t == element_type::f32 || t == element_type::f64;
}
inline bool is_integer_type(element_type t) { return t <= element_type::i64; }

/// Floats convert among each other, integers into wider ones; a float never becomes an integer or the reverse.
inline bool converts(element_type from, element_type to) {
  if (from == to) return true;
  if (is_float_type(from) && is_float_type(to)) return true;
  return is_integer_type(from) && to == element_type::i64 && from != element_type::u64;
}

template <class From, class To>
void convert_elements(std::byte const* from, std::byte* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    From f;
    std::memcpy(&f, from + i * sizeof(From), sizeof(From));
    To t;
    if constexpr (std::is_same_v<From, f16> || std::is_same_v<From, bf16>) t = static_cast<To>(static_cast<float>(f));
    else if constexpr (std::is_same_v<To, f16> || std::is_same_v<To, bf16>) t = To{static_cast<float>(f)};
    else t = static_cast<To>(f);
    std::memcpy(to + i * sizeof(To), &t, sizeof(To));
  }
}

template <class From>
void convert_from(element_type to_type, std::byte const* from, std::byte* to, std::size_t n) {
  switch (to_type) {
    case element_type::f16: return convert_elements<From, f16>(from, to, n);
    case element_type::bf16: return convert_elements<From, bf16>(from, to, n);
    case element_type::f32: return convert_elements<From, float>(from, to, n);
    case element_type::f64: return convert_elements<From, double>(from, to, n);
    default: return convert_elements<From, std::int64_t>(from, to, n);
  }
}

inline void convert(element_type from_type, std::byte const* from, element_type to_type, std::byte* to, std::size_t n) {
  switch (from_type) {
    case element_type::f16: return convert_from<f16>(to_type, from, to, n);
    case element_type::bf16: return convert_from<bf16>(to_type, from, to, n);
    case element_type::f32: return convert_from<float>(to_type, from, to, n);
    case element_type::f64: return convert_from<double>(to_type, from, to, n);
    case element_type::boolean:
    case element_type::u8: return convert_elements<std::uint8_t, std::int64_t>(from, to, n);
    case element_type::i8: return convert_elements<std::int8_t, std::int64_t>(from, to, n);
    case element_type::u16: return convert_elements<std::uint16_t, std::int64_t>(from, to, n);
    case element_type::i16: return convert_elements<std::int16_t, std::int64_t>(from, to, n);
    case element_type::u32: return convert_elements<std::uint32_t, std::int64_t>(from, to, n);
    default: return convert_elements<std::int32_t, std::int64_t>(from, to, n);
  }
}

inline bool same_shape(tensor_info const& info, shape const& extents) {
  if (info.shape.size() != extents.rank) return false;
  for (std::size_t i = 0; i < extents.rank; ++i)
    if (info.shape[i] != extents[i]) return false;
  return true;
}

/// A load in preparation: what was matched, what was not, and what waits to be changed.
struct load_plan {
  archive_reader in;
  load_options options;
  load_report report{};
  std::vector<tensor_transfer> transfers{};
  std::vector<pending_value> values{};
  std::vector<std::unique_ptr<archive_value>> derived{};  // values that were computed from the file's, for `values` to point at

  /// Matches the tensors of a dict (null: the file has none) with targets; reported names get `prefix`.
  void match(archive_value const* dict, std::vector<tensor_target> const& targets, std::string const& prefix, load_options const& names) {
    std::vector<std::pair<std::string, std::size_t>> found;  // name in the model, entry
    if (dict != nullptr) {
      for (std::size_t i = 0; i < dict->size(); ++i) {
        if (!(*dict)[i].is_tensor()) continue;
        found.emplace_back(renamed(dict->keys()[i].to_string(), names), (*dict)[i].as_tensor().entry);
      }
    }
    std::sort(found.begin(), found.end());
    std::vector<char> used(found.size(), 0);
    for (tensor_target const& target : targets) {
      auto const at = std::lower_bound(found.begin(), found.end(), std::pair{target.name, std::size_t{0}});
      bool const present = at != found.end() && at->first == target.name;
      if (present) used[static_cast<std::size_t>(at - found.begin())] = 1;
      if (!is_wanted(target.name, names)) continue;
      if (!present) {
        report.missing.push_back(prefix + target.name);
        continue;
      }
      tensor_info const& info = in.tensors()[at->second];
      if (!same_shape(info, target.extents) || !converts(info.type, target.type)) {
        report.mismatched.push_back({prefix + target.name, tensor_text(target.type, target.extents), tensor_text(info.type, info.shape)});
        continue;
      }
      transfers.push_back({at->second, info.type, target.type, target.extents.elements(), target.to, {}});
      report.loaded.push_back(prefix + target.name);
    }
    for (std::size_t i = 0; i < found.size(); ++i)
      if (used[i] == 0 && is_wanted(found[i].first, names)) report.unexpected.push_back(prefix + found[i].first);
  }

  /// Throws load_error unless all is well or the caller allowed differences; reads and converts all tensors.
  void check_and_stage() {
    if (options.strict && !report.complete())
      throw load_error(in.name(), "this file does not fit the model; nothing was loaded." + advice() +
                                      " To load what fits, pass {.strict = false}.", report);
    for (tensor_transfer& t : transfers) {
      if (t.entry == no_entry) {
        t.staged.resize(t.count * bits_of(t.to_type) / 8);  // zeros
      } else if (t.from_type == t.to_type) {
        t.staged.resize(t.count * bits_of(t.to_type) / 8);
        in.read_entry_into(t.entry, t.staged);
      } else {
        std::vector<std::byte> const raw = in.read_entry(t.entry);
        t.staged.resize(t.count * bits_of(t.to_type) / 8);
        convert(t.from_type, raw.data(), t.to_type, t.staged.data(), t.count);
      }
    }
  }

  /// Nothing here can fail: only memory that exists is written.
  template <class D>
  void commit(D const& device) {
    for (tensor_transfer& t : transfers) device.copy(t.to, t.staged.data(), t.staged.size());
    device.synchronize();
    for (pending_value const& v : values) v.assign(*v.from, v.to);
  }

 private:
  /// The usual reasons in words: a prefix on every name.
  std::string advice() const {
    if (report.missing.empty() || report.unexpected.empty()) return {};
    for (std::string_view const prefix : {"module.", "_orig_mod.", "model."}) {
      std::size_t matching = 0;
      for (auto const& name : report.unexpected)
        if (starts_with(name, prefix) && std::find(report.missing.begin(), report.missing.end(), name.substr(prefix.size())) != report.missing.end())
          ++matching;
      if (matching != 0 && matching == report.unexpected.size())
        return " All " + std::to_string(matching) + " names match after removing \"" + std::string{prefix} + "\": pass {.strip_prefix = \"" +
               std::string{prefix} + "\"}.";
    }
    return {};
  }
};

/// The dict of a model's tensors in a file: under one of the usual keys of a checkpoint, or the file itself.
inline archive_value const* find_model_dict(archive_value const& root) {
  for (char const* key : {"model_state_dict", "state_dict", "model", "net", "network", "module"})
    if (archive_value const* found = root.find(key); found != nullptr && found->is_dict()) return found;
  return root.is_dict() ? &root : nullptr;
}

}  // namespace mortise::detail
