/* AVX-512 with BF16: the vectors of avx512.h, and bfloat16 products two at a time. Float only.
 *
 *   vpair                   a vector of RV_LANES pairs of bfloat16, the earlier of a pair in the low half
 *   v_dot2(c, a, b)         c + a.low * b.low + a.high * b.high; subnormal inputs and results are zeros
 *   p_load(p), p_store      RV_LANES pairs in memory
 *   p_set1(p)               the pair of two consecutive numbers at p, any alignment
 *   p_zip(a, b)             a rounded in the low halves, b in the high ones; to nearest, ties to even
 *   p_ones()                pairs of ones
 *   p_zip_rows(a, b, n, finite, to)   to[i] = the pair (a[i], b[i]), n of them, touching nothing beyond; b NULL: zeros; finite:
 *                           zeros for NaN and inf
 *   p_finite(p, n)          nonzero when none of the n numbers at p is NaN or infinite
 */
#define RV_HAVE_DOT2 1
#include "avx512.h"

typedef __m512bh vpair;

/* by memcpy: compilers disagree on whether __m512bh casts */
RV_INLINE vpair p_of(__m512i w)
{
    vpair p;
    memcpy(&p, &w, sizeof p);
    return p;
}
RV_INLINE __m512i p_words(vpair p)
{
    __m512i w;
    memcpy(&w, &p, sizeof w);
    return w;
}

RV_INLINE vreal v_dot2(vreal c, vpair a, vpair b) { return _mm512_dpbf16_ps(c, a, b); }
RV_INLINE vpair p_load(const word *p) { return p_of(_mm512_loadu_si512(p)); }
RV_INLINE void p_store(word *p, vpair x) { _mm512_storeu_si512(p, p_words(x)); }
RV_INLINE vpair p_set1(const uint16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return p_of(_mm512_set1_epi32(pair));
}
RV_INLINE vpair p_ones(void) { return p_of(_mm512_set1_epi16(0x3f80)); }

/* Names of 16-bit elements: from, from + apart, from + 1, from + 1 + apart ... */
RV_INLINE __m512i p_turns(int from, int apart)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i low = _mm512_add_epi32(lane, _mm512_set1_epi32(from));
    return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(apart)), 16));
}
RV_INLINE vpair p_zip(vreal a, vreal b)
{
    /* converts to a in the lower sixteen elements, b in the upper ones */
    return p_of(_mm512_permutexvar_epi16(p_turns(0, 16), p_words(_mm512_cvtne2ps_pbh(b, a))));
}
RV_INLINE __m512i p_or_zero(__m512i x, int finite)
{
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    return finite ? _mm512_maskz_mov_epi16(_mm512_cmpneq_epi16_mask(_mm512_and_si512(x, exponent), exponent), x) : x;
}
RV_INLINE void p_zip_rows(const uint16_t *a, const uint16_t *b, int64_t n, int finite, word *to)
{
    const __m512i low = p_turns(0, 32), high = p_turns(16, 32);
    int64_t i = 0;
    /* masked stores cost several plain ones on some processors */
    for (; i + 32 <= n; i += 32) {
        __m512i x = _mm512_loadu_si512(a + i), y = b ? _mm512_loadu_si512(b + i) : _mm512_setzero_si512();
        x = p_or_zero(x, finite);
        y = p_or_zero(y, finite);
        _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(x, low, y));
        _mm512_storeu_si512(to + i + 16, _mm512_permutex2var_epi16(x, high, y));
    }
    if (i < n) {
        int64_t count = n - i;
        __mmask32 m = (__mmask32)(((uint64_t)1 << count) - 1);
        __m512i x = _mm512_maskz_loadu_epi16(m, a + i), y = b ? _mm512_maskz_loadu_epi16(m, b + i) : _mm512_setzero_si512();
        x = p_or_zero(x, finite);
        y = p_or_zero(y, finite);
        _mm512_mask_storeu_epi32(to + i, m_first(count < 16 ? count : 16), _mm512_permutex2var_epi16(x, low, y));
        if (count > 16)
            _mm512_mask_storeu_epi32(to + i + 16, m_first(count - 16), _mm512_permutex2var_epi16(x, high, y));
    }
}
RV_INLINE int p_finite(const uint16_t *p, int64_t n)
{
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 bad = 0;
    for (int64_t i = 0; i < n; i += 32) {
        int64_t count = n - i < 32 ? n - i : 32;
        __m512i x = _mm512_maskz_loadu_epi16((__mmask32)(((uint64_t)1 << count) - 1), p + i);
        bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(x, exponent), exponent);
    }
    return bad == 0;
}
