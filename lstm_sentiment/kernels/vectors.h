/* Vectors as wide as a register, for GCC and Clang (see `target.h`).
 *
 * Arithmetic is written with operators, which the compilers' vector extensions define for each element; a
 * product and a sum become one fused multiply-add (-ffp-contract=fast). What has no operator is defined here.
 */

#ifndef VECTORS_H
#define VECTORS_H

#include "target.h"
#include <stdint.h>

typedef float Floats __attribute__((vector_size(WIDTH * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(WIDTH * sizeof(int32_t))));

typedef float Stored __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float))));

static inline Floats load(const float *from) { return *(const Stored *)from; }

static inline void store(float *to, Floats values) { *(Stored *)to = values; }

static inline Floats all(float value) { return value - (Floats){0}; }

typedef float Four __attribute__((vector_size(16), aligned(sizeof(float)), may_alias));

#if defined(__clang__)
#define PICKED(A, B, ...) __builtin_shufflevector(A, B, __VA_ARGS__)
#else
typedef int32_t FourPlaces __attribute__((vector_size(16)));
#define PICKED(A, B, ...) __builtin_shuffle(A, B, (FourPlaces){__VA_ARGS__})
#endif

/* Transpose four rows of four: to[c][r] = from[r][c]. Vectors of four are the same instructions on all CPUs. */
static inline void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    Four row[4], pair[4];
    for (int r = 0; r < 4; r++) row[r] = *(const Four *)(from + r * from_stride);
    for (int r = 0; r < 2; r++) { /* pair = columns 0 and 1, or 2 and 3, of rows r and r + 2 */
        pair[r] = PICKED(row[r], row[r + 2], 0, 4, 1, 5);
        pair[r + 2] = PICKED(row[r], row[r + 2], 2, 6, 3, 7);
    }
    for (int c = 0; c < 4; c += 2) {
        *(Four *)(to + c * to_stride) = PICKED(pair[c], pair[c + 1], 0, 4, 1, 5);
        *(Four *)(to + (c + 1) * to_stride) = PICKED(pair[c], pair[c + 1], 2, 6, 3, 7);
    }
}

#if defined(__x86_64__) && defined(WITH_AVX512)

/* `low` to `high`; NaN stays NaN. */
static inline Floats clamp(Floats x, Floats low, Floats high) {
    return _mm512_min_ps(high, _mm512_max_ps(low, x));
}

/* To the nearest integer, ties to even. */
static inline Floats nearest(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Store past the cache; `to` is aligned. */
static inline void stream(float *to, Floats values) { _mm512_stream_ps(to, values); }

/* Make streamed values visible to all threads. */
static inline void finish_streams(void) { _mm_sfence(); }

#elif defined(__x86_64__)

static inline Floats clamp(Floats x, Floats low, Floats high) {
    return _mm256_min_ps(high, _mm256_max_ps(low, x));
}

static inline Floats nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline void stream(float *to, Floats values) { _mm256_stream_ps(to, values); }

static inline void finish_streams(void) { _mm_sfence(); }

#else

static inline Floats clamp(Floats x, Floats low, Floats high) { return vminq_f32(vmaxq_f32(x, low), high); }

static inline Floats nearest(Floats x) { return vrndnq_f32(x); }

static inline void stream(float *to, Floats values) { store(to, values); }

static inline void finish_streams(void) {}

#endif

/* ---- Functions ---------------------------------------------------------------------------------- */

#if defined(WITH_BF16)

/* 1 / (1 + 2**x), to a relative error of 3e-7: enough for what becomes bf16, in half the time. NaN stays NaN.
 * x = n + f, 2**f = 1 + f·q(f); Newton's method improves an estimate of the quotient. */
static inline Floats logistic_of_2(Floats x) {
    x = clamp(x, all(-126.0f), all(126.0f));
    const Floats n = nearest(x), f = x - n;
    Floats q = f * 0.00132647266f + 0.00967151296f;
    q = q * f + 0.0555073375f;
    q = q * f + 0.240222421f;
    q = q * f + 0.693146978f;
    const Floats divisor = (Floats)_mm512_scalef_ps((__m512)(q * f + 1.0f), (__m512)n) + 1.0f;
    const Floats estimate = (Floats)_mm512_rcp14_ps((__m512)divisor);
    return estimate * (2.0f - divisor * estimate);
}

static inline Floats sigmoid(Floats x) { return logistic_of_2(x * -1.44269504f); }

static inline Floats hyperbolic_tangent(Floats x) { return 2.0f * logistic_of_2(x * -2.88539008f) - 1.0f; }

#else

/* e**x - 1, as exact near 0 as elsewhere; NaN stays NaN. x = n·log 2 + f, log 2 in two parts of which the
 * first is exact, and e**f - 1 = f + f²·q(f), where q is fitted to a relative error of 2e-8. */
static inline Floats exp_less_1(Floats x) {
    x = clamp(x, all(-87.0f), all(87.0f));
    const Floats n = nearest(x * 1.44269504f);
    const Floats f = x - n * 0.693359375f - n * -2.12194440e-4f;
    Floats q = f * 0.0013882521f + 0.0083665205f;
    q = q * f + 0.0416672f;
    q = q * f + 0.16666543f;
    q = q * f + 0.49999997f;
    const Floats less_1 = q * f * f + f;
    const Ints exponent = __builtin_convertvector(n, Ints) + 127; /* of NaN any: `less_1` is NaN */
    const Floats power = (Floats)(exponent << 23);
    return power * less_1 + (power - 1.0f);
}

static inline Floats sigmoid(Floats x) { return 1.0f / (exp_less_1(-x) + 2.0f); }

static inline Floats hyperbolic_tangent(Floats x) {
    const Floats less_1 = exp_less_1(x + x);
    return less_1 / (less_1 + 2.0f);
}

#endif

#endif
