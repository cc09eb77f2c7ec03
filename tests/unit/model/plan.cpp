// The plan's laws: no value is overwritten while somebody still reads it, names and offsets are PyTorch's.
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mortise/module/concat.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/plan.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

namespace {

using mt::detail::place;
using kind = mt::detail::token_info::kind;

/// A module that reads everything there is in backward, keeps a value a sample, and works nowhere in place.
struct greedy {
  static constexpr std::string_view name = "greedy";
  static constexpr mt::module_description describe(mt::shape in) {
    mt::module_description d;
    d.output = in;
    d.reads_input = d.reads_output = true;
    d.saved = 3;
    d.saved_fixed = 5;
    d.saved_bytes = 7;
    d.workspace = 2;
    return d;
  }
};

/// A module that works in place in both directions and needs nothing.
struct humble {
  static constexpr std::string_view name = "humble";
  static constexpr mt::module_description describe(mt::shape in) {
    mt::module_description d;
    d.output = in;
    d.reads_input = false;
    d.in_place = d.backward_in_place = true;
    return d;
  }
};

/// Runs a plan on memory that holds, in place of numbers, the name of the value that was written there last.
template <class Plan>
struct rehearsal {
  static constexpr auto const& t = Plan::tables;
  std::size_t batch;
  std::vector<int> memory;
  std::string failure{};

  // Values are named 1 + tensor, gradients 1001 + tensor, saved values 2001 + node, saved bytes 3001 + node.
  std::size_t at(place const& p) const { return (p.at.per_sample * batch + p.at.fixed) & ~std::size_t{15}; }
  void write(place const& p, std::size_t size, int name) {
    if (p.where != place::kind::arena) return;
    if (at(p) + size > memory.size()) {
      failure += "value " + std::to_string(name) + " ends outside of the arena; ";
      return;
    }
    for (std::size_t i = 0; i < size; ++i) memory[at(p) + i] = name;
  }
  void read(place const& p, std::size_t size, int name) {
    if (p.where != place::kind::arena) return;
    for (std::size_t i = 0; i < size; ++i)
      if (memory[at(p) + i] != name) {
        failure += "value " + std::to_string(name) + " was overwritten by " + std::to_string(memory[at(p) + i]) + "; ";
        return;
      }
  }
  std::size_t elements(std::size_t tensor) const { return t.tensors[tensor].extents.elements() * batch; }
  // A view's values are those of its root.
  static int value_name(std::size_t tensor) { return 1 + static_cast<int>(t.tensors[tensor].root); }
  void read_value(std::size_t tensor, bool training) {
    read(training ? t.tensors[tensor].training : t.tensors[tensor].evaluation, elements(tensor), value_name(tensor));
  }
  void read_gradient(std::size_t tensor, std::vector<int> const& names) { read(t.tensors[tensor].gradient, elements(tensor), names[tensor]); }

  void forward(bool training) {
    for (std::size_t i = 0; i < t.nodes.size(); ++i) {
      auto const& n = t.nodes[i];
      if (n.what == kind::fork || n.view) continue;
      for (std::size_t k = 0; k < n.inputs; ++k) read_value(t.edges[n.edge + k], training);
      auto const& workspace = training ? t.training_workspace : t.evaluation_workspace;
      write(workspace, t.workspace.per_sample * batch + t.workspace.fixed, 4001);
      std::size_t const out = t.edges[n.edge + n.inputs];
      write(training ? t.tensors[out].training : t.tensors[out].evaluation, elements(out), value_name(out));
      if (training && n.runs_backward) {
        write(n.saved_at, n.saved * batch + n.saved_fixed, 2001 + static_cast<int>(i));
        write(n.saved_bytes_at, n.saved_byte_elements * batch, 3001 + static_cast<int>(i));
      }
    }
    read_value(t.output_tensor, training);
  }

  void backward() {
    if (!t.tensors[t.output_tensor].requires_gradient) return;
    std::vector<int> names(t.tensors.size(), 0);  // what a gradient's memory holds: sums and views hand it on
    names[t.output_tensor] = 1001 + static_cast<int>(t.output_tensor);
    write(t.tensors[t.output_tensor].gradient, elements(t.output_tensor), names[t.output_tensor]);
    read_value(t.output_tensor, true);
    for (std::size_t i = t.nodes.size(); i-- > 0;) {
      auto const& n = t.nodes[i];
      if (!n.runs_backward) continue;
      std::size_t const in = t.edges[n.edge];
      std::size_t const out = t.edges[n.edge + n.inputs];
      if (n.what == kind::fork) {
        for (std::size_t k = 0; k < n.outputs; ++k) read_gradient(t.edges[n.edge + 1 + k], names);
        if (!n.wants_input_gradient) continue;
        names[in] = 1001 + static_cast<int>(in);
        write(t.tensors[in].gradient, elements(in), names[in]);
        continue;
      }
      read_gradient(out, names);
      if (n.view || n.what == kind::add) {
        for (std::size_t k = 0; k < n.inputs; ++k) names[t.edges[n.edge + k]] = names[out];
        continue;
      }
      if (n.what == kind::run) {
        if (n.reads_input && (n.wants_input_gradient || !n.frozen)) read_value(in, true);
        if (n.reads_output) read_value(out, true);
        read(n.saved_at, n.saved * batch + n.saved_fixed, 2001 + static_cast<int>(i));
        read(n.saved_bytes_at, n.saved_byte_elements * batch, 3001 + static_cast<int>(i));
        write(t.training_workspace, t.workspace.per_sample * batch + t.workspace.fixed, 4001);
      }
      for (std::size_t k = 0; k < n.inputs; ++k) {
        std::size_t const x = t.edges[n.edge + k];
        if (!t.tensors[x].requires_gradient) continue;
        names[x] = 1001 + static_cast<int>(x);
        write(t.tensors[x].gradient, elements(x), names[x]);
      }
    }
    if (t.tensors[0].requires_gradient) read_gradient(0, names);
  }
};

template <class Plan>
std::string rehearse(std::size_t batch) {
  std::string failures;
  for (bool const training : {true, false}) {
    auto const& arena = training ? Plan::tables.training_arena : Plan::tables.evaluation_arena;
    rehearsal<Plan> r{batch, std::vector<int>(arena.per_sample * batch + arena.fixed, 0)};
    r.forward(training);
    if (training) r.backward();
    failures += r.failure;
  }
  return failures;
}

using chain = mt::sequential<mt::linear<8>, mt::relu, mt::linear<5>, mt::relu, mt::linear<3>>;
using block = mt::residual<mt::sequential<mt::linear<6>, mt::relu, greedy, humble, mt::linear<4>>>;
using shortcut = mt::residual<mt::sequential<mt::named<"a", mt::linear<7>>, humble, mt::relu>, mt::named<"short", mt::linear<7>>>;
using branches = mt::concat<mt::linear<3>, mt::sequential<humble, mt::linear<4>, mt::relu>, mt::identity, greedy>;
using nested = mt::sequential<mt::flatten, block, mt::relu, block, mt::identity, humble, branches, shortcut, mt::residual<mt::residual<mt::relu>>>;
using partly_frozen = mt::sequential<mt::frozen<mt::sequential<mt::linear<8>, mt::relu, mt::linear<4>>>, greedy, block, mt::frozen<mt::linear<9>>, mt::relu>;
using only_relu = mt::sequential<mt::relu, mt::relu, humble, mt::relu>;
using backward_copies = mt::residual<mt::sequential<humble, humble>, mt::named<"s", mt::sequential<humble, mt::relu>>>;

}  // namespace

TEST_CASE_TEMPLATE("nothing is overwritten that is still read", Plan, mt::plan<chain, mt::extents<6>>, mt::plan<nested, mt::extents<2, 2>>,
                   mt::plan<partly_frozen, mt::extents<4>>, mt::plan<only_relu, mt::extents<4>>, mt::plan<branches, mt::extents<4>>,
                   mt::plan<chain, mt::extents<6>, 4, true>, mt::plan<nested, mt::extents<4>, 8, true>,
                   mt::plan<partly_frozen, mt::extents<4>, 4, true>, mt::plan<only_relu, mt::extents<4>, 4, true>,
                   mt::plan<backward_copies, mt::extents<5>, 4, true>, mt::plan<branches, mt::extents<4>, 4, true>) {
  for (std::size_t const batch : {1u, 2u, 7u, 16u, 33u}) CHECK(rehearse<Plan>(batch) == "");
}

TEST_CASE("a relu behind a linear layer works in place, and a chain in evaluation needs two slots") {
  using p = mt::plan<chain, mt::extents<6>>;
  auto const& t = p::tables;
  CHECK(t.tensors[1].storage == t.tensors[2].storage);
  CHECK(t.tensors[3].storage == t.tensors[4].storage);
  // Slots of 8 and 5: linear 8 -> linear 5 -> linear 3 (fits in the first).
  CHECK(t.evaluation_arena.per_sample == 8 + 5);
}

TEST_CASE("the first layer's input gradient gets no memory unless it is asked for") {
  CHECK(mt::plan<chain, mt::extents<6>>::tables.tensors[0].gradient.where == place::kind::none);
  CHECK(mt::plan<chain, mt::extents<6>, 4, true>::tables.tensors[0].gradient.where == place::kind::arena);
}

TEST_CASE("names are those of PyTorch's modules") {
  using net = mt::sequential<mt::named<"features", mt::sequential<mt::linear<3>, mt::relu, mt::linear<2, false>>>, mt::flatten,
                             mt::named<"head", mt::linear<1>>>;
  using p = mt::plan<net, mt::extents<4>>;
  REQUIRE(p::states.size() == 5);
  CHECK(p::states[0].name == "features.0.weight");
  CHECK(p::states[1].name == "features.0.bias");
  CHECK(p::states[2].name == "features.2.weight");
  CHECK(p::states[3].name == "head.weight");
  CHECK(p::states[4].name == "head.bias");
  CHECK(p::states[2].extents == mt::shape{2, 3});
}

TEST_CASE("parameters tile the flat array, what learns first") {
  using p = mt::plan<partly_frozen, mt::extents<4>>;
  std::size_t at = 0;
  for (auto const& s : p::parameters) {
    CHECK(s.offset == at);
    CHECK(s.trainable == (at < p::tables.trainable_count));
    at += s.size;
  }
  CHECK(at == p::tables.parameter_count);
  CHECK(p::tables.trainable_count < p::tables.parameter_count);
}

TEST_CASE("a frozen part in front of what learns has no backward pass and keeps nothing for it") {
  using p = mt::plan<mt::sequential<mt::frozen<mt::sequential<greedy, mt::linear<8>, greedy>>, mt::linear<2>>, mt::extents<4>>;
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(!p::tables.nodes[i].runs_backward);
    CHECK(p::tables.nodes[i].saved_at.where == place::kind::none);
  }
  CHECK(p::tables.nodes[3].runs_backward);
}

TEST_CASE("512 layers are planned") {
  using eight = mt::sequential<humble, humble, humble, humble, humble, humble, humble, humble>;
  using sixty_four = mt::sequential<eight, eight, eight, eight, eight, eight, eight, eight>;
  using many = mt::sequential<sixty_four, sixty_four, sixty_four, sixty_four, sixty_four, sixty_four, sixty_four, sixty_four>;
  CHECK(mt::plan<many, mt::extents<4>>::node_count == 512);
}
