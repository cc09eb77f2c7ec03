// Scalars between objects and archives: one `describe` enumeration serves saving and loading.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/archive/errors.hpp>
#include <mortise/archive/value.hpp>

namespace mortise::detail {

/// A value as it is stored. Unsigned 64-bit numbers (seeds) are stored as the signed number with the same bits.
template <class T>
archive_value to_archive(T const& v) {
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::string>) {
    return v;
  } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    return static_cast<std::int64_t>(v);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(v);
  } else {
    // Arrays are Python tuples (betas), vectors lists.
    archive_value items = std::is_same_v<T, std::vector<typename T::value_type>> ? archive_value::list() : archive_value::tuple();
    for (auto const& item : v) items.push_back(to_archive(static_cast<typename T::value_type>(item)));
    return items;
  }
}

template <class T>
void from_archive(archive_value const& from, T& to) {
  if constexpr (std::is_same_v<T, bool>) to = from.is_bool() ? from.as_bool() : from.as_int() != 0;
  else if constexpr (std::is_same_v<T, std::string>) to = from.as_string();
  else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) to = static_cast<T>(from.as_int());
  else if constexpr (std::is_floating_point_v<T>) to = static_cast<T>(from.as_double());
  else {
    if constexpr (std::is_same_v<T, std::vector<typename T::value_type>>) to.resize(from.size());
    for (std::size_t i = 0; i < to.size(); ++i) {
      typename T::value_type item{};
      from_archive(from[i], item);
      to[i] = item;
    }
  }
}

/// Can `from` become a T without loss of meaning?
template <class T>
bool fits_archive(archive_value const& from) {
  if constexpr (std::is_same_v<T, bool>) return from.is_bool() || from.is_int();
  else if constexpr (std::is_same_v<T, std::string>) return from.is_string();
  else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    if (!from.is_int()) return false;
    if constexpr (std::is_integral_v<T> && sizeof(T) < 8) {
      std::int64_t const v = from.as_int();
      return v >= static_cast<std::int64_t>(std::numeric_limits<T>::min()) && v <= static_cast<std::int64_t>(std::numeric_limits<T>::max());
    }
    return true;
  } else if constexpr (std::is_floating_point_v<T>) return from.is_number();
  else {
    if (!from.is_sequence()) return false;
    if constexpr (!std::is_same_v<T, std::vector<typename T::value_type>>)
      if (from.size() != std::tuple_size_v<T>) return false;
    for (std::size_t i = 0; i < from.size(); ++i)
      if (!fits_archive<typename T::value_type>(from[i])) return false;
    return true;
  }
}

/// describe(...) into a dict.
struct state_writer {
  archive_value& dict;
  template <class T>
  void operator()(std::string_view name, T const& value) const {
    dict.set(name, to_archive(value));
  }
};

/// A checked assignment that waits until everything else has been checked.
struct pending_value {
  void* to;
  archive_value const* from;
  void (*assign)(archive_value const&, void*);
};

/// describe(...) out of a dict: checks now, assigns later.
struct state_reader {
  archive_value const* dict;  // null: the file has no such part
  std::string prefix;
  load_report& report;
  std::vector<pending_value>& pending;
  bool keep_if_absent = false;  // what the file does not have stays as it is

  template <class T>
  void operator()(std::string_view name, T& value) const {
    std::string full = prefix;
    full += name;
    archive_value const* const found = dict == nullptr ? nullptr : dict->find(name);
    if (found == nullptr) {
      if (!keep_if_absent) report.missing.push_back(std::move(full));
    } else if (!fits_archive<T>(*found)) {
      report.mismatched.push_back({std::move(full), std::string{name_of(to_archive(value).kind())}, to_string(*found, 60)});
    } else {
      pending.push_back({&value, found, [](archive_value const& from, void* to) { from_archive(from, *static_cast<T*>(to)); }});
      report.loaded.push_back(std::move(full));
    }
  }
};

}  // namespace mortise::detail
