/* The tiled attention kernel. Queries lie in vector lanes: a tile holds RV_TILE_Q of them, transposed once; keys and values
 * are read where they lie and broadcast, so any row stride costs nothing, the softmax has no horizontal step, and masks are
 * lane compares.
 *
 *        keys          s[key][lane] = sum_d key[d] * q[d][lane]            chains of <= RV_DIM_CHAIN products
 *     +---------+      p = 2^(c s - m), m an integer per lane              m integral: every rescaling is exact
 *     | s, p    |      o[col][lane] = sum_key value[col] * p[key][lane]    chains of RV_KEY_CHAIN, then RV_CARRY_KEYS
 *     +---------+      wide[col][lane] += o                                wide accumulators: error independent of kv_len
 *       lanes
 */

enum {
    RV_TILE_Q = 3 * RV_LANES,
    RV_DIM_CHAIN = 64,
    RV_KEY_CHAIN = 16,
    RV_COL_CHUNK = 64,      /* output columns worked on at once, so that o stays in L1 */
    RV_PAIR_CHAIN = 256,    /* the same three for pairs of bfloat16, whose own rounding is that of 2^16 products */
    RV_PAIR_KEYS = 64,
    RV_PAIR_CARRY = 1024
};

#if RV_TILE_ROWS == 8
#define RV_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#else
#define RV_EACH_ROW(X) X(0) X(1) X(2) X(3)
#endif

#define PRODUCT tile_product
#define LEFT real
#define SET1(p) v_set1(*(p))
#define RIGHT real
#define LOAD(p) v_load(p)
#define FACTOR vreal
#define STEP(x, y, c) v_fma(x, y, c)
#include "tile_product_inl.h"

typedef struct tile_room {
    real *q;            /* [dim][Q]; paired: words [dim / 2][Q] */
    real *s;            /* [KEYS + ROWS][Q], scores, then weights; paired weights: words [KEYS / 2][Q] */
    real *o;            /* [v_dim rounded up to ROWS][Q] */
    real *wide;         /* the same, wide */
    real *m;            /* [Q] */
    real *l;            /* [Q], wide */
    real *total;        /* [Q], wide; paired: the sum of weights before they were rounded, for the log-sum-exp */
    real *bias;         /* [KEYS][Q] */
    real *stage;        /* [LANES][max(dim, v_dim)] */
    real *keys, *values;            /* [block][dim] and [block][v_dim]: widened 16-bit storage */
    real *finite;       /* [block][v_dim]: values without NaN and inf */
    word *pairs;        /* [block / 2][v_dim]: values of two keys, paired */
    word *bits;         /* [KEYS / word bits][Q] */
    unsigned char *hidden;          /* [KEYS][Q] */
    size_t bytes;
} tile_room;

/* Whether products are taken two at a time: queries and keys are pairs where they lie. */
static int tile_paired(const rv_attn_options *o) { return RV_HAVE_DOT2 && o->storage == RV_BF16 && o->dim % 2 == 0; }

static tile_room tile_layout(char *base, const rv_attn_options *o)
{
    tile_room room;
    const int paired = tile_paired(o);
    int64_t dim = o->dim, v_dim = o->v_dim;
    size_t at = 0, q = RV_TILE_Q, block = (size_t)o->block_keys, pad = (size_t)(v_dim + RV_TILE_ROWS - 1) / RV_TILE_ROWS * RV_TILE_ROWS;
    size_t wider = (size_t)(dim > v_dim ? dim : v_dim);
#define PLACE(field, type, count) room.field = base ? (type *)(base + at) : NULL; at += ((size_t)(count) * sizeof(type) + 63) / 64 * 64
    PLACE(q, real, (size_t)dim * q);
    PLACE(s, real, (block + RV_TILE_ROWS) * q);
    PLACE(o, real, pad * q);
    PLACE(m, real, q);
    PLACE(l, real, 2 * q);
    PLACE(total, real, paired ? 2 * q : 0);
    PLACE(wide, real, 2 * pad * q);
    PLACE(bias, real, (o->mask_kind == RV_MASK_FLOAT ? block : 0) * q);
    PLACE(bits, word, (block + 8 * sizeof(word) - 1) / (8 * sizeof(word)) * q);
    PLACE(hidden, unsigned char, block * q);
    PLACE(stage, real, RV_LANES * wider);
    PLACE(keys, real, is_half(o->storage) && !paired ? block * (size_t)dim : 0);
    PLACE(values, real, is_half(o->storage) && !paired ? block * (size_t)v_dim : 0);
    PLACE(pairs, word, paired ? (block + 1) / 2 * (size_t)v_dim : 0);
    PLACE(finite, real, block * (size_t)v_dim);
#undef PLACE
    room.bytes = at;
    return room;
}

static int tile_rows(void) { return RV_TILE_Q; }

static size_t tile_scratch(const rv_attn_options *o) { return tile_layout(NULL, o).bytes; }

static void tile_begin(rv_tile *t)
{
    const rv_attn_options *o = t->options;
    tile_room room = tile_layout(t->scratch, o);
    const int convert = is_half(o->storage) && !tile_paired(o);
    int64_t stride = t->query_stride * storage_size(o->storage);
    int64_t width = tile_paired(o) ? o->dim / 2 : o->dim, item = sizeof(real);     /* a pair is as wide as a float */
    for (int v = 0; v * RV_LANES < t->rows; v++) {
        int rows = t->rows - v * RV_LANES < RV_LANES ? t->rows - v * RV_LANES : RV_LANES;
        const char *src = t->query + v * RV_LANES * stride;
        int64_t src_bytes = stride;
        if (rows < RV_LANES || convert) {
            for (int r = 0; r < RV_LANES; r++) {
                real *row = room.stage + r * width;
                if (r >= rows)
                    memset(row, 0, (size_t)(width * item));
                else if (convert)
                    as_real(o->storage, src + r * stride, o->dim, row);
                else
                    memcpy(row, src + r * stride, (size_t)(width * item));
            }
            src = (const char *)room.stage;
            src_bytes = width * item;
        }
        real *dst = room.q + v * RV_LANES;
        int64_t d = 0;
        for (; d + RV_LANES <= width; d += RV_LANES)
            v_transpose(src + d * item, src_bytes, dst + d * RV_TILE_Q, RV_TILE_Q);
        for (; d < width; d++)
            for (int r = 0; r < RV_LANES; r++)
                memcpy(dst + d * RV_TILE_Q + r, src + r * src_bytes + d * item, sizeof(real));
    }
    for (int i = 0; i < RV_TILE_Q; i++)
        room.m[i] = RV_LOWEST;
    for (int v = 0; v < 3; v++) {
        w_zero(room.l + 2 * v * RV_LANES);
        if (tile_paired(o))
            w_zero(room.total + 2 * v * RV_LANES);
    }
    t->done = t->carried = 0;
}

/* Bits of `count` <= word-size mask bytes, `step` bytes apart. */
static word mask_bits(const char *p, int64_t step, int count)
{
    word bits = 0;
    int i = 0;
    if (step == 1) {
        for (; i + 8 <= count; i += 8) {
            uint64_t x;
            memcpy(&x, p + i, 8);
            /* each nonzero byte becomes 1, then one multiplication gathers the eight */
            x = (((x & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) | x) >> 7 & 0x0101010101010101u;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            x = (x * 0x8040201008040201u) >> 56;
            bits |= (word)x << i;
#else
            bits |= (word)((x * 0x0102040810204080u) >> 56) << i;
#endif
        }
    }
    for (; i < count; i++)
        bits |= (word)(p[i * step] != 0) << i;
    return bits;
}

/* Bits of the boolean mask for keys [j0, j0 + n); returns 0 when they are all clear. */
static int tile_mask_bits(const rv_tile *t, tile_room *room, int64_t j0, int n)
{
    const rv_attn_options *o = t->options;
    const int width = 8 * (int)sizeof(word);
    word any = 0;
    for (int w = 0; w * width < n; w++) {
        int count = n - w * width < width ? n - w * width : width;
        for (int r = 0; r < RV_TILE_Q; r++) {
            word *dst = room->bits + w * RV_TILE_Q + r;
            if (r > 0 && r < t->rows && o->mask_row_bytes == 0)
                *dst = dst[-1];
            else if (r < t->rows)
                *dst = mask_bits(t->mask + r * o->mask_row_bytes + (j0 + w * width) * o->mask_col_bytes, o->mask_col_bytes, count);
            else
                *dst = 0;
            any |= *dst;
        }
    }
    return any != 0;
}

static void tile_bias(const rv_tile *t, tile_room *room, int64_t j0, int n)
{
    const rv_attn_options *o = t->options;
    const char *src = t->mask + j0 * o->mask_col_bytes;
    int j = 0;
    if (o->mask_col_bytes == (int64_t)sizeof(real) && t->rows == RV_TILE_Q)
        for (; j + RV_LANES <= n; j += RV_LANES)
            for (int v = 0; v < 3; v++)
                v_transpose(src + v * RV_LANES * o->mask_row_bytes + j * (int64_t)sizeof(real), o->mask_row_bytes,
                            room->bias + j * RV_TILE_Q + v * RV_LANES, RV_TILE_Q);
    for (; j < n; j++)
        for (int r = 0; r < RV_TILE_Q; r++)
            room->bias[j * RV_TILE_Q + r] =
                r < t->rows ? *(const real *)(src + r * o->mask_row_bytes + j * o->mask_col_bytes) : 0;
}

/* Scores of one block to base-2 logits: scale, softcap, biases; then everything hidden to -inf. Padding lanes see all keys. */
static void tile_logits(const rv_tile *t, const tile_room *room, int64_t j0, int n, int nv, int transform, int edge)
{
    const rv_attn_options *o = t->options;
    /* the most negative finite numbers stay finite in base 2, so that they hide nothing */
    const vreal low = v_set1(-INFINITY), log2e = v_set1((real)RV_LOG2E), lowest = v_set1(RV_LOWEST);
    const vreal scale = v_set1((real)(o->softcap != 0 ? o->scale / o->softcap : o->scale * RV_LOG2E));
    const vreal cap = v_set1((real)(o->softcap * RV_LOG2E)), slope = v_set1((real)(t->slope * RV_LOG2E));
    const int width = 8 * (int)sizeof(word), only_edge = !transform && o->mask_kind == RV_MASK_NONE;
    for (int j = 0; j < n; j++) {
        int64_t key = j0 + j;
        if (only_edge && key <= t->position + o->right && key >= t->position + t->rows - 1 - o->left)
            continue;
        vreal from = v_set1((real)clamp64(key - o->right - t->position, -1, RV_TILE_Q));
        vreal to = v_set1((real)clamp64(key + o->left - t->position, -1, RV_TILE_Q));
        for (int v = 0; v < nv; v++) {
            real *p = room->s + j * RV_TILE_Q + v * RV_LANES;
            vreal x = v_load(p), lane = v_add(v_iota(), v_set1((real)(v * RV_LANES)));
            if (transform) {
                x = v_mul(x, scale);
                if (o->softcap != 0)
                    x = v_mul(v_tanh(x), cap);
                if (t->slope != 0)
                    x = v_fnma(v_abs(v_add(lane, v_set1((real)(t->position - key)))), slope, x);
            }
            if (o->mask_kind == RV_MASK_FLOAT) {
                vreal b = v_load(room->bias + j * RV_TILE_Q + v * RV_LANES);
                x = v_select(v_eq(b, low), low, v_add(x, v_max(lowest, v_mul(b, log2e))));
            } else if (o->mask_kind == RV_MASK_BOOL) {
                vword w = v_load_words(room->bits + j / width * RV_TILE_Q + v * RV_LANES);
                x = v_select(v_testbit(w, j % width), x, low);
            }
            if (edge)
                x = v_select(m_and(v_le(from, lane), v_le(lane, to)), x, low);
            v_store(p, x);
        }
    }
}

/* The references m of one block of scores. Returns nonzero when some grew; then the factor 2^(old m - new m) of every lane is
 * in `factor`, and l and total have taken it. */
static int tile_reference(const tile_room *room, int n, int nv, real c, real *factor, int paired)
{
    const vreal vc = v_set1(c);
    int grew = 0;
    for (int v = 0; v < nv; v++) {
        const real *s = room->s + v * RV_LANES;
        vreal top = v_load(s), top1 = top, top2 = top, top3 = top;
        int j = 1;
        for (; j + 4 <= n; j += 4) {
            top = v_max(v_load(s + j * RV_TILE_Q), top);
            top1 = v_max(v_load(s + (j + 1) * RV_TILE_Q), top1);
            top2 = v_max(v_load(s + (j + 2) * RV_TILE_Q), top2);
            top3 = v_max(v_load(s + (j + 3) * RV_TILE_Q), top3);
        }
        for (; j < n; j++)
            top = v_max(v_load(s + j * RV_TILE_Q), top);
        top = v_max(v_max(top, top1), v_max(top2, top3));
        vreal m = v_load(room->m + v * RV_LANES);
        /* a NaN score is not seen by v_max, only by its weight */
        vreal next = v_max(v_ceil(v_mul(top, vc)), m);
        v_store(factor + v * RV_LANES, v_exp2_flush(v_sub(m, next)));
        grew |= m_any(v_lt(m, next));
        v_store(room->m + v * RV_LANES, next);
    }
    if (grew)
        for (int v = 0; v < nv; v++) {
            w_scale(room->l + 2 * v * RV_LANES, v_load(factor + v * RV_LANES));
            if (paired)
                w_scale(room->total + 2 * v * RV_LANES, v_load(factor + v * RV_LANES));
        }
    return grew;
}

/* Weights of one block in place of its scores, p = 2^(c s - m), and their sums. Each key joins the chain that it would join in
 * a longer block: keys appended behind a mask change no bit. */
static void tile_weights(const tile_room *room, int n, int nv, real c)
{
    const vreal vc = v_set1(c);
    for (int v = 0; v < nv; v++) {
        real *s = room->s + v * RV_LANES;
        /* the product rounds as it did for the maximum: the largest weight is never above 1, at any magnitude */
        vreal m = v_load(room->m + v * RV_LANES);
        vreal sum0 = v_zero(), sum1 = v_zero(), sum2 = v_zero(), sum3 = v_zero();
#define WEIGHT(i) v_exp2_flush(v_sub(v_mul(v_load(s + (i) * RV_TILE_Q), vc), m))
#define KEEP(i, p, sum) { v_store(s + (i) * RV_TILE_Q, p); sum = v_add(sum, p); }
        int j = 0;
        for (; j + 4 <= n; j += 4) {
            vreal p0 = WEIGHT(0), p1 = WEIGHT(1), p2 = WEIGHT(2), p3 = WEIGHT(3);
            KEEP(0, p0, sum0)
            KEEP(1, p1, sum1)
            KEEP(2, p2, sum2)
            KEEP(3, p3, sum3)
            s += 4 * RV_TILE_Q;
        }
        if (j < n) {
            vreal p = WEIGHT(0);
            KEEP(0, p, sum0)
        }
        if (j + 1 < n) {
            vreal p = WEIGHT(1);
            KEEP(1, p, sum1)
        }
        if (j + 2 < n) {
            vreal p = WEIGHT(2);
            KEEP(2, p, sum2)
        }
#undef KEEP
#undef WEIGHT
        w_add(room->l + 2 * v * RV_LANES, v_add(v_add(sum0, sum1), v_add(sum2, sum3)));
    }
}

static void tile_rescale(const rv_tile *t, const tile_room *room, int nv, const real *factor)
{
    for (int64_t c = 0; c < t->options->v_dim; c++)
        for (int v = 0; v < nv; v++) {
            vreal f = v_load(factor + v * RV_LANES);
            real *o = room->o + c * RV_TILE_Q + v * RV_LANES;
            if (t->carried > 0)
                v_store(o, v_mul(v_load(o), f));
            if (t->done > t->carried)
                w_scale(room->wide + 2 * (c * RV_TILE_Q + v * RV_LANES), f);
        }
}

#if RV_HAVE_DOT2
#include "tile_pairs_inl.h"
#endif

/* The weight of key j in lane r. */
static real *tile_weight(const tile_room *room, int j, int r) { return room->s + j * RV_TILE_Q + r; }
static uint16_t *pair_weight(const tile_room *room, int j, int r)
{
    return (uint16_t *)room->s + 2 * (j / 2 * RV_TILE_Q + r) + (j & 1);
}

/* After o took the weights times the finite values: adds what bad values bring to the lanes that see their key. */
static void tile_bad_values(const rv_tile *t, const tile_room *room, const char *values, int64_t stride, int n)
{
    const rv_attn_options *o = t->options;
    const int paired = tile_paired(o);
    for (int j = 0; j < n; j++) {
        const real *row = as_real(o->storage, values + j * stride * storage_size(o->storage), o->v_dim, room->stage);
        for (int64_t c = 0; c < o->v_dim; c++) {
            real x = row[c];
            if (x - x == 0)
                continue;
            for (int r = 0; r < RV_TILE_Q; r++)
                if (!room->hidden[j * RV_TILE_Q + r]) {
                    word w = paired ? (word)*pair_weight(room, j, r) << (RV_REAL_BITS - 16) : 0;
                    room->o[c * RV_TILE_Q + r] += (paired ? rv_real(w) : *tile_weight(room, j, r)) * x;
                }
        }
    }
}

RV_INLINE void tile_values(const rv_tile *t, const tile_room *room, const int nv, const real *values, int64_t stride, int n,
                           int fresh)
{
    int64_t columns = t->options->v_dim;
    for (int64_t c0 = 0; c0 < columns; c0 += RV_COL_CHUNK) {
        int64_t c1 = c0 + RV_COL_CHUNK < columns ? c0 + RV_COL_CHUNK : columns;
        for (int j = 0; j < n; j += RV_KEY_CHAIN) {
            int count = n - j < RV_KEY_CHAIN ? n - j : RV_KEY_CHAIN;
            const real *p = room->s + j * RV_TILE_Q, *a = values + j * stride;
            int64_t c = c0;
            for (; c + RV_TILE_ROWS <= c1; c += RV_TILE_ROWS)
                tile_product(nv, RV_TILE_ROWS, a + c, 1, stride, p, count, room->o + c * RV_TILE_Q, !(fresh && j == 0));
            if (c < c1)
                tile_product(nv, (int)(c1 - c), a + c, 1, stride, p, count, room->o + c * RV_TILE_Q, !(fresh && j == 0));
        }
    }
}

RV_INLINE void tile_scores(const rv_tile *t, const tile_room *room, const int nv, const real *keys, int64_t stride, int n)
{
    int64_t dim = t->options->dim;
    for (int64_t d = 0; d < dim; d += RV_DIM_CHAIN) {
        int64_t len = dim - d < RV_DIM_CHAIN ? dim - d : RV_DIM_CHAIN;
        const real *a = keys + d, *q = room->q + d * RV_TILE_Q;
        int j = 0;
        for (; j + RV_TILE_ROWS <= n; j += RV_TILE_ROWS)
            tile_product(nv, RV_TILE_ROWS, a + j * stride, stride, 1, q, len, room->s + j * RV_TILE_Q, d > 0);
        if (j < n)
            tile_product(nv, n - j, a + j * stride, stride, 1, q, len, room->s + j * RV_TILE_Q, d > 0);
    }
}

static void tile_drop(const rv_tile *t, const tile_room *room, int64_t j0, int n)
{
    const int paired = tile_paired(t->options);
    for (int r = 0; r < t->rows; r++) {
        uint64_t key = rv_draw_row(t->options->dropout_seed, t->draw_row + r * t->draw_step);
        for (int j = 0; j < n; j++)
            if (rv_draw(key, j0 + j) < t->options->dropout_below) {
                if (paired)
                    *pair_weight(room, j, r) = 0;
                else
                    *tile_weight(room, j, r) = 0;
            }
    }
}

static void tile_flush(rv_tile *t, const tile_room *room, int nv)
{
    int first = t->done == t->carried;
    for (int64_t c = 0; c < t->options->v_dim; c++)
        for (int v = 0; v < nv; v++) {
            real *w = room->wide + 2 * (c * RV_TILE_Q + v * RV_LANES);
            if (first)
                w_zero(w);
            w_add(w, v_load(room->o + c * RV_TILE_Q + v * RV_LANES));
        }
    t->carried = 0;
}

/* Whether all values of a block are finite. */
static int tile_finite(const rv_attn_options *o, const real *values, int64_t stride, int n)
{
#if RV_HAVE_DOT2
    if (tile_paired(o)) {
        int finite = 1;
        for (int j = 0; j < n; j++)
            finite &= p_finite((const uint16_t *)values + j * stride, o->v_dim);
        return finite;
    }
#endif
    return finite_block(values, stride, n, o->v_dim);
}

RV_INLINE void tile_keys_nv(rv_tile *t, const int nv, int64_t first, int64_t last)
{
    const rv_attn_options *o = t->options;
    tile_room room = tile_layout(t->scratch, o);
    const int paired = tile_paired(o), convert = is_half(o->storage) && !paired;
    const int64_t size = storage_size(o->storage), carry = paired ? RV_PAIR_CARRY : RV_CARRY_KEYS;
    const int transform = o->softcap != 0 || t->slope != 0 || o->mask_kind == RV_MASK_FLOAT || !(o->scale > 0);
    const real c = transform ? 1 : (real)(o->scale * RV_LOG2E);
    real factor[RV_TILE_Q];
    for (int64_t j0 = first; j0 < last; j0 += o->block_keys) {
        int n = (int)(last - j0 < o->block_keys ? last - j0 : o->block_keys);
        const char *key = t->key + j0 * t->key_stride * size, *value = t->value + j0 * t->value_stride * size;
        const real *keys = (const real *)key, *values = (const real *)value;
        int64_t key_stride = t->key_stride, value_stride = t->value_stride;
        int edge = j0 + n - 1 > t->position + o->right || j0 < t->position + t->rows - 1 - o->left;
        int hiding = edge || o->mask_kind != RV_MASK_NONE;
        int seen = o->mask_kind != RV_MASK_BOOL || tile_mask_bits(t, &room, j0, n);
        if (!seen)
            continue;
        if (t->carried + n > carry)
            tile_flush(t, &room, nv);
        int fresh = t->carried == 0;
        if (convert) {
            for (int j = 0; j < n; j++) {
                as_real(o->storage, key + j * t->key_stride * size, o->dim, room.keys + j * o->dim);
                as_real(o->storage, value + j * t->value_stride * size, o->v_dim, room.values + j * o->v_dim);
            }
            keys = room.keys;
            values = room.values;
            key_stride = o->dim;
            value_stride = o->v_dim;
        }
#if RV_HAVE_DOT2
        if (paired)
            pair_scores(t, &room, nv, (const uint16_t *)keys, key_stride, n);
        else
#endif
            tile_scores(t, &room, nv, keys, key_stride, n);
        if (o->mask_kind == RV_MASK_FLOAT)
            tile_bias(t, &room, j0, n);
        if (transform || hiding)
            tile_logits(t, &room, j0, n, nv, transform, edge);
        int apart = hiding && !tile_finite(o, values, value_stride, n);
        if (apart)
            for (int i = 0; i < n * RV_TILE_Q; i++)
                room.hidden[i] = room.s[i] == -INFINITY;
        if (tile_reference(&room, n, nv, c, factor, paired))
            tile_rescale(t, &room, nv, factor);
#if RV_HAVE_DOT2
        if (paired)
            pair_weights(&room, n, nv, c, t->lse != NULL);
        else
#endif
            tile_weights(&room, n, nv, c);
        if (o->dropout_below)
            tile_drop(t, &room, j0, n);
        /* hidden pairs must leave no trace: products with zeros in place of bad values have the bits of any finite values */
#if RV_HAVE_DOT2
        if (paired)
            pair_values(t, &room, nv, (const uint16_t *)values, value_stride, n, fresh, apart);
        else
#endif
        if (apart) {
            zero_bad(values, value_stride, n, o->v_dim, room.finite);
            tile_values(t, &room, nv, room.finite, o->v_dim, n, fresh);
        } else {
            tile_values(t, &room, nv, values, value_stride, n, fresh);
        }
        if (apart)
            tile_bad_values(t, &room, value, t->value_stride, n);
        t->done += n;
        t->carried += n;
    }
}

static void tile_keys(rv_tile *t, int64_t first, int64_t last)
{
    if (t->rows > 2 * RV_LANES)
        tile_keys_nv(t, 3, first, last);
    else if (t->rows > RV_LANES)
        tile_keys_nv(t, 2, first, last);
    else
        tile_keys_nv(t, 1, first, last);
}

/* Whether row `row` of the tile sees any key. */
static int tile_sees(const rv_tile *t, int row)
{
    const rv_attn_options *o = t->options;
    const char *mask = t->mask ? t->mask + row * o->mask_row_bytes : NULL;
    int64_t at = t->position + row;
    if (!t->ranges)
        return row_sees(o, at, mask);
    for (const rv_range *range = t->ranges; range < t->ranges + t->range_count; range++) {
        int64_t from = range->near ? at - o->left : 0, to = at + (range->near ? o->right : t->shared_right) + 1;
        if (mask_sees(o, mask, from > range->first ? from : range->first, to < range->last ? to : range->last))
            return 1;
    }
    return 0;
}

static void tile_finish(rv_tile *t)
{
    const rv_attn_options *o = t->options;
    tile_room room = tile_layout(t->scratch, o);
    int nv = (t->rows + RV_LANES - 1) / RV_LANES;
    if (t->done == 0) {
        for (int64_t i = 0; i < 2 * o->v_dim * RV_TILE_Q; i += 2 * RV_LANES)
            w_zero(room.wide + i);
    } else if (t->carried > 0) {
        tile_flush(t, &room, nv);
    }
    int64_t stride = t->out_stride * storage_size(o->storage);
    real block[RV_LANES * RV_LANES];
    for (int v = 0; v < nv; v++) {
        int rows = t->rows - v * RV_LANES < RV_LANES ? t->rows - v * RV_LANES : RV_LANES;
        const real *l = room.l + 2 * v * RV_LANES;
        int direct = rows == RV_LANES && !is_half(o->storage);
        int64_t wider = o->dim > o->v_dim ? o->dim : o->v_dim;
        real *dst = direct ? (real *)(t->out + v * RV_LANES * stride) : room.stage;
        int64_t dst_stride = direct ? t->out_stride : wider;
        vreal gain = v_set1((real)o->dropout_gain);
        for (int64_t c = 0; c < o->v_dim; c += RV_LANES) {
            int columns = (int)(o->v_dim - c < RV_LANES ? o->v_dim - c : RV_LANES);
            for (int i = 0; i < columns; i++) {
                vreal x = w_quotient(room.wide + 2 * ((c + i) * RV_TILE_Q + v * RV_LANES), l);
                v_store(block + i * RV_LANES, o->dropout_below ? v_mul(x, gain) : x);
            }
            if (columns == RV_LANES)
                v_transpose((const char *)block, RV_LANES * (int64_t)sizeof(real), dst + c, dst_stride);
            else
                for (int i = 0; i < columns; i++)
                    for (int r = 0; r < RV_LANES; r++)
                        dst[r * dst_stride + c + i] = block[i * RV_LANES + r];
        }
        for (int r = 0; r < rows; r++) {
            int row = v * RV_LANES + r;
            double sum = w_get(l, r);
            real *from = dst + r * dst_stride;
            int overflowed = sum == 0 && tile_sees(t, row);
            if (overflowed)
                for (int64_t c = 0; c < o->v_dim; c++)
                    from[c] = NAN;
            if (t->lse)
                t->lse[row * t->draw_step] = overflowed ? NAN : row_lse(room.m[row], tile_paired(o) ? w_get(room.total + 2 * v * RV_LANES, r) : sum);
            if (!direct)
                store_row(o->storage, t->out + row * stride, from, o->v_dim);
        }
    }
}
