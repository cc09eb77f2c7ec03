#include <mortise/mortise.hpp>

char const* version_seen_by_the_other_unit() { return MORTISE_VERSION; }
