/* What several kernels use: storage conversion of rows, division by sums, finiteness, and the end of a row. */

#define RV_LOWEST (RV_REAL_BITS == 32 ? (real)-3.4028234663852886e38 : (real)-1.7976931348623157e308)

static int is_half(rv_dtype storage) { return storage == RV_F16 || storage == RV_BF16; }

static int64_t storage_size(rv_dtype storage) { return is_half(storage) ? 2 : (int64_t)sizeof(real); }

/* Bytes of an element of stored keys and values. */
RV_INLINE int64_t kv_size(rv_dtype type) { return type == RV_I8 ? 1 : storage_size(type); }

#if RV_REAL_BITS == 32
static void widen(rv_dtype from, const void *x, void *y, int64_t n)
{
    const uint16_t *src = x;
    float *dst = y;
    int64_t i = 0;
    if (from == RV_F16) {
        for (; i + RV_LANES <= n; i += RV_LANES)
            v_store(dst + i, v_load_f16(src + i));
        if (i < n)
            v_store_tail(dst + i, v_load_f16_tail(src + i, n - i), n - i);
    } else if (from == RV_I8) {
        const int8_t *codes = x;
        for (; i + RV_LANES <= n; i += RV_LANES)
            v_store(dst + i, v_load_i8(codes + i));
        if (i < n)
            v_store_tail(dst + i, v_load_i8_tail(codes + i, n - i), n - i);
    } else {
        for (; i + RV_LANES <= n; i += RV_LANES)
            v_store(dst + i, v_load_bf16(src + i));
        if (i < n)
            v_store_tail(dst + i, v_load_bf16_tail(src + i, n - i), n - i);
    }
}

static void narrow(rv_dtype to, const void *x, void *y, int64_t n)
{
    const float *src = x;
    uint16_t *dst = y;
    int64_t i = 0;
    if (to == RV_F16) {
        for (; i + RV_LANES <= n; i += RV_LANES)
            v_store_f16(dst + i, v_load(src + i));
        if (i < n)
            v_store_f16_tail(dst + i, v_load_tail(src + i, n - i), n - i);
    } else {
        for (; i + RV_LANES <= n; i += RV_LANES)
            v_store_bf16(dst + i, v_load(src + i));
        if (i < n)
            v_store_bf16_tail(dst + i, v_load_tail(src + i, n - i), n - i);
    }
}
#endif

/* Bytes that loops over rows in memory ask for ahead of their reading. From memory, Zen 5, one thread, hyperbolic distances of float
 * rows of 128: the prefetchers alone 34 GB/s, 4 KiB 39, 8 KiB 44, 16 KiB and more 51. Products with rows of 128 that begin 16 bytes
 * past a line, as NumPy's arrays do, in vectors of 64 bytes: 32 alone, 44, 52, 55; 15 to 30 MB in the last cache 38, 50, 60, 70. */
#define RV_FETCH_AHEAD 16384

/* The distance in whole rows. Rows past the last one are asked for too: a request for any address is harmless. */
RV_INLINE uintptr_t fetch_ahead(int64_t stride)
{
    return (uintptr_t)(RV_FETCH_AHEAD / ((stride < 0 ? -stride : stride) + 1) * stride + stride);
}

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
/* Of every lane of sums: 1 - sums * high is exact. */
RV_INLINE reciprocal reciprocals_of(vreal sums)
{
    vreal high = v_div(v_set1(1), sums);
    reciprocal r = {high, v_mul(high, v_fnma(sums, high, v_set1(1)))};
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
RV_INLINE reciprocal reciprocals_of(vreal sums)
{
    reciprocal r = {sums};
    return r;
}
RV_INLINE vreal over(vreal e, reciprocal r) { return v_div(e, r.sum); }
#endif

/* n elements of any storage as reals: the place itself, or `room` after conversion. */
static const real *as_real(rv_dtype storage, const char *p, int64_t n, real *room)
{
#if RV_REAL_BITS == 32
    if (is_half(storage) || storage == RV_I8) {
        widen(storage, p, room, n);
        return room;
    }
#endif
    (void)storage; (void)n; (void)room;
    return (const real *)p;
}

/* A vector of keys or values of any storage, and n < RV_LANES elements, the rest zero. `type` is a constant where it counts. */
#ifndef RV_HAVE_LOAD_FAR
#define RV_HAVE_LOAD_FAR 0
#define v_load_far v_load
#endif

/* `far`: from the last cache or memory. */
RV_INLINE vreal few_load(const rv_dtype type, const int far, const char *p)
{
#if RV_REAL_BITS == 32
    if (type == RV_F16)
        return v_load_f16((const uint16_t *)p);
    if (type == RV_BF16)
        return v_load_bf16((const uint16_t *)p);
    if (type == RV_I8)
        return v_load_i8((const int8_t *)p);
#endif
    (void)type;
    return far ? v_load_far((const real *)p) : v_load((const real *)p);
}
RV_INLINE vreal few_load_tail(const rv_dtype type, const char *p, int64_t n)
{
#if RV_REAL_BITS == 32
    if (type == RV_F16)
        return v_load_f16_tail((const uint16_t *)p, n);
    if (type == RV_BF16)
        return v_load_bf16_tail((const uint16_t *)p, n);
    if (type == RV_I8)
        return v_load_i8_tail((const int8_t *)p, n);
#endif
    (void)type;
    return v_load_tail((const real *)p, n);
}

/* n < RV_LANES elements, the rest `fill`. */
RV_INLINE vreal v_load_or(const real *p, int64_t n, real fill)
{
    return v_select(v_lt(v_iota(), v_set1((real)n)), v_load_tail(p, n), v_set1(fill));
}

RV_INLINE real v_first(vreal x)
{
    real p[RV_LANES];
    v_store(p, x);
    return p[0];
}

/* The sum of all lanes of a wide vector; four chains, since one of sixteen additions takes longer than a short call. Lanes of
 * doubles are added with what each addition loses: three roundings of a total would be a third of a weight's error. */
RV_INLINE double w_total(const real *p)
{
    double sum[4] = {0, 0, 0, 0}, lost = 0;
    for (int i = 0; i < RV_LANES + 3; i++) {
        double *to = sum + (i < RV_LANES ? i & 3 : 0), x = i < RV_LANES ? w_get(p, i) : sum[i - RV_LANES + 1];
        double s = *to + x;
        if (RV_REAL_BITS == 64) {
            double t = s - *to;
            lost += (*to - (s - t)) + (x - t);
        }
        *to = s;
    }
    return lost == lost ? sum[0] + lost : sum[0];
}

/* The sum of lanes first, first + step ... of a wide vector, with what its additions lose. */
RV_INLINE double w_total_of(const real *p, int first, int step)
{
    double sum = 0, lost = 0;
    for (int i = first; i < RV_LANES; i += step) {
        double x = w_get(p, i), s = sum + x, t = s - sum;
        lost += (sum - (s - t)) + (x - t);
        sum = s;
    }
    return lost == lost ? sum + lost : sum;
}

static int64_t clamp64(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

static int finite_block(const real *x, int64_t stride, int n, int64_t columns)
{
    for (int j = 0; j < n; j++) {
        const real *row = x + j * stride;
        /* x - x is 0 for every finite x and NaN for the rest */
        vreal bad = v_zero();
        int64_t c = 0;
        for (; c + RV_LANES <= columns; c += RV_LANES) {
            vreal y = v_load(row + c);
            bad = v_add(bad, v_sub(y, y));
        }
        if (c < columns) {
            vreal y = v_load_tail(row + c, columns - c);
            bad = v_add(bad, v_sub(y, y));
        }
        if (m_any(v_nan(bad)))
            return 0;
    }
    return 1;
}

/* A copy of n rows in which NaN and inf are zeros. */
static void zero_bad(const real *x, int64_t stride, int n, int64_t columns, real *y)
{
    for (int j = 0; j < n; j++)
        for (int64_t c = 0; c < columns; c++) {
            real v = x[j * stride + c];
            y[j * columns + c] = v - v == 0 ? v : 0;
        }
}

/* True when the mask lets a row see some key of [first, last): tells a row of overflowed scores from one that sees nothing. */
static int mask_sees(const rv_attn_options *o, const char *mask, int64_t first, int64_t last)
{
    for (int64_t j = first; j < last; j++) {
        if (o->mask_kind == RV_MASK_NONE)
            return 1;
        const char *p = mask + j * o->mask_col_bytes;
        if (o->mask_kind == RV_MASK_BOOL ? *p != 0 : *(const real *)p != -INFINITY)
            return 1;
    }
    return 0;
}

/* The same for the window of position `at`. */
static int row_sees(const rv_attn_options *o, int64_t at, const char *mask)
{
    int64_t first = at - o->left > 0 ? at - o->left : 0, last = at + o->right + 1 < o->kv_len ? at + o->right + 1 : o->kv_len;
    return mask_sees(o, mask, first, last);
}

/* log-sum-exp from the integer reference m (base 2) and the sum of weights l. */
static double row_lse(real m, double l)
{
    return l == 0 ? -INFINITY : (double)m * RV_LN2_HI + ((double)m * RV_LN2_LO + rv_log(l));
}

static void store_row(rv_dtype storage, char *dst, const real *src, int64_t n)
{
#if RV_REAL_BITS == 32
    if (is_half(storage)) {
        narrow(storage, src, dst, n);
        return;
    }
#endif
    (void)storage;
    memcpy(dst, src, (size_t)n * sizeof(real));
}
