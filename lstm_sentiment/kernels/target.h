/* The instructions to compile for: AVX2 with FMA, NEON, with -DWITH_AVX512 those of AVX-512, or with -DWITH_BF16
 * those and AVX512-BF16, for products of bf16 numbers.
 *
 * A build for x86-64 does not depend on the machine that compiles it; `library.py` loads it where the CPU has
 * these instructions. To be included before everything else.
 */

#ifndef TARGET_H
#define TARGET_H

#if defined(WITH_BF16)
#define WITH_AVX512
#endif

#if defined(__x86_64__)
#if defined(WITH_BF16)
#define TARGET "avx512bf16,avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"
enum { INSTRUCTIONS = 4, WIDTH = 16 }; /* as in `library.py`, and floats per vector */
#elif defined(WITH_AVX512)
#define TARGET "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"
enum { INSTRUCTIONS = 3, WIDTH = 16 };
#else
#define TARGET "avx2,fma"
enum { INSTRUCTIONS = 1, WIDTH = 8 };
#endif
#include <immintrin.h>
#if defined(__clang__)
#if !defined(__AVX2__) || !defined(__FMA__)
#error "Clang needs CFLAGS='-mavx2 -mfma'"
#endif
#if defined(WITH_AVX512) && !(defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512BW__))
#error "Clang needs -mavx512f -mavx512dq -mavx512vl -mavx512bw for AVX-512"
#endif
#if defined(WITH_BF16) && !defined(__AVX512BF16__)
#error "Clang needs -mavx512bf16 for bf16"
#endif
#else
#define STRING(TEXT) #TEXT
#define PRAGMA(TEXT) _Pragma(STRING(TEXT))
PRAGMA(GCC target(TARGET))
#endif
#elif defined(__aarch64__) && !defined(WITH_AVX512)
#include <arm_neon.h>
enum { INSTRUCTIONS = 2, WIDTH = 4 };
#else
#error "needs an x86-64 or AArch64 processor"
#endif

#endif
