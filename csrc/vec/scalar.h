/* The vector contract and its reference: one lane, no intrinsics. Included inside an ISA's target region with RV_REAL_BITS 32
 * or 64, after target.h, <math.h> and the compiler's header of intrinsics, which clang wants outside the region. Every header
 * of this folder defines the same names for that element type.
 *
 *   real, RV_LANES          element type; elements per vector
 *   vreal, vmask            a vector of real; one truth value per lane
 *   vword                   a vector of RV_LANES unsigned words of the element's width, `word` each
 *   RV_TILE_ROWS            rows of the register tile that fit beside its operands: rows x 3 accumulators
 *   RV_HAVE_FMA             1 where v_fma rounds once
 *   v_load_tail(p, n)       0 <= n <= RV_LANES elements, the rest zero; touches nothing beyond them; v_store_tail likewise
 *   v_max(a, b), v_min      b where either is NaN (the order of x86)
 *   v_hmax(x)               largest lane of x, which holds no NaN
 *   v_sqrt(x)               correctly rounded; in the scalar header within 1 ULP, x normal and positive
 *   v_not_lt(a, b)          a >= b or either is NaN
 *   v_round(x)              nearest integer, ties to even; v_ceil(x) least integer >= x
 *   v_pow2(n)               2^n, n integral in [-126, 127] (float), [-1022, 1023] (double)
 *   v_exponent(x), v_mantissa(x)   x = m 2^e with m in [sqrt(1/2), sqrt(2)), x positive and normal
 *   v_copysign(a, s)        |a| with the sign of s
 *   v_keep(m, x)            x where m, +0 elsewhere
 *   m_bits(m)               lane i as bit i
 *   v_testbit(w, i)         lanes whose word has bit i set
 *   v_swap(x, d)            lane i is lane i ^ d of x, d a constant power of two less than RV_LANES
 *   v_sum(x)                halves folded upon halves: a fixed tree
 *   v_sum4(a, b, c, d, p)   p[0..3] = the four v_sum, to the bit
 *   v_transpose(src, stride, dst, dst_stride)   dst[c][r] = src[r][c], RV_LANES x RV_LANES; stride in bytes, dst_stride in elements
 *   v_load_f16(p), v_store_f16(p, x), v_load_f16_tail(p, n), v_store_f16_tail(p, x, n), and the same of bf16 (float only):
 *                           16-bit storage as uint16_t; narrowing rounds to nearest, ties to even, overflow to infinity,
 *                           NaN to a quiet NaN
 *   v_load_i8(p), v_load_i8_tail(p, n)      int8_t as numbers (float only)
 *   v_load_far(p)           v_load for what lies in the last cache or memory, where RV_HAVE_LOAD_FAR
 *
 * For math.h alone:
 *   RV_LOOKUP_BITS          log2 of the entries of v_lookup's table; 0 where there is none
 *   v_lookup(table, t)      the entry of the table of words that the lowest bits of t's word name
 *   v_shift_up(t)           t's word shifted left by RV_MANTISSA_BITS - RV_LOOKUP_BITS
 *   v_add_bits(a, b)        the sum of the words
 *
 * Wide accumulators carry more than real's precision: float sums in double, double sums as an unevaluated pair. A wide
 * vector is 2 * RV_LANES reals of memory, opaque to kernels.
 *   w_zero(p)  w_add(p, x)  w_scale(p, s)     p = 0;  p += x;  p *= s (s a power of two)
 *   w_set1(p, x)                              every lane = the double x
 *   w_merge(p, q)                             p += q
 *   w_quotient(p, q)                          p / q as real (q the wide sum of weights), 0 where q = 0
 *   w_times(p, x)                             p times the double x, as real (float only)
 *   w_get(p, i)                               lane i as a double (the pair's sum)
 *   w_sum(p)                                  the sum of all lanes (float only)
 *   w_place(p, i, head, tail)                 lane i = head + tail, the tail below half a unit of the head
 *
 * The same numbers in registers, vwide. Each operation is within RV_WIDE_UNIT of the largest of operands and result.
 *   x_zero()  x_set1(head, tail)  x_load(p)  x_store(p, x)  x_add  x_sub  x_mul  x_div  x_sqrt
 *   x_from(p)               RV_LANES doubles; x_into(p, x) stores heads as doubles; x_widen(a) a vector
 *   x_diff(a, b)            a - b where neither has a tail
 *   x_add_square(s, d)      s + d^2
 *   x_gather(s, a)          s + a vector, for sums that x_add or x_total ends
 *   a_from(a)  a_sub(a, x)  a_scale(d, x)  a_keep(mask, d)
 *                           deviations, vaway: of a vector from 0 and from a mean, times a power of two, 0 without the mask
 *   x_gather_square(s, d)   s + the square of a deviation
 *   x_left(x)               what a_sub leaves out of a mean whose lanes are one number, as a double
 *   x_mul_add(a, b, s)      a b + s (float only)
 *   x_head(a), x_rest(a)    a rounded to real; the real nearest to what that left
 *   x_total(a, tail)        sum of the lanes: returns the head
 *   v_lost(a, b, p)         a b - p, exactly where p is a b rounded
 */
#include "../scalar_math.h"
#include "real.h"

#define RV_LANES 1
#define RV_TILE_ROWS 4
#define RV_HAVE_FMA 0
#define RV_LOOKUP_BITS 4

typedef real vreal;
typedef word vword;
typedef int vmask;

RV_INLINE vreal v_zero(void) { return 0; }
RV_INLINE vreal v_set1(real x) { return x; }
RV_INLINE vreal v_iota(void) { return 0; }
RV_INLINE vreal v_load(const real *p) { return *p; }
RV_INLINE void v_store(real *p, vreal x) { *p = x; }
RV_INLINE vreal v_load_tail(const real *p, int64_t n) { return n > 0 ? *p : 0; }
RV_INLINE void v_store_tail(real *p, vreal x, int64_t n) { if (n > 0) *p = x; }

RV_INLINE vreal v_add(vreal a, vreal b) { return a + b; }
RV_INLINE vreal v_sub(vreal a, vreal b) { return a - b; }
RV_INLINE vreal v_mul(vreal a, vreal b) { return a * b; }
RV_INLINE vreal v_div(vreal a, vreal b) { return a / b; }
/* Products and sums round separately here: a correctly rounded fma() in software costs a hundred times more, and the bounds
 * count two roundings a term. Code whose exactness rests on a fused product tests RV_HAVE_FMA. */
RV_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return a * b + c; }
RV_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return c - a * b; }
#if RV_REAL_BITS == 32
RV_INLINE vreal v_lost(vreal a, vreal b, vreal p) { return (real)((double)a * b - p); }
#else
/* Veltkamp's split and Dekker's product: |a|, |b| below 2^996 */
RV_INLINE vreal v_lost(vreal a, vreal b, vreal p)
{
    real ac = a * 134217729.0, bc = b * 134217729.0, ah = ac - (ac - a), bh = bc - (bc - b), al = a - ah, bl = b - bh, ab = a * b;
    return (((ah * bh - ab) + ah * bl + al * bh) + al * bl) + (ab - p);
}
#endif
RV_INLINE vreal v_max(vreal a, vreal b) { return a > b ? a : b; }
RV_INLINE vreal v_min(vreal a, vreal b) { return a < b ? a : b; }
RV_INLINE vreal v_abs(vreal a) { return rv_real(rv_bits(a) & ~RV_SIGN_BIT); }
RV_INLINE vreal v_copysign(vreal a, vreal s) { return rv_real((rv_bits(a) & ~RV_SIGN_BIT) | (rv_bits(s) & RV_SIGN_BIT)); }
/* Heron's rule from half the exponent: 6% off, then 2e-3, 2e-6, 1e-12, 1e-24. */
RV_INLINE vreal v_sqrt(vreal a)
{
    vreal s = rv_real((rv_bits(a) >> 1) + ((word)RV_EXP_BIAS << (RV_MANTISSA_BITS - 1)));
    for (int i = 0; i < 4; i++)
        s = (s + a / s) * (real)0.5;
    return s;
}

RV_INLINE vmask v_lt(vreal a, vreal b) { return a < b; }
RV_INLINE vmask v_le(vreal a, vreal b) { return a <= b; }
RV_INLINE vmask v_eq(vreal a, vreal b) { return a == b; }
RV_INLINE vmask v_nan(vreal a) { return a != a; }
RV_INLINE vmask v_not_lt(vreal a, vreal b) { return !(a < b); }
RV_INLINE vmask m_and(vmask a, vmask b) { return a & b; }
RV_INLINE vmask m_or(vmask a, vmask b) { return a | b; }
RV_INLINE vmask m_not(vmask a) { return !a; }
RV_INLINE int m_any(vmask a) { return a; }
RV_INLINE unsigned m_bits(vmask a) { return (unsigned)a; }
RV_INLINE vreal v_select(vmask m, vreal a, vreal b) { return m ? a : b; }
RV_INLINE vreal v_keep(vmask m, vreal a) { return m ? a : 0; }
RV_INLINE vword v_load_words(const word *p) { return *p; }
RV_INLINE vmask v_testbit(vword w, int i) { return (int)((w >> i) & 1); }

RV_INLINE vreal v_round(vreal x)
{
    real magic = v_copysign(RV_INTEGER_MAGIC, x);
    return v_abs(x) < RV_INTEGER_MAGIC ? v_copysign((x + magic) - magic, x) : x;
}
RV_INLINE vreal v_ceil(vreal x)
{
    real r = v_round(x);
    return r < x ? v_copysign(r + 1, x) : r;
}
RV_INLINE vreal v_pow2(vreal n) { return rv_real(rv_bits(n + RV_POW2_MAGIC) << RV_MANTISSA_BITS); }
RV_INLINE vreal v_exponent(vreal x)
{
    return (real)(int)((rv_bits(x) + RV_SPLIT_BITS) >> RV_MANTISSA_BITS) - RV_EXP_BIAS;
}
RV_INLINE vreal v_mantissa(vreal x)
{
    return rv_real(((rv_bits(x) + RV_SPLIT_BITS) & RV_MANTISSA_MASK) + RV_HALF_SQRT2_BITS);
}
RV_INLINE vreal v_shift_up(vreal t) { return rv_real(rv_bits(t) << (RV_MANTISSA_BITS - RV_LOOKUP_BITS)); }
RV_INLINE vreal v_add_bits(vreal a, vreal b) { return rv_real(rv_bits(a) + rv_bits(b)); }
RV_INLINE vreal v_lookup(const word *table, vreal t) { return rv_real(table[rv_bits(t) & ((1 << RV_LOOKUP_BITS) - 1)]); }

RV_INLINE vreal v_swap(vreal x, const int d) { (void)d; return x; }
RV_INLINE real v_sum(vreal x) { return x; }
RV_INLINE real v_hmax(vreal x) { return x; }
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p) { p[0] = a; p[1] = b; p[2] = c; p[3] = d; }
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    (void)stride; (void)dst_stride;
    *dst = *(const real *)src;
}

#if RV_REAL_BITS == 32

RV_INLINE vreal v_load_f16(const uint16_t *p)
{
    uint32_t sign = (uint32_t)(*p & 0x8000) << 16, x = *p & 0x7fff;
    if (x < 0x400)
        return v_copysign((real)x * 5.9604644775390625e-8f, rv_real(sign));     /* subnormal: multiples of 2^-24 */
    if (x < 0x7c00)
        return rv_real(sign | ((x << 13) + ((uint32_t)(127 - 15) << 23)));
    return rv_real(sign | 0x7f800000 | x << 13 | (x > 0x7c00 ? 0x400000 : 0));
}
RV_INLINE void v_store_f16(uint16_t *p, vreal x)
{
    uint32_t w = rv_bits(x), a = w & 0x7fffffff, h;
    if (a > 0x7f800000)
        h = 0x7e00 | (a >> 13 & 0x3ff);
    else if (a >= 0x477ff000)       /* 65520, halfway to the first number too large */
        h = 0x7c00;
    else if (a >= 0x38800000)       /* 2^-14, the least normal number */
        h = (a + 0xfff + (a >> 13 & 1) - ((uint32_t)(127 - 15) << 23)) >> 13;
    else                            /* one unit in the last place of 0.5 is the subnormal unit, so the addition rounds */
        h = rv_bits(rv_real(a) + 0.5f) - rv_bits(0.5f);
    *p = (uint16_t)((w >> 16 & 0x8000) | h);
}
RV_INLINE vreal v_load_bf16(const uint16_t *p) { return rv_real((uint32_t)*p << 16); }
RV_INLINE void v_store_bf16(uint16_t *p, vreal x)
{
    uint32_t w = rv_bits(x);
    *p = (uint16_t)((x != x ? w | 0x400000 : w + 0x7fff + (w >> 16 & 1)) >> 16);
}
RV_INLINE vreal v_load_f16_tail(const uint16_t *p, int64_t n) { return n > 0 ? v_load_f16(p) : 0; }
RV_INLINE void v_store_f16_tail(uint16_t *p, vreal x, int64_t n) { if (n > 0) v_store_f16(p, x); }
RV_INLINE vreal v_load_bf16_tail(const uint16_t *p, int64_t n) { return n > 0 ? v_load_bf16(p) : 0; }
RV_INLINE void v_store_bf16_tail(uint16_t *p, vreal x, int64_t n) { if (n > 0) v_store_bf16(p, x); }

RV_INLINE vreal v_load_i8(const int8_t *p) { return *p; }
RV_INLINE vreal v_load_i8_tail(const int8_t *p, int64_t n) { return n > 0 ? *p : 0; }

RV_INLINE double w_get(const real *p, int i) { double x; memcpy(&x, p + 2 * i, sizeof x); return x; }
RV_INLINE double w_sum(const real *p) { return w_get(p, 0); }
RV_INLINE void w_set1(real *p, double x) { memcpy(p, &x, sizeof x); }
RV_INLINE void w_zero(real *p) { w_set1(p, 0); }
RV_INLINE void w_add(real *p, vreal x) { w_set1(p, w_get(p, 0) + (double)x); }
RV_INLINE void w_scale(real *p, vreal s) { w_set1(p, w_get(p, 0) * (double)s); }
RV_INLINE void w_merge(real *p, const real *q) { w_set1(p, w_get(p, 0) + w_get(q, 0)); }
RV_INLINE vreal w_quotient(const real *p, const real *q)
{
    double l = w_get(q, 0);
    return l == 0 ? 0 : (real)(w_get(p, 0) / l);
}
RV_INLINE vreal w_times(const real *p, double x) { return (real)(w_get(p, 0) * x); }

/* One half: the high one is not there. */
typedef double vhalf;
RV_INLINE vhalf h_set1(double x) { return x; }
RV_INLINE vhalf h_add(vhalf a, vhalf b) { return a + b; }
RV_INLINE vhalf h_sub(vhalf a, vhalf b) { return a - b; }
RV_INLINE vhalf h_mul(vhalf a, vhalf b) { return a * b; }
RV_INLINE vhalf h_div(vhalf a, vhalf b) { return a / b; }
RV_INLINE vhalf h_fma(vhalf a, vhalf b, vhalf c) { return a * b + c; }
RV_INLINE vhalf h_sqrt(vhalf a) { return rv_sqrt(a); }
RV_INLINE double h_sum(vhalf a) { return a; }
RV_INLINE vhalf w_half(const real *p, int i) { return i ? 0 : w_get(p, 0); }
RV_INLINE void w_put(real *p, vhalf low, vhalf high)
{
    (void)high;
    w_set1(p, low);
}
RV_INLINE vhalf v_widen_low(vreal x) { return (double)x; }
RV_INLINE vhalf v_widen_high(vreal x) { (void)x; return 0; }
RV_INLINE vreal v_narrow(vhalf low, vhalf high) { (void)high; return (real)low; }

#include "wide.h"

#else

#include "pair.h"

#endif
