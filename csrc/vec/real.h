/* The element type of a vector header and its bits. Included by the headers of this folder only. */
#ifndef RV_REAL_H
#define RV_REAL_H

#include <stdint.h>
#include <string.h>

#if RV_REAL_BITS == 32
typedef float real;
typedef uint32_t word;
#define RV_EXP_BIAS 127
#define RV_MANTISSA_BITS 23
#define RV_INTEGER_MAGIC 8388608.0f     /* 2^23: from there on every float is an integer */
#define RV_HALF_SQRT2_BITS 0x3f3504f3u
#elif RV_REAL_BITS == 64
typedef double real;
typedef uint64_t word;
#define RV_EXP_BIAS 1023
#define RV_MANTISSA_BITS 52
#define RV_INTEGER_MAGIC 4503599627370496.0
#define RV_HALF_SQRT2_BITS 0x3fe6a09e667f3bcdu
#else
#error "RV_REAL_BITS must be 32 or 64"
#endif

/* Products of pairs of bfloat16: see avx512bf16.h, which sets it. */
#ifndef RV_HAVE_DOT2
#define RV_HAVE_DOT2 0
#endif

#define RV_SIGN_BIT ((word)1 << (RV_REAL_BITS - 1))
#define RV_MANTISSA_MASK (((word)1 << RV_MANTISSA_BITS) - 1)
/* Adding it leaves a small integer n as n + bias in the low bits: shifted to the exponent's place they are 2^n. */
#define RV_POW2_MAGIC (RV_INTEGER_MAGIC * (real)1.5 + RV_EXP_BIAS)
/* Added to the word of x, it carries into the exponent where the mantissa reaches sqrt(2). */
#define RV_SPLIT_BITS (((word)RV_EXP_BIAS << RV_MANTISSA_BITS) - (word)RV_HALF_SQRT2_BITS)

RV_INLINE word rv_bits(real x) { word w; memcpy(&w, &x, sizeof w); return w; }
RV_INLINE real rv_real(word w) { real x; memcpy(&x, &w, sizeof x); return x; }

#endif
