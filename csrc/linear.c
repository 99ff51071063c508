/* Linear attention: argument checks, random features, tasks, scratch. Where splits of the keys fall depends on their number alone,
 * and their states are merged in order: a row's bits depend neither on its neighbours nor on the number of threads. */
#include "batch.h"
#include "kernels.h"
#include "scalar_math.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPLIT_KEYS = 4096,      /* of a state that is summed on its own: at least this many ... */
    SPLITS = 16,            /* ... and at most so many states */
    TASK_ROWS = 1024,       /* queries of a task */
    PIECE = 4096            /* rows between two looks at the interrupt, a multiple of RV_LINEAR_CARRY */
};

/* A thread should have this much work; waking one costs about 5 us. */
#define THREAD_NS 40000.0

typedef struct run {
    const rv_attn_args *a;
    const rv_kernels *k;
    rv_linear l;
    int64_t batch, units, splits, split_keys, blocks;
    int causal;
    size_t state_bytes, view_bytes, scratch_bytes, worker_bytes;
    char *scratch;              /* for each worker: kernel scratch, a view, two states */
    char *states, *views;       /* split form: states of (unit, split); views of units */
    int64_t last_poll;
    atomic_int stop;
} run;

static size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* ---- random features ------------------------------------------------------------------------------------------- */

static double uniform(uint64_t seed, uint64_t *at)
{
    return (double)(rv_mix(seed + RV_GOLDEN * ++*at) >> 11) * 0x1p-52 - 1;
}

static void normals(uint64_t seed, double *x, int64_t n)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < n; i += 2) {
        double u, v, s;
        do {
            u = uniform(seed, &at);
            v = uniform(seed, &at);
            s = u * u + v * v;
        } while (s >= 1 || s == 0);
        s = rv_sqrt(-2 * rv_log(s) / s);
        x[i] = u * s;
        if (i + 1 < n)
            x[i + 1] = v * s;
    }
}

/* Gram and Schmidt, twice, over the rows of a block of `rows` <= dim. q ([dim][rows]) has their directions, of length 1, in its
 * columns, so that both products run along rows. Each row of w keeps its length. */
static void orthogonalise(double *w, int64_t rows, int64_t dim, double *q, double *along, double *inverse)
{
    for (int64_t i = 0; i < rows; i++) {
        double *x = w + i * dim, square = 0, left = 0;
        for (int64_t d = 0; d < dim; d++)
            square += x[d] * x[d];
        for (int pass = 0; pass < 2; pass++) {
            memset(along, 0, (size_t)i * sizeof(double));
            for (int64_t d = 0; d < dim; d++)
                for (int64_t j = 0; j < i; j++)
                    along[j] += x[d] * q[d * rows + j];
            for (int64_t j = 0; j < i; j++) {
                double part = along[j] * inverse[j];
                for (int64_t d = 0; d < dim; d++)
                    x[d] -= part * w[j * dim + d];
            }
        }
        for (int64_t d = 0; d < dim; d++)
            left += x[d] * x[d];
        double unit = 1 / rv_sqrt(left), length = rv_sqrt(square);
        inverse[i] = 1 / length;
        for (int64_t d = 0; d < dim; d++) {
            q[d * rows + i] = x[d] * unit;
            x[d] *= length * unit;
        }
    }
}

rv_status rv_projection_draw(uint64_t seed, int orthogonal, int64_t rows, int64_t dim, double *projection)
{
    int64_t size, block = min64(rows, dim);
    if (rows < 0 || dim < 1 || rv_mul(rows, dim, &size) || size > INT64_MAX / 16)
        return RV_ERR_SHAPE;
    double *q = NULL;
    if (orthogonal && rows > 0 && !(q = malloc((size_t)block * (size_t)(dim + 2) * sizeof(double))))
        return RV_ERR_NOMEM;
    normals(seed, projection, size);
    if (orthogonal)
        for (int64_t r = 0; r < rows; r += dim)
            orthogonalise(projection + r * dim, min64(dim, rows - r), dim, q, q + block * dim, q + block * (dim + 1));
    free(q);
    return RV_OK;
}

/* ---- arguments ------------------------------------------------------------------------------------------------- */

static int64_t padded(int64_t n) { return (n + RV_LINEAR_PAD - 1) / RV_LINEAR_PAD * RV_LINEAR_PAD; }

/* Sizes of a call; `features` random ones, 0 for maps without. */
static rv_status sizes_of(rv_linear *l, rv_feature_map map, int64_t features, int64_t dim, int64_t v_dim, rv_dtype dtype)
{
    int64_t size;
    if (dim < 1 || v_dim < 0 || features < 0 || dim > INT32_MAX / 64 || v_dim > INT32_MAX / 64 || features > INT32_MAX / 64)
        return RV_ERR_SHAPE;
    memset(l, 0, sizeof *l);
    l->map = map;
    l->storage = dtype;
    l->dim = dim;
    l->v_dim = v_dim;
    l->parts = map == RV_MAP_OF_ANGLES ? 2 : 1;
    l->width = features ? features : dim;
    l->pad = padded(l->width);
    l->v_pad = padded(v_dim);
    /* states, twice, and scratch are of this order */
    if (rv_mul(l->parts * l->pad, l->v_pad + dim + 512, &size) || rv_mul(size, 64, &size))
        return RV_ERR_SHAPE;
    return RV_OK;
}

static rv_status check(const rv_attn_args *a, int64_t *batch)
{
    int64_t item = (int64_t)rv_dtype_size(a->dtype), size;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->batch_axes < 0 || a->batch_axes > RV_MAX_BATCH_AXES || !a->params)
        return RV_ERR_PARAM;
    /* what other engines do with these has no meaning here */
    if (a->softcap != 0 || a->slopes || a->sequences || a->lse || a->storage || a->weights || a->dropout != 0)
        return RV_ERR_PARAM;
    if (a->left != RV_UNBOUNDED || (a->right != RV_UNBOUNDED && a->right != 0) || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->mask_kind != RV_MASK_NONE && (a->mask_kind != RV_MASK_BOOL || a->mask.row_stride != 0))
        return RV_ERR_PARAM;
    if (a->offset > RV_FAR / 4 || a->offset < -RV_FAR / 4)
        return RV_ERR_PARAM;
    if (a->q_len < 0 || a->kv_len < 0 || a->heads < 0 || a->key_heads < 1 || a->value_heads < 1 || a->heads % a->key_heads
        || a->heads % a->value_heads || a->q_len > RV_FAR / 4 || a->kv_len > RV_FAR / 4)
        return RV_ERR_SHAPE;
    int64_t low = a->query.head_stride | a->query.row_stride | a->key.head_stride | a->key.row_stride | a->out.head_stride
                  | a->out.row_stride | a->value.head_stride | a->value.row_stride;
    *batch = 1;
    for (int i = 0; i < a->batch_axes; i++) {
        low |= a->query.batch_stride[i] | a->key.batch_stride[i] | a->out.batch_stride[i] | a->value.batch_stride[i];
        if (a->batch_shape[i] < 0 || rv_mul(*batch, a->batch_shape[i], batch))
            return RV_ERR_SHAPE;
    }
    if (!multiple(low, item))
        return RV_ERR_PARAM;
    if (rv_mul(*batch, a->heads, &size) || rv_mul(size, a->q_len > a->kv_len ? a->q_len + 1 : a->kv_len + 1, &size))
        return RV_ERR_SHAPE;
    return RV_OK;
}

static int64_t panelled(const rv_linear *l) { return (l->pad + RV_LINEAR_PANEL - 1) / RV_LINEAR_PANEL * RV_LINEAR_PANEL; }

/* The projection in the type of the arithmetic, transposed in panels, times `factor`. */
static void place_projection(const rv_linear *l, const double *from, double factor, void *to)
{
    for (int64_t f = 0; f < panelled(l); f++)
        for (int64_t d = 0; d < l->dim; d++) {
            double x = f < l->width ? from[f * l->dim + d] * factor : 0;
            int64_t at = (f / RV_LINEAR_PANEL * l->dim + d) * RV_LINEAR_PANEL + f % RV_LINEAR_PANEL;
            if (l->storage == RV_F64)
                ((double *)to)[at] = x;
            else
                ((float *)to)[at] = (float)x;
        }
}

/* ---- tasks ----------------------------------------------------------------------------------------------------- */

static int stopping(run *r, int worker)
{
    if (atomic_load_explicit(&r->stop, memory_order_relaxed))
        return 1;
    if (worker == 0 && r->a->interrupted) {
        int64_t now = rv_now_ms();
        if (now - r->last_poll >= RV_POLL_MS) {
            r->last_poll = now;
            if (r->a->interrupted(r->a->context))
                atomic_store(&r->stop, 1);
        }
    }
    return atomic_load_explicit(&r->stop, memory_order_relaxed);
}

static rv_linear_rows rows_of(const run *r, int64_t unit)
{
    const rv_attn_args *a = r->a;
    int64_t batch = unit / a->heads, head = unit % a->heads;
    rv_linear_rows x;
    x.query = rv_batch_row(a, &a->query, a->heads, batch, head, 0);
    x.key = rv_batch_row(a, &a->key, a->key_heads, batch, head, 0);
    x.value = rv_batch_row(a, &a->value, a->value_heads, batch, head, 0);
    x.out = rv_batch_row(a, &a->out, a->heads, batch, head, 0);
    x.mask = a->mask_kind ? rv_batch_row(a, &a->mask, a->heads, batch, head, 0) : NULL;
    x.query_stride = a->query.row_stride;
    x.key_stride = a->key.row_stride;
    x.value_stride = a->value.row_stride;
    x.out_stride = a->out.row_stride;
    x.mask_stride = a->mask_col_stride;
    return x;
}

static char *room_of(const run *r, int worker) { return r->scratch + (size_t)worker * r->worker_bytes; }
static double *state_of(const run *r, int64_t unit) { return (double *)((char *)r->a->state + (size_t)unit * r->state_bytes); }

/* Keys [first, last) into a state. */
static int add_keys(run *r, const rv_linear_rows *x, int worker, int64_t first, int64_t last, double *state, char *scratch)
{
    for (; first < last; first += PIECE) {
        if (stopping(r, worker))
            return 0;
        r->k->linear_keys(&r->l, x, first, min64(first + PIECE, last), state, scratch);
    }
    return 1;
}

static int answer(run *r, const rv_linear_rows *x, int worker, int64_t first, int64_t last, const void *view, char *scratch)
{
    for (; first < last; first += PIECE) {
        if (stopping(r, worker))
            return 0;
        r->k->linear_rows(&r->l, x, first, min64(first + PIECE, last), view, scratch);
    }
    return 1;
}

/* The state that a unit begins with. */
static void begin(const run *r, int64_t unit, double *state)
{
    if (r->a->state)
        memcpy(state, state_of(r, unit), r->state_bytes);
    else
        r->k->linear_begin(&r->l, state);
}

static void keep(const run *r, int64_t unit, const double *state)
{
    if (r->a->state)
        memcpy(state_of(r, unit), state, r->state_bytes);
}

static void causal_unit(run *r, int worker, int64_t unit)
{
    const rv_attn_args *a = r->a;
    rv_linear_rows x = rows_of(r, unit);
    char *scratch = room_of(r, worker), *view = scratch + r->scratch_bytes;
    double *state = (double *)(view + r->view_bytes);
    int64_t i = a->offset < 0 ? min64(-a->offset, a->q_len) : 0, j = a->offset < 0 ? 0 : min64(a->offset, a->kv_len);
    begin(r, unit, state);
    /* queries before the first key see the state alone */
    if (i > 0) {
        r->k->linear_view(&r->l, state, view);
        if (!answer(r, &x, worker, 0, i, view, scratch))
            return;
    }
    if (!add_keys(r, &x, worker, 0, j, state, scratch))
        return;
    while (i < a->q_len && j < a->kv_len) {
        if (stopping(r, worker))
            return;
        int n = (int)min64(RV_LINEAR_ROWS, min64(a->q_len - i, a->kv_len - j));
        n = r->k->linear_chunk(&r->l, &x, i, j, n, state, scratch);
        i += n;
        j += n;
    }
    if (!add_keys(r, &x, worker, j, a->kv_len, state, scratch))
        return;
    if (i < a->q_len) {
        r->k->linear_view(&r->l, state, view);
        if (!answer(r, &x, worker, i, a->q_len, view, scratch))
            return;
    }
    keep(r, unit, state);
}

/* Split s of a unit's keys into a state of its own. */
static int split_keys(run *r, const rv_linear_rows *x, int worker, int64_t s, double *state, char *scratch)
{
    r->k->linear_begin(&r->l, state);
    return add_keys(r, x, worker, s * r->split_keys, min64((s + 1) * r->split_keys, r->a->kv_len), state, scratch);
}

static void unit_task(void *context, int worker, int64_t unit)
{
    run *r = context;
    if (r->causal) {
        causal_unit(r, worker, unit);
        return;
    }
    rv_linear_rows x = rows_of(r, unit);
    char *scratch = room_of(r, worker), *view = scratch + r->scratch_bytes;
    double *state = (double *)(view + r->view_bytes), *part = (double *)(view + r->view_bytes + rounded(r->state_bytes));
    begin(r, unit, state);
    for (int64_t s = 0; s < r->splits; s++) {
        if (!split_keys(r, &x, worker, s, part, scratch))
            return;
        r->k->linear_merge(&r->l, state, part);
    }
    if (r->a->q_len) {
        r->k->linear_view(&r->l, state, view);
        if (!answer(r, &x, worker, 0, r->a->q_len, view, scratch))
            return;
    }
    keep(r, unit, state);
}

static double *part_of(const run *r, int64_t unit, int64_t split)
{
    return (double *)(r->states + (size_t)(unit * r->splits + split) * rounded(r->state_bytes));
}

static void split_task(void *context, int worker, int64_t task)
{
    run *r = context;
    int64_t unit = task / r->splits, s = task % r->splits;
    rv_linear_rows x = rows_of(r, unit);
    split_keys(r, &x, worker, s, part_of(r, unit, s), room_of(r, worker));
}

static void merge_task(void *context, int worker, int64_t unit)
{
    run *r = context;
    double *state = (double *)(room_of(r, worker) + r->scratch_bytes + r->view_bytes);
    begin(r, unit, state);
    for (int64_t s = 0; s < r->splits; s++)
        r->k->linear_merge(&r->l, state, part_of(r, unit, s));
    r->k->linear_view(&r->l, state, r->views + (size_t)unit * r->view_bytes);
    keep(r, unit, state);
}

static void rows_task(void *context, int worker, int64_t task)
{
    run *r = context;
    int64_t unit = task / r->blocks, first = task % r->blocks * TASK_ROWS;
    rv_linear_rows x = rows_of(r, unit);
    answer(r, &x, worker, first, min64(first + TASK_ROWS, r->a->q_len), r->views + (size_t)unit * r->view_bytes, room_of(r, worker));
}

static rv_status run_linear(rv_feature_map map, int64_t features, int orthogonal, const rv_attn_args *a)
{
    run r;
    rv_status status = check(a, &r.batch);
    if (status == RV_OK)
        status = sizes_of(&r.l, map, features, a->dim, a->v_dim, a->dtype);
    if (status != RV_OK)
        return status;
    if (features && (!(a->scale > 0) || !isfinite(a->scale) || (a->projection && a->projection_rows != features)))
        return RV_ERR_PARAM;
    r.units = r.batch * a->heads;
    if (r.units == 0 || (a->q_len == 0 && !a->state))
        return RV_OK;
    r.a = a;
    r.k = rv_kernels_get(a->dtype == RV_F64 ? RV_F64 : RV_F32);
    r.causal = a->right == 0;
    int64_t most = (a->kv_len + SPLITS - 1) / SPLITS;
    r.split_keys = most > SPLIT_KEYS ? (most + RV_LINEAR_CARRY - 1) / RV_LINEAR_CARRY * RV_LINEAR_CARRY : SPLIT_KEYS;
    r.splits = (a->kv_len + r.split_keys - 1) / r.split_keys;
    r.blocks = (a->q_len + TASK_ROWS - 1) / TASK_ROWS;
    size_t real = a->dtype == RV_F64 ? sizeof(double) : sizeof(float);
    r.scratch_bytes = rounded(r.k->linear_scratch(&r.l));
    r.view_bytes = rounded((size_t)rv_linear_view_size(&r.l) * real);
    r.state_bytes = (size_t)rv_linear_state_size(&r.l) * sizeof(double);
    r.worker_bytes = r.scratch_bytes + r.view_bytes + 2 * rounded(r.state_bytes);

    double each = (double)(r.l.parts * r.l.pad) * (double)r.l.v_pad * 2 + (features ? 2.0 * (double)a->dim * (double)r.l.pad : 40.0 * (double)a->dim);
    double ns = (double)r.units * ((double)a->q_len + (double)a->kv_len) * each * (r.causal ? 2.0 : 1.0) / 60;
    int threads = a->threads ? a->threads : rv_threads_get();
    if (threads > 1)
        threads = (int)min64(threads, ns < 1e12 ? 1 + (int64_t)(ns / THREAD_NS) : threads);
    /* few units: splits and rows are tasks of their own, to the same bits */
    int split = !r.causal && threads > 1 && r.units < 4 * (int64_t)threads && (r.splits > 1 || r.blocks > 1);
    if (!split)
        threads = (int)min64(threads, r.units);
    size_t bytes, more, projection = features ? rounded((size_t)a->dim * (size_t)panelled(&r.l) * real) : 0;
    size_t drawn = features && !a->projection ? (size_t)features * (size_t)a->dim * sizeof(double) : 0;
    char *memory;
    if (rv_mul_size((size_t)threads, r.worker_bytes, &bytes) || rv_add_size(bytes, projection + rounded(drawn) + 64, &bytes))
        return RV_ERR_NOMEM;
    if (split && (rv_mul_size((size_t)(r.units * r.splits), rounded(r.state_bytes), &more) || rv_add_size(bytes, more, &bytes)
                  || rv_mul_size((size_t)r.units, r.view_bytes, &more) || rv_add_size(bytes, more, &bytes)))
        return RV_ERR_NOMEM;
    if (!(memory = malloc(bytes)))
        return RV_ERR_NOMEM;
    char *at = memory + (64 - (uintptr_t)memory % 64) % 64;
    if (features) {
        const double *given = a->projection;
        double *own = (double *)(at + projection);
        if (!given) {
            status = rv_projection_draw(a->projection_seed, orthogonal, features, a->dim, own);
            given = own;
        }
        /* exponents are in base 2, angles in half turns */
        double root = rv_sqrt(a->scale), factor = map == RV_MAP_OF_WEIGHTS ? root * RV_LOG2E : root * 0.31830988618379067154;
        if (status == RV_OK)
            place_projection(&r.l, given, factor, at);
        r.l.projection = at;
        r.l.norm = a->scale * RV_LOG2E * 0.5;
        at += projection + rounded(drawn);
    }
    r.scratch = at;
    r.states = at + (size_t)threads * r.worker_bytes;
    r.views = r.states + (split ? (size_t)(r.units * r.splits) * rounded(r.state_bytes) : 0);
    r.last_poll = rv_now_ms();
    atomic_init(&r.stop, 0);
    if (status == RV_OK && !split) {
        status = rv_parallel_for(r.units, threads, unit_task, &r, a->interrupted, a->context);
    } else if (status == RV_OK) {
        status = rv_parallel_for(r.units * r.splits, threads, split_task, &r, a->interrupted, a->context);
        if (status == RV_OK && !atomic_load(&r.stop))
            status = rv_parallel_for(r.units, threads, merge_task, &r, a->interrupted, a->context);
        if (status == RV_OK && !atomic_load(&r.stop))
            status = rv_parallel_for(r.units * r.blocks, threads, rows_task, &r, a->interrupted, a->context);
    }
    if (atomic_load(&r.stop))
        status = RV_ERR_INTERRUPTED;
    free(memory);
    return status;
}

/* The engines of the catalogue, parameters in the order of attention.def. */
static int64_t features_of(const rv_attn_args *a) { return a->projection ? a->projection_rows : (int64_t)a->params[0]; }

rv_status rv_linear_run(const rv_attn_args *a)
{
    return a->params ? run_linear(a->params[0] != 0 ? RV_MAP_OF_RELU : RV_MAP_OF_ELU, 0, 0, a) : RV_ERR_PARAM;
}

rv_status rv_performer_run(const rv_attn_args *a)
{
    return a->params ? run_linear(RV_MAP_OF_WEIGHTS, features_of(a), a->params[1] != 0, a) : RV_ERR_PARAM;
}

rv_status rv_random_feature_run(const rv_attn_args *a)
{
    return a->params ? run_linear(RV_MAP_OF_ANGLES, features_of(a), a->params[1] != 0, a) : RV_ERR_PARAM;
}

/* ---- states ---------------------------------------------------------------------------------------------------- */

static rv_status state_sizes(rv_linear *l, int index, const double *params, int64_t rows, int64_t dim, int64_t v_dim, rv_dtype dtype)
{
    const rv_type *type = rv_type_at(index);
    if (!type || strcmp(type->family, "linear") || dtype < RV_F32 || dtype > RV_BF16)
        return RV_ERR_UNKNOWN;
    if (!strcmp(type->name, "linear"))
        return sizes_of(l, RV_MAP_OF_ELU, 0, dim, v_dim, dtype);
    if (rows == 0)
        rows = params[0] >= 1 && params[0] <= type->params[0].high ? (int64_t)params[0] : -1;
    return sizes_of(l, !strcmp(type->name, "performer") ? RV_MAP_OF_WEIGHTS : RV_MAP_OF_ANGLES, rows, dim, v_dim, dtype);
}

int64_t rv_linear_state(int index, const double *params, int64_t projection_rows, int64_t dim, int64_t v_dim, rv_dtype dtype)
{
    rv_linear l;
    return state_sizes(&l, index, params, projection_rows, dim, v_dim, dtype) == RV_OK ? rv_linear_state_size(&l) : 0;
}

rv_status rv_linear_begin(int index, const double *params, int64_t projection_rows, int64_t dim, int64_t v_dim, rv_dtype dtype,
                          int64_t count, double *state)
{
    rv_linear l;
    rv_status status = state_sizes(&l, index, params, projection_rows, dim, v_dim, dtype);
    for (int64_t i = 0; status == RV_OK && i < count; i++)
        rv_kernels_get(dtype == RV_F64 ? RV_F64 : RV_F32)->linear_begin(&l, state + i * rv_linear_state_size(&l));
    return status;
}
