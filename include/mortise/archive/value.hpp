// The tree that every archive format speaks: what a checkpoint is before it has a format.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/archive/errors.hpp>
#include <mortise/config.hpp>
#include <mortise/detail/error.hpp>
#include <mortise/tensor/element_type.hpp>

namespace mortise {

inline constexpr std::size_t no_entry = static_cast<std::size_t>(-1);

/// A tensor as an archive sees it: element type, shape, and packed row-major little-endian bytes that somebody else owns.
///
/// For writing, `data` is borrowed until the save returns (a state may be a gigabyte: nothing is copied); two nodes with the
/// same data, type and shape are one stored tensor. `owner` may keep memory alive that belongs to nobody else.
/// In a tree that came out of a reader, `data` is null and `entry` is the position in `archive_reader::tensors()`.
struct tensor_ref {
  element_type type = element_type::f32;
  std::vector<std::size_t> shape{};
  std::byte const* data = nullptr;
  std::size_t entry = no_entry;
  std::shared_ptr<void const> owner{};

  std::size_t count() const {
    std::size_t n = 1;
    for (std::size_t extent : shape) n *= extent;
    return n;
  }
  /// Bytes of the packed elements; sub-byte types share bytes.
  std::size_t bytes() const { return (count() * bits_of(type) + 7) / 8; }
};

/// A rank-0 tensor that owns its value, as PyTorch keeps Adam's `step`.
template <class T>
tensor_ref scalar_tensor(T value) {
  auto owned = std::make_shared<T>(value);
  auto const* bytes = reinterpret_cast<std::byte const*>(owned.get());
  return {element_type_of<T>, {}, bytes, no_entry, std::move(owned)};
}

/// A tensor that owns a copy of `values`.
template <class T>
tensor_ref owned_tensor(std::vector<std::size_t> shape, std::vector<T> values) {
  auto owned = std::make_shared<std::vector<T>>(std::move(values));
  auto const* bytes = reinterpret_cast<std::byte const*>(owned->data());
  return {element_type_of<T>, std::move(shape), bytes, no_entry, std::move(owned)};
}

/// Key of a dictionary: text, or an integer (optimizer states and milestones are keyed by number).
class archive_key {
 public:
  archive_key(std::string text) : text_{std::move(text)} {}
  archive_key(std::string_view text) : text_{text} {}
  archive_key(char const* text) : text_{text} {}
  template <class I>
    requires(std::is_integral_v<I> && !std::is_same_v<I, bool>)
  archive_key(I number) : number_{static_cast<std::int64_t>(number)}, is_number_{true} {}

  bool is_integer() const { return is_number_; }
  std::int64_t number() const { return number_; }
  std::string const& text() const { return text_; }
  /// As it stands in a dotted name.
  std::string to_string() const { return is_number_ ? std::to_string(number_) : text_; }
  bool operator==(archive_key const& other) const {
    return is_number_ == other.is_number_ && number_ == other.number_ && text_ == other.text_;
  }
  bool operator<(archive_key const& other) const {
    if (is_number_ != other.is_number_) return is_number_;
    return is_number_ ? number_ < other.number_ : text_ < other.text_;
  }

 private:
  std::string text_{};
  std::int64_t number_ = 0;
  bool is_number_ = false;
};

enum class archive_kind : std::uint8_t { none, boolean, integer, real, string, bytes, tensor, list, tuple, dict };

constexpr std::string_view name_of(archive_kind k) {
  constexpr std::string_view names[] = {"None", "a boolean", "an integer", "a float", "a string", "bytes", "a tensor", "a list", "a tuple", "a dict"};
  return names[static_cast<std::size_t>(k)];
}

/// None, a boolean, an integer, a float, a string, bytes, a tensor, or a list, tuple or dict of these.
///
///     auto run = mt::archive_value::dict();
///     run.set("epoch", 3).set("model_state_dict", std::move(weights));
///     run.find_path("optimizer_state_dict.param_groups.0.lr")->as_double();
///
/// A value; copies are deep (tensors' memory is shared). Dicts keep the order in which keys came; equality ignores that order and
/// holds two NaNs equal. Copying, comparing and destroying use explicit stacks: trees of any depth are safe.
class archive_value {
 public:
  archive_value() noexcept : integer_{0} {}
  archive_value(std::nullptr_t) noexcept : integer_{0} {}
  archive_value(bool v) noexcept : boolean_{v}, kind_{archive_kind::boolean} {}
  template <class I>
    requires(std::is_integral_v<I> && !std::is_same_v<I, bool>)
  archive_value(I v) noexcept : integer_{static_cast<std::int64_t>(v)}, kind_{archive_kind::integer} {}
  template <class F>
    requires std::is_floating_point_v<F>
  archive_value(F v) noexcept : real_{static_cast<double>(v)}, kind_{archive_kind::real} {}
  archive_value(std::string v) : text_{new std::string{std::move(v)}}, kind_{archive_kind::string} {}
  archive_value(std::string_view v) : archive_value{std::string{v}} {}
  archive_value(char const* v) : archive_value{std::string{v}} {}
  archive_value(tensor_ref v) : tensor_{new tensor_ref{std::move(v)}}, kind_{archive_kind::tensor} {}
  archive_value(archive_value&& other) noexcept : integer_{other.integer_}, kind_{other.kind_} { other.kind_ = archive_kind::none; }
  archive_value(archive_value const& other);
  archive_value& operator=(archive_value&& other) noexcept {
    swap(other);
    return *this;
  }
  archive_value& operator=(archive_value const& other) {
    archive_value copy{other};
    swap(copy);
    return *this;
  }
  ~archive_value() {
    if (kind_ >= archive_kind::string) destroy();
  }
  void swap(archive_value& other) noexcept {
    std::swap(integer_, other.integer_);  // the union's members are one word each
    std::swap(kind_, other.kind_);
  }

  static archive_value list();
  static archive_value tuple();
  static archive_value dict();
  static archive_value list(std::initializer_list<archive_value> items);
  static archive_value tuple(std::initializer_list<archive_value> items);
  static archive_value dict(std::initializer_list<std::pair<archive_key, archive_value>> items);
  /// Python's `bytes`.
  static archive_value bytes(std::string raw) {
    archive_value v{std::move(raw)};
    v.kind_ = archive_kind::bytes;
    return v;
  }

  archive_kind kind() const { return kind_; }
  bool is_none() const { return kind_ == archive_kind::none; }
  bool is_bool() const { return kind_ == archive_kind::boolean; }
  bool is_int() const { return kind_ == archive_kind::integer; }
  bool is_double() const { return kind_ == archive_kind::real; }
  bool is_number() const { return is_int() || is_double(); }
  bool is_string() const { return kind_ == archive_kind::string; }
  bool is_bytes() const { return kind_ == archive_kind::bytes; }
  bool is_tensor() const { return kind_ == archive_kind::tensor; }
  bool is_list() const { return kind_ == archive_kind::list; }
  bool is_tuple() const { return kind_ == archive_kind::tuple; }
  bool is_dict() const { return kind_ == archive_kind::dict; }
  bool is_sequence() const { return is_list() || is_tuple(); }
  bool is_container() const { return kind_ >= archive_kind::list; }

  /// Throw usage_error when the value is of another kind. `as_double` takes integers too, `as_int` takes floats that hold one.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  std::string const& as_string() const;  // also of bytes
  tensor_ref const& as_tensor() const;
  tensor_ref& as_tensor();

  /// Items of a list, tuple or dict; 0 for everything else.
  std::size_t size() const;
  archive_value const& operator[](std::size_t i) const { return items()[i]; }
  archive_value& operator[](std::size_t i) { return items()[i]; }
  std::vector<archive_value> const& items() const;
  std::vector<archive_value>& items();
  /// A dict's keys, beside `items()`.
  std::vector<archive_key> const& keys() const;
  archive_value& push_back(archive_value item) {
    items().push_back(std::move(item));
    return *this;
  }

  /// A dict's value, or null (also when this is no dict).
  archive_value const* find(archive_key const& key) const;
  archive_value* find(archive_key const& key) { return const_cast<archive_value*>(std::as_const(*this).find(key)); }
  archive_value const& at(archive_key const& key) const;
  bool contains(archive_key const& key) const { return find(key) != nullptr; }
  /// Adds or replaces; returns *this for chains of `set`.
  archive_value& set(archive_key key, archive_value value);
  /// Adds without looking for an equal key: the caller knows that it is new.
  void append(archive_key key, archive_value value);
  /// Takes a dict's value out of it; None when it is not there.
  archive_value take(archive_key const& key);
  /// "optimizer_state_dict.state.0.exp_avg": keys and list positions joined by '.'; keys may hold dots themselves. Null if absent.
  archive_value const* find_path(std::string_view path) const;

  bool operator==(archive_value const& other) const;

 private:
  struct list_data {
    std::vector<archive_value> items{};
  };
  struct dict_data {
    std::vector<archive_value> items{};
    std::vector<archive_key> keys{};
  };
  union {
    bool boolean_;
    std::int64_t integer_;
    double real_;
    std::string* text_;
    tensor_ref* tensor_;
    list_data* list_;
    dict_data* dict_;
  };
  archive_kind kind_ = archive_kind::none;

  void destroy() noexcept;
  bool copy_shallow(archive_value const& other);
  bool equal_leaf(archive_value const& other) const;
  [[noreturn]] void wrong_kind(std::string_view wanted) const;
};

namespace detail {

/// What a walk keeps of a node that it has not finished. One type for all walks: each would make the compiler write a vector of its own.
struct archive_walk {
  archive_value const* node = nullptr;
  archive_value const* partner = nullptr;  // what it is compared with
  archive_value* copy = nullptr;           // what it is copied to
  std::string_view rest{};                 // of a path
  std::size_t next = 0;                    // child
  std::size_t name_length = 0;
};

}  // namespace detail

/// Calls f(name, leaf) for every value of the tree that is no container, in order, with its dotted name. Empty containers are leaves.
template <class F>
void for_each_leaf(archive_value const& root, F&& f) {
  std::string name;
  if (root.size() == 0) return f(std::string_view{name}, root);
  std::vector<detail::archive_walk> stack;
  stack.push_back({.node = &root});
  while (!stack.empty()) {
    detail::archive_walk& top = stack.back();
    name.resize(top.name_length);
    if (top.next == top.node->size()) {
      stack.pop_back();
      continue;
    }
    std::size_t const i = top.next++;
    if (stack.size() > 1) name += '.';
    name += top.node->is_dict() ? top.node->keys()[i].to_string() : std::to_string(i);
    archive_value const& child = (*top.node)[i];
    if (child.size() == 0) f(std::string_view{name}, child);
    else stack.push_back({.node = &child, .name_length = name.size()});
  }
}

/// Python's notation, cut after about `limit` characters.
template <class = void>
MORTISE_COLD std::string to_string(archive_value const& value, std::size_t limit = 2000);

template <class = void>
std::ostream& operator<<(std::ostream& out, archive_value const& value) { return out << to_string(value); }

// ---- implementation -------------------------------------------------------------------------------------------------------

inline archive_value archive_value::list() {
  archive_value v;
  v.list_ = new list_data;
  v.kind_ = archive_kind::list;
  return v;
}

inline archive_value archive_value::tuple() {
  archive_value v = list();
  v.kind_ = archive_kind::tuple;
  return v;
}

inline archive_value archive_value::dict() {
  archive_value v;
  v.dict_ = new dict_data;
  v.kind_ = archive_kind::dict;
  return v;
}

inline archive_value archive_value::list(std::initializer_list<archive_value> items) {
  archive_value v = list();
  v.list_->items.reserve(items.size());
  for (archive_value const& item : items) v.list_->items.push_back(item);
  return v;
}

inline archive_value archive_value::tuple(std::initializer_list<archive_value> items) {
  archive_value v = list(items);
  v.kind_ = archive_kind::tuple;
  return v;
}

inline archive_value archive_value::dict(std::initializer_list<std::pair<archive_key, archive_value>> items) {
  archive_value v = dict();
  for (auto const& [key, item] : items) v.set(key, item);
  return v;
}

inline void archive_value::destroy() noexcept {
  // Children that are containers wait in a list of their own, so that depth costs heap and never stack. They are chained through
  // `pending` by moving, which allocates only the vector's growth; should that fail, the rest is destroyed in place.
  std::vector<archive_value> pending;
  auto release = [&pending](archive_value& v) noexcept {
    if (v.kind_ == archive_kind::string || v.kind_ == archive_kind::bytes) delete v.text_;
    else if (v.kind_ == archive_kind::tensor) delete v.tensor_;
    else if (v.is_container()) {
      for (archive_value& child : v.items())
        if (child.size() != 0) {
          try {
            pending.push_back(std::move(child));
          } catch (...) {
          }
        }
      if (v.is_dict()) delete v.dict_;
      else delete v.list_;
    }
    v.kind_ = archive_kind::none;
  };
  release(*this);
  while (!pending.empty()) {
    archive_value v = std::move(pending.back());
    pending.pop_back();
    release(v);
  }
}

/// Copies everything but children; true when there are children to copy.
inline bool archive_value::copy_shallow(archive_value const& other) {
  switch (other.kind_) {
    case archive_kind::string:
    case archive_kind::bytes: text_ = new std::string{*other.text_}; break;
    case archive_kind::tensor: tensor_ = new tensor_ref{*other.tensor_}; break;
    case archive_kind::list:
    case archive_kind::tuple: list_ = new list_data; break;
    case archive_kind::dict: {
      auto fresh = std::make_unique<dict_data>();
      fresh->keys = other.dict_->keys;
      dict_ = fresh.release();
      break;
    }
    default: integer_ = other.integer_;
  }
  kind_ = other.kind_;
  return other.size() != 0;
}

inline archive_value::archive_value(archive_value const& other) : integer_{0} {
  if (!copy_shallow(other)) return;
  try {
    std::vector<detail::archive_walk> pending;
    pending.push_back({.node = &other, .copy = this});
    while (!pending.empty()) {
      archive_value const* const from = pending.back().node;
      archive_value* const to = pending.back().copy;
      pending.pop_back();
      to->items().resize(from->size());  // before any child is pointed to: the vector never moves again
      for (std::size_t i = 0; i != from->size(); ++i)
        if ((*to)[i].copy_shallow((*from)[i])) pending.push_back({.node = &(*from)[i], .copy = &(*to)[i]});
    }
  } catch (...) {
    destroy();
    throw;
  }
}

inline void archive_value::wrong_kind(std::string_view wanted) const {
  detail::throw_usage_error({"mortise: an archive's value is ", name_of(kind_), ", not ", wanted});
}

inline bool archive_value::as_bool() const {
  if (!is_bool()) wrong_kind("a boolean");
  return boolean_;
}

inline std::int64_t archive_value::as_int() const {
  if (is_int()) return integer_;
  if (is_double() && real_ >= -9.2e18 && real_ <= 9.2e18 && static_cast<double>(static_cast<std::int64_t>(real_)) == real_)
    return static_cast<std::int64_t>(real_);
  wrong_kind("an integer");
}

inline double archive_value::as_double() const {
  if (is_int()) return static_cast<double>(integer_);
  if (!is_double()) wrong_kind("a number");
  return real_;
}

inline std::string const& archive_value::as_string() const {
  if (!is_string() && !is_bytes()) wrong_kind("a string");
  return *text_;
}

inline tensor_ref const& archive_value::as_tensor() const {
  if (!is_tensor()) wrong_kind("a tensor");
  return *tensor_;
}

inline tensor_ref& archive_value::as_tensor() {
  if (!is_tensor()) wrong_kind("a tensor");
  return *tensor_;
}

inline std::size_t archive_value::size() const { return is_container() ? items().size() : 0; }

inline std::vector<archive_value> const& archive_value::items() const {
  if (is_dict()) return dict_->items;
  if (!is_sequence()) wrong_kind("a list, tuple or dict");
  return list_->items;
}

inline std::vector<archive_value>& archive_value::items() {
  if (is_dict()) return dict_->items;
  if (!is_sequence()) wrong_kind("a list, tuple or dict");
  return list_->items;
}

inline std::vector<archive_key> const& archive_value::keys() const {
  if (!is_dict()) wrong_kind("a dict");
  return dict_->keys;
}

inline archive_value const* archive_value::find(archive_key const& key) const {
  if (!is_dict()) return nullptr;
  for (std::size_t i = 0; i != dict_->keys.size(); ++i)
    if (dict_->keys[i] == key) return &dict_->items[i];
  return nullptr;
}

inline archive_value const& archive_value::at(archive_key const& key) const {
  if (!is_dict()) wrong_kind("a dict");
  if (archive_value const* v = find(key)) return *v;
  detail::throw_usage_error({"mortise: an archive's dict has no key \"", key.to_string(), "\""});
}

inline archive_value& archive_value::set(archive_key key, archive_value value) {
  if (is_none()) *this = dict();
  if (archive_value* old = find(key)) *old = std::move(value);
  else append(std::move(key), std::move(value));
  return *this;
}

inline void archive_value::append(archive_key key, archive_value value) {
  if (!is_dict()) wrong_kind("a dict");
  dict_->keys.push_back(std::move(key));
  dict_->items.push_back(std::move(value));
}

inline archive_value archive_value::take(archive_key const& key) {
  if (archive_value* v = find(key)) {
    auto const i = v - dict_->items.data();
    archive_value out = std::move(*v);
    dict_->items.erase(dict_->items.begin() + i);
    dict_->keys.erase(dict_->keys.begin() + i);
    return out;
  }
  return {};
}

inline archive_value const* archive_value::find_path(std::string_view path) const {
  std::vector<detail::archive_walk> pending;
  pending.push_back({.node = this, .rest = path});
  auto enter = [&pending](archive_value const& child, std::string_view name, std::string_view rest) -> bool {
    if (rest.substr(0, name.size()) != name) return false;
    if (rest.size() == name.size()) return true;
    if (rest[name.size()] == '.' && child.is_container()) pending.push_back({.node = &child, .rest = rest.substr(name.size() + 1)});
    return false;
  };
  while (!pending.empty()) {
    detail::archive_walk const at = pending.back();
    pending.pop_back();
    if (at.node->is_dict()) {
      for (std::size_t i = 0; i != at.node->size(); ++i) {
        archive_key const& key = at.node->keys()[i];
        if (key.is_integer() ? enter((*at.node)[i], key.to_string(), at.rest) : enter((*at.node)[i], key.text(), at.rest)) return &(*at.node)[i];
      }
    } else if (at.node->is_sequence()) {
      std::string_view const digits = at.rest.substr(0, at.rest.find('.'));
      std::size_t i = 0;
      bool ok = !digits.empty() && digits.size() < 18;
      for (char c : digits) {
        ok = ok && c >= '0' && c <= '9';
        i = i * 10 + static_cast<std::size_t>(c - '0');
      }
      if (ok && i < at.node->size() && enter((*at.node)[i], digits, at.rest)) return &(*at.node)[i];
    }
  }
  return nullptr;
}

inline bool archive_value::equal_leaf(archive_value const& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case archive_kind::none: return true;
    case archive_kind::boolean: return boolean_ == other.boolean_;
    case archive_kind::integer: return integer_ == other.integer_;
    case archive_kind::real: return (real_ != real_ && other.real_ != other.real_) || std::memcmp(&real_, &other.real_, sizeof real_) == 0;
    case archive_kind::string:
    case archive_kind::bytes: return *text_ == *other.text_;
    case archive_kind::tensor: {
      tensor_ref const& a = *tensor_;
      tensor_ref const& b = *other.tensor_;
      if (a.type != b.type || a.shape != b.shape) return false;
      if (a.data == nullptr || b.data == nullptr) return a.data == b.data && a.entry == b.entry;
      return a.data == b.data || a.bytes() == 0 || std::memcmp(a.data, b.data, a.bytes()) == 0;
    }
    default: return size() == other.size();
  }
}

inline bool archive_value::operator==(archive_value const& other) const {
  std::vector<detail::archive_walk> pending;
  pending.push_back({.node = this, .partner = &other});
  while (!pending.empty()) {
    archive_value const* const a = pending.back().node;
    archive_value const* const b = pending.back().partner;
    pending.pop_back();
    if (!a->equal_leaf(*b)) return false;
    for (std::size_t i = 0; i != a->size(); ++i) {
      archive_value const* partner = &(*b)[i];
      if (a->is_dict() && !(a->keys()[i] == b->keys()[i])) partner = b->find(a->keys()[i]);
      if (partner == nullptr) return false;
      pending.push_back({.node = &(*a)[i], .partner = partner});
    }
  }
  return true;
}

template <class>
std::string to_string(archive_value const& root, std::size_t limit) {
  std::string out;
  std::vector<detail::archive_walk> stack;
  auto quote = [&out, limit](std::string const& text) {
    out += '\'';
    for (char c : text) {
      if (out.size() > limit) break;
      if (c == '\'' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) out += '?';
      else out += c;
    }
    out += '\'';
  };
  auto show = [&](archive_value const& v) {
    switch (v.kind()) {
      case archive_kind::none: out += "None"; break;
      case archive_kind::boolean: out += v.as_bool() ? "True" : "False"; break;
      case archive_kind::integer: out += std::to_string(v.as_int()); break;
      case archive_kind::real: {
        char digits[40];
        auto const end = std::to_chars(digits, digits + sizeof digits, v.as_double()).ptr;
        std::string_view const text{digits, static_cast<std::size_t>(end - digits)};
        out += text;
        if (text.find_first_of(".en") == std::string_view::npos) out += ".0";
        break;
      }
      case archive_kind::bytes: out += 'b'; [[fallthrough]];
      case archive_kind::string: quote(v.as_string()); break;
      case archive_kind::tensor: {
        tensor_ref const& t = v.as_tensor();
        out += "tensor(";
        out += name_of(t.type);
        out += ", (";
        for (std::size_t i = 0; i != t.shape.size(); ++i) out += (i ? ", " : "") + std::to_string(t.shape[i]);
        out += "))";
        break;
      }
      default:
        out += v.is_dict() ? '{' : v.is_list() ? '[' : '(';
        stack.push_back({.node = &v});
    }
  };
  show(root);
  while (!stack.empty()) {
    if (out.size() > limit) return out.substr(0, limit) + " ...";
    detail::archive_walk& top = stack.back();
    archive_value const& node = *top.node;
    if (top.next == node.size()) {
      out += node.is_dict() ? '}' : node.is_list() ? ']' : ')';
      stack.pop_back();
      continue;
    }
    std::size_t const i = top.next++;
    if (i != 0) out += ", ";
    if (node.is_dict()) {
      if (node.keys()[i].is_integer()) out += node.keys()[i].to_string();
      else quote(node.keys()[i].text());
      out += ": ";
    }
    show(node[i]);
  }
  return out;
}

}  // namespace mortise
