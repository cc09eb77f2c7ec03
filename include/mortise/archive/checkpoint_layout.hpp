// How a training run lies in a format that knows only named tensors and text: `ckpt.*` metadata beside `model.*`, `optimizer.state.*`.
//
//   tree                                            named tensors                     metadata text
//   {name: tensor, ...} (a state_dict)              <name>                            -
//   model_state_dict.<name>                         model.<name>                      -
//   optimizer_state_dict.state.<i>.<slot>           optimizer.state.<i>.<slot>        -
//   the rest of optimizer_state_dict                -                                 ckpt.optimizer      JSON
//   scheduler_state_dict, scaler_state_dict         -                                 ckpt.scheduler, ckpt.scaler   JSON
//   rng_state.<name>                                rng.<name>                        -
//   epoch, global_step, best_metric                 -                                 ckpt.epoch, ...     decimal text
//   metadata.<key>                                  -                                 user.<key>
//   format_version                                  -                                 ckpt.version
//   -                                               -                                 ckpt.checksum.<name>, where asked for
//   any other key                                   <key>.<dotted name>               ckpt.<key>          JSON
//
// JSON has no tuples, integer keys, infinities, bytes or tensors. Infinities and NaN are the strings "inf", "-inf", "nan"; `betas` is an
// array and comes back as a tuple, as PyTorch wants it; everything else is an object with one `$` key: {"$tuple": [...]},
// {"$dict": [[key, value], ...]}, {"$tensor": "name"}, {"$string": "inf"}, {"$bytes": "00ff"}. Reading gives the written tree back.
#pragma once

#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/contents.hpp>
#include <mortise/archive/detail/crc32.hpp>
#include <mortise/archive/json.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// The newest layout of a checkpoint that this library reads, and the one that it writes. Newer files are refused, not guessed at.
inline constexpr std::int64_t checkpoint_version = 1;

struct named_tensor {
  std::string name;
  tensor_ref tensor;
};

/// A tree as named tensors and text. Tensors that share their memory are stored once: the others are `ckpt.alias.<name>` = stored name.
struct flat_archive {
  std::vector<named_tensor> tensors{};
  archive_metadata metadata{};
};

/// Throws usage_error for what cannot be written (two equal keys, nesting beyond 128 levels).
template <class = void>
MORTISE_COLD flat_archive flatten_checkpoint(archive_value const& tree);

/// The tree of a file's names and metadata; tensor nodes hold positions in `c.tensors`. archive_error where the text is malformed.
template <class = void>
MORTISE_COLD archive_value unflatten_checkpoint(archive_contents const& c);

/// `ckpt.checksum.<name>` = "crc32:<8 hexadecimal digits>" for every tensor that is stored.
template <class = void>
MORTISE_COLD void add_checksums(flat_archive& archive);
/// Makes records of the checksums among the metadata, which are verified when a tensor is read.
template <class = void>
MORTISE_COLD void resolve_checksums(archive_contents& c);

/// Appends the aliases among the metadata to tensors and places, and checks `ckpt.version`.
template <class = void>
MORTISE_COLD void resolve_aliases(archive_contents& c);

// ---- implementation -------------------------------------------------------------------------------------------------------

namespace detail {

template <class = void>
bool is_utf8(std::string_view text) { return find_invalid_utf8(text) == std::string_view::npos; }

template <class = void>
bool is_special_float_text(std::string_view text) { return text == "inf" || text == "-inf" || text == "nan"; }

template <class = void>
MORTISE_COLD std::string hex_text(std::string_view raw) {
  constexpr char hex[] = "0123456789abcdef";
  std::string out;
  for (char c : raw) {
    out += hex[static_cast<unsigned char>(c) >> 4];
    out += hex[static_cast<unsigned char>(c) & 15];
  }
  return out;
}

/// Keys of the metadata whose meaning is fixed; another key of the tree with such a name goes under `ckpt.key.<name>`.
template <class = void>
bool is_reserved_checkpoint_key(std::string_view key) {
  for (std::string_view word : {"version", "optimizer", "scheduler", "scaler", "tree"})
    if (key == word) return true;
  for (std::string_view prefix : {"alias.", "rng.", "key.", "checksum."})
    if (key.substr(0, prefix.size()) == prefix) return true;
  return false;
}

template <class = void>
bool all_tensors(archive_value const& v) {
  if (!v.is_dict()) return false;
  for (std::size_t i = 0; i != v.size(); ++i)
    if (!v[i].is_tensor() || v.keys()[i].is_integer()) return false;
  return true;
}

template <class = void>
class basic_checkpoint_writer {
 public:
  flat_archive out{};

  void add_tensor(std::string name, tensor_ref const& tensor) { out.tensors.push_back({std::move(name), tensor}); }
  void add_text(std::string key, std::string text) { out.metadata.emplace_back(std::move(key), std::move(text)); }

  /// Called once, before the first skeleton: from here on names must be made different.
  MORTISE_COLD void regular_part_done() {
    for (named_tensor const& t : out.tensors) used_.push_back(t.name);
    auto const before = [this](std::uint32_t a, std::uint32_t b) { return used_[a] < used_[b]; };
    reorder(used_, sorted_positions(used_.size(), before));
  }

  std::string skeleton(archive_value const& v, std::string const& name) {
    std::string json;
    append(json, v, {}, name, 0);
    return json;
  }

 private:
  std::vector<std::string> used_{};

  MORTISE_COLD std::string unused_name(std::string name) {
    std::string const wanted = name;
    for (std::size_t n = 1;; ++n) {
      std::size_t const at = find_sorted(used_, name);
      if (name != "__metadata__" && (at == used_.size() || used_[at] != name)) {
        used_.insert(used_.begin() + static_cast<std::ptrdiff_t>(at), name);
        return name;
      }
      name = wanted + "~" + std::to_string(n);
    }
  }

  // Recursion is bounded by the depth that JSON readers accept.
  MORTISE_COLD void append(std::string& json, archive_value const& v, std::string_view key, std::string const& name, std::size_t depth) {
    if (depth + 3 > json_cursor::max_depth) detail::throw_usage_error({"mortise: a checkpoint nests values deeper than 40 levels at ", name.substr(0, 200)});
    auto const tag = [&json](std::string_view t) { json += "{\"" + std::string{t} + "\":"; };
    switch (v.kind()) {
      case archive_kind::none: json += "null"; return;
      case archive_kind::boolean: json += v.as_bool() ? "true" : "false"; return;
      case archive_kind::integer: json += std::to_string(v.as_int()); return;
      case archive_kind::real: {
        double const d = v.as_double();
        if (std::isfinite(d)) append_json(json, d);
        else json += d != d ? "\"nan\"" : d > 0 ? "\"inf\"" : "\"-inf\"";
        return;
      }
      case archive_kind::string: {
        std::string const& text = v.as_string();
        if (!is_utf8(text)) {
          tag("$raw_string");
          append_json(json, std::string_view{hex_text(text)});
          json += '}';
        } else if (is_special_float_text(text)) {
          tag("$string");
          append_json(json, std::string_view{text});
          json += '}';
        } else {
          append_json(json, std::string_view{text});
        }
        return;
      }
      case archive_kind::bytes:
        tag("$bytes");
        append_json(json, std::string_view{hex_text(v.as_string())});
        json += '}';
        return;
      case archive_kind::tensor: {
        std::string stored = unused_name(is_utf8(name) ? name : "tensor");
        add_tensor(stored, v.as_tensor());
        tag("$tensor");
        append_json(json, std::string_view{stored});
        json += '}';
        return;
      }
      case archive_kind::list:
      case archive_kind::tuple: {
        bool const plain = v.is_tuple() == (key == "betas");
        if (!plain) tag(v.is_tuple() ? "$tuple" : "$list");
        json += '[';
        for (std::size_t i = 0; i != v.size(); ++i) {
          if (i != 0) json += ',';
          append(json, v[i], {}, name + '.' + std::to_string(i), depth + 2);
        }
        json += plain ? "]" : "]}";
        return;
      }
      case archive_kind::dict: {
        bool plain = true;
        for (archive_key const& k : v.keys()) plain = plain && !k.is_integer() && is_utf8(k.text()) && (k.text().empty() || k.text()[0] != '$');
        if (std::size_t const twice = find_duplicate(v.keys()); twice != static_cast<std::size_t>(-1))
          detail::throw_usage_error({"mortise: a checkpoint's dict has the key ", quoted_part(v.keys()[twice].to_string()), " twice"});
        if (!plain) tag("$dict");
        json += plain ? '{' : '[';
        for (std::size_t i = 0; i != v.size(); ++i) {
          archive_key const& k = v.keys()[i];
          if (i != 0) json += ',';
          if (plain) {
            append_json(json, std::string_view{k.text()});
            json += ':';
          } else {
            json += '[';
            append(json, k.is_integer() ? archive_value{k.number()} : archive_value{k.text()}, {}, name, depth + 3);
            json += ',';
          }
          append(json, v[i], k.is_integer() ? std::string_view{} : std::string_view{k.text()}, name + '.' + k.to_string(), depth + 3);
          if (!plain) json += ']';
        }
        json += plain ? "}" : "]}";
        return;
      }
    }
  }
};
using checkpoint_writer = basic_checkpoint_writer<>;

template <class = void>
class basic_checkpoint_parser {
 public:
  explicit basic_checkpoint_parser(archive_contents const& c) : c_{c}, order_{positions_by_name(c.tensors)}, taken_(c.tensors.size(), false) {}

  std::string const* text(std::string_view key) const {
    for (auto const& [k, v] : c_.metadata)
      if (k == key) return &v;
    return nullptr;
  }
  bool taken(std::size_t i) const { return taken_[i]; }
  void take(std::size_t i) { taken_[i] = true; }

  archive_value tensor(std::size_t i) const {
    tensor_ref t;
    t.type = c_.tensors[i].type;
    t.shape = c_.tensors[i].shape;
    t.entry = i;
    return t;
  }

  MORTISE_COLD archive_value json(std::string_view key, std::string const& text) {
    std::string const where = source_name() + ": metadata " + in_quotes(key);
    return expand(parse_json(text, where), {}, where);
  }

  [[noreturn]] MORTISE_COLD void fail(std::string_view key, message_parts reason) const {
    detail::throw_archive_error(source_name(), archive_error::no_offset, {"metadata ", quoted_part(key), ": ", message(reason)});
  }

 private:
  archive_contents const& c_;
  std::vector<std::uint32_t> order_;
  std::vector<bool> taken_;

  std::string source_name() const { return c_.sources.empty() ? "archive" : c_.sources[0].name(); }

  // Depth is bounded by the JSON parser's.
  MORTISE_COLD archive_value expand(archive_value v, std::string_view key, std::string const& where) {
    auto const bad = [&where](message_parts reason) { throw_archive_error(where, archive_error::no_offset, reason); };
    if (v.is_string()) {
      std::string const& s = v.as_string();
      if (s == "inf") return HUGE_VAL;
      if (s == "-inf") return -HUGE_VAL;
      if (s == "nan") return static_cast<double>(NAN);
      return v;
    }
    if (v.is_list()) {
      archive_value out = key == "betas" ? archive_value::tuple() : archive_value::list();
      for (archive_value& item : v.items()) out.push_back(expand(std::move(item), {}, where));
      return out;
    }
    if (!v.is_dict()) return v;
    if (v.size() == 1 && !v.keys()[0].text().empty() && v.keys()[0].text()[0] == '$') {
      std::string const tag = v.keys()[0].text();
      archive_value content = std::move(v[0]);
      if (tag == "$tuple" || tag == "$list") {
        if (!content.is_list()) bad({tag, " is no array"});
        archive_value out = tag == "$tuple" ? archive_value::tuple() : archive_value::list();
        for (archive_value& item : content.items()) out.push_back(expand(std::move(item), {}, where));
        return out;
      }
      if (tag == "$dict") {
        if (!content.is_list()) bad({"$dict is no array"});
        archive_value out = archive_value::dict();
        for (archive_value& pair : content.items()) {
          if (!pair.is_list() || pair.size() != 2) bad({"$dict holds something else than pairs"});
          archive_value k = expand(std::move(pair[0]), {}, where);
          if (!k.is_int() && !k.is_string()) bad({"a key in $dict is neither text nor an integer"});
          std::string const k_text = k.is_string() ? k.as_string() : std::string{};
          archive_value item = expand(std::move(pair[1]), k_text, where);
          if (k.is_int()) out.append(k.as_int(), std::move(item));
          else out.append(k_text, std::move(item));
        }
        if (find_duplicate(out.keys()) != static_cast<std::size_t>(-1)) bad({"a duplicate key in $dict"});
        return out;
      }
      if (!content.is_string()) bad({quoted_part(tag), " holds no string"});
      std::string const& s = content.as_string();
      if (tag == "$string") return s;
      if (tag == "$bytes" || tag == "$raw_string") {
        std::string raw;
        bool ok = s.size() % 2 == 0;
        for (std::size_t i = 0; ok && i < s.size(); i += 2) {
          unsigned byte = 0;
          ok = std::from_chars(s.data() + i, s.data() + i + 2, byte, 16).ptr == s.data() + i + 2;
          raw += static_cast<char>(static_cast<unsigned char>(byte));
        }
        if (!ok) bad({tag, " is no hexadecimal text"});
        return tag == "$bytes" ? archive_value::bytes(std::move(raw)) : archive_value{std::move(raw)};
      }
      if (tag == "$absent") return archive_value::bytes("$absent");
      if (tag != "$tensor") bad({"unknown tag ", quoted_part(tag)});
      std::size_t const at = find_by_name(c_.tensors, order_, s);
      if (at == no_entry) bad({"names a tensor that the file does not hold: ", quoted_part(s)});
      taken_[order_[at]] = true;
      return tensor(order_[at]);
    }
    archive_value out = archive_value::dict();
    for (std::size_t i = 0; i != v.size(); ++i) out.append(v.keys()[i], expand(std::move(v[i]), v.keys()[i].text(), where));
    return out;
  }
};
using checkpoint_parser = basic_checkpoint_parser<>;

/// "optimizer.state.12.exp_avg" -> 12, "exp_avg".
template <class = void>
bool parse_state_name(std::string_view rest, std::int64_t& index, std::string_view& slot) {
  auto const [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  auto const digits = static_cast<std::size_t>(end - rest.data());
  if (status != std::errc{} || digits + 1 >= rest.size() || rest[digits] != '.' || (digits > 1 && rest[0] == '0') || index < 0) return false;
  slot = rest.substr(digits + 1);
  return true;
}

}  // namespace detail

template <class>
flat_archive flatten_checkpoint(archive_value const& tree) {
  detail::checkpoint_writer w;
  w.add_text("format", "pt");
  bool const is_state_dict = detail::all_tensors(tree);
  if (is_state_dict) {
    for (std::size_t i = 0; i != tree.size(); ++i) w.add_tensor(tree.keys()[i].text(), tree[i].as_tensor());
  } else {
    bool named = tree.is_dict();
    if (named)
      for (archive_key const& k : tree.keys()) named = named && !k.is_integer() && detail::is_utf8(k.text());
    if (!named) {
      w.add_text("ckpt.version", std::to_string(checkpoint_version));
      w.regular_part_done();
      w.add_text("ckpt.tree", w.skeleton(tree, "tree"));
    } else {
      auto const has_tensors_only = [](archive_value const& v) { return v.size() != 0 && detail::all_tensors(v); };
      auto const is_regular_slot = [&](archive_key const& index, archive_value const& slots) {
        return index.is_integer() && index.number() >= 0 && has_tensors_only(slots) && !slots.contains("");
      };
      // First what has a place of its own, so that later names avoid it.
      std::vector<std::size_t> rest;
      for (std::size_t i = 0; i != tree.size(); ++i) {
        std::string const& key = tree.keys()[i].text();
        archive_value const& v = tree[i];
        if ((key == "model_state_dict" || key == "rng_state") && has_tensors_only(v)) {
          for (std::size_t k = 0; k != v.size(); ++k) w.add_tensor((key == "rng_state" ? "rng." : "model.") + v.keys()[k].text(), v[k].as_tensor());
        } else if (key == "metadata" && v.is_dict() && v.size() != 0) {
          bool text_only = true;
          for (std::size_t k = 0; k != v.size(); ++k)
            text_only = text_only && !v.keys()[k].is_integer() && v[k].is_string() && detail::is_utf8(v[k].as_string()) && detail::is_utf8(v.keys()[k].text());
          if (!text_only) rest.push_back(i);
          else
            for (std::size_t k = 0; k != v.size(); ++k) w.add_text("user." + v.keys()[k].text(), v[k].as_string());
        } else if (key == "format_version" && v.is_int()) {
          w.add_text("ckpt.version", std::to_string(v.as_int()));
        } else {
          rest.push_back(i);
          archive_value const* state = key == "optimizer_state_dict" ? v.find("state") : nullptr;
          if (state == nullptr || !state->is_dict()) continue;
          for (std::size_t k = 0; k != state->size(); ++k)
            if (is_regular_slot(state->keys()[k], (*state)[k])) {
              archive_value const& slots = (*state)[k];
              for (std::size_t s = 0; s != slots.size(); ++s)
                w.add_tensor("optimizer.state." + state->keys()[k].to_string() + "." + slots.keys()[s].text(), slots[s].as_tensor());
            }
        }
      }
      w.regular_part_done();
      if (archive_value const* version = tree.find("format_version"); version == nullptr || !version->is_int()) {
        w.add_text("ckpt.version", std::to_string(checkpoint_version));
        if (version == nullptr) w.add_text("ckpt.format_version", "{\"$absent\":\"\"}");
      }
      for (std::size_t const i : rest) {
        std::string const& key = tree.keys()[i].text();
        archive_value const& v = tree[i];
        if (key == "optimizer_state_dict" && v.is_dict()) {
          // Regular states are tensors by now; what is left of `state` (a plain integer step, None) goes into the text.
          archive_value text = archive_value::dict();
          archive_value left = archive_value::dict();
          archive_value const* state = v.find("state");
          for (std::size_t k = 0; k != v.size(); ++k)
            if (!(v.keys()[k] == archive_key{"state"})) text.append(v.keys()[k], v[k]);
          if (state == nullptr) text.append("state", "$absent");
          else if (!state->is_dict()) text.append("state", archive_value::list({*state}));
          else
            for (std::size_t k = 0; k != state->size(); ++k)
              if (!is_regular_slot(state->keys()[k], (*state)[k])) left.append(state->keys()[k], (*state)[k]);
          if (left.size() != 0) text.append("state", std::move(left));
          w.add_text("ckpt.optimizer", w.skeleton(text, "optimizer"));
        } else if (key == "scheduler_state_dict") {
          w.add_text("ckpt.scheduler", w.skeleton(v, "scheduler"));
        } else if (key == "scaler_state_dict") {
          w.add_text("ckpt.scaler", w.skeleton(v, "scaler"));
        } else if (key == "best_metric" && v.is_double()) {
          std::string text = w.skeleton(v, key);
          if (text[0] == '"') text = text.substr(1, text.size() - 2);  // inf, -inf, nan stand bare
          w.add_text("ckpt.best_metric", std::move(text));
        } else {
          w.add_text((detail::is_reserved_checkpoint_key(key) ? "ckpt.key." : "ckpt.") + key, w.skeleton(v, key));
        }
      }
    }
  }
  // Names must be text and different; tensors in the same memory are stored once.
  std::vector<named_tensor>& all = w.out.tensors;
  for (named_tensor const& t : all)
    if (!detail::is_utf8(t.name)) detail::throw_usage_error({"mortise: a tensor's name is no UTF-8: ", detail::quoted_part(t.name)});
  auto const by_name = [&all](std::uint32_t a, std::uint32_t b) { return all[a].name < all[b].name; };
  if (std::size_t const twice = detail::duplicate_position(all.size(), by_name); twice != static_cast<std::size_t>(-1))
    detail::throw_usage_error({"mortise: two tensors to save have the name ", detail::quoted_part(all[twice].name)});
  auto const by_memory = [&all](std::uint32_t a, std::uint32_t b) { return all[a].tensor.data < all[b].tensor.data; };
  std::vector<std::uint32_t> const order = detail::sorted_positions(all.size(), by_memory);
  std::vector<bool> drop(all.size(), false);
  for (std::size_t i = 1; i < order.size(); ++i)
    for (std::size_t j = i; j-- != 0 && all[order[j]].tensor.data == all[order[i]].tensor.data;) {
      tensor_ref const& kept = all[order[j]].tensor;
      tensor_ref const& t = all[order[i]].tensor;
      if (drop[order[j]] || t.data == nullptr || t.bytes() == 0 || kept.type != t.type || kept.shape != t.shape) continue;
      w.add_text("ckpt.alias." + all[order[i]].name, all[order[j]].name);
      drop[order[i]] = true;
      break;
    }
  std::size_t kept = 0;
  for (std::size_t i = 0; i != all.size(); ++i)
    if (!drop[i]) {
      if (kept != i) all[kept] = std::move(all[i]);
      ++kept;
    }
  all.erase(all.begin() + static_cast<std::ptrdiff_t>(kept), all.end());
  return std::move(w.out);
}

namespace detail {

template <class = void>
std::string hex8(std::uint32_t v) {
  std::string text(8, '0');
  for (std::size_t i = 0; i != 8; ++i, v >>= 4) text[7 - i] = "0123456789abcdef"[v & 15u];
  return text;
}

}  // namespace detail

template <class>
void add_checksums(flat_archive& archive) {
  for (named_tensor const& t : archive.tensors)
    archive.metadata.emplace_back("ckpt.checksum." + t.name,
                                  "crc32:" + detail::hex8(t.tensor.data == nullptr ? 0 : detail::crc32(0, t.tensor.data, t.tensor.bytes())));
}

template <class>
void resolve_checksums(archive_contents& c) {
  constexpr std::string_view prefix = "ckpt.checksum.";
  std::vector<std::uint32_t> order;
  for (auto const& pair : c.metadata) {
    std::string const& key = pair.first;
    std::string const& text = pair.second;
    if (key.compare(0, prefix.size(), prefix) != 0) continue;
    auto const fail = [&](detail::message_parts reason) {
      detail::throw_archive_error(c.sources.at(0).name(), archive_error::no_offset, {"metadata ", detail::quoted_part(key), ": ", detail::message(reason)});
    };
    if (order.empty()) order = detail::positions_by_name(c.tensors);
    std::string_view const name = std::string_view{key}.substr(prefix.size());
    std::size_t const at = detail::find_by_name(c.tensors, order, name);
    if (at == no_entry) fail({"there is no such tensor"});
    std::uint32_t crc = 0;
    bool const known = text.size() == 14 && text.compare(0, 6, "crc32:") == 0;
    if (!known || std::from_chars(text.data() + 6, text.data() + 14, crc, 16).ptr != text.data() + 14) fail({"no checksum of a known kind: ", detail::quoted_part(text)});
    tensor_place& place = c.places[order[at]];
    place.record = static_cast<std::uint32_t>(c.records.size());
    c.records.push_back({"tensor " + detail::in_quotes(name), place.offset, c.tensors[order[at]].bytes(), place.source, crc, true, false, 0});
  }
}

template <class>
void resolve_aliases(archive_contents& c) {
  std::string const file = c.sources.empty() ? "archive" : c.sources[0].name();
  auto const fail = [&file](std::string const& key, detail::message_parts reason) {
    detail::throw_archive_error(file, archive_error::no_offset, {"metadata ", detail::quoted_part(key), ": ", detail::message(reason)});
  };
  constexpr std::string_view prefix = "ckpt.alias.";
  std::vector<std::uint32_t> order;
  for (auto const& [key, text] : c.metadata) {
    if (key == "ckpt.version") {
      std::int64_t version = 0;
      auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), version);
      if (status != std::errc{} || end != text.data() + text.size() || version < 1) fail(key, {"no version number: ", detail::quoted_part(text)});
      if (version > checkpoint_version)
        fail(key, {"the checkpoint has version ", version, ", this library reads up to ", checkpoint_version, "; it was written by a newer mortise"});
    }
    if (key.size() < prefix.size() || std::string_view{key}.substr(0, prefix.size()) != prefix) continue;
    if (order.empty()) order = detail::positions_by_name(c.tensors);  // of what is stored: aliases come behind
    std::string const name = key.substr(prefix.size());
    std::size_t const target = detail::find_by_name(c.tensors, order, text);
    if (target == no_entry) fail(key, {"names a tensor that the file does not hold: ", detail::quoted_part(text)});
    if (detail::find_by_name(c.tensors, order, name) != no_entry) fail(key, {"is also a stored tensor"});
    tensor_info copy = c.tensors[order[target]];
    copy.name = name;
    c.tensors.push_back(std::move(copy));
    c.places.push_back(tensor_place{c.places[order[target]]});
  }
}

template <class>
archive_value unflatten_checkpoint(archive_contents const& c) {
  detail::checkpoint_parser p{c};
  std::string const* version = p.text("ckpt.version");
  archive_value tree = archive_value::dict();
  if (version == nullptr) {
    for (std::size_t i = 0; i != c.tensors.size(); ++i) tree.append(c.tensors[i].name, p.tensor(i));
    return tree;
  }
  if (std::string const* whole = p.text("ckpt.tree")) return p.json("ckpt.tree", *whole);

  // Text first: it says which tensors belong to it.
  archive_value user = archive_value::dict();
  archive_value optimizer;
  std::vector<std::pair<std::string, archive_value>> others;
  bool has_version = true;
  for (auto const& [key, text] : c.metadata) {
    if (key.rfind("user.", 0) == 0) user.append(key.substr(5), text);
    if (key.rfind("ckpt.", 0) != 0) continue;
    std::string name = key.substr(5);
    if (name == "optimizer") optimizer = p.json(key, text);
    else if (name == "scheduler") others.emplace_back("scheduler_state_dict", p.json(key, text));
    else if (name == "scaler") others.emplace_back("scaler_state_dict", p.json(key, text));
    else if (name == "best_metric" && detail::is_special_float_text(text)) others.emplace_back(name, p.json(key, '"' + text + '"'));
    else if (name == "format_version") {
      archive_value v = p.json(key, text);
      if (v.is_bytes()) has_version = false;
      else others.emplace_back(name, std::move(v));
    } else if (name.rfind("key.", 0) == 0) others.emplace_back(name.substr(4), p.json(key, text));
    else if (!detail::is_reserved_checkpoint_key(name)) others.emplace_back(name, p.json(key, text));
  }

  archive_value model = archive_value::dict();
  archive_value rng = archive_value::dict();
  archive_value loose = archive_value::dict();
  struct slot_entry {
    std::int64_t index;
    std::string_view slot;
    std::size_t tensor;
  };
  std::vector<slot_entry> slots;
  for (std::size_t i = 0; i != c.tensors.size(); ++i) {
    if (p.taken(i)) continue;
    std::string_view const name = c.tensors[i].name;
    slot_entry entry{0, {}, i};
    if (name.substr(0, 6) == "model.") model.append(name.substr(6), p.tensor(i));
    else if (name.substr(0, 4) == "rng.") rng.append(name.substr(4), p.tensor(i));
    else if (name.substr(0, 16) == "optimizer.state." && detail::parse_state_name(name.substr(16), entry.index, entry.slot)) slots.push_back(entry);
    else loose.append(name, p.tensor(i));
  }
  auto const before = [&slots](std::uint32_t a, std::uint32_t b) {
    return slots[a].index != slots[b].index ? slots[a].index < slots[b].index : slots[a].slot < slots[b].slot;
  };
  detail::reorder(slots, detail::sorted_positions(slots.size(), before));

  if (model.size() != 0) tree.append("model_state_dict", std::move(model));
  if (optimizer.is_dict() || !slots.empty()) {
    archive_value text = optimizer.is_dict() ? std::move(optimizer) : archive_value::dict();
    archive_value left = text.take("state");
    archive_value state = archive_value::dict();
    for (std::size_t i = 0; i != slots.size();) {
      archive_value one = archive_value::dict();
      std::int64_t const index = slots[i].index;
      for (; i != slots.size() && slots[i].index == index; ++i) one.append(slots[i].slot, p.tensor(slots[i].tensor));
      state.append(index, std::move(one));
    }
    archive_value out = archive_value::dict();
    if (left.is_list() && left.size() == 1) out.append("state", std::move(left[0]));
    else if (!left.is_string()) {
      if (left.is_dict())
        for (std::size_t i = 0; i != left.size(); ++i) {
          if (state.contains(left.keys()[i])) p.fail("ckpt.optimizer", {"the state of parameter ", left.keys()[i].to_string(), " stands twice"});
          state.append(left.keys()[i], std::move(left[i]));
        }
      else if (!left.is_none()) p.fail("ckpt.optimizer", {"\"state\" is no object"});
      out.append("state", std::move(state));
    }
    for (std::size_t i = 0; i != text.size(); ++i) out.append(text.keys()[i], std::move(text[i]));
    tree.append("optimizer_state_dict", std::move(out));
  } else if (!optimizer.is_none()) {
    p.fail("ckpt.optimizer", {"is no object"});
  }
  if (rng.size() != 0) tree.append("rng_state", std::move(rng));
  for (auto& [key, value] : others) tree.append(std::move(key), std::move(value));
  if (user.size() != 0) tree.append("metadata", std::move(user));
  for (std::size_t i = 0; i != loose.size(); ++i) tree.append(loose.keys()[i], std::move(loose[i]));
  if (has_version && !tree.contains("format_version")) {
    std::int64_t number = 0;
    std::from_chars(version->data(), version->data() + version->size(), number);
    tree.append("format_version", number);
  }
  if (std::size_t const twice = detail::find_duplicate(tree.keys()); twice != static_cast<std::size_t>(-1))
    detail::throw_archive_error(c.sources.empty() ? "archive" : c.sources[0].name(), archive_error::no_offset, {detail::quoted_part(tree.keys()[twice].to_string()), " is told twice, by metadata and by tensors"});
  return tree;
}

}  // namespace mortise
