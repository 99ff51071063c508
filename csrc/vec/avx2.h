/* AVX2, FMA and F16C: 8 floats or 4 doubles. The contract is in scalar.h. */
#include "real.h"

#define RV_TILE_ROWS 4
#define RV_HAVE_FMA 1

#if RV_REAL_BITS == 32
#define RV_LANES 8
#define RV_LOOKUP_BITS 3
#define OP(name) _mm256_##name##_ps
#define WORD_OP(name) _mm256_##name##_epi32
typedef __m256 vreal;
typedef __m256 vmask;
#define RV_WORDS(x) _mm256_castps_si256(x)
#define RV_REALS(w) _mm256_castsi256_ps(w)
#define RV_WORD_SET1(w) _mm256_set1_epi32((int)(w))
#define RV_WORD_IOTA _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
#else
#define RV_LANES 4
#define RV_LOOKUP_BITS 0
#define OP(name) _mm256_##name##_pd
#define WORD_OP(name) _mm256_##name##_epi64
typedef __m256d vreal;
typedef __m256d vmask;
#define RV_WORDS(x) _mm256_castpd_si256(x)
#define RV_REALS(w) _mm256_castsi256_pd(w)
#define RV_WORD_SET1(w) _mm256_set1_epi64x((long long)(w))
#define RV_WORD_IOTA _mm256_setr_epi64x(0, 1, 2, 3)
#endif
typedef __m256i vword;

RV_INLINE vword m_first(int64_t n) { return WORD_OP(cmpgt)(RV_WORD_SET1(n), RV_WORD_IOTA); }

RV_INLINE vreal v_zero(void) { return OP(setzero)(); }
RV_INLINE vreal v_set1(real x) { return OP(set1)(x); }
RV_INLINE vreal v_iota(void)
{
#if RV_REAL_BITS == 32
    return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
#else
    return _mm256_setr_pd(0, 1, 2, 3);
#endif
}
RV_INLINE vreal v_load(const real *p) { return OP(loadu)(p); }
RV_INLINE void v_store(real *p, vreal x) { OP(storeu)(p, x); }
RV_INLINE vreal v_load_tail(const real *p, int64_t n) { return OP(maskload)(p, m_first(n)); }
RV_INLINE void v_store_tail(real *p, vreal x, int64_t n) { OP(maskstore)(p, m_first(n), x); }

RV_INLINE vreal v_add(vreal a, vreal b) { return OP(add)(a, b); }
RV_INLINE vreal v_sub(vreal a, vreal b) { return OP(sub)(a, b); }
RV_INLINE vreal v_mul(vreal a, vreal b) { return OP(mul)(a, b); }
RV_INLINE vreal v_div(vreal a, vreal b) { return OP(div)(a, b); }
RV_INLINE vreal v_sqrt(vreal a) { return OP(sqrt)(a); }
RV_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return OP(fmadd)(a, b, c); }
RV_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return OP(fnmadd)(a, b, c); }
RV_INLINE vreal v_lost(vreal a, vreal b, vreal p) { return OP(fmsub)(a, b, p); }
RV_INLINE vreal v_max(vreal a, vreal b) { return OP(max)(a, b); }
RV_INLINE vreal v_min(vreal a, vreal b) { return OP(min)(a, b); }
RV_INLINE vreal v_abs(vreal a) { return OP(andnot)(v_set1((real)-0.0), a); }
RV_INLINE vreal v_copysign(vreal a, vreal s) { return OP(or)(v_abs(a), OP(and)(v_set1((real)-0.0), s)); }

RV_INLINE vmask v_lt(vreal a, vreal b) { return OP(cmp)(a, b, _CMP_LT_OQ); }
RV_INLINE vmask v_le(vreal a, vreal b) { return OP(cmp)(a, b, _CMP_LE_OQ); }
RV_INLINE vmask v_eq(vreal a, vreal b) { return OP(cmp)(a, b, _CMP_EQ_OQ); }
RV_INLINE vmask v_nan(vreal a) { return OP(cmp)(a, a, _CMP_UNORD_Q); }
RV_INLINE vmask v_not_lt(vreal a, vreal b) { return OP(cmp)(a, b, _CMP_NLT_UQ); }
RV_INLINE vmask m_and(vmask a, vmask b) { return OP(and)(a, b); }
RV_INLINE vmask m_or(vmask a, vmask b) { return OP(or)(a, b); }
RV_INLINE vmask m_not(vmask a) { return OP(xor)(a, RV_REALS(_mm256_set1_epi32(-1))); }
RV_INLINE int m_any(vmask a) { return OP(movemask)(a) != 0; }
RV_INLINE unsigned m_bits(vmask a) { return (unsigned)OP(movemask)(a); }
RV_INLINE vreal v_select(vmask m, vreal a, vreal b) { return OP(blendv)(b, a, m); }
RV_INLINE vreal v_keep(vmask m, vreal a) { return OP(and)(m, a); }
RV_INLINE vword v_load_words(const word *p) { return _mm256_loadu_si256((const __m256i *)p); }
RV_INLINE vmask v_testbit(vword w, int i)
{
    vword bit = RV_WORD_SET1((word)1 << i);
    return RV_REALS(WORD_OP(cmpeq)(_mm256_and_si256(w, bit), bit));
}

RV_INLINE vreal v_round(vreal x) { return OP(round)(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RV_INLINE vreal v_ceil(vreal x) { return OP(ceil)(x); }
RV_INLINE vreal v_pow2(vreal n)
{
    return RV_REALS(WORD_OP(slli)(RV_WORDS(v_add(n, v_set1(RV_POW2_MAGIC))), RV_MANTISSA_BITS));
}
RV_INLINE vreal v_exponent(vreal x)
{
    vword e = WORD_OP(srli)(WORD_OP(add)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS)), RV_MANTISSA_BITS);
    e = _mm256_or_si256(e, RV_WORDS(v_set1(RV_INTEGER_MAGIC)));
    return v_sub(RV_REALS(e), v_set1(RV_INTEGER_MAGIC + RV_EXP_BIAS));
}
RV_INLINE vreal v_mantissa(vreal x)
{
    vword k = WORD_OP(add)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS));
    k = _mm256_and_si256(k, RV_WORD_SET1(RV_MANTISSA_MASK));
    return RV_REALS(WORD_OP(add)(k, RV_WORD_SET1(RV_HALF_SQRT2_BITS)));
}
RV_INLINE vreal v_shift_up(vreal t) { return RV_REALS(WORD_OP(slli)(RV_WORDS(t), RV_MANTISSA_BITS - RV_LOOKUP_BITS)); }

#if RV_REAL_BITS == 32

RV_INLINE vreal v_add_bits(vreal a, vreal b) { return RV_REALS(_mm256_add_epi32(RV_WORDS(a), RV_WORDS(b))); }
RV_INLINE vreal v_lookup(const word *table, vreal t)
{
    return _mm256_permutevar8x32_ps(RV_REALS(v_load_words(table)), RV_WORDS(t));
}

RV_INLINE vreal v_swap(vreal x, const int d)
{
    if (d == 4) return _mm256_permute2f128_ps(x, x, 1);
    return d == 2 ? _mm256_permute_ps(x, 0x4e) : _mm256_permute_ps(x, 0xb1);
}
RV_INLINE real v_sum(vreal x)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
RV_INLINE real v_hmax(vreal x)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p)
{
    vreal ac = _mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
    vreal bd = _mm256_add_ps(_mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31));
    vreal s = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    s = _mm256_add_ps(s, _mm256_movehdup_ps(s));
    _mm_storeu_ps(p, _mm_shuffle_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1), 0x88));
}

/* Rows r and r + 4 stacked while loading, so that only in-lane shuffles remain. */
RV_INLINE vreal v_stack(const char *src, int64_t stride)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)src)),
                                _mm_loadu_ps((const float *)(src + stride * 4)), 1);
}
RV_INLINE void v_transpose4(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    vreal a = v_stack(src, stride), b = v_stack(src + stride, stride);
    vreal c = v_stack(src + stride * 2, stride), d = v_stack(src + stride * 3, stride);
    __m256d ab0 = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), ab1 = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    __m256d cd0 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)), cd1 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    v_store(dst, _mm256_castpd_ps(_mm256_unpacklo_pd(ab0, cd0)));
    v_store(dst + dst_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(ab0, cd0)));
    v_store(dst + dst_stride * 2, _mm256_castpd_ps(_mm256_unpacklo_pd(ab1, cd1)));
    v_store(dst + dst_stride * 3, _mm256_castpd_ps(_mm256_unpackhi_pd(ab1, cd1)));
}
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    v_transpose4(src, stride, dst, dst_stride);
    v_transpose4(src + 16, stride, dst + dst_stride * 4, dst_stride);
}

RV_INLINE vreal v_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
RV_INLINE __m128i v_to_f16(vreal x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RV_INLINE void v_store_f16(uint16_t *p, vreal x) { _mm_storeu_si128((__m128i *)p, v_to_f16(x)); }

RV_INLINE vreal v_load_bf16(const uint16_t *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
RV_INLINE void v_store_bf16(uint16_t *p, vreal x)
{
    __m256i w = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(w, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(w, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    vreal nan = _mm256_castsi256_ps(_mm256_or_si256(w, _mm256_set1_epi32(0x400000)));
    r = _mm256_srli_epi32(_mm256_castps_si256(v_select(v_nan(x), nan, _mm256_castsi256_ps(r))), 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}

RV_INLINE vreal v_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

RV_INLINE __m256d w_half(const real *p, int i) { return _mm256_castps_pd(_mm256_loadu_ps(p + 8 * i)); }
RV_INLINE void w_put(real *p, __m256d lo, __m256d hi)
{
    _mm256_storeu_ps(p, _mm256_castpd_ps(lo));
    _mm256_storeu_ps(p + 8, _mm256_castpd_ps(hi));
}
RV_INLINE __m256d v_widen_low(vreal x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
RV_INLINE __m256d v_widen_high(vreal x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
RV_INLINE double w_sum(const real *p)
{
    __m256d a = _mm256_add_pd(w_half(p, 0), w_half(p, 1));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE void w_zero(real *p) { w_put(p, _mm256_setzero_pd(), _mm256_setzero_pd()); }
RV_INLINE void w_set1(real *p, double x) { w_put(p, _mm256_set1_pd(x), _mm256_set1_pd(x)); }
RV_INLINE void w_add(real *p, vreal x)
{
    w_put(p, _mm256_add_pd(w_half(p, 0), v_widen_low(x)), _mm256_add_pd(w_half(p, 1), v_widen_high(x)));
}
RV_INLINE void w_scale(real *p, vreal s)
{
    w_put(p, _mm256_mul_pd(w_half(p, 0), v_widen_low(s)), _mm256_mul_pd(w_half(p, 1), v_widen_high(s)));
}
RV_INLINE void w_merge(real *p, const real *q)
{
    w_put(p, _mm256_add_pd(w_half(p, 0), w_half(q, 0)), _mm256_add_pd(w_half(p, 1), w_half(q, 1)));
}
RV_INLINE __m128 w_quotient_half(const real *p, const real *q, int i)
{
    __m256d l = w_half(q, i), x = _mm256_div_pd(w_half(p, i), l);
    return _mm256_cvtpd_ps(_mm256_and_pd(x, _mm256_cmp_pd(l, _mm256_setzero_pd(), _CMP_NEQ_UQ)));
}
RV_INLINE vreal w_quotient(const real *p, const real *q)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(w_quotient_half(p, q, 0)), w_quotient_half(p, q, 1), 1);
}
RV_INLINE vreal w_times(const real *p, double x)
{
    __m256d factor = _mm256_set1_pd(x);
    __m128 low = _mm256_cvtpd_ps(_mm256_mul_pd(w_half(p, 0), factor)), high = _mm256_cvtpd_ps(_mm256_mul_pd(w_half(p, 1), factor));
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
RV_INLINE double w_get(const real *p, int i) { double x; memcpy(&x, p + 2 * i, sizeof x); return x; }

typedef __m256d vhalf;
RV_INLINE vhalf h_set1(double x) { return _mm256_set1_pd(x); }
RV_INLINE vhalf h_add(vhalf a, vhalf b) { return _mm256_add_pd(a, b); }
RV_INLINE vhalf h_sub(vhalf a, vhalf b) { return _mm256_sub_pd(a, b); }
RV_INLINE vhalf h_mul(vhalf a, vhalf b) { return _mm256_mul_pd(a, b); }
RV_INLINE vhalf h_div(vhalf a, vhalf b) { return _mm256_div_pd(a, b); }
RV_INLINE vhalf h_fma(vhalf a, vhalf b, vhalf c) { return _mm256_fmadd_pd(a, b, c); }
RV_INLINE vhalf h_sqrt(vhalf a) { return _mm256_sqrt_pd(a); }
RV_INLINE double h_sum(vhalf a)
{
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE vreal v_narrow(vhalf low, vhalf high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
}

#include "half_tail.h"
#include "wide.h"

#else

RV_INLINE vreal v_swap(vreal x, const int d)
{
    return d == 2 ? _mm256_permute2f128_pd(x, x, 1) : _mm256_permute_pd(x, 0x5);
}
RV_INLINE real v_sum(vreal x)
{
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE real v_hmax(vreal x)
{
    __m128d b = _mm_max_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p)
{
    vreal ac = _mm256_add_pd(_mm256_permute2f128_pd(a, c, 0x20), _mm256_permute2f128_pd(a, c, 0x31));
    vreal bd = _mm256_add_pd(_mm256_permute2f128_pd(b, d, 0x20), _mm256_permute2f128_pd(b, d, 0x31));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_unpacklo_pd(ac, bd), _mm256_unpackhi_pd(ac, bd)));
}
RV_INLINE vreal v_stack(const char *src, int64_t stride)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd((const double *)src)),
                                _mm_loadu_pd((const double *)(src + stride * 2)), 1);
}
RV_INLINE void v_transpose2(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    vreal a = v_stack(src, stride), b = v_stack(src + stride, stride);
    v_store(dst, _mm256_unpacklo_pd(a, b));
    v_store(dst + dst_stride, _mm256_unpackhi_pd(a, b));
}
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    v_transpose2(src, stride, dst, dst_stride);
    v_transpose2(src + 16, stride, dst + dst_stride * 2, dst_stride);
}

#include "pair.h"

#endif

#undef OP
#undef WORD_OP
#undef RV_WORDS
#undef RV_REALS
#undef RV_WORD_SET1
#undef RV_WORD_IOTA
