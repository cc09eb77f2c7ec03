// Saving a tree: format by extension or by type, atomic and durable.
//
//   void save_archive(std::string const& path, archive_value const& tree, save_options = {})        format by extension
//   void save_archive<mt::safetensors>(path, tree, options)                                         format by type
//   void save_archive<mt::safetensors>(byte_sink& out, tree, options)                               memory_sink, stream_sink
//   std::vector<std::byte> archive_bytes<mt::safetensors>(tree, options)
//
//   .safetensors -> safetensors;  .pt .pth .bin .ckpt -> torch_zip;  .npz -> npz
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mortise/archive/file.hpp>
#include <mortise/archive/npz.hpp>
#include <mortise/archive/safetensors.hpp>
#include <mortise/archive/torch.hpp>
#include <mortise/archive/value.hpp>

namespace mortise {

struct save_options {
  bool durable = true;          ///< false: atomic, but not forced to the disk
  archive_metadata metadata{};  ///< further text beside the tensors (safetensors' __metadata__)
  bool checksums = false;       ///< safetensors: a CRC-32 of each tensor, verified on load and ignored by other readers; torch_zip and npz have one
  bool mappable = false;        ///< safetensors: tensors in the order in which they lie in memory, aligned; see load_options::adopt
};

template <class Format>
void save_archive(byte_sink& out, archive_value const& tree, save_options const& options = {}) {
  if constexpr (requires { Format::write(tree, out, options.metadata, true, true); })
    Format::write(tree, out, options.metadata, options.checksums, options.mappable);
  else if (options.mappable) detail::throw_usage_error({"mortise::save: .mappable files are safetensors; name them so, or leave .mappable out"});
  else Format::write(tree, out, options.metadata);
}

namespace detail {

template <class = void>
bool ends_with(std::string_view text, std::string_view end) { return text.size() > end.size() && text.substr(text.size() - end.size()) == end; }

}  // namespace detail

/// Without a format, the extension of `path` names it. On failure (io_error, usage_error) what `path` was is untouched.
template <class Format = void>
void save_archive(std::string const& path, archive_value const& tree, save_options const& options = {}) {
  if constexpr (std::is_void_v<Format>) {
    if (detail::ends_with(path, ".safetensors")) return save_archive<safetensors>(path, tree, options);
    for (std::string_view extension : {".pt", ".pth", ".bin", ".ckpt", ".pth.tar"})
      if (detail::ends_with(path, extension)) return save_archive<torch_zip>(path, tree, options);
    if (detail::ends_with(path, ".npz")) return save_archive<npz>(path, tree, options);
    detail::throw_usage_error({path, ": the extension names no format to save in; use .safetensors, .pt, .pth, .bin, .ckpt or .npz, or name the format"});
  } else {
    atomic_file_writer out{path, options.durable};
    save_archive<Format>(static_cast<byte_sink&>(out), tree, options);
    out.commit();
  }
}

template <class Format>
std::vector<std::byte> archive_bytes(archive_value const& tree, save_options const& options = {}) {
  memory_sink out;
  save_archive<Format>(static_cast<byte_sink&>(out), tree, options);
  return out.take();
}

}  // namespace mortise
