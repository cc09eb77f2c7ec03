// A data-only unpickler: runs the opcodes that torch.save writes, knows a fixed table of names, executes nothing.
//
// Every other name is refused, and named. Memory is bounded by the caller's budget, nesting by a constant; nothing recurses on input.
// Values beyond the tree's kinds come as their nearest: sets and Counters as lists and dicts, a complex number as a tuple of two
// floats, integers beyond 64 bits as decimal text, a dtype as "torch.float32", a device as "cuda:1"; dict keys that are neither text nor
// integers as Python prints them.
// Source: CPython's Lib/pickletools.py (opcodes); torch/_utils.py and torch/serialization.py 0.4 to 2.9 (names and arguments).
#pragma once

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mortise/archive/contents.hpp>
#include <mortise/archive/detail/text.hpp>
#include <mortise/archive/json.hpp>
#include <mortise/config.hpp>

namespace mortise::detail {

/// What the values of a pickle may take in memory. A multiple of the file's size bounds what a hostile one can ask for. Numbers and small
/// tensors (a history of losses, a vocabulary, a state of thousands of scalars) take up to some sixty times more as values than as bytes of a
/// pickle: that much they may, as far as 256 MiB, which are two million numbers.
template <class = void>
std::uint64_t pickle_budget(std::uint64_t file_size) {
  return 3 * file_size + lesser(64 * file_size, std::uint64_t{1} << 28) + (std::uint64_t{1} << 20);  // and its text
}

enum class pickled : std::uint8_t {
  none, boolean, integer, big_integer, real, text, raw, tuple, list, dict, set,  // values
  dtype, storage_class, storage, tensor, global,                                 // torch's
};

/// What the names of the table mean. Order: see `known_globals`.
enum class known : std::uint8_t {
  ordered_dict, counter, size, device, get_layout, set, bytearray, bytes, complex, encode,
  rebuild_tensor, rebuild_tensor_v2, rebuild_tensor_v3, rebuild_parameter, rebuild_parameter_with_state, parameter,
};

struct known_global {
  std::string_view module;
  std::string_view name;
  known meaning;
};

inline constexpr known_global known_globals[] = {
    {"collections", "OrderedDict", known::ordered_dict},
    {"collections", "Counter", known::counter},
    {"torch", "Size", known::size},
    {"torch", "device", known::device},
    {"torch.serialization", "_get_layout", known::get_layout},
    {"__builtin__", "set", known::set},
    {"builtins", "set", known::set},
    {"__builtin__", "frozenset", known::set},
    {"builtins", "frozenset", known::set},
    {"__builtin__", "bytearray", known::bytearray},
    {"builtins", "bytearray", known::bytearray},
    {"__builtin__", "bytes", known::bytes},
    {"builtins", "bytes", known::bytes},
    {"__builtin__", "complex", known::complex},
    {"builtins", "complex", known::complex},
    {"_codecs", "encode", known::encode},
    {"torch._utils", "_rebuild_tensor", known::rebuild_tensor},
    {"torch._utils", "_rebuild_tensor_v2", known::rebuild_tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", known::rebuild_tensor_v3},
    {"torch._utils", "_rebuild_parameter", known::rebuild_parameter},
    {"torch._utils", "_rebuild_parameter_with_state", known::rebuild_parameter_with_state},
    {"torch.nn.parameter", "Parameter", known::parameter},
};

struct storage_class {
  std::string_view name;
  element_type type;
};

/// Typed storages of module `torch`; UntypedStorage is told apart by `untyped_storage`.
inline constexpr storage_class storage_classes[] = {
    {"FloatStorage", element_type::f32},  {"DoubleStorage", element_type::f64}, {"HalfStorage", element_type::f16},
    {"BFloat16Storage", element_type::bf16}, {"BoolStorage", element_type::boolean}, {"ByteStorage", element_type::u8},
    {"CharStorage", element_type::i8},    {"ShortStorage", element_type::i16},  {"IntStorage", element_type::i32},
    {"LongStorage", element_type::i64},   {"ComplexFloatStorage", element_type::c64}, {"ComplexDoubleStorage", element_type::c128},
};
inline constexpr std::uint32_t untyped_storage = 255;

/// One storage that the pickle mentions.
struct pickled_storage {
  std::string key{};
  std::string location{};
  std::uint64_t count = 0;       ///< in elements; in bytes when untyped
  std::uint32_t type = 0;        ///< an element_type, or untyped_storage
  std::uint32_t root = 0;        ///< legacy views: the storage that this one is a window of (its own index otherwise)
  std::uint64_t root_offset = 0; ///< in elements of the root

  std::uint64_t width() const { return type == untyped_storage ? 1 : bits_of(static_cast<element_type>(type)) / 8; }
};

struct pickled_tensor {
  std::uint32_t storage = 0;
  element_type type = element_type::f32;
  std::uint64_t offset = 0;  ///< in elements of `type`
  std::vector<std::size_t> shape{};
  std::vector<std::size_t> strides{};
};

template <class = void>
class basic_unpickler {
 public:
  /// text: from the pickle's first byte on; may go on after STOP (legacy files). start: its offset in the file. where: "file" or "file: entry".
  /// budget: bytes of memory that the values may take. persistent_ids: length of a storage's id, 5 (zip) or 6 (legacy), 0: none allowed.
  basic_unpickler(std::string_view text, std::string where, std::uint64_t start, std::uint64_t budget, std::size_t id_length)
      : text_{text}, where_{std::move(where)}, start_{start}, budget_{budget}, id_length_{id_length} {}

  static constexpr std::size_t max_depth = 200;

  /// Runs to STOP; the value is `root()`.
  void run();
  /// Bytes up to and including STOP.
  std::size_t consumed() const { return at_; }
  /// True when the failure was the text's end, and not what it says.
  bool ran_out() const { return ran_out_; }

  std::vector<pickled_storage> storages{};
  std::vector<pickled_tensor> tensors{};

  /// The value as a tree. Each occurrence of a tensor becomes one tensor_info (dotted name); `origin` says of which of `tensors`.
  archive_value to_tree(std::vector<tensor_info>& infos, std::vector<std::uint32_t>& origin);

  [[noreturn]] MORTISE_COLD void fail(message_parts reason) const { throw_archive_error(where_, start_ + op_at_, reason); }
  [[noreturn]] MORTISE_COLD void fail(char const* reason) const { throw_archive_error(where_, start_ + op_at_, {reason}); }

 private:
  using id = std::uint32_t;
  struct text_span {
    std::uint32_t offset, length;
  };
  struct node {
    pickled kind = pickled::none;
    bool ordered = false;     // dict: may be the target of BUILD
    std::uint32_t index = 0;  // children, tensor, storage, enum
    union {
      std::int64_t integer;
      double real;
      text_span text;
    };
    node() : integer{0} {}
  };
  static constexpr id mark = 0xffffffff;
  static constexpr id absent = 0xfffffffe;

  std::string_view text_;
  std::string where_;
  std::uint64_t start_;
  std::uint64_t budget_;
  std::size_t id_length_;
  std::size_t at_ = 0;
  std::size_t op_at_ = 0;
  bool ran_out_ = false;
  // Deques: what grows with hostile input must not need three times its size while it moves.
  std::deque<node> nodes_{of(pickled::none), of_boolean(false), of_boolean(true), of(pickled::tuple)};  // the first four are shared
  std::deque<std::vector<id>> children_{1};  // 0: none
  std::string owned_{};                       // text that does not stand in the pickle
  std::deque<id> stack_{};
  std::deque<std::size_t> marks_{};
  std::vector<id> memo_{};
  std::unordered_map<std::string, std::uint32_t> storage_by_key_{};
  std::uint64_t memo_puts_ = 0;

  void spend(std::uint64_t bytes) {
    if (bytes > budget_) fail("the pickle needs more memory than the file's size explains");
    budget_ -= bytes;
  }
  std::uint64_t number(std::size_t bytes) {
    std::string_view const raw = take(bytes);
    std::uint64_t v = 0;
    for (std::size_t i = bytes; i-- != 0;) v = v << 8 | static_cast<unsigned char>(raw[i]);
    return v;
  }
  std::string_view take(std::uint64_t n) {
    if (n > text_.size() - at_) {
      ran_out_ = true;
      fail({"the pickle is truncated: an operand of ", n, " bytes, ", text_.size() - at_, " are left"});
    }
    std::string_view const v = text_.substr(at_, static_cast<std::size_t>(n));
    at_ += static_cast<std::size_t>(n);
    return v;
  }
  std::string_view line() {
    std::size_t const end = text_.find('\n', at_);
    if (end == std::string_view::npos) {
      ran_out_ = true;
      fail("the pickle is truncated: a line without its end");
    }
    std::string_view const v = text_.substr(at_, end - at_);
    at_ = end + 1;
    return v;
  }

  id add(node n) {
    spend(sizeof(node) + sizeof(id));
    nodes_.push_back(n);
    return static_cast<id>(nodes_.size() - 1);
  }
  void push(id v) { stack_.push_back(v); }
  void push(node n) { push(add(n)); }
  id pop() {
    if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back())) fail("stack underflow");
    id const v = stack_.back();
    stack_.pop_back();
    return v;
  }
  id top() {
    id const v = pop();
    push(v);
    return v;
  }
  std::vector<id> pop_to_mark() {
    if (marks_.empty()) fail("no MARK on the stack");
    std::vector<id> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  static node of(pickled kind) {
    node n;
    n.kind = kind;
    return n;
  }
  static node of_boolean(bool v) {
    node n = of(pickled::boolean);
    n.integer = v;
    return n;
  }
  static node of_integer(std::int64_t v) {
    node n = of(pickled::integer);
    n.integer = v;
    return n;
  }
  static node of_real(double v) {
    node n = of(pickled::real);
    n.real = v;
    return n;
  }
  /// The text must stand in the pickle.
  node of_text(std::string_view v, pickled kind = pickled::text) const {
    node n = of(kind);
    n.text = {static_cast<std::uint32_t>(v.data() - text_.data()), static_cast<std::uint32_t>(v.size())};
    return n;
  }
  node of_owned(std::string_view v, pickled kind = pickled::text) {
    spend(v.size());
    node n = of(kind);
    n.index = 1;
    n.text = {static_cast<std::uint32_t>(owned_.size()), static_cast<std::uint32_t>(v.size())};
    owned_ += v;
    return n;
  }
  std::string_view text_of(id i) const {
    node const& n = nodes_[i];
    return (n.index == 1 ? std::string_view{owned_} : text_).substr(n.text.offset, n.text.length);
  }
  node of_children(pickled kind, std::vector<id> items) {
    node n = of(kind);
    if (!items.empty()) {
      spend(sizeof(std::vector<id>) + 32 + items.size() * sizeof(id));  // 32: the least that an allocation takes
      items.shrink_to_fit();
      n.index = static_cast<std::uint32_t>(children_.size());
      children_.push_back(std::move(items));
    }
    return n;
  }
  std::vector<id> const& children(id i) const { return children_[nodes_[i].index]; }
  std::vector<id>& grow(id i, std::size_t by) {
    node& n = nodes_[i];
    if (n.index == 0) {
      spend(sizeof(std::vector<id>) + 32);
      n.index = static_cast<std::uint32_t>(children_.size());
      children_.emplace_back();
    }
    spend(2 * by * sizeof(id));
    return children_[nodes_[i].index];
  }
  pickled kind(id i) const { return nodes_[i].kind; }

  void put_memo(std::uint64_t index) {
    id const v = top();
    ++memo_puts_;
    // Pickle writers number densely; an index far from that would only be a way to ask for memory.
    if (index > 2 * memo_puts_ + 65536) fail({"memo index ", index, " is out of proportion"});
    if (index >= memo_.size()) {
      spend(3 * (index + 1 - memo_.size()) * sizeof(id));
      memo_.resize(static_cast<std::size_t>(index) + 1, absent);
    }
    memo_[static_cast<std::size_t>(index)] = v;
  }
  void get_memo(std::uint64_t index) {
    if (index >= memo_.size() || memo_[static_cast<std::size_t>(index)] == absent) fail({"memo index ", index, " was never stored"});
    push(memo_[static_cast<std::size_t>(index)]);
  }
  void append_items(id target, std::vector<id> const& items) {
    if (kind(target) != pickled::list) fail("APPEND to something that is no list");
    std::vector<id>& to = grow(target, items.size());
    to.insert(to.end(), items.begin(), items.end());
  }
  void set_items(id target, std::vector<id> const& items) {
    if (kind(target) != pickled::dict) fail("SETITEM on something that is no dict");
    if (items.size() % 2 != 0) fail("SETITEMS with a key that has no value");
    for (std::size_t i = 0; i < items.size(); i += 2)
      if (pickled const k = kind(items[i]); k == pickled::list || k == pickled::dict || k == pickled::set || k >= pickled::dtype) fail("a dict's key is of a kind that cannot be one");
    std::vector<id>& to = grow(target, items.size());
    to.insert(to.end(), items.begin(), items.end());
  }

  void push_long(std::string_view raw);
  void push_integer_text(std::string_view digits);
  void push_text(std::string_view raw, pickled kind = pickled::text) {
    if (kind == pickled::text) check_text(raw);
    push(of_text(raw, kind));
  }
  void check_text(std::string_view raw) const;
  void push_global(std::string_view module, std::string_view name);
  [[noreturn]] MORTISE_COLD void refuse_global(std::string_view module, std::string_view name);
  bool skip_operand(unsigned char op, std::string_view& module, std::string_view& name);
  void reduce(id callable, id arguments);
  void build(id state);
  void push_storage(id persistent);
  void rebuild_tensor(std::vector<id> const& a, known how);

  std::vector<id> const& arguments(id tuple, std::size_t least, std::size_t most, char const* what) {
    if (kind(tuple) != pickled::tuple) fail({what, ": its arguments are no tuple"});
    auto const& a = children(tuple);
    if (a.size() < least || a.size() > most) fail({what, " has ", a.size(), " arguments"});
    return a;
  }
  std::uint64_t natural(id v, std::string const& what) {
    if (kind(v) != pickled::integer) fail({what, " is no integer that fits 64 bits"});
    if (nodes_[v].integer < 0) fail({what, " is negative: ", nodes_[v].integer});
    return static_cast<std::uint64_t>(nodes_[v].integer);
  }
  std::vector<std::size_t> naturals(id v, char const* what) {
    if (kind(v) != pickled::tuple && kind(v) != pickled::list) fail({what, " is no tuple"});
    auto const& c = children(v);
    if (c.size() > 1024) fail({what, " has rank ", c.size(), ", at most 1024 is accepted"});
    std::vector<std::size_t> out;
    out.reserve(c.size());
    for (id i : c) out.push_back(static_cast<std::size_t>(natural(i, what)));
    return out;
  }
};
using unpickler = basic_unpickler<>;

// ---- implementation -------------------------------------------------------------------------------------------------------

/// UTF-8; lone surrogates encoded as Python's surrogatepass does are let through.
template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::check_text(std::string_view raw) const {
  for (std::size_t i = 0; i < raw.size();) {
    std::size_t n = utf8_length(raw, i);
    if (n == 0 && raw.size() - i >= 3 && static_cast<unsigned char>(raw[i]) == 0xed && (static_cast<unsigned char>(raw[i + 1]) & 0xe0) == 0xa0 &&
        (static_cast<unsigned char>(raw[i + 2]) & 0xc0) == 0x80)
      n = 3;
    if (n == 0) fail("a string that is no UTF-8");
    i += n;
  }
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::push_long(std::string_view raw) {
  if (raw.size() <= 8) {
    std::uint64_t v = raw.empty() || !(static_cast<unsigned char>(raw.back()) & 0x80) ? 0 : ~std::uint64_t{0};
    for (std::size_t i = raw.size(); i-- != 0;) v = v << 8 | static_cast<unsigned char>(raw[i]);
    return push(of_integer(static_cast<std::int64_t>(v)));
  }
  if (raw.size() > 256) fail({"an integer of ", raw.size(), " bytes"});
  // Decimal text by repeated division, most significant byte first.
  bool const negative = (static_cast<unsigned char>(raw.back()) & 0x80) != 0;
  std::vector<unsigned> bytes;
  unsigned carry = 1;
  for (char c : raw) {
    unsigned b = static_cast<unsigned char>(c);
    if (negative) {
      b = (~b & 0xffu) + carry;
      carry = b >> 8;
      b &= 0xff;
    }
    bytes.push_back(b);
  }
  std::string digits;
  while (!bytes.empty()) {
    unsigned remainder = 0;
    for (std::size_t i = bytes.size(); i-- != 0;) {
      unsigned const v = remainder * 256 + bytes[i];
      bytes[i] = v / 10;
      remainder = v % 10;
    }
    digits += static_cast<char>('0' + remainder);
    while (!bytes.empty() && bytes.back() == 0) bytes.pop_back();
  }
  if (negative) digits += '-';
  for (std::size_t i = 0; i != digits.size() / 2; ++i) std::swap(digits[i], digits[digits.size() - 1 - i]);
  std::int64_t small = 0;
  auto const [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), small);
  if (status == std::errc{} && end == digits.data() + digits.size()) return push(of_integer(small));
  push(of_owned(digits, pickled::big_integer));
}

template <class Unused>
void basic_unpickler<Unused>::push_integer_text(std::string_view digits) {
  if (!digits.empty() && digits.back() == 'L') digits.remove_suffix(1);
  std::int64_t v = 0;
  auto const [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), v);
  if (status != std::errc{} || end != digits.data() + digits.size()) fail({"no integer: ", quoted_part(digits)});
  push(of_integer(v));
}

/// Steps over one opcode without running it; false at the end or at an opcode unknown. GLOBAL gives its names.
template <class Unused>
MORTISE_COLD bool basic_unpickler<Unused>::skip_operand(unsigned char op, std::string_view& module, std::string_view& name) {
  auto const has = [this](std::uint64_t n) { return n <= text_.size() - at_; };
  auto const skip = [&](std::uint64_t n) { return has(n) && (at_ += static_cast<std::size_t>(n), true); };
  auto const counted = [&](std::size_t width) { return has(width) && skip(number(width)); };
  auto const text_line = [&](std::string_view& out) {
    std::size_t const end = text_.find('\n', at_);
    if (end == std::string_view::npos) return false;
    out = text_.substr(at_, end - at_);
    at_ = end + 1;
    return true;
  };
  std::string_view ignored;
  switch (op) {
    case 'c': return text_line(module) && text_line(name);
    case 'K': case 'q': case 'h': case 0x80: return skip(1);
    case 'M': return skip(2);
    case 'J': case 'r': case 'j': return skip(4);
    case 'G': case 0x95: return skip(8);
    case 0x8a: case 'U': case 'C': case 0x8c: return counted(1);
    case 'X': case 'T': case 'B': case 0x8b: return counted(4);
    case 0x8d: case 0x8e: case 0x96: return counted(8);
    case 'I': case 'L': case 'F': case 'S': case 'V': case 'p': case 'g': return text_line(ignored);
    default: return op != '.';
  }
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::refuse_global(std::string_view module, std::string_view name) {
  auto const is_known = [](std::string_view m, std::string_view n) {
    for (known_global const& g : known_globals)
      if (g.module == m && g.name == n) return true;
    return m == "torch" || m == "torch.storage";
  };
  std::string const refused = std::string{module.substr(0, 100)} + "." + std::string{name.substr(0, 100)};
  std::string const full = in_quotes(refused, 200);
  std::string reason = "the pickle names " + full + ", which is no plain data and is not loaded";
  // What else is in there? A bound method's class, for instance, says more than the `getattr` before it.
  std::string more;
  std::size_t const at = at_;
  for (int found = 0; at_ < text_.size() && found != 4;) {
    std::string_view m;
    std::string_view n;
    auto const op = static_cast<unsigned char>(text_[at_++]);
    if (!skip_operand(op, m, n)) break;
    if (op != 'c' || is_known(m, n) || m.size() + n.size() > 160) continue;
    std::string const other = in_quotes(std::string{m} + "." + std::string{n}, 200);
    if (other == full || more.find(other) != std::string::npos) continue;
    more += (more.empty() ? "" : ", ") + other;
    ++found;
  }
  at_ = at;
  if (!more.empty()) reason += " (later also " + more + ")";
  if (module == "torch._utils" || module == "torch._tensor") reason += "; this kind of tensor (sparse, quantized, a subclass, ...) cannot be read: save it as a plain dense tensor";
  else if (module.substr(0, 5) == "numpy") reason += "; save NumPy's scalars as numbers (.item()) and its arrays as tensors (torch.from_numpy)";
  else if (module == "argparse" || module == "types") reason += "; save it as a dict: vars(args)";
  else if (module.substr(0, 7) == "pathlib") reason += "; save a path as text: str(path)";
  else reason += "; if this is a whole module that was pickled, save its state_dict() instead; leave other objects out of the file, or save them as numbers, strings, lists and dicts";
  fail({reason});
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::push_global(std::string_view module, std::string_view name) {
  for (known_global const& g : known_globals)
    if (g.module == module && g.name == name) {
      node n = of(pickled::global);
      n.index = static_cast<std::uint32_t>(g.meaning);
      return push(n);
    }
  if (module == "torch") {
    for (storage_class const& s : storage_classes)
      if (s.name == name) {
        node n = of(pickled::storage_class);
        n.index = static_cast<std::uint32_t>(s.type);
        return push(n);
      }
    for (std::size_t t = 0; t != element_type_count; ++t)
      if (name_of(static_cast<element_type>(t)) == name) {
        node n = of(pickled::dtype);
        n.index = static_cast<std::uint32_t>(t);
        return push(n);
      }
  }
  if (module == "torch.storage" && (name == "UntypedStorage" || name == "_UntypedStorage")) {
    node n = of(pickled::storage_class);
    n.index = untyped_storage;
    return push(n);
  }
  refuse_global(module, name);
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::push_storage(id persistent) {
  if (id_length_ == 0) fail("a persistent id where none belongs");
  if (kind(persistent) != pickled::tuple) fail("a persistent id that is no tuple");
  auto const& a = children(persistent);
  if (a.empty() || kind(a[0]) != pickled::text) fail("a persistent id without a tag");
  if (text_of(a[0]) != "storage") fail({"a persistent id with the tag ", quoted_part(text_of(a[0])), " instead of \"storage\""});
  if (a.size() != id_length_) fail({"a storage's id with ", a.size(), " elements instead of ", id_length_});
  if (kind(a[1]) != pickled::storage_class) fail("a storage's class is no storage class");
  if (kind(a[2]) != pickled::text || kind(a[3]) != pickled::text) fail("a storage's key or location is no string");
  std::string_view const key = text_of(a[2]);
  bool digits = !key.empty() && key.size() <= 30;
  for (char c : key) digits = digits && c >= '0' && c <= '9';
  if (!digits) fail({"a storage's key is no decimal number: ", quoted_part(key)});
  pickled_storage s;
  s.key = key;
  s.location = text_of(a[3]).substr(0, 64);
  s.type = nodes_[a[1]].index;
  s.count = natural(a[4], "the size of storage " + std::string{key});
  if (std::uint64_t bytes = 0; !checked_multiply(s.count, s.width(), bytes) || bytes > (std::uint64_t{1} << 62))
    fail({"the size of storage ", s.key, " is beyond reason: ", s.count});
  std::uint32_t found = static_cast<std::uint32_t>(storages.size());
  auto const [at, is_new] = storage_by_key_.try_emplace(s.key, found);
  if (is_new) {
    spend(sizeof(pickled_storage) + 96);
    s.root = found;
    storages.push_back(s);
  } else {
    found = at->second;
    pickled_storage const& old = storages[found];
    if (old.type != s.type || old.count != s.count) fail({"storage ", s.key, " is used with two types or two sizes"});
  }
  if (id_length_ == 6 && kind(a[5]) != pickled::none) {
    // (view key, offset, size): a window of the root storage; of very old files.
    auto const& v = arguments(a[5], 3, 3, "a storage's view");
    if (kind(v[0]) != pickled::text) fail("a view's key is no string");
    pickled_storage view = storages[found];
    view.root = found;
    view.root_offset = natural(v[1], "a view's offset");
    view.count = natural(v[2], "a view's size");
    if (view.root_offset > storages[found].count || view.count > storages[found].count - view.root_offset) fail({"a view lies outside its storage ", s.key});
    spend(sizeof(pickled_storage));
    found = static_cast<std::uint32_t>(storages.size());
    storages.push_back(std::move(view));
  }
  node n = of(pickled::storage);
  n.index = found;
  push(n);
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::rebuild_tensor(std::vector<id> const& a, known how) {
  if (kind(a[0]) != pickled::storage) fail("a tensor's storage is no storage");
  pickled_tensor t;
  t.storage = nodes_[a[0]].index;
  pickled_storage const& s = storages[t.storage];
  if (how == known::rebuild_tensor_v3) {
    if (kind(a[6]) != pickled::dtype) fail("a tensor's dtype is no dtype");
    t.type = static_cast<element_type>(nodes_[a[6]].index);
    if (bits_of(t.type) % 8 != 0) fail({"tensors of dtype ", name_of(t.type), " are not supported"});
  } else {
    if (s.type == untyped_storage) fail("a tensor without a dtype on an untyped storage");
    t.type = static_cast<element_type>(s.type);
  }
  std::size_t const metadata = how == known::rebuild_tensor_v3 ? 7 : 6;
  if (a.size() > metadata) {
    if (kind(a[metadata]) != pickled::dict && kind(a[metadata]) != pickled::none) fail("a tensor's metadata is no dict");
    auto const& flags = children(a[metadata]);
    for (std::size_t i = 1; i < flags.size(); i += 2)
      if (kind(flags[i]) == pickled::boolean && nodes_[flags[i]].integer != 0) fail({"a tensor with the flag ", (kind(flags[i - 1]) == pickled::text ? in_quotes(text_of(flags[i - 1])) : std::string{"?"}), " (conj or neg) set; save it resolved"});
  }
  t.offset = natural(a[1], "a tensor's storage offset");
  t.shape = naturals(a[2], "a tensor's size");
  t.strides = naturals(a[3], "a tensor's stride");
  if (t.shape.size() != t.strides.size()) fail("a tensor's size and stride have different ranks");
  spend(sizeof(pickled_tensor) + 2 * t.shape.size() * sizeof(std::size_t));
  std::uint64_t count = 1;
  bool overflow = false;
  for (std::size_t extent : t.shape) overflow = overflow || !checked_multiply(count, extent, count);
  std::uint64_t bits = 0;
  if (overflow || !checked_multiply(count, bits_of(t.type), bits)) fail({"the size of a tensor overflows: ", shape_text(t.shape).substr(0, 200)});
  if (count != 0) {
    std::uint64_t last = t.offset;
    for (std::size_t d = 0; d != t.shape.size() && !overflow; ++d) {
      std::uint64_t step = 0;
      overflow = !checked_multiply(t.shape[d] - 1, t.strides[d], step) || !checked_add(last, step, last);
    }
    std::uint64_t end = 0;
    std::uint64_t const width = bits_of(t.type) / 8;
    if (overflow || !checked_add(last, 1, end) || !checked_multiply(end, width, end) || end > s.count * s.width())
      fail({"a tensor of size ", shape_text(t.shape).substr(0, 200), " reaches beyond the end of its storage ", s.key, " (", s.count, " elements)"});
  }
  node n = of(pickled::tensor);
  n.index = static_cast<std::uint32_t>(tensors.size());
  tensors.push_back(std::move(t));
  push(n);
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::reduce(id callable, id args) {
  if (kind(callable) != pickled::global) fail("REDUCE of something that cannot be called");
  auto const what = static_cast<known>(nodes_[callable].index);
  switch (what) {
    case known::ordered_dict: {
      auto const& a = arguments(args, 0, 1, "OrderedDict");
      node n = of(pickled::dict);
      n.ordered = true;
      if (a.size() == 1) {  // as Python 2 wrote it: a list of pairs
        if (kind(a[0]) != pickled::list) fail("OrderedDict's argument is no list of pairs");
        std::vector<id> items;
        for (id pair : children(a[0])) {
          if ((kind(pair) != pickled::list && kind(pair) != pickled::tuple) || children(pair).size() != 2) fail("OrderedDict's argument is no list of pairs");
          items.push_back(children(pair)[0]);
          items.push_back(children(pair)[1]);
        }
        id const made = add(n);
        set_items(made, items);
        return push(made);
      }
      return push(n);
    }
    case known::counter: {
      auto const& a = arguments(args, 0, 1, "Counter");
      if (a.empty()) return push(of(pickled::dict));
      if (kind(a[0]) != pickled::dict) fail("Counter's argument is no dict");
      return push(of_children(pickled::dict, children(a[0])));
    }
    case known::size: {
      id const inner = arguments(args, 1, 1, "torch.Size")[0];
      if (kind(inner) != pickled::tuple && kind(inner) != pickled::list) fail("torch.Size of something that is no tuple");
      return push(of_children(pickled::tuple, children(inner)));
    }
    case known::device: {
      auto const& a = arguments(args, 1, 2, "torch.device");
      if (kind(a[0]) != pickled::text) fail("torch.device's name is no string");
      std::string name{text_of(a[0]).substr(0, 64)};
      if (a.size() == 2 && kind(a[1]) == pickled::integer) name += ":" + std::to_string(nodes_[a[1]].integer);
      return push(of_owned(name));
    }
    case known::get_layout: {
      id const inner = arguments(args, 1, 1, "_get_layout")[0];
      if (kind(inner) != pickled::text) fail("_get_layout's argument is no string");
      return push(inner);
    }
    case known::set: {
      auto const& a = arguments(args, 0, 1, "set");
      if (a.empty()) return push(of(pickled::set));
      if (kind(a[0]) != pickled::list && kind(a[0]) != pickled::tuple && kind(a[0]) != pickled::set) fail("set's argument is no list");
      return push(of_children(pickled::set, children(a[0])));
    }
    case known::bytearray:
    case known::bytes: {
      auto const& a = arguments(args, 0, 2, "bytes");
      if (a.empty()) return push(of_owned("", pickled::raw));
      if (kind(a[0]) != pickled::raw) fail("bytes of something that is no bytes");
      return push(a[0]);
    }
    case known::complex: {
      auto const& a = arguments(args, 2, 2, "complex");
      if (kind(a[0]) != pickled::real || kind(a[1]) != pickled::real) fail("complex of something that is no float");
      return push(of_children(pickled::tuple, a));
    }
    case known::encode: {
      auto const& a = arguments(args, 1, 2, "_codecs.encode");
      if (kind(a[0]) != pickled::text || (a.size() == 2 && (kind(a[1]) != pickled::text || (text_of(a[1]) != "latin1" && text_of(a[1]) != "latin-1"))))
        fail("_codecs.encode of anything but text to latin1");
      std::string raw;
      std::string_view const text = text_of(a[0]);
      for (std::size_t i = 0; i < text.size(); ++i) {
        auto const c = static_cast<unsigned char>(text[i]);
        if (c < 0x80) raw += text[i];
        else if ((c == 0xc2 || c == 0xc3) && i + 1 < text.size()) raw += static_cast<char>(static_cast<unsigned char>((c & 3) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f)));
        else fail("_codecs.encode: the text does not fit latin1");
      }
      return push(of_owned(raw, pickled::raw));
    }
    case known::rebuild_tensor: return rebuild_tensor(arguments(args, 4, 4, "_rebuild_tensor"), what);
    case known::rebuild_tensor_v2: return rebuild_tensor(arguments(args, 6, 7, "_rebuild_tensor_v2"), what);
    case known::rebuild_tensor_v3: return rebuild_tensor(arguments(args, 7, 8, "_rebuild_tensor_v3"), what);
    case known::rebuild_parameter:
    case known::rebuild_parameter_with_state:
    case known::parameter: {
      auto const& a = arguments(args, 1, 4, "Parameter");
      if (kind(a[0]) != pickled::tensor) fail("a Parameter of something that is no tensor");
      return push(a[0]);
    }
  }
  fail("an unknown callable");
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::build(id state) {
  id const target = top();
  // torch sets attributes (`_metadata`) of state_dicts; they carry no data of ours. Everything else is refused.
  if (kind(target) == pickled::dict && nodes_[target].ordered) {
    if (kind(state) == pickled::dict || (kind(state) == pickled::tuple && children(state).size() == 2)) return;
    fail("BUILD with a state that is no dict");
  }
  fail("BUILD on something that is no OrderedDict");
}

template <class Unused>
MORTISE_COLD void basic_unpickler<Unused>::run() {
  bool first = true;
  for (;;) {
    op_at_ = at_;
    if (at_ >= text_.size()) {
      ran_out_ = true;
      fail("the pickle is truncated: no STOP");
    }
    auto const op = static_cast<unsigned char>(text_[at_++]);
    if (first && op != 0x80) fail("no pickle of protocol 2 or newer");
    first = false;
    if (stack_.size() + marks_.size() * 2 > text_.size() + 16) fail("more values than opcodes");
    switch (op) {
      case 0x80:
        if (std::uint64_t const version = number(1); version < 2 || version > 5) fail({"pickle protocol ", version, " is not supported"});
        break;
      case '.': {
        if (!marks_.empty()) fail("STOP with an open MARK");
        if (stack_.size() != 1) fail({"STOP with ", stack_.size(), " values instead of one"});
        return;
      }
      case '(':
        spend(sizeof(std::size_t));
        marks_.push_back(stack_.size());
        break;
      case '}': push(of(pickled::dict)); break;
      case ']': push(of(pickled::list)); break;
      case ')': push(id{3}); break;
      case 0x8f: push(of(pickled::set)); break;
      case 'N': push(id{0}); break;
      case 0x88: push(id{2}); break;
      case 0x89: push(id{1}); break;
      case 'K': push(of_integer(static_cast<std::int64_t>(number(1)))); break;
      case 'M': push(of_integer(static_cast<std::int64_t>(number(2)))); break;
      case 'J': push(of_integer(static_cast<std::int32_t>(number(4)))); break;
      case 0x8a: push_long(take(number(1))); break;
      case 0x8b: {
        auto const n = static_cast<std::int32_t>(number(4));
        if (n < 0) fail("an integer of negative length");
        push_long(take(static_cast<std::uint64_t>(n)));
        break;
      }
      case 'G': {
        std::uint64_t bits = 0;
        for (char c : take(8)) bits = bits << 8 | static_cast<unsigned char>(c);
        double v = 0;
        std::memcpy(&v, &bits, 8);
        push(of_real(v));
        break;
      }
      case 'X': push_text(take(number(4))); break;
      case 0x8c: push_text(take(number(1))); break;
      case 0x8d: push_text(take(number(8))); break;
      case 'U':
      case 'T': {  // Python 2's str: ASCII in practice, else bytes
        std::string_view const raw = take(number(op == 'U' ? 1 : 4));
        push_text(raw, find_invalid_utf8(raw) == std::string_view::npos ? pickled::text : pickled::raw);
        break;
      }
      case 'C': push_text(take(number(1)), pickled::raw); break;
      case 'B': push_text(take(number(4)), pickled::raw); break;
      case 0x8e:
      case 0x96: push_text(take(number(8)), pickled::raw); break;
      case 'q': put_memo(number(1)); break;
      case 'r': put_memo(number(4)); break;
      case 0x94: put_memo(memo_puts_); break;
      case 'h': get_memo(number(1)); break;
      case 'j': get_memo(number(4)); break;
      case 'c': {
        std::string_view const module = line();
        push_global(module, line());
        break;
      }
      case 0x93: {
        id const name = pop();
        id const module = pop();
        if (kind(name) != pickled::text || kind(module) != pickled::text) fail("STACK_GLOBAL of something that is no string");
        push_global(text_of(module), text_of(name));
        break;
      }
      case 'R':
      case 0x81: {
        id const args = pop();
        id const callable = pop();
        if (op == 0x81 && (kind(callable) != pickled::global ||
                           (static_cast<known>(nodes_[callable].index) != known::parameter && static_cast<known>(nodes_[callable].index) != known::ordered_dict &&
                            static_cast<known>(nodes_[callable].index) != known::size)))
          fail("NEWOBJ of a class that is not plain data");
        reduce(callable, args);
        break;
      }
      case 'b': build(pop()); break;
      case 'Q': push_storage(pop()); break;
      case 't': push(of_children(pickled::tuple, pop_to_mark())); break;
      case 0x85:
      case 0x86:
      case 0x87: {
        std::vector<id> items(op - 0x84u);
        for (std::size_t i = items.size(); i-- != 0;) items[i] = pop();
        push(of_children(pickled::tuple, std::move(items)));
        break;
      }
      case 's': {
        id const value = pop();
        id const key = pop();
        set_items(top(), {key, value});
        break;
      }
      case 'u': {
        std::vector<id> const items = pop_to_mark();
        set_items(top(), items);
        break;
      }
      case 'a': {
        id const value = pop();
        append_items(top(), {value});
        break;
      }
      case 'e': {
        std::vector<id> const items = pop_to_mark();
        append_items(top(), items);
        break;
      }
      case 0x90: {
        std::vector<id> const items = pop_to_mark();
        id const target = top();
        if (kind(target) != pickled::set) fail("ADDITEMS to something that is no set");
        std::vector<id>& to = grow(target, items.size());
        to.insert(to.end(), items.begin(), items.end());
        break;
      }
      case 0x91: push(of_children(pickled::set, pop_to_mark())); break;
      case 0x95:
        if (std::uint64_t const n = number(8); n > text_.size() - at_) {
          ran_out_ = true;
          fail("a FRAME longer than the pickle");
        }
        break;
      case '0':
        if (!marks_.empty() && marks_.back() == stack_.size()) marks_.pop_back();  // POP of a MARK
        else pop();
        break;
      case '1': pop_to_mark(); break;
      case '2': push(top()); break;
      case 'I': {
        std::string_view const digits = line();
        if (digits == "00" || digits == "01") push(id{digits == "01" ? 2u : 1u});
        else push_integer_text(digits);
        break;
      }
      case 'L': push_integer_text(line()); break;
      case 'F': {
        std::string_view const digits = line();
        double v = 0;
        auto const [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), v);
        if (status != std::errc{} || end != digits.data() + digits.size()) fail({"no number: ", quoted_part(digits)});
        push(of_real(v));
        break;
      }
      case 'd': {
        std::vector<id> const items = pop_to_mark();
        id const made = add(of(pickled::dict));
        set_items(made, items);
        push(made);
        break;
      }
      case 'l': push(of_children(pickled::list, pop_to_mark())); break;
      default: {
        char hex[8];
        std::snprintf(hex, sizeof hex, "0x%02x", op);
        fail({"unknown or refused pickle opcode ", hex});
      }
    }
  }
}

template <class Unused>
MORTISE_COLD archive_value basic_unpickler<Unused>::to_tree(std::vector<tensor_info>& infos, std::vector<std::uint32_t>& origin) {
  struct level {
    id source;
    archive_value made;
    std::size_t next;
    std::size_t name_length;
  };
  std::vector<level> stack;
  std::string name;
  archive_value value;
  auto const key_of = [this](id i) -> archive_key {
    node const& n = nodes_[i];
    switch (n.kind) {
      case pickled::text: return archive_key{text_of(i)};
      case pickled::integer: return archive_key{n.integer};
      case pickled::none: return archive_key{"None"};
      case pickled::boolean: return archive_key{n.integer ? "True" : "False"};
      case pickled::real: return archive_key{mortise::to_string(archive_value{n.real})};
      case pickled::raw:
      case pickled::big_integer: return archive_key{text_of(i)};
      default: {  // a tuple, as Python prints it
        std::string out = "(";
        for (std::size_t k = 0; k != children(i).size(); ++k) {
          id const c = children(i)[k];
          out += k ? ", " : "";
          if (kind(c) == pickled::integer) out += std::to_string(nodes_[c].integer);
          else if (kind(c) == pickled::text) out += "'" + std::string{text_of(c)} + "'";
          else fail("a dict's key is a tuple of something else than integers and strings");
        }
        return archive_key{out + (children(i).size() == 1 ? ",)" : ")")};
      }
    }
  };
  // Makes a leaf, or opens a container; true when it is complete.
  auto const begin = [&](id i) -> bool {
    node const& n = nodes_[i];
    spend(2 * sizeof(archive_value));
    switch (n.kind) {
      case pickled::none: value = nullptr; return true;
      case pickled::boolean: value = n.integer != 0; return true;
      case pickled::integer: value = n.integer; return true;
      case pickled::real: value = n.real; return true;
      case pickled::big_integer:
      case pickled::text:
      case pickled::raw:
        spend(sizeof(std::string) + n.text.length);
        value = n.kind == pickled::raw ? archive_value::bytes(std::string{text_of(i)}) : archive_value{std::string{text_of(i)}};
        return true;
      case pickled::dtype: value = "torch." + std::string{name_of(static_cast<element_type>(n.index))}; return true;
      case pickled::tensor: {
        pickled_tensor const& t = tensors[n.index];
        spend(sizeof(tensor_ref) + sizeof(tensor_info) + name.size() + 3 * t.shape.size() * sizeof(std::size_t));
        tensor_ref ref;
        ref.type = t.type;
        ref.shape = t.shape;
        ref.entry = infos.size();
        tensor_info info;
        info.name = name;
        info.type = t.type;
        info.shape = t.shape;
        info.strides = t.strides;
        info.storage_offset = static_cast<std::size_t>(t.offset);
        infos.push_back(std::move(info));
        origin.push_back(n.index);
        value = std::move(ref);
        return true;
      }
      case pickled::storage: fail("the file holds a bare storage; save a tensor instead");
      case pickled::storage_class:
      case pickled::global: fail("the file holds a class or function as a value");
      default: break;
    }
    if (stack.size() == max_depth) fail("values nested deeper than 200 levels, or a value that contains itself");
    spend(64);
    stack.push_back({i, n.kind == pickled::dict ? archive_value::dict() : n.kind == pickled::tuple ? archive_value::tuple() : archive_value::list(), 0, name.size()});
    return false;
  };
  id const root = stack_[0];
  bool complete = begin(root);
  for (;;) {
    if (stack.empty()) return value;
    level& top = stack.back();
    bool const is_dict = kind(top.source) == pickled::dict;
    if (complete) {
      if (is_dict) {
        archive_key key = key_of(children(top.source)[2 * (top.next - 1)]);
        spend(sizeof(archive_key) + key.text().size());
        top.made.append(std::move(key), std::move(value));
      } else {
        top.made.push_back(std::move(value));
      }
    }
    auto const& c = children(top.source);
    name.resize(top.name_length);
    if (top.next == (is_dict ? c.size() / 2 : c.size())) {
      if (is_dict)
        if (std::size_t const twice = find_duplicate(top.made.keys()); twice != static_cast<std::size_t>(-1))
          fail({"a dict has the key ", quoted_part(top.made.keys()[twice].to_string()), " twice"});
      value = std::move(top.made);
      stack.pop_back();
      complete = true;
      if (stack.empty()) return value;
      continue;
    }
    std::size_t const i = top.next++;
    if (stack.size() > 1) name += '.';
    name += is_dict ? key_of(c[2 * i]).to_string() : std::to_string(i);
    complete = begin(is_dict ? c[2 * i + 1] : c[i]);
  }
}

}  // namespace mortise::detail
