// A list of devices of one kind.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mortise/detail/error.hpp>
#include <mortise/device/device.hpp>
#include <mortise/parallel/host_mesh.hpp>
#include <mortise/parallel/reduce.hpp>

namespace mortise {

namespace detail {

inline std::string device_text(host const&) { return "host"; }
template <class D>
  requires requires(D const& device) { device.ordinal; }
std::string device_text(D const& device) {
  return "cuda:" + std::to_string(device.ordinal);
}

[[noreturn]] MORTISE_COLD inline void refuse_device_twice(std::string const& name) {
  throw usage_error("mortise::devices: " + name + " is listed twice; each replica wants a device of its own" +
                    (name == "host" ? " (several devices on one host are mortise::host_mesh{N})" : ""));
}
[[noreturn]] MORTISE_COLD inline void refuse_unknown_device(std::string const& name, int visible) {
  std::string text = "mortise::devices: there is no " + name + "; visible " + (visible == 1 ? "is" : "are");
  if (visible <= 0) text += " no CUDA devices at all";
  for (int i = 0; i < visible; ++i) text += (i == 0 ? " cuda:" : ", cuda:") + std::to_string(i);
  throw usage_error(text + " (CUDA_VISIBLE_DEVICES says which devices a program sees)");
}
[[noreturn]] MORTISE_COLD inline void refuse_no_devices() { throw usage_error("mortise::devices: the list is empty; name at least one device"); }

}  // namespace detail

/// Devices for data_parallel, each at most once, all of one kind: `mt::devices{mt::cuda{0}, mt::cuda{1}}`, or from a std::vector.
/// Throws usage_error for a device that is listed twice or does not exist.
template <Device D>
class devices {
 public:
  template <class... Rest>
  explicit devices(D const& first, Rest const&... rest) : devices{make_list(first, rest...)} {}
  explicit devices(std::vector<D> list) : list_{std::move(list)} {
    if (list_.empty()) detail::refuse_no_devices();
    if constexpr (requires { D::device_count(); D{}.ordinal; }) {
      int const visible = static_cast<int>(D::device_count());
      for (D const& d : list_)
        if (d.ordinal < 0 || d.ordinal >= visible) detail::refuse_unknown_device(detail::device_text(d), visible);
    }
    for (std::size_t i = 0; i < list_.size(); ++i)
      for (std::size_t k = 0; k < i; ++k)
        if (same_place(list_[i], list_[k])) detail::refuse_device_twice(detail::device_text(list_[i]));
  }

  std::size_t size() const { return list_.size(); }
  D const& operator[](std::size_t i) const { return list_[i]; }
  std::vector<D> const& all() const { return list_; }

 private:
  template <class... Rest>
  static std::vector<D> make_list(D const& first, Rest const&... rest) {
    static_assert((std::same_as<D, Rest> && ...),
                  "mortise::devices: devices of different kinds in one list; replicas run on CUDA devices (devices{cuda{0}, cuda{1}}) or on the "
                  "host (host_mesh{N}), never on both, since the two round differently");
    if constexpr ((std::same_as<D, Rest> && ...)) return {first, rest...};
    else return {first};
  }
  static bool same_place(D const& a, D const& b) {
    if constexpr (std::same_as<typename D::space, host_space>) return true;
    else return a == b;
  }

  std::vector<D> list_;
};
template <class D, class... Rest>
devices(D, Rest...) -> devices<D>;
template <class D>
devices(std::vector<D>) -> devices<D>;

namespace detail {

/// Devices that work on their own once they were told what to do: one thread tells them, in order. Those that wait for each other
/// (`together`) are told by a thread each.
template <class D>
class device_team {
 public:
  explicit device_team(devices<D> const& list, bool together = false) : list_{list} {
    connect(list.all());
    if (together) threads_ = std::make_unique<thread_pool>();
  }
  std::size_t size() const { return list_.size(); }
  D device(std::size_t d) const { return list_[d]; }
  D whole() const { return list_[0]; }
  template <class F>
  void run(F const& f) {
    if (threads_ == nullptr) {
      for (std::size_t d = 0; d < list_.size(); ++d) f(d);
      return;
    }
    thread_pool::scope const here{*threads_};
    run_beside(static_cast<int>(list_.size()), list_.size(), failures_, f);
  }

 private:
  devices<D> list_;
  std::unique_ptr<thread_pool> threads_;
  std::vector<std::exception_ptr> failures_;
};

}  // namespace detail
}  // namespace mortise
