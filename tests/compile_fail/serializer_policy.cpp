// expected-error: mortise::serializer: policies are a format
// expected-error: a durability (durable, fast)
#include <mortise/train/serializer.hpp>

namespace mt = mortise;

struct quick {};

mt::serializer<mt::safetensors, quick> files;
