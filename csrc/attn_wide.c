/* Tiles of the tiled kernel whose keys and values, and sometimes query and out, are converted to float first. */
#include "attn_run.h"
#include "target.h"

#include <string.h>

/* Bytes behind the kernel's scratch for the rows that `widens` converts: keys and values of a piece, query and out of a tile. */
size_t rv_wide_bytes(const rv_run *r)
{
    return (size_t)(RV_CARRY_KEYS + r->tile_q) * (size_t)(r->a->dim + r->a->v_dim) * sizeof(float);
}

static void widen_rows(const rv_run *r, rv_dtype from, const char *src, int64_t stride, int64_t rows, int64_t columns, float *dst)
{
    for (int64_t i = 0; i < rows; i++)
        if (from == RV_F32)
            memcpy(dst + i * columns, src + i * stride, (size_t)columns * sizeof(float));
        else
            r->k->widen(from, src + i * stride, dst + i * columns, columns);
}

static void scale_rows(float *x, const float *scales, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < columns; c++)
            x[i * columns + c] *= scales[i];
}

/* tile_task where keys and values are stored in another type: the tile of float32 rows, a piece of keys at a time, each piece
 * as if it began at key 0. */
void rv_wide_tile(rv_run *r, rv_tile *t, int worker, int64_t batch, int64_t head, int64_t first, int64_t last)
{
    const rv_attn_args *a = r->a;
    const rv_kv_storage *kv = a->storage;
    int64_t dim = a->dim, v_dim = a->v_dim, piece = RV_CARRY_KEYS / t->options->block_keys * t->options->block_keys;
    float *keys = (float *)(t->scratch + r->tile_bytes), *values = keys + RV_CARRY_KEYS * dim;
    float *query = values + RV_CARRY_KEYS * v_dim, *out = query + r->tile_q * dim;
    char *to = t->out;
    const float *key_scale = NULL, *value_scale = NULL;
    if (r->kv == RV_I8) {
        key_scale = rv_scales_of(a, &kv->key_scale, batch, div64(head, div64(a->heads, a->key_heads)));
        value_scale = rv_scales_of(a, &kv->value_scale, batch, div64(head, div64(a->heads, a->value_heads)));
    }
    widen_rows(r, a->dtype, t->query, a->query.row_stride, t->rows, dim, query);
    rv_tile one = *t;
    one.query = (const char *)query;
    one.out = (char *)out;
    one.query_stride = one.key_stride = dim;
    one.value_stride = one.out_stride = v_dim;
    r->k->tile_begin(&one);
    for (; first < last; first += piece) {
        int64_t n = min64(piece, last - first);
        if (rv_run_stopping(r, worker))
            return;
        widen_rows(r, r->kv, t->key + first * a->key.row_stride, a->key.row_stride, n, dim, keys);
        widen_rows(r, r->kv, t->value + first * a->value.row_stride, a->value.row_stride, n, v_dim, values);
        if (r->kv == RV_I8) {
            scale_rows(keys, key_scale + first, n, dim);
            scale_rows(values, value_scale + first, n, v_dim);
        }
        one.key = (const char *)keys;
        one.value = (const char *)values;
        one.mask = t->mask ? t->mask + first * a->mask_col_stride : NULL;
        one.position = t->position - first;
        r->k->tile_keys(&one, 0, n);
    }
    one.mask = t->mask;
    one.position = t->position;
    r->k->tile_finish(&one);
    for (int64_t i = 0; i < t->rows; i++)
        if (a->dtype == RV_F32)
            memcpy(to + i * a->out.row_stride, out + i * v_dim, (size_t)v_dim * sizeof(float));
        else
            r->k->narrow(a->dtype, out + i * v_dim, to + i * a->out.row_stride, v_dim);
}
