// A function of a header that is neither inline nor a template is defined twice here, and the linker says so.
#include <mortise/mortise.hpp>

char const* version_seen_by_the_other_unit();

int main() { return version_seen_by_the_other_unit() == nullptr; }
