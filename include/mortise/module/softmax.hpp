// softmax, log_softmax: scores to probabilities, or to their logarithms.
#pragma once

#include <mortise/module/description.hpp>
#include <mortise/operation/softmax.hpp>

namespace mortise {

namespace detail {

/// The axis of a sample that `Dim` means: PyTorch counts the batch as axis 0, and from the back with negative numbers. in.rank: there is none.
constexpr std::size_t sample_axis(int dim, shape const& in) {
  int const axis = dim < 0 ? dim + static_cast<int>(in.rank) : dim - 1;
  return axis < 0 || axis >= static_cast<int>(in.rank) ? in.rank : static_cast<std::size_t>(axis);
}

constexpr module_description describe_softmax(int dim, shape const& in) {
  if (dim == 0) return module_description::rejected("axis 0 is the batch: samples do not mix; name another axis, as in PyTorch (1 is the first of a sample, -1 the last)");
  if (sample_axis(dim, in) == in.rank) return module_description::rejected("the input has no such axis; as in PyTorch, 1 is the first axis of a sample and -1 the last");
  module_description d;
  d.output = in;
  d.reads_input = false;
  d.reads_output = true;
  d.in_place = true;
  d.backward_in_place = true;
  return d;
}

/// A shape seen as (outer, width, inner) around an axis.
template <class Input, int Dim>
struct around_axis {
  static constexpr std::size_t axis = sample_axis(Dim, Input::value);
  static constexpr std::size_t outer = [] {
    std::size_t n = 1;
    for (std::size_t i = 0; i != axis; ++i) n *= Input::value[i];
    return n;
  }();
  static constexpr std::size_t width = Input::value[axis];
  static constexpr std::size_t inner = Input::elements / outer / width;
};

}  // namespace detail

/// y = exp(x) / sum exp(x) along an axis, counted as in PyTorch: `softmax_along<1>` is the first axis of a sample, -1 the last.
///
/// For training a classifier end with the scores and use cross_entropy_loss, which is more exact than a logarithm of this.
template <int Dim>
struct softmax_along {
  static constexpr std::string_view name = "softmax";

  static constexpr module_description describe(shape in) { return detail::describe_softmax(Dim, in); }
  template <class Args>
  void forward(Args const& a) const {
    using along = detail::around_axis<typename Args::input, Dim>;
    softmax_forward(a.device, a.batch * along::outer, along::width, along::inner, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    using along = detail::around_axis<typename Args::input, Dim>;
    if (a.dx != nullptr) softmax_backward(a.device, a.batch * along::outer, along::width, along::inner, a.y, a.dy, a.dx);
  }
};

/// softmax along the last axis.
struct softmax : softmax_along<-1> {};

/// y = x - log sum exp(x) along an axis, counted as in PyTorch: `log_softmax_along<1>` is the first axis of a sample, -1 the last.
template <int Dim>
struct log_softmax_along {
  static constexpr std::string_view name = "log_softmax";

  static constexpr module_description describe(shape in) { return detail::describe_softmax(Dim, in); }
  template <class Args>
  void forward(Args const& a) const {
    using along = detail::around_axis<typename Args::input, Dim>;
    log_softmax_forward(a.device, a.batch * along::outer, along::width, along::inner, a.x, a.y);
  }
  template <class Args>
  void backward(Args const& a) const {
    using along = detail::around_axis<typename Args::input, Dim>;
    if (a.dx != nullptr) log_softmax_backward(a.device, a.batch * along::outer, along::width, along::inner, a.y, a.dy, a.dx);
  }
};

/// log_softmax along the last axis.
struct log_softmax : log_softmax_along<-1> {};

}  // namespace mortise
