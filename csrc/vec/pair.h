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

RV_INLINE void w_place(real *p, int i, double head, double tail)
{
    p[i] = head;
    p[RV_LANES + i] = tail;
}

/* Wide registers of doubles: the same pairs, with the short algorithms of Dekker (1971) and Knuth, whose errors stay below
 * 8 2^-106 of the largest of operands and result. */
#define RV_WIDE_UNIT 0x1p-103

typedef struct vwide {
    vreal head, tail;
} vwide;

RV_INLINE vwide x_make(vreal head, vreal tail)
{
    vwide x = {head, tail};
    return x;
}
/* a + b, exactly; x_fast_sum where |a| >= |b| */
RV_INLINE vwide x_sum(vreal a, vreal b)
{
    vreal s = v_add(a, b), t = v_sub(s, a);
    return x_make(s, v_add(v_sub(a, v_sub(s, t)), v_sub(b, t)));
}
RV_INLINE vwide x_fast_sum(vreal a, vreal b)
{
    vreal s = v_add(a, b);
    return x_make(s, v_sub(b, v_sub(s, a)));
}
RV_INLINE vwide x_product(vreal a, vreal b)
{
    vreal p = v_mul(a, b);
    return x_make(p, v_lost(a, b, p));
}
RV_INLINE vwide x_set1(double head, double tail) { return x_make(v_set1(head), v_set1(tail)); }
RV_INLINE vwide x_zero(void) { return x_set1(0, 0); }
RV_INLINE vwide x_load(const real *p) { return x_make(v_load(p), v_load(p + RV_LANES)); }
RV_INLINE void x_store(real *p, vwide x)
{
    v_store(p, x.head);
    v_store(p + RV_LANES, x.tail);
}
RV_INLINE vwide x_from(const double *p) { return x_make(v_load(p), v_zero()); }
RV_INLINE void x_into(double *p, vwide x) { v_store(p, x.head); }
RV_INLINE vwide x_widen(vreal a) { return x_make(a, v_zero()); }
RV_INLINE vwide x_add(vwide a, vwide b)
{
    vwide s = x_sum(a.head, b.head);
    return x_fast_sum(s.head, v_add(s.tail, v_add(a.tail, b.tail)));
}
RV_INLINE vwide x_sub(vwide a, vwide b) { return x_add(a, x_make(v_sub(v_zero(), b.head), v_sub(v_zero(), b.tail))); }
RV_INLINE vwide x_mul(vwide a, vwide b)
{
    vwide p = x_product(a.head, b.head);
    return x_fast_sum(p.head, v_add(p.tail, v_add(v_mul(a.head, b.tail), v_mul(a.tail, b.head))));
}
RV_INLINE vwide x_div(vwide a, vwide b)
{
    vreal q = v_div(a.head, b.head), p = v_mul(q, b.head);
    vreal rest = v_sub(v_sub(v_sub(a.head, p), v_lost(q, b.head, p)), v_sub(v_mul(q, b.tail), a.tail));
    return x_fast_sum(q, v_div(rest, b.head));
}
/* x > 0 */
RV_INLINE vwide x_sqrt(vwide a)
{
    vreal s = v_sqrt(a.head), p = v_mul(s, s);
    vreal rest = v_add(v_sub(v_sub(a.head, p), v_lost(s, s, p)), a.tail);
    return x_fast_sum(s, v_div(rest, v_add(s, s)));
}
RV_INLINE vwide x_diff(vwide a, vwide b) { return x_sum(a.head, v_sub(v_zero(), b.head)); }
RV_INLINE vwide x_add_square(vwide s, vwide d)
{
    vreal p = v_mul(d.head, d.head);
    vwide t = x_sum(s.head, p);
    vreal lost = v_fma(v_add(d.head, d.head), d.tail, v_lost(d.head, d.head, p));
    return x_make(t.head, v_add(s.tail, v_add(t.tail, lost)));
}
/* s + a, what the head loses left in the tail: for sums that x_total or x_add ends. */
RV_INLINE vwide x_gather(vwide s, vreal a)
{
    vwide t = x_sum(s.head, a);
    return x_make(t.head, v_add(s.tail, t.tail));
}
/* Deviations from a mean for the sum of their squares: from its head, each within a unit of its own, so that the mean square is
 * too large by the square of what x_left returns. That tail is at most half the distance of two numbers as large as the mean,
 * whose square is no more than that of the deviations themselves: little cancels. */
typedef vreal vaway;

RV_INLINE vaway a_from(vreal x) { return x; }
RV_INLINE vaway a_sub(vreal x, vwide mean) { return v_sub(x, mean.head); }
RV_INLINE vaway a_scale(vaway d, vwide by) { return v_mul(d, by.head); }
RV_INLINE vaway a_keep(vmask m, vaway d) { return v_keep(m, d); }
RV_INLINE vwide x_gather_square(vwide s, vaway d)
{
    vreal p = v_mul(d, d);
    vwide t = x_sum(s.head, p);
    return x_make(t.head, v_add(s.tail, v_add(t.tail, v_lost(d, d, p))));
}
RV_INLINE double x_left(vwide mean)
{
    real left[RV_LANES];
    v_store(left, mean.tail);
    return left[0];
}
RV_INLINE vreal x_head(vwide a) { return v_add(a.head, a.tail); }
RV_INLINE vreal x_rest(vwide a) { return v_sub(a.tail, v_sub(x_head(a), a.head)); }
RV_INLINE double x_total(vwide a, double *tail)
{
    real head[RV_LANES], rest[RV_LANES];
    v_store(head, a.head);
    v_store(rest, a.tail);
    double sum = head[0], lost = rest[0];
    for (int i = 1; i < RV_LANES; i++) {
        double s = sum + head[i], t = s - sum;
        lost += ((sum - (s - t)) + (head[i] - t)) + rest[i];
        sum = s;
    }
    double total = sum + lost;
    *tail = lost - (total - sum);
    return total;
}
