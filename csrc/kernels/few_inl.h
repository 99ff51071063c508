/* Attention of a few queries that share keys and values: decode, and the heads of a GQA group. Keys are read in one run of
 * RV_FEW_KEYS rows, then values in one run, each row once for all queries: two interleaved streams lose the prefetcher.
 * A query's arithmetic does not depend on how many others share the pass. States of key ranges merge exactly but for the
 * rounding of the wide sums, since references are integers. */

enum {
    RV_FEW_BLOCK = 64,      /* rows widened at a time for 16-bit storage */
    RV_FEW_CHAIN = 16,      /* products in one chain of the output sum */
    RV_FEW_DOT_CHAIN = 32   /* products a lane sums in one chain of a score */
};

typedef struct few_room {
    real *m;                /* [rows] */
    real *l;                /* [rows], wide: lane sums, their total is the sum of weights */
    real *wide;             /* [rows][columns], wide */
    real *o;                /* [rows][columns] */
    real *s;                /* [rows][RV_FEW_KEYS] */
    real *q;                /* [rows][dim]: widened queries */
    real *block;            /* [BLOCK][max(dim, v_dim)] */
    real *finite;           /* [CHAIN][v_dim]: values without NaN and inf */
    unsigned char *hidden;  /* [rows][RV_FEW_KEYS] */
    int64_t columns;        /* v_dim rounded up to lanes */
    size_t state, scratch;  /* bytes */
} few_room;

static int few_can_hide(const rv_attn_options *o) { return o->mask_kind || o->left < RV_FAR || o->right < RV_FAR; }

RV_INLINE few_room few_layout(char *base, char *work, const rv_attn_options *o, int rows)
{
    few_room room;
    size_t at = 0, n = (size_t)rows, wider = (size_t)(o->dim > o->v_dim ? o->dim : o->v_dim);
    size_t half = is_half(o->storage) ? 1 : 0;
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
    PLACE(q, real, half * (size_t)o->dim * n);
    PLACE(block, real, half * wider * RV_FEW_BLOCK);
    PLACE(finite, real, few_can_hide(o) ? RV_FEW_CHAIN * (size_t)o->v_dim : 0);
    PLACE(hidden, unsigned char, few_can_hide(o) ? RV_FEW_KEYS * n : 0);
#undef PLACE
    room.scratch = at;
    return room;
}

static size_t few_state(const rv_attn_options *o, int rows) { return few_layout(NULL, NULL, o, rows).state; }

static size_t few_scratch(const rv_attn_options *o, int rows) { return few_layout(NULL, NULL, o, rows).scratch; }

/* s[0..3] = q . k0 .. q . k3 */
RV_INLINE void few_dot4(const real *q, const real *k0, const real *k1, const real *k2, const real *k3, int64_t dim, real *s)
{
    vreal t0 = v_zero(), t1 = v_zero(), t2 = v_zero(), t3 = v_zero();
    int64_t d = 0;
    do {
        vreal a0 = v_zero(), a1 = v_zero(), a2 = v_zero(), a3 = v_zero();
        int64_t end = dim - d < RV_FEW_DOT_CHAIN * RV_LANES ? dim : d + RV_FEW_DOT_CHAIN * RV_LANES;
        for (; d + RV_LANES <= end; d += RV_LANES) {
            vreal x = v_load(q + d);
            a0 = v_fma(x, v_load(k0 + d), a0);
            a1 = v_fma(x, v_load(k1 + d), a1);
            a2 = v_fma(x, v_load(k2 + d), a2);
            a3 = v_fma(x, v_load(k3 + d), a3);
        }
        if (d < end) {
            vreal x = v_load_tail(q + d, end - d);
            a0 = v_fma(x, v_load_tail(k0 + d, end - d), a0);
            a1 = v_fma(x, v_load_tail(k1 + d, end - d), a1);
            a2 = v_fma(x, v_load_tail(k2 + d, end - d), a2);
            a3 = v_fma(x, v_load_tail(k3 + d, end - d), a3);
            d = end;
        }
        t0 = v_add(t0, a0);
        t1 = v_add(t1, a1);
        t2 = v_add(t2, a2);
        t3 = v_add(t3, a3);
    } while (d < dim);
    v_sum4(t0, t1, t2, t3, s);
}

static void few_scores(const rv_few *f, const few_room *room, const real *const *query, const real *keys, int64_t stride,
                       int n, int at)
{
    int64_t dim = f->options->dim;
    for (int j = 0; j < n; j += 4) {
        const real *k0 = keys + j * stride;
        const real *k1 = j + 1 < n ? k0 + stride : k0, *k2 = j + 2 < n ? k1 + stride : k0, *k3 = j + 3 < n ? k2 + stride : k0;
        for (int r = 0; r < f->rows; r++)
            few_dot4(query[r], k0, k1, k2, k3, dim, room->s + r * RV_FEW_KEYS + at + j);
    }
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
    vreal rest = v_load_or(s + whole, n - whole, -INFINITY), top = rest;
    for (; j < whole; j += RV_LANES)
        top = v_max(v_load(s + j), top);
    real old = room->m[r], most = v_hmax(top) * c;
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

/* o += p x values for n keys of one row; columns in groups of four vectors. */
static void few_values(const few_room *room, int r, const real *p, const real *values, int64_t stride, int n, int64_t v_dim)
{
    real *o = room->o + r * room->columns;
    int64_t c = 0;
    for (; c + 4 * RV_LANES <= v_dim; c += 4 * RV_LANES) {
        const real *v = values + c;
        vreal a0 = v_zero(), a1 = v_zero(), a2 = v_zero(), a3 = v_zero();
        for (int j = 0; j < n; j++, v += stride) {
            vreal x = v_set1(p[j]);
            a0 = v_fma(x, v_load(v), a0);
            a1 = v_fma(x, v_load(v + RV_LANES), a1);
            a2 = v_fma(x, v_load(v + 2 * RV_LANES), a2);
            a3 = v_fma(x, v_load(v + 3 * RV_LANES), a3);
        }
        v_store(o + c, v_add(v_load(o + c), a0));
        v_store(o + c + RV_LANES, v_add(v_load(o + c + RV_LANES), a1));
        v_store(o + c + 2 * RV_LANES, v_add(v_load(o + c + 2 * RV_LANES), a2));
        v_store(o + c + 3 * RV_LANES, v_add(v_load(o + c + 3 * RV_LANES), a3));
    }
    for (; c < v_dim; c += RV_LANES) {
        int64_t count = v_dim - c < RV_LANES ? v_dim - c : RV_LANES;
        const real *v = values + c;
        vreal a0 = v_zero();
        for (int j = 0; j < n; j++, v += stride)
            a0 = v_fma(v_set1(p[j]), count == RV_LANES ? v_load(v) : v_load_tail(v, count), a0);
        v_store(o + c, v_add(v_load(o + c), a0));
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

/* The partial state of keys [first, last). */
static void few_keys(rv_few *f, int64_t first, int64_t last)
{
    const rv_attn_options *o = f->options;
    few_room room = few_layout(f->state, f->scratch, o, f->rows);
    const int half = is_half(o->storage), can_hide = few_can_hide(o);
    const int64_t size = storage_size(o->storage), v_dim = o->v_dim;
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
        if (half) {
            for (int j = 0; j < n; j += RV_FEW_BLOCK) {
                int count = n - j < RV_FEW_BLOCK ? n - j : RV_FEW_BLOCK;
                for (int i = 0; i < count; i++)
                    as_real(o->storage, f->key + (j0 + j + i) * f->key_stride * size, o->dim, room.block + i * o->dim);
                few_scores(f, &room, query, room.block, o->dim, count, j);
            }
        } else {
            few_scores(f, &room, query, (const real *)(f->key + j0 * f->key_stride * size), f->key_stride, n, 0);
        }
        for (int r = 0; r < f->rows; r++) {
            real *s = room.s + r * RV_FEW_KEYS;
            if (few_logits(f, s, r, j0, n, transform)) {
                hiding = 1;
                for (int j = 0; j < n; j++)
                    room.hidden[r * RV_FEW_KEYS + j] = s[j] == -INFINITY;
            } else if (can_hide) {
                memset(room.hidden + r * RV_FEW_KEYS, 0, (size_t)n);
            }
            few_weights(&room, r, n, c);
            if (o->dropout_below) {
                uint64_t key = rv_draw_row(o->dropout_seed, f->row[r].draw_row);
                for (int j = 0; j < n; j++)
                    if (rv_draw(key, j0 + j) < o->dropout_below)
                        s[j] = 0;
            }
        }
        for (int j = 0; j < n; j += RV_FEW_CHAIN) {
            int count = n - j < RV_FEW_CHAIN ? n - j : RV_FEW_CHAIN;
            const real *values = (const real *)(f->value + (j0 + j) * f->value_stride * size);
            int64_t stride = f->value_stride;
            if (half) {
                for (int i = 0; i < count; i++)
                    as_real(o->storage, f->value + (j0 + j + i) * f->value_stride * size, v_dim, room.block + i * v_dim);
                values = room.block;
                stride = v_dim;
            }
            int apart = hiding && !finite_block(values, stride, count, v_dim);
            if (apart)
                /* hidden keys must leave no trace: products with zeros in their place have the bits of any finite values */
                zero_bad(values, stride, count, v_dim, room.finite);
            for (int r = 0; r < f->rows; r++) {
                const real *p = room.s + r * RV_FEW_KEYS + j;
                few_values(&room, r, p, apart ? room.finite : values, apart ? v_dim : stride, count, v_dim);
                if (apart)
                    few_bad_values(&room, r, p, room.hidden + r * RV_FEW_KEYS + j, values, stride, count, v_dim);
            }
            if ((j + RV_FEW_CHAIN) % RV_CARRY_KEYS == 0)
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
        real total[2 * RV_LANES];
        w_set1(total, sum);
        int overflowed = sum == 0 && row_sees(o, row->position, row->mask);
        real *out = room.o + r * room.columns;
        for (int64_t i = 0; i < room.columns; i += RV_LANES) {
            vreal x = w_quotient(room.wide + 2 * (r * room.columns + i), total);
            if (o->dropout_below)
                x = v_mul(x, v_set1((real)o->dropout_gain));
            v_store(out + i, overflowed ? v_set1(NAN) : x);
        }
        if (row->lse)
            *row->lse = overflowed ? NAN : row_lse(room.m[r], sum);
        store_row(o->storage, row->out, out, o->v_dim);
    }
}

static size_t weights_scratch(const rv_attn_options *o, int rows)
{
    return few_scratch(o, rows) + (size_t)o->kv_len * sizeof(real) + 64;
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
    const int64_t size = storage_size(o->storage);
    rv_few one = *f;
    one.rows = 1;
    for (int r = 0; r < f->rows; r++) {
        one.row[0] = f->row[r];
        few_room room = few_layout(NULL, f->scratch, o, 1);
        real *row = (real *)(f->scratch + (room.scratch + 63) / 64 * 64);
        const real *query = as_real(o->storage, one.row[0].query, o->dim, room.q);
        const int transform = o->softcap != 0 || one.row[0].slope != 0 || o->mask_kind == RV_MASK_FLOAT || !(o->scale > 0);
        for (int64_t j0 = 0; j0 < o->kv_len; j0 += RV_FEW_KEYS) {
            int n = (int)(o->kv_len - j0 < RV_FEW_KEYS ? o->kv_len - j0 : RV_FEW_KEYS);
            const char *key = f->key + j0 * f->key_stride * size;
            if (is_half(o->storage))
                for (int j = 0; j < n; j += RV_FEW_BLOCK) {
                    int count = n - j < RV_FEW_BLOCK ? n - j : RV_FEW_BLOCK;
                    for (int i = 0; i < count; i++)
                        as_real(o->storage, key + (j + i) * f->key_stride * size, o->dim, room.block + i * o->dim);
                    few_scores(&one, &room, &query, room.block, o->dim, count, j);
                }
            else
                few_scores(&one, &room, &query, (const real *)key, f->key_stride, n, 0);
            few_logits(&one, room.s, 0, j0, n, transform);
            memcpy(row + j0, room.s, (size_t)n * sizeof(real));
        }
        weights_row(row, o->kv_len, transform ? 1 : (real)(o->scale * RV_LOG2E), row_sees(o, one.row[0].position, one.row[0].mask));
        store_row(o->storage, one.row[0].out, row, o->kv_len);
    }
}
