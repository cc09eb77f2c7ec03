// Tells what is in a checkpoint, whoever wrote it: mortise, PyTorch, safetensors, numpy. Or what two of them differ in.
//
//   mortise_inspect FILE               kind of file, tensors with element type, shape, range and NaN count, values, checksums
//   mortise_inspect --diff A B         names, types, shapes and values that differ; exit status 1 if any does
//
// Nothing in a file is executed. Exit status 2: a file that cannot be read, with the reason.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <mortise/archive/reader.hpp>
#include <mortise/tensor/float16.hpp>

namespace mt = mortise;

namespace {

template <class T>
double element(std::byte const* at) {
  T v;
  std::memcpy(&v, at, sizeof v);
  if constexpr (std::is_same_v<T, mt::f16> || std::is_same_v<T, mt::bf16>) return static_cast<double>(static_cast<float>(v));
  else return static_cast<double>(v);
}

/// Element i as a double; null for types that have no order (complex) or are read by nobody here (8 bits and fewer).
double (*reader_of(mt::element_type type))(std::byte const*) {
  switch (type) {
    case mt::element_type::f16: return element<mt::f16>;
    case mt::element_type::bf16: return element<mt::bf16>;
    case mt::element_type::f32: return element<float>;
    case mt::element_type::f64: return element<double>;
    case mt::element_type::boolean:
    case mt::element_type::u8: return element<std::uint8_t>;
    case mt::element_type::i8: return element<std::int8_t>;
    case mt::element_type::u16: return element<std::uint16_t>;
    case mt::element_type::i16: return element<std::int16_t>;
    case mt::element_type::u32: return element<std::uint32_t>;
    case mt::element_type::i32: return element<std::int32_t>;
    case mt::element_type::u64: return element<std::uint64_t>;
    case mt::element_type::i64: return element<std::int64_t>;
    default: return nullptr;
  }
}

std::string number(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}

/// "[-0.5, 0.5], 2 NaN"
std::string range_text(mt::tensor_info const& t, std::vector<std::byte> const& bytes) {
  auto* const read = reader_of(t.type);
  if (read == nullptr) return "";
  if (t.count() == 0) return "empty";
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  std::size_t nan = 0;
  std::size_t const width = mt::bits_of(t.type) / 8;
  for (std::size_t i = 0; i != t.count(); ++i) {
    double const v = read(bytes.data() + i * width);
    if (v != v) ++nan;
    else low = std::min(low, v), high = std::max(high, v);
  }
  std::string text = nan == t.count() ? "[]" : "[" + number(low) + ", " + number(high) + "]";
  if (nan != 0) text += ", " + std::to_string(nan) + " NaN";
  return text;
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

/// A name out of a file may hold anything; a terminal gets letters.
std::string printable(std::string const& name) {
  std::string const quoted = mt::detail::in_quotes(name, 200);
  return quoted.substr(1, quoted.size() - 2);
}

void show(std::string const& path) {
  mt::archive_reader const in = mt::open_archive(path);
  auto const& tensors = in.tensors();
  std::size_t checked = 0;
  std::uint64_t bytes = 0;
  std::size_t width = 4;
  for (std::size_t i = 0; i != tensors.size(); ++i) {
    checked += in.has_checksum(i) ? 1 : 0;
    bytes += tensors[i].bytes();
    width = std::max(width, std::min<std::size_t>(printable(tensors[i].name).size(), 60));
  }
  std::cout << in.name() << ": " << in.format() << ", " << tensors.size() << " tensors, " << bytes << " bytes of them";
  in.verify();
  if (checked == 0) std::cout << ", no checksums\n\n";
  else std::cout << ", " << checked << " with a checksum, all right\n\n";
  for (std::size_t i = 0; i != tensors.size(); ++i) {
    mt::tensor_info const& t = tensors[i];
    std::cout << padded(printable(t.name), width) << "  " << padded(std::string{mt::name_of(t.type)}, 8) << "  " << padded(mt::shape_text(t.shape), 18) << "  "
              << range_text(t, in.read_entry(i)) << '\n';
  }
  auto const values = in.values();
  if (!values.empty()) std::cout << '\n';
  for (auto const& [name, value] : values)
    if (name.rfind("ckpt.checksum.", 0) != 0) std::cout << printable(name) << " = " << mt::to_string(value, 200) << '\n';
}

/// What two tensors of one name differ in; empty when they are the same.
std::string difference(mt::tensor_info const& ta, std::vector<std::byte> const& a, mt::tensor_info const& tb, std::vector<std::byte> const& b) {
  if (ta.type != tb.type || ta.shape != tb.shape) return mt::tensor_text(ta.type, ta.shape) + " against " + mt::tensor_text(tb.type, tb.shape);
  if (a == b) return "";
  auto* const read = reader_of(ta.type);
  if (read == nullptr) return "bytes differ";
  std::size_t const width = mt::bits_of(ta.type) / 8;
  std::size_t different = 0;
  double most = 0;
  for (std::size_t i = 0; i != ta.count(); ++i) {
    double const x = read(a.data() + i * width);
    double const y = read(b.data() + i * width);
    if (std::memcmp(a.data() + i * width, b.data() + i * width, width) == 0) continue;
    ++different;
    if (std::abs(x - y) > most) most = std::abs(x - y);
  }
  return std::to_string(different) + " of " + std::to_string(ta.count()) + " elements differ, by " + number(most) + " at most";
}

/// The number of differences.
std::size_t compare(std::string const& path_a, std::string const& path_b) {
  mt::archive_reader const a = mt::open_archive(path_a);
  mt::archive_reader const b = mt::open_archive(path_b);
  std::size_t differences = 0;
  auto const tell = [&](std::string const& name, std::string const& what) {
    if (what.empty()) return;
    ++differences;
    std::cout << printable(name) << ": " << what << '\n';
  };
  for (std::size_t i = 0; i != a.tensors().size(); ++i) {
    std::string const& name = a.tensors()[i].name;
    std::size_t const k = b.position(name);
    if (k == mt::no_entry) tell(name, "only in " + path_a);
    else tell(name, difference(a.tensors()[i], a.read_entry(i), b.tensors()[k], b.read_entry(k)));
  }
  for (mt::tensor_info const& t : b.tensors())
    if (!a.contains(t.name)) tell(t.name, "only in " + path_b);
  for (auto const& [name, value] : a.values()) {
    if (name.rfind("ckpt.checksum.", 0) == 0) continue;
    if (!b.has_value(name)) tell(name, "only in " + path_a);
    else if (mt::archive_value const other = b.value(name); !(other == value)) tell(name, mt::to_string(value, 100) + " against " + mt::to_string(other, 100));
  }
  for (auto const& [name, value] : b.values())
    if (name.rfind("ckpt.checksum.", 0) != 0 && !a.has_value(name)) tell(name, "only in " + path_b);
  if (differences == 0) std::cout << "no difference\n";
  return differences;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Tells what is in a checkpoint, or what two of them differ in."};
  std::vector<std::string> files;
  bool diff = false;
  app.add_option("FILE", files, "the file; with --diff, two of them")->required()->expected(1, 2);
  app.add_flag("--diff", diff, "what two files differ in: names, types, shapes, values; exit status 1 if anything does");
  CLI11_PARSE(app, argc, argv);
  if (files.size() != (diff ? 2u : 1u)) {
    std::cerr << "mortise_inspect: one FILE, or --diff A B\n";
    return 2;
  }
  try {
    if (diff) return compare(files[0], files[1]) == 0 ? 0 : 1;
    show(files[0]);
  } catch (std::exception const& e) {
    std::cerr << e.what() << '\n';
    return 2;
  }
  return 0;
}
