/* AVX-512 F, BW, DQ and VL: 16 floats or 8 doubles. The contract is in scalar.h. */
#include "real.h"

#define RV_TILE_ROWS 8
#define RV_HAVE_FMA 1
#define RV_LOOKUP_BITS 4

#if RV_REAL_BITS == 32
#define RV_LANES 16
#define OP(name) _mm512_##name##_ps
#define WORD_OP(name) _mm512_##name##_epi32
#define MASK_OP(name) _mm512_##name##_ps_mask
typedef __m512 vreal;
typedef __mmask16 vmask;
#define RV_WORDS(x) _mm512_castps_si512(x)
#define RV_REALS(w) _mm512_castsi512_ps(w)
#define RV_WORD_SET1(w) _mm512_set1_epi32((int)(w))
#else
#define RV_LANES 8
#define OP(name) _mm512_##name##_pd
#define WORD_OP(name) _mm512_##name##_epi64
#define MASK_OP(name) _mm512_##name##_pd_mask
typedef __m512d vreal;
typedef __mmask8 vmask;
#define RV_WORDS(x) _mm512_castpd_si512(x)
#define RV_REALS(w) _mm512_castsi512_pd(w)
#define RV_WORD_SET1(w) _mm512_set1_epi64((long long)(w))
#endif
typedef __m512i vword;

RV_INLINE vmask m_first(int64_t n) { return (vmask)((1u << n) - 1); }

RV_INLINE vreal v_zero(void) { return OP(setzero)(); }
RV_INLINE vreal v_set1(real x) { return OP(set1)(x); }
RV_INLINE vreal v_iota(void)
{
#if RV_REAL_BITS == 32
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7);
#endif
}
RV_INLINE vreal v_load(const real *p) { return OP(loadu)(p); }
/* Every vector of a row that does not begin with a line crosses one, as those of NumPy's arrays do; of halves every other one. Zen 5,
 * one thread: up to 40 % more from memory, 10 % from the last cache, but 20 % less from nearer ones. */
#define RV_HAVE_LOAD_FAR 1
RV_INLINE vreal v_load_far(const real *p)
{
#if RV_REAL_BITS == 32
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(p + 8), 1);
#else
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), _mm256_loadu_pd(p + 4), 1);
#endif
}
RV_INLINE void v_store(real *p, vreal x) { OP(storeu)(p, x); }
RV_INLINE vreal v_load_tail(const real *p, int64_t n) { return OP(maskz_loadu)(m_first(n), p); }
RV_INLINE void v_store_tail(real *p, vreal x, int64_t n) { OP(mask_storeu)(p, m_first(n), x); }

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
RV_INLINE vreal v_copysign(vreal a, vreal s)
{
    /* ternary logic: the sign bit of s, every other bit of a */
    return RV_REALS(WORD_OP(ternarylogic)(RV_WORD_SET1(RV_SIGN_BIT), RV_WORDS(s), RV_WORDS(a), 0xca));
}

RV_INLINE vmask v_lt(vreal a, vreal b) { return MASK_OP(cmp)(a, b, _CMP_LT_OQ); }
RV_INLINE vmask v_le(vreal a, vreal b) { return MASK_OP(cmp)(a, b, _CMP_LE_OQ); }
RV_INLINE vmask v_eq(vreal a, vreal b) { return MASK_OP(cmp)(a, b, _CMP_EQ_OQ); }
RV_INLINE vmask v_nan(vreal a) { return MASK_OP(cmp)(a, a, _CMP_UNORD_Q); }
RV_INLINE vmask v_not_lt(vreal a, vreal b) { return MASK_OP(cmp)(a, b, _CMP_NLT_UQ); }
RV_INLINE vmask m_and(vmask a, vmask b) { return (vmask)(a & b); }
RV_INLINE vmask m_or(vmask a, vmask b) { return (vmask)(a | b); }
RV_INLINE vmask m_not(vmask a) { return (vmask)~a; }
RV_INLINE int m_any(vmask a) { return a != 0; }
RV_INLINE unsigned m_bits(vmask a) { return a; }
RV_INLINE vreal v_select(vmask m, vreal a, vreal b) { return OP(mask_blend)(m, b, a); }
RV_INLINE vreal v_keep(vmask m, vreal a) { return OP(maskz_mov)(m, a); }
RV_INLINE vword v_load_words(const word *p) { return _mm512_loadu_si512(p); }
RV_INLINE vmask v_testbit(vword w, int i)
{
#if RV_REAL_BITS == 32
    return _mm512_test_epi32_mask(w, RV_WORD_SET1((word)1 << i));
#else
    return _mm512_test_epi64_mask(w, RV_WORD_SET1((word)1 << i));
#endif
}

RV_INLINE vreal v_round(vreal x) { return OP(roundscale)(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RV_INLINE vreal v_ceil(vreal x) { return OP(roundscale)(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
RV_INLINE vreal v_pow2(vreal n)
{
    return RV_REALS(WORD_OP(slli)(RV_WORDS(v_add(n, v_set1(RV_POW2_MAGIC))), RV_MANTISSA_BITS));
}
RV_INLINE vreal v_exponent(vreal x)
{
    vword e = WORD_OP(srli)(WORD_OP(add)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS)), RV_MANTISSA_BITS);
    e = _mm512_or_si512(e, RV_WORDS(v_set1(RV_INTEGER_MAGIC)));
    return v_sub(RV_REALS(e), v_set1(RV_INTEGER_MAGIC + RV_EXP_BIAS));
}
RV_INLINE vreal v_mantissa(vreal x)
{
    vword k = WORD_OP(add)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS));
    k = _mm512_and_si512(k, RV_WORD_SET1(RV_MANTISSA_MASK));
    return RV_REALS(WORD_OP(add)(k, RV_WORD_SET1(RV_HALF_SQRT2_BITS)));
}
RV_INLINE vreal v_shift_up(vreal t) { return RV_REALS(WORD_OP(slli)(RV_WORDS(t), RV_MANTISSA_BITS - RV_LOOKUP_BITS)); }
RV_INLINE vreal v_add_bits(vreal a, vreal b) { return RV_REALS(WORD_OP(add)(RV_WORDS(a), RV_WORDS(b))); }
RV_INLINE vreal v_lookup(const word *table, vreal t)
{
#if RV_REAL_BITS == 32
    return _mm512_permutexvar_ps(RV_WORDS(t), RV_REALS(v_load_words(table)));
#else
    return _mm512_permutex2var_pd(RV_REALS(v_load_words(table)), RV_WORDS(t), RV_REALS(v_load_words(table + 8)));
#endif
}

/* 128-bit quarters of a, then of b. */
#define QUARTERS(a, b, which) RV_REALS(_mm512_shuffle_i64x2(RV_WORDS(a), RV_WORDS(b), which))

/* The quarters transposed: those numbered i, in order, at dst + i * step. */
RV_INLINE void v_store_quarters(real *dst, int64_t step, vreal a, vreal b, vreal c, vreal d)
{
    vreal ab02 = QUARTERS(a, b, 0x88), ab13 = QUARTERS(a, b, 0xdd), cd02 = QUARTERS(c, d, 0x88), cd13 = QUARTERS(c, d, 0xdd);
    v_store(dst, QUARTERS(ab02, cd02, 0x88));
    v_store(dst + step, QUARTERS(ab13, cd13, 0x88));
    v_store(dst + step * 2, QUARTERS(ab02, cd02, 0xdd));
    v_store(dst + step * 3, QUARTERS(ab13, cd13, 0xdd));
}

#if RV_REAL_BITS == 32

RV_INLINE __m256 v_high(vreal x) { return _mm512_extractf32x8_ps(x, 1); }
RV_INLINE vreal v_swap(vreal x, const int d)
{
    if (d == 8) return _mm512_shuffle_f32x4(x, x, 0x4e);
    if (d == 4) return _mm512_shuffle_f32x4(x, x, 0xb1);
    return d == 2 ? _mm512_permute_ps(x, 0x4e) : _mm512_permute_ps(x, 0xb1);
}
RV_INLINE real v_sum(vreal x)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), v_high(x));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
RV_INLINE real v_hmax(vreal x)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), v_high(x));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
/* p[i] = the sum of quarter i. */
RV_INLINE void v_sum_quarters(vreal s, real *p)
{
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    __m512i first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    _mm_storeu_ps(p, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, s)));
}

/* 4 x 4 in every quarter. */
RV_INLINE void v_transpose_quarters(vreal *a, vreal *b, vreal *c, vreal *d)
{
    __m512d ab0 = _mm512_castps_pd(_mm512_unpacklo_ps(*a, *b)), ab1 = _mm512_castps_pd(_mm512_unpackhi_ps(*a, *b));
    __m512d cd0 = _mm512_castps_pd(_mm512_unpacklo_ps(*c, *d)), cd1 = _mm512_castps_pd(_mm512_unpackhi_ps(*c, *d));
    *a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
    *b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
    *c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
    *d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
}
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
#define ROW(r) vreal x##r = v_load((const real *)(src + stride * r));
    ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7) ROW(8) ROW(9) ROW(10) ROW(11) ROW(12) ROW(13) ROW(14) ROW(15)
#undef ROW
    v_transpose_quarters(&x0, &x1, &x2, &x3);
    v_transpose_quarters(&x4, &x5, &x6, &x7);
    v_transpose_quarters(&x8, &x9, &x10, &x11);
    v_transpose_quarters(&x12, &x13, &x14, &x15);
    v_store_quarters(dst, dst_stride * 4, x0, x4, x8, x12);
    v_store_quarters(dst + dst_stride, dst_stride * 4, x1, x5, x9, x13);
    v_store_quarters(dst + dst_stride * 2, dst_stride * 4, x2, x6, x10, x14);
    v_store_quarters(dst + dst_stride * 3, dst_stride * 4, x3, x7, x11, x15);
}

RV_INLINE vreal v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
RV_INLINE vreal v_load_f16_tail(const uint16_t *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m_first(n), p));
}
RV_INLINE __m256i v_to_f16(vreal x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RV_INLINE void v_store_f16(uint16_t *p, vreal x) { _mm256_storeu_si256((__m256i *)p, v_to_f16(x)); }
RV_INLINE void v_store_f16_tail(uint16_t *p, vreal x, int64_t n) { _mm256_mask_storeu_epi16(p, m_first(n), v_to_f16(x)); }

RV_INLINE vreal v_from_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
RV_INLINE vreal v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm256_loadu_si256((const __m256i *)p)); }
RV_INLINE vreal v_load_bf16_tail(const uint16_t *p, int64_t n) { return v_from_bf16(_mm256_maskz_loadu_epi16(m_first(n), p)); }
RV_INLINE __m256i v_to_bf16(vreal x)
{
    __m512i w = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(w, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(w, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    r = _mm512_mask_or_epi32(r, v_nan(x), w, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
RV_INLINE void v_store_bf16(uint16_t *p, vreal x) { _mm256_storeu_si256((__m256i *)p, v_to_bf16(x)); }
RV_INLINE void v_store_bf16_tail(uint16_t *p, vreal x, int64_t n) { _mm256_mask_storeu_epi16(p, m_first(n), v_to_bf16(x)); }

RV_INLINE vreal v_from_i8(__m128i codes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)); }
RV_INLINE vreal v_load_i8(const int8_t *p) { return v_from_i8(_mm_loadu_si128((const __m128i *)p)); }
RV_INLINE vreal v_load_i8_tail(const int8_t *p, int64_t n) { return v_from_i8(_mm_maskz_loadu_epi8(m_first(n), p)); }

RV_INLINE __m512d w_half(const real *p, int i) { return _mm512_castps_pd(_mm512_loadu_ps(p + 16 * i)); }
RV_INLINE void w_put(real *p, __m512d lo, __m512d hi)
{
    _mm512_storeu_ps(p, _mm512_castpd_ps(lo));
    _mm512_storeu_ps(p + 16, _mm512_castpd_ps(hi));
}
RV_INLINE __m512d v_widen_low(vreal x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
RV_INLINE __m512d v_widen_high(vreal x) { return _mm512_cvtps_pd(v_high(x)); }
RV_INLINE double w_sum(const real *p) { return _mm512_reduce_add_pd(_mm512_add_pd(w_half(p, 0), w_half(p, 1))); }
RV_INLINE void w_zero(real *p) { w_put(p, _mm512_setzero_pd(), _mm512_setzero_pd()); }
RV_INLINE void w_set1(real *p, double x) { w_put(p, _mm512_set1_pd(x), _mm512_set1_pd(x)); }
RV_INLINE void w_add(real *p, vreal x)
{
    w_put(p, _mm512_add_pd(w_half(p, 0), v_widen_low(x)), _mm512_add_pd(w_half(p, 1), v_widen_high(x)));
}
RV_INLINE void w_scale(real *p, vreal s)
{
    w_put(p, _mm512_mul_pd(w_half(p, 0), v_widen_low(s)), _mm512_mul_pd(w_half(p, 1), v_widen_high(s)));
}
RV_INLINE void w_merge(real *p, const real *q)
{
    w_put(p, _mm512_add_pd(w_half(p, 0), w_half(q, 0)), _mm512_add_pd(w_half(p, 1), w_half(q, 1)));
}
RV_INLINE __m256 w_quotient_half(const real *p, const real *q, int i)
{
    __m512d l = w_half(q, i);
    __mmask8 nonzero = _mm512_cmp_pd_mask(l, _mm512_setzero_pd(), _CMP_NEQ_UQ);
    return _mm512_cvtpd_ps(_mm512_maskz_div_pd(nonzero, w_half(p, i), l));
}
RV_INLINE vreal w_quotient(const real *p, const real *q)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(w_quotient_half(p, q, 0)), w_quotient_half(p, q, 1), 1);
}
RV_INLINE vreal w_times(const real *p, double x)
{
    __m512d factor = _mm512_set1_pd(x);
    __m256 low = _mm512_cvtpd_ps(_mm512_mul_pd(w_half(p, 0), factor)), high = _mm512_cvtpd_ps(_mm512_mul_pd(w_half(p, 1), factor));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
RV_INLINE double w_get(const real *p, int i) { double x; memcpy(&x, p + 2 * i, sizeof x); return x; }

typedef __m512d vhalf;
RV_INLINE vhalf h_set1(double x) { return _mm512_set1_pd(x); }
RV_INLINE vhalf h_add(vhalf a, vhalf b) { return _mm512_add_pd(a, b); }
RV_INLINE vhalf h_sub(vhalf a, vhalf b) { return _mm512_sub_pd(a, b); }
RV_INLINE vhalf h_mul(vhalf a, vhalf b) { return _mm512_mul_pd(a, b); }
RV_INLINE vhalf h_div(vhalf a, vhalf b) { return _mm512_div_pd(a, b); }
RV_INLINE vhalf h_fma(vhalf a, vhalf b, vhalf c) { return _mm512_fmadd_pd(a, b, c); }
RV_INLINE vhalf h_sqrt(vhalf a) { return _mm512_sqrt_pd(a); }
RV_INLINE double h_sum(vhalf a)
{
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
RV_INLINE vreal v_narrow(vhalf low, vhalf high)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

#include "wide.h"

#else

RV_INLINE vreal v_swap(vreal x, const int d)
{
    if (d == 4) return _mm512_shuffle_f64x2(x, x, 0x4e);
    return d == 2 ? _mm512_shuffle_f64x2(x, x, 0xb1) : _mm512_permute_pd(x, 0x55);
}
RV_INLINE real v_sum(vreal x)
{
    __m256d a = _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE real v_hmax(vreal x)
{
    __m256d a = _mm256_max_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    __m128d b = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
}
RV_INLINE void v_sum_quarters(vreal s, real *p)
{
    s = _mm512_add_pd(s, _mm512_permute_pd(s, 0x55));
    _mm256_storeu_pd(p, _mm512_castpd512_pd256(_mm512_maskz_compress_pd(0x55, s)));
}

RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
#define ROW(r) vreal x##r = v_load((const real *)(src + stride * r));
    ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7)
#undef ROW
    v_store_quarters(dst, dst_stride * 2, _mm512_unpacklo_pd(x0, x1), _mm512_unpacklo_pd(x2, x3), _mm512_unpacklo_pd(x4, x5),
                     _mm512_unpacklo_pd(x6, x7));
    v_store_quarters(dst + dst_stride, dst_stride * 2, _mm512_unpackhi_pd(x0, x1), _mm512_unpackhi_pd(x2, x3),
                     _mm512_unpackhi_pd(x4, x5), _mm512_unpackhi_pd(x6, x7));
}

#include "pair.h"

#endif

/* Blends run on every vector port, shuffles on two that products need as well. */
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p)
{
    const vmask high = (vmask)~((1u << (RV_LANES / 2)) - 1);
    vreal ab = v_add(v_select(high, b, a), QUARTERS(a, b, 0x4e)), cd = v_add(v_select(high, d, c), QUARTERS(c, d, 0x4e));
    v_sum_quarters(v_add(QUARTERS(ab, cd, 0x88), QUARTERS(ab, cd, 0xdd)), p);
}

#undef OP
#undef WORD_OP
#undef MASK_OP
#undef QUARTERS
#undef RV_WORDS
#undef RV_REALS
#undef RV_WORD_SET1
