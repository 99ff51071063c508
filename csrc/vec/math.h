/* Elementary functions over the vector contract of scalar.h, one source for float and double. Included after a vector header.
 * Branch-free; every function takes any argument, NaN giving NaN, unless its comment says otherwise.
 *
 * Coefficients: tests/c/minimax.py, a Remez exchange with the largest error stated beside each (relative to the function). */

/* Bounds in ULP, kept by every ISA. Beside them the largest errors found: of all floats, and of some
 * 10^7 doubles. tests/c/test_math.c looks again. */
#if RV_REAL_BITS == 32
#define RV_ULP_EXP2_FLUSH 0.85  /* 0.800 */
#define RV_ULP_EXP 0.95         /* 0.927 */
#define RV_ULP_EXP2 0.95        /* 0.879 */
#define RV_ULP_LOG 0.95         /* 0.904 */
#define RV_ULP_TANH 1.7         /* 1.617 */
#define RV_ULP_ERF 1.35         /* 1.289 */
#define RV_ULP_GELU 5           /* 4.86; 4.55 with fused products */
#define RV_ULP_SILU 3.3         /* 3.13; 3.03 */
#define RV_ULP_ASINH 1.45       /* 1.389 */
#define RV_ULP_SINPI 1.65       /* 1.54; 0.961 with fused products */
#define RV_ULP_COSPI 1.65       /* 1.56; 0.860 */
#else
#define RV_ULP_EXP2_FLUSH 0.85  /* 0.793 */
#define RV_ULP_EXP 0.95         /* 0.899 */
#define RV_ULP_EXP2 0.95        /* 0.841 */
#define RV_ULP_LOG 0.95         /* 0.845 */
#define RV_ULP_TANH 1.7         /* 1.562 */
#define RV_ULP_ERF 1.35         /* 1.232 */
#define RV_ULP_GELU 5           /* 4.86; 4.55 with fused products */
#define RV_ULP_SILU 3.3         /* 3.13; 3.03 */
#define RV_ULP_ASINH 1.45       /* 1.350 */
#define RV_ULP_SINPI 1.65       /* 1.45; 0.812 with fused products */
#define RV_ULP_COSPI 1.65       /* 1.54; 0.827 */
#endif

#define RV_POLY1(x, c) v_set1(c)
#define RV_POLY2(x, c, ...) v_fma(x, RV_POLY1(x, __VA_ARGS__), v_set1(c))
#define RV_POLY3(x, c, ...) v_fma(x, RV_POLY2(x, __VA_ARGS__), v_set1(c))
#define RV_POLY4(x, c, ...) v_fma(x, RV_POLY3(x, __VA_ARGS__), v_set1(c))
#define RV_POLY5(x, c, ...) v_fma(x, RV_POLY4(x, __VA_ARGS__), v_set1(c))
#define RV_POLY6(x, c, ...) v_fma(x, RV_POLY5(x, __VA_ARGS__), v_set1(c))
#define RV_POLY7(x, c, ...) v_fma(x, RV_POLY6(x, __VA_ARGS__), v_set1(c))
#define RV_POLY8(x, c, ...) v_fma(x, RV_POLY7(x, __VA_ARGS__), v_set1(c))
#define RV_POLY9(x, c, ...) v_fma(x, RV_POLY8(x, __VA_ARGS__), v_set1(c))
#define RV_POLY10(x, c, ...) v_fma(x, RV_POLY9(x, __VA_ARGS__), v_set1(c))
#define RV_POLY11(x, c, ...) v_fma(x, RV_POLY10(x, __VA_ARGS__), v_set1(c))
#define RV_POLY12(x, c, ...) v_fma(x, RV_POLY11(x, __VA_ARGS__), v_set1(c))
#define RV_POLY13(x, c, ...) v_fma(x, RV_POLY12(x, __VA_ARGS__), v_set1(c))
#define RV_POLY14(x, c, ...) v_fma(x, RV_POLY13(x, __VA_ARGS__), v_set1(c))
#define RV_POLY15(x, c, ...) v_fma(x, RV_POLY14(x, __VA_ARGS__), v_set1(c))
#define RV_POLY16(x, c, ...) v_fma(x, RV_POLY15(x, __VA_ARGS__), v_set1(c))
#define RV_POLY17(x, c, ...) v_fma(x, RV_POLY16(x, __VA_ARGS__), v_set1(c))
#define RV_POLY18(x, c, ...) v_fma(x, RV_POLY17(x, __VA_ARGS__), v_set1(c))
#define RV_POLY19(x, c, ...) v_fma(x, RV_POLY18(x, __VA_ARGS__), v_set1(c))
#define RV_POLY20(x, c, ...) v_fma(x, RV_POLY19(x, __VA_ARGS__), v_set1(c))

#if RV_REAL_BITS == 32
#define RV_LOG2E_HIGH 1.44269502f
#define RV_LOG2E_LOW 1.92596303e-8f
#define RV_LN2_HIGH 0.693115234f        /* 12 bits: its products with exponents and their sixteenths are exact */
#define RV_LN2_LOW 3.19461833e-5f
#define RV_LN2_REST 4.60886040e-5f      /* 1 - RV_LN2_HIGH / ln 2 */
#define RV_LEAST_NORMAL 1.17549435e-38f
#define RV_EXP_FROM -105.0f             /* exp is 0 from here down */
#define RV_EXP_TO 90.0f                 /* and infinity from here up */
#define RV_EXP2_FROM -152.0f
#define RV_EXP2_TO 130.0f
#define RV_HALFWAY 64                   /* far from both ends of the exponents */
#define RV_HALFWAY_POW2 0x1p64f
#else
#define RV_LOG2E_HIGH 1.44269504088896339
#define RV_LOG2E_LOW 2.03552737409310331e-17
#define RV_LN2_HIGH 0.693147180558298714        /* 38 bits */
#define RV_LN2_LOW 1.64659495828970823e-12
#define RV_LN2_REST 2.37553438067733129e-12
#define RV_LEAST_NORMAL 2.2250738585072014e-308
#define RV_EXP_FROM -746.0
#define RV_EXP_TO 711.0
#define RV_EXP2_FROM -1077.0
#define RV_EXP2_TO 1026.0
#define RV_HALFWAY 512
#define RV_HALFWAY_POW2 0x1p512
#endif

/* 2^x = 2^n 2^f, n = x rounded to a multiple of 2^-RV_LOOKUP_BITS. Adding RV_EXP2_MAGIC rounds, and leaves n + bias in the low
 * bits of the sum, ready to be shifted to the exponent's place. */
#define RV_EXP2_MAGIC (RV_INTEGER_MAGIC * (real)1.5 / (1 << RV_LOOKUP_BITS) + RV_EXP_BIAS)

/* Words of 2^((j + s) / entries), less j in the place where t brings it. The shift s puts all entries close to representable
 * numbers, within 0.22, 0.10 and 0.18 ULP; the polynomial undoes it. */
#if RV_LOOKUP_BITS == 4 && RV_REAL_BITS == 32
static const RV_ALIGN(64) word rv_exp2_table[16] = {
    0x00011ba4, 0xfffed2f6, 0xfffccb12, 0xfffb06d5, 0xfff9893f, 0xfff85570, 0xfff76ead, 0xfff6d85e,
    0xfff69614, 0xfff6ab87, 0xfff71c99, 0xfff7ed59, 0xfff92203, 0xfffabf04, 0xfffcc8fa, 0xffff44b8,
};
#elif RV_LOOKUP_BITS == 3
static const RV_ALIGN(32) word rv_exp2_table[8] = {
    0x0000594e, 0xfffbf725, 0xfff8a224, 0xfff672a7, 0xfff5833f, 0xfff5f0e4, 0xfff7db2e, 0xfffb6490,
};
#elif RV_LOOKUP_BITS == 4
static const RV_ALIGN(64) word rv_exp2_table[16] = {
    0x0000061833b301b6, 0xffffbbb5b424028b, 0xffff795da6093bc1, 0xffff3f6b2bf653fa,
    0xffff0e3d716dc308, 0xfffee637d89c2c28, 0xfffec7c22a1a0c68, 0xfffeb348c6cab000,
    0xfffea93cdbf06580, 0xfffeaa14998ef555, 0xfffeb64b6b367fc3, 0xfffece6233520bae,
    0xfffef2df891645d8, 0xffff244ff92e3336, 0xffff63464944ea58, 0xffffb05bbe8cc811,
};
#endif

/* 2^n 2^f for t = n + RV_EXP2_MAGIC, where 2^n is normal. With a table: q = 2^(f - s / entries) - 1. */
RV_INLINE vreal v_exp2_core(vreal f, vreal t)
{
#if RV_LOOKUP_BITS == 4 && RV_REAL_BITS == 32
    /* |f| <= 1/32: degree 3, 1.9e-9 */
    vreal q = RV_POLY4(f, -0.00858174078f, 0.687198758f, 0.238171965f, 0.0550408103f);
#elif RV_LOOKUP_BITS == 3
    /* |f| <= 1/16: degree 4, 5.6e-10 */
    vreal q = RV_POLY5(f, -0.00271795527f, 0.691263258f, 0.239573509f, 0.0553507581f, 0.0096037453f);
#elif RV_LOOKUP_BITS == 4
    /* |f| <= 1/32: degree 6, 7.1e-18 */
    vreal q = RV_POLY7(f, -0.0014857138981379935, 0.69211736216033382, 0.23986959909901115, 0.055421645426298335,
        0.0096038393147050583, 0.0013314010280060251, 0.00015381272827933926);
#elif RV_REAL_BITS == 32
    /* |f| <= 1/2: degree 6, 3.0e-9 */
    vreal p = RV_POLY7(f, 1.0f, 0.693147182f, 0.240226477f, 0.0555035993f, 0.00961850584f, 0.00133908086f, 0.000153266199f);
#else
    /* |f| <= 1/2: degree 11, 4.1e-18; in two chains, as one of eleven steps outlasts the scheduler */
    vreal g = v_mul(f, f), even = RV_POLY5(g, 0.24022650695910108, 0.009618129107601606, 0.00015403530449035108,
        1.3215438836341012e-6, 7.0732329922909824e-9);
    vreal odd = RV_POLY5(g, 0.055504108664821729, 0.0013333558146544865, 1.5252733635112897e-5, 1.017815965385057e-7,
        4.4389126093839668e-10);
    vreal p = v_fma(f, v_fma(f, v_fma(f, odd, even), v_set1(0.69314718055994529)), v_set1(1));
#endif
#if RV_LOOKUP_BITS
    vreal scale = v_add_bits(v_lookup(rv_exp2_table, t), v_shift_up(t));
    return v_fma(scale, q, scale);
#else
    return v_mul(p, v_shift_up(t));
#endif
}

/* Attention's 2^x, x <= 1: exact for integers; results below the least normal number are +0. */
RV_INLINE vreal v_exp2_flush(vreal x)
{
    vreal t = v_add(x, v_set1(RV_EXP2_MAGIC)), f = v_add(x, v_sub(v_set1(RV_EXP2_MAGIC), t));
#if RV_HAVE_FMA
    vreal y = v_exp2_core(f, t);
#else
    /* two roundings at the least scales would be those of subnormals */
    vreal y = v_mul(v_exp2_core(f, v_add(t, v_set1(RV_HALFWAY))), v_set1(1 / RV_HALFWAY_POW2));
#endif
    return v_keep(v_not_lt(x, v_set1(1 - RV_EXP_BIAS)), y);
}

/* v_exp2_core for any n, given as -n too, scaled in two steps: only the second rounds, where the result is subnormal. */
RV_INLINE vreal v_exp2_scaled(vreal f, vreal t, vreal minus_n)
{
    vmask small = v_lt(v_zero(), minus_n);
    t = v_add(t, v_select(small, v_set1(RV_HALFWAY), v_set1(-RV_HALFWAY)));
    return v_mul(v_exp2_core(f, t), v_select(small, v_set1(1 / RV_HALFWAY_POW2), v_set1(RV_HALFWAY_POW2)));
}

RV_INLINE vreal v_exp2(vreal x)
{
    x = v_min(v_set1(RV_EXP2_TO), v_max(v_set1(RV_EXP2_FROM), x));
    vreal t = v_add(x, v_set1(RV_EXP2_MAGIC)), minus_n = v_sub(v_set1(RV_EXP2_MAGIC), t);
    return v_exp2_scaled(v_add(x, minus_n), t, minus_n);
}

/* Returns f of x log2(e) = n + f; t as above. r = x - n RV_LN2_HIGH is exact, so that f is rounded once. */
RV_INLINE vreal v_exp_reduce(vreal x, vreal *t, vreal *minus_n)
{
    *t = v_fma(x, v_set1(RV_LOG2E_HIGH), v_set1(RV_EXP2_MAGIC));
    *minus_n = v_sub(v_set1(RV_EXP2_MAGIC), *t);
    vreal r = v_fma(*minus_n, v_set1(RV_LN2_HIGH), x), low = v_mul(*minus_n, v_set1(RV_LN2_REST));
#if !RV_LOOKUP_BITS
    low = v_fma(r, v_set1(RV_LOG2E_LOW), low);
#endif
    return v_fma(r, v_set1(RV_LOG2E_HIGH), low);
}

/* exp(-inf) is 0, subnormal results are rounded like the rest. */
RV_INLINE vreal v_exp(vreal x)
{
    vreal t, minus_n, f = v_exp_reduce(v_min(v_set1(RV_EXP_TO), v_max(v_set1(RV_EXP_FROM), x)), &t, &minus_n);
    return v_exp2_scaled(f, t, minus_n);
}

/* The same bits where the result is normal: x from RV_EXP_NORMAL_FROM to 88 (float) or 709 (double). */
#define RV_EXP_NORMAL_FROM (RV_REAL_BITS == 32 ? (real)-87 : (real)-708)
RV_INLINE vreal v_exp_normal(vreal x)
{
    vreal t, minus_n, f = v_exp_reduce(x, &t, &minus_n);
    return v_exp2_core(f, t);
}

/* log(y 2^k) + c as a sum and its rest, y positive and normal. y 2^k = m 2^e, r = m - 1, s = r / (2 + r):
 * log m = r - (r^2/2 - s (r^2/2 + z P(z))), z = s^2 <= 0.0295; P: degree 2, 8.3e-10 (float), degree 6, 1.3e-18 (double) */
RV_INLINE vreal v_log_pair(vreal y, vreal k, vreal c, vreal *rest)
{
    vreal e = v_add(v_exponent(y), k), r = v_sub(v_mantissa(y), v_set1(1));
    vreal s = v_div(r, v_add(r, v_set1(2))), z = v_mul(s, s), half = v_mul(v_mul(r, r), v_set1((real)0.5));
#if RV_REAL_BITS == 32
    vreal p = RV_POLY3(z, 0.666667759f, 0.399775535f, 0.298722237f);
#else
    vreal p = RV_POLY7(z, 0.66666666666667351, 0.39999999999408603, 0.28571428743967603, 0.22222198390866943,
        0.18183574740349548, 0.15313762128061301, 0.14799039704932579);
#endif
    /* e ln 2 + r loses digits where they cancel: the loss is known, for |r| < ln 2 */
    vreal high = v_mul(e, v_set1(RV_LN2_HIGH)), sum = v_add(high, r), lost = v_sub(r, v_sub(sum, high));
    vreal low = v_sub(v_fma(e, v_set1(RV_LN2_LOW), c), v_sub(half, v_mul(s, v_fma(z, p, half))));
    *rest = v_add(lost, low);
    return sum;
}
RV_INLINE vreal v_log_parts(vreal y, vreal k, vreal c)
{
    vreal rest, sum = v_log_pair(y, k, c, &rest);
    return v_add(sum, rest);
}

/* log(0) is -inf, of a negative number NaN. */
RV_INLINE vreal v_log(vreal x)
{
    vmask small = v_lt(x, v_set1(RV_LEAST_NORMAL));
    vreal y = v_select(small, v_mul(x, v_set1(RV_HALFWAY_POW2)), x);
    y = v_log_parts(y, v_keep(small, v_set1(-RV_HALFWAY)), v_zero());
    y = v_select(v_lt(x, v_set1((real)INFINITY)), y, x);
    y = v_select(v_lt(x, v_zero()), v_set1((real)NAN), y);
    return v_select(v_eq(x, v_zero()), v_set1(-(real)INFINITY), y);
}

RV_INLINE vreal v_tanh(vreal x)
{
    vreal a = v_abs(x), z = v_mul(x, x);
    /* tanh x = x (1 + z P(z)), |x| < 0.55: degree 4, 1.0e-9 (float), degree 10, 5.8e-19 (double) */
#if RV_REAL_BITS == 32
    vreal p = RV_POLY5(z, -0.333333194f, 0.133326367f, -0.0538568422f, 0.0210882351f, -0.00629549287f);
#else
    vreal p = RV_POLY11(z, -0.33333333333333298, 0.13333333333326561, -0.053968253963715879, 0.021869488384324166,
        -0.0088632325725700109, 0.0035920917029504274, -0.0014555405165437821, 0.00058843402850198168,
        -0.00023335280004470183, 8.3272213762975472e-5, -1.9465574160733739e-5);
#endif
    vreal small = v_fma(a, v_mul(z, p), a);
    /* 1 - 2 / (exp(2x) + 1), 1 from 20 on in either precision */
    vreal t, minus_n, f = v_exp_reduce(v_min(v_set1(40), v_add(a, a)), &t, &minus_n);
    vreal large = v_sub(v_set1(1), v_div(v_set1(2), v_add(v_exp2_core(f, t), v_set1(1))));
    return v_copysign(v_select(v_lt(a, v_set1((real)0.55)), small, large), x);
}

RV_INLINE vreal v_erf(vreal x)
{
    vreal a = v_abs(x), z = v_mul(x, x);
    /* erf x = x (1 + P(z)), |x| < 1: degree 6, 1.5e-9 (float), degree 12, 1.2e-17 (double) */
#if RV_REAL_BITS == 32
    vreal p = RV_POLY7(z, 0.128379166f, -0.376126289f, 0.112836182f, -0.0268552043f, 0.00519104488f, -0.000803475676f,
        7.93704967e-5f);
#else
    vreal p = RV_POLY13(z, 0.12837916709551259, -0.37612638903184015, 0.11283791670966684, -0.026866170647207057,
        0.0052239776449573031, -0.00085483281114737955, 0.00012055371492522778, -1.4926546669615323e-5,
        1.6475974728889973e-6, -1.6506132408182892e-7, 1.5688760489156698e-8, -1.5278480958321199e-9,
        1.2445592117517526e-10);
#endif
    vreal small = v_fma(a, p, a);
    /* 1 - erfc x, erfc x = 2^Q(x - 1), to where erf is 1: degree 7, 5.4e-9 (float), degree 19, 7.1e-18 (double) */
    vreal u = v_sub(v_min(v_set1(RV_REAL_BITS == 32 ? 4 : 6), a), v_set1(1));
#if RV_REAL_BITS == 32
    vreal q = RV_POLY8(u, -2.66841674f, -3.80722213f, -1.21639466f, -0.0597027242f, 0.0138625223f, -0.00216407445f,
        1.36142817e-5f, 5.08957019e-5f);
#else
    vreal q = RV_POLY20(u, -2.6684166967815997, -3.8072253458536007, -1.216346657686221, -0.0599599900387877,
        0.014475750117694522, -0.0028535103361928171, 0.00034238464711888072, 3.7908353958457884e-5, -3.9175587416542522e-5,
        1.3850496548005249e-5, -2.9556453908189646e-6, 1.9087371667300581e-7, 1.5140232782428309e-7, -8.0523511405001895e-8,
        2.3513807280655681e-8, -4.6454882710896072e-9, 6.1855158679677766e-10, -5.0408190374120361e-11,
        1.9082316750190211e-12, -1.0654346203024011e-15);
#endif
    vreal large = v_sub(v_set1(1), v_exp2_flush(q));
    return v_copysign(v_select(v_lt(a, v_set1(1)), small, large), x);
}

/* x Phi(x) = max(x, 0) - T(|x|), T(a) = a Phi(-a) = a exp(-a^2/2) M(a): no digit cancels on either side. M = q / (a + k) with
 * q a polynomial in t = (a - k) / (a + k). T is 0 from RV_GELU_TO on. */
RV_INLINE vreal v_gelu(vreal x)
{
#if RV_REAL_BITS == 32
#define RV_GELU_TO 14.5f
#define RV_GELU_K 4.0f
#else
#define RV_GELU_TO 38.7
#define RV_GELU_K 5.0
#endif
    vreal a = v_min(v_set1(RV_GELU_TO), v_abs(x)), k = v_set1(RV_GELU_K), s = v_div(v_set1(1), v_add(a, k));
    vreal t = v_mul(v_sub(a, k), s);
    /* what the quotient misses: a - k - t (a + k) = (a - k (t + 1)) - t a */
    t = v_fma(v_fnma(t, a, v_fnma(v_add(t, v_set1(1)), k, a)), s, t);
    /* q times 2^-RV_HALFWAY, which the power has too much until it underflows */
#define C(c) ((c) / RV_HALFWAY_POW2)
    vreal z = v_mul(t, t);
#if RV_REAL_BITS == 32
    /* degree 9, 1.9e-8 */
    vreal even = RV_POLY5(z, C(0.755285144f), C(0.38713631f), C(0.0604103543f), C(-0.00353823695f), C(0.000214323634f));
    vreal odd = RV_POLY5(z, C(-0.607896626f), C(-0.186522305f), C(-0.00753092626f), C(0.00157129904f), C(-0.00011358397f));
#else
    /* degree 22, 2.6e-17 */
    vreal even = RV_POLY12(z, C(0.76919304975006297), C(0.49530561596997247), C(0.16502036617055599), C(0.020795066796930977),
        C(-0.00079786937179691974), C(-5.937587173423591e-5), C(1.6681706236300643e-5), C(-2.7703650888334018e-6),
        C(4.347157451992206e-7), C(-6.732082559474352e-8), C(8.3127956745019202e-9), C(-2.765992640823695e-10));
    vreal odd = RV_POLY11(z, C(-0.66538250289005685), C(-0.31353315667128695), C(-0.069118638706863245), C(-0.0029933767629733935),
        C(0.00054489901039473623), C(-4.9762585424452251e-5), C(3.9803171296098735e-6), C(-3.3570809954006801e-7),
        C(4.1463828105808449e-8), C(-8.9513439807898046e-9), C(1.7009507178771279e-9));
#endif
#undef C
    /* a^2 in two parts: its rounding alone would be a^2 / 4 units */
    vreal square = v_mul(a, a), lost = v_lost(a, a, square), e;
#if RV_HAVE_FMA
    /* what v_exp_reduce does, with the half among the constants and one product the less, as it loses nothing here */
    e = v_fma(square, v_set1(RV_LOG2E_HIGH * (real)-0.5), v_set1(RV_EXP2_MAGIC));
    vreal f = v_fma(square, v_set1(RV_LOG2E_HIGH * (real)-0.5), v_sub(v_set1(RV_EXP2_MAGIC), e));
    f = v_fma(square, v_set1(RV_LOG2E_LOW * (real)-0.5), f);
#else
    vreal minus_n, f = v_exp_reduce(v_mul(square, v_set1((real)-0.5)), &e, &minus_n);
#endif
    f = v_fma(lost, v_set1(RV_LOG2E_HIGH * (real)-0.5), f);
    /* in this order nothing is subnormal before the last product */
    vreal power = v_exp2_core(f, v_add(e, v_set1(RV_HALFWAY)));
    vreal tail = v_mul(v_mul(a, v_mul(s, power)), v_fma(t, odd, even));
    return v_copysign(v_sub(v_max(x, v_zero()), tail), x);
}

/* x / (1 + exp(-v)), v of x's sign; -0 at -infinity, the limit. RV_GATE_TO exp(-RV_GATE_TO) is 0. */
RV_INLINE vreal v_gate(vreal x, vreal v)
{
#if RV_REAL_BITS == 32
#define RV_GATE_TO 113.0f
#else
#define RV_GATE_TO 760.0
#endif
    vmask below = v_lt(v, v_zero());
    vreal e, minus_n, f = v_exp_reduce(v_sub(v_zero(), v_min(v_set1(RV_GATE_TO), v_abs(v))), &e, &minus_n);
    vreal one = v_set1(1), down = v_set1(1 / RV_HALFWAY_POW2), power = v_exp2_core(f, v_add(e, v_set1(RV_HALFWAY)));
    vreal top = v_mul(v_max(v_set1(-RV_GATE_TO), x), v_select(below, power, one));
    return v_mul(v_div(top, v_fma(power, down, one)), v_select(below, down, one));
}

RV_INLINE vreal v_silu(vreal x) { return v_gate(x, x); }

/* x / 2 (1 + tanh(v / 2)), v = sqrt(8 / pi) (x + 0.044715 x^3) */
RV_INLINE vreal v_gelu_tanh(vreal x)
{
    vreal w = v_fma(v_mul(x, x), v_set1((real)0.0713548162726002488), v_set1((real)1.595769121605730711));
    return v_gate(x, v_mul(x, w));
}

RV_INLINE vreal v_asinh(vreal x)
{
    vreal a = v_abs(x), z = v_mul(x, x);
    /* asinh x = x (1 + z P(z)), |x| < 0.5225: degree 4, 2.0e-9 (float), degree 11, 1.8e-18 (double) */
#if RV_REAL_BITS == 32
    vreal p = RV_POLY5(z, -0.166666329f, 0.074981831f, -0.0443220586f, 0.0278470349f, -0.0126726059f);
#else
    vreal p = RV_POLY12(z, -0.16666666666666524, 0.074999999999638495, -0.044642857110838735, 0.030381943019601509,
        -0.022372121824433794, 0.017352141102981427, -0.01395784431161764, 0.011497598040155266, -0.0094689419182498718,
        0.0072909707929414858, -0.0044795589372026495, 0.0015386070532052314);
#endif
    vreal small = v_fma(a, v_mul(z, p), a);
    /* log(1 + u), u = a + a^2 / (1 + sqrt(1 + a^2)), c what 1 + u lost; log(2a) where 1 is lost in a^2 */
    vreal u = v_add(a, v_div(z, v_add(v_set1(1), v_sqrt(v_add(z, v_set1(1))))));
    vreal y = v_add(u, v_set1(1)), c = v_div(v_sub(u, v_sub(y, v_set1(1))), y);
    vmask huge = v_lt(v_set1(RV_REAL_BITS == 32 ? 0x1p12f : 0x1p28f), a);
    vreal large = v_log_parts(v_select(huge, a, y), v_keep(huge, v_set1(1)), v_select(huge, v_zero(), c));
    large = v_select(v_lt(a, v_set1((real)INFINITY)), large, a);
    return v_copysign(v_select(v_lt(a, v_set1((real)0.5225)), small, large), x);
}

/* sin(pi x) and cos(pi x): reduction by quarter turns is exact, however large x is. An infinite x gives NaN. */
RV_INLINE vreal v_sincospi(vreal x, vreal *cosine)
{
    vreal a = v_abs(x);
    /* numbers so large are even */
    a = v_select(v_lt(v_set1(4 * RV_INTEGER_MAGIC), a), v_sub(a, a), a);
    vreal h = v_round(v_add(a, a)), r = v_fnma(h, v_set1((real)0.5), a), z = v_mul(r, r);
    /* sin(pi r) = r (pi + z P(z)), cos(pi r) = 1 + z Q(z), |r| <= 1/4: degrees 3 and 3, 8.9e-11 and 4.4e-10 (float), 6 and 6,
     * 7.5e-20 and 3.1e-19 (double) */
#if RV_REAL_BITS == 32
    const real high = 3.14159274f, low = -8.74227766e-8f;
    vreal p = RV_POLY4(z, -5.16771269f, 2.55015469f, -0.598981261f, 0.0791591406f);
    vreal q = RV_POLY4(z, -4.93480206f, 4.05869675f, -1.33475828f, 0.228990853f);
#else
    const real high = 3.14159265358979312, low = 1.22464679914735321e-16;
    vreal p = RV_POLY7(z, -5.1677127800499703, 2.5501640398774139, -0.59926452932766938, 0.082145886926694167,
        -0.0073704381440093418, 0.00046637968355535409, -2.2162910219058693e-5);
    vreal q = RV_POLY7(z, -4.934802200544679, 4.0587121264166672, -1.3352627688435821, 0.23533062979388666,
        -0.025806876105541058, 0.0019293528442649744, -0.00010304550693145294);
#endif
    vreal s = v_fma(r, v_set1(high), v_mul(r, v_fma(z, p, v_set1(low)))), c = v_fma(z, q, v_set1(1));
    /* quarter turns, -2 .. 2 */
    vreal turn = v_fnma(v_round(v_mul(h, v_set1((real)0.25))), v_set1(4), h), size = v_abs(turn);
    vmask odd = v_eq(size, v_set1(1)), half = v_eq(size, v_set1(2));
    vreal sine = v_select(odd, c, s), minus = v_set1(-1), plus = v_set1(1);
    *cosine = v_mul(v_select(odd, s, c), v_select(m_or(half, v_eq(turn, plus)), minus, plus));
    return v_mul(v_mul(sine, v_select(m_or(half, v_eq(turn, minus)), minus, plus)), v_copysign(plus, x));
}
RV_INLINE vreal v_sinpi(vreal x)
{
    vreal c;
    return v_sincospi(x, &c);
}
RV_INLINE vreal v_cospi(vreal x)
{
    vreal c;
    (void)v_sincospi(x, &c);
    return c;
}
