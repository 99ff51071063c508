/* Attention over some of the keys: lists of key blocks, which become ranges of the tiled kernel, and rows of any keys, which are
 * copied side by side for the few-query kernel. */
#include "attn_run.h"
#include "target.h"

#include <math.h>
#include <string.h>

/* Gathered keys: so many are copied side by side at once; a run of so many neighbours is read where it lies instead. */
#define RV_GATHER_KEYS 256
#define RV_GATHER_RUN 64

rv_status rv_sparse_check(const rv_attn_args *a)
{
    const rv_sparse *s = a->sparse;
    if (a->storage || a->weights || a->sequences || s->shared_count < 0)
        return RV_ERR_PARAM;
    for (int64_t i = 0, last = 0; i < s->shared_count; i++) {
        int64_t first = s->shared[2 * i];
        if (first < last || s->shared[2 * i + 1] <= first || s->shared[2 * i + 1] > a->kv_len)
            return RV_ERR_INDEX;
        last = s->shared[2 * i + 1];
    }
    if (!s->starts)
        return RV_OK;
    if (s->block_q < 1 || s->block_k < 1 || s->block_q > RV_FAR / 4 || s->block_k > RV_FAR / 4 || (s->lists != 1 && s->lists != a->heads))
        return RV_ERR_PARAM;
    if (s->gather && (s->block_q != 1 || s->block_k != 1 || s->shared_count || a->slopes || a->dropout > 0 || a->left < RV_FAR || a->right < RV_FAR))
        return RV_ERR_PARAM;
    int64_t count, keys = rv_blocks_of(a->kv_len, s->block_k);
    if (rv_mul(s->lists, rv_blocks_of(a->q_len, s->block_q), &count))
        return RV_ERR_SHAPE;
    if (s->starts[0] != 0)
        return RV_ERR_PARAM;
    for (int64_t i = 0; i < count; i++) {
        if (s->starts[i + 1] < s->starts[i])
            return RV_ERR_PARAM;
        int64_t last = -1;
        int wrong = 0;
        for (int64_t j = s->starts[i]; j < s->starts[i + 1]; j++) {
            wrong |= s->blocks[j] <= last;
            last = s->blocks[j];
        }
        if (wrong || last >= keys)
            return RV_ERR_INDEX;
    }
    return RV_OK;
}

/* Adds [first, last) behind the other ranges, or to the last of them. */
static int64_t add_range(rv_range *to, int64_t count, int64_t first, int64_t last, int near)
{
    if (first >= last)
        return count;
    if (count && to[count - 1].last == first && to[count - 1].near == near) {
        to[count - 1].last = last;
        return count;
    }
    to[count].first = first;
    to[count].last = last;
    to[count].near = near;
    return count + 1;
}

/* What the rows of a tile see, in ascending order: its lists' blocks, or all, inside [first, last), which the window reaches; and
 * the shared ranges. Neighbours are joined, so that score blocks are full. */
int64_t rv_sparse_ranges(const rv_run *r, const rv_segment *s, int64_t head, int64_t block, int64_t position, int64_t rows,
                           int64_t first, int64_t last, rv_range *to)
{
    const rv_sparse *p = r->a->sparse;
    int64_t count = 0, shared = 0, at = 0, end = 1, most = min64(s->kv_len, max64(position + rows + min64(p->shared_right, RV_FAR), 0));
    if (p->starts) {
        const int64_t *list = p->starts + (p->lists == 1 ? 0 : head) * rv_blocks_of(s->q_len, p->block_q) + block;
        at = list[0];
        end = list[1];
    }
    for (; at < end; at++) {
        int64_t from = p->starts ? max64(p->blocks[at] * p->block_k, first) : first;
        int64_t to_key = p->starts ? min64((p->blocks[at] + (int64_t)1) * p->block_k, last) : last;
        for (; shared < p->shared_count && p->shared[2 * shared] < to_key; shared++) {
            int64_t low = p->shared[2 * shared], high = p->shared[2 * shared + 1];
            count = add_range(to, count, from, low, 1);
            count = add_range(to, count, low, min64(high, most), 0);
            from = max64(from, high);
        }
        count = add_range(to, count, from, to_key, 1);
    }
    for (; shared < p->shared_count; shared++)
        count = add_range(to, count, p->shared[2 * shared], min64(p->shared[2 * shared + 1], most), 0);
    return count;
}

/* Copies rows of `bytes` bytes side by side. */
static void gather_rows(const char *from, int64_t stride, const int32_t *indices, int64_t count, int64_t bytes, char *to)
{
    for (int64_t i = 0; i < count; i++, to += bytes)
        memcpy(to, from + indices[i] * stride, (size_t)bytes);
}

size_t rv_gather_bytes(const rv_run *r)
{
    size_t widths = (size_t)(r->a->dim + r->a->v_dim) * r->item;
    return RV_GATHER_KEYS * (widths + (r->a->mask_kind == RV_MASK_FLOAT ? sizeof(double) : 1)) + 3 * 64;
}

/* How many keys from `at` on are neighbours; indices ascend. */
static int64_t run_length(const int32_t *at, int64_t most)
{
    int64_t low = 1, high = most;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (at[middle - 1] - at[0] == middle - 1)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* One row of one or several heads that share keys and values: pieces of its keys, each a state, merged in their order. */
static void gather_row(rv_run *r, rv_few *f, rv_attn_options *o, const int32_t *indices, int64_t count, char *work)
{
    const rv_attn_args *a = r->a;
    const char *key = f->key, *value = f->value, *mask = f->row[0].mask;
    int64_t key_bytes = a->dim * (int64_t)r->item, value_bytes = a->v_dim * (int64_t)r->item;
    size_t mask_item = a->mask_kind == RV_MASK_FLOAT ? a->dtype == RV_F64 ? sizeof(double) : sizeof(float) : 1;
    char *keys = work, *values = keys + (RV_GATHER_KEYS * key_bytes + 63) / 64 * 64;
    char *masks = values + (RV_GATHER_KEYS * value_bytes + 63) / 64 * 64;
    rv_few later;
    int64_t at = 0, n;
    do {
        rv_few *to = f;
        n = count - at < RV_GATHER_RUN ? 0 : run_length(indices + at, count - at);
        int lies = n >= RV_GATHER_RUN;
        if (!lies)
            for (n = min64(n, RV_GATHER_KEYS); n < min64(count - at, RV_GATHER_KEYS); n++)
                if (count - at - n >= RV_GATHER_RUN && indices[at + n + RV_GATHER_RUN - 1] - indices[at + n] == RV_GATHER_RUN - 1)
                    break;
        if (at > 0) {
            memcpy(&later, f, sizeof later);
            later.state = f->state + r->state_bytes;
            to = &later;
        }
        to->key_stride = a->key.row_stride;
        to->value_stride = a->value.row_stride;
        o->mask_col_bytes = a->mask_col_stride;
        int64_t first = lies ? indices[at] : 0;
        if (lies) {
            to->key = key;
            to->value = value;
            to->row[0].mask = mask;
        } else {
            gather_rows(key, a->key.row_stride, indices + at, n, key_bytes, keys);
            gather_rows(value, a->value.row_stride, indices + at, n, value_bytes, values);
            to->key = keys;
            to->value = values;
            to->key_stride = key_bytes;
            to->value_stride = value_bytes;
            if (mask && a->mask_col_stride) {
                gather_rows(mask, a->mask_col_stride, indices + at, n, (int64_t)mask_item, masks);
                to->row[0].mask = masks;
                o->mask_col_bytes = (int64_t)mask_item;
            }
        }
        r->k->few_keys(to, first, first + n);
        if (at > 0)
            r->k->few_merge(f, to);
        at += n;
    } while (at < count);
    /* whether a row whose weights are all 0 saw any key, in terms of few_finish: one key in its window, or none */
    int sees = count > 0 && !a->mask_kind;
    for (int64_t i = 0; i < count && !sees; i++) {
        const char *p = mask + indices[i] * a->mask_col_stride;
        sees = a->mask_kind == RV_MASK_BOOL ? *p != 0
               : a->dtype == RV_F64 ? *(const double *)p != -INFINITY : *(const float *)p != -INFINITY;
    }
    rv_attn_options end = *o;
    end.mask_kind = RV_MASK_NONE;
    end.kv_len = sees;
    f->options = &end;
    r->k->few_finish(f);
    f->options = o;
}

/* RV_GATHER_ROWS rows of the heads that share keys, values and lists. */
void rv_gather_task(rv_run *r, const rv_segment *s, int worker, int64_t task)
{
    const rv_attn_args *a = r->a;
    const rv_sparse *p = a->sparse;
    rv_attn_options options = r->options;
    options.block_keys = r->few_block;
    int64_t group = task % s->tiles, sets = div64(a->heads, r->sets_heads), set = mod64(task / s->tiles, sets);
    int64_t batch = div64(task / s->tiles, sets), head = set * r->sets_heads;
    rv_few f;
    memset(&f, 0, sizeof f);
    f.options = &options;
    f.rows = (int)r->sets_heads;
    f.state = r->scratch + (size_t)worker * r->scratch_bytes;
    f.scratch = f.state + 2 * r->state_bytes;
    char *work = f.state + r->tile_bytes;
    const char *key = rv_batch_row(a, &a->key, a->key_heads, batch, head, 0);
    const char *value = rv_batch_row(a, &a->value, a->value_heads, batch, head, 0);
    for (int64_t i = group * RV_GATHER_ROWS; i < min64((group + 1) * RV_GATHER_ROWS, s->q_len); i++) {
        if (rv_run_stopping(r, worker))
            return;
        for (int h = 0; h < f.rows; h++) {
            rv_few_row *row = f.row + h;
            row->query = rv_batch_row(a, &a->query, a->heads, batch, head + h, i);
            row->out = rv_batch_row(a, &a->out, a->heads, batch, head + h, i);
            row->mask = a->mask_kind ? rv_batch_row(a, &a->mask, a->heads, batch, head + h, i) : NULL;
            row->draw_row = rv_run_row(r, s, batch, head + h, i);
            row->lse = a->lse ? a->lse + row->draw_row : NULL;
        }
        f.key = key;
        f.value = value;
        const int64_t *list = p->starts + (p->lists == 1 ? 0 : head * s->q_len) + i;
        gather_row(r, &f, &options, p->blocks + list[0], list[1] - list[0], work);
    }
}
