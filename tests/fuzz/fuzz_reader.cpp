// libFuzzer targets for the readers, in one program since compiling it takes a minute: the environment's MORTISE_FUZZ_READER says which
// one gets the bytes. Built with clang and -fsanitize=fuzzer.
//   any (by content), safetensors, torch_zip, torch_legacy, npy, npz, json, pickle, inflate
// An archive_error is the answer to bad bytes; everything else (another exception, a sanitizer's report, a hang, memory) is a finding.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

namespace mt = mortise;

namespace {

/// Everything that a caller may do with an open file.
void use(mt::archive_reader const& in, std::size_t size) {
  for (std::size_t i = 0; i != in.tensors().size() && i != 64; ++i) {
    if (in.tensors()[i].bytes() > 4 * size + 4096) continue;
    try {
      (void)in.read_entry(i);
      (void)in.mapped_entry(i);
    } catch (mt::archive_error const&) {  // a checksum
    }
  }
  (void)in.values();
  (void)in.tree();
  in.verify();
}

mt::archive_contents parse(std::string_view reader, mt::byte_source const& source) {
  if (reader == "safetensors") return mt::safetensors::parse(source);
  if (reader == "torch_legacy") return mt::torch_legacy::parse(source);
  if (reader == "npy") return mt::npy::parse(source);
  if (reader == "torch_zip") return mt::torch_zip::parse(mt::detail::zip_reader{source});
  if (reader == "npz") return mt::npz::parse(mt::detail::zip_reader{source});
  return mt::detail::parse_archive(source, true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  static std::string const reader = std::getenv("MORTISE_FUZZ_READER") == nullptr ? "any" : std::getenv("MORTISE_FUZZ_READER");
  std::string_view const text{reinterpret_cast<char const*>(data), size};
  try {
    if (reader == "json") {
      mt::archive_value const v = mt::parse_json(text, "fuzz");
      (void)mt::to_string(v);
    } else if (reader == "pickle") {
      mt::detail::unpickler p{text, "fuzz", 0, 3 * size + 65536, 5};
      p.run();
      std::vector<mt::tensor_info> infos;
      std::vector<std::uint32_t> origin;
      (void)mt::to_string(p.to_tree(infos, origin));
    } else if (reader == "inflate") {
      std::vector<std::byte> out(size < 2 ? 0 : std::size_t{data[0]} * 256 + data[1]);
      mt::detail::inflater in{{reinterpret_cast<std::byte const*>(data), size}, out};
      (void)in.run();
    } else {
      use(mt::archive_reader{parse(reader, mt::byte_source::view({reinterpret_cast<std::byte const*>(data), size}, "fuzz"))}, size);
    }
  } catch (mt::archive_error const&) {
  }
  return 0;
}
