/* Attention calls: argument checks, the choice between the tiled and the few-query kernel, tasks, scratch. Which kernel runs
 * and where blocks and splits fall depends on lengths, sizes, dtype, ISA and options alone, never on batch, heads or threads:
 * so a row's bits do not depend on its neighbours. */
#include "attn_run.h"
#include "scalar_math.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keys of one split of the few-query kernel: at least this many, and at most RV_SPLITS splits, whose states are small. */
#define RV_SPLIT_KEYS 2048
#define RV_SPLITS 32

/* A thread must have this much work by the model of `work_ns`; waking one costs about 5 us. */
#define RV_THREAD_NS 40000.0

/* Keys and values of a decode call that exceed this share of the last cache come from memory, and are fetched this far ahead:
 * AMD Zen 5, 8 heads x 32768 x 64 float32, one thread: without 3.9 ms, 4 KiB 3.2, 8 KiB 2.9, 16 KiB 3.3, a plain read 2.6. Out
 * of a cache, fetching costs more than it brings: 8 x 4096 x 64, 0.15 ms without, 0.16 with; but from RV_FAR_SHARE of it on, rows are
 * read in halves, 0.18 ms instead of 0.20. */
#define RV_CACHE_SHARE 0.75
#define RV_FAR_SHARE 0.375
#define RV_CACHE_BYTES (32 << 20)       /* where the system does not tell */
#define RV_AHEAD_BYTES 8192

/* Calls that need no more scratch than this use the stack. */
#define RV_STACK_SCRATCH 16384

/* Strides are multiples of the element's size, a power of two. */
static int array_fits(const rv_array *x, size_t item, int batch_axes)
{
    int64_t low = x->head_stride | x->row_stride;
    for (int i = 0; i < batch_axes; i++)
        low |= x->batch_stride[i];
    return (low & ((int64_t)item - 1)) == 0;
}

static rv_status check(const rv_attn_args *a, int64_t *batch)
{
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->batch_axes < 0 || a->batch_axes > RV_MAX_BATCH_AXES)
        return RV_ERR_PARAM;
    if (a->q_len < 0 || a->kv_len < 0 || a->dim < 1 || a->v_dim < 0 || a->heads < 0 || a->key_heads < 1 || a->value_heads < 1)
        return RV_ERR_SHAPE;
    if (mod64(a->heads, a->key_heads) || mod64(a->heads, a->value_heads))
        return RV_ERR_SHAPE;
    /* sizes past this would overflow sums of positions, and no array is that long */
    if (a->q_len > RV_FAR / 4 || a->kv_len > RV_FAR / 4 || a->dim > INT32_MAX / 64 || a->v_dim > INT32_MAX / 64)
        return RV_ERR_SHAPE;
    if (!isfinite(a->scale) || !isfinite(a->softcap) || a->softcap < 0 || !(a->dropout >= 0 && a->dropout < 1))
        return RV_ERR_PARAM;
    if (a->left < 0 || a->right < 0 || a->offset > RV_FAR / 4 || a->offset < -RV_FAR / 4 || a->block_q < 0 || a->block_kv < 0)
        return RV_ERR_PARAM;
    if (a->mask_kind < RV_MASK_NONE || a->mask_kind > RV_MASK_FLOAT || a->threads < 0 || a->sequences < 0)
        return RV_ERR_PARAM;
    if (a->storage) {
        rv_dtype kv = a->storage->dtype;
        if (kv < RV_F32 || kv > RV_I8 || (kv == RV_F64) != (a->dtype == RV_F64) || a->weights || a->dropout > 0 || a->sequences)
            return RV_ERR_PARAM;
        if (kv == RV_I8 && (!array_fits(&a->storage->key_scale, sizeof(float), a->batch_axes)
                            || !array_fits(&a->storage->value_scale, sizeof(float), a->batch_axes)))
            return RV_ERR_PARAM;
    }
    size_t item = rv_dtype_size(a->dtype), kv_item = a->storage ? rv_dtype_size(a->storage->dtype) : item;
    if (!array_fits(&a->query, item, a->batch_axes) || !array_fits(&a->key, kv_item, a->batch_axes)
        || !array_fits(&a->value, kv_item, a->batch_axes) || !array_fits(&a->out, item, a->batch_axes))
        return RV_ERR_PARAM;
    *batch = 1;
    for (int i = 0; i < a->batch_axes; i++) {
        if (a->batch_shape[i] < 0)
            return RV_ERR_SHAPE;
        if (rv_mul(*batch, a->batch_shape[i], batch))
            return RV_ERR_SHAPE;
    }
    int64_t rows;
    if (rv_mul(*batch, a->heads, &rows) || rv_mul(rows, max64(a->q_len, 1), &rows))
        return RV_ERR_SHAPE;
    if (a->sparse) {
        rv_status status = rv_sparse_check(a);
        if (status != RV_OK)
            return status;
    }
    if (a->sequences) {
        if (a->batch_axes || !a->query_starts || !a->key_starts || a->mask_kind || a->weights)
            return RV_ERR_PARAM;
        for (int64_t s = 0; s < a->sequences; s++)
            if (a->query_starts[s + 1] < a->query_starts[s] || a->key_starts[s + 1] < a->key_starts[s])
                return RV_ERR_PARAM;
        if (a->query_starts[0] != 0 || a->key_starts[0] != 0 || a->query_starts[a->sequences] != a->q_len
            || a->key_starts[a->sequences] != a->kv_len)
            return RV_ERR_PARAM;
    }
    return RV_OK;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = mod64(a, b);
        a = b;
        b = r;
    }
    return a;
}

/* Tasks of one segment and the kernel they use. */
static int64_t plan(const rv_run *r, rv_segment *s)
{
    const rv_attn_args *a = r->a;
    int64_t offset = a->sequences ? s->kv_len - s->q_len + a->offset : a->offset;
    s->few = a->weights || (s->q_len < RV_TILE_MIN_ROWS && !a->sparse);
    s->first_key = min64(max64(offset - r->options.left, 0), s->kv_len);
    s->last_key = max64(min64(offset + s->q_len + r->options.right, s->kv_len), s->first_key);
    s->splits = 1;
    if (s->q_len == 0)
        return s->tiles = 0;
    if (r->gathers) {
        s->tiles = (s->q_len + RV_GATHER_ROWS - 1) / RV_GATHER_ROWS;
        return s->tiles * r->batch * div64(a->heads, r->sets_heads);
    }
    if (!s->few) {
        s->tiles = r->block_q ? rv_blocks_of(s->q_len, r->block_q) * r->block_tiles : (s->q_len + r->tile_q - 1) / r->tile_q;
        return s->tiles * r->batch * a->heads;
    }
    if (a->weights) {
        s->tiles = s->q_len;
        return s->tiles * r->batch * a->heads;
    }
    int64_t keys = s->last_key - s->first_key;
    s->split_keys = max64(RV_SPLIT_KEYS, (keys / RV_SPLITS + RV_FEW_KEYS) / RV_FEW_KEYS * RV_FEW_KEYS);
    s->splits = keys <= s->split_keys ? 1 : (keys + s->split_keys - 1) / s->split_keys;
    int64_t heads = max64(1, min64(r->share, div64(RV_FEW_ROWS, s->q_len)));
    s->tiles = div64(r->share + heads - 1, heads);
    return s->tiles * r->batch * div64(a->heads, r->share);
}

/* Bytes of keys and values that the row sets of a segment read. */
static double few_bytes(const rv_run *r, const rv_segment *s)
{
    double heads = (double)r->batch * (double)div64(r->a->heads, r->share);
    return heads * (double)(s->last_key - s->first_key) * (double)(r->a->dim + r->a->v_dim) * (double)r->kv_item;
}

/* Time of the whole call on one thread, for the choice of threads only: arithmetic at 80 flop/ns, keys and values at 40 B/ns. */
static double work_ns(const rv_run *r)
{
    const rv_attn_args *a = r->a;
    double flops = 0, bytes = 0, heads = (double)r->batch * (double)a->heads;
    for (int64_t i = 0; i < r->segment_count; i++) {
        const rv_segment *s = r->segments + i;
        double seen = (double)(s->last_key - s->first_key);
        double window = (double)r->options.left + (double)r->options.right + 1;
        if (a->sparse && a->sparse->starts) {
            const rv_sparse *p = a->sparse;
            double q_blocks = (double)p->lists * (double)rv_blocks_of(s->q_len, p->block_q);
            seen = (double)p->starts[p->lists * rv_blocks_of(s->q_len, p->block_q)] * (double)p->block_k / q_blocks;
        }
        else if (s->q_len > 1 && window < seen)
            seen = window;
        else if (s->q_len > 1 && (r->options.right < s->kv_len || r->options.left < s->kv_len))
            seen *= 0.5;
        flops += 2 * heads * (double)s->q_len * seen * (double)(a->dim + a->v_dim);
        bytes += (r->share == 1 ? heads : heads / (double)r->share) * seen * (double)(a->dim + a->v_dim) * (double)r->kv_item
                 * (double)s->tiles;
    }
    double compute = flops * (1.0 / 80), memory = bytes * (1.0 / 40);
    return compute > memory ? compute : memory;
}

static const rv_segment *segment_of(const rv_run *r, int64_t task)
{
    int64_t low = 0, high = r->segment_count;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (r->segments[middle].task <= task)
            low = middle;
        else
            high = middle;
    }
    /* segments without tasks share their number with the next one; the last of equals is the one that has tasks */
    return r->segments + low;
}

int rv_run_stopping(rv_run *r, int worker)
{
    if (r->stop)
        return 1;
    if (worker == 0 && r->a->interrupted) {
        int64_t now = rv_now_ms();
        if (now - r->last_poll >= RV_POLL_MS) {
            r->last_poll = now;
            if (r->a->interrupted(r->a->context))
                r->stop = 1;
        }
    }
    return r->stop;
}

static double slope_of(const rv_attn_args *a, int64_t batch, int64_t head)
{
    return a->slopes ? a->slopes[rv_batch_offset(a, a->slopes_batch_stride, batch) + head * a->slopes_head_stride] : 0;
}

static int64_t position_of(const rv_run *r, const rv_segment *s)
{
    return r->a->sequences ? s->kv_len - s->q_len + r->a->offset : r->a->offset;
}

static void tile_task(rv_run *r, const rv_segment *s, int worker, int64_t task)
{
    const rv_attn_args *a = r->a;
    rv_attn_options options = r->options;
    /* late tiles first: under a causal mask they are the heaviest */
    int64_t number = s->tiles - 1 - task % s->tiles, head = task / s->tiles % a->heads, batch = task / s->tiles / a->heads;
    int64_t row = number * r->tile_q, end = s->q_len, item = (int64_t)r->item;
    if (r->block_q) {
        row = number / r->block_tiles * r->block_q + number % r->block_tiles * r->tile_q;
        end = min64((number / r->block_tiles + 1) * r->block_q, s->q_len);
        if (row >= end)
            return;
    }
    options.kv_len = s->kv_len;
    options.block_keys = r->tile_block;
    options.storage = r->widens ? RV_F32 : options.storage;
    rv_tile t;
    memset(&t, 0, sizeof t);
    t.options = &options;
    t.rows = (int)min64(r->tile_q, end - row);
    t.position = position_of(r, s) + row;
    t.query = (const char *)a->query.data + rv_batch_offset(a, a->query.batch_stride, batch) + head * a->query.head_stride
              + (s->query_row + row) * a->query.row_stride;
    t.key = (const char *)a->key.data + rv_batch_offset(a, a->key.batch_stride, batch)
            + div64(head, div64(a->heads, a->key_heads)) * a->key.head_stride + s->key_row * a->key.row_stride;
    t.value = (const char *)a->value.data + rv_batch_offset(a, a->value.batch_stride, batch)
              + div64(head, div64(a->heads, a->value_heads)) * a->value.head_stride + s->key_row * a->value.row_stride;
    t.out = (char *)a->out.data + rv_batch_offset(a, a->out.batch_stride, batch) + head * a->out.head_stride
            + (s->query_row + row) * a->out.row_stride;
    if (a->mask_kind)
        t.mask = (const char *)a->mask.data + rv_batch_offset(a, a->mask.batch_stride, batch) + head * a->mask.head_stride
                 + row * a->mask.row_stride;
    t.draw_row = rv_run_row(r, s, batch, head, row);
    t.draw_step = a->sequences ? a->heads : 1;
    if (a->lse) {
        t.lse = a->lse + t.draw_row;
    }
    t.query_stride = a->query.row_stride / item;
    t.key_stride = a->key.row_stride / item;
    t.value_stride = a->value.row_stride / item;
    t.out_stride = a->out.row_stride / item;
    t.slope = slope_of(a, batch, head);
    t.scratch = r->scratch + (size_t)worker * r->scratch_bytes;
    int64_t first = min64(max64(t.position - options.left, 0), s->kv_len);
    int64_t last = max64(min64(t.position + t.rows + options.right, s->kv_len), first);
    if (r->widens) {
        rv_wide_tile(r, &t, worker, batch, head, first, last);
        return;
    }
    /* about 1 ms a piece, a multiple of the block */
    int64_t piece = max64(1, ((int64_t)1 << 24) / (options.block_keys * (options.dim + options.v_dim))) * options.block_keys;
    rv_range all = {first, last, 1}, *ranges = &all;
    int64_t count = 1;
    if (a->sparse) {
        ranges = (rv_range *)(t.scratch + r->tile_bytes);
        count = rv_sparse_ranges(r, s, head, r->block_q ? number / r->block_tiles : 0, t.position, t.rows, first, last, ranges);
        t.ranges = ranges;
        t.range_count = count;
        t.shared_right = min64(a->sparse->shared_right, RV_FAR);
    }
    r->k->tile_begin(&t);
    for (int64_t i = 0; i < count; i++) {
        options.left = ranges[i].near ? r->options.left : RV_FAR;
        options.right = ranges[i].near ? r->options.right : t.shared_right;
        for (first = ranges[i].first, last = ranges[i].last; first < last; first += piece) {
            if (last - first > piece && rv_run_stopping(r, worker))
                return;
            r->k->tile_keys(&t, first, min64(first + piece, last));
        }
    }
    options.left = r->options.left;
    options.right = r->options.right;
    r->k->tile_finish(&t);
}

/* The few-query state of a row set of (batch, shared head): its rows, without ranges. */
static void few_fill(const rv_run *r, const rv_segment *s, rv_few *f, const rv_attn_options *options, int64_t unit)
{
    const rv_attn_args *a = r->a;
    int64_t per = max64(1, min64(r->share, div64(RV_FEW_ROWS, s->q_len)));
    int64_t shares = div64(a->heads, r->share), rest = div64(unit, s->tiles);
    int64_t set = mod64(unit, s->tiles), shared = mod64(rest, shares), batch = div64(rest, shares);
    int64_t head = shared * r->share + set * per, heads = min64(per, r->share - set * per);
    f->options = options;
    f->key = (const char *)a->key.data + rv_batch_offset(a, a->key.batch_stride, batch)
             + div64(head, div64(a->heads, a->key_heads)) * a->key.head_stride + s->key_row * a->key.row_stride;
    f->value = (const char *)a->value.data + rv_batch_offset(a, a->value.batch_stride, batch)
               + div64(head, div64(a->heads, a->value_heads)) * a->value.head_stride + s->key_row * a->value.row_stride;
    f->key_stride = a->key.row_stride;
    f->value_stride = a->value.row_stride;
    if (r->kv == RV_I8) {
        f->key_scale = rv_scales_of(a, &a->storage->key_scale, batch, div64(head, div64(a->heads, a->key_heads)));
        f->value_scale = rv_scales_of(a, &a->storage->value_scale, batch, div64(head, div64(a->heads, a->value_heads)));
    }
    f->rows = 0;
    const char *query = (const char *)a->query.data + rv_batch_offset(a, a->query.batch_stride, batch);
    char *out = (char *)a->out.data + rv_batch_offset(a, a->out.batch_stride, batch);
    const char *mask = a->mask_kind ? (const char *)a->mask.data + rv_batch_offset(a, a->mask.batch_stride, batch) : NULL;
    for (int64_t h = head; h < head + heads; h++) {
        double slope = slope_of(a, batch, h);
        for (int64_t i = 0; i < s->q_len; i++) {
            rv_few_row *row = f->row + f->rows++;
            row->query = query + h * a->query.head_stride + (s->query_row + i) * a->query.row_stride;
            row->out = out + h * a->out.head_stride + (s->query_row + i) * a->out.row_stride;
            row->mask = mask ? mask + h * a->mask.head_stride + i * a->mask.row_stride : NULL;
            row->draw_row = rv_run_row(r, s, batch, h, i);
            row->lse = a->lse ? a->lse + row->draw_row : NULL;
            row->position = position_of(r, s) + i;
            row->slope = slope;
        }
    }
}

/* The weights of one query. */
static void weights_task(rv_run *r, const rv_segment *s, int worker, int64_t task)
{
    const rv_attn_args *a = r->a;
    int64_t query = task % s->q_len, head = task / s->q_len % a->heads, batch = task / s->q_len / a->heads;
    rv_few f;
    f.options = &r->options;
    f.rows = 1;
    f.key = (const char *)a->key.data + rv_batch_offset(a, a->key.batch_stride, batch)
            + div64(head, div64(a->heads, a->key_heads)) * a->key.head_stride;
    f.key_stride = a->key.row_stride;
    f.value = NULL;
    f.value_stride = 0;
    f.state = NULL;
    f.scratch = r->scratch + (size_t)worker * r->scratch_bytes;
    f.row[0].query = (const char *)a->query.data + rv_batch_offset(a, a->query.batch_stride, batch) + head * a->query.head_stride
                     + query * a->query.row_stride;
    f.row[0].out = (char *)a->out.data + rv_batch_offset(a, a->out.batch_stride, batch) + head * a->out.head_stride
                   + query * a->out.row_stride;
    f.row[0].mask = a->mask_kind ? (const char *)a->mask.data + rv_batch_offset(a, a->mask.batch_stride, batch)
                                   + head * a->mask.head_stride + query * a->mask.row_stride : NULL;
    f.row[0].lse = NULL;
    f.row[0].position = position_of(r, s) + query;
    f.row[0].slope = slope_of(a, batch, head);
    f.row[0].draw_row = 0;
    r->k->weights(&f);
}

/* One row set over all its splits, merged in order as they are done. */
static void few_task(rv_run *r, const rv_segment *s, int worker, int64_t unit)
{
    rv_attn_options options = r->options;
    rv_few f, later;
    options.kv_len = s->kv_len;
    options.block_keys = r->few_block;
    few_fill(r, s, &f, &options, unit);
    f.state = r->scratch + (size_t)worker * r->scratch_bytes;
    f.scratch = f.state + 2 * r->state_bytes;
    r->k->few_keys(&f, s->first_key, min64(s->first_key + s->split_keys, s->last_key));
    for (int64_t i = 1; i < s->splits; i++) {
        if (rv_run_stopping(r, worker))
            return;
        int64_t first = s->first_key + i * s->split_keys;
        memcpy(&later, &f, sizeof f);
        later.state = f.state + r->state_bytes;
        r->k->few_keys(&later, first, min64(first + s->split_keys, s->last_key));
        r->k->few_merge(&f, &later);
    }
    r->k->few_finish(&f);
}

/* One split of one row set: the state stays for few_join. */
static void split_task(rv_run *r, const rv_segment *s, int worker, int64_t task)
{
    rv_attn_options options = r->options;
    rv_few f;
    options.kv_len = s->kv_len;
    options.block_keys = r->few_block;
    few_fill(r, s, &f, &options, task / s->splits);
    f.state = r->states + (size_t)task * r->state_bytes;
    f.scratch = r->scratch + (size_t)worker * r->scratch_bytes;
    int64_t first = s->first_key + task % s->splits * s->split_keys;
    r->k->few_keys(&f, first, min64(first + s->split_keys, s->last_key));
}

static void few_join(rv_run *r, const rv_segment *s)
{
    rv_attn_options options = r->options;
    options.kv_len = s->kv_len;
    options.block_keys = r->few_block;
    for (int64_t unit = 0; unit < r->tasks / s->splits; unit++) {
        rv_few f, later;
        few_fill(r, s, &f, &options, unit);
        f.state = r->states + (size_t)(unit * s->splits) * r->state_bytes;
        f.scratch = r->scratch;
        for (int64_t i = 1; i < s->splits; i++) {
            memcpy(&later, &f, sizeof f);
            later.state = f.state + (size_t)i * r->state_bytes;
            r->k->few_merge(&f, &later);
        }
        r->k->few_finish(&f);
    }
}

static void work(void *context, int worker, int64_t task)
{
    rv_run *r = context;
    if (rv_run_stopping(r, worker))
        return;
    const rv_segment *s = r->segment_count == 1 ? r->segments : segment_of(r, task);
    if (r->gathers)
        rv_gather_task(r, s, worker, task);
    else if (r->a->weights)
        weights_task(r, s, worker, task);
    else if (r->split_tasks)
        split_task(r, s, worker, task);
    else if (s->few)
        few_task(r, s, worker, task - s->task);
    else
        tile_task(r, s, worker, task - s->task);
}

static void options_of(const rv_attn_args *a, rv_attn_options *o)
{
    o->storage = a->dtype;
    o->kv = a->storage ? a->storage->dtype : a->dtype;
    o->ahead = o->far = 0;
    o->kv_len = a->kv_len;
    o->dim = a->dim;
    o->v_dim = a->v_dim;
    o->scale = a->scale;
    o->softcap = a->softcap;
    o->left = min64(a->left, RV_FAR);
    o->right = min64(a->right, RV_FAR);
    o->mask_kind = a->mask_kind;
    o->mask_row_bytes = a->mask.row_stride;
    o->mask_col_bytes = a->mask_col_stride;
    o->dropout_seed = a->dropout_seed;
    o->dropout_below = (uint64_t)(a->dropout * 4294967296.0);
    o->dropout_gain = 1 / (1 - a->dropout);
}

static int few_block(const rv_attn_args *a) { return (int)min64(a->block_kv ? a->block_kv : RV_FEW_KEYS, RV_FEW_KEYS); }

/* One query of one head over few keys: the general way does the same, after planning that takes as long as the work. Returns
 * nonzero when it was done. */
static int run_one(const rv_attn_args *a)
{
    RV_ALIGN(64) char memory[RV_STACK_SCRATCH];
    rv_attn_options options;
    rv_few f;
    if (a->heads != 1 || a->q_len != 1 || a->batch_axes || a->kv_len > RV_FEW_KEYS || a->sequences || a->weights
        || a->sparse)
        return 0;
    const rv_kernels *k = rv_kernels_get(a->dtype);
    options_of(a, &options);
    options.block_keys = few_block(a);
    size_t state = k->few_state(&options, 1);
    if (state + k->few_scratch(&options, 1) > sizeof memory)
        return 0;
    f.options = &options;
    f.key = a->key.data;
    f.value = a->value.data;
    f.key_stride = a->key.row_stride;
    f.value_stride = a->value.row_stride;
    f.key_scale = a->storage ? a->storage->key_scale.data : NULL;
    f.value_scale = a->storage ? a->storage->value_scale.data : NULL;
    f.rows = 1;
    f.row[0].query = a->query.data;
    f.row[0].mask = a->mask_kind ? a->mask.data : NULL;
    f.row[0].out = a->out.data;
    f.row[0].lse = a->lse;
    f.row[0].position = a->offset;
    f.row[0].slope = a->slopes ? *a->slopes : 0;
    f.row[0].draw_row = 0;
    f.state = memory;
    f.scratch = memory + state;
    int64_t first = min64(max64(a->offset - options.left, 0), a->kv_len);
    k->few_keys(&f, first, max64(min64(a->offset + 1 + options.right, a->kv_len), first));
    k->few_finish(&f);
    return 1;
}

rv_status rv_attn_run(const rv_attn_args *a)
{
    rv_run r;
    rv_status status = check(a, &r.batch);
    if (status != RV_OK)
        return status;
    if (r.batch == 0 || a->heads == 0 || a->q_len == 0 || (a->weights ? a->kv_len == 0 : a->v_dim == 0 && !a->lse))
        return RV_OK;
    if (run_one(a))
        return RV_OK;
    r.a = a;
    r.k = rv_kernels_get(a->dtype);
    r.kv = a->storage ? a->storage->dtype : a->dtype;
    r.item = rv_dtype_size(a->dtype);
    r.kv_item = rv_dtype_size(r.kv);
    r.widens = r.kv != a->dtype;
    r.share = gcd(div64(a->heads, a->key_heads), div64(a->heads, a->value_heads));
    r.tile_q = a->block_q ? min64(a->block_q, r.k->tile_rows()) : r.k->tile_rows();
    r.stop = 0;
    r.states = NULL;
    rv_attn_options *o = &r.options;
    options_of(a, o);
    r.gathers = a->sparse && a->sparse->starts && a->sparse->gather;
    r.block_q = r.block_tiles = r.range_room = 0;
    r.sets_heads = 1;
    if (a->sparse && !r.gathers) {
        r.range_room = 2 * a->sparse->shared_count + 1;
        if (a->sparse->starts) {
            r.block_q = min64(a->sparse->block_q, a->q_len);
            r.block_tiles = rv_blocks_of(r.block_q, r.tile_q);
            r.range_room += rv_blocks_of(a->kv_len, a->sparse->block_k);
        }
    }
    if (r.gathers && a->sparse->lists == 1 && !a->mask_kind)
        /* rows of one state; a divisor, so that all states are alike */
        for (r.sets_heads = min64(r.share, RV_FEW_ROWS); r.share % r.sets_heads; )
            r.sets_heads--;

    r.segments = &r.single;
    r.segment_count = 1;
    if (a->sequences) {
        size_t bytes;
        if (rv_mul_size((size_t)a->sequences, sizeof(rv_segment), &bytes))
            return RV_ERR_NOMEM;
        r.segments = malloc(bytes);
        if (!r.segments)
            return RV_ERR_NOMEM;
        r.segment_count = a->sequences;
    }
    int few = 0, tiled = 0, rows = 1;
    r.tasks = 0;
    for (int64_t i = 0; i < r.segment_count; i++) {
        rv_segment *s = r.segments + i;
        s->query_row = a->sequences ? a->query_starts[i] : 0;
        s->key_row = a->sequences ? a->key_starts[i] : 0;
        s->q_len = a->sequences ? a->query_starts[i + 1] - a->query_starts[i] : a->q_len;
        s->kv_len = a->sequences ? a->key_starts[i + 1] - a->key_starts[i] : a->kv_len;
        s->task = r.tasks;
        r.tasks += plan(&r, s);
        few |= s->few;
        tiled |= !s->few;
        if (s->few && s->q_len > 0 && !a->weights)
            rows = (int)max64(rows, min64(div64(RV_FEW_ROWS, s->q_len), r.share) * s->q_len);
    }
    if (r.gathers) {
        few = tiled = 0;
        rows = (int)r.sets_heads;
    }
    if (few) {
        double bytes = 0, cache = (double)rv_cpu_cache(3);
        for (int64_t i = 0; i < r.segment_count; i++)
            bytes += r.segments[i].few ? few_bytes(&r, r.segments + i) : 0;
        o->far = bytes > RV_FAR_SHARE * (cache > 0 ? cache : RV_CACHE_BYTES);
        o->ahead = bytes > RV_CACHE_SHARE * (cache > 0 ? cache : RV_CACHE_BYTES) ? RV_AHEAD_BYTES : 0;
    }
    int lone = r.tasks == 1 && r.segments->splits == 1;
    double ns = lone ? 0 : work_ns(&r);
    int threads = lone ? 1 : a->threads ? a->threads : rv_threads_get();
    if (threads > 1)
        threads = (int)min64(threads, ns < 1e12 ? 1 + (int64_t)(ns * (1 / RV_THREAD_NS)) : threads);

    /* Splits become tasks only where row sets alone would leave threads idle; the sums are the same either way. */
    const rv_segment *s = r.segments;
    r.split_tasks = !a->weights && threads > 1 && r.segment_count == 1 && s->few && s->splits > 1 && r.tasks < 2 * (int64_t)threads;
    o->block_keys = r.tile_block = (int)min64(a->block_kv ? a->block_kv : RV_TILE_KEYS, RV_CARRY_KEYS);
    r.few_block = few_block(a);
    r.state_bytes = few || r.gathers ? r.k->few_state(o, rows) : 0;
    size_t few_scratch = few ? 2 * r.state_bytes + r.k->few_scratch(o, rows) : 0, tile_scratch = 0;
    if (a->weights)
        few_scratch = r.k->weights_scratch(o, 1);
    if (tiled) {
        rv_attn_options tile = *o;
        tile.storage = r.widens ? RV_F32 : tile.storage;
        r.tile_bytes = (r.k->tile_scratch(&tile) + 63) / 64 * 64;
        tile_scratch = r.tile_bytes + (r.widens ? rv_wide_bytes(&r) : 0) + (size_t)r.range_room * sizeof(rv_range);
    }
    if (r.gathers) {
        r.tile_bytes = (2 * r.state_bytes + r.k->few_scratch(o, rows) + 63) / 64 * 64;
        tile_scratch = r.tile_bytes + rv_gather_bytes(&r);
    }
    r.scratch_bytes = ((tile_scratch > few_scratch ? tile_scratch : few_scratch) + 63) / 64 * 64;
    size_t states = 0;
    if (r.split_tasks) {
        r.tasks *= s->splits;
        states = (size_t)r.tasks * r.state_bytes;
    }
    threads = (int)min64(threads, r.tasks);
    RV_ALIGN(64) char stack[RV_STACK_SCRATCH];
    char *memory = NULL;
    if (threads == 1 && r.scratch_bytes <= sizeof stack) {
        r.scratch = stack;
    } else {
        size_t bytes;
        if (rv_mul_size((size_t)threads, r.scratch_bytes, &bytes) || rv_add_size(bytes, states + 64, &bytes)
            || !(memory = malloc(bytes))) {
            if (r.segments != &r.single)
                free(r.segments);
            return RV_ERR_NOMEM;
        }
        r.scratch = memory + (64 - (uintptr_t)memory % 64) % 64;
        r.states = r.scratch + (size_t)threads * r.scratch_bytes;
    }
    r.last_poll = a->interrupted && (lone || ns > 1e7) ? rv_now_ms() : INT64_MAX / 2;
    if (r.tasks == 1) {
        work(&r, 0, 0);
    } else {
        status = rv_parallel_for(r.tasks, threads, work, &r, a->interrupted, a->context);
    }
    if (r.stop)
        status = RV_ERR_INTERRUPTED;
    if (status == RV_OK && r.split_tasks)
        few_join(&r, s);
    free(memory);
    if (r.segments != &r.single)
        free(r.segments);
    return status;
}

rv_status rv_merge_run(rv_dtype dtype, const void *const *outputs, const double *const *lses, int64_t count, int64_t rows,
                       int64_t dim, void *out, double *lse)
{
    if (count < 0 || rows < 0 || dim < 0 || dtype < RV_F32 || dtype > RV_BF16)
        return RV_ERR_SHAPE;
    const rv_kernels *wide = rv_kernels_get(RV_F64), *narrow = rv_kernels_get(RV_F32);
    size_t item = rv_dtype_size(dtype), bytes, row_bytes;
    if (rv_mul_size((size_t)count + (size_t)dim, sizeof(double), &bytes) || rv_mul_size((size_t)dim, sizeof(float), &row_bytes)
        || rv_add_size(bytes, row_bytes, &bytes))
        return RV_ERR_NOMEM;
    double *weight = malloc(bytes + 64);
    if (!weight)
        return RV_ERR_NOMEM;
    double *sum = weight + count;
    float *row = (float *)(sum + dim);
    for (int64_t i = 0; i < rows; i++) {
        double top = -INFINITY, total = 0;
        for (int64_t s = 0; s < count; s++)
            if (lses[s][i] > top || lses[s][i] != lses[s][i])
                top = lses[s][i];
        for (int64_t s = 0; s < count; s++)
            weight[s] = top == -INFINITY ? -INFINITY : lses[s][i] - top;
        wide->map(RV_MAP_EXP, weight, weight, count);
        for (int64_t s = 0; s < count; s++)
            total += weight[s];
        memset(sum, 0, (size_t)dim * sizeof(double));
        for (int64_t s = 0; s < count; s++) {
            double w = total == 0 ? 0 : weight[s] / total;
            const char *x = (const char *)outputs[s] + (size_t)i * (size_t)dim * item;
            if (w == 0)
                continue;
            if (dtype == RV_F64) {
                for (int64_t c = 0; c < dim; c++)
                    sum[c] += w * ((const double *)x)[c];
            } else {
                const float *from = (const float *)x;
                if (dtype != RV_F32) {
                    narrow->widen(dtype, x, row, dim);
                    from = row;
                }
                for (int64_t c = 0; c < dim; c++)
                    sum[c] += w * from[c];
            }
        }
        char *to = (char *)out + (size_t)i * (size_t)dim * item;
        if (dtype == RV_F64) {
            memcpy(to, sum, (size_t)dim * sizeof(double));
        } else {
            float *into = dtype == RV_F32 ? (float *)to : row;
            for (int64_t c = 0; c < dim; c++)
                into[c] = (float)sum[c];
            if (dtype != RV_F32)
                narrow->narrow(dtype, row, to, dim);
        }
        lse[i] = total == 0 ? -INFINITY : top + rv_log(total);
    }
    free(weight);
    return RV_OK;
}
