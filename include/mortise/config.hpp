// mortise: neural networks that fit together at compile time.            SPDX-License-Identifier: Apache-2.0
#pragma once

/// Version of the library; also written into checkpoints by `archive/`.
#define MORTISE_VERSION_MAJOR 0
#define MORTISE_VERSION_MINOR 1
#define MORTISE_VERSION_PATCH 0
#define MORTISE_VERSION "0.1.0"

// Compiler floor: g++ 12, clang 14 (libstdc++ 12), nvcc 13.
#if defined(__CUDACC__)
#if __CUDACC_VER_MAJOR__ < 13
#error "mortise: nvcc 13 or newer is needed for -std=c++20 device code"
#endif
#elif defined(__clang__)
#if __clang_major__ < 14
#error "mortise: clang 14 or newer is needed"
#endif
#elif defined(__GNUC__)
#if __GNUC__ < 12
#error "mortise: g++ 12 or newer is needed"
#endif
#endif

#if __cplusplus < 202002L
#error "mortise: compile with -std=c++20"
#endif
#if !defined(__CUDACC__) && !defined(__cpp_exceptions)
#error "mortise: errors are exceptions; compile without -fno-exceptions"
#endif

/// Marks per-element arithmetic that runs on the host and inside CUDA kernels.
#if defined(__CUDACC__)
#define MORTISE_HD __host__ __device__
#else
#define MORTISE_HD
#endif

/// Kernels are generic functions over a vector width, inlined into one function per instruction set (detail/simd.hpp);
/// an inlining that is only a hint would leave them compiled for the baseline.
#define MORTISE_INLINE inline __attribute__((always_inline))

/// Cold paths (errors, growth of an arena) stay out of the hot code.
#define MORTISE_COLD __attribute__((noinline, cold))
