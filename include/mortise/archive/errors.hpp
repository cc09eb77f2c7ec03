// What can go wrong between a file and a model, each as a type that carries the facts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mortise/archive/detail/text.hpp>
#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/tensor/element_type.hpp>

namespace mortise {

/// A file's content is malformed, or holds what a data-only reader refuses. `what()`: file, place, reason.
struct archive_error : error {
  static constexpr std::uint64_t no_offset = static_cast<std::uint64_t>(-1);

  /// offset: bytes from the start of the file, or `no_offset` when the place is a name and stands in the reason.
  archive_error(std::string_view file_name, std::uint64_t at, std::string_view why)
      : error{at == no_offset ? detail::message({file_name, ": ", why}) : detail::message({file_name, ": at byte ", at, ": ", why})},
        file{file_name}, offset{at}, reason{why} {}

  std::string file;
  std::uint64_t offset;
  std::string reason;
};

/// The operating system refused: open, read, write, fsync, rename, ... with its errno.
struct io_error : error {
  io_error(std::string_view file_name, std::string_view what_was_done, int error_number)
      : error{detail::message({file_name, ": ", what_was_done, ": ", std::strerror(error_number)})},
        path{file_name}, operation{what_was_done}, code{error_number} {}

  std::string path;
  std::string operation;
  int code;  ///< errno
};

namespace detail {

template <class = void>
[[noreturn]] MORTISE_COLD void throw_archive_error(std::string_view file, std::uint64_t at, message_parts reason) {
  throw archive_error{file, at, message(reason)};
}
template <class = void>
[[noreturn]] MORTISE_COLD void throw_usage_error(message_parts reason) {
  throw usage_error{message(reason)};
}

}  // namespace detail

/// One tensor of an archive, without its data.
struct tensor_info {
  std::string name;
  element_type type = element_type::f32;
  std::vector<std::size_t> shape{};
  std::vector<std::size_t> strides{};  ///< in elements; empty: packed row-major
  std::size_t storage_offset = 0;      ///< in elements, within its storage (torch formats)

  std::size_t count() const {
    std::size_t n = 1;
    for (std::size_t extent : shape) n *= extent;
    return n;
  }
  /// Bytes of the packed elements, as `archive_reader::read` gives them.
  std::size_t bytes() const { return (count() * bits_of(type) + 7) / 8; }
};

/// "(16, 1, 3, 3)", as PyTorch prints a shape.
template <class Shape>
std::string shape_text(Shape const& shape) {
  std::string text = "(";
  std::size_t rank = 0;
  for (auto extent : shape) text += (rank++ ? ", " : "") + std::to_string(extent);
  return text + (rank == 1 ? ",)" : ")");
}

/// "float32 (16, 1, 3, 3)".
template <class Shape>
std::string tensor_text(element_type type, Shape const& shape) {
  return std::string{name_of(type)} + ' ' + shape_text(shape);
}

/// A name that both sides know, with different shapes or types.
struct load_mismatch {
  std::string name;
  std::string expected;  ///< the model's type and shape: "float32 (10, 84)"
  std::string found;     ///< the file's

  /// All lists of a report are lists of names.
  operator std::string const&() const { return name; }
  friend bool operator==(load_mismatch const& m, std::string_view other) { return m.name == other; }
  friend std::ostream& operator<<(std::ostream& out, load_mismatch const& m) { return out << m.name; }
};

/// What a load did, by name.
struct load_report {
  std::vector<std::string> loaded{};
  std::vector<std::string> missing{};     ///< the model has it, the file has not
  std::vector<std::string> unexpected{};  ///< the file has it, the model has not
  std::vector<load_mismatch> mismatched{};
  bool adopted = false;       ///< load_options::adopt: the model's parameters are the mapped file's pages
  std::string not_adopted{};  ///< why they had to be copied instead
  std::string advice{};  ///< what would make them match, when that can be told: "all 62 names match after removing `module.`; pass ..."

  bool complete() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
};

namespace detail {

inline void append_names(std::string& text, std::string_view title, std::vector<std::string> const& names) {
  constexpr std::size_t shown = 12;
  if (names.empty()) return;
  text += "\n  ";
  text += title;
  text += " (" + std::to_string(names.size()) + "):";
  for (std::size_t i = 0; i != names.size() && i != shown; ++i) text += (i ? ", " : " ") + names[i].substr(0, 200);
  if (names.size() > shown) text += ", ...";
}

inline void append_differences(std::string& text, load_report const& report) {
  append_names(text, "missing in the file", report.missing);
  append_names(text, "unexpected in the file", report.unexpected);
  std::vector<std::string> mismatched;
  mismatched.reserve(report.mismatched.size());
  for (load_mismatch const& m : report.mismatched) mismatched.push_back(m.name + " (file " + m.found + ", model " + m.expected + ")");
  append_names(text, "mismatched", mismatched);
}

inline std::string load_error_text(std::string_view file, std::string_view reason, load_report const& report) {
  std::string text{file};
  text += ": ";
  text += reason;
  append_differences(text, report);
  return text;
}

}  // namespace detail

/// What was loaded and what was not, by name, a line for each kind.
inline std::string to_string(load_report const& report) {
  std::string text;
  detail::append_names(text, "loaded", report.loaded);
  detail::append_differences(text, report);
  if (!report.advice.empty()) text += "\n  " + report.advice;
  return text.empty() ? "nothing to load" : text.substr(3);
}

/// The file is sound, but is not this model's. Lists everything at once; nothing has been loaded.
struct load_error : error {
  load_error(std::string_view file_name, std::string_view reason, load_report found = {})
      : error{detail::load_error_text(file_name, reason, found)}, file{file_name}, report{std::move(found)} {}

  std::string file;
  load_report report;
};

}  // namespace mortise
