/* Softmax and log-softmax of rows. An element is rounded in at most two sums (doubles: one) before they join in double (doubles:
 * with what each addition loses), so that one that dominates its row loses nothing to many small ones, in a row of any length; a weight is
 * e / sum, never exp(x - lse). */

/* The exponentials of four vectors from x on, stored where `keep`, join the wide sum. */
RV_INLINE void exp_four(const real *x, real *y, vreal max, const int keep, real *wide)
{
    const vreal near = v_set1(RV_EXP_NORMAL_FROM);
    vreal x0 = v_sub(v_load(x), max), x1 = v_sub(v_load(x + RV_LANES), max);
    vreal x2 = v_sub(v_load(x + 2 * RV_LANES), max), x3 = v_sub(v_load(x + 3 * RV_LANES), max), e0, e1, e2, e3;
    /* few rows have an element this far below the largest, and v_exp takes half as long again */
    if (m_any(m_or(m_or(v_lt(x0, near), v_lt(x1, near)), m_or(v_lt(x2, near), v_lt(x3, near))))) {
        e0 = v_exp(x0), e1 = v_exp(x1), e2 = v_exp(x2), e3 = v_exp(x3);
    } else {
        e0 = v_exp_normal(x0), e1 = v_exp_normal(x1), e2 = v_exp_normal(x2), e3 = v_exp_normal(x3);
    }
    if (keep) {
        v_store(y, e0);
        v_store(y + RV_LANES, e1);
        v_store(y + 2 * RV_LANES, e2);
        v_store(y + 3 * RV_LANES, e3);
    }
    vreal low = v_add(e0, e1), high = v_add(e2, e3);
    if (RV_REAL_BITS == 64) {
        w_add(wide, low);
        w_add(wide, high);
    } else {
        w_add(wide, v_add(low, high));
    }
}

/* The same of the n < 4 * RV_LANES elements at the end of a row. */
RV_INLINE void exp_rest(const real *x, real *y, int64_t n, vreal max, const int keep, real *wide)
{
    for (int64_t i = 0; i < n; i += RV_LANES) {
        int64_t count = n - i < RV_LANES ? n - i : RV_LANES;
        vreal e = v_exp(v_sub(count < RV_LANES ? v_load_or(x + i, count, -INFINITY) : v_load(x + i), max));
        if (keep)
            v_store_tail(y + i, e, count);
        w_add(wide, e);
    }
}

/* y = exp(x - max) for the n elements at x, their sum returned. `keep` 0: the sum alone. */
RV_INLINE double exp_row(const real *x, real *y, int64_t n, vreal max, const int keep)
{
    real wide[2 * RV_LANES];
    int64_t i = 0;
    w_zero(wide);
    for (; i + 4 * RV_LANES <= n; i += 4 * RV_LANES)
        exp_four(x + i, keep ? y + i : y, max, keep, wide);
    exp_rest(x + i, keep ? y + i : y, n - i, max, keep, wide);
#if RV_REAL_BITS == 32
    return w_sum(wide);
#else
    return w_total(wide);
#endif
}

RV_INLINE vreal max_row(const real *x, int64_t n)
{
    int64_t i = 0;
    vreal top = v_set1(-INFINITY), top1 = top, top2 = top, top3 = top;
    for (; i + 4 * RV_LANES <= n; i += 4 * RV_LANES) {
        top = v_max(v_load(x + i), top);
        top1 = v_max(v_load(x + i + RV_LANES), top1);
        top2 = v_max(v_load(x + i + 2 * RV_LANES), top2);
        top3 = v_max(v_load(x + i + 3 * RV_LANES), top3);
    }
    for (; i + RV_LANES <= n; i += RV_LANES)
        top = v_max(v_load(x + i), top);
    if (i < n)
        top1 = v_max(v_load_or(x + i, n - i, -INFINITY), top1);
    return v_set1(v_hmax(v_max(v_max(top, top1), v_max(top2, top3))));
}

/* Elements of a row from y on times `factor`, to about one unit. */
static void softmax_scale(void *y, int64_t n, double factor)
{
    real *dst = y;
    const real high = (real)factor;
    const vreal a = v_set1(high), b = v_set1((real)(factor - (double)high));
    int64_t i = 0;
#if RV_REAL_BITS == 32
#define SCALED(e) v_fma(e, a, v_mul(e, b))
#else
#define SCALED(e) v_mul(e, a)
#endif
    for (; i + RV_LANES <= n; i += RV_LANES)
        v_store(dst + i, SCALED(v_load(dst + i)));
    if (i < n)
        v_store_tail(dst + i, SCALED(v_load_tail(dst + i, n - i)), n - i);
#undef SCALED
    (void)b;
}

/* y = x - max - shift. */
static void softmax_shift(const void *x, void *y, int64_t n, double max, double shift)
{
    const real *src = x;
    real *dst = y;
    const vreal m = v_set1((real)max), l = v_set1((real)shift);
    int64_t i = 0;
    for (; i + RV_LANES <= n; i += RV_LANES)
        v_store(dst + i, v_sub(v_sub(v_load(src + i), m), l));
    if (i < n)
        v_store_tail(dst + i, v_sub(v_sub(v_load_tail(src + i, n - i), m), l), n - i);
}

static double softmax_part(const void *x, void *y, int64_t n, int keep, double *max)
{
    vreal top = max_row(x, n);
    *max = v_first(top);
    /* a part of -inf alone adds nothing to a row that has more */
    if (*max == -INFINITY)
        top = v_zero();
    return keep ? exp_row(x, y, n, top, 1) : exp_row(x, y, n, top, 0);
}

/* Rows of up to RV_SHORT elements, `rows` of them and at most four, step by step together: one alone waits for its horizontal
 * sums longer than it works. */
enum { RV_SHORT = 16 * RV_LANES };

RV_INLINE void short_rows(const char *x, int64_t x_stride, char *y, int64_t y_stride, const int rows, int64_t n)
{
    vreal max[4];
    double sum[4];
    for (int r = 0; r < rows; r++)
        max[r] = max_row((const real *)(x + r * x_stride), n);
    for (int r = 0; r < rows; r++)
        sum[r] = exp_row((const real *)(x + r * x_stride), (real *)(y + r * y_stride), n, max[r], 1);
    for (int r = 0; r < rows; r++)
        softmax_scale(y + r * y_stride, n, 1 / sum[r]);
}

static void softmax_rows(const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows, int64_t n, int log)
{
    int64_t r = 0;
    const char *src = x;
    char *dst = y;
    if (n <= RV_SHORT && !log) {
        for (; r + 4 <= rows; r += 4)
            short_rows(src + r * x_stride, x_stride, dst + r * y_stride, y_stride, 4, n);
        for (; r < rows; r++)
            short_rows(src + r * x_stride, x_stride, dst + r * y_stride, y_stride, 1, n);
        return;
    }
    for (; r < rows; r++) {
        const real *from = (const real *)(src + r * x_stride);
        real *to = (real *)(dst + r * y_stride);
        vreal max = max_row(from, n);
        if (log)
            softmax_shift(from, to, n, v_first(max), rv_log(exp_row(from, to, n, max, 0)));
        else
            softmax_scale(to, n, 1 / exp_row(from, to, n, max, 1));
    }
}
