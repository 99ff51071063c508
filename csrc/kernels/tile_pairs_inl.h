/* The products of tile_inl.h over pairs of bfloat16, for ISAs that have them. Scores are taken over pairs of columns, so that
 * queries and keys are read as they lie; outputs over pairs of keys, whose weights are rounded to bfloat16 and zipped, and
 * whose values are zipped into room->pairs. The sum of weights takes the rounded ones: constant values come back constant. */

#define PRODUCT pair_product
#define LEFT uint16_t
#define SET1(p) p_set1(p)
#define RIGHT word
#define LOAD(p) p_load(p)
#define FACTOR vpair
#define STEP(x, y, c) v_dot2(c, x, y)
#include "tile_product_inl.h"

RV_INLINE void pair_scores(const rv_tile *t, const tile_room *room, const int nv, const uint16_t *keys, int64_t stride, int n)
{
    int64_t dim = t->options->dim;
    for (int64_t d = 0; d < dim; d += RV_PAIR_CHAIN) {
        int64_t len = (dim - d < RV_PAIR_CHAIN ? dim - d : RV_PAIR_CHAIN) / 2;
        const uint16_t *a = keys + d;
        const word *q = (const word *)room->q + d / 2 * RV_TILE_Q;
        int j = 0;
        for (; j + RV_TILE_ROWS <= n; j += RV_TILE_ROWS)
            pair_product(nv, RV_TILE_ROWS, a + j * stride, stride, 2, q, len, room->s + j * RV_TILE_Q, d > 0);
        if (j < n)
            pair_product(nv, n - j, a + j * stride, stride, 2, q, len, room->s + j * RV_TILE_Q, d > 0);
    }
}

/* tile_weights, rounded and zipped: keys j and j + 1 are row j / 2. The sum before rounding only where it is wanted. */
RV_INLINE void pair_weights_of(const tile_room *room, int n, int nv, real c, const int total)
{
    const vreal vc = v_set1(c);
    const vpair ones = p_ones();
    for (int v = 0; v < nv; v++) {
        const real *s = room->s + v * RV_LANES;
        word *p = (word *)room->s + v * RV_LANES;
        vreal m = v_load(room->m + v * RV_LANES), sum0 = v_zero(), sum1 = v_zero(), all0 = v_zero(), all1 = v_zero();
#define WEIGHT(i) v_exp2_flush(v_sub(v_mul(v_load(s + (i) * RV_TILE_Q), vc), m))
#define KEEP(a, b, sum, all) { \
        vpair w = p_zip(a, b); \
        if (total) all = v_add(all, v_add(a, b)); \
        p_store(p, w); \
        sum = v_dot2(sum, w, ones); \
        s += 2 * RV_TILE_Q; \
        p += RV_TILE_Q; }
        int j = 0;
        for (; j + 4 <= n; j += 4) {
            vreal p0 = WEIGHT(0), p1 = WEIGHT(1), p2 = WEIGHT(2), p3 = WEIGHT(3);
            KEEP(p0, p1, sum0, all0)
            KEEP(p2, p3, sum1, all1)
        }
        if (j + 2 <= n) {
            vreal p0 = WEIGHT(0), p1 = WEIGHT(1);
            KEEP(p0, p1, sum0, all0)
            j += 2;
        }
        if (j < n) {
            vreal p0 = WEIGHT(0), none = v_zero();
            if (j & 2)
                KEEP(p0, none, sum1, all1)
            else
                KEEP(p0, none, sum0, all0)
        }
#undef KEEP
#undef WEIGHT
        w_add(room->l + 2 * v * RV_LANES, v_add(sum0, sum1));
        if (total)
            w_add(room->total + 2 * v * RV_LANES, v_add(all0, all1));
    }
}

static void pair_weights(const tile_room *room, int n, int nv, real c, int total)
{
    if (total)
        pair_weights_of(room, n, nv, c, 1);
    else
        pair_weights_of(room, n, nv, c, 0);
}

/* o += weights times values. Numbers that are not finite are left out where `apart`. */
RV_INLINE void pair_values(const rv_tile *t, const tile_room *room, const int nv, const uint16_t *values, int64_t stride, int n,
                           int fresh, int apart)
{
    int64_t columns = t->options->v_dim;
    for (int j = 0; j < n; j += 2) {
        const uint16_t *row = values + j * stride;
        p_zip_rows(row, j + 1 < n ? row + stride : NULL, columns, apart, room->pairs + j / 2 * columns);
    }
    for (int64_t c0 = 0; c0 < columns; c0 += RV_COL_CHUNK) {
        int64_t c1 = c0 + RV_COL_CHUNK < columns ? c0 + RV_COL_CHUNK : columns;
        for (int j = 0; j < n; j += RV_PAIR_KEYS) {
            int count = (n - j < RV_PAIR_KEYS ? n - j + 1 : RV_PAIR_KEYS) / 2;
            const word *p = (const word *)room->s + j / 2 * RV_TILE_Q;
            const uint16_t *a = (const uint16_t *)(room->pairs + j / 2 * columns);
            int64_t c = c0;
            for (; c + RV_TILE_ROWS <= c1; c += RV_TILE_ROWS)
                pair_product(nv, RV_TILE_ROWS, a + 2 * c, 2, 2 * columns, p, count, room->o + c * RV_TILE_Q, !(fresh && j == 0));
            if (c < c1)
                pair_product(nv, (int)(c1 - c), a + 2 * c, 2, 2 * columns, p, count, room->o + c * RV_TILE_Q, !(fresh && j == 0));
        }
    }
}
