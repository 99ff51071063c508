/* Advanced SIMD of AArch64, present on every such CPU: 4 floats or 2 doubles. The contract is in scalar.h. */
#include "real.h"

#define RV_TILE_ROWS 8
#define RV_HAVE_FMA 1
#define RV_LOOKUP_BITS 0

#if RV_REAL_BITS == 32
#define RV_LANES 4
#define OP(name) name##q_f32
#define WORD_OP(name) name##q_u32
#define RV_WORD_SET1(w) vdupq_n_u32(w)
#define RV_SHIFT_LEFT(w, n) vshlq_n_u32(w, n)
#define RV_SHIFT_RIGHT(w, n) vshrq_n_u32(w, n)
typedef float32x4_t vreal;
typedef uint32x4_t vmask, vword;
#define RV_WORDS(x) vreinterpretq_u32_f32(x)
#define RV_REALS(w) vreinterpretq_f32_u32(w)
#define RV_HALF_WORDS(w) (w)
#define RV_SUM_WORDS(w) vaddvq_u32(w)
#else
#define RV_LANES 2
#define OP(name) name##q_f64
#define WORD_OP(name) name##q_u64
#define RV_WORD_SET1(w) vdupq_n_u64(w)
#define RV_SHIFT_LEFT(w, n) vshlq_n_u64(w, n)
#define RV_SHIFT_RIGHT(w, n) vshrq_n_u64(w, n)
typedef float64x2_t vreal;
typedef uint64x2_t vmask, vword;
#define RV_WORDS(x) vreinterpretq_u64_f64(x)
#define RV_REALS(w) vreinterpretq_f64_u64(w)
#define RV_HALF_WORDS(w) vreinterpretq_u32_u64(w)
#define RV_SUM_WORDS(w) vaddvq_u64(w)
#endif

RV_INLINE vreal v_load(const real *p) { return OP(vld1)(p); }
RV_INLINE void v_store(real *p, vreal x) { OP(vst1)(p, x); }
RV_INLINE vreal v_set1(real x)
{
#if RV_REAL_BITS == 32
    return vdupq_n_f32(x);
#else
    return vdupq_n_f64(x);
#endif
}
RV_INLINE vreal v_zero(void) { return v_set1(0); }
RV_INLINE vreal v_iota(void)
{
    static const real iota[4] = {0, 1, 2, 3};
    return v_load(iota);
}
RV_INLINE vreal v_load_tail(const real *p, int64_t n)
{
    real whole[RV_LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        whole[i] = p[i];
    return v_load(whole);
}
RV_INLINE void v_store_tail(real *p, vreal x, int64_t n)
{
    real whole[RV_LANES];
    v_store(whole, x);
    for (int64_t i = 0; i < n; i++)
        p[i] = whole[i];
}

RV_INLINE vreal v_add(vreal a, vreal b) { return OP(vadd)(a, b); }
RV_INLINE vreal v_sub(vreal a, vreal b) { return OP(vsub)(a, b); }
RV_INLINE vreal v_mul(vreal a, vreal b) { return OP(vmul)(a, b); }
RV_INLINE vreal v_div(vreal a, vreal b) { return OP(vdiv)(a, b); }
RV_INLINE vreal v_sqrt(vreal a) { return OP(vsqrt)(a); }
RV_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return OP(vfma)(c, a, b); }
RV_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return OP(vfms)(c, a, b); }
RV_INLINE vreal v_lost(vreal a, vreal b, vreal p) { return OP(vneg)(OP(vfms)(p, a, b)); }
RV_INLINE vreal v_abs(vreal a) { return OP(vabs)(a); }
RV_INLINE vreal v_copysign(vreal a, vreal s) { return OP(vbsl)(RV_WORD_SET1(RV_SIGN_BIT), s, a); }

RV_INLINE vmask v_lt(vreal a, vreal b) { return OP(vclt)(a, b); }
RV_INLINE vmask v_le(vreal a, vreal b) { return OP(vcle)(a, b); }
RV_INLINE vmask v_eq(vreal a, vreal b) { return OP(vceq)(a, b); }
RV_INLINE vmask m_and(vmask a, vmask b) { return WORD_OP(vand)(a, b); }
RV_INLINE vmask m_or(vmask a, vmask b) { return WORD_OP(vorr)(a, b); }
RV_INLINE vmask m_not(vmask a) { return WORD_OP(veor)(a, RV_WORD_SET1(~(word)0)); }
RV_INLINE vmask v_nan(vreal a) { return m_not(v_eq(a, a)); }
RV_INLINE vmask v_not_lt(vreal a, vreal b) { return m_not(v_lt(a, b)); }
RV_INLINE int m_any(vmask a) { return vmaxvq_u32(RV_HALF_WORDS(a)) != 0; }
RV_INLINE unsigned m_bits(vmask a)
{
    static const word bits[4] = {1, 2, 4, 8};
    return (unsigned)RV_SUM_WORDS(WORD_OP(vand)(a, WORD_OP(vld1)(bits)));
}
RV_INLINE vreal v_select(vmask m, vreal a, vreal b) { return OP(vbsl)(m, a, b); }
RV_INLINE vreal v_keep(vmask m, vreal a) { return RV_REALS(WORD_OP(vand)(m, RV_WORDS(a))); }
RV_INLINE vreal v_max(vreal a, vreal b) { return v_select(v_lt(b, a), a, b); }
RV_INLINE vreal v_min(vreal a, vreal b) { return v_select(v_lt(a, b), a, b); }
RV_INLINE vword v_load_words(const word *p) { return WORD_OP(vld1)(p); }
RV_INLINE vmask v_testbit(vword w, int i) { return WORD_OP(vtst)(w, RV_WORD_SET1((word)1 << i)); }

RV_INLINE vreal v_round(vreal x) { return OP(vrndn)(x); }
RV_INLINE vreal v_ceil(vreal x) { return OP(vrndp)(x); }
RV_INLINE vreal v_pow2(vreal n)
{
    return RV_REALS(RV_SHIFT_LEFT(RV_WORDS(v_add(n, v_set1(RV_POW2_MAGIC))), RV_MANTISSA_BITS));
}
RV_INLINE vreal v_exponent(vreal x)
{
    vword e = RV_SHIFT_RIGHT(WORD_OP(vadd)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS)), RV_MANTISSA_BITS);
    e = WORD_OP(vorr)(e, RV_WORDS(v_set1(RV_INTEGER_MAGIC)));
    return v_sub(RV_REALS(e), v_set1(RV_INTEGER_MAGIC + RV_EXP_BIAS));
}
RV_INLINE vreal v_mantissa(vreal x)
{
    vword k = WORD_OP(vadd)(RV_WORDS(x), RV_WORD_SET1(RV_SPLIT_BITS));
    k = WORD_OP(vand)(k, RV_WORD_SET1(RV_MANTISSA_MASK));
    return RV_REALS(WORD_OP(vadd)(k, RV_WORD_SET1(RV_HALF_SQRT2_BITS)));
}
RV_INLINE vreal v_shift_up(vreal t) { return RV_REALS(RV_SHIFT_LEFT(RV_WORDS(t), RV_MANTISSA_BITS)); }

#if RV_REAL_BITS == 32

RV_INLINE vreal v_swap(vreal x, const int d) { return d == 2 ? vextq_f32(x, x, 2) : vrev64q_f32(x); }
RV_INLINE real v_sum(vreal x)
{
    float32x2_t b = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
RV_INLINE real v_hmax(vreal x) { return vmaxvq_f32(x); }
RV_INLINE float32x4_t low_halves(vreal a, vreal b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
RV_INLINE float32x4_t high_halves(vreal a, vreal b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p)
{
    vreal ab = vaddq_f32(low_halves(a, b), high_halves(a, b));
    vreal cd = vaddq_f32(low_halves(c, d), high_halves(c, d));
    vst1q_f32(p, vpaddq_f32(ab, cd));
}
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    vreal a = v_load((const real *)src), b = v_load((const real *)(src + stride));
    vreal c = v_load((const real *)(src + stride * 2)), d = v_load((const real *)(src + stride * 3));
    vreal ab0 = vtrn1q_f32(a, b), ab1 = vtrn2q_f32(a, b), cd0 = vtrn1q_f32(c, d), cd1 = vtrn2q_f32(c, d);
    v_store(dst, low_halves(ab0, cd0));
    v_store(dst + dst_stride, low_halves(ab1, cd1));
    v_store(dst + dst_stride * 2, high_halves(ab0, cd0));
    v_store(dst + dst_stride * 3, high_halves(ab1, cd1));
}

RV_INLINE vreal v_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
RV_INLINE void v_store_f16(uint16_t *p, vreal x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
RV_INLINE vreal v_load_bf16(const uint16_t *p) { return RV_REALS(vshll_n_u16(vld1_u16(p), 16)); }
RV_INLINE void v_store_bf16(uint16_t *p, vreal x)
{
    vword w = RV_WORDS(x), odd = vandq_u32(vshrq_n_u32(w, 16), vdupq_n_u32(1));
    vword r = vaddq_u32(w, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    r = vbslq_u32(v_nan(x), vorrq_u32(w, vdupq_n_u32(0x400000)), r);
    vst1_u16(p, vshrn_n_u32(r, 16));
}

RV_INLINE vreal v_load_i8(const int8_t *p)
{
    int32_t codes;
    memcpy(&codes, p, sizeof codes);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(codes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

RV_INLINE float64x2_t w_half(const real *p, int i) { return vreinterpretq_f64_f32(vld1q_f32(p + 4 * i)); }
RV_INLINE void w_put(real *p, float64x2_t lo, float64x2_t hi)
{
    vst1q_f32(p, vreinterpretq_f32_f64(lo));
    vst1q_f32(p + 4, vreinterpretq_f32_f64(hi));
}
RV_INLINE float64x2_t v_widen_low(vreal x) { return vcvt_f64_f32(vget_low_f32(x)); }
RV_INLINE float64x2_t v_widen_high(vreal x) { return vcvt_high_f64_f32(x); }
RV_INLINE double w_sum(const real *p) { return vaddvq_f64(vaddq_f64(w_half(p, 0), w_half(p, 1))); }
RV_INLINE void w_zero(real *p) { w_put(p, vdupq_n_f64(0), vdupq_n_f64(0)); }
RV_INLINE void w_set1(real *p, double x) { w_put(p, vdupq_n_f64(x), vdupq_n_f64(x)); }
RV_INLINE void w_add(real *p, vreal x)
{
    w_put(p, vaddq_f64(w_half(p, 0), v_widen_low(x)), vaddq_f64(w_half(p, 1), v_widen_high(x)));
}
RV_INLINE void w_scale(real *p, vreal s)
{
    w_put(p, vmulq_f64(w_half(p, 0), v_widen_low(s)), vmulq_f64(w_half(p, 1), v_widen_high(s)));
}
RV_INLINE void w_merge(real *p, const real *q)
{
    w_put(p, vaddq_f64(w_half(p, 0), w_half(q, 0)), vaddq_f64(w_half(p, 1), w_half(q, 1)));
}
RV_INLINE float32x2_t w_quotient_half(const real *p, const real *q, int i)
{
    float64x2_t l = w_half(q, i), x = vdivq_f64(w_half(p, i), l);
    return vcvt_f32_f64(vbslq_f64(vceqzq_f64(l), vdupq_n_f64(0), x));
}
RV_INLINE vreal w_quotient(const real *p, const real *q)
{
    return vcombine_f32(w_quotient_half(p, q, 0), w_quotient_half(p, q, 1));
}
RV_INLINE vreal w_times(const real *p, double x)
{
    return vcombine_f32(vcvt_f32_f64(vmulq_n_f64(w_half(p, 0), x)), vcvt_f32_f64(vmulq_n_f64(w_half(p, 1), x)));
}
RV_INLINE double w_get(const real *p, int i) { double x; memcpy(&x, p + 2 * i, sizeof x); return x; }

typedef float64x2_t vhalf;
RV_INLINE vhalf h_set1(double x) { return vdupq_n_f64(x); }
RV_INLINE vhalf h_add(vhalf a, vhalf b) { return vaddq_f64(a, b); }
RV_INLINE vhalf h_sub(vhalf a, vhalf b) { return vsubq_f64(a, b); }
RV_INLINE vhalf h_mul(vhalf a, vhalf b) { return vmulq_f64(a, b); }
RV_INLINE vhalf h_div(vhalf a, vhalf b) { return vdivq_f64(a, b); }
RV_INLINE vhalf h_fma(vhalf a, vhalf b, vhalf c) { return vfmaq_f64(c, a, b); }
RV_INLINE vhalf h_sqrt(vhalf a) { return vsqrtq_f64(a); }
RV_INLINE double h_sum(vhalf a) { return vaddvq_f64(a); }
RV_INLINE vreal v_narrow(vhalf low, vhalf high) { return vcombine_f32(vcvt_f32_f64(low), vcvt_f32_f64(high)); }

#include "half_tail.h"
#include "wide.h"

#else

RV_INLINE vreal v_swap(vreal x, const int d) { (void)d; return vextq_f64(x, x, 1); }
RV_INLINE real v_sum(vreal x) { return vgetq_lane_f64(x, 0) + vgetq_lane_f64(x, 1); }
RV_INLINE real v_hmax(vreal x) { return vmaxvq_f64(x); }
RV_INLINE void v_sum4(vreal a, vreal b, vreal c, vreal d, real *p)
{
    v_store(p, vpaddq_f64(a, b));
    v_store(p + 2, vpaddq_f64(c, d));
}
RV_INLINE void v_transpose(const char *src, int64_t stride, real *dst, int64_t dst_stride)
{
    vreal a = v_load((const real *)src), b = v_load((const real *)(src + stride));
    v_store(dst, vtrn1q_f64(a, b));
    v_store(dst + dst_stride, vtrn2q_f64(a, b));
}

#include "pair.h"

#endif

#undef OP
#undef WORD_OP
#undef RV_WORD_SET1
#undef RV_SHIFT_LEFT
#undef RV_SHIFT_RIGHT
#undef RV_WORDS
#undef RV_REALS
#undef RV_HALF_WORDS
#undef RV_SUM_WORDS
