/* Attention by hyperbolic distances: weights are the softmax of -scale * distance + bias. Values are averaged where the average is
 * linear, on the hyperboloid: a point of the ball has the coordinates (l v, l - 1) there, l = 2 / (1 - c|v|^2), up to a factor, and
 * the normed average is the Moebius gyromidpoint, on the hyperboloid itself the Lorentz centroid. So the double table's tile kernel
 * does the softmax and the sums, its logits coming as a mask, with one column more than the points have. */
#include "batch.h"
#include "hyp_points.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct attn {
    const rv_attn_args *a;
    rv_geometry geometry;
    int time;
    const rv_kernels *wide;         /* of doubles */
    rv_attn_options options;        /* of the wide tiles, to which every window is open */
    int64_t left, right;
    int64_t batch, task_rows, tiles;
    int tile_q, sub_tiles;
    size_t tile_bytes, room_bytes, scratch_bytes;
    char *scratch;
    int64_t last_poll;
    atomic_int stop, fault;
} attn;

/* Room of one thread beside that of distances. */
typedef struct attn_room {
    rv_hyp_room m;
    rv_pair *weights, *norms;       /* of the queries */
    double *logits;                 /* [task_rows][BLOCK], or [task_rows][kv_len] */
    double *values;                 /* [BLOCK][columns] */
    double *out;                    /* [task_rows][columns] */
    char *tiles;
    size_t bytes;
} attn_room;

static int64_t columns(const attn *r) { return r->a->v_dim - r->time + 1; }

static attn_room attn_room_of(const attn *r, const rv_hyp_space *sp, char *base)
{
    attn_room x;
    char *p[5];
    const rv_attn_args *a = r->a;
    int64_t dim = (a->v_dim > a->dim && !a->weights ? a->v_dim : a->dim), rows = r->task_rows;
    size_t n = a->weights ? 0 : (size_t)columns(r) * sizeof(double), at;
    x.m = rv_hyp_room_of(sp, dim, 1, base);
    at = x.m.bytes;
    at = rv_hyp_place(base, p, at, (size_t)rows * sizeof(rv_pair));
    at = rv_hyp_place(base, p + 1, at, (size_t)rows * sizeof(rv_pair));
    at = rv_hyp_place(base, p + 2, at, (size_t)rows * (size_t)(a->weights ? a->kv_len : BLOCK) * sizeof(double));
    at = rv_hyp_place(base, p + 3, at, BLOCK * n);
    at = rv_hyp_place(base, p + 4, at, (size_t)rows * n);
    at = rv_hyp_place(base, &x.tiles, at, (size_t)r->sub_tiles * r->tile_bytes);
    x.weights = (rv_pair *)p[0];
    x.norms = (rv_pair *)p[1];
    x.logits = (double *)p[2];
    x.values = (double *)p[3];
    x.out = (double *)p[4];
    x.bytes = at;
    return x;
}

static double curvature_of(const rv_attn_args *a, int64_t batch, int64_t head)
{
    return a->numbers[rv_batch_offset(a, a->numbers_batch_stride, batch) + head * a->numbers_head_stride];
}

/* The space of queries and keys, or of values. */
static void head_space(const attn *r, rv_hyp_space *sp, int64_t dim, int64_t batch, int64_t head)
{
    rv_hyp_space_of(sp, r->geometry, r->a->dtype, dim, r->time, curvature_of(r->a, batch, head));
}

static const char *mask_row(const rv_attn_args *a, int64_t batch, int64_t head, int64_t row)
{
    return a->mask_kind ? rv_batch_row(a, &a->mask, a->heads, batch, head, row) : NULL;
}

/* What the mask adds to the logit of one key: 0 or -infinity for a boolean one. */
static double mask_bias(const rv_attn_args *a, const char *mask, int64_t key)
{
    const char *p = mask + key * a->mask_col_stride;
    if (a->mask_kind == RV_MASK_BOOL)
        return *p ? 0 : -INFINITY;
    return a->dtype == RV_F64 ? *(const double *)p : (double)*(const float *)p;
}

/* Whether some query sees key j. */
static int seen(const attn *r, int64_t batch, int64_t head, int64_t j)
{
    const rv_attn_args *a = r->a;
    for (int64_t i = 0; i < a->q_len; i++) {
        int64_t position = i + a->offset;
        if (j >= position - r->left && j <= position + r->right
            && (!a->mask_kind || mask_bias(a, mask_row(a, batch, head, i), j) != -INFINITY))
            return 1;
    }
    return 0;
}

/* The first row of an input of one head that is no point and that matters; returns nonzero when there is one. */
static int check_rows(const attn *r, const attn_room *x, int array, int64_t batch, int64_t head, rv_fault *fault)
{
    const rv_attn_args *a = r->a;
    const rv_array *arrays[] = {&a->query, &a->key, &a->value};
    const int64_t own[] = {a->heads, a->key_heads, a->value_heads};
    int64_t total = array ? a->kv_len : a->q_len, rows_stride = arrays[array]->row_stride;
    rv_hyp_space sp;
    head_space(r, &sp, array == 2 ? a->v_dim : a->dim, batch, head);
    for (int64_t first = 0; first < total; first += BLOCK) {
        int count = (int)min64(BLOCK, total - first);
        int64_t stride = rows_stride;
        const char *rows = rv_batch_row(a, arrays[array], own[array], batch, head, first);
        const char *points = rv_hyp_reals(&sp, rows, &stride, count, x->m.b);
        if (!rv_hyp_weigh_panel(&sp, rows, rows_stride, points, stride, count, x->m.panel, x->m.norms, x->m.weights, NULL))
            continue;
        for (int i = 0; i < count; i++)
            if (rv_hyp_weigh_panel(&sp, rows + i * rows_stride, rows_stride, points + i * stride, stride, 1, x->m.panel, x->m.norms,
                            x->m.weights, fault)
                && (array == 0 || seen(r, batch, head, first + i))) {
                fault->array = array;
                fault->row = (batch * a->heads + head) * total + first + i;
                return 1;
            }
    }
    return 0;
}

static int check_head(const attn *r, int worker, int64_t unit, rv_fault *fault)
{
    const rv_attn_args *a = r->a;
    rv_hyp_space sp;
    head_space(r, &sp, a->dim, unit / a->heads, unit % a->heads);
    attn_room x = attn_room_of(r, &sp, r->scratch + (size_t)worker * r->scratch_bytes);
    for (int array = 0; array < (a->weights ? 2 : 3); array++)
        if (check_rows(r, &x, array, unit / a->heads, unit % a->heads, fault))
            return 1;
    return 0;
}

static void check_task(void *context, int worker, int64_t task)
{
    attn *r = context;
    rv_fault fault;
    if (!atomic_load(&r->fault) && check_head(r, worker, task, &fault))
        atomic_store(&r->fault, 1);
}

/* As in attention.c: another thread's interrupt or, now and then, the caller's. */
static int stopping(attn *r, int worker)
{
    if (atomic_load_explicit(&r->stop, memory_order_relaxed))
        return 1;
    if (worker == 0 && r->a->interrupted && rv_now_ms() - r->last_poll >= RV_POLL_MS) {
        r->last_poll = rv_now_ms();
        if (r->a->interrupted(r->a->context))
            atomic_store(&r->stop, 1);
    }
    return atomic_load(&r->stop);
}

/* Distances of one row to keys [j0, j0 + n) as logits, -infinity where they are hidden. */
static void logits_of(const attn *r, int64_t batch, int64_t head, int64_t row, int64_t j0, int n, const char *distances,
                      double *to)
{
    const rv_attn_args *a = r->a;
    const double scale = -a->scale;
    int64_t position = row + a->offset, from = position - r->left - j0, end = position + r->right + 1 - j0;
    if (a->dtype == RV_F64)
        for (int j = 0; j < n; j++)
            to[j] = scale * ((const double *)distances)[j];
    else
        for (int j = 0; j < n; j++)
            to[j] = scale * (double)((const float *)distances)[j];
    if (a->mask_kind) {
        const char *mask = mask_row(a, batch, head, row);
        for (int j = 0; j < n; j++) {
            double bias = mask_bias(a, mask, j0 + j);
            /* not a sum: a hidden distance may be NaN */
            to[j] = bias == -INFINITY ? bias : to[j] + bias;
        }
    }
    for (int j = 0; j < n && j < from; j++)
        to[j] = -INFINITY;
    for (int j = end < 0 ? 0 : (int)min64(end, n); j < n; j++)
        to[j] = -INFINITY;
    if (r->options.dropout_below) {
        /* the average is a ratio, in which the factor of the kept weights cancels: a dropped key is a hidden one */
        uint64_t key = rv_draw_row(r->options.dropout_seed, (batch * a->heads + head) * a->q_len + row);
        for (int j = 0; j < n; j++)
            if (rv_draw(key, j0 + j) < r->options.dropout_below)
                to[j] = -INFINITY;
    }
}

/* Logits of `rows` queries against keys [j0, j0 + n), rows `step` doubles apart. */
static void block_logits(const attn *r, const rv_hyp_space *sp, const attn_room *x, int64_t batch, int64_t head, int64_t row, int rows,
                         const char *queries, int64_t q_stride, int64_t j0, int n, double *logits, int64_t step)
{
    const rv_attn_args *a = r->a;
    int64_t stride = a->key.row_stride, line = BLOCK * sp->real;
    const char *keys = rv_batch_row(a, &a->key, a->key_heads, batch, head, j0), *points = rv_hyp_reals(sp, keys, &stride, n, x->m.b);
    const rv_pair *norms = r->geometry == RV_POINCARE ? x->norms : NULL;
    rv_hyp_weigh_panel(sp, keys, a->key.row_stride, points, stride, n, x->m.panel, x->m.norms, x->m.weights, NULL);
    for (int i = 0; i < rows; i += ROWS) {
        int count = (int)min64(ROWS, rows - i);
        if (rows < FEW)
            for (int q = 0; q < rows; q++)
                sp->k->hyp_rows(x->m.x + q * sp->pad, 0, points, stride, n, sp->dim, x->m.sums + q * RV_HYP_WIDE * sp->real,
                                x->m.norms);
        else
            sp->k->hyp_sums(x->m.x + i * sp->pad, sp->pad, count, norms ? norms + i : NULL, x->m.panel, x->m.norms, n, sp->dim,
                            x->m.sums);
        rv_hyp_finish(sp, queries + i * q_stride, q_stride, count, x->weights + i, NULL, points, stride, n, x->m.sums, x->m.weights,
               x->m.out, line);
        for (int q = 0; q < count; q++)
            logits_of(r, batch, head, row + i + q, j0, n, x->m.out + q * line, logits + (i + q) * step);
    }
}

/* Values of keys [j0, j0 + n) on the hyperboloid, the time last, up to a factor. */
static void block_values(const attn *r, const rv_hyp_space *sp, const attn_room *x, int64_t batch, int64_t head, int64_t j0, int n)
{
    const rv_attn_args *a = r->a;
    int64_t stride = a->value.row_stride;
    const char *rows = rv_batch_row(a, &a->value, a->value_heads, batch, head, j0), *points = rv_hyp_reals(sp, rows, &stride, n, x->m.b);
    double *to = x->values;
    rv_hyp_weigh_panel(sp, rows, a->value.row_stride, points, stride, n, x->m.panel, x->m.norms, x->m.weights, NULL);
    for (int j = 0; j < n; j++, to += sp->dim + 1) {
        rv_pair w;
        sp->k->hyp_get(x->m.weights, j, &w);
        double factor = r->geometry == RV_POINCARE ? 2 * w.head * sp->hyp.radius.head : 1;
        for (int64_t d = 0; d < sp->dim; d++)
            to[d] = factor * rv_hyp_element(sp, points + j * stride, d);
        to[sp->dim] = r->geometry == RV_POINCARE ? factor - 1 : w.head;
    }
}

/* The point whose coordinates on the hyperboloid are these up to a factor, stored. Rounding may put a point on the sphere: it is
 * moved back by as little. */
static void store_point(const attn *r, const rv_hyp_space *sp, double *x, char *to, char *room)
{
    const double c = sp->hyp.curvature.head, top = sp->top.head, p = x[sp->dim];
    const double unit = sp->dtype == RV_F64 ? 0x1p-53 : sp->dtype == RV_F32 ? 0x1p-24 : sp->dtype == RV_F16 ? 0x1p-11 : 0x1p-8;
    double norm = 0;
    for (int64_t d = 0; d < sp->dim; d++)
        norm += x[d] * x[d];
    norm = rv_sqrt(norm);
    if (r->geometry == RV_POINCARE) {
        /* of an average with positive weights this is at least 1 */
        double square = (p - top * norm) * (p + top * norm), factor = 1 / (p + rv_sqrt(square < 1 ? 1 : square));
        for (int64_t d = 0; d < sp->dim; d++)
            x[d] *= factor;
    } else {
        double square = c * (p - norm) * (p + norm), factor = 1 / rv_sqrt(square < 1 ? 1 : square);
        norm = 0;
        for (int64_t d = 0; d < sp->dim; d++) {
            x[d] *= factor;
            norm += x[d] * x[d];
        }
        x[sp->dim] = rv_sqrt(1 / c + norm);
    }
    for (double shrink = 1;; shrink -= 2 * unit) {
        char *row = is_half(sp->dtype) ? room : to + sp->skip;
        double inside = 0;
        for (int64_t d = 0; d < sp->dim; d++) {
            double y = x[d] * shrink;
            if (sp->compute == RV_F64)
                ((double *)row)[d] = y;
            else
                ((float *)row)[d] = (float)y;
        }
        if (is_half(sp->dtype)) {
            sp->k->narrow(sp->dtype, room, to + sp->skip, sp->dim);
            sp->k->widen(sp->dtype, to + sp->skip, room, sp->dim);
        }
        for (int64_t d = 0; d < sp->dim; d++)
            inside += rv_hyp_element(sp, row, d) * rv_hyp_element(sp, row, d);
        if (r->geometry == RV_LORENTZ || !(c * inside >= 1 - 0x1p-50))
            break;
    }
    if (sp->skip) {
        if (sp->dtype == RV_F64) {
            *(double *)to = x[sp->dim];
        } else {
            float time = (float)x[sp->dim];
            if (sp->dtype == RV_F32)
                *(float *)to = time;
            else
                sp->k->narrow(sp->dtype, &time, to, 1);
        }
    }
}

static void attn_task(void *context, int worker, int64_t task)
{
    attn *r = context;
    const rv_attn_args *a = r->a;
    if (stopping(r, worker))
        return;
    /* late tiles first: under a causal mask they are the heaviest */
    int64_t tile = r->tiles - 1 - task % r->tiles, head = task / r->tiles % a->heads, batch = task / r->tiles / a->heads;
    int64_t row = tile * r->task_rows, q_stride = a->query.row_stride;
    int rows = (int)min64(r->task_rows, a->q_len - row);
    rv_hyp_space sp, value_space;
    head_space(r, &sp, a->dim, batch, head);
    attn_room x = attn_room_of(r, &sp, r->scratch + (size_t)worker * r->scratch_bytes);
    const char *given = rv_batch_row(a, &a->query, a->heads, batch, head, row);
    const char *queries = rv_hyp_reals(&sp, given, &q_stride, rows, x.m.a);
    rv_hyp_weigh_panel(&sp, given, a->query.row_stride, queries, q_stride, rows, x.m.panel, x.m.norms, x.m.weights, NULL);
    for (int i = 0; i < rows; i++) {
        sp.k->hyp_get(x.m.weights, i, x.weights + i);
        sp.k->hyp_get(x.m.norms, i, x.norms + i);
    }
    sp.k->hyp_pad(queries, q_stride, rows, sp.dim, sp.pad, x.m.x);

    if (a->weights) {
        for (int64_t j0 = 0; j0 < a->kv_len; j0 += BLOCK) {
            if (stopping(r, worker))
                return;
            block_logits(r, &sp, &x, batch, head, row, rows, queries, q_stride, j0, (int)min64(BLOCK, a->kv_len - j0),
                         x.logits + j0, a->kv_len);
        }
        for (int i = 0; i < rows; i++) {
            double *p = x.logits + i * a->kv_len;
            char *to = rv_batch_row(a, &a->out, a->heads, batch, head, row + i);
            int64_t j = 0;
            while (j < a->kv_len && p[j] == -INFINITY)
                j++;
            if (j < a->kv_len)
                r->wide->softmax_rows(p, 0, p, 0, 1, a->kv_len, 0);
            else
                memset(p, 0, (size_t)a->kv_len * sizeof(double));
            if (a->dtype == RV_F64) {
                memcpy(to, p, (size_t)a->kv_len * sizeof(double));
                continue;
            }
            for (j = 0; j < a->kv_len; j += BLOCK) {
                float some[BLOCK];
                int n = (int)min64(BLOCK, a->kv_len - j);
                for (int k = 0; k < n; k++)
                    some[k] = (float)p[j + k];
                if (a->dtype == RV_F32)
                    memcpy(to + 4 * j, some, (size_t)n * 4);
                else
                    sp.k->narrow(a->dtype, some, to + 2 * j, n);
            }
        }
        return;
    }

    static const double zero = 0;
    int64_t width = columns(r);
    rv_tile tiles[BLOCK];
    int count = (rows + r->tile_q - 1) / r->tile_q;
    head_space(r, &value_space, a->v_dim, batch, head);
    for (int i = 0; i < count; i++) {
        rv_tile *t = tiles + i;
        memset(t, 0, sizeof *t);
        t->options = &r->options;
        t->query = t->key = (const char *)&zero;
        t->value = (const char *)x.values;
        t->value_stride = width;
        t->mask = (const char *)(x.logits + i * r->tile_q * BLOCK);
        t->rows = (int)min64(r->tile_q, rows - i * r->tile_q);
        t->out = (char *)(x.out + i * r->tile_q * width);
        t->out_stride = width;
        t->draw_step = 1;
        t->scratch = x.tiles + (size_t)i * r->tile_bytes;
        r->wide->tile_begin(t);
    }
    int64_t position = row + a->offset, first = position - r->left, last = position + rows + r->right;
    first = first < 0 ? 0 : min64(first, a->kv_len);
    last = last < first ? first : min64(last, a->kv_len);
    for (int64_t j0 = first; j0 < last; j0 += BLOCK) {
        int n = (int)min64(BLOCK, last - j0);
        if (stopping(r, worker))
            return;
        block_logits(r, &sp, &x, batch, head, row, rows, queries, q_stride, j0, n, x.logits, BLOCK);
        block_values(r, &value_space, &x, batch, head, j0, n);
        for (int i = 0; i < count; i++)
            r->wide->tile_keys(tiles + i, 0, n);
    }
    for (int i = 0; i < count; i++)
        r->wide->tile_finish(tiles + i);
    for (int i = 0; i < rows; i++)
        store_point(r, &value_space, x.out + i * width, rv_batch_row(a, &a->out, a->heads, batch, head, row + i), x.m.b);
}

static rv_status check_attn(const rv_attn_args *a, int time, int64_t *batch)
{
    int64_t item = (int64_t)rv_dtype_size(a->dtype), size;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->batch_axes < 0 || a->batch_axes > RV_MAX_BATCH_AXES || !a->numbers || !a->fault)
        return RV_ERR_PARAM;
    /* what other engines do with these has no meaning here */
    if (a->softcap != 0 || a->slopes || a->sequences || a->lse || a->storage)
        return RV_ERR_PARAM;
    if (!isfinite(a->scale) || !(a->dropout >= 0 && a->dropout < 1) || a->left < 0 || a->right < 0 || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->offset > RV_FAR / 4 || a->offset < -RV_FAR / 4 || a->mask_kind < RV_MASK_NONE || a->mask_kind > RV_MASK_FLOAT)
        return RV_ERR_PARAM;
    if (a->q_len < 0 || a->kv_len < 0 || a->heads < 0 || a->key_heads < 1 || a->value_heads < 1 || a->heads % a->key_heads
        || a->heads % a->value_heads || a->dim < 1 + time || a->q_len > RV_FAR / 4 || a->kv_len > RV_FAR / 4)
        return RV_ERR_SHAPE;
    if (a->dim > INT32_MAX / 64 || a->v_dim > INT32_MAX / 64 || (!a->weights && a->v_dim < 1 + time))
        return RV_ERR_SHAPE;
    int64_t low = a->query.head_stride | a->query.row_stride | a->key.head_stride | a->key.row_stride | a->out.head_stride
                  | a->out.row_stride | (a->weights ? 0 : a->value.head_stride | a->value.row_stride);
    *batch = 1;
    for (int i = 0; i < a->batch_axes; i++) {
        low |= a->query.batch_stride[i] | a->key.batch_stride[i] | a->out.batch_stride[i];
        low |= a->weights ? 0 : a->value.batch_stride[i];
        if (a->batch_shape[i] < 0 || rv_mul(*batch, a->batch_shape[i], batch))
            return RV_ERR_SHAPE;
    }
    if (!multiple(low, item))
        return RV_ERR_PARAM;
    if (rv_mul(*batch, a->heads, &size) || rv_mul(size, a->q_len > a->kv_len ? a->q_len : a->kv_len, &size))
        return RV_ERR_SHAPE;
    for (int64_t b = 0; b < *batch; b++)
        for (int64_t h = 0; h < a->heads; h++)
            if (curvature_of(a, b, h) == 0 || !isfinite(curvature_of(a, b, h)))
                return RV_ERR_PARAM;
    return RV_OK;
}

static rv_status run_attn(rv_geometry geometry, int time, const rv_attn_args *a)
{
    attn r;
    rv_hyp_space sp;
    rv_status status = check_attn(a, time, &r.batch);
    if (status != RV_OK || r.batch == 0 || a->heads == 0 || a->q_len == 0 || (a->weights && a->kv_len == 0))
        return status;
    r.a = a;
    r.geometry = geometry;
    r.time = time;
    r.wide = rv_kernels_get(RV_F64);
    r.left = min64(a->left, RV_FAR);
    r.right = min64(a->right, RV_FAR);
    rv_attn_options *o = &r.options;
    memset(o, 0, sizeof *o);
    o->storage = RV_F64;
    o->dim = 1;
    o->v_dim = a->weights ? 1 : columns(&r);
    o->block_keys = BLOCK;
    o->left = o->right = RV_FAR;
    o->mask_kind = RV_MASK_FLOAT;
    o->mask_row_bytes = BLOCK * sizeof(double);
    o->mask_col_bytes = sizeof(double);
    o->dropout_seed = a->dropout_seed;
    o->dropout_below = a->weights ? 0 : (uint64_t)(a->dropout * 4294967296.0);
    r.tile_q = (int)min64(r.wide->tile_rows(), BLOCK);
    /* tiles of a task share its blocks of keys and values */
    r.sub_tiles = a->weights ? 0 : r.tile_q < 48 ? 48 / r.tile_q : 1;
    r.task_rows = a->weights ? ROWS : r.sub_tiles * r.tile_q;
    r.tiles = (a->q_len + r.task_rows - 1) / r.task_rows;
    r.tile_bytes = a->weights ? 0 : r.wide->tile_scratch(o);
    int64_t units = r.batch * a->heads, tasks = units * r.tiles;
    double ns = (double)units * (double)a->q_len * (double)a->kv_len * (double)(a->dim + a->v_dim + 20) * 0.05;
    int threads = a->threads ? a->threads : rv_threads_get();
    if (threads > 1)
        threads = (int)min64(threads, ns < 1e12 ? 1 + (int64_t)(ns / THREAD_NS) : threads);
    threads = (int)min64(threads, tasks);
    head_space(&r, &sp, a->dim, 0, 0);
    r.scratch_bytes = attn_room_of(&r, &sp, NULL).bytes;
    size_t bytes;
    char *memory;
    if (rv_mul_size((size_t)threads, r.scratch_bytes, &bytes) || rv_add_size(bytes, 64, &bytes) || !(memory = malloc(bytes)))
        return RV_ERR_NOMEM;
    r.scratch = memory + (64 - (uintptr_t)memory % 64) % 64;
    r.last_poll = rv_now_ms();
    atomic_init(&r.stop, 0);
    atomic_init(&r.fault, 0);
    status = rv_parallel_for(units, threads, check_task, &r, a->interrupted, a->context);
    if (status == RV_OK && atomic_load(&r.fault)) {
        int64_t unit = 0;
        while (!check_head(&r, 0, unit, a->fault))
            unit++;
        status = RV_ERR_POINT;
    }
    if (status == RV_OK) {
        status = rv_parallel_for(tasks, threads, attn_task, &r, a->interrupted, a->context);
        if (atomic_load(&r.stop))
            status = RV_ERR_INTERRUPTED;
    }
    free(memory);
    return status;
}

/* The engines of the catalogue. */
rv_status rv_poincare_run(const rv_attn_args *args) { return run_attn(RV_POINCARE, 0, args); }

/* The second parameter of the type: points have no time component. */
rv_status rv_lorentz_run(const rv_attn_args *args)
{
    return args->params ? run_attn(RV_LORENTZ, args->params[1] == 0, args) : RV_ERR_PARAM;
}
