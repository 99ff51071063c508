/* Arithmetic of unevaluated sums of two doubles, about 106 bits: Dekker 1971, Knuth. Without fused steps, so that every compiler and
 * processor gives the same bits. */
#ifndef RV_DOUBLE_PAIR_H
#define RV_DOUBLE_PAIR_H

#include "hyp_state.h"
#include "scalar_math.h"

static const rv_pair ONE = {1, 0};

static inline rv_pair pair(double head, double tail)
{
    rv_pair x = {head, tail};
    return x;
}

static inline rv_pair fast_sum(double a, double b)
{
    double s = a + b;
    return pair(s, b - (s - a));
}

static inline rv_pair sum(double a, double b)
{
    double s = a + b, t = s - a;
    return pair(s, (a - (s - t)) + (b - t));
}

static inline rv_pair product(double a, double b)
{
    double p = a * b, ac = a * 134217729.0, bc = b * 134217729.0;
    double ah = ac - (ac - a), bh = bc - (bc - b), al = a - ah, bl = b - bh;
    return pair(p, ((ah * bh - p) + ah * bl + al * bh) + al * bl);
}

static inline rv_pair add(rv_pair a, rv_pair b)
{
    rv_pair s = sum(a.head, b.head), t = sum(a.tail, b.tail);
    s = fast_sum(s.head, s.tail + t.head);
    return fast_sum(s.head, s.tail + t.tail);
}

static inline rv_pair minus(rv_pair a) { return pair(-a.head, -a.tail); }

static inline rv_pair mul(rv_pair a, rv_pair b)
{
    rv_pair p = product(a.head, b.head);
    return fast_sum(p.head, p.tail + (a.head * b.tail + a.tail * b.head));
}

/* times a power of two */
static inline rv_pair scaled(rv_pair a, double s) { return pair(a.head * s, a.tail * s); }

static inline rv_pair quotient(rv_pair a, rv_pair b)
{
    double q = a.head / b.head;
    rv_pair rest = add(a, minus(mul(pair(q, 0), b)));
    return fast_sum(q, rest.head / b.head);
}

/* a > 0 */
static inline rv_pair root(rv_pair a)
{
    double s = rv_sqrt(a.head);
    rv_pair rest = add(a, minus(product(s, s)));
    return fast_sum(s, rest.head / (2 * s));
}

#endif
