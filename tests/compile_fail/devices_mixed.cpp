// expected-error: mortise::devices: devices of different kinds in one list
#include <mortise/parallel/devices.hpp>
struct accelerator : mortise::host {
  using space = int;
};
auto const list = mortise::devices{mortise::host{}, accelerator{}};
