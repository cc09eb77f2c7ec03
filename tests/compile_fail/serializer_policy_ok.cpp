#include <mortise/train/serializer.hpp>

namespace mt = mortise;

mt::serializer<mt::safetensors, mt::sharded, mt::checksummed, mt::fast, mt::memory_mapped> files;
