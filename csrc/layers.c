/* Calls of normalisations and activations: checks, storage conversion, tasks. A row of a normalisation is one task's work. */
#include "kernels.h"
#include "sizes.h"
#include "thread.h"

#include <stdlib.h>

/* Elements a thread should have: some 20 us. */
#define RV_THREAD_ELEMENTS 131072

/* Elements converted at a time for 16-bit storage of activations. */
#define RV_CHUNK 2048

static int known(rv_dtype dtype) { return dtype >= RV_F32 && dtype <= RV_BF16; }

static int is_half(rv_dtype dtype) { return dtype == RV_F16 || dtype == RV_BF16; }

/* Rows or elements of a task: several tasks a thread, so that a slow core does not hold up the rest, each short enough to be
 * interrupted between two. */
static int64_t piece_of(int64_t count, int64_t size, int threads)
{
    int64_t piece = threads > 1 ? count / (4 * threads) + 1 : count, most = 8 * RV_THREAD_ELEMENTS / size + 1;
    return piece < most ? piece : most;
}

typedef struct norm_call {
    const rv_norm_args *a;
    const rv_kernels *k;
    int64_t piece;
    float *room;            /* 16-bit storage: a row for each worker */
} norm_call;

static void norm_task(void *context, int worker, int64_t task)
{
    const norm_call *c = context;
    const rv_norm_args *a = c->a;
    int64_t first = task * c->piece, rows = min64(a->rows - first, c->piece);
    const char *x = (const char *)a->x + first * a->x_stride;
    char *y = (char *)a->y + first * a->y_stride;
    if (!c->room) {
        c->k->norm_rows(x, a->x_stride, y, a->y_stride, rows, a->n, a->weight, a->bias, a->eps, a->centre);
        return;
    }
    float *row = c->room + (int64_t)worker * a->n;
    for (; rows > 0; rows--, x += a->x_stride, y += a->y_stride) {
        c->k->widen(a->dtype, x, row, a->n);
        c->k->norm_rows(row, 0, row, 0, 1, a->n, a->weight, a->bias, a->eps, a->centre);
        c->k->narrow(a->dtype, row, y, a->n);
    }
}

rv_status rv_norm_run(const rv_norm_args *a)
{
    int64_t elements, bytes;
    if (!known(a->dtype) || a->threads < 0 || !(a->eps >= 0) || a->eps - a->eps != 0)
        return RV_ERR_PARAM;
    if (a->rows < 0 || a->n < 0 || rv_mul(a->rows, a->n, &elements) || rv_mul(elements, 8, &bytes))
        return RV_ERR_SHAPE;
    if (elements == 0)
        return RV_OK;
    norm_call c = {a, rv_kernels_get(a->dtype), 0, NULL};
    int threads = rv_threads_for(a->threads, elements, RV_THREAD_ELEMENTS, a->rows);
    if (is_half(a->dtype)) {
        size_t room;
        if (rv_mul_size((size_t)a->n * sizeof(float), (size_t)threads, &room) || !(c.room = malloc(room)))
            return RV_ERR_NOMEM;
    }
    rv_status status = RV_OK;
    c.piece = piece_of(a->rows, a->n, threads);
    if (a->rows <= c.piece)
        norm_task(&c, 0, 0);
    else
        status = rv_parallel_for((a->rows - 1) / c.piece + 1, threads, norm_task, &c, a->interrupted, a->context);
    free(c.room);
    return status;
}

typedef struct activation_call {
    const rv_activation_args *a;
    const rv_kernels *k;
    int64_t n, piece;       /* elements of a run in memory; runs of a task */
    int64_t last;           /* elements of the last run */
    int64_t runs;
    int64_t x_stride, up_stride, y_stride;
} activation_call;

static void run_activation(const activation_call *c, const char *x, const char *up, char *y, int64_t n)
{
    const rv_activation_args *a = c->a;
    if (!is_half(a->dtype)) {
        c->k->activate(a->f, x, up, y, n);
        return;
    }
    float room[RV_CHUNK], by[RV_CHUNK];
    for (int64_t i = 0; i < n; i += RV_CHUNK) {
        int64_t count = min64(n - i, RV_CHUNK);
        c->k->widen(a->dtype, x + 2 * i, room, count);
        if (up)
            c->k->widen(a->dtype, up + 2 * i, by, count);
        c->k->activate(a->f, room, up ? by : NULL, room, count);
        c->k->narrow(a->dtype, room, y + 2 * i, count);
    }
}

static void activation_task(void *context, int worker, int64_t task)
{
    const activation_call *c = context;
    const rv_activation_args *a = c->a;
    int64_t first = task * c->piece, end = min64(first + c->piece, c->runs);
    (void)worker;
    for (int64_t i = first; i < end; i++)
        run_activation(c, (const char *)a->x + i * c->x_stride, a->up ? (const char *)a->up + i * c->up_stride : NULL,
                       (char *)a->y + i * c->y_stride, i == c->runs - 1 ? c->last : c->n);
}

rv_status rv_activation_run(const rv_activation_args *a)
{
    int64_t elements, bytes;
    if (!known(a->dtype) || a->f < RV_GELU || a->f > RV_SILU || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->rows < 0 || a->n < 0 || rv_mul(a->rows, a->n, &elements) || rv_mul(elements, 8, &bytes))
        return RV_ERR_SHAPE;
    if (elements == 0)
        return RV_OK;
    activation_call c = {a, rv_kernels_get(a->dtype), a->n, 0, a->n, a->rows, a->x_stride, a->up_stride, a->y_stride};
    int64_t row = a->n * (int64_t)rv_dtype_size(a->dtype);
    if (a->rows == 1 || (a->x_stride == row && a->y_stride == row && (!a->up || a->up_stride == row))) {
        /* one stretch of memory: cut where it suits the cache */
        c.n = min64(elements, 8 * RV_CHUNK);
        c.runs = (elements - 1) / c.n + 1;
        c.last = elements - (c.runs - 1) * c.n;
        c.x_stride = c.up_stride = c.y_stride = c.n * (int64_t)rv_dtype_size(a->dtype);
    }
    int threads = rv_threads_for(a->threads, elements, RV_THREAD_ELEMENTS, c.runs);
    c.piece = piece_of(c.runs, c.n, threads);
    if (c.runs <= c.piece) {
        activation_task(&c, 0, 0);
        return RV_OK;
    }
    return rv_parallel_for((c.runs - 1) / c.piece + 1, threads, activation_task, &c, a->interrupted, a->context);
}
