/* Dot products and elementwise functions. */

enum {
    RV_DOT_CHAIN = 32       /* products a lane sums in one chain; the error grows with dim / (RV_DOT_CHAIN * lanes) */
};

/* Sums of one row as few_dot4 and dots keep them: even and odd vectors apart, chains folded every RV_DOT_CHAIN vectors. From afar, what
 * lies `ahead` bytes from b's elements is asked for. */
RV_INLINE vreal dot_lanes_of(const real *a, const real *b, int64_t n, const rv_reach reach, uintptr_t ahead)
{
    vreal total = v_zero();
    int64_t i = 0;
    do {
        vreal s0 = v_zero(), s1 = v_zero();
        int64_t end = n - i < 2 * RV_DOT_CHAIN * RV_LANES ? n : i + 2 * RV_DOT_CHAIN * RV_LANES;
        for (; i + 2 * RV_LANES <= end; i += 2 * RV_LANES) {
            for (size_t at = 0; reach >= RV_LAST_CACHE && at < 2 * RV_LANES * sizeof(real); at += 64)
                RV_PREFETCH((const void *)((uintptr_t)(b + i) + ahead + at));
            s0 = v_fma(v_load(a + i), reach == RV_MEMORY ? v_load_far(b + i) : v_load(b + i), s0);
            s1 = v_fma(v_load(a + i + RV_LANES), reach == RV_MEMORY ? v_load_far(b + i + RV_LANES) : v_load(b + i + RV_LANES), s1);
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

RV_INLINE vreal dot_lanes(const real *a, const real *b, int64_t n) { return dot_lanes_of(a, b, n, RV_NEAR, 0); }

static double dot(const void *a, const void *b, int64_t n) { return v_sum(dot_lanes(a, b, n)); }

RV_INLINE void dots_one_by_one(const real *q, const char *keys, int64_t stride, int64_t count, int64_t dim, const rv_reach reach,
                               real *out)
{
    const uintptr_t ahead = fetch_ahead(stride);
    for (int64_t i = 0; i < count; i++)
        out[i] = v_sum(dot_lanes_of(q, (const real *)(keys + i * stride), dim, reach, ahead));
}

/* Near rows share the query's loads, four at a time; each row's sums are those of dot_lanes, to the bit. From further away one
 * stream at a time keeps the prefetcher. */
static void dots(const void *query, const void *keys, int64_t key_stride, int64_t count, int64_t dim, rv_reach reach, void *scores)
{
    const real *q = query;
    real *out = scores;
    int64_t i = 0;
    if (reach == RV_NEAR && dim <= 2 * RV_DOT_CHAIN * RV_LANES)
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
    keys = (const char *)keys + i * key_stride;
    if (reach == RV_MEMORY)
        dots_one_by_one(q, keys, key_stride, count - i, dim, RV_MEMORY, out + i);
    else if (reach == RV_LAST_CACHE)
        dots_one_by_one(q, keys, key_stride, count - i, dim, RV_LAST_CACHE, out + i);
    else
        dots_one_by_one(q, keys, key_stride, count - i, dim, RV_SECOND_CACHE, out + i);
}

/* Sums of RV_CROSS_QUERIES x RV_CROSS_KEYS pairs stay in registers, two for each: 24 of 32, or 12 of AVX2's 16. */
enum {
    RV_CROSS_QUERIES = RV_LANES * sizeof(real) == 32 ? 2 : 3,
    RV_CROSS_KEYS = RV_LANES * sizeof(real) == 32 ? 3 : 4,
    RV_CROSS_BYTES = 24 << 10   /* of queries that stay in the first cache while keys pass */
};

RV_INLINE void cross_step(const real *const *q, const real *const *k, int64_t at, vreal (*sum)[RV_CROSS_KEYS], const int queries,
                          const int keys)
{
    vreal y[RV_CROSS_KEYS];
    for (int j = 0; j < keys; j++)
        y[j] = v_load(k[j] + at);
    for (int i = 0; i < queries; i++) {
        vreal x = v_load(q[i] + at);
        for (int j = 0; j < keys; j++)
            sum[i][j] = v_fma(x, y[j], sum[i][j]);
    }
}

/* Each pair's sums are those of dot_lanes, to the bit. queries and keys are constants. */
RV_INLINE void cross_block(const char *queries_at, int64_t query_stride, const char *keys_at, int64_t key_stride, int64_t dim,
                           char *scores, int64_t score_stride, const int queries, const int keys)
{
    const real *q[RV_CROSS_QUERIES], *k[RV_CROSS_KEYS];
    vreal total[RV_CROSS_QUERIES][RV_CROSS_KEYS];
    for (int i = 0; i < queries; i++)
        q[i] = (const real *)(queries_at + i * query_stride);
    for (int j = 0; j < keys; j++)
        k[j] = (const real *)(keys_at + j * key_stride);
    for (int i = 0; i < queries; i++)
        for (int j = 0; j < keys; j++)
            total[i][j] = v_zero();
    int64_t d = 0;
    do {
        vreal s0[RV_CROSS_QUERIES][RV_CROSS_KEYS], s1[RV_CROSS_QUERIES][RV_CROSS_KEYS];
        int64_t end = dim - d < 2 * RV_DOT_CHAIN * RV_LANES ? dim : d + 2 * RV_DOT_CHAIN * RV_LANES;
        for (int i = 0; i < queries; i++)
            for (int j = 0; j < keys; j++)
                s0[i][j] = s1[i][j] = v_zero();
        for (; d + 2 * RV_LANES <= end; d += 2 * RV_LANES) {
            cross_step(q, k, d, s0, queries, keys);
            cross_step(q, k, d + RV_LANES, s1, queries, keys);
        }
        if (d + RV_LANES <= end) {
            cross_step(q, k, d, s0, queries, keys);
            d += RV_LANES;
        }
        if (d < end) {
            for (int i = 0; i < queries; i++)
                for (int j = 0; j < keys; j++)
                    s1[i][j] = v_fma(v_load_tail(q[i] + d, end - d), v_load_tail(k[j] + d, end - d), s1[i][j]);
            d = end;
        }
        for (int i = 0; i < queries; i++)
            for (int j = 0; j < keys; j++)
                total[i][j] = v_add(total[i][j], v_add(s0[i][j], s1[i][j]));
    } while (d < dim);
    for (int i = 0; i < queries; i++) {
        real *out = (real *)(scores + i * score_stride);
        if (keys == 4)
            v_sum4(total[i][0], total[i][1 % RV_CROSS_KEYS], total[i][2 % RV_CROSS_KEYS], total[i][3 % RV_CROSS_KEYS], out);
        else
            for (int j = 0; j < keys; j++)
                out[j] = v_sum(total[i][j]);
    }
}

/* Queries against RV_CROSS_KEYS keys, or one. */
RV_INLINE void cross_keys(const char *queries, int64_t query_stride, int64_t count, const char *keys, int64_t key_stride, int64_t dim,
                          char *scores, int64_t score_stride, const int width)
{
    int64_t i = 0;
    for (; i + RV_CROSS_QUERIES <= count; i += RV_CROSS_QUERIES)
        cross_block(queries + i * query_stride, query_stride, keys, key_stride, dim, scores + i * score_stride, score_stride,
                    RV_CROSS_QUERIES, width);
    for (; i < count; i++)
        cross_block(queries + i * query_stride, query_stride, keys, key_stride, dim, scores + i * score_stride, score_stride, 1, width);
}

static void cross_dots(const void *queries, int64_t query_stride, int64_t query_count, const void *keys, int64_t key_stride,
                       int64_t key_count, int64_t dim, void *scores, int64_t score_stride)
{
    int64_t group = RV_CROSS_BYTES / (int64_t)sizeof(real) / (dim + 1) / RV_CROSS_QUERIES * RV_CROSS_QUERIES;
    group = group < RV_CROSS_QUERIES ? RV_CROSS_QUERIES : group;
    for (int64_t first = 0; first < query_count; first += group) {
        const char *q = (const char *)queries + first * query_stride, *k = keys;
        char *out = (char *)scores + first * score_stride;
        int64_t count = query_count - first < group ? query_count - first : group, i = 0;
        for (; i + RV_CROSS_KEYS <= key_count; i += RV_CROSS_KEYS)
            cross_keys(q, query_stride, count, k + i * key_stride, key_stride, dim, out + i * (int64_t)sizeof(real), score_stride,
                       RV_CROSS_KEYS);
        for (; i < key_count; i++)
            cross_keys(q, query_stride, count, k + i * key_stride, key_stride, dim, out + i * (int64_t)sizeof(real), score_stride, 1);
    }
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
    case RV_MAP_SINPI: RV_MAP_LOOP(v_sinpi);
    case RV_MAP_COSPI: RV_MAP_LOOP(v_cospi);
    case RV_MAP_EXP2_FLUSH: RV_MAP_LOOP(v_exp2_flush);
    default: break;
    }
}
#undef RV_MAP_LOOP

static double map_ulp(rv_map f)
{
    switch (f) {
    case RV_MAP_EXP: return RV_ULP_EXP;
    case RV_MAP_EXP2: return RV_ULP_EXP2;
    case RV_MAP_LOG: return RV_ULP_LOG;
    case RV_MAP_TANH: return RV_ULP_TANH;
    case RV_MAP_ERF: return RV_ULP_ERF;
    case RV_MAP_ASINH: return RV_ULP_ASINH;
    case RV_MAP_SINPI: return RV_ULP_SINPI;
    case RV_MAP_COSPI: return RV_ULP_COSPI;
    case RV_MAP_EXP2_FLUSH: return RV_ULP_EXP2_FLUSH;
    default: return 0;
    }
}
