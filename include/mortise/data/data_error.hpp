#pragma once

#include <mortise/detail/error.hpp>

namespace mortise {

/// A data file cannot be opened, or is not what it should be. `what()` names the file and the reason.
struct data_error : error {
  using error::error;
};

}  // namespace mortise
