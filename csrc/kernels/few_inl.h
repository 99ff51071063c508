/* Attention of a few queries that share keys and values: decode, and the heads of a GQA group. Keys are read in one run of
 * RV_FEW_KEYS rows, then values in one run, each row once for all queries and converted as it is loaded. A query's arithmetic
 * does not depend on how many others share the pass. States of key ranges merge exactly but for the rounding of the wide
 * sums, since references are integers. */

enum {
    RV_FEW_QUERIES = RV_TILE_ROWS / 2,  /* queries that share a load: with 4 keys or 4 vectors of columns, half the registers */
    RV_FEW_CHAIN = 16,                  /* products in one chain of the output sum */
    RV_FEW_DOT_CHAIN = 32,              /* products a lane sums in one chain of a score */
    RV_FEW_NEAR = 32                    /* keys that several groups of queries read in turn: they stay in L1 */
};

typedef struct few_room {
    real *m;                /* [rows] */
    real *l;                /* [rows], wide: lane sums, their total is the sum of weights */
    real *wide;             /* [rows][columns], wide */
    real *o;                /* [rows][columns] */
    real *s;                /* [rows][RV_FEW_KEYS] */
    real *q;                /* [rows][dim]: widened queries */
    real *block;            /* [CHAIN][v_dim]: widened values */
    real *finite;           /* [CHAIN][v_dim]: values without NaN and inf */
    unsigned char *hidden;  /* [rows][RV_FEW_KEYS] */
    int64_t columns;        /* v_dim rounded up to lanes */
    size_t state, scratch;  /* bytes */
} few_room;

static int few_can_hide(const rv_attn_options *o) { return o->mask_kind || o->left < RV_FAR || o->right < RV_FAR; }

RV_INLINE few_room few_layout(char *base, char *work, const rv_attn_options *o, int rows)
{
    few_room room;
    size_t at = 0, n = (size_t)rows, hide = few_can_hide(o) ? 1 : 0;
    room.columns = (o->v_dim + RV_LANES - 1) / RV_LANES * RV_LANES;
    size_t columns = (size_t)room.columns;
#define PLACE(field, type, count) room.field = base ? (type *)(base + at) : NULL; at += ((size_t)(count) * sizeof(type) + 63) / 64 * 64
    PLACE(m, real, n);
    PLACE(l, real, 2 * RV_LANES * n);
    PLACE(wide, real, 2 * columns * n);
    room.state = at;
    base = work;
    at = 0;
    PLACE(o, real, columns * n);
    PLACE(s, real, RV_FEW_KEYS * n);
    PLACE(q, real, is_half(o->storage) ? (size_t)o->dim * n : 0);
    PLACE(block, real, hide * RV_FEW_CHAIN * (size_t)o->v_dim);
    PLACE(finite, real, hide * RV_FEW_CHAIN * (size_t)o->v_dim);
    PLACE(hidden, unsigned char, hide * RV_FEW_KEYS * n);
#undef PLACE
    room.scratch = at;
    return room;
}

static size_t few_state(const rv_attn_options *o, int rows) { return few_layout(NULL, NULL, o, rows).state; }

static size_t few_scratch(const rv_attn_options *o, int rows) { return few_layout(NULL, NULL, o, rows).scratch; }

/* What is read `ahead` bytes from now: rows of this run, then of the runs that follow, keys and values by turns. The
 * hardware's prefetcher follows four rows at once badly and stops where a run ends. */
typedef struct few_ahead {
    const char *at;
    int64_t stride, bytes, left;    /* bytes of a row, 0 to fetch nothing; rows left in its run */
    const rv_few *f;
    int64_t block, last;            /* first key of its run's block, and where the keys end */
    int values, far;
} few_ahead;

/* Where a group's rows come from. Groups after the first read what that one has brought near. */
enum { FEW_NEAR = 0, FEW_FAR, FEW_FETCHED };
/* Types whose loads are other ones from afar: 16-bit rows are read in halves anyway. */
#define FEW_HALVES(type) (RV_HAVE_LOAD_FAR && (type) == (RV_REAL_BITS == 32 ? RV_F32 : RV_F64))

static void few_ahead_run(few_ahead *a)
{
    const rv_attn_options *o = a->f->options;
    int64_t count = a->last - a->block < o->block_keys ? a->last - a->block : o->block_keys;
    a->left = count;
    a->bytes = 0;
    if (count <= 0)
        return;
    a->stride = a->values ? a->f->value_stride : a->f->key_stride;
    a->at = (a->values ? a->f->value : a->f->key) + a->block * a->stride;
    a->bytes = (a->values ? o->v_dim : o->dim) * kv_size(o->kv);
}

static few_ahead few_ahead_begin(const rv_few *f, int64_t first, int64_t last)
{
    const rv_attn_options *o = f->options;
    few_ahead a = {NULL, 0, 0, 0, f, first, last, 0, o->far};
    if (o->ahead && first < last) {
        few_ahead_run(&a);
        int64_t rows = (o->ahead / a.bytes + 4) / 4 * 4;
        rows = rows < a.left ? rows : a.left;
        a.at += rows * a.stride;
        a.left -= rows;
    }
    return a;
}

/* Fetches the next 1 <= rows <= 4 rows. Instructions count: they take the place of loads in flight. */
RV_INLINE void few_fetch(few_ahead *a, const int rows)
{
    if (a->bytes == 0)
        return;
    if (a->left < rows) {
        a->block += a->values ? a->f->options->block_keys : 0;
        a->values = !a->values;
        few_ahead_run(a);
        if (a->left < rows)
            return;
    }
    const char *p = a->at, *next = p + rows * a->stride;
    if (a->stride == a->bytes)
        for (; p < next; p += 64)
            RV_PREFETCH(p);
    else
        for (; p != next; p += a->stride)
            for (int64_t b = 0; b < a->bytes; b += 64)
                RV_PREFETCH(p + b);
    a->at = next;
    a->left -= rows;
}

/* Named accumulators, four a query: gcc 12 spills an array of them. */
#define FEW_SUMS(r) vreal a##r = v_zero(), b##r = v_zero(), c##r = v_zero(), e##r = v_zero();

/* s[r][0..3] = q[r] . k0 .. q[r] . k3 for the first `queries` rows. */
RV_INLINE void few_dot4(const rv_dtype type, const int queries, const int reach, const real *const *q, const char *k0, const char *k1,
                        const char *k2, const char *k3, int64_t dim, real *s)
{
    const int64_t size = kv_size(type);
    const real *q0 = q[0], *q1 = queries > 1 ? q[1] : q0, *q2 = queries > 2 ? q[2] : q0, *q3 = queries > 3 ? q[3] : q0;
    int64_t d = 0;
    int again = 0;
#define EACH_QUERY(X) X(0) if (queries > 1) { X(1) } if (queries > 2) { X(2) X(3) }
#define STEP(r) { \
    vreal y = LOAD_QUERY(q##r + d); \
    a##r = v_fma(y, x0, a##r); \
    b##r = v_fma(y, x1, b##r); \
    c##r = v_fma(y, x2, c##r); \
    e##r = v_fma(y, x3, e##r); }
#define SUM(r) { \
    real sum[4], *to = s + r * RV_FEW_KEYS; \
    if (again) { \
        v_sum4(a##r, b##r, c##r, e##r, sum); \
        for (int i = 0; i < 4; i++) \
            to[i] += sum[i]; \
    } else { \
        v_sum4(a##r, b##r, c##r, e##r, to); \
    } }
    do {
        FEW_SUMS(0) FEW_SUMS(1) FEW_SUMS(2) FEW_SUMS(3)
        int64_t end = dim - d < RV_FEW_DOT_CHAIN * RV_LANES ? dim : d + RV_FEW_DOT_CHAIN * RV_LANES;
#define LOAD_QUERY(p) v_load(p)
        for (; d + RV_LANES <= end; d += RV_LANES) {
            int64_t at = d * size;
            vreal x0 = few_load(type, reach != FEW_NEAR, k0 + at), x1 = few_load(type, reach != FEW_NEAR, k1 + at);
            vreal x2 = few_load(type, reach != FEW_NEAR, k2 + at), x3 = few_load(type, reach != FEW_NEAR, k3 + at);
            EACH_QUERY(STEP)
        }
#undef LOAD_QUERY
#define LOAD_QUERY(p) v_load_tail(p, end - d)
        if (d < end) {
            int64_t at = d * size, n = end - d;
            vreal x0 = few_load_tail(type, k0 + at, n), x1 = few_load_tail(type, k1 + at, n);
            vreal x2 = few_load_tail(type, k2 + at, n), x3 = few_load_tail(type, k3 + at, n);
            EACH_QUERY(STEP)
            d = end;
        }
#undef LOAD_QUERY
        EACH_QUERY(SUM)
        again = 1;
    } while (d < dim);
#undef EACH_QUERY
#undef STEP
#undef SUM
}

RV_INLINE void few_scores_of(const rv_dtype type, const int queries, const int reach, const real *const *q, const char *keys,
                             int64_t stride, int n, int64_t dim, real *s, few_ahead *ahead)
{
    for (int j = 0; j < n; j += 4, keys += 4 * stride) {
        const char *k0 = keys, *k1 = k0 + stride, *k2 = k1 + stride, *k3 = k2 + stride;
        if (n - j < 4) {
            k3 = k0;
            k2 = n - j < 3 ? k0 : k2;
            k1 = n - j < 2 ? k0 : k1;
        }
        if (reach == FEW_FETCHED)
            few_fetch(ahead, 4);
        few_dot4(type, queries, reach, q, k0, k1, k2, k3, dim, s + j);
    }
}

#if RV_REAL_BITS == 32
#define EACH_STORAGE(X) X(RV_F32) X(RV_F16) X(RV_BF16) X(RV_I8)
#else
#define EACH_STORAGE(X) X(RV_F64)
#endif

/* Queries of one group out of `rows` that remain. */
static int few_group(int rows) { return rows >= RV_FEW_QUERIES ? RV_FEW_QUERIES : rows >= 2 ? 2 : 1; }

static void few_scores_group(rv_dtype type, int queries, const real *const *q, const char *keys, int64_t stride, int n,
                             int64_t dim, real *s, few_ahead *ahead)
{
#define GROUP(type, reach) \
    if (queries == RV_FEW_QUERIES) few_scores_of(type, RV_FEW_QUERIES, reach, q, keys, stride, n, dim, s, ahead); \
    else if (RV_FEW_QUERIES > 2 && queries == 2) few_scores_of(type, 2, reach, q, keys, stride, n, dim, s, ahead); \
    else few_scores_of(type, 1, reach, q, keys, stride, n, dim, s, ahead);
#define CASE(type) case type: \
    if (ahead->bytes) { GROUP(type, FEW_FETCHED) } \
    else if (FEW_HALVES(type) && ahead->far) { GROUP(type, FEW_FAR) } \
    else { GROUP(type, FEW_NEAR) } \
    break;
    switch (type) {
    EACH_STORAGE(CASE)
    default: break;
    }
#undef CASE
#undef GROUP
}

/* Products of every row with keys [j0, j0 + n), j0 counted from the first row of keys. */
static void few_scores(const rv_few *f, const few_room *room, const real *const *query, int64_t j0, int n, few_ahead *ahead)
{
    few_ahead none;
    none.bytes = none.far = 0;
    const char *keys = f->key + j0 * f->key_stride;
    int step = f->rows == few_group(f->rows) ? n : RV_FEW_NEAR;
    for (int j = 0; j < n; j += step)
        for (int r = 0, group; r < f->rows; r += group) {
            group = few_group(f->rows - r);
            few_scores_group(f->options->kv, group, query + r, keys + j * f->key_stride, f->key_stride, n - j < step ? n - j : step,
                             f->options->dim, room->s + r * RV_FEW_KEYS + j, r == 0 ? ahead : &none);
        }
}

/* s[j] *= factors[j] */
static void few_multiply(real *s, const float *factors, int n)
{
#if RV_REAL_BITS == 32
    for (int j = 0; j < n; j += RV_LANES) {
        int count = n - j < RV_LANES ? n - j : RV_LANES;
        v_store_tail(s + j, v_mul(v_load_tail(s + j, count), v_load_tail(factors + j, count)), count);
    }
#else
    (void)s; (void)factors; (void)n;
#endif
}

/* Scores of row r for keys [j0, j0 + n) to base-2 logits with hidden ones at -inf; returns nonzero when some are hidden. */
static int few_logits(const rv_few *f, real *s, int r, int64_t j0, int n, int transform)
{
    const rv_attn_options *o = f->options;
    const rv_few_row *row = f->row + r;
    if (transform) {
        const vreal scale = v_set1((real)(o->softcap != 0 ? o->scale / o->softcap : o->scale * RV_LOG2E));
        const vreal cap = v_set1((real)(o->softcap * RV_LOG2E)), slope = v_set1((real)(row->slope * RV_LOG2E));
        for (int j = 0; j < n; j += RV_LANES) {
            int count = n - j < RV_LANES ? n - j : RV_LANES;
            vreal x = v_mul(v_load_tail(s + j, count), scale);
            if (o->softcap != 0)
                x = v_mul(v_tanh(x), cap);
            if (row->slope != 0) {
                vreal away = v_sub(v_set1((real)(row->position - (j0 + j))), v_iota());
                x = v_fnma(v_abs(away), slope, x);
            }
            v_store_tail(s + j, x, count);
        }
    }
    int hidden = 0;
    int from = (int)clamp64(row->position - o->left - j0, 0, n), to = (int)clamp64(row->position + o->right + 1 - j0, 0, n);
    if (from > 0 || to < n) {
        hidden = 1;
        for (int j = 0; j < from; j++)
            s[j] = -INFINITY;
        for (int j = to; j < n; j++)
            s[j] = -INFINITY;
    }
    if (o->mask_kind != RV_MASK_NONE) {
        const char *p = row->mask + j0 * o->mask_col_bytes;
        hidden = 1;
        if (o->mask_kind == RV_MASK_BOOL) {
            for (int j = 0; j < n; j++)
                s[j] = p[j * o->mask_col_bytes] ? s[j] : -INFINITY;
        } else {
            for (int j = from; j < to; j++) {
                real b = *(const real *)(p + j * o->mask_col_bytes);
                real base2 = b * (real)RV_LOG2E;
                /* the most negative finite numbers stay finite, so that they hide nothing */
                s[j] = b == -INFINITY ? b : s[j] + (base2 < RV_LOWEST ? RV_LOWEST : base2);
            }
        }
    }
    return hidden;
}

/* Weights in place of the n logits of row r and their sum, lane by lane; o and wide follow when the reference grows. */
static void few_weights(const few_room *room, int r, int n, real c)
{
    real *s = room->s + r * RV_FEW_KEYS;
    int j = 0, whole = n / RV_LANES * RV_LANES;
    vreal rest = v_load_or(s + whole, n - whole, -INFINITY), top = rest, top1 = rest, top2 = rest, top3 = rest;
    for (; j + 4 * RV_LANES <= whole; j += 4 * RV_LANES) {
        top = v_max(v_load(s + j), top);
        top1 = v_max(v_load(s + j + RV_LANES), top1);
        top2 = v_max(v_load(s + j + 2 * RV_LANES), top2);
        top3 = v_max(v_load(s + j + 3 * RV_LANES), top3);
    }
    for (; j < whole; j += RV_LANES)
        top = v_max(v_load(s + j), top);
    real old = room->m[r], most = v_hmax(v_max(v_max(top, top1), v_max(top2, top3))) * c;
    vreal next = v_max(v_ceil(v_set1(most)), v_set1(old));
    real *l = room->l + 2 * RV_LANES * r;
    if (old < most) {
        vreal factor = v_exp2_flush(v_sub(v_set1(old), next));
        room->m[r] = v_first(next);
        if (old != RV_LOWEST) {
            w_scale(l, factor);
            for (int64_t i = 0; i < room->columns; i += RV_LANES)
                w_scale(room->wide + 2 * (r * room->columns + i), factor);
        }
    }
    vreal vc = v_set1(c), m = next, sum = v_zero(), sum1 = v_zero();
    for (j = 0; j + 2 * RV_LANES <= whole; j += 2 * RV_LANES) {
        vreal p = v_exp2_flush(v_sub(v_mul(v_load(s + j), vc), m));
        vreal p1 = v_exp2_flush(v_sub(v_mul(v_load(s + j + RV_LANES), vc), m));
        v_store(s + j, p);
        v_store(s + j + RV_LANES, p1);
        sum = v_add(sum, p);
        sum1 = v_add(sum1, p1);
        if ((j / RV_LANES & 31) == 30) {
            w_add(l, v_add(sum, sum1));
            sum = sum1 = v_zero();
        }
    }
    if (j < whole) {
        vreal p = v_exp2_flush(v_sub(v_mul(v_load(s + j), vc), m));
        v_store(s + j, p);
        sum = v_add(sum, p);
    }
    if (whole < n) {
        vreal p = v_exp2_flush(v_sub(v_mul(rest, vc), m));
        v_store_tail(s + whole, p, n - whole);
        /* the chain that this vector would join in a longer run: keys appended behind a mask change no bit */
        if (whole / RV_LANES & 1)
            sum1 = v_add(sum1, p);
        else
            sum = v_add(sum, p);
    }
    w_add(l, v_add(sum, sum1));
}

/* o[r] += p[r] x values for n keys, a chain of RV_FEW_CHAIN at a time; columns in groups of as many vectors as there are
 * registers for. */
RV_INLINE void few_values_of(const rv_dtype type, const int queries, const int reach, real *o, int64_t columns, const real *p,
                             const char *values, int64_t stride, int n, int64_t v_dim, few_ahead *ahead)
{
    const int64_t size = kv_size(type), lanes = RV_LANES * size;
#define EACH_QUERY(X) X(0) if (queries > 1) { X(1) } if (queries > 2) { X(2) X(3) }
#define ADD(to, x) { real *at = o + (to) + c; v_store(at, v_add(v_load(at), x)); }
    for (int j = 0; j < n; j += RV_FEW_CHAIN, values += RV_FEW_CHAIN * stride, p += RV_FEW_CHAIN) {
        const real *end = p + (n - j < RV_FEW_CHAIN ? n - j : RV_FEW_CHAIN);
        int64_t c = 0;
        while (c < v_dim) {
            const char *v = values + c * size;
            int64_t left = v_dim - c;
            FEW_SUMS(0) FEW_SUMS(1) FEW_SUMS(2) FEW_SUMS(3)
            if (left < 4 * RV_LANES) {
                const int64_t width = left < RV_LANES ? left : RV_LANES;
#define STEP(r) a##r = v_fma(v_set1(w[r * RV_FEW_KEYS]), x, a##r);
#define STORE(r) ADD(r * columns, a##r)
                for (const real *w = p; w != end; w++, v += stride) {
                    if (reach == FEW_FETCHED && c == 0)
                        few_fetch(ahead, 1);
                    vreal x = width == RV_LANES ? few_load(type, reach != FEW_NEAR, v) : few_load_tail(type, v, width);
                    EACH_QUERY(STEP)
                }
                EACH_QUERY(STORE)
#undef STEP
#undef STORE
                c += width;
            } else if (queries == 1 && left >= 8 * RV_LANES) {
                for (const real *w = p; w != end; w++, v += stride) {
                    if (reach == FEW_FETCHED && c == 0)
                        few_fetch(ahead, 1);
                    vreal y = v_set1(*w);
                    a0 = v_fma(y, few_load(type, reach != FEW_NEAR, v), a0);
                    b0 = v_fma(y, few_load(type, reach != FEW_NEAR, v + lanes), b0);
                    c0 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 2 * lanes), c0);
                    e0 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 3 * lanes), e0);
                    a1 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 4 * lanes), a1);
                    b1 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 5 * lanes), b1);
                    c1 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 6 * lanes), c1);
                    e1 = v_fma(y, few_load(type, reach != FEW_NEAR, v + 7 * lanes), e1);
                }
                ADD(0, a0) ADD(RV_LANES, b0) ADD(2 * RV_LANES, c0) ADD(3 * RV_LANES, e0)
                ADD(4 * RV_LANES, a1) ADD(5 * RV_LANES, b1) ADD(6 * RV_LANES, c1) ADD(7 * RV_LANES, e1)
                c += 8 * RV_LANES;
            } else {
#define STEP(r) { \
    vreal y = v_set1(w[r * RV_FEW_KEYS]); \
    a##r = v_fma(y, x0, a##r); \
    b##r = v_fma(y, x1, b##r); \
    c##r = v_fma(y, x2, c##r); \
    e##r = v_fma(y, x3, e##r); }
#define STORE(r) \
    ADD(r * columns, a##r) ADD(r * columns + RV_LANES, b##r) \
    ADD(r * columns + 2 * RV_LANES, c##r) ADD(r * columns + 3 * RV_LANES, e##r)
                for (const real *w = p; w != end; w++, v += stride) {
                    if (reach == FEW_FETCHED && c == 0)
                        few_fetch(ahead, 1);
                    vreal x0 = few_load(type, reach != FEW_NEAR, v), x1 = few_load(type, reach != FEW_NEAR, v + lanes);
                    vreal x2 = few_load(type, reach != FEW_NEAR, v + 2 * lanes), x3 = few_load(type, reach != FEW_NEAR, v + 3 * lanes);
                    EACH_QUERY(STEP)
                }
                EACH_QUERY(STORE)
#undef STEP
#undef STORE
                c += 4 * RV_LANES;
            }
        }
    }
#undef EACH_QUERY
#undef ADD
}

static void few_values_group(rv_dtype type, int queries, real *o, int64_t columns, const real *p, const char *values,
                             int64_t stride, int n, int64_t v_dim, few_ahead *ahead)
{
#define GROUP(type, reach) \
    if (queries == RV_FEW_QUERIES) few_values_of(type, RV_FEW_QUERIES, reach, o, columns, p, values, stride, n, v_dim, ahead); \
    else if (RV_FEW_QUERIES > 2 && queries == 2) few_values_of(type, 2, reach, o, columns, p, values, stride, n, v_dim, ahead); \
    else few_values_of(type, 1, reach, o, columns, p, values, stride, n, v_dim, ahead);
#define CASE(type) case type: \
    if (ahead->bytes) { GROUP(type, FEW_FETCHED) } \
    else if (FEW_HALVES(type) && ahead->far) { GROUP(type, FEW_FAR) } \
    else { GROUP(type, FEW_NEAR) } \
    break;
    switch (type) {
    EACH_STORAGE(CASE)
    default: break;
    }
#undef CASE
#undef GROUP
}

/* o += weights x values for n keys, whose weights start at s[r][j]. */
static void few_values(const rv_few *f, const few_room *room, rv_dtype type, const char *values, int64_t stride, int j, int n,
                       few_ahead *ahead)
{
    few_ahead none;
    none.bytes = none.far = 0;
    for (int r = 0, group; r < f->rows; r += group) {
        group = few_group(f->rows - r);
        few_values_group(type, group, room->o + r * room->columns, room->columns, room->s + r * RV_FEW_KEYS + j, values, stride, n,
                         f->options->v_dim, r == 0 ? ahead : &none);
    }
}

/* After o took the weights times the finite values: adds what bad values bring where their key is seen. */
static void few_bad_values(const few_room *room, int r, const real *p, const unsigned char *hidden, const real *values,
                           int64_t stride, int n, int64_t v_dim)
{
    real *o = room->o + r * room->columns;
    for (int j = 0; j < n; j++)
        for (int64_t c = 0; c < v_dim; c++) {
            real x = values[j * stride + c];
            if (!(x - x == 0) && !hidden[j])
                o[c] += p[j] * x;
        }
}

static void few_flush(const rv_few *f, const few_room *room)
{
    for (int64_t i = 0; i < f->rows * room->columns; i += RV_LANES) {
        w_add(room->wide + 2 * i, v_load(room->o + i));
        v_store(room->o + i, v_zero());
    }
}

/* The values of n <= RV_FEW_CHAIN keys of which some are hidden: those must leave no trace, whatever they hold. */
static void few_hiding_values(const rv_few *f, const few_room *room, const char *values, int j, int n, few_ahead *ahead)
{
    const rv_attn_options *o = f->options;
    const real *rows = (const real *)values;
    int64_t stride = f->value_stride / (int64_t)sizeof(real);
    if (kv_size(o->kv) != (int64_t)sizeof(real)) {
        for (int i = 0; i < n; i++)
            as_real(o->kv, values + i * f->value_stride, o->v_dim, room->block + i * o->v_dim);
        rows = room->block;
        stride = o->v_dim;
    }
    if (finite_block(rows, stride, n, o->v_dim)) {
        few_values(f, room, o->kv, values, f->value_stride, j, n, ahead);
        return;
    }
    /* products with zeros in the place of bad values have the bits of any finite values */
    zero_bad(rows, stride, n, o->v_dim, room->finite);
    few_values(f, room, RV_REAL_BITS == 32 ? RV_F32 : RV_F64, (const char *)room->finite, o->v_dim * (int64_t)sizeof(real), j, n,
               ahead);
    for (int r = 0; r < f->rows; r++)
        few_bad_values(room, r, room->s + r * RV_FEW_KEYS + j, room->hidden + r * RV_FEW_KEYS + j, rows, stride, n, o->v_dim);
}

/* The partial state of keys [first, last). */
static void few_keys(rv_few *f, int64_t first, int64_t last)
{
    const rv_attn_options *o = f->options;
    few_room room = few_layout(f->state, f->scratch, o, f->rows);
    few_ahead ahead = few_ahead_begin(f, first, last);
    const int can_hide = few_can_hide(o);
    const real *query[RV_FEW_ROWS];
    int sloped = 0;
    for (int r = 0; r < f->rows; r++) {
        query[r] = as_real(o->storage, f->row[r].query, o->dim, room.q + r * o->dim);
        sloped |= f->row[r].slope != 0;
        room.m[r] = RV_LOWEST;
        w_zero(room.l + 2 * RV_LANES * r);
    }
    for (int64_t i = 0; i < f->rows * room.columns; i += RV_LANES) {
        w_zero(room.wide + 2 * i);
        v_store(room.o + i, v_zero());
    }
    const int transform = o->softcap != 0 || sloped || o->mask_kind == RV_MASK_FLOAT || !(o->scale > 0);
    const real c = transform ? 1 : (real)(o->scale * RV_LOG2E);
    for (int64_t j0 = first; j0 < last; j0 += o->block_keys) {
        int n = (int)(last - j0 < o->block_keys ? last - j0 : o->block_keys);
        int hiding = 0;
        few_scores(f, &room, query, j0, n, &ahead);
        for (int r = 0; r < f->rows; r++) {
            real *s = room.s + r * RV_FEW_KEYS;
            if (o->kv == RV_I8)
                few_multiply(s, f->key_scale + j0, n);
            if (few_logits(f, s, r, j0, n, transform)) {
                hiding = 1;
                for (int j = 0; j < n; j++)
                    room.hidden[r * RV_FEW_KEYS + j] = s[j] == -INFINITY;
            } else if (can_hide) {
                for (int j = 0; j < n; j++)
                    room.hidden[r * RV_FEW_KEYS + j] = 0;
            }
            few_weights(&room, r, n, c);
            if (o->dropout_below) {
                uint64_t key = rv_draw_row(o->dropout_seed, f->row[r].draw_row);
                for (int j = 0; j < n; j++)
                    if (rv_draw(key, j0 + j) < o->dropout_below)
                        s[j] = 0;
            }
            if (o->kv == RV_I8)
                few_multiply(s, f->value_scale + j0, n);
        }
        hiding &= o->kv != RV_I8;
        int step = hiding || f->rows != few_group(f->rows) ? RV_FEW_CHAIN : RV_CARRY_KEYS;
        for (int j = 0; j < n; j += step) {
            int count = n - j < step ? n - j : step;
            const char *values = f->value + (j0 + j) * f->value_stride;
            if (hiding)
                few_hiding_values(f, &room, values, j, count, &ahead);
            else
                few_values(f, &room, o->kv, values, f->value_stride, j, count, &ahead);
            if ((j + step) % RV_CARRY_KEYS == 0)
                few_flush(f, &room);
        }
        few_flush(f, &room);
    }
}

/* f += g, the state of a later range of the same rows. */
static void few_merge(rv_few *f, const rv_few *g)
{
    few_room to = few_layout(f->state, NULL, f->options, f->rows);
    few_room from = few_layout(g->state, NULL, g->options, g->rows);
    for (int r = 0; r < f->rows; r++) {
        vreal m = v_set1(to.m[r]), n = v_set1(from.m[r]), top = v_max(m, n);
        vreal keep = v_exp2_flush(v_sub(m, top)), take = v_exp2_flush(v_sub(n, top));
        to.m[r] = to.m[r] > from.m[r] ? to.m[r] : from.m[r];
        w_scale(to.l + 2 * RV_LANES * r, keep);
        w_scale(from.l + 2 * RV_LANES * r, take);
        w_merge(to.l + 2 * RV_LANES * r, from.l + 2 * RV_LANES * r);
        for (int64_t i = 0; i < to.columns; i += RV_LANES) {
            real *p = to.wide + 2 * (r * to.columns + i), *q = from.wide + 2 * (r * to.columns + i);
            w_scale(p, keep);
            w_scale(q, take);
            w_merge(p, q);
        }
    }
}

static void few_finish(rv_few *f)
{
    const rv_attn_options *o = f->options;
    few_room room = few_layout(f->state, f->scratch, o, f->rows);
    for (int r = 0; r < f->rows; r++) {
        const rv_few_row *row = f->row + r;
        double sum = w_total(room.l + 2 * RV_LANES * r);
        int overflowed = sum == 0 && row_sees(o, row->position, row->mask);
        int direct = !is_half(o->storage);
        const real *wide = room.wide + 2 * r * room.columns;
        real *out = direct ? (real *)row->out : room.o + r * room.columns;
#if RV_REAL_BITS == 32
        /* a product of doubles is off by less than 2^-51, which moves no float but the nearest of ties */
        const double inverse = (o->dropout_below ? o->dropout_gain : 1) / sum;
#else
        const vreal gain = v_set1(o->dropout_below ? o->dropout_gain : 1);
        real total[2 * RV_LANES];
        w_set1(total, sum);
#endif
        for (int64_t i = 0; i < o->v_dim; i += RV_LANES) {
#if RV_REAL_BITS == 32
            vreal x = w_times(wide + 2 * i, inverse);
#else
            vreal x = v_mul(w_quotient(wide + 2 * i, total), gain);
#endif
            if (sum == 0)
                x = v_set1(overflowed ? NAN : 0);
            if (o->v_dim - i >= RV_LANES)
                v_store(out + i, x);
            else
                v_store_tail(out + i, x, o->v_dim - i);
        }
        if (row->lse)
            *row->lse = overflowed ? NAN : row_lse(room.m[r], sum);
        if (!direct)
            store_row(o->storage, row->out, out, o->v_dim);
    }
}

static size_t weights_scratch(const rv_attn_options *o, int rows)
{
    return few_scratch(o, rows) + (size_t)o->kv_len * sizeof(real) + 64;
}

/* n base-2 logits times c to weights in place: exp2 of the difference to the largest, over the sum. A row that sees nothing
 * is zeros. */
static void weights_row(real *s, int64_t n, real c, int sees)
{
    int64_t j = 0, whole = n / RV_LANES * RV_LANES;
    vreal vc = v_set1(c), rest = v_load_or(s + whole, n - whole, -INFINITY), top = rest;
    real wide[2 * RV_LANES];
    for (; j < whole; j += RV_LANES)
        top = v_max(v_load(s + j), top);
    real most = v_hmax(top);
    if (most == -INFINITY && !sees) {
        memset(s, 0, (size_t)n * sizeof(real));
        return;
    }
    vreal m = v_mul(v_set1(most), vc);
    w_zero(wide);
    for (j = 0; j < whole; j += RV_LANES) {
        vreal p = v_exp2(v_sub(v_mul(v_load(s + j), vc), m));
        v_store(s + j, p);
        w_add(wide, p);
    }
    if (j < n) {
        vreal p = v_exp2(v_sub(v_mul(rest, vc), m));
        v_store_tail(s + j, p, n - j);
        w_add(wide, p);
    }
    double sum = w_total(wide);
    reciprocal total = reciprocal_of(sum);
    for (j = 0; j < whole; j += RV_LANES)
        v_store(s + j, over(v_load(s + j), total));
    if (j < n)
        v_store_tail(s + j, over(v_load_tail(s + j, n - j), total), n - j);
}

static void weights(rv_few *f)
{
    const rv_attn_options *o = f->options;
    rv_few one = *f;
    one.rows = 1;
    for (int r = 0; r < f->rows; r++) {
        one.row[0] = f->row[r];
        few_room room = few_layout(NULL, f->scratch, o, 1);
        few_ahead ahead = few_ahead_begin(&one, 0, 0);
        real *row = (real *)(f->scratch + (room.scratch + 63) / 64 * 64);
        const real *query = as_real(o->storage, one.row[0].query, o->dim, room.q);
        const int transform = o->softcap != 0 || one.row[0].slope != 0 || o->mask_kind == RV_MASK_FLOAT || !(o->scale > 0);
        for (int64_t j0 = 0; j0 < o->kv_len; j0 += RV_FEW_KEYS) {
            int n = (int)(o->kv_len - j0 < RV_FEW_KEYS ? o->kv_len - j0 : RV_FEW_KEYS);
            few_scores(&one, &room, &query, j0, n, &ahead);
            few_logits(&one, room.s, 0, j0, n, transform);
            memcpy(row + j0, room.s, (size_t)n * sizeof(real));
        }
        weights_row(row, o->kv_len, transform ? 1 : (real)(o->scale * RV_LOG2E), row_sees(o, one.row[0].position, one.row[0].mask));
        store_row(o->storage, one.row[0].out, row, o->kv_len);
    }
}
