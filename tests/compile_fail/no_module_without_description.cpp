// expected-error: mortise: something in a network is neither a module nor a container
// expected-error: almost
#include <mortise/model/model.hpp>
#include <mortise/module/sequential.hpp>

namespace mt = mortise;

struct almost {  // a name, but no describe
  static constexpr std::string_view name = "almost";
};
mt::model<mt::sequential<almost>, mt::extents<4>> m;
