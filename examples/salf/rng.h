/* rng.h - the random numbers of the program and of the demonstration: splitmix64 (Steele, Lea, Flood: "Fast splittable
 * pseudorandom number generators", OOPSLA 2014). The same seed gives the same numbers on every machine. */
#ifndef SALF_EXAMPLE_RNG_H
#define SALF_EXAMPLE_RNG_H

#include <math.h>
#include <stdint.h>

#define RNG_STRIDE 0x9e3779b97f4a7c15u /* 2^64 divided by the golden ratio, made odd: multiples of it spread evenly */

/* Mixes all 64 bits: a bijection, so that distinct inputs stay distinct. */
static inline uint64_t rng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The same for keys that may be 0, which rng_mix leaves as it is. */
static inline uint64_t rng_hash(uint64_t key) {
    return rng_mix(key + RNG_STRIDE);
}

/* The next number of a sequence. */
static inline uint64_t rng_next(uint64_t *sequence) {
    return rng_mix(*sequence += RNG_STRIDE);
}

/* Uniform in (0, 1), never at an end: the middle of one of 2^53 equal parts. That of the last part is no double, and
 * would be rounded to 1. */
static inline double rng_uniform(uint64_t *sequence) {
    return fmin(((double)(rng_next(sequence) >> 11) + 0.5) * 0x1p-53, 1 - 0x1p-53);
}

/* Standard normal, by Box and Muller; the second number that their formula gives is not kept. */
static inline double rng_normal(uint64_t *sequence) {
    const double radius = sqrt(-2.0 * log(rng_uniform(sequence)));
    return radius * cos(6.283185307179586 * rng_uniform(sequence));
}

#endif
