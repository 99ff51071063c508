/* Entmax of rows: p = max(z - t, 0)^(1 / (alpha - 1)) with z = (alpha - 1) (x - max) <= 0 and the threshold t in [-1, 0) that makes
 * the row sum to 1 (Peters et al. 2019). Only elements with z > -1 can be above it: they are put side by side first, often a
 * few of a row, and the search goes over them alone.
 *
 * t is kept as a number of the element type and what is left of it, so that it adds no rounding of its own: z - t is off by
 * 3 units of |z| + |z - t|, and z by a unit of itself, which moves t by no more. */

typedef struct threshold {
    real high, low;     /* t = high + low */
    double sum;         /* of the weights of the candidates, where it was computed */
} threshold;

RV_INLINE vreal above(vreal z, threshold t) { return v_sub(v_sub(z, v_set1(t.high)), v_set1(t.low)); }

/* z of the elements that may be above the threshold, into `room` of n + RV_LANES; -1 where a row has no weights: NaN, +inf, or -inf
 * alone. The last vector is filled up with -inf. */
static int64_t entmax_candidates(const real *x, int64_t n, vreal max, vreal scale, real *room)
{
    const vreal from = v_set1(-1);
    const unsigned all = (unsigned)((1ull << RV_LANES) - 1);
    vmask bad = v_nan(v_sub(max, max));
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += RV_LANES) {
        real z[RV_LANES];
        vreal zs = v_mul(v_sub(n - i < RV_LANES ? v_load_or(x + i, n - i, -INFINITY) : v_load(x + i), max), scale);
        unsigned bits = m_bits(v_lt(from, zs));
        bad = m_or(bad, v_nan(zs));
        if (bits == all) {
            v_store(room + count, zs);
            count += RV_LANES;
        } else if (bits) {
            v_store(z, zs);
            for (; bits; bits &= bits - 1)
                room[count++] = z[rv_lowest_bit(bits)];
        }
    }
    v_store(room + count, v_set1(-INFINITY));
    return m_any(bad) ? -1 : count;
}

/* alpha 1.5 and 2. From below, steps of Newton's method on the norm of max(z - t, 0), of power 1 / (alpha - 1), which is convex in
 * t: every step drops elements or none. Once all that are left stay above the threshold which their own sums give, it is exact.
 * An element whose z is the threshold may keep t a rounding away from that: then the step no longer moves t. */
RV_INLINE threshold entmax_exact(const real *z, int64_t n, const int square)
{
    threshold t = {-1, 0, 1};
    int settled = 0;
    for (;;) {
        real counts[2 * RV_LANES], sums[2 * RV_LANES], squares[2 * RV_LANES];
        vreal least = v_set1(INFINITY);
        w_zero(counts);
        w_zero(sums);
        w_zero(squares);
        for (int64_t i = 0; i < n; i += RV_LANES) {
            vreal d = v_sub(v_load(z + i), v_set1(t.high));
            vmask over = v_lt(v_zero(), d);
            d = v_keep(over, d);
            least = v_min(v_select(over, d, v_set1(INFINITY)), least);
            w_add(counts, v_keep(over, v_set1(1)));
            w_add(sums, d);
            if (square)
                w_add(squares, v_mul(d, d));
        }
        double k = w_total(counts), s = w_total(sums), step, exact;
        const double smallest = -v_hmax(v_sub(v_zero(), least));
        if (square) {
            double q = w_total(squares), inside = s * s - k * (q - 1);
            /* (s - root) / k without its cancellation */
            exact = inside >= 0 ? (q - 1) / (s + rv_sqrt(inside)) : INFINITY;
            step = (q - rv_sqrt(q)) / s;
        } else {
            step = exact = (s - 1) / k;
        }
        const real next = (real)((double)t.high + step), end = (real)((double)t.high + exact);
        if (exact <= smallest || settled) {
            if (settled || end == t.high) {
                t.low = (real)exact;
                return t;
            }
            /* once more from the nearest number to t, so that what is left of t is small */
            t.high = end;
            settled = 1;
        } else if (!(next > t.high)) {
            return t;
        } else {
            t.high = next;
        }
    }
}

/* d^power, 0 where d <= 0. 1 + y with y = d - 1 keeps the digits of weights near alpha = 1, where d is near 1. */
RV_INLINE vreal entmax_weight(vreal z, threshold t, vreal power)
{
    const vreal one = v_set1(1);
    vreal d = above(z, t), y = v_sub(v_add(z, v_set1((real)(-1 - t.high))), v_set1(t.low)), near = v_add(one, y);
    vmask close = v_lt(v_set1((real)0.5), d), over = v_lt(v_zero(), d);
    vreal log = v_log(v_select(close, near, v_select(over, d, one)));
    vreal rounded = v_sub(near, one);
    vmask flat = v_eq(rounded, v_zero());
    /* log(1 + y) = log(near) y / (near - 1) */
    vreal fixed = v_select(flat, y, v_mul(log, v_div(y, v_select(flat, one, rounded))));
    return v_keep(over, v_exp(v_mul(v_select(close, fixed, log), power)));
}

static double entmax_sum(const real *z, int64_t n, threshold t, vreal power)
{
    real sum[2 * RV_LANES];
    w_zero(sum);
    for (int64_t i = 0; i < n; i += RV_LANES)
        w_add(sum, entmax_weight(v_load(z + i), t, power));
    return w_total(sum);
}

/* Bisection between two numbers by their words, which are ordered as they are: `more` has a sum of at least 1, `less` one below that
 * or none. Elements of t: `rest` 0 its high part, 1 its low part, which is -number. True once the sum is 1 to a few units. */
static int entmax_halve(const real *z, int64_t n, vreal power, const int rest, word less, word more, threshold *t)
{
    const double close = 4 * (RV_REAL_BITS == 32 ? 0x1p-24 : 0x1p-53);
    const real high = t->high;
    while (more - less > 1) {
        word middle = less + (more - less) / 2;
        threshold at = {rest ? high : -rv_real(middle), rest ? -rv_real(middle) : 0, 0};
        at.sum = entmax_sum(z, n, at, power);
        if (at.sum >= 1) {
            more = middle;
            *t = at;
        } else {
            less = middle;
            if (1 - at.sum <= close)
                *t = at;
        }
        if (at.sum - 1 <= close && 1 - at.sum <= close)
            return 1;
    }
    return t->sum - 1 <= close;
}

/* Any alpha > 1: t among the numbers of the element type, then what t is below the next of them. From there an element barely above
 * t, whose weight of a large alpha is not small, keeps its digits. The weights are divided by the sum that remains. */
static threshold entmax_bisect(const real *z, int64_t n, vreal power)
{
    const word one = rv_bits(1), normal = (word)1 << RV_MANTISSA_BITS;
    threshold t = {-1, 0, 0};
    t.sum = entmax_sum(z, n, t, power);
    /* one element may have all the weight */
    if (t.sum <= 1 || entmax_halve(z, n, power, 0, normal, one, &t))
        return t;
    const real less = rv_real(rv_bits(-t.high) - 1), gap = -t.high - less;
    threshold rest = {-less, -gap, t.sum};
    entmax_halve(z, n, power, 1, 0, rv_bits(gap), &rest);
    return rest;
}

enum { ENTMAX_2 = 0, ENTMAX_15, ENTMAX_ANY };

RV_INLINE void entmax_store(const real *x, real *y, int64_t n, vreal max, vreal scale, vreal power, threshold t, const int kind)
{
    const vreal factor = v_set1((real)(1 / t.sum));
    for (int64_t i = 0; i < n; i += RV_LANES) {
        int64_t count = n - i < RV_LANES ? n - i : RV_LANES;
        vreal z = v_mul(v_sub(count < RV_LANES ? v_load_or(x + i, count, -INFINITY) : v_load(x + i), max), scale);
        vreal d = v_max(above(z, t), v_zero()), p = d;
        if (kind == ENTMAX_15)
            p = v_mul(d, d);
        if (kind == ENTMAX_ANY)
            p = m_any(v_lt(v_zero(), d)) ? v_mul(entmax_weight(z, t, power), factor) : v_zero();
        if (count < RV_LANES)
            v_store_tail(y + i, p, count);
        else
            v_store(y + i, p);
    }
}

static void entmax_rows(const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows, int64_t n, double alpha, void *room)
{
    const int kind = alpha == 2 ? ENTMAX_2 : alpha == 1.5 ? ENTMAX_15 : ENTMAX_ANY;
    const vreal scale = v_set1((real)(alpha - 1)), power = v_set1((real)(1 / (alpha - 1)));
    for (int64_t r = 0; r < rows; r++) {
        const real *from = (const real *)((const char *)x + r * x_stride);
        real *to = (real *)((char *)y + r * y_stride);
        vreal max = max_row(from, n);
        int64_t count = entmax_candidates(from, n, max, scale, room);
        if (count < 0) {
            for (int64_t i = 0; i < n; i++)
                to[i] = NAN;
        } else if (kind == ENTMAX_2) {
            entmax_store(from, to, n, max, scale, power, entmax_exact(room, count, 0), ENTMAX_2);
        } else if (kind == ENTMAX_15) {
            entmax_store(from, to, n, max, scale, power, entmax_exact(room, count, 1), ENTMAX_15);
        } else {
            entmax_store(from, to, n, max, scale, power, entmax_bisect(room, count, power), ENTMAX_ANY);
        }
    }
}
