// How a run becomes a file, composed of policies, one of each kind; what is left out has a sensible default.
//
//   format       safetensors, torch_zip, npz; default by_extension
//   layout       one_file (default), sharded{.max_bytes}: NAME-00001-of-00003.safetensors and an index.json;
//                mappable: one file of safetensors in the order of memory, whose pages a model can adopt (load_options::adopt)
//   integrity    unchecked (default), checksummed: a CRC-32 of each tensor, demanded and verified on load; torch_zip and npz always have one
//   durability   durable (default): atomic, and on the disk when save returns; fast: atomic against a crash of the program only
//   reading      by_read (default), memory_mapped: how `load` opens a path
//
// Targets and sources are arguments: a path, a std::ostream or std::istream, a byte_sink, bytes in memory.
#pragma once

#include <cstddef>
#include <istream>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>
#include <mortise/archive/shards.hpp>
#include <mortise/config.hpp>
#include <mortise/train/load_options.hpp>
#include <mortise/train/state_dict.hpp>

namespace mortise {

struct by_extension {};
struct one_file {};
struct mappable {};
struct unchecked {};
struct checksummed {};
struct durable {};
struct fast {};
struct by_read {};
struct memory_mapped {};

namespace detail {

enum class policy_kind { none, format, layout, integrity, durability, reading };

template <class P>
constexpr policy_kind kind_of_policy() {
  if constexpr (std::is_same_v<P, one_file> || std::is_same_v<P, mappable> || std::is_same_v<P, sharded>) return policy_kind::layout;
  else if constexpr (std::is_same_v<P, unchecked> || std::is_same_v<P, checksummed>) return policy_kind::integrity;
  else if constexpr (std::is_same_v<P, durable> || std::is_same_v<P, fast>) return policy_kind::durability;
  else if constexpr (std::is_same_v<P, by_read> || std::is_same_v<P, memory_mapped>) return policy_kind::reading;
  else if constexpr (std::is_same_v<P, by_extension> || requires { P::name; P::extension; }) return policy_kind::format;
  else return policy_kind::none;
}

template <policy_kind Kind, class Default, class... Policies>
struct policy_of {
  using type = Default;
};
template <policy_kind Kind, class Default, class First, class... Rest>
struct policy_of<Kind, Default, First, Rest...> {
  using type = typename std::conditional_t<kind_of_policy<First>() == Kind, std::type_identity<First>, policy_of<Kind, Default, Rest...>>::type;
};

/// What is saved of an object: a tree is itself, a checkpoint has one, everything else is a state_dict.
template <class X>
decltype(auto) tree_of(X const& x) {
  if constexpr (std::is_same_v<X, archive_value>) return (x);
  else if constexpr (requires { x.tree(); }) return x.tree();
  else return state_dict(x);
}

template <class X>
load_report load_through(archive_reader const& in, X& x, load_options const& options) {
  if constexpr (std::is_same_v<X, archive_value>) {
    x = in.read_tree();
    return {};
  } else {
    return load(in, x, options);  // found where X's load is, at instantiation
  }
}

/// All that a stream holds.
template <class = void>
MORTISE_COLD std::vector<std::byte> read_stream(std::istream& in) {
  constexpr std::size_t piece = std::size_t{1} << 20;
  std::vector<std::byte> bytes;
  for (;;) {
    std::size_t const old = bytes.size();
    bytes.resize(old + piece);
    in.read(reinterpret_cast<char*>(bytes.data() + old), static_cast<std::streamsize>(piece));
    bytes.resize(old + static_cast<std::size_t>(in.gcount()));
    if (!in) break;
  }
  if (in.bad()) throw io_error{"stream", "read", EIO};
  return bytes;
}

}  // namespace detail

/// Saves and loads models, checkpoints and trees.
///
///     mt::serializer<mt::safetensors, mt::sharded, mt::checksummed> files{mt::sharded{.max_bytes = 1'000'000'000}};
///     files.save("run.safetensors", run);
///     files.load("run.safetensors", run);
///
/// Errors are those of mortise::save and mortise::load.
template <class... Policies>
class serializer {
  using kind = detail::policy_kind;
  static constexpr bool known = ((detail::kind_of_policy<Policies>() != kind::none) && ...);
  static_assert(known,
                "mortise::serializer: policies are a format (safetensors, torch_zip, npz), a layout (one_file, mappable, sharded), an integrity (unchecked, "
                "checksummed), a durability (durable, fast) and a way of reading (by_read, memory_mapped)");
  template <kind K>
  static constexpr int count = (0 + ... + (detail::kind_of_policy<Policies>() == K ? 1 : 0));
  static_assert(count<kind::format> <= 1 && count<kind::layout> <= 1 && count<kind::integrity> <= 1 && count<kind::durability> <= 1 &&
                    count<kind::reading> <= 1,
                "mortise::serializer: two policies of the same kind; name one format, one layout, one integrity, one durability, one way of reading");

 public:
  using format = typename detail::policy_of<kind::format, by_extension, Policies...>::type;
  using layout = typename detail::policy_of<kind::layout, one_file, Policies...>::type;
  static constexpr bool is_sharded = std::is_same_v<layout, sharded>;
  static constexpr bool is_mappable = std::is_same_v<layout, mappable>;
  static constexpr bool is_checksummed = std::is_same_v<typename detail::policy_of<kind::integrity, unchecked, Policies...>::type, checksummed>;
  static constexpr bool is_durable = std::is_same_v<typename detail::policy_of<kind::durability, durable, Policies...>::type, durable>;
  static constexpr bool is_mapped = std::is_same_v<typename detail::policy_of<kind::reading, by_read, Policies...>::type, memory_mapped>;
  static_assert(!(is_sharded || is_mappable) || std::is_same_v<format, safetensors> || std::is_same_v<format, by_extension>,
                "mortise::serializer: this layout is written as safetensors; leave the other format out, or save one file");

  serializer() = default;
  /// Policies with settings: sharded{.max_bytes = ...}.
  template <class... P>
    requires(sizeof...(P) > 0 && ((detail::kind_of_policy<P>() != kind::none) && ...))
  explicit serializer(P const&... settings) {
    ((std::get<P>(policies_) = settings), ...);
  }

  /// To a file. On failure what was there before is untouched; of several files, see detail::write_shards.
  template <class X>
  void save(std::string const& path, X const& x, archive_metadata const& extra = {}) const {
    decltype(auto) tree = detail::tree_of(x);
    save_options const options{is_durable, extra, is_checksummed, is_mappable};
    detail::write_once(x, [&] {
      if constexpr (is_sharded) detail::write_shards(path, tree, std::get<sharded>(policies_), is_checksummed, is_durable, extra);
      else if constexpr (std::is_same_v<format, by_extension>) save_archive(path, tree, options);
      else save_archive<format>(path, tree, options);
    });
  }
  template <class X>
  void save(byte_sink& out, X const& x, archive_metadata const& extra = {}) const {
    static_assert(!is_sharded, "mortise::serializer: several files need a path; give the serializer the layout one_file");
    static_assert(!std::is_same_v<format, by_extension>,
                  "mortise::serializer: memory and streams have no extension; name the format: serializer<safetensors>");
    save_archive<format>(out, detail::tree_of(x), save_options{is_durable, extra, is_checksummed, is_mappable});
  }
  template <class X>
  void save(std::ostream& out, X const& x, archive_metadata const& extra = {}) const {
    stream_sink sink{out};
    save(sink, x, extra);
    if (!out.flush()) throw io_error{"stream", "write", EIO};
  }
  template <class X>
  std::vector<std::byte> to_bytes(X const& x, archive_metadata const& extra = {}) const {
    memory_sink sink;
    save(sink, x, extra);
    return sink.take();
  }

  /// Any format, recognised by content.
  archive_reader open(std::string const& path) const {
    if constexpr (is_mapped) return demand(map_file(path));
    else return demand(open_archive(path));
  }
  template <class X>
  load_report load(std::string const& path, X& x, load_options const& options = {}) const {
    return detail::load_through(open(path), x, options);
  }
  template <class X>
  load_report load(std::span<std::byte const> bytes, X& x, load_options const& options = {}) const {
    return detail::load_through(demand(open_archive(bytes)), x, options);
  }
  template <class X>
  load_report load(std::istream& in, X& x, load_options const& options = {}) const {
    return detail::load_through(demand(open_archive(byte_source::own(detail::read_stream(in), "stream"))), x, options);
  }

 private:
  static archive_reader demand(archive_reader in) {
    if constexpr (is_checksummed)
      for (std::size_t i = 0; i != in.tensors().size(); ++i)
        if (!in.has_checksum(i))
          throw archive_error{in.name(), archive_error::no_offset,
                              "tensor " + detail::in_quotes(in.tensors()[i].name) + " has no checksum, which this serializer demands"};
    return in;
  }

  std::tuple<Policies...> policies_{};
};

}  // namespace mortise
