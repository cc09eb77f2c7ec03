// The plan of a network: what runs in which order, where every parameter and every intermediate value lies. All of it is computed by
// ordinary constexpr loops over the flat token list; nothing of it exists at run time but constants.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include <mortise/detail/words.hpp>
#include <mortise/module/composition.hpp>

namespace mortise {

/// A named part of a network's state, in the order of PyTorch's state_dict.
struct state_entry {
  enum class kind : std::uint8_t { parameter, buffer, counter };
  std::string_view name = {};
  shape extents = {};
  std::size_t offset = 0;  ///< in the flat array of its kind
  std::size_t size = 0;
  kind what = kind::parameter;
  bool trainable = false;
  initializer init = {};
  std::size_t node = 0;
};

/// A parameter: where it lies in the flat arrays of parameters, gradients and optimizer state.
using parameter_entry = state_entry;

/// A list with a fixed capacity that a constexpr table exposes.
template <class T, std::size_t N>
struct table_of {
  T items[N == 0 ? 1 : N] = {};
  constexpr std::size_t size() const { return N; }
  constexpr T const& operator[](std::size_t i) const { return items[i]; }
  constexpr T& operator[](std::size_t i) { return items[i]; }
  constexpr T const* begin() const { return items; }
  constexpr T const* end() const { return items + N; }
};

namespace detail {

inline constexpr std::size_t nowhere = static_cast<std::size_t>(-1);

struct token_info {
  enum class kind : std::uint8_t { run, enter, enter_index, leave, fork, rotate, add, concatenate, freeze_begin, freeze_end };
  kind what = kind::leave;
  std::size_t count = 0;
  std::string_view name = {};
  module_description (*describe)(shape) = nullptr;
};

template <class Token>
struct token_info_of;
template <class M>
struct token_info_of<token::run<M>> {
  static constexpr module_description describe(shape in) { return M::describe(in); }
  static constexpr token_info value{token_info::kind::run, 0, M::name, &describe};
};
template <class Token>
  requires requires { Token::entered_name; }
struct token_info_of<Token> {
  static constexpr token_info value{token_info::kind::enter, 0, std::string_view{Token::entered_name}, nullptr};
};
template <std::size_t I>
struct token_info_of<token::enter_index<I>> {
  static constexpr token_info value{token_info::kind::enter_index, I, {}, nullptr};
};
template <>
struct token_info_of<token::leave> {
  static constexpr token_info value{token_info::kind::leave, 0, {}, nullptr};
};
template <std::size_t K>
struct token_info_of<token::fork<K>> {
  static constexpr token_info value{token_info::kind::fork, K, "fork", nullptr};
};
template <std::size_t K>
struct token_info_of<token::rotate<K>> {
  static constexpr token_info value{token_info::kind::rotate, K, {}, nullptr};
};
template <>
struct token_info_of<token::add> {
  static constexpr token_info value{token_info::kind::add, 2, "add", nullptr};
};
template <std::size_t K>
struct token_info_of<token::concatenate<K>> {
  static constexpr token_info value{token_info::kind::concatenate, K, "concat", nullptr};
};
template <>
struct token_info_of<token::freeze_begin> {
  static constexpr token_info value{token_info::kind::freeze_begin, 0, {}, nullptr};
};
template <>
struct token_info_of<token::freeze_end> {
  static constexpr token_info value{token_info::kind::freeze_end, 0, {}, nullptr};
};

/// Why a network cannot be planned.
enum class plan_error : std::uint8_t { none, layer_rejects, name_twice, sum_of_different_shapes, concat_of_different_shapes, too_deep };

/// Sizes of the tables; found by a first walk.
struct plan_sizes {
  std::size_t nodes = 0;
  std::size_t tensors = 1;
  std::size_t edges = 0;
  std::size_t states = 0;
  std::size_t parameters = 0;
  std::size_t characters = 0;
};

struct plan_counts : plan_sizes {
  plan_error error = plan_error::none;
  std::size_t error_token = 0;
  shape error_shape = {};
  shape error_other = {};
  char const* remedy = nullptr;
  char error_path[128] = {};
};

/// A size or an offset that depends on the batch: batch * per_sample + fixed, rounded down to 16 elements.
struct extent_in_batches {
  std::size_t per_sample = 0;
  std::size_t fixed = 0;
};

/// Where values lie: nowhere, in the caller's input, or in the arena.
struct place {
  enum class kind : std::uint8_t { none, external, arena };
  kind where = kind::none;
  extent_in_batches at = {};
};

struct node_info {
  token_info::kind what = token_info::kind::run;
  std::size_t token = 0;
  std::string_view type = {};
  std::size_t path_begin = 0, path_size = 0;
  std::size_t edge = 0, inputs = 0, outputs = 0;  // tensors: edges[edge .. edge + inputs) in, then outputs
  shape in = {}, out = {};
  bool frozen = false;
  bool view = false, clips_input = false, reads_input = false, reads_output = false, in_place = false, backward_in_place = false;
  bool runs_backward = false, wants_input_gradient = false;
  std::size_t first_state = 0, states = 0;
  std::size_t parameter_base = 0, parameter_count = 0, parameter_size = 0;
  std::size_t buffer_base = 0, counter_base = 0;
  std::size_t parameter_offsets[16] = {};
  std::size_t saved = 0, saved_fixed = 0, saved_byte_elements = 0;
  place saved_at = {}, saved_bytes_at = {};
};

struct tensor_plan {
  shape extents = {};
  std::size_t producer = nowhere;
  std::size_t root = 0;      // the tensor whose memory this one is (views and forks)
  std::size_t readers = 0;   // of the root: nodes that read the memory
  std::size_t storage = 0;   // roots that share memory by working in place have the same storage
  bool requires_gradient = false;
  place training = {}, evaluation = {}, gradient = {};
};

template <plan_sizes C>
struct plan_tables {
  table_of<node_info, C.nodes> nodes;
  table_of<tensor_plan, C.tensors> tensors;
  table_of<std::size_t, C.edges> edges;
  table_of<state_entry, C.states> states;       // names are filled in later: they point into `characters`
  table_of<std::size_t, C.states> name_begin, name_size;
  table_of<char, C.characters> characters;
  std::size_t parameter_count = 0;              // elements
  std::size_t trainable_count = 0;
  std::size_t buffer_count = 0;
  std::size_t counter_count = 0;
  std::size_t output_tensor = 0;
  extent_in_batches training_arena = {}, evaluation_arena = {}, workspace = {};
  place training_workspace = {}, evaluation_workspace = {};
};

/// The path of names while tokens are walked.
struct path_stack {
  char text[128] = {};
  std::size_t size = 0;
  std::size_t marks[33] = {};
  std::size_t depth = 0;
  bool overflow = false;

  constexpr void put(char c) {
    if (size + 1 < 128) text[size++] = c;
    else overflow = true;
  }
  constexpr void enter(std::string_view name) {
    if (depth == 32) {
      overflow = true;
      return;
    }
    marks[depth++] = size;
    if (size != 0) put('.');
    for (char const c : name) put(c);
  }
  constexpr void enter(std::size_t index) {
    char digits[20] = {};
    std::size_t n = 0;
    do {
      digits[19 - n++] = static_cast<char>('0' + index % 10);
      index /= 10;
    } while (index != 0);
    enter(std::string_view{digits + 20 - n, n});
  }
  constexpr void leave() { size = marks[--depth]; }
};

struct no_tables {};

/// Whether the module that runs right behind token i, within the same frozen part or none, takes over that one's max(x, 0).
constexpr bool next_clips_input(token_info const* tokens, std::size_t token_count, std::size_t i, shape const& out) {
  for (++i; i < token_count; ++i) {
    auto const what = tokens[i].what;
    if (what == token_info::kind::enter || what == token_info::kind::enter_index || what == token_info::kind::leave) continue;
    return what == token_info::kind::run && tokens[i].describe(out).may_clip_input;
  }
  return false;
}

/// Walks the tokens once. With `no_tables` it only counts and checks; otherwise it fills nodes, tensors, edges and states.
template <class Tables>
constexpr plan_counts walk_tokens(token_info const* tokens, std::size_t token_count, shape const& input, std::size_t element_bytes,
                                  Tables& tables) {
  constexpr bool filling = !std::is_same_v<Tables, no_tables>;
  constexpr std::size_t stack_limit = 64;
  plan_counts c;
  std::size_t stack[stack_limit] = {};
  shape shapes[stack_limit] = {};
  std::size_t depth = 1;
  shapes[0] = input;
  path_stack path;
  std::size_t frozen = 0;
  bool clip_next = false;
  auto fail = [&](plan_error error, std::size_t token) {
    c.error = error;
    c.error_token = token;
    for (std::size_t i = 0; i < path.size; ++i) c.error_path[i] = path.text[i];
  };
  if constexpr (filling) tables.tensors[0].extents = input;

  for (std::size_t i = 0; i < token_count; ++i) {
    token_info const& t = tokens[i];
    switch (t.what) {
      case token_info::kind::enter: path.enter(t.name); break;
      case token_info::kind::enter_index: path.enter(t.count); break;
      case token_info::kind::leave: path.leave(); break;
      case token_info::kind::freeze_begin: ++frozen; break;
      case token_info::kind::freeze_end: --frozen; break;
      case token_info::kind::rotate: {
        std::size_t const id = stack[depth - t.count];
        shape const s = shapes[depth - t.count];
        for (std::size_t k = depth - t.count; k + 1 < depth; ++k) {
          stack[k] = stack[k + 1];
          shapes[k] = shapes[k + 1];
        }
        stack[depth - 1] = id;
        shapes[depth - 1] = s;
        break;
      }
      case token_info::kind::fork: {
        if (depth + t.count > stack_limit) {
          fail(plan_error::too_deep, i);
          return c;
        }
        std::size_t const in = stack[depth - 1];
        shape const s = shapes[depth - 1];
        if constexpr (filling) {
          node_info& n = tables.nodes[c.nodes];
          n.what = t.what;
          n.token = i;
          n.type = t.name;
          n.edge = c.edges;
          n.inputs = 1;
          n.outputs = t.count;
          n.in = n.out = s;
          tables.edges[c.edges] = in;
        }
        ++c.edges;
        --depth;
        for (std::size_t k = 0; k < t.count; ++k) {
          if constexpr (filling) {
            tables.edges[c.edges] = c.tensors;
            tables.tensors[c.tensors].extents = s;
            tables.tensors[c.tensors].producer = c.nodes;
            tables.tensors[c.tensors].root = tables.tensors[in].root;
          }
          ++c.edges;
          shapes[depth] = s;
          stack[depth++] = c.tensors++;
        }
        ++c.nodes;
        break;
      }
      case token_info::kind::run:
      case token_info::kind::add:
      case token_info::kind::concatenate: {
        std::size_t const inputs = t.what == token_info::kind::run ? 1 : t.count;
        shape const in = shapes[depth - inputs];
        module_description d;
        if (t.what == token_info::kind::run) {
          d = t.describe(in);
          if (d.problem != nullptr) {
            c.error_shape = in;
            c.error_other = d.fitting;
            c.remedy = d.problem;
            fail(plan_error::layer_rejects, i);
            return c;
          }
        } else {
          d.output = in;
          d.reads_input = false;
          for (std::size_t k = 1; k < inputs; ++k) {
            shape const other = shapes[depth - inputs + k];
            bool same = other.rank == in.rank;
            for (std::size_t axis = t.what == token_info::kind::add ? 0 : 1; same && axis < in.rank; ++axis) same = other[axis] == in[axis];
            if (!same || in.rank == 0) {
              c.error_shape = in;
              c.error_other = other;
              fail(t.what == token_info::kind::add ? plan_error::sum_of_different_shapes : plan_error::concat_of_different_shapes, i);
              return c;
            }
            if (t.what == token_info::kind::concatenate) d.output[0] += other[0];
          }
        }
        if constexpr (filling) {
          node_info& n = tables.nodes[c.nodes];
          n.clips_input = clip_next;
          clip_next = d.clips && next_clips_input(tokens, token_count, i, d.output);
          if (clip_next) {  // a name, and nothing to do
            d.view = true;
            d.reads_output = false;
          }
          n.what = t.what;
          n.token = i;
          n.type = t.name;
          n.path_begin = c.characters;
          n.path_size = path.size;
          for (std::size_t k = 0; k < path.size; ++k) tables.characters[c.characters + k] = path.text[k];
          n.edge = c.edges;
          n.inputs = inputs;
          n.outputs = 1;
          n.in = in;
          n.out = d.output;
          n.frozen = frozen != 0;
          n.view = d.view;
          n.reads_input = d.reads_input && !(frozen != 0 && d.input_for_parameters_only);
          n.reads_output = d.reads_output;
          n.in_place = d.in_place;
          n.backward_in_place = d.backward_in_place;
          n.first_state = c.states;
          n.states = d.parameters.size() + d.buffers.size();
          if (frozen == 0 || !d.saved_in_training_only) {
            n.saved = d.saved;
            n.saved_fixed = d.saved_fixed;
            n.saved_byte_elements = (d.saved_bytes + element_bytes - 1) / element_bytes;
          }
          if (d.workspace > tables.workspace.per_sample) tables.workspace.per_sample = d.workspace;
          if (d.workspace_fixed > tables.workspace.fixed) tables.workspace.fixed = d.workspace_fixed;
          for (std::size_t k = 0; k < inputs; ++k) tables.edges[c.edges + k] = stack[depth - inputs + k];
          tables.edges[c.edges + inputs] = c.tensors;
          tensor_plan& out = tables.tensors[c.tensors];
          out.extents = d.output;
          out.producer = c.nodes;
          out.root = d.view ? tables.tensors[stack[depth - 1]].root : c.tensors;
          if (!d.view)
            for (std::size_t k = 0; k < inputs; ++k) ++tables.tensors[tables.tensors[stack[depth - inputs + k]].root].readers;
        }
        c.characters += path.size;
        auto add_state = [&](std::string_view name, shape const& extents, state_entry::kind what, initializer const& initial) {
          std::size_t const separator = path.size == 0 ? 0 : 1;
          std::size_t const size = path.size + separator + name.size();
          if constexpr (filling) {
            state_entry& s = tables.states[c.states];
            s.extents = extents;
            s.size = extents.elements();
            s.what = what;
            s.trainable = what == state_entry::kind::parameter && frozen == 0;
            s.init = initial;
            s.node = c.nodes;
            tables.name_begin[c.states] = c.characters;
            tables.name_size[c.states] = size;
            std::size_t at = c.characters;
            for (std::size_t k = 0; k < path.size; ++k) tables.characters[at++] = path.text[k];
            if (separator != 0) tables.characters[at++] = '.';
            for (char const x : name) tables.characters[at++] = x;
          }
          c.characters += size;
          ++c.states;
        };
        for (auto const& p : d.parameters) {
          add_state(p.name, p.extents, state_entry::kind::parameter, p.init);
          ++c.parameters;
        }
        for (auto const& b : d.buffers)
          add_state(b.name, b.extents, b.counter ? state_entry::kind::counter : state_entry::kind::buffer, init::constant(b.initial));
        c.edges += inputs + 1;
        depth -= inputs;
        shapes[depth] = d.output;
        stack[depth++] = c.tensors++;
        ++c.nodes;
        break;
      }
    }
    if (path.overflow) {
      fail(plan_error::too_deep, i);
      return c;
    }
  }
  if constexpr (filling) tables.output_tensor = stack[depth - 1];
  return c;
}

constexpr std::uint64_t hash_of(std::string_view text) { return stream_id(text); }

/// Finds a path or a state name that occurs twice: a small open hash table keeps this linear in the number of names.
template <plan_sizes C>
constexpr std::size_t find_name_twice(plan_tables<C> const& t) {
  constexpr std::size_t slots = 4 * (C.nodes + C.states) + 1;
  std::uint64_t seen[slots] = {};
  auto insert = [&](std::string_view text, std::uint64_t salt) {
    std::uint64_t const h = (hash_of(text) ^ salt) | 1u;
    std::size_t at = static_cast<std::size_t>(h % slots);
    while (seen[at] != 0) {
      if (seen[at] == h) return false;
      at = (at + 1) % slots;
    }
    seen[at] = h;
    return true;
  };
  for (std::size_t i = 0; i < C.nodes; ++i) {
    node_info const& n = t.nodes[i];
    if (n.what == token_info::kind::run && !insert({t.characters.items + n.path_begin, n.path_size}, 0x5bd1e995u)) return i;
  }
  for (std::size_t i = 0; i != C.states; ++i)
    if (!insert({t.characters.items + t.name_begin[i], t.name_size[i]}, 0)) return t.states[i].node;
  return nowhere;
}

/// Offsets of parameters (trainable ones first, each kind in PyTorch's order), buffers and counters.
template <plan_sizes C>
constexpr void place_states(plan_tables<C>& t) {
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 0; i != C.states; ++i) {
      state_entry& s = t.states[i];
      if (s.what == state_entry::kind::parameter && s.trainable == (pass == 0)) {
        s.offset = t.parameter_count;
        t.parameter_count += s.size;
      }
    }
    if (pass == 0) t.trainable_count = t.parameter_count;
  }
  for (std::size_t i = 0; i < C.nodes; ++i) {
    node_info& n = t.nodes[i];
    n.buffer_base = t.buffer_count;
    n.counter_base = t.counter_count;
    bool first = true;
    for (std::size_t k = n.first_state; k < n.first_state + n.states; ++k) {
      state_entry& s = t.states[k];
      if (s.what == state_entry::kind::parameter) {
        if (first) n.parameter_base = s.offset;
        first = false;
        n.parameter_offsets[n.parameter_count++] = s.offset - n.parameter_base;
        n.parameter_size += s.size;
      } else {
        std::size_t& count = s.what == state_entry::kind::buffer ? t.buffer_count : t.counter_count;
        s.offset = count;
        count += s.size;
      }
    }
  }
}

/// Which tensors need a gradient: those behind anything that learns.
template <plan_sizes C>
constexpr void find_gradients(plan_tables<C>& t, bool input_gradient) {
  t.tensors[0].requires_gradient = input_gradient;
  for (std::size_t i = 0; i < C.nodes; ++i) {
    node_info& n = t.nodes[i];
    bool const learns = n.parameter_count != 0 && !n.frozen;
    for (std::size_t k = 0; k < n.inputs; ++k)
      n.wants_input_gradient = n.wants_input_gradient || t.tensors[t.edges[n.edge + k]].requires_gradient;
    n.runs_backward = learns || n.wants_input_gradient;
    for (std::size_t k = 0; k < n.outputs; ++k) t.tensors[t.edges[n.edge + n.inputs + k]].requires_gradient = n.runs_backward;
  }
}

/// Blocks of memory that are reused as soon as their last reader is done. All offsets are linear in the batch, so a slot is as large as
/// the largest tensor that ever lies in it, and the same plan fits every batch.
template <std::size_t N>
struct slot_list {
  std::size_t size[N] = {};
  std::size_t users[N] = {};
  std::size_t count = 0;

  /// A free slot: the smallest that fits, else the largest, which grows, else a new one.
  constexpr std::size_t take(std::size_t elements) {
    std::size_t best = nowhere;
    for (std::size_t i = 0; i < count; ++i) {
      if (users[i] != 0) continue;
      if (best == nowhere) best = i;
      else if (size[best] < elements ? size[i] > size[best] : size[i] >= elements && size[i] < size[best]) best = i;
    }
    if (best == nowhere) best = count++;
    if (size[best] < elements) size[best] = elements;
    users[best] = 1;
    return best;
  }
};

/// A block after `end`; every block has 16 elements more than its size, so that starts can be rounded down to 64 bytes.
constexpr place append_block(extent_in_batches& end, std::size_t per_sample, std::size_t fixed) {
  end.fixed += 16;
  place const p{place::kind::arena, end};
  end.per_sample += per_sample;
  end.fixed += fixed;
  return p;
}

/// Decides where all values lie, for training (what backward reads is kept, gradients get memory) and for evaluation (nothing is kept).
template <plan_sizes C>
constexpr void place_values(plan_tables<C>& t) {
  // Storages: a module that works in place takes over the memory of its input if nobody else needs what was there.
  for (std::size_t i = 0; i < C.tensors; ++i) t.tensors[i].storage = t.tensors[i].root;
  bool keep[C.tensors] = {};
  std::size_t last_reader[C.tensors] = {};
  for (std::size_t i = 0; i < C.nodes; ++i) {
    node_info& n = t.nodes[i];
    if (n.what == token_info::kind::fork || n.view) continue;
    std::size_t const out = t.edges[n.edge + n.inputs];
    bool works_in_place = false;
    for (std::size_t k = 0; k < n.inputs; ++k) {
      std::size_t const root = t.tensors[t.edges[n.edge + k]].root;
      tensor_plan const& r = t.tensors[root];
      if (n.what == token_info::kind::run && n.in_place && !n.reads_input && r.readers == 1 && root != 0 && r.storage != 0 &&
          n.in.elements() == n.out.elements()) {
        node_info const& producer = t.nodes[r.producer];
        works_in_place = !(producer.what == token_info::kind::run && producer.reads_output && producer.runs_backward);
      }
      last_reader[r.storage] = i;
      if (n.runs_backward && n.reads_input) keep[r.storage] = true;
    }
    std::size_t const root = t.tensors[out].root;
    if (works_in_place) t.tensors[root].storage = t.tensors[t.tensors[t.edges[n.edge]].root].storage;
    last_reader[t.tensors[root].storage] = i;
    if (n.runs_backward && n.reads_output) keep[t.tensors[root].storage] = true;
  }
  for (std::size_t i = 0; i < C.tensors; ++i) t.tensors[i].storage = t.tensors[t.tensors[i].root].storage;
  std::size_t const output_storage = t.tensors[t.output_tensor].storage;

  for (int pass = 0; pass < 2; ++pass) {
    bool const training = pass == 0;
    slot_list<2 * C.tensors + 1> slots;
    std::size_t slot_of[C.tensors] = {};
    std::size_t gradient_slot[C.tensors] = {};
    place kept_at[C.tensors] = {};
    bool placed[C.tensors] = {};
    extent_in_batches end{};
    for (std::size_t i = 0; i < C.nodes; ++i) {
      node_info& n = t.nodes[i];
      if (n.what == token_info::kind::fork || n.view) continue;
      std::size_t const s = t.tensors[t.edges[n.edge + n.inputs]].storage;
      if (!placed[s]) {
        placed[s] = true;
        std::size_t const elements = n.out.elements();
        if (training && keep[s]) {
          kept_at[s] = append_block(end, elements, 0);
        } else {
          slot_of[s] = slots.take(elements);
        }
      }
      if (training && n.runs_backward) {
        if (n.saved + n.saved_fixed != 0) n.saved_at = append_block(end, n.saved, n.saved_fixed);
        if (n.saved_byte_elements != 0) n.saved_bytes_at = append_block(end, n.saved_byte_elements, 0);
      }
      // Free what was read for the last time. The output stays until the caller has seen it, and through the loss.
      for (std::size_t k = 0; k < n.inputs; ++k) {
        std::size_t const r = t.tensors[t.edges[n.edge + k]].storage;
        if (r != 0 && last_reader[r] == i && r != s && r != output_storage && !(training && keep[r])) slots.users[slot_of[r]] = 0;
      }
    }
    if (training && t.tensors[t.output_tensor].requires_gradient) {
      gradient_slot[t.output_tensor] = slots.take(t.tensors[t.output_tensor].extents.elements());
      for (std::size_t i = C.nodes; i-- > 0;) {
        node_info& n = t.nodes[i];
        if (!n.runs_backward) continue;
        std::size_t const out = t.edges[n.edge + n.inputs];
        std::size_t const in = t.edges[n.edge];
        if (n.what == token_info::kind::fork) {
          // Sum into the first copy's gradient unless something else still reads it.
          std::size_t target = gradient_slot[out];
          bool shared = slots.users[target] > 1;
          if (shared) target = slots.take(n.in.elements());
          for (std::size_t k = shared ? 0 : 1; k < n.outputs; ++k) --slots.users[gradient_slot[t.edges[n.edge + 1 + k]]];
          gradient_slot[in] = target;
          if (!t.tensors[in].requires_gradient) slots.users[target] = 0;
        } else if (n.view) {
          if (t.tensors[in].requires_gradient) gradient_slot[in] = gradient_slot[out];
          else --slots.users[gradient_slot[out]];
        } else if (n.what == token_info::kind::add) {
          std::size_t const slot = gradient_slot[out];
          --slots.users[slot];
          for (std::size_t k = 0; k < n.inputs; ++k) {
            std::size_t const x = t.edges[n.edge + k];
            if (!t.tensors[x].requires_gradient) continue;
            gradient_slot[x] = slot;
            ++slots.users[slot];
          }
        } else {
          std::size_t const slot = gradient_slot[out];
          bool const in_place = n.what == token_info::kind::run && n.backward_in_place && slots.users[slot] == 1 &&
                                t.tensors[in].requires_gradient && n.in.elements() == n.out.elements();
          if (in_place) {
            gradient_slot[in] = slot;
          } else {
            for (std::size_t k = 0; k < n.inputs; ++k) {
              std::size_t const x = t.edges[n.edge + k];
              if (t.tensors[x].requires_gradient) gradient_slot[x] = slots.take(t.tensors[x].extents.elements());
            }
            --slots.users[slot];
          }
        }
      }
    }
    place slot_at[2 * C.tensors + 1] = {};
    for (std::size_t i = 0; i < slots.count; ++i) slot_at[i] = append_block(end, slots.size[i], 0);
    for (std::size_t i = 0; i < C.tensors; ++i) {
      tensor_plan& x = t.tensors[i];
      place p{place::kind::external, {}};
      if (x.storage != 0) p = training && keep[x.storage] ? kept_at[x.storage] : slot_at[slot_of[x.storage]];
      (training ? x.training : x.evaluation) = p;
      if (training && x.requires_gradient) x.gradient = slot_at[gradient_slot[i]];
    }
    if (t.workspace.per_sample + t.workspace.fixed != 0)
      (training ? t.training_workspace : t.evaluation_workspace) = append_block(end, t.workspace.per_sample, t.workspace.fixed);
    (training ? t.training_arena : t.evaluation_arena) = end;
  }
}

template <plan_sizes C>
constexpr plan_tables<C> walked_tables(token_info const* tokens, std::size_t token_count, shape const& input, std::size_t element_bytes) {
  plan_tables<C> t;
  walk_tokens(tokens, token_count, input, element_bytes, t);
  return t;
}

template <plan_sizes C>
constexpr plan_tables<C> finished_tables(plan_tables<C> t, bool input_gradient, extent_in_batches const& workspace) {
  if (workspace.per_sample > t.workspace.per_sample) t.workspace.per_sample = workspace.per_sample;
  if (workspace.fixed > t.workspace.fixed) t.workspace.fixed = workspace.fixed;
  place_states(t);
  find_gradients(t, input_gradient);
  place_values(t);
  return t;
}

// ---- types by position, with one inheritance instead of a recursion --------------------------------------------------------------------

template <std::size_t I, class T>
struct indexed_type {
  using type = T;
};
template <class Indices, class... Ts>
struct indexed_types;
template <std::size_t... I, class... Ts>
struct indexed_types<std::index_sequence<I...>, Ts...> : indexed_type<I, Ts>... {};
template <std::size_t I, class T>
indexed_type<I, T> type_at_index(indexed_type<I, T> const&);

template <class Token>
struct module_of_token {
  using type = void;
};
template <class M>
struct module_of_token<token::run<M>> {
  using type = M;
};

// ---- errors in plain words: the report is in the template arguments, functions so that one mistake is one error -------------------------

template <class Extents>
struct shape_that_came {};
template <class Extents>
struct shape_that_fits {};
/// More than one shape would fit: the remedy says which.
struct see_remedy {};

template <class Path, class Layer, class Got, class Fitting, class Remedy>
constexpr bool layer_receives() {
  static_assert(sizeof(Path) == 0,
                "mortise::sequential: a layer does not accept the shape the layer before it produces; its path, the layer, the shape that came, "
                "the shape that would fit and the remedy stand beside this message");
  return true;
}
template <class Path, class First, class Second>
constexpr bool residual_adds() {
  static_assert(sizeof(Path) == 0,
                "mortise::residual: the body and the shortcut produce different shapes; give the shortcut a layer that makes them equal, such "
                "as a 1x1 convolution with the same stride; the path and both shapes stand beside this message");
  return true;
}
template <class Path, class First, class Second>
constexpr bool concat_joins() {
  static_assert(sizeof(Path) == 0,
                "mortise::concat: the branches differ in an axis other than the first (channels); only that one may differ, so give them the "
                "same stride, and padding that keeps their size; the path and both shapes stand beside this message");
  return true;
}
template <class Path>
constexpr bool name_is_unique() {
  static_assert(sizeof(Path) == 0,
                "mortise::sequential: a name is used twice; give one of the two children another name with mortise::named; the path stands "
                "beside this message");
  return true;
}

}  // namespace detail

/// Everything that is known about a network for one input shape. `ElementBytes` is the size of an element of the model's type.
template <class Network, class Input, std::size_t ElementBytes = 4, bool InputGradient = false>
class plan {
  using tokens = detail::tokens_of<Network>;

  template <class... T>
  static constexpr auto infos_of(token_list<T...>) {
    return table_of<detail::token_info, sizeof...(T)>{{detail::token_info_of<T>::value...}};
  }
  template <class... T>
  static detail::indexed_types<std::index_sequence_for<T...>, T...> index_tokens(token_list<T...>);

 public:
  static constexpr auto token_infos = infos_of(tokens{});

  /// The token at position I of the flat list.
  template <std::size_t I>
  using token_at = typename decltype(detail::type_at_index<I>(std::declval<decltype(index_tokens(tokens{}))>()))::type;
  template <std::size_t I>
  using module_at_token = typename detail::module_of_token<token_at<I>>::type;

  static constexpr detail::plan_counts counts = [] {
    detail::no_tables none;
    return detail::walk_tokens(token_infos.items, tokens::size, Input::value, ElementBytes, none);
  }();

 private:
  static constexpr bool report_errors() {
    using detail::plan_error;
    if constexpr (counts.error != plan_error::none) {
      constexpr auto text = detail::fixed_text<detail::text_length(counts.error_path)>(counts.error_path);
      using where = detail::path_of<text>;
      if constexpr (counts.error == plan_error::layer_rejects) {
        using layer = module_at_token<counts.error_token>;
        using came = detail::shape_that_came<extents_for<counts.error_shape>>;
        using fits = detail::shape_that_fits<std::conditional_t<counts.error_other.rank == 0, detail::see_remedy, extents_for<counts.error_other>>>;
#if defined(__clang__)
        detail::layer_receives<where, layer, came, fits, void>();
        static_assert(detail::in_words(counts.remedy), "mortise::sequential: what to do stands in the note below");
#else
        constexpr auto words = detail::fixed_text<detail::text_length(counts.remedy)>(counts.remedy);
        detail::layer_receives<where, layer, came, fits, detail::remedy<words>>();
#endif
      } else if constexpr (counts.error == plan_error::sum_of_different_shapes) {
        detail::residual_adds<where, extents_for<counts.error_shape>, extents_for<counts.error_other>>();
      } else if constexpr (counts.error == plan_error::concat_of_different_shapes) {
        detail::concat_joins<where, extents_for<counts.error_shape>, extents_for<counts.error_other>>();
      } else {
        static_assert(counts.error != plan_error::too_deep,
                      "mortise: names or branches are nested too deeply (32 levels, 127 characters, 64 open branches)");
      }
    }
    return true;
  }

 public:
  static_assert(report_errors());
  static constexpr bool valid = counts.error == detail::plan_error::none;

 private:
  static constexpr auto walked =
      detail::walked_tables<valid ? static_cast<detail::plan_sizes>(counts) : detail::plan_sizes{}>(token_infos.items, valid ? tokens::size : 0, Input::value, ElementBytes);

  template <std::size_t I>
  static constexpr workspace_by_type typed_workspace_of_node() {
    using module_type = module_at_token<walked.nodes.items[I].token>;
    if constexpr (requires { module_type::has_workspace_by_type; })
      return module_type::template workspace<extents_for<walked.nodes.items[I].in>>();
    else
      return {};
  }
  template <std::size_t... I>
  static constexpr detail::extent_in_batches typed_workspace(std::index_sequence<I...>) {
    workspace_by_type const all[] = {{}, typed_workspace_of_node<I>()...};
    detail::extent_in_batches most;
    for (auto const& w : all) {
      if (w.per_sample > most.per_sample) most.per_sample = w.per_sample;
      if (w.fixed > most.fixed) most.fixed = w.fixed;
    }
    return most;
  }

 public:
  static constexpr auto tables = detail::finished_tables(walked, InputGradient, typed_workspace(std::make_index_sequence<walked.nodes.size()>{}));

 private:
  static constexpr bool report_names() {
    if constexpr (valid) {
      constexpr std::size_t twice = detail::find_name_twice(tables);
      if constexpr (twice != detail::nowhere) {
        constexpr auto n = tables.nodes[twice];
        constexpr auto text = detail::fixed_text<n.path_size>(tables.characters.items + n.path_begin);
        detail::name_is_unique<detail::path_of<text>>();
      }
    }
    return true;
  }
  static_assert(report_names());

  static constexpr auto named_states() {
    auto list = tables.states;
    for (std::size_t i = 0; i != list.size(); ++i)
      list[i].name = std::string_view{tables.characters.items + tables.name_begin[i], tables.name_size[i]};
    return list;
  }

 public:
  /// Parameters and buffers in the order of PyTorch's state_dict.
  static constexpr auto states = named_states();

  /// The parameters alone, in the order of the flat array: what learns first.
  static constexpr auto parameters = [] {
    table_of<parameter_entry, valid ? counts.parameters : 0> list;
    std::size_t n = 0;
    for (int pass = 0; pass < 2; ++pass)
      for (auto const& s : states)
        if (s.what == state_entry::kind::parameter && s.trainable == (pass == 0)) list[n++] = s;
    return list;
  }();

  static constexpr std::size_t node_count = tables.nodes.size();
  static constexpr shape output = tables.tensors[tables.output_tensor].extents;

  template <std::size_t Node>
  using module_at = module_at_token<tables.nodes[Node].token>;

  static constexpr std::string_view node_path(std::size_t node) {
    return {tables.characters.items + tables.nodes[node].path_begin, tables.nodes[node].path_size};
  }
};

}  // namespace mortise
