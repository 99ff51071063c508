/* Scalar double helpers for the few places outside the vector kernels; no libm, so that wheels need none. */
#ifndef RV_SCALAR_MATH_H
#define RV_SCALAR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define RV_LN2_HI 6.93147180369123816490e-01
#define RV_LN2_LO 1.90821492927058770002e-10
#define RV_LOG2E 1.44269504088896340736

/* Natural logarithm of a positive finite double: ln m by the odd series of atanh((m-1)/(m+1)), |s| <= 0.172, whose first
 * omitted term is below 2^-60; 2 ULP. log(0) is -infinity. */
static inline double rv_log(double x)
{
    uint64_t bits;
    int shift = 0;
    if (x == 0)
        return -INFINITY;
    if (!(x < INFINITY))
        return x;
    if (x < 2.2250738585072014e-308) {
        x *= 18014398509481984.0;
        shift = 54;
    }
    memcpy(&bits, &x, 8);
    int64_t k = (int64_t)(bits - 0x3fe6a09e667f3bcdu) >> 52;
    bits -= (uint64_t)k << 52;
    double m;
    memcpy(&m, &bits, 8);
    double f = m - 1, s = f / (2 + f), z = s * s, p = 1.0 / 21;
    for (int i = 19; i >= 3; i -= 2)
        p = p * z + 1.0 / i;
    double e = (double)(k - shift);
    /* log1p(f) = f - (f^2/2 - s (f^2/2 + R)), R = 2 z (1/3 + z/5 + ...): f is exact, so the head keeps its digits */
    double half = 0.5 * f * f, r = 2 * z * p;
    return e * RV_LN2_HI - ((half - (s * (half + r) + e * RV_LN2_LO)) - f);
}

/* Square root, correctly rounded but for rare ties: Heron's rule from half the exponent. 0, infinity and NaN are themselves. */
static inline double rv_sqrt(double x)
{
    if (!(x > 0 && x < INFINITY))
        return x < 0 ? NAN : x;
    double scale = 1;
    if (x < 2.2250738585072014e-308) {
        x *= 0x1p108;
        scale = 0x1p-54;
    }
    uint64_t bits;
    memcpy(&bits, &x, 8);
    bits = (bits >> 1) + ((uint64_t)1023 << 51);
    double s;
    memcpy(&s, &bits, 8);
    for (int i = 0; i < 5; i++)
        s = (s + x / s) * 0.5;
    return s * scale;
}

#endif
