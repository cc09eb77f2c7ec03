// Checkpoints in several files, as Hugging Face lays them out: NAME-00001-of-00003.safetensors beside NAME.safetensors.index.json.
//
// The index is {"metadata": {"total_size": bytes, text...}, "weight_map": {tensor name: file name}}. Read: shards of any format that is a
// plain state_dict; a shard's tensor that the index does not name is refused, as is one that the index says to be elsewhere. Written:
// safetensors. The text of a checkpoint stands in the index; all files of one save carry the same `ckpt.shards`, so that files of two saves
// never pass for one.
// Source: huggingface_hub, serialization/_base.py and _torch.py (split_torch_state_dict_into_shards).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/checkpoint_layout.hpp>
#include <mortise/archive/contents.hpp>
#include <mortise/archive/detail/crc32.hpp>
#include <mortise/archive/file.hpp>
#include <mortise/archive/json.hpp>
#include <mortise/archive/safetensors.hpp>
#include <mortise/config.hpp>

namespace mortise {

/// The layout in several files, as a policy. A tensor is never cut: one that is larger has a file of its own.
struct sharded {
  std::uint64_t max_bytes = 5'000'000'000;  ///< of tensors in a file; Hugging Face's default
};

namespace detail {

inline constexpr std::string_view index_ending = ".index.json";
inline constexpr std::string_view shards_key = "ckpt.shards";

/// A file name in the index's own folder: no path, no drive, nothing hidden.
template <class = void>
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name[0] != '.' && name.find_first_of(std::string_view{"/\\:\0", 4}) == std::string_view::npos &&
         find_invalid_utf8(name) == std::string_view::npos;
}

/// open(path) gives a shard's contents. archive_error: the index is malformed or does not fit the shards.
template <class Open>
MORTISE_COLD archive_contents parse_index(byte_source const& file, Open const& open) {
  auto const fail = [&file](message_parts reason) { throw_archive_error(file.name(), archive_error::no_offset, reason); };
  if (file.size() > safetensors::max_header) fail({"an index of ", file.size(), " bytes; more than 100000000 are not read"});
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());

  archive_contents all;
  struct entry {
    std::string name;
    std::string file;
    std::uint32_t shard = 0;
    bool found = false;
  };
  std::vector<entry> entries;
  std::vector<std::string> shards;
  std::string id;
  bool has_map = false;
  bool has_metadata = false;
  json_cursor in{text, file.name()};
  std::string key;
  std::string value;
  if (in.peek() != '{') in.fail("an index begins with '{'");
  in.expect('{');
  for (bool first = true; in.next_key(first, key);) {
    if (key == "metadata") {
      if (std::exchange(has_metadata, true)) in.fail("duplicate key \"metadata\"");
      if (in.peek() != '{') in.fail("\"metadata\" is no object");
      in.expect('{');
      for (bool none = true; in.next_key(none, key);) {
        if (in.peek() != '"') {
          in.skip();
          continue;
        }
        in.string(value);
        if (key == shards_key) id = value;
        else all.metadata.emplace_back(key, value);
      }
    } else if (key == "weight_map") {
      if (std::exchange(has_map, true)) in.fail("duplicate key \"weight_map\"");
      if (in.peek() != '{') in.fail("\"weight_map\" is no object");
      in.expect('{');
      for (bool none = true; in.next_key(none, key);) {
        if (in.peek() != '"') in.fail({"the file of tensor ", quoted_part(key), " is no string"});
        in.string(value);
        if (!is_plain_file_name(value)) in.fail({"tensor ", quoted_part(key), " is said to be in ", quoted_part(value), ", which is no plain file name in the index's folder"});
        // Sorted: an index may name 10000 shards in turn.
        std::size_t const at = find_sorted(shards, value);
        if (at == shards.size() || shards[at] != value) {
          if (shards.size() == 10'000) in.fail("more than 10000 shards");
          shards.insert(shards.begin() + static_cast<std::ptrdiff_t>(at), value);
        }
        entries.push_back({key, value});
      }
    } else {
      in.skip();
    }
  }
  in.end();
  if (!has_map) fail({"this JSON text is no index of shards: it has no \"weight_map\""});
  if (entries.empty()) fail({"the index names no tensor"});
  for (entry& e : entries) e.shard = static_cast<std::uint32_t>(find_sorted(shards, e.file));
  auto const before = [&entries](std::uint32_t a, std::uint32_t b) { return entries[a].name < entries[b].name; };
  reorder(entries, sorted_positions(entries.size(), before));
  for (std::size_t i = 1; i < entries.size(); ++i)
    if (entries[i].name == entries[i - 1].name) fail({"the index names tensor ", quoted_part(entries[i].name), " twice"});
  std::vector<std::string_view> keys;
  for (auto const& [k, v] : all.metadata) keys.push_back(k);
  if (std::size_t const twice = find_duplicate(keys); twice != static_cast<std::size_t>(-1)) fail({"duplicate key ", quoted_part(keys[twice]), " in the index's metadata"});

  all.sources.push_back(file);
  std::string const folder = directory_of(file.name()) + "/";
  for (std::uint32_t s = 0; s != shards.size(); ++s) {
    archive_contents part = open(folder + shards[s]);
    std::string const& shard = part.sources.at(0).name();
    auto const refuse = [&shard](message_parts reason) { throw_archive_error(shard, archive_error::no_offset, reason); };
    if (part.has_tree && !all_tensors(part.tree)) refuse({"this shard holds more than a state_dict"});
    all.has_tree = all.has_tree || part.has_tree;
    if (all.format.empty()) all.format = part.format;
    std::string its_id;
    for (auto& [k, v] : part.metadata) {
      if (k == shards_key) its_id = v;
      else if (k.rfind("ckpt.checksum.", 0) != 0) all.metadata.emplace_back(std::move(k), std::move(v));
    }
    if (its_id != id) refuse({"this shard belongs to another save than its index ", quoted_part(file.name(), 200)});
    auto const source_base = static_cast<std::uint32_t>(all.sources.size());
    auto const record_base = static_cast<std::uint32_t>(all.records.size());
    for (archive_record& r : part.records) {
      r.source += source_base;
      all.records.push_back(std::move(r));
    }
    for (std::size_t i = 0; i != part.tensors.size(); ++i) {
      std::string const& name = part.tensors[i].name;
      std::size_t const place_of_name = first_not_less(entries.size(), [&](std::size_t k) { return entries[k].name < name; });
      entry* const at = place_of_name == entries.size() ? nullptr : &entries[place_of_name];
      if (at == nullptr || at->name != name) refuse({"this shard holds tensor ", quoted_part(name), ", which the index does not name"});
      if (at->shard != s) refuse({"this shard holds tensor ", quoted_part(name), ", which the index says to be in ", quoted_part(shards[at->shard])});
      at->found = true;
      tensor_place place = part.places[i];
      place.source += source_base;
      if (place.record < part.records.size()) place.record += record_base;
      all.tensors.push_back(std::move(part.tensors[i]));
      all.places.push_back(place);
    }
    for (byte_source& source : part.sources) all.sources.push_back(std::move(source));
  }
  for (entry const& e : entries)
    if (!e.found) fail({"tensor ", quoted_part(e.name), " is missing in ", quoted_part(shards[e.shard]), ", where the index says it is"});
  // What several shards say is kept once; the index has the first word.
  sort_metadata(all.metadata, true);
  archive_metadata once;
  for (auto& pair : all.metadata)
    if (once.empty() || once.back().first != pair.first) once.push_back(std::move(pair));
  all.metadata = std::move(once);
  if (all.has_tree) {
    all.tree = archive_value::dict();
    for (std::size_t i = 0; i != all.tensors.size(); ++i) {
      tensor_ref ref;
      ref.type = all.tensors[i].type;
      ref.shape = all.tensors[i].shape;
      ref.entry = i;
      all.tree.append(all.tensors[i].name, std::move(ref));
    }
  } else {
    resolve_aliases(all);
  }
  return all;
}

/// "model-00002-of-00003.safetensors"
template <class = void>
std::string shard_name(std::string const& stem, std::size_t number, std::size_t count) {
  auto const five = [](std::size_t n) {
    std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return stem + "-" + five(number) + "-of-" + five(count) + ".safetensors";
}

/// `path`: the index's, or the name that a single file would have. All shards and the index are complete on the disk before the first of
/// them takes its place; the index comes last. A file under the single name, of an earlier save, is removed then.
template <class Calls = posix_calls>
MORTISE_COLD void write_shards(std::string const& path, archive_value const& tree, sharded const& layout, bool checksums, bool durable,
                               archive_metadata const& extra) {
  std::string single = path;
  if (single.size() > index_ending.size() && std::string_view{single}.substr(single.size() - index_ending.size()) == index_ending)
    single.resize(single.size() - index_ending.size());
  std::string const index_path = single + std::string{index_ending};
  std::size_t const folder = single.rfind('/') == std::string::npos ? 0 : single.rfind('/') + 1;
  std::string stem = single.substr(folder);
  if (stem.size() > safetensors::extension.size() && std::string_view{stem}.substr(stem.size() - safetensors::extension.size()) == safetensors::extension)
    stem.resize(stem.size() - safetensors::extension.size());

  flat_archive flat = flatten_checkpoint(tree);
  flat.metadata.insert(flat.metadata.end(), extra.begin(), extra.end());
  if (flat.tensors.empty()) detail::throw_usage_error({"mortise: there is no tensor to save in shards"});
  std::vector<flat_archive> parts(1);
  std::vector<std::vector<std::string>> names(1);
  std::uint64_t total = 0;
  std::uint64_t in_part = 0;
  std::uint32_t id = 0;
  for (named_tensor& t : flat.tensors) {
    std::uint64_t const bytes = t.tensor.bytes();
    if (in_part != 0 && in_part + bytes > layout.max_bytes) {
      parts.emplace_back();
      names.emplace_back();
      in_part = 0;
    }
    in_part += bytes;
    total += bytes;
    std::uint32_t const crc = t.tensor.data == nullptr ? 0 : crc32(0, t.tensor.data, static_cast<std::size_t>(bytes));
    id = crc32(crc32(id, t.name.data(), t.name.size()), &crc, sizeof crc);
    if (checksums) parts.back().metadata.emplace_back("ckpt.checksum." + t.name, "crc32:" + hex8(crc));
    names.back().push_back(t.name);
    parts.back().tensors.push_back(std::move(t));
  }
  sort_metadata(flat.metadata);
  for (auto const& [k, v] : flat.metadata) id = crc32(crc32(id, k.data(), k.size()), v.data(), v.size());

  std::string index = "{\n  \"metadata\": {\n";
  auto const member = [&index](std::string_view name, std::string_view text) {
    index += "    ";
    append_json(index, name);
    index += ": ";
    append_json(index, text);
    index += ",\n";
  };
  flat.metadata.emplace_back(shards_key, hex8(id));
  for (auto const& [k, v] : flat.metadata) member(k, v);
  index += "    \"total_size\": " + std::to_string(total) + "\n  },\n  \"weight_map\": {\n";
  std::vector<std::pair<std::string, std::size_t>> map;
  for (std::size_t p = 0; p != parts.size(); ++p)
    for (std::string& name : names[p]) map.emplace_back(std::move(name), p + 1);
  auto const before = [&map](std::uint32_t a, std::uint32_t b) { return map[a].first < map[b].first; };
  bool is_first = true;
  for (std::uint32_t const i : sorted_positions(map.size(), before)) {
    index += std::exchange(is_first, false) ? "    " : ",\n    ";
    append_json(index, std::string_view{map[i].first});
    index += ": ";
    append_json(index, std::string_view{shard_name(stem, map[i].second, parts.size())});
  }
  index += "\n  }\n}\n";

  using writer = basic_atomic_file_writer<Calls>;
  std::vector<std::unique_ptr<writer>> files;
  for (std::size_t p = 0; p != parts.size(); ++p) {
    files.push_back(std::make_unique<writer>(single.substr(0, folder) + shard_name(stem, p + 1, parts.size()), durable));
    parts[p].metadata.emplace_back("format", "pt");
    parts[p].metadata.emplace_back(shards_key, hex8(id));
    safetensors::write(std::move(parts[p]), *files.back());
    files.back()->finish();
  }
  files.push_back(std::make_unique<writer>(index_path, durable));
  files.back()->write(index);
  files.back()->finish();
  for (auto& file : files) file->commit();
  Calls::unlink(single.c_str());
}

}  // namespace detail
}  // namespace mortise
