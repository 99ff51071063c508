/* Wide accumulators of doubles, over the generic names: a vector of heads, then one of tails, head + tail being the sum.
 * Knuth's two-sum: the head takes the rounded sum, the tail gathers what the head lost. */
RV_INLINE void w_zero(real *p)
{
    v_store(p, v_zero());
    v_store(p + RV_LANES, v_zero());
}
RV_INLINE void w_set1(real *p, double x)
{
    v_store(p, v_set1(x));
    v_store(p + RV_LANES, v_zero());
}
RV_INLINE void w_add(real *p, vreal x)
{
    vreal a = v_load(p), s = v_add(a, x), t = v_sub(s, a);
    vreal lost = v_add(v_sub(a, v_sub(s, t)), v_sub(x, t));
    v_store(p, s);
    v_store(p + RV_LANES, v_add(v_load(p + RV_LANES), lost));
}
RV_INLINE void w_scale(real *p, vreal s)
{
    v_store(p, v_mul(v_load(p), s));
    v_store(p + RV_LANES, v_mul(v_load(p + RV_LANES), s));
}
RV_INLINE void w_merge(real *p, const real *q)
{
    w_add(p, v_load(q));
    v_store(p + RV_LANES, v_add(v_load(p + RV_LANES), v_load(q + RV_LANES)));
}
/* An infinite head leaves a NaN tail, which says nothing. */
RV_INLINE vreal w_value(const real *p)
{
    vreal head = v_load(p);
    return v_add(head, v_keep(v_eq(v_sub(head, head), v_zero()), v_load(p + RV_LANES)));
}
RV_INLINE vreal w_quotient(const real *p, const real *q)
{
    vreal l = w_value(q);
    return v_keep(m_not(v_eq(l, v_zero())), v_div(w_value(p), l));
}
RV_INLINE double w_get(const real *p, int i)
{
    double head = p[i];
    return head - head == 0 ? head + p[RV_LANES + i] : head;
}
