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
#include <mortise/config.hpp>
#include <mortise/schedule/schedules.hpp>

namespace mortise::detail {

template <class T>
inline constexpr bool is_schedule_setting = false;
template <class T>
inline constexpr bool is_schedule_setting<schedule_setting<T>> = true;
template <class T>
inline constexpr bool is_schedule_progress = false;
template <class T>
inline constexpr bool is_schedule_progress<schedule_progress<T>> = true;

/// Milestones as PyTorch keeps them: {milestone: how often it stands there}.
template <class = void>
MORTISE_COLD archive_value milestone_counts(std::vector<std::int64_t> const& milestones) {
  archive_value counts = archive_value::dict();
  for (std::int64_t const m : milestones) {
    archive_value const* const old = counts.find(archive_key{m});
    std::int64_t const count = old == nullptr ? 0 : old->as_int();
    counts.set(archive_key{m}, count + 1);
  }
  return counts;
}

/// A value as it is stored. Unsigned 64-bit numbers (seeds) are stored as the signed number with the same bits.
template <class T>
archive_value to_archive(T const& v) {
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::string>) {
    return v;
  } else if constexpr (std::is_same_v<T, schedule_setting<std::vector<std::int64_t>>>) {
    return milestone_counts(v.value);
  } else if constexpr (is_schedule_setting<T> || is_schedule_progress<T>) {
    return to_archive(v.value);
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

/// Do two stored settings mean the same? Numbers by value (5 is 5.0), dicts whatever their order.
template <class = void>
MORTISE_COLD bool same_setting(archive_value const& a, archive_value const& b) {
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.is_sequence() && b.is_sequence()) {
    bool same = a.size() == b.size();
    for (std::size_t i = 0; same && i < a.size(); ++i) same = same_setting(a[i], b[i]);
    return same;
  }
  return a == b;
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
    if constexpr (is_schedule_setting<T>) {
      archive_value const ours = to_archive(value);
      if (dict == nullptr || (found != nullptr && same_setting(*found, ours))) return;
      if (report.advice.empty())
        report.advice = found == nullptr ? "the schedule of the file is another one, without " + std::string{name} + "; make this one alike"
                                         : "the schedule of the file was made with other settings; make this one alike";
      if (found == nullptr) report.missing.push_back(std::move(full));
      else report.mismatched.push_back({std::move(full), to_string(ours, 60), to_string(*found, 60)});
    } else if constexpr (is_schedule_progress<T>) {
    } else if (found == nullptr) {
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
