// A number that lies on a device until somebody asks for it.
#pragma once

namespace mortise {

/// A scalar in device memory. Converting it to a number waits for the device; nothing else does. Valid until the model's next step.
template <class T, class D>
class deferred {
 public:
  deferred(D const& device, T const* where) : device_{&device}, where_{where} {}

  operator T() const {
    T result{};
    device_->synchronize();
    device_->copy(&result, where_, sizeof(T));
    device_->synchronize();
    return result;
  }
  T const* data() const { return where_; }
  D const& device() const { return *device_; }

 private:
  D const* device_;
  T const* where_;
};

}  // namespace mortise
