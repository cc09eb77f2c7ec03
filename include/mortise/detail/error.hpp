// The base of everything mortise throws.
#pragma once

#include <stdexcept>
#include <string>

namespace mortise {

/// Base of all errors of this library. `what()` says what is wrong, where, and what to do about it.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A value that a caller passed does not fit: a setting out of range, an object used in the wrong order.
struct usage_error : error {
  using error::error;
};

/// A run-time shape (nearly always: the batch) does not fit what the network was compiled for.
struct shape_error : error {
  using error::error;
};

}  // namespace mortise
