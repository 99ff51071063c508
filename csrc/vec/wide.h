/* Wide registers of floats: two halves of doubles. Over the names h_*, w_half, w_put, v_widen_* and v_narrow of the header. */
#define RV_WIDE_UNIT 0x1p-53

typedef struct vwide {
    vhalf low, high;
} vwide;

RV_INLINE vwide x_make(vhalf low, vhalf high)
{
    vwide x = {low, high};
    return x;
}
RV_INLINE vwide x_set1(double head, double tail) { (void)tail; return x_make(h_set1(head), h_set1(head)); }
RV_INLINE vwide x_zero(void) { return x_set1(0, 0); }
RV_INLINE vwide x_load(const real *p) { return x_make(w_half(p, 0), w_half(p, 1)); }
RV_INLINE void x_store(real *p, vwide x) { w_put(p, x.low, x.high); }
RV_INLINE void w_place(real *p, int i, double head, double tail)
{
    double x = head + tail;
    memcpy(p + 2 * i, &x, sizeof x);
}
RV_INLINE vwide x_from(const double *p) { return x_load((const real *)p); }
RV_INLINE void x_into(double *p, vwide x) { x_store((real *)p, x); }
RV_INLINE vwide x_widen(vreal a) { return x_make(v_widen_low(a), v_widen_high(a)); }
RV_INLINE vwide x_add(vwide a, vwide b) { return x_make(h_add(a.low, b.low), h_add(a.high, b.high)); }
RV_INLINE vwide x_sub(vwide a, vwide b) { return x_make(h_sub(a.low, b.low), h_sub(a.high, b.high)); }
RV_INLINE vwide x_mul(vwide a, vwide b) { return x_make(h_mul(a.low, b.low), h_mul(a.high, b.high)); }
RV_INLINE vwide x_div(vwide a, vwide b) { return x_make(h_div(a.low, b.low), h_div(a.high, b.high)); }
RV_INLINE vwide x_sqrt(vwide a) { return x_make(h_sqrt(a.low), h_sqrt(a.high)); }
RV_INLINE vwide x_diff(vwide a, vwide b) { return x_sub(a, b); }
RV_INLINE vwide x_mul_add(vwide a, vwide b, vwide s) { return x_make(h_fma(a.low, b.low, s.low), h_fma(a.high, b.high, s.high)); }
RV_INLINE vwide x_add_square(vwide s, vwide d) { return x_mul_add(d, d, s); }
RV_INLINE vwide x_gather(vwide s, vreal a) { return x_add(s, x_widen(a)); }
/* Deviations from a mean, from which nothing is left out. */
typedef vwide vaway;

RV_INLINE vaway a_from(vreal x) { return x_widen(x); }
RV_INLINE vaway a_sub(vreal x, vwide mean) { return x_sub(x_widen(x), mean); }
RV_INLINE vaway a_scale(vaway d, vwide by) { return x_mul(d, by); }
RV_INLINE vaway a_keep(vmask m, vaway d) { return x_mul(d, x_widen(v_keep(m, v_set1(1)))); }
RV_INLINE vwide x_gather_square(vwide s, vaway d) { return x_add_square(s, d); }
RV_INLINE double x_left(vwide mean) { (void)mean; return 0; }
RV_INLINE vreal x_head(vwide a) { return v_narrow(a.low, a.high); }
RV_INLINE vreal x_rest(vwide a)
{
    vwide rest = x_sub(a, x_widen(x_head(a)));
    return v_narrow(rest.low, rest.high);
}
RV_INLINE double x_total(vwide a, double *tail)
{
    *tail = 0;
    /* one lane has no high half, and what stands there counts for nothing */
    return h_sum(RV_LANES == 1 ? a.low : h_add(a.low, a.high));
}
