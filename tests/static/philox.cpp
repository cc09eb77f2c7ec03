// The published known answers of Philox4x32-10: Random123's kat_vectors.
#include <mortise/tensor/philox.hpp>

using mortise::philox4x32;
using mortise::random_stream;
using mortise::stream_id;
using block = philox4x32::block_type;

static_assert(philox4x32::block({{0, 0, 0, 0}}, {{0, 0}}) == block{{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
static_assert(philox4x32::block({{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}}, {{0xffffffffu, 0xffffffffu}}) ==
              block{{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
static_assert(philox4x32::block({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {{0xa4093822u, 0x299f31d0u}}) ==
              block{{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});

// The layout of a stream, by the third vector: i / 4, step, stream; seed; lane i % 4.
constexpr random_stream pi{.seed = 0x299f31d0a4093822u, .stream = 0x0370734413198a2eu, .step = 0x85a308d3u};
static_assert(pi.bits(4 * std::uint64_t{0x243f6a88u} + 0) == 0xd16cfe09u);
static_assert(pi.bits(4 * std::uint64_t{0x243f6a88u} + 1) == 0x94fdccebu);
static_assert(pi.bits(4 * std::uint64_t{0x243f6a88u} + 2) == 0x5001e420u);
static_assert(pi.bits(4 * std::uint64_t{0x243f6a88u} + 3) == 0x24126ea1u);
static_assert(pi.uniform(4 * std::uint64_t{0x243f6a88u}) == float(0xd16cfe) / float(1 << 24));
static_assert(random_stream::to_uniform(0xffffffffu) < 1.0f);
static_assert(random_stream::to_uniform(0xffu) == 0.0f);

// FNV-1a's published values (Fowler, Noll, Vo; draft-eastlake-fnv, test vectors).
static_assert(stream_id("") == 0xcbf29ce484222325u);
static_assert(stream_id("a") == 0xaf63dc4c8601ec8cu);
static_assert(stream_id("foobar") == 0x85944171f73967e8u);
