/* What stands between the products of a network: normalisations of rows and activations. */

typedef struct moments {
    vwide mean;
    double about;           /* the mean, rounded */
    double square;          /* mean of the squared deviations */
} moments;

RV_INLINE vaway deviation(vreal x, const moments *m, const int centre, const int exact, vreal before, vwide after)
{
    x = exact ? x : v_mul(x, before);
    vaway d = centre ? a_sub(x, m->mean) : a_from(x);
    return exact ? d : a_scale(d, after);
}

/* Of x * before, the deviations (from 0 without `centre`) times `after`: powers of two, which are 1 where `exact`. Sums and mean
 * are wide, and what is squared is what lies around the mean: neither a long row nor a large mean costs digits. */
RV_INLINE moments moments_of(const real *x, int64_t n, const int centre, const int exact, real before, real after)
{
    const vreal b = v_set1(before), lanes_left = v_sub(v_set1((real)(n % RV_LANES)), v_iota());
    const vwide a = x_set1((double)after, 0), count = x_set1((double)n, 0);
    vwide s0 = x_zero(), s1 = x_zero();
    moments m = {x_zero(), 0, 0};
    double total, tail;
    int64_t i = 0;
    if (centre) {
        for (; i + 2 * RV_LANES <= n; i += 2 * RV_LANES) {
            vreal x0 = v_load(x + i), x1 = v_load(x + i + RV_LANES);
            s0 = x_gather(s0, exact ? x0 : v_mul(x0, b));
            s1 = x_gather(s1, exact ? x1 : v_mul(x1, b));
        }
        for (; i < n; i += RV_LANES) {
            vreal x0 = n - i < RV_LANES ? v_load_tail(x + i, n - i) : v_load(x + i);
            s0 = x_gather(s0, exact ? x0 : v_mul(x0, b));
        }
        total = x_total(x_add(s0, s1), &tail);
        m.mean = x_div(x_set1(total, tail), count);
        m.about = total / (double)n;
        s0 = s1 = x_zero();
    }
    for (i = 0; i + 2 * RV_LANES <= n; i += 2 * RV_LANES) {
        s0 = x_gather_square(s0, deviation(v_load(x + i), &m, centre, exact, b, a));
        s1 = x_gather_square(s1, deviation(v_load(x + i + RV_LANES), &m, centre, exact, b, a));
    }
    if (i + RV_LANES <= n) {
        s0 = x_gather_square(s0, deviation(v_load(x + i), &m, centre, exact, b, a));
        i += RV_LANES;
    }
    if (i < n) {
        /* lanes past the end deviate by nothing */
        vaway d = deviation(v_load_tail(x + i, n - i), &m, centre, exact, b, a);
        s1 = x_gather_square(s1, a_keep(v_lt(v_zero(), lanes_left), d));
    }
    total = x_total(x_add(s0, s1), &tail);
    m.square = total / (double)n;
    if (centre) {
        double left = x_left(m.mean) * (double)after;
        m.square -= left * left;
    }
    return m;
}

/* y = (x - mean) / sqrt(square + eps) w + b. Deviations whose squares or inverse could leave the range are brought near 1 by powers
 * of two: before the mean is taken off, but after it where they are small and the mean is not. */
#if RV_REAL_BITS == 32
#define RV_NORM_FAR 0x1p100
#define RV_NORM_SCALE 0x1p100f
#else
#define RV_NORM_FAR 0x1p480
#define RV_NORM_SCALE 0x1p600
#endif

RV_INLINE void norm_row(const real *x, real *y, int64_t n, const real *weight, const real *bias, double eps, const int centre)
{
    real before = 1, after = 1;
    moments m = moments_of(x, n, centre, 1, 1, 1);
    double spread = m.square + eps;
    if (!(spread < RV_NORM_FAR * RV_NORM_FAR))
        before = 1 / RV_NORM_SCALE;
    else if (spread < 1 / RV_NORM_FAR / RV_NORM_FAR)
        *(m.about > -1 && m.about < 1 ? &before : &after) = RV_NORM_SCALE;
    if (before * after != 1) {
        m = moments_of(x, n, centre, 0, before, after);
        spread = m.square + eps * (double)before * (double)before * (double)after * (double)after;
    }
    if (!(spread > 0 && spread < INFINITY))
        spread = NAN;
    const vwide inverse = x_div(x_set1(1, 0), x_sqrt(x_set1(spread, 0)));
    const vreal r = x_head(inverse), head = x_head(m.mean), rest = x_rest(m.mean), b = v_set1(before), a = v_set1(after);
    for (int64_t i = 0; i < n; i += RV_LANES) {
        int64_t left = n - i;
        vreal v = left < RV_LANES ? v_load_tail(x + i, left) : v_load(x + i);
        v = v_mul(v, b);
        if (centre)
            v = v_sub(v_sub(v, head), rest);
        v = v_mul(v_mul(v, a), r);
        if (left < RV_LANES) {
            if (weight)
                v = v_mul(v, v_load_tail(weight + i, left));
            if (bias)
                v = v_add(v, v_load_tail(bias + i, left));
            v_store_tail(y + i, v, left);
        } else {
            if (weight && bias)
                v = v_fma(v, v_load(weight + i), v_load(bias + i));
            else if (weight)
                v = v_mul(v, v_load(weight + i));
            else if (bias)
                v = v_add(v, v_load(bias + i));
            v_store(y + i, v);
        }
    }
}

static void norm_rows(const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows, int64_t n, const void *weight,
                      const void *bias, double eps, int centre)
{
    for (int64_t r = 0; r < rows; r++) {
        const real *from = (const real *)((const char *)x + r * x_stride);
        real *to = (real *)((char *)y + r * y_stride);
        if (centre)
            norm_row(from, to, n, weight, bias, eps, 1);
        else
            norm_row(from, to, n, weight, bias, eps, 0);
    }
}

/* y = f(x), or f(x) times `up`. */
#define RV_ACTIVATE(f) \
    if (up) { \
        for (; i + RV_LANES <= n; i += RV_LANES) \
            v_store(dst + i, v_mul(f(v_load(src + i)), v_load(by + i))); \
        if (i < n) \
            v_store_tail(dst + i, v_mul(f(v_load_tail(src + i, n - i)), v_load_tail(by + i, n - i)), n - i); \
    } else { \
        for (; i + RV_LANES <= n; i += RV_LANES) \
            v_store(dst + i, f(v_load(src + i))); \
        if (i < n) \
            v_store_tail(dst + i, f(v_load_tail(src + i, n - i)), n - i); \
    } \
    break

static void activate(rv_activation f, const void *x, const void *up, void *y, int64_t n)
{
    const real *src = x, *by = up;
    real *dst = y;
    int64_t i = 0;
    switch (f) {
    case RV_GELU: RV_ACTIVATE(v_gelu);
    case RV_GELU_TANH: RV_ACTIVATE(v_gelu_tanh);
    case RV_SILU: RV_ACTIVATE(v_silu);
    default: break;
    }
}
#undef RV_ACTIVATE
