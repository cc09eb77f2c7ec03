// expected-error: mortise::serializer: two policies of the same kind
#include <mortise/train/serializer.hpp>

namespace mt = mortise;

mt::serializer<mt::safetensors, mt::sharded, mt::one_file> files;
