// expected-error: mortise::embedding: the number of rows and their width must be positive
#include <mortise/module/embedding.hpp>

constexpr auto d = mortise::embedding<0, 4>::describe(mortise::shape{4, 8, 8});
