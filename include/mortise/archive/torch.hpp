// torch.save's files without torch: the zip container (1.6 and newer, read and written) and the one before it (read).
//
// Read by a data-only unpickler; written with the fewest opcodes, so that torch 1.13 and 2.x load them, the latter also with
// weights_only=True (1.13's weights_only takes them where no float is among the values).
// Source: torch/serialization.py, torch/_weights_only_unpickler.py 1.13 to 2.9, caffe2/serialize/inline_container.cc.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mortise/archive/checkpoint_layout.hpp>
#include <mortise/archive/contents.hpp>
#include <mortise/archive/pickle.hpp>
#include <mortise/archive/zip.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// The format as a policy: `mt::save_archive<mt::torch_zip>(path, tree)`.
struct torch_zip {
  static constexpr std::string_view name = "torch_zip";
  static constexpr std::string_view extension = ".pt";
  static constexpr std::uint64_t max_pickle = std::uint64_t{1} << 28;

  template <class = void>
  static archive_contents parse(detail::zip_reader const& zip);
  /// `extra` goes into the dict "metadata" of a tree that is a checkpoint; a state_dict alone cannot carry it.
  template <class = void>
  static void write(archive_value const& tree, byte_sink& out, archive_metadata const& extra = {});
};

/// Files of torch.save before 1.6; reading only.
struct torch_legacy {
  static constexpr std::string_view name = "torch_legacy";
  template <class = void>
  static archive_contents parse(byte_source const& file);
};

// ---- implementation -------------------------------------------------------------------------------------------------------

namespace detail {

/// Fills in the places of a tree's tensors. first(storage): where its bytes begin; record(storage): its checksum, or -1.
template <class First, class Record>
void place_tensors(archive_contents& c, unpickler const& p, std::vector<std::uint32_t> const& origin, bool big_endian, First first, Record record) {
  c.places.reserve(origin.size());
  for (std::size_t i = 0; i != origin.size(); ++i) {
    pickled_tensor const& t = p.tensors[origin[i]];
    tensor_info& info = c.tensors[i];
    tensor_place place;
    place.packed = is_packed(info.shape, info.strides);
    place.big_endian = big_endian && bits_of(t.type) > 8;
    place.offset = first(t.storage) + (info.count() == 0 ? 0 : t.offset * (bits_of(t.type) / 8));
    place.record = record(t.storage);
    // Strides that say nothing new are left out, as for the other formats.
    std::size_t expected = 1;
    bool plain = true;
    for (std::size_t d = info.shape.size(); d-- != 0; expected *= info.shape[d] == 0 ? 1 : info.shape[d]) plain = plain && info.strides[d] == expected;
    if (plain) info.strides = {};
    c.places.push_back(place);
  }
}

template <class = void>
class basic_pickle_writer {
 public:
  std::string text{"\x80\x02"};

  void begin_tuple() { text += '('; }
  void end_tuple() { text += 't'; }
  void stop() { text += '.'; }
  void global(std::string_view module, std::string_view name) {
    text += 'c';
    text += module;
    text += '\n';
    text += name;
    text += '\n';
  }
  void string(std::string_view s) {
    if (s.size() > 0xffffffffu) detail::throw_usage_error({"mortise: a string of 4 GiB or more cannot be pickled"});
    text += 'X';
    put(s.size(), 4);
    text += s;
  }
  void integer(std::int64_t v) {
    if (v >= 0 && v < 256) text += 'K', put(static_cast<std::uint64_t>(v), 1);
    else if (v >= 0 && v < 65536) text += 'M', put(static_cast<std::uint64_t>(v), 2);
    else if (v >= -2147483648ll && v <= 2147483647ll) text += 'J', put(static_cast<std::uint64_t>(v), 4);
    else text += '\x8a', put(8, 1), put(static_cast<std::uint64_t>(v), 8);
  }
  void real(double v) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &v, 8);
    text += 'G';
    for (int i = 7; i >= 0; --i) put(bits >> (8 * i), 1);
  }
  MORTISE_COLD void shape(std::vector<std::size_t> const& s) {
    if (s.empty()) {
      text += ')';
      return;
    }
    if (s.size() > 3) text += '(';
    for (std::size_t e : s) integer(static_cast<std::int64_t>(e));
    text += s.size() == 1 ? '\x85' : s.size() == 2 ? '\x86' : s.size() == 3 ? '\x87' : 't';
  }
  void empty_ordered_dict() {
    global("collections", "OrderedDict");
    text += ")R";
  }

 private:
  void put(std::uint64_t v, std::size_t bytes) {
    for (std::size_t i = 0; i != bytes; ++i) text += static_cast<char>(static_cast<unsigned char>(v >> (8 * i)));
  }
};
using pickle_writer = basic_pickle_writer<>;

template <class = void>
class basic_torch_writer {
 public:
  struct storage {
    std::byte const* data;
    std::size_t bytes;
    element_type type;
  };
  std::vector<storage> storages{};
  pickle_writer pickle{};

  MORTISE_COLD void value(archive_value const& v, std::string const& name, std::size_t depth) {
    if (depth > 150) detail::throw_usage_error({"mortise: a checkpoint nests values deeper than 150 levels at ", name.substr(0, 200)});
    std::string& out = pickle.text;
    switch (v.kind()) {
      case archive_kind::none: out += 'N'; return;
      case archive_kind::boolean: out += v.as_bool() ? '\x88' : '\x89'; return;
      case archive_kind::integer: return pickle.integer(v.as_int());
      case archive_kind::real: return pickle.real(v.as_double());
      case archive_kind::string: return pickle.string(v.as_string());
      case archive_kind::bytes: {
        std::string wide;
        for (char c : v.as_string()) append_utf8(wide, static_cast<unsigned char>(c));
        pickle.global("_codecs", "encode");
        pickle.begin_tuple();
        pickle.string(wide);
        pickle.string("latin1");
        pickle.end_tuple();
        out += 'R';
        return;
      }
      case archive_kind::tensor: return tensor(v.as_tensor(), name);
      case archive_kind::list:
        out += ']';
        if (v.size() == 0) return;
        out += '(';
        for (std::size_t i = 0; i != v.size(); ++i) value(v[i], name + '.' + std::to_string(i), depth + 1);
        out += 'e';
        return;
      case archive_kind::tuple:
        if (v.size() == 0) {
          out += ')';
          return;
        }
        if (v.size() > 3) out += '(';
        for (std::size_t i = 0; i != v.size(); ++i) value(v[i], name + '.' + std::to_string(i), depth + 1);
        out += v.size() == 1 ? '\x85' : v.size() == 2 ? '\x86' : v.size() == 3 ? '\x87' : 't';
        return;
      case archive_kind::dict:
        if (std::size_t const twice = find_duplicate(v.keys()); twice != static_cast<std::size_t>(-1))
          detail::throw_usage_error({"mortise: a checkpoint's dict has the key ", quoted_part(v.keys()[twice].to_string()), " twice"});
        // A state_dict is an OrderedDict in PyTorch; everything else a plain dict.
        if ((depth == 0 && v.size() != 0 && all_tensors(v)) || name == "model_state_dict") pickle.empty_ordered_dict();
        else out += '}';
        if (v.size() == 0) return;
        out += '(';
        for (std::size_t i = 0; i != v.size(); ++i) {
          archive_key const& k = v.keys()[i];
          if (k.is_integer()) pickle.integer(k.number());
          else pickle.string(k.text());
          value(v[i], name.empty() ? k.to_string() : name + '.' + k.to_string(), depth + 1);
        }
        out += 'u';
        return;
    }
  }

 private:
  struct by_memory {
    std::size_t operator()(std::pair<std::byte const*, std::size_t> const& k) const { return reinterpret_cast<std::uintptr_t>(k.first) * 31 + k.second; }
  };
  std::unordered_map<std::pair<std::byte const*, std::size_t>, std::uint32_t, by_memory> known_{};

  MORTISE_COLD void tensor(tensor_ref const& t, std::string const& name) {
    if (t.data == nullptr && t.bytes() != 0)
      detail::throw_usage_error({"mortise: tensor ", quoted_part(name), " has no data; a tree that a reader made must be read first (archive_reader::read_tree)"});
    std::string_view typed;
    for (storage_class const& s : storage_classes)
      if (s.type == t.type) typed = s.name;
    if (typed.empty() && bits_of(t.type) % 8 != 0)
      detail::throw_usage_error({"mortise: torch has no element type ", name_of(t.type), " (tensor ", quoted_part(name), "); save it as safetensors"});
    // Tensors in the same memory share a storage: tied weights stay tied.
    std::uint32_t key = static_cast<std::uint32_t>(storages.size());
    if (t.bytes() != 0) {
      auto const [at, is_new] = known_.try_emplace({t.data, t.bytes()}, key);
      if (!is_new && storages[at->second].type == t.type) key = at->second;
    }
    if (key == storages.size()) storages.push_back({t.data, t.bytes(), t.type});
    std::string& out = pickle.text;
    pickle.global("torch._utils", typed.empty() ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    pickle.begin_tuple();
    pickle.begin_tuple();
    pickle.string("storage");
    if (typed.empty()) pickle.global("torch.storage", "UntypedStorage");
    else pickle.global("torch", typed);
    pickle.string(std::to_string(key));
    pickle.string("cpu");
    pickle.integer(static_cast<std::int64_t>(typed.empty() ? t.bytes() : t.count()));
    pickle.end_tuple();
    out += 'Q';
    pickle.integer(0);
    pickle.shape(t.shape);
    std::vector<std::size_t> strides(t.shape.size());
    std::size_t step = 1;
    for (std::size_t d = strides.size(); d-- != 0; step *= t.shape[d] == 0 ? 1 : t.shape[d]) strides[d] = step;
    pickle.shape(strides);
    out += '\x89';
    pickle.empty_ordered_dict();
    if (typed.empty()) pickle.global("torch", name_of(t.type));
    pickle.end_tuple();
    out += 'R';
  }
};
using torch_writer = basic_torch_writer<>;

}  // namespace detail

template <class>
MORTISE_COLD void torch_zip::write(archive_value const& tree, byte_sink& out, archive_metadata const& extra) {
  detail::torch_writer w;
  if (!extra.empty() && tree.is_dict() && !detail::all_tensors(tree)) {
    archive_value copy = tree;
    archive_value metadata = copy.take("metadata");
    if (!metadata.is_dict()) metadata = archive_value::dict();
    for (auto const& [key, text] : extra) metadata.set(key, text);
    copy.set("metadata", std::move(metadata));
    w.value(copy, "", 0);
  } else {
    w.value(tree, "", 0);
  }
  w.pickle.stop();
  detail::zip_writer zip{out};
  zip.add("archive/data.pkl", w.pickle.text.data(), w.pickle.text.size());
  zip.add("archive/byteorder", "little", 6);
  for (std::size_t i = 0; i != w.storages.size(); ++i) zip.add("archive/data/" + std::to_string(i), w.storages[i].data, w.storages[i].bytes);
  zip.add("archive/version", "3\n", 2);
  zip.finish();
}

template <class>
MORTISE_COLD archive_contents torch_zip::parse(detail::zip_reader const& zip) {
  std::string const& file = zip.file().name();
  auto const& entries = zip.entries();
  std::string const& first = entries[0].name;
  std::size_t const slash = first.find('/');
  if (slash == std::string::npos || slash == 0) zip.fail(entries[0].header, {"entry ", detail::quoted_part(first), " is in no folder: this is neither a torch.save file nor an npz"});
  std::string const prefix = first.substr(0, slash + 1);
  for (detail::zip_entry const& e : entries)
    if (e.name.compare(0, prefix.size(), prefix) != 0)
      zip.fail(e.header, {"entry ", detail::quoted_part(e.name), " is outside the folder ", detail::quoted_part(prefix), " of the other entries"});
  if (zip.find(prefix + "constants.pkl")) detail::throw_archive_error(file, archive_error::no_offset, {"this is a TorchScript module, not a checkpoint: save its state_dict() with torch.save"});
  detail::zip_entry const* pickle = zip.find(prefix + "data.pkl");
  if (pickle == nullptr) detail::throw_archive_error(file, archive_error::no_offset, {"the zip file has no entry data.pkl: it was not written by torch.save"});
  detail::zip_entry const* version = zip.find(prefix + ".data/version");
  if (version == nullptr) version = zip.find(prefix + "version");
  if (version == nullptr) detail::throw_archive_error(file, archive_error::no_offset, {"the zip file has no entry version"});
  std::string number = zip.text(*version, 64);
  if (!number.empty() && number.back() == '\n') number.pop_back();
  if (number.empty() || number.size() > 2 || number.find_first_not_of("0123456789") != std::string::npos || number[0] == '0' || std::atoi(number.c_str()) > 10)
    zip.fail(version->data, {"version ", detail::quoted_part(number), " of torch's file format is not supported (1 to 10 are)"});
  bool big_endian = false;
  if (detail::zip_entry const* order = zip.find(prefix + "byteorder")) {
    std::string const text = zip.text(*order, 64);
    if (text != "little" && text != "big") zip.fail(order->data, {"byteorder is ", detail::quoted_part(text), ", neither little nor big"});
    big_endian = text == "big";
  }

  std::string const text = zip.text(*pickle, max_pickle);
  detail::unpickler p{text, file + ": " + pickle->name, 0, detail::pickle_budget(zip.file().size()), 5};
  p.run();
  if (p.consumed() != text.size()) p.fail({text.size() - p.consumed(), " bytes after STOP"});

  archive_contents c;
  c.format = name;
  c.sources.push_back(zip.file());
  c.has_tree = true;
  std::vector<std::uint64_t> offsets;
  offsets.reserve(p.storages.size());
  c.records.reserve(p.storages.size());
  for (detail::pickled_storage const& s : p.storages) {
    std::string const record = "data/" + s.key;
    detail::zip_entry const* e = zip.find(prefix + record);
    if (e == nullptr) detail::throw_archive_error(file, archive_error::no_offset, {"a tensor's storage is missing: there is no entry ", record});
    if (e->method != 0) zip.fail(e->header, {"entry ", detail::quoted_part(e->name), " is compressed; torch.save stores tensors: re-save the file with torch"});
    // A storage that was viewed with a wider type may end within an element.
    if (e->size < s.count * s.width() || e->size - s.count * s.width() >= s.width())
      zip.fail(e->data, {"entry ", record, " has ", e->size, " bytes, its storage of ", s.count, " elements takes ", s.count * s.width()});
    offsets.push_back(e->data);
    c.records.push_back({"entry " + record, e->data, e->size, 0, e->crc, e->crc != 0, false, 0});
  }
  std::vector<std::uint32_t> origin;
  c.tree = p.to_tree(c.tensors, origin);
  detail::place_tensors(c, p, origin, big_endian, [&](std::uint32_t s) { return offsets[s]; }, [](std::uint32_t s) { return s; });
  return c;
}

template <class>
MORTISE_COLD archive_contents torch_legacy::parse(byte_source const& file) {
  std::uint64_t const size = file.size();
  std::uint64_t const budget = detail::pickle_budget(size);
  std::string text;
  std::uint64_t at = 0;
  auto const fail = [&file](std::uint64_t where, detail::message_parts reason) { detail::throw_archive_error(file.name(), where, reason); };
  // Runs the pickle at `at`. Its length is known only by running it: more of the file is read until STOP comes.
  auto const run = [&](std::size_t id_length, char const* part) {
    for (std::uint64_t window = std::uint64_t{1} << 16;; window *= 8) {
      auto const n = static_cast<std::size_t>(detail::lesser(detail::lesser(window, size - at), torch_zip::max_pickle));
      text.resize(n);
      file.read(at, text.data(), n);
      detail::unpickler p{text, file.name(), at, budget, id_length};
      try {
        p.run();
      } catch (archive_error const& e) {
        if (p.ran_out() && n < size - at && n < torch_zip::max_pickle) continue;
        detail::throw_archive_error(file.name(), e.offset, {part, ": ", e.reason});
      }
      at += p.consumed();
      return p;
    }
  };
  std::vector<tensor_info> none;
  std::vector<std::uint32_t> no_origin;
  {
    detail::unpickler p = run(0, "magic number");
    archive_value const magic = p.to_tree(none, no_origin);
    if (!magic.is_string() || magic.as_string() != "119547037146038801333356")  // 0x1950a86a20f9469cfc6c
      fail(0, {"a bare pickle without torch's magic number: this is no checkpoint of torch.save"});
  }
  {
    detail::unpickler p = run(0, "protocol version");
    archive_value const v = p.to_tree(none, no_origin);
    if (!v.is_int() || v.as_int() != 1001) fail(at, {"protocol version ", to_string(v, 80), " instead of 1001"});
  }
  {
    detail::unpickler p = run(0, "system information");
    archive_value const v = p.to_tree(none, no_origin);
    archive_value const* little = v.find("little_endian");
    if (!v.is_dict() || little == nullptr || !little->is_bool()) fail(at, {"system information without little_endian"});
    if (!little->as_bool()) fail(at, {"the file was written on a big-endian machine; load and re-save it there"});
  }
  detail::unpickler p = run(6, "object");
  archive_contents c;
  c.format = name;
  c.sources.push_back(file);
  c.has_tree = true;
  std::vector<std::uint32_t> origin;
  c.tree = p.to_tree(c.tensors, origin);
  archive_value keys;
  {
    detail::unpickler q = run(0, "storage keys");
    keys = q.to_tree(none, no_origin);
    if (!keys.is_list()) fail(at, {"the storage keys are no list"});
  }
  std::unordered_map<std::string_view, std::uint32_t> roots;
  for (std::uint32_t i = 0; i != p.storages.size(); ++i)
    if (p.storages[i].root == i) roots.emplace(p.storages[i].key, i);
  std::vector<std::uint64_t> offsets(p.storages.size(), 0);
  std::vector<bool> seen(p.storages.size(), false);
  for (archive_value const& key : keys.items()) {
    if (!key.is_string()) fail(at, {"a storage key that is no string"});
    auto const found = roots.find(key.as_string());
    if (found == roots.end()) fail(at, {"the list of storages names key ", detail::quoted_part(key.as_string()), ", which no tensor uses"});
    detail::pickled_storage const& s = p.storages[found->second];
    if (seen[found->second]) fail(at, {"the list of storages names key ", s.key, " twice"});
    seen[found->second] = true;
    if (size - at < 8) fail(at, {"the file is truncated: no element count of storage ", s.key});
    std::byte count[8];
    file.read(at, count, 8);
    if (std::uint64_t const n = detail::little(count, 8); n != s.count)
      fail(at, {"storage ", s.key, " has the element count ", static_cast<std::int64_t>(n), ", its tensors say ", s.count});
    at += 8;
    if (size - at < s.count * s.width()) fail(at, {"the file is truncated: storage ", s.key, " needs ", s.count * s.width(), " bytes, ", size - at, " are left"});
    offsets[found->second] = at;
    at += s.count * s.width();
  }
  for (std::uint32_t i = 0; i != p.storages.size(); ++i)
    if (p.storages[i].root == i && !seen[i]) fail(at, {"the list of storages does not name key ", p.storages[i].key, ", which a tensor uses"});
  if (at != size) fail(at, {size - at, " bytes after the last storage"});
  detail::place_tensors(
      c, p, origin, false,
      [&](std::uint32_t s) { return offsets[p.storages[s].root] + p.storages[s].root_offset * p.storages[s].width(); },
      [](std::uint32_t) { return static_cast<std::uint32_t>(-1); });
  return c;
}

}  // namespace mortise
