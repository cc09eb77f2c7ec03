// Tensors from an archive into memory: everything is matched and checked before the first byte of the model changes.
//
// A small load is read and converted into memory of its own first, and then copied: nothing after that can fail. A large one would need
// as much memory again, so it takes two passes instead: the first checks every checksum and has the operating system bring every byte
// that will be needed into its page cache, where an unreadable disk shows; the second reads straight into place, from the same open file.
// What could still fail in between is a file that another process cuts short in place, within these milliseconds; a save of this library
// never does that (it replaces files by rename, which does not touch an open one).
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/config.hpp>
#include <mortise/detail/order.hpp>
#include <mortise/device/host.hpp>
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

  std::size_t bytes() const { return count * bits_of(to_type) / 8; }
};

template <class = void>
bool is_float_type(element_type t) {
  return t == element_type::f16 || t == element_type::bf16 || t == element_type::f32 || t == element_type::f64;
}
template <class = void>
bool is_integer_type(element_type t) { return t <= element_type::i64; }

/// Floats convert among each other, integers into wider ones; a float never becomes an integer or the reverse.
template <class = void>
bool converts(element_type from, element_type to) {
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

template <class = void>
void convert(element_type from_type, std::byte const* from, element_type to_type, std::byte* to, std::size_t n) {
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

template <class = void>
bool same_shape(tensor_info const& info, shape const& extents) {
  if (info.shape.size() != extents.rank) return false;
  for (std::size_t i = 0; i < extents.rank; ++i)
    if (info.shape[i] != extents[i]) return false;
  return true;
}

/// for_each_piece for pieces that may throw: when all are done, the error of the first piece that failed is thrown.
template <class F>
void try_each_piece(host const& device, std::size_t pieces, F const& f) {
  std::atomic<std::size_t> failed{pieces};
  std::exception_ptr error;
  std::mutex guard;
  for_each_piece(device, pieces, [&](std::size_t i) {
    if (i > failed.load(std::memory_order_relaxed)) return;
    try {
      f(i);
    } catch (...) {
      std::lock_guard const lock{guard};
      if (i < failed.load()) failed.store(i), error = std::current_exception();
    }
  });
  if (error != nullptr) std::rethrow_exception(error);
}

/// A load in preparation: what was matched, what was not, and what waits to be changed.
template <class = void>
struct basic_load_plan {
  archive_reader in;
  load_options options;
  load_report report{};
  std::vector<tensor_transfer> transfers{};
  std::vector<pending_value> values{};
  std::vector<std::size_t> checked{};     // entries that are not transferred, but must be readable and right
  std::string architecture{};             // how the file's network differs from this one, in words
  std::vector<std::unique_ptr<archive_value>> derived{};  // values that were computed from the file's, for `values` to point at

  /// Matches the tensors of a dict (null: the file has none) with targets; reported names get `prefix`. Throws load_error when two names of
  /// the file become one, and when a rename or an `only` fits nothing.
  MORTISE_COLD void match(archive_value const* dict, std::vector<tensor_target> const& targets, std::string const& prefix, load_options const& names) {
    struct found_tensor {
      std::string name;  // in the model
      std::size_t entry;
      std::size_t position;
    };
    std::vector<found_tensor> found;
    std::vector<std::string> in_file;  // names, before they are mapped
    name_map map{names};
    auto const add = [&](std::string name, archive_value const& tensor) {
      found.push_back({map(name), tensor.as_tensor().entry, in_file.size()});
      in_file.push_back(std::move(name));
    };
    if (dict != nullptr && dict->is_dict())
      for (std::size_t i = 0; i < dict->size(); ++i)
        if ((*dict)[i].is_tensor()) add(dict->keys()[i].to_string(), (*dict)[i]);
    // A dict of dicts ({"generator": ..., "discriminator": ...}), a list of parameters: under their dotted names.
    if (dict != nullptr && found.empty())
      for_each_leaf(*dict, [&](std::string_view path, archive_value const& leaf) {
        if (leaf.is_tensor()) add(std::string{path}, leaf);
      });
    auto const before = [&found](std::uint32_t a, std::uint32_t b) { return found[a].name < found[b].name; };
    std::vector<std::uint32_t> const order = sorted_positions(found.size(), before);
    for (std::size_t i = 1; i < found.size(); ++i)
      if (found_tensor const &a = found[order[i - 1]], &b = found[order[i]]; a.name == b.name)
        throw load_error(in.name(), "\"" + in_file[a.position] + "\" and \"" + in_file[b.position] + "\" of the file both become \"" + b.name +
                                        "\"; nothing was loaded");
    if (std::string const* const unused = map.unused()) throw_fits_nothing(".rename", *unused, "name in the file", in_file);
    for (std::string const& path : names.only) {
      bool fits = false;
      for (tensor_target const& t : targets) fits = fits || path_matches(path, t.name);
      if (fits) continue;
      std::vector<std::string> in_model;
      for (tensor_target const& t : targets) in_model.push_back(t.name);
      throw_fits_nothing(".only", path, "name in the model", in_model);
    }
    std::vector<char> used(found.size(), 0);
    std::vector<unmatched_name> missing, unexpected;
    for (tensor_target const& target : targets) {
      std::size_t const rank = first_not_less(order.size(), [&](std::size_t i) { return found[order[i]].name < target.name; });
      found_tensor const* const at = rank == order.size() ? nullptr : &found[order[rank]];
      bool const present = at != nullptr && at->name == target.name;
      if (present) used[order[rank]] = 1;
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
      transfers.push_back({at->entry, info.type, target.type, target.extents.elements(), target.to});
      report.loaded.push_back(prefix + target.name);
    }
    for (std::uint32_t const i : order)
      if (used[i] == 0 && is_wanted(found[i].name, names)) {
        unexpected.push_back({found[i].name, shape_text(in.tensors()[found[i].entry].shape)});
        report.unexpected.push_back(prefix + found[i].name);
      }
    // Those that are not wanted are no reason to advise anything, but they may be what a prefix hides.
    if (report.advice.empty()) report.advice = name_advisor{std::move(missing), std::move(unexpected)}.text();
    if (report.advice.empty() && found.empty() && !targets.empty() && prefix.empty())
      report.advice = "the file holds no tensor that has a name; in PyTorch, save model.state_dict()";
    if (report.advice.empty() && names.strict) report.advice = head_advice(report);
  }

  /// Takes the transfers to the `bytes` bytes at `array` out of the plan, where the file has all of them in one piece and in the same form;
  /// gives pages of the mapped file to use instead of the array. Null with the reason in the report where they must be copied.
  MORTISE_COLD std::shared_ptr<std::byte> adopt(void const* array, std::size_t bytes) {
    auto const* const first = static_cast<std::byte const*>(array);
    byte_source const* source = nullptr;
    std::uint64_t start = 0;
    std::size_t found = 0;
    auto const begin = reinterpret_cast<std::uintptr_t>(array);
    auto const is_inside = [begin, bytes](tensor_transfer const& t) { return reinterpret_cast<std::uintptr_t>(t.to) - begin < bytes; };
    auto const refuse = [this](char const* why) {
      report.not_adopted = why;
      return nullptr;
    };
    for (tensor_transfer const& t : transfers) {
      if (!is_inside(t)) continue;
      if (t.from_type != t.to_type) return refuse("the file has another element type");
      auto const place = t.entry == no_entry ? archive_reader::stored_place{} : in.stored(t.entry);
      if (place.source == nullptr) return refuse("a tensor is strided, compressed or byte-swapped in the file");
      std::uint64_t const offset = static_cast<std::uint64_t>(static_cast<std::byte const*>(t.to) - first);
      if (found == 0) source = place.source, start = place.offset - offset;
      if (place.source != source || place.offset - offset != start) return refuse("the file has the parameters in another order, or not in one piece; save it with {.mappable = true}");
      found += t.bytes();
    }
    if (found == 0 || found != bytes) return refuse("not all parameters are loaded");
    if (start % 64 != 0) return refuse("the file has the parameters at an address that is no multiple of 64; save it with {.mappable = true}");
    std::shared_ptr<std::byte> pages = source->private_pages(start, bytes);
    if (pages == nullptr) return refuse("the file is not mapped; open it with mt::map_file");
    for (tensor_transfer const& t : transfers)
      if (is_inside(t)) checked.push_back(t.entry);
    std::erase_if(transfers, is_inside);
    report.adopted = true;
    return pages;
  }

  /// Up to so many bytes are staged; a larger load is read into place in a second pass, in pieces of this size where it needs memory.
  static constexpr std::size_t staging_bytes = std::size_t{1} << 22;
  /// Bytes that a thread reads straight into place at a time.
  static constexpr std::size_t piece_bytes = std::size_t{1} << 23;
  /// Elements that a thread converts at a time: these take memory.
  static constexpr std::size_t piece_elements = std::size_t{1} << 17;
  /// Memory is what bounds a load; more threads would only take more of it for their pieces.
  static constexpr int most_threads = 4;
  static int fewer_threads(int threads) { return threads < most_threads ? threads : most_threads; }

  /// Loads what was matched into memory of `device`. Throws load_error unless all is well or the caller allowed differences, archive_error
  /// or io_error where the file is damaged or cannot be read; nothing has changed then.
  template <class D>
  void run(D const& device) {
    check();
    if constexpr (std::is_same_v<typename D::space, host_space>) {
      transfer([](void* to, std::byte const* from, std::size_t n) { std::memcpy(to, from, n); }, host{fewer_threads(device.thread_count())}, true);
    } else {
      transfer(
          [&device](void* to, std::byte const* from, std::size_t n) {
            device.copy(to, from, n);
            device.synchronize();  // the piece is used again
          },
          host{fewer_threads(host{}.thread_count())}, false);
    }
    for (pending_value const& v : values) v.assign(*v.from, v.to);
  }

 private:
  MORTISE_COLD void check() const {
    std::string const advice = report.advice.empty() ? "." : ": " + report.advice + ".";
    if (options.strict && !(report.complete() && architecture.empty()))
      throw load_error(in.name(), (architecture.empty() ? "this file does not fit the model" : "this file is of another network:" + architecture) +
                                      "; nothing was loaded" + advice + " To load what fits, pass {.strict = false}.", report);
    if (report.loaded.empty() && !(report.missing.empty() && report.mismatched.empty()))
      throw load_error(in.name(), "nothing in this file fits the model" + advice, report);
  }

  /// A part of a transfer, in elements.
  struct piece {
    std::size_t transfer;
    std::size_t first;
    std::size_t count;
  };

  /// copy(to, from, n): to the target's memory, into which the host may write directly or not.
  template <class Copy>
  MORTISE_COLD void transfer(Copy const& copy, host const& threads, bool host_memory) {
    std::size_t total = 0;
    std::vector<std::size_t> side_by_side, alone;  // what is read as a whole takes memory: one after the other
    for (tensor_transfer const& t : transfers) {
      total += t.bytes();
      if (t.entry != no_entry) (in.reads_in_parts(t.entry) ? side_by_side : alone).push_back(t.entry);
    }
    try_each_piece(threads, side_by_side.size(), [&](std::size_t i) { in.check_readable({&side_by_side[i], 1}); });
    in.check_readable(alone);
    in.check_readable(checked);
    if (total <= staging_bytes) {
      std::vector<std::byte> staged(total);
      std::byte* at = staged.data();
      for (tensor_transfer const& t : transfers) {
        read_pieces(t, {0, 0, t.count}, [&](std::size_t, std::byte const* from, std::size_t n) {
          std::memcpy(at, from, n);
          at += n;
        });
      }
      at = staged.data();
      for (tensor_transfer const& t : transfers) {
        if (t.bytes() != 0) copy(t.to, at, t.bytes());
        at += t.bytes();
      }
      return;
    }
    try {
      std::vector<piece> pieces;
      std::vector<piece> in_turn;
      for (std::size_t i = 0; i < transfers.size(); ++i) {
        tensor_transfer const& t = transfers[i];
        if (!host_memory || (t.entry != no_entry && !in.reads_in_parts(t.entry))) {
          if (t.count != 0) in_turn.push_back({i, 0, t.count});
          continue;
        }
        std::size_t const step = t.from_type == t.to_type ? piece_bytes * 8 / bits_of(t.to_type) : piece_elements;
        for (std::size_t at = 0; at < t.count; at += step) pieces.push_back({i, at, step < t.count - at ? step : t.count - at});
      }
      try_each_piece(threads, pieces.size(), [&](std::size_t i) {
        tensor_transfer const& t = transfers[pieces[i].transfer];
        std::size_t const width = bits_of(t.to_type) / 8;
        auto* const to = static_cast<std::byte*>(t.to);
        if (t.entry == no_entry) std::memset(to + pieces[i].first * width, 0, pieces[i].count * width);
        else if (t.from_type == t.to_type) in.read_entry_part(t.entry, pieces[i].first * width, {to + pieces[i].first * width, pieces[i].count * width});
        else read_pieces(t, pieces[i], [&](std::size_t offset, std::byte const* from, std::size_t n) { std::memcpy(to + offset, from, n); });
      });
      for (piece const& p : in_turn) {
        tensor_transfer const& t = transfers[p.transfer];
        auto* const to = static_cast<std::byte*>(t.to);
        if (host_memory && t.from_type == t.to_type) {
          in.read_entry_into(t.entry, {to, t.bytes()});
        } else if (std::span<std::byte const> const mapped = t.entry == no_entry ? std::span<std::byte const>{} : in.mapped_entry(t.entry);
                   !mapped.empty() && t.from_type == t.to_type) {
          copy(to, mapped.data(), mapped.size());  // to the device from where the file is mapped
        } else {
          read_pieces(t, p, [&](std::size_t offset, std::byte const* from, std::size_t n) { copy(to + offset, from, n); });
        }
      }
    } catch (error const& e) {
      throw io_error{in.name(), "read what could be read a moment before (" + std::string{e.what()} + "). What was to be loaded is now partly changed: load it again", EIO};
    }
  }

  /// Calls f(offset, bytes, n) for a part of the tensor as it will lie in memory, piece after piece.
  template <class F>
  void read_pieces(tensor_transfer const& t, piece const& part, F const& f) const {
    std::size_t const from_width = bits_of(t.from_type) / 8;
    std::size_t const to_width = bits_of(t.to_type) / 8;
    if (part.count == 0) return;
    bool const whole = t.entry != no_entry && !in.reads_in_parts(t.entry);  // strided or compressed
    std::size_t const step = whole ? t.count : part.count < staging_bytes / 8 ? part.count : staging_bytes / 8;
    std::vector<std::byte> raw(step * from_width);
    std::vector<std::byte> converted(t.from_type == t.to_type ? 0 : step * to_width);
    for (std::size_t done = part.first; done < part.first + part.count; done += step) {
      std::size_t const left = part.first + part.count - done;
      std::size_t const n = step < left ? step : left;
      if (whole) in.read_entry_into(t.entry, raw);
      else if (t.entry != no_entry) in.read_entry_part(t.entry, done * from_width, {raw.data(), n * from_width});
      if (t.from_type == t.to_type) {
        f(done * to_width, raw.data(), n * to_width);
      } else {
        convert(t.from_type, raw.data(), t.to_type, converted.data(), n);
        f(done * to_width, converted.data(), n * to_width);
      }
    }
  }

  [[noreturn]] MORTISE_COLD void throw_fits_nothing(std::string_view option, std::string const& pattern, std::string_view what,
                                                   std::vector<std::string> const& there) const {
    std::string names;
    std::size_t const count = there.size();
    for (std::size_t i = 0; i < count && i < 6; ++i) {
      names += i == 0 ? "" : ", ";
      names += there[i].substr(0, 200);
    }
    throw load_error(in.name(), std::string{option} + ": \"" + pattern + "\" fits no " + std::string{what} + "; nothing was loaded. There " +
                                    (count == 0 ? "are none" : "are: " + names + (count > 6 ? ", ..." : "")));
  }
};
using load_plan = basic_load_plan<>;

/// The dict of a model's tensors in a file: under one of the usual keys of a checkpoint, or the file itself.
template <class = void>
MORTISE_COLD archive_value const* find_model_dict(archive_value const& root) {
  for (char const* key : {"model_state_dict", "state_dict", "model", "net", "network", "module"})
    if (archive_value const* found = root.find(key); found != nullptr && found->is_dict()) return found;
  return root.is_tensor() ? nullptr : &root;
}

}  // namespace mortise::detail
