/*
 * vectorised.h - VECTORISED before a function has it compiled for AVX-512, for AVX2 and for the base instruction set,
 * and the best that the machine has chosen when the program starts. Results may differ between machines in the last
 * bits, never between two calls on one.
 *
 * Empty where the compiler, the processor or the C library knows no such choice, and under the thread sanitizer, whose
 * own start comes after it.
 */
#ifndef SALF_EXAMPLE_VECTORISED_H
#define SALF_EXAMPLE_VECTORISED_H

#include <limits.h> /* any header of the C library says whether it is glibc */

/* GCC knows these levels from version 12 on; clang's clones are not visible to other files under their own name. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_THREAD__)
#if __GNUC__ >= 12
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#endif
#ifndef VECTORISED
#define VECTORISED
#endif

/* A function that such functions call is compiled once, for the base instruction set, unless it becomes part of each.
 */
#if defined(__GNUC__)
#define VECTORISED_PART static inline __attribute__((always_inline))
#else
#define VECTORISED_PART static inline
#endif

#endif
