// Memory that a device owns: one allocation, one role.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include <mortise/config.hpp>

namespace mortise {

/// `size` elements of T in the memory of `Device`, freed with it. Copies copy the elements. Elements are zero at first.
///
/// Allocates in constructors and in `reset` only; throws what the device's allocate throws, and has then changed nothing.
template <class T, class Device>
class buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  buffer() = default;
  buffer(Device const& device, std::size_t size) : buffer{device} {  // delegates, so that the memory is freed when filling it throws
    if (size == 0) return;
    data_ = static_cast<T*>(device_.allocate(size * sizeof(T)));
    size_ = size;
    device_.fill_zero(data_, size_ * sizeof(T));
  }
  buffer(buffer const& other) : buffer{other.device_, other.size_} {
    if (size_ != 0) device_.copy(data_, other.data_, size_ * sizeof(T));
  }
  buffer(buffer&& other) noexcept
      : device_{other.device_}, data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)}, owns_{std::exchange(other.owns_, true)},
        owner_{std::move(other.owner_)} {}
  buffer& operator=(buffer other) noexcept {
    swap(other);
    return *this;
  }
  ~buffer() {
    if (data_ != nullptr && owns_) device_.deallocate(data_, size_ * sizeof(T));
  }
  /// Looks at memory that belongs to somebody else: to `owner`, or to one who must keep it. A copy of this buffer owns its elements.
  static buffer borrowed(Device const& device, T* data, std::size_t size, std::shared_ptr<void const> owner = nullptr) {
    buffer b;
    b.device_ = device;
    b.data_ = data;
    b.size_ = size;
    b.owns_ = false;
    b.owner_ = std::move(owner);
    return b;
  }

  void swap(buffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(owns_, other.owns_);
    owner_.swap(other.owner_);
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  Device const& device() const { return device_; }

 private:
  explicit buffer(Device const& device) : device_{device} {}

  Device device_{};
  T* data_ = nullptr;
  std::size_t size_ = 0;
  bool owns_ = true;
  std::shared_ptr<void const> owner_{};
};

}  // namespace mortise
