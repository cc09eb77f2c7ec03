// What a device is: memory, and an order of work. Operations find their device by overload.
#pragma once

#include <concepts>
#include <cstddef>

#include <mortise/device/host.hpp>

namespace mortise {

/// A place where parameters live and operations run. Cheap to copy; copies mean the same place.
///
/// `copy` and `fill_zero` are ordered with the operations on the same device; `synchronize` waits for all of them. Operations are free
/// functions `operation(device, ...)`: the generic form on these primitives, or a faster overload for one device.
template <class D>
concept Device = std::copyable<D> && std::default_initializable<D> && requires(D const& device, void* p, void const* q, std::size_t bytes) {
  typename D::space;
  { device.allocate(bytes) } -> std::same_as<void*>;
  { device.deallocate(p, bytes) } noexcept;
  device.copy(p, q, bytes);
  device.fill_zero(p, bytes);
  device.synchronize();
};

static_assert(Device<host>);

}  // namespace mortise
