/* Dot products, elementwise functions and row softmax. */

enum {
    RV_DOT_CHAIN = 32       /* products a lane sums in one chain; the error grows with dim / (RV_DOT_CHAIN * lanes) */
};

/* Sums of one row as few_dot4 and dots keep them: even and odd vectors apart, chains folded every RV_DOT_CHAIN vectors. */
RV_INLINE vreal dot_lanes(const real *a, const real *b, int64_t n)
{
    vreal total = v_zero();
    int64_t i = 0;
    do {
        vreal s0 = v_zero(), s1 = v_zero();
        int64_t end = n - i < 2 * RV_DOT_CHAIN * RV_LANES ? n : i + 2 * RV_DOT_CHAIN * RV_LANES;
        for (; i + 2 * RV_LANES <= end; i += 2 * RV_LANES) {
            s0 = v_fma(v_load(a + i), v_load(b + i), s0);
            s1 = v_fma(v_load(a + i + RV_LANES), v_load(b + i + RV_LANES), s1);
        }
        if (i + RV_LANES <= end) {
            s0 = v_fma(v_load(a + i), v_load(b + i), s0);
            i += RV_LANES;
        }
        if (i < end) {
            s1 = v_fma(v_load_tail(a + i, end - i), v_load_tail(b + i, end - i), s1);
            i = end;
        }
        total = v_add(total, v_add(s0, s1));
    } while (i < n);
    return total;
}

static double dot(const void *a, const void *b, int64_t n) { return v_sum(dot_lanes(a, b, n)); }

/* Four rows share the query's loads; each row's sums are those of dot_lanes, to the bit. Past RV_DOTS_NEAR bytes the rows come
 * from memory, and one stream at a time keeps the prefetcher. */
#define RV_DOTS_NEAR ((int64_t)1 << 19)

static void dots(const void *query, const void *keys, int64_t key_stride, int64_t count, int64_t dim, void *scores)
{
    const real *q = query;
    real *out = scores;
    int64_t i = 0;
    if (count * dim * (int64_t)sizeof(real) <= RV_DOTS_NEAR && dim <= 2 * RV_DOT_CHAIN * RV_LANES)
        for (; i + 4 <= count; i += 4) {
            const real *k0 = (const real *)((const char *)keys + i * key_stride);
            const real *k1 = (const real *)((const char *)k0 + key_stride);
            const real *k2 = (const real *)((const char *)k1 + key_stride);
            const real *k3 = (const real *)((const char *)k2 + key_stride);
            vreal a0 = v_zero(), a1 = v_zero(), a2 = v_zero(), a3 = v_zero();
            vreal b0 = v_zero(), b1 = v_zero(), b2 = v_zero(), b3 = v_zero();
            int64_t d = 0;
            for (; d + 2 * RV_LANES <= dim; d += 2 * RV_LANES) {
                vreal x = v_load(q + d), y = v_load(q + d + RV_LANES);
                a0 = v_fma(x, v_load(k0 + d), a0);
                b0 = v_fma(y, v_load(k0 + d + RV_LANES), b0);
                a1 = v_fma(x, v_load(k1 + d), a1);
                b1 = v_fma(y, v_load(k1 + d + RV_LANES), b1);
                a2 = v_fma(x, v_load(k2 + d), a2);
                b2 = v_fma(y, v_load(k2 + d + RV_LANES), b2);
                a3 = v_fma(x, v_load(k3 + d), a3);
                b3 = v_fma(y, v_load(k3 + d + RV_LANES), b3);
            }
            if (d + RV_LANES <= dim) {
                vreal x = v_load(q + d);
                a0 = v_fma(x, v_load(k0 + d), a0);
                a1 = v_fma(x, v_load(k1 + d), a1);
                a2 = v_fma(x, v_load(k2 + d), a2);
                a3 = v_fma(x, v_load(k3 + d), a3);
                d += RV_LANES;
            }
            if (d < dim) {
                vreal x = v_load_tail(q + d, dim - d);
                b0 = v_fma(x, v_load_tail(k0 + d, dim - d), b0);
                b1 = v_fma(x, v_load_tail(k1 + d, dim - d), b1);
                b2 = v_fma(x, v_load_tail(k2 + d, dim - d), b2);
                b3 = v_fma(x, v_load_tail(k3 + d, dim - d), b3);
            }
            /* dot_lanes adds its folded sum to +0 */
            v_sum4(v_add(v_zero(), v_add(a0, b0)), v_add(v_zero(), v_add(a1, b1)), v_add(v_zero(), v_add(a2, b2)),
                   v_add(v_zero(), v_add(a3, b3)), out + i);
        }
    for (; i < count; i++)
        out[i] = v_sum(dot_lanes(q, (const real *)((const char *)keys + i * key_stride), dim));
}

#define RV_MAP_LOOP(f) \
    for (; i + RV_LANES <= n; i += RV_LANES) \
        v_store(dst + i, f(v_load(src + i))); \
    if (i < n) \
        v_store_tail(dst + i, f(v_load_tail(src + i, n - i)), n - i); \
    break

static void map(rv_map f, const void *x, void *y, int64_t n)
{
    const real *src = x;
    real *dst = y;
    int64_t i = 0;
    switch (f) {
    case RV_MAP_EXP: RV_MAP_LOOP(v_exp);
    case RV_MAP_EXP2: RV_MAP_LOOP(v_exp2);
    case RV_MAP_LOG: RV_MAP_LOOP(v_log);
    case RV_MAP_TANH: RV_MAP_LOOP(v_tanh);
    case RV_MAP_ERF: RV_MAP_LOOP(v_erf);
    case RV_MAP_ASINH: RV_MAP_LOOP(v_asinh);
    default: break;
    }
}
#undef RV_MAP_LOOP

/* e / sum to about one unit: for float, a product with the reciprocal in two parts, which costs a third of a division. */
#if RV_REAL_BITS == 32 && RV_HAVE_FMA
typedef struct reciprocal { vreal high, low; } reciprocal;
RV_INLINE reciprocal reciprocal_of(double sum)
{
    double inverse = 1 / sum;
    float high = (float)inverse;
    reciprocal r = {v_set1(high), v_set1((float)(inverse - high))};
    return r;
}
RV_INLINE vreal over(vreal e, reciprocal r) { return v_fma(e, r.high, v_mul(e, r.low)); }
#else
typedef struct reciprocal { vreal sum; } reciprocal;
RV_INLINE reciprocal reciprocal_of(double sum)
{
    reciprocal r = {v_set1((real)sum)};
    return r;
}
RV_INLINE vreal over(vreal e, reciprocal r) { return v_div(e, r.sum); }
#endif

/* The sum of exp(x - max) over `whole` elements, whole vectors, and of the lanes of `last`; each exp, or x - max for `log`, goes
 * to dst where that is not NULL. Four vectors, two of doubles, join a wide accumulator: an element is rounded in sums twice,
 * or once, so that one that dominates its row loses little to the many small ones, in a row of any length. */
RV_INLINE double exp_sum(const real *src, real *dst, int64_t whole, vreal max, vreal last, int log)
{
    real wide[2 * RV_LANES];
    int64_t i = 0;
    w_zero(wide);
    for (; i + 4 * RV_LANES <= whole; i += 4 * RV_LANES) {
        vreal x0 = v_sub(v_load(src + i), max), x1 = v_sub(v_load(src + i + RV_LANES), max);
        vreal x2 = v_sub(v_load(src + i + 2 * RV_LANES), max), x3 = v_sub(v_load(src + i + 3 * RV_LANES), max);
        vreal e0 = v_exp(x0), e1 = v_exp(x1), e2 = v_exp(x2), e3 = v_exp(x3);
        if (dst) {
            v_store(dst + i, log ? x0 : e0);
            v_store(dst + i + RV_LANES, log ? x1 : e1);
            v_store(dst + i + 2 * RV_LANES, log ? x2 : e2);
            v_store(dst + i + 3 * RV_LANES, log ? x3 : e3);
        }
        vreal low = v_add(e0, e1), high = v_add(e2, e3);
        if (RV_REAL_BITS == 64) {
            w_add(wide, low);
            w_add(wide, high);
        } else {
            w_add(wide, v_add(low, high));
        }
    }
    for (; i < whole; i += RV_LANES) {
        vreal x0 = v_sub(v_load(src + i), max), e0 = v_exp(x0);
        if (dst)
            v_store(dst + i, log ? x0 : e0);
        w_add(wide, e0);
    }
    w_add(wide, last);
    return w_total(wide);
}

/* y = exp(x - max x) / sum, or x - max x - log sum; the weight is e / sum, never exp(x - lse). */
static void softmax_row(const void *x, void *y, int64_t n, int log)
{
    const real *src = x;
    real *dst = y;
    int64_t whole = n / RV_LANES * RV_LANES, i;
    if (n <= 0)
        return;
    vreal tail = v_load_or(src + whole, n - whole, -INFINITY), top = tail, top1 = tail, top2 = tail, top3 = tail;
    for (i = 0; i + 4 * RV_LANES <= whole; i += 4 * RV_LANES) {
        top = v_max(v_load(src + i), top);
        top1 = v_max(v_load(src + i + RV_LANES), top1);
        top2 = v_max(v_load(src + i + 2 * RV_LANES), top2);
        top3 = v_max(v_load(src + i + 3 * RV_LANES), top3);
    }
    for (; i < whole; i += RV_LANES)
        top = v_max(v_load(src + i), top);
    vreal max = v_set1(v_hmax(v_max(v_max(top, top1), v_max(top2, top3))));
    vreal x0 = v_sub(tail, max), last = v_exp(x0);
    double sum = exp_sum(src, dst, whole, max, whole < n ? last : v_zero(), log);
    if (log) {
        vreal shift = v_set1((real)rv_log(sum));
        for (i = 0; i < whole; i += RV_LANES)
            v_store(dst + i, v_sub(v_load(dst + i), shift));
        if (whole < n)
            v_store_tail(dst + whole, v_sub(x0, shift), n - whole);
    } else {
        reciprocal r = reciprocal_of(sum);
        for (i = 0; i < whole; i += RV_LANES)
            v_store(dst + i, over(v_load(dst + i), r));
        if (whole < n)
            v_store_tail(dst + whole, over(last, r), n - whole);
    }
}
