/* Hyperbolic distances,
 *
 *     d = 2 asinh(sqrt(t)) / sqrt(c),   t = c |x - y|^2 / ((1 - c|x|^2) (1 - c|y|^2))            in the Poincare ball,
 *                                       t = c (|x - y|^2 - (x0 - y0)^2) / 4, x0^2 = 1/c + |x|^2    on the hyperboloid.
 *
 * Everything up to t is wide: differences first, so that near points lose nothing, and sums in double (float) or in pairs
 * (double). asinh passes less than the relative error of sqrt(t) on, so the distance is as good as its own last rounding. Where a
 * wide number is not enough, near the sphere or for points far out in one direction, the kernels say so and hyperbolic.c
 * computes that point or pair again. */

/* An error of 1 / RV_HYP_GUARD of t moves the distance by an eighth of its unit roundoff. */
#define RV_HYP_GUARD (RV_REAL_BITS == 32 ? 0x1p26 : 0x1p55)

static void hyp_get(const void *wide, int i, rv_pair *x)
{
    const real *p = (const real *)wide + 2 * (i / RV_LANES * RV_LANES);
    x->head = w_get(p, i % RV_LANES);
#if RV_REAL_BITS == 32
    x->tail = 0;
#else
    x->head = p[i % RV_LANES];
    x->tail = p[RV_LANES + i % RV_LANES];
#endif
}

static void hyp_set(void *wide, int i, const rv_pair *x)
{
    const unsigned at = (unsigned)i;    /* whose quotient is a shift */
    w_place((real *)wide + 2 * (at / RV_LANES * RV_LANES), (int)(at % RV_LANES), x->head, x->tail);
}

/* Rows of doubles padded with zeros. */
static void hyp_pad(const void *points, int64_t stride, int count, int64_t dim, int64_t pad, double *to)
{
    for (int j = 0; j < count; j++, to += pad) {
        const real *x = (const real *)((const char *)points + j * stride);
        int64_t d = 0;
        for (; d + RV_LANES <= dim; d += RV_LANES)
            x_into(to + d, x_widen(v_load(x + d)));
        for (; d < pad; d++)
            to[d] = d < dim ? (double)x[d] : 0;
    }
}

/* panel[group][d][lane] = coordinate d of point group * lanes + lane, as double; zeros beyond the points. */
static void hyp_panel(const void *points, int64_t stride, int count, int64_t dim, double *panel)
{
    real block[RV_LANES * RV_LANES];
    for (int j = 0; j < count; j += RV_LANES, panel += dim * RV_LANES) {
        const char *src = (const char *)points + j * stride;
        int64_t d = 0;
        if (count - j >= RV_LANES)
            for (; d + RV_LANES <= dim; d += RV_LANES) {
                v_transpose(src + d * (int64_t)sizeof(real), stride, block, RV_LANES);
                for (int i = 0; i < RV_LANES; i++)
                    x_into(panel + (d + i) * RV_LANES, x_widen(v_load(block + i * RV_LANES)));
            }
        for (; d < dim; d++)
            for (int i = 0; i < RV_LANES; i++)
                panel[d * RV_LANES + i] = j + i < count ? (double)((const real *)(src + i * stride))[d] : 0;
    }
}

/* norms = |y|^2 of the points of a panel. */
static void hyp_norms(const double *panel, int count, int64_t dim, void *norms)
{
    for (int j = 0; j < count; j += RV_LANES) {
        vwide n = x_zero();
        for (int64_t d = 0; d < dim; d++, panel += RV_LANES)
            n = x_add_square(n, x_from(panel));
        x_store((real *)norms + 2 * j, n);
    }
}

#define EACH_ROW(r) const double *x##r = x + (r < rows ? r : rows - 1) * x_stride;

/* |x_r - y|^2 for up to RV_TILE_ROWS rows and one group of a panel, by differences. */
RV_INLINE void differences(const double *x, int64_t x_stride, int rows, const double *panel, int64_t dim, real *sums)
{
    RV_EACH_ROW(EACH_ROW)
#define DECLARE(r) vwide s##r = x_zero();
    RV_EACH_ROW(DECLARE)
#undef DECLARE
    for (int64_t d = 0; d < dim; d++, panel += RV_LANES) {
        vwide y = x_from(panel);
#define STEP(r) s##r = x_add_square(s##r, x_diff(x_set1(x##r[d], 0), y));
        RV_EACH_ROW(STEP)
#undef STEP
    }
#define STORE(r) \
    if (r < rows) \
        x_store(sums + r * RV_HYP_WIDE, s##r);
    RV_EACH_ROW(STORE)
#undef STORE
}

#if RV_REAL_BITS == 32
/* The same as |x|^2 + |y|^2 - 2 x.y, which saves the subtractions: 1.0 ms instead of 1.4 for 10^6 pairs of width 64 (Zen 5, AVX-512).
 * Returns 0 where points are so near that doubles do not make up for the cancellation. */
RV_INLINE int expanded(const double *x, int64_t x_stride, int rows, const rv_pair *x_norms, const double *panel, vwide y_norms,
                       int64_t dim, real *sums)
{
    const vwide two = x_set1(-2, 0), least = x_set1(((double)dim + 8) * RV_WIDE_UNIT * RV_HYP_GUARD, 0);
    vmask near = v_lt(v_zero(), v_zero());
    RV_EACH_ROW(EACH_ROW)
#define DECLARE(r) vwide s##r = x_zero();
    RV_EACH_ROW(DECLARE)
#undef DECLARE
    for (int64_t d = 0; d < dim; d++, panel += RV_LANES) {
        vwide y = x_from(panel);
#define STEP(r) s##r = x_mul_add(x_set1(x##r[d], 0), y, s##r);
        RV_EACH_ROW(STEP)
#undef STEP
    }
#define STORE(r) \
    if (r < rows) { \
        vwide both = x_add(x_set1(x_norms[r].head, 0), y_norms), square = x_mul_add(two, s##r, both); \
        near = m_or(near, v_lt(x_head(square), x_head(x_mul(both, least)))); \
        x_store(sums + r * RV_HYP_WIDE, square); \
    }
    RV_EACH_ROW(STORE)
#undef STORE
    return !m_any(near);
}
#endif
#undef EACH_ROW

/* sums[r] = |x_r - y|^2 for `rows` <= RV_HYP_ROWS padded rows and the points of a panel. With the norms of the rows (else NULL)
 * and of the panel, float sums may be expanded. */
static void hyp_sums(const double *x, int64_t x_stride, int rows, const rv_pair *x_norms, const double *panel, const void *norms,
                     int count, int64_t dim, void *sums)
{
    for (int r = 0; r < rows; r += RV_TILE_ROWS)
        for (int j = 0; j < count; j += RV_LANES) {
            const double *p = panel + j * dim, *from = x + r * x_stride;
            real *to = (real *)sums + r * RV_HYP_WIDE + 2 * j;
            int left = rows - r < RV_TILE_ROWS ? rows - r : RV_TILE_ROWS;
#if RV_REAL_BITS == 32
            if (x_norms && expanded(from, x_stride, left, x_norms + r, p, x_load((const real *)norms + 2 * j), dim, to))
                continue;
#else
            (void)x_norms; (void)norms;
#endif
            differences(from, x_stride, left, p, dim, to);
        }
}

/* sums[j] = |x_j - y_j|^2 and norms[j] = |y_j|^2 for `count` points where they lie: the form for few rows x, which come as
 * padded doubles, x_stride 0 for a single one. */
static void hyp_rows(const double *x, int64_t x_stride, const void *points, int64_t stride, int count, int64_t dim, void *sums,
                     void *norms)
{
    const uintptr_t ahead = fetch_ahead(stride);
    for (int j = 0; j < count; j++, x += x_stride) {
        const real *y = (const real *)((const char *)points + j * stride);
        vwide s = x_zero(), n = x_zero();
        int64_t d = 0;
        for (; d + RV_LANES <= dim; d += RV_LANES) {
            vreal v = v_load(y + d);
            RV_PREFETCH((const void *)((uintptr_t)(y + d) + ahead));
            s = x_add_square(s, x_diff(x_from(x + d), x_widen(v)));
            n = x_add_square(n, x_widen(v));
        }
        if (d < dim) {
            vreal v = v_load_tail(y + d, dim - d);
            s = x_add_square(s, x_diff(x_from(x + d), x_widen(v)));
            n = x_add_square(n, x_widen(v));
        }
        rv_pair sum, norm;
        sum.head = x_total(s, &sum.tail);
        norm.head = x_total(n, &norm.tail);
        hyp_set(sums, j, &sum);
        hyp_set(norms, j, &norm);
    }
}

/* Bits of the first `count` <= lanes lanes that are set in m. */
static RV_NOINLINE uint64_t lane_bits(vmask m, int count)
{
    real lane[RV_LANES];
    uint64_t bits = 0;
    v_store(lane, v_keep(m, v_set1(1)));
    for (int i = 0; i < RV_LANES && i < count; i++)
        bits |= (uint64_t)(lane[i] != 0) << i;
    return bits;
}

/* What a point brings to its distances, from its norm: sqrt(c) / (1 - c|y|^2), or y0. Returns the bits of points for which that is
 * not good enough: on, outside or next to the sphere, or not finite. norms == weights is allowed. */
static uint64_t hyp_weights(const rv_hyp *h, const void *norms, int count, void *weights)
{
    const vwide c = x_set1(h->curvature.head, h->curvature.tail), one = x_set1(1, 0), flat = x_div(one, c);
    const vwide top = x_div(one, x_set1(h->radius.head, h->radius.tail));
    const vreal least = v_set1((real)(((double)h->dim + 8) * RV_WIDE_UNIT * RV_HYP_GUARD));
    uint64_t care = 0;
    for (int j = 0; j < count; j += RV_LANES) {
        vwide n = x_load((const real *)norms + 2 * j);
        real *to = (real *)weights + 2 * j;
        vmask good;
        if (h->geometry == RV_POINCARE) {
            vwide gap = x_sub(one, x_mul(n, c));
            good = v_le(least, x_head(gap));
            x_store(to, x_div(top, gap));
        } else {
            vwide square = x_add(n, flat);
            good = v_lt(x_head(square), v_set1((real)INFINITY));
            x_store(to, x_sqrt(square));
        }
        if (m_any(m_not(good)))
            care |= lane_bits(m_not(good), count - j) << j;
    }
    return care;
}

/* Bits of the points whose time component, of reals in whole vectors, is not within a relative tolerance of its weight, and of some
 * that are by a hair. */
static uint64_t hyp_times(const void *times, const void *weights, int count, double tolerance)
{
    const vwide share = x_set1(tolerance * (1 - 0x1p-20), 0);
    uint64_t odd = 0;
    for (int j = 0; j < count; j += RV_LANES) {
        vwide w = x_load((const real *)weights + 2 * j), step = x_sub(x_widen(v_load((const real *)times + j)), w);
        vmask good = v_le(v_abs(x_head(step)), x_head(x_mul(w, share)));
        if (m_any(m_not(good)))
            odd |= lane_bits(m_not(good), count - j) << j;
    }
    return odd;
}

/* Between these the steps of hyp_arc neither overflow nor lose digits to underflow; below the last, 2 sqrt(t) is all there is. */
#define RV_HYP_LEAST (RV_REAL_BITS == 32 ? (real)0x1p-100 : (real)0x1p-900)
#define RV_HYP_MOST (RV_REAL_BITS == 32 ? (real)0x1p60 : (real)0x1p500)
#define RV_HYP_SMALL (RV_REAL_BITS == 32 ? (real)0x1p-27 : (real)0x1p-56)

/* z = sqrt(t + t^2), t = *head + low; *rest / 2z is what z lost. */
RV_INLINE vreal hyp_root(vreal t, vreal low, vreal *rest)
{
#if RV_REAL_BITS == 32
    vreal m = v_fma(t, t, t), z = v_sqrt(m);
    (void)low;
    *rest = v_sub(v_zero(), v_lost(z, z, m));
#else
    vreal square = v_mul(t, t), m = v_add(t, square), z = v_sqrt(m);
    vreal lost = v_sub(v_min(t, square), v_sub(m, v_max(t, square)));
    lost = v_add(lost, v_fma(low, v_add(v_add(t, t), v_set1(1)), v_lost(t, t, square)));
    *rest = v_sub(lost, v_lost(z, z, m));
#endif
    return z;
}

RV_INLINE vreal hyp_low(const real *p) { return RV_REAL_BITS == 32 ? v_zero() : v_load(p); }

/* (head + tail) (k + k_low), rounded once. */
RV_INLINE vreal hyp_scaled(vreal head, vreal tail, vreal k, vreal k_low)
{
#if RV_HAVE_FMA
    return v_fma(head, k, v_fma(tail, k, v_mul(head, k_low)));
#else
    vreal d = v_mul(head, k), lost = v_lost(head, k, d);
    return v_add(d, v_add(lost, v_fma(tail, k, v_mul(head, k_low))));
#endif
}

/* out = 2 asinh(sqrt(t)) (k + k_low), NaN for NaN, for `count` t in whole vectors, t + low (double): log(1 + 2t + 2z) with z = sqrt(t + t^2),
 * where 2z + 2t and 1 + 2t + 2z keep what they lose. In steps, so that the processor sees many short chains.
 * Error in units of roundoff of the result, at most: in float t 0.5, t + t^2 0.5, and 1.1 for the logarithm and the last rounding;
 * in double t and t + t^2 are pairs. */
static void hyp_arc(const real *t, const real *low, int count, real k, real k_low, real *out)
{
    RV_ALIGN(64) real whole[RV_HYP_ROWS * RV_HYP_BLOCK], shares[RV_HYP_ROWS * RV_HYP_BLOCK];
    const vreal one = v_set1(1), scale = v_set1(k), scale_low = v_set1(k_low), small = v_set1(RV_HYP_SMALL);
    vmask other = v_lt(one, one);
    for (int j = 0; j < count; j += RV_LANES) {
        vreal x = v_load(t + j), x_low = hyp_low(low + j), rest, z = hyp_root(x, x_low, &rest);
        vreal z2 = v_add(z, z), x2 = v_add(x, x), u = v_add(z2, x2), w = v_add(u, one);
        vreal lost = v_add(v_sub(v_min(u, one), v_sub(w, v_max(u, one))), v_sub(x2, v_sub(u, z2)));
#if RV_REAL_BITS == 64
        lost = v_add(lost, v_add(x_low, x_low));
#endif
        other = m_or(other, m_not(v_le(small, x)));
        v_store(whole + j, w);
        v_store(shares + j, v_div(v_fma(lost, z, rest), v_mul(w, z)));
    }
    for (int j = 0; j < count; j += RV_LANES) {
        vreal tail, head = v_log_pair(v_load(whole + j), v_zero(), v_load(shares + j), &tail);
        v_store(out + j, hyp_scaled(head, tail, scale, scale_low));
    }
    if (m_any(other))
        for (int j = 0; j < count; j += RV_LANES) {
            vreal x = v_load(t + j), rest, z = hyp_root(x, hyp_low(low + j), &rest);
            vreal d = hyp_scaled(v_add(z, z), v_div(rest, z), scale, scale_low);
            d = v_select(v_lt(v_zero(), x), d, x);
            v_store(out + j, v_select(v_le(small, x), v_load(out + j), d));
        }
}

/* Distances of `rows` <= RV_HYP_ROWS points of these weights to the points whose sums and weights these are, to rows of
 * reals `stride` bytes apart; or, with `own`, of one row of points with weights of their own. care[r] gets the bits of those that need
 * another look: t out of range, or differences that cancelled. */
static void hyp_finish(const rv_hyp *h, int rows, const rv_pair *row_weights, const void *own, const void *sums,
                       const void *weights, int count, void *out, int64_t stride, uint64_t *care)
{
    RV_ALIGN(64) real head[RV_HYP_ROWS * RV_HYP_BLOCK], low[RV_HYP_ROWS * RV_HYP_BLOCK], result[RV_HYP_ROWS * RV_HYP_BLOCK];
    const int padded = (count + RV_LANES - 1) / RV_LANES * RV_LANES;
    const real k = (real)h->radius.head, k_low = k < (real)INFINITY ? (real)(h->radius.head - k + h->radius.tail) : 0;
    const vwide quarter = x_mul(x_set1(h->curvature.head, h->curvature.tail), x_set1(0.25, 0));
    const double unit = ((double)h->dim + 8) * RV_WIDE_UNIT * RV_HYP_GUARD;
    const vwide allowed = x_set1(unit, 0), twice = x_set1(2 * unit, 0);
    for (int i = 0; i < rows * padded; i += RV_LANES) {
        int r = i / padded, j = i - r * padded;
        vwide s = x_load((const real *)sums + r * RV_HYP_WIDE + 2 * j), w = x_load((const real *)weights + 2 * j), t;
        vwide v = own ? x_load((const real *)own + 2 * j) : x_set1(row_weights[r].head, row_weights[r].tail);
        if (j == 0)
            care[r] = 0;
        vmask bad;
        if (h->geometry == RV_POINCARE) {
            t = x_mul(s, x_mul(v, w));
            bad = v_lt(v_set1(RV_HYP_MOST), x_head(t));
        } else {
            vwide step = x_sub(v, w), rest = x_sub(s, x_mul(step, step));
            vreal error = v_add(x_head(x_mul(s, allowed)), v_mul(v_abs(x_head(step)), x_head(x_mul(x_add(v, w), twice))));
            t = x_mul(rest, quarter);
            bad = m_or(v_lt(x_head(rest), error), v_lt(v_set1(RV_HYP_MOST), x_head(t)));
        }
        bad = m_or(bad, v_lt(x_head(t), v_set1(RV_HYP_LEAST)));
        if (RV_REAL_BITS == 32 && h->geometry == RV_POINCARE && m_any(bad))
            /* squares of floats do not underflow in double, so that no difference is none */
            bad = m_and(bad, m_not(v_eq(x_head(x_mul(s, x_set1(0x1p250, 0))), v_zero())));
        if (m_any(bad))
            care[r] |= lane_bits(bad, count - j) << j;
        v_store(head + i, x_head(t));
#if RV_REAL_BITS == 64
        v_store(low + i, x_rest(t));
#endif
    }
    hyp_arc(head, low, rows * padded, k, k_low, result);
    for (int r = 0; r < rows; r++)
        memcpy((char *)out + r * stride, result + r * padded, (size_t)count * sizeof(real));
}
