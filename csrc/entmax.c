/* Calls of entmax: checks, storage conversion, tasks. A task is whole rows: one thread works on a row. */
#include "kernels.h"
#include "sizes.h"
#include "thread.h"

#include <stdlib.h>

/* Elements a thread should have: about 20 us. */
#define RV_THREAD_ELEMENTS 65536

/* Elements that a row of candidates may be longer than the row: more than the lanes of any instruction set. */
#define RV_ROOM_TAIL 16

typedef struct call {
    const rv_entmax_args *a;
    const rv_kernels *k;
    int half;
    int64_t piece;          /* rows of a task */
    size_t room_bytes;      /* of a worker: candidates, and with 16-bit storage a row */
    char *room;
} call;

static void rows_task(void *context, int worker, int64_t task)
{
    const call *c = context;
    const rv_entmax_args *a = c->a;
    int64_t first = task * c->piece, last = first + c->piece < a->rows ? first + c->piece : a->rows;
    const char *x = (const char *)a->x + first * a->x_stride;
    char *y = (char *)a->y + first * a->y_stride, *room = c->room + (size_t)worker * c->room_bytes;
    if (!c->half) {
        c->k->entmax_rows(x, a->x_stride, y, a->y_stride, last - first, a->n, a->alpha, room);
        return;
    }
    float *row = (float *)room + a->n + RV_ROOM_TAIL;
    for (; first < last; first++, x += a->x_stride, y += a->y_stride) {
        c->k->widen(a->dtype, x, row, a->n);
        c->k->entmax_rows(row, 0, row, 0, 1, a->n, a->alpha, room);
        c->k->narrow(a->dtype, row, y, a->n);
    }
}

rv_status rv_entmax_run(const rv_entmax_args *a)
{
    int64_t elements, bytes;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->threads < 0 || !(a->alpha >= 1 && a->alpha <= RV_ENTMAX_MOST))
        return RV_ERR_PARAM;
    if (a->rows < 0 || a->n < 0 || rv_mul(a->rows, a->n, &elements) || rv_mul(elements, 16, &bytes))
        return RV_ERR_SHAPE;
    if (elements == 0)
        return RV_OK;
    if (a->alpha == 1) {
        rv_softmax_args s = {.dtype = a->dtype, .x = a->x, .y = a->y, .rows = a->rows, .n = a->n, .x_stride = a->x_stride,
                             .y_stride = a->y_stride, .threads = a->threads, .interrupted = a->interrupted, .context = a->context};
        return rv_softmax_run(&s);
    }
    call c = {.a = a, .k = rv_kernels_get(a->dtype), .half = a->dtype == RV_F16 || a->dtype == RV_BF16};
    int threads = rv_threads_for(a->threads, elements, RV_THREAD_ELEMENTS, a->rows);
    size_t row, room;
    if (rv_add_size((size_t)a->n, RV_ROOM_TAIL, &row) || rv_mul_size(row, c.half ? 2 * sizeof(float) : rv_dtype_size(a->dtype), &row) ||
        rv_add_size(row, 64, &c.room_bytes) || rv_mul_size(c.room_bytes, (size_t)threads, &room) || !(c.room = malloc(room)))
        return RV_ERR_NOMEM;
    /* several pieces a thread, so that a slow core does not hold up the rest */
    rv_status status = RV_OK;
    c.piece = threads > 1 ? a->rows / (4 * threads) + 1 : a->rows;
    if (a->n * c.piece > 8 * RV_THREAD_ELEMENTS)
        c.piece = 8 * RV_THREAD_ELEMENTS / a->n + 1;
    if (a->rows <= c.piece)
        rows_task(&c, 0, 0);
    else
        status = rv_parallel_for((a->rows - 1) / c.piece + 1, threads, rows_task, &c, a->interrupted, a->context);
    free(c.room);
    return status;
}
