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
#include <mortise/config.hpp>
#include <mortise/tensor/float16.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/train/load_advice.hpp>
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

  /// Matches the tensors of a dict (null: the file has none) with targets; reported names get `prefix`. Throws load_error when two names of
  /// the file become one, and when a rename or an `only` fits nothing.
  MORTISE_COLD void match(archive_value const* dict, std::vector<tensor_target> const& targets, std::string const& prefix, load_options const& names) {
    struct found_tensor {
      std::string name;  // in the model
      std::size_t entry;
      std::size_t position;
      bool operator<(found_tensor const& o) const { return name < o.name; }
    };
    std::vector<found_tensor> found;
    name_map map{names};
    if (dict != nullptr) {
      for (std::size_t i = 0; i < dict->size(); ++i)
        if ((*dict)[i].is_tensor()) found.push_back({map(dict->keys()[i].to_string()), (*dict)[i].as_tensor().entry, i});
    }
    std::stable_sort(found.begin(), found.end());
    for (std::size_t i = 1; i < found.size(); ++i)
      if (found[i].name == found[i - 1].name)
        throw load_error(in.name(), "\"" + dict->keys()[found[i - 1].position].to_string() + "\" and \"" + dict->keys()[found[i].position].to_string() +
                                        "\" of the file both become \"" + found[i].name + "\"; nothing was loaded");
    if (std::string const* const unused = map.unused()) throw_fits_nothing(".rename", *unused, "name in the file", dict, targets, true);
    for (std::string const& path : names.only) {
      bool fits = false;
      for (tensor_target const& t : targets) fits = fits || path_matches(path, t.name);
      if (!fits) throw_fits_nothing(".only", path, "name in the model", dict, targets, false);
    }
    std::vector<char> used(found.size(), 0);
    std::vector<unmatched_name> missing, unexpected;
    for (tensor_target const& target : targets) {
      auto const at = std::lower_bound(found.begin(), found.end(), found_tensor{target.name, 0, 0});
      bool const present = at != found.end() && at->name == target.name;
      if (present) used[static_cast<std::size_t>(at - found.begin())] = 1;
      if (!is_wanted(target.name, names)) continue;
      if (!present) {
        missing.push_back({target.name, shape_text(target.extents)});
        report.missing.push_back(prefix + target.name);
        continue;
      }
      tensor_info const& info = in.tensors()[at->entry];
      if (!same_shape(info, target.extents) || !converts(info.type, target.type)) {
        report.mismatched.push_back({prefix + target.name, tensor_text(target.type, target.extents), tensor_text(info.type, info.shape)});
        continue;
      }
      transfers.push_back({at->entry, info.type, target.type, target.extents.elements(), target.to, {}});
      report.loaded.push_back(prefix + target.name);
    }
    for (std::size_t i = 0; i < found.size(); ++i)
      if (used[i] == 0 && is_wanted(found[i].name, names)) {
        unexpected.push_back({found[i].name, shape_text(in.tensors()[found[i].entry].shape)});
        report.unexpected.push_back(prefix + found[i].name);
      }
    // Those that are not wanted are no reason to advise anything, but they may be what a prefix hides.
    if (report.advice.empty()) report.advice = name_advisor{std::move(missing), std::move(unexpected)}.text();
    if (report.advice.empty()) report.advice = head_advice(report);
  }

  /// Throws load_error unless all is well or the caller allowed differences; reads and converts all tensors.
  void check_and_stage() {
    if (options.strict && !report.complete())
      throw load_error(in.name(), "this file does not fit the model; nothing was loaded" + (report.advice.empty() ? std::string{"."} : ": " + report.advice + ".") +
                                      " To load what fits, pass {.strict = false}.", report);
    if (report.loaded.empty() && !(report.missing.empty() && report.mismatched.empty()))
      throw load_error(in.name(), "nothing in this file fits the model" + (report.advice.empty() ? std::string{"."} : ": " + report.advice + "."), report);
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
  [[noreturn]] MORTISE_COLD void throw_fits_nothing(std::string_view option, std::string const& pattern, std::string_view what, archive_value const* dict,
                                                   std::vector<tensor_target> const& targets, bool of_file) const {
    std::string names;
    std::size_t const count = of_file ? (dict == nullptr ? 0 : dict->size()) : targets.size();
    for (std::size_t i = 0; i < count && i < 6; ++i) {
      names += i == 0 ? "" : ", ";
      names += of_file ? dict->keys()[i].to_string().substr(0, 200) : targets[i].name;
    }
    throw load_error(in.name(), std::string{option} + ": \"" + pattern + "\" fits no " + std::string{what} + "; nothing was loaded. There " +
                                    (count == 0 ? "are none" : "are: " + names + (count > 6 ? ", ..." : "")));
  }
};

/// The dict of a model's tensors in a file: under one of the usual keys of a checkpoint, or the file itself.
inline archive_value const* find_model_dict(archive_value const& root) {
  for (char const* key : {"model_state_dict", "state_dict", "model", "net", "network", "module"})
    if (archive_value const* found = root.find(key); found != nullptr && found->is_dict()) return found;
  return root.is_dict() ? &root : nullptr;
}

}  // namespace mortise::detail
