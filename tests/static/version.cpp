// The version is written twice, for the compiler and for Meson; they agree.
#include <mortise/config.hpp>

#include <string_view>

static_assert(std::string_view{MORTISE_VERSION} == PROJECT_VERSION);

#define AS_TEXT_(x) #x
#define AS_TEXT(x) AS_TEXT_(x)
static_assert(std::string_view{MORTISE_VERSION} ==
              AS_TEXT(MORTISE_VERSION_MAJOR) "." AS_TEXT(MORTISE_VERSION_MINOR) "." AS_TEXT(MORTISE_VERSION_PATCH));
