/* What products take: floats, or with -DWITH_BF16 pairs of bf16 numbers, which are multiplied exactly and summed in
 * fp32 (bf16 has the exponents of fp32 and 8 bits of precision).
 *
 * Either is a unit of 32 bits, so that the loops over units are the same. Along the dimension that is summed,
 * PER_UNIT numbers make a unit.
 */

#ifndef ELEMENTS_H
#define ELEMENTS_H

#include "vectors.h"
#include <stddef.h>

#if defined(WITH_BF16)

typedef int32_t Unit __attribute__((may_alias));
typedef Ints Units;
typedef uint16_t Kept; /* what the backward pass needs of a gate */
enum { PER_UNIT = 2 };

typedef int32_t StoredInts __attribute__((vector_size(WIDTH * sizeof(int32_t)), aligned(4), may_alias));

static inline Units load_units(const Unit *from) { return *(const StoredInts *)from; }

static inline Units all_units(Unit value) { return value - (Units){0}; }

/* sum + a · b, each sum of two products */
static inline Floats add_product(Units a, Units b, Floats sum) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

/* To the nearest bf16 numbers, ties to even; NaN stays NaN. */
static inline __m256i rounded(Floats values) { return (__m256i)_mm512_cvtneps_pbh((__m512)values); }

static inline void store_kept(Kept *to, Floats values) { _mm256_storeu_si256((__m256i_u *)to, rounded(values)); }

/* Store two vectors past the cache; `to` is aligned. */
static inline void stream_pair(Kept *to, Floats first, Floats second) {
    _mm512_stream_si512((__m512i *)to, _mm512_inserti64x4(_mm512_castsi256_si512(rounded(first)), rounded(second), 1));
}

static inline Floats load_kept(const Kept *from) {
    const __m256i numbers = _mm256_loadu_si256((const __m256i_u *)from);
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16);
}

/* Up to 16 numbers of a row, the rest 0. */
static inline Floats load_some(const float *from, int64_t count) {
    if (count >= WIDTH) return load(from);
    return (Floats)_mm512_maskz_loadu_ps((__mmask16)((1u << (count > 0 ? count : 0)) - 1), from);
}

/* Units of two rows: the numbers of `first` in the lower halves, of `second` in the upper ones. */
static inline Units pairs(__m256i first, __m256i second) {
    return (Units)_mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

#else

typedef float Unit;
typedef Floats Units;
typedef float Kept;
enum { PER_UNIT = 1 };

static inline Units load_units(const Unit *from) { return load(from); }

static inline Units all_units(Unit value) { return all(value); }

static inline Floats add_product(Units a, Units b, Floats sum) { return a * b + sum; }

static inline Floats load_kept(const Kept *from) { return load(from); }

static inline void store_kept(Kept *to, Floats values) { store(to, values); }

#endif

#endif
