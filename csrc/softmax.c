/* Calls of softmax and log-softmax: checks, storage conversion, tasks. A row longer than RV_PART is done in parts, each with
 * its own largest element, which are then scaled to the row's: so every thread works on a single row, and its bits do not
 * depend on how many there are. */
#include "kernels.h"
#include "scalar_math.h"
#include "sizes.h"
#include "thread.h"

#include <stdlib.h>

/* Elements of a part: its exponentials are still in the second-level cache when they are scaled on one thread. */
#define RV_PART 32768

/* Elements a thread should have: about 20 us. */
#define RV_THREAD_ELEMENTS 131072

typedef struct call {
    const rv_softmax_args *a;
    const rv_kernels *k;
    int half;
    int64_t item, parts, piece;     /* parts of a row; rows (whole rows) of a task */
    float *room;                    /* 16-bit storage: a row or part for each worker */
    double *max, *sum;              /* [rows][parts]; then the factor or shift of each part */
} call;

/* Whole rows. */
static void rows_task(void *context, int worker, int64_t task)
{
    const call *c = context;
    const rv_softmax_args *a = c->a;
    int64_t first = task * c->piece, last = first + c->piece < a->rows ? first + c->piece : a->rows;
    const char *x = (const char *)a->x + first * a->x_stride;
    char *y = (char *)a->y + first * a->y_stride;
    if (!c->half) {
        c->k->softmax_rows(x, a->x_stride, y, a->y_stride, last - first, a->n, a->log);
        return;
    }
    float *row = c->room + (int64_t)worker * a->n;
    for (; first < last; first++, x += a->x_stride, y += a->y_stride) {
        c->k->widen(a->dtype, x, row, a->n);
        c->k->softmax_rows(row, 0, row, 0, 1, a->n, a->log);
        c->k->narrow(a->dtype, row, y, a->n);
    }
}

typedef struct part {
    const char *x;
    char *y;
    int64_t n;
} part;

static part part_of(const call *c, int64_t task)
{
    const rv_softmax_args *a = c->a;
    int64_t row = task / c->parts, at = task % c->parts * RV_PART;
    part p = {(const char *)a->x + row * a->x_stride + at * c->item, (char *)a->y + row * a->y_stride + at * c->item,
              a->n - at < RV_PART ? a->n - at : RV_PART};
    return p;
}

static void sum_task(void *context, int worker, int64_t task)
{
    const call *c = context;
    part p = part_of(c, task);
    float *room = c->room + (int64_t)worker * RV_PART;
    if (c->half)
        c->k->widen(c->a->dtype, p.x, room, p.n);
    c->sum[task] = c->k->softmax_part(c->half ? (const void *)room : p.x, p.y, p.n, !c->half && !c->a->log, c->max + task);
}

/* Exponentials of 16-bit storage are computed again: they had no place to stay. */
static void finish_task(void *context, int worker, int64_t task)
{
    const call *c = context;
    part p = part_of(c, task);
    float *room = c->room + (int64_t)worker * RV_PART;
    const void *x = p.x;
    void *y = p.y;
    double max;
    if (c->half) {
        c->k->widen(c->a->dtype, p.x, room, p.n);
        x = y = room;
    }
    if (c->a->log) {
        c->k->softmax_shift(x, y, p.n, c->max[task], c->sum[task]);
    } else {
        if (c->half)
            c->k->softmax_part(x, y, p.n, 1, &max);
        c->k->softmax_scale(y, p.n, c->sum[task]);
    }
    if (c->half)
        c->k->narrow(c->a->dtype, room, p.y, p.n);
}

/* From the parts' largest elements and sums to what finishes them: the row's largest and the log of its sum, or each part's
 * factor. Parts are added in order, with what each addition loses. */
static void join(const call *c, int64_t row)
{
    double *max = c->max + row * c->parts, *sum = c->sum + row * c->parts, top = -INFINITY, total = 0, lost = 0;
    const rv_kernels *k = rv_kernels_get(RV_F64);
    for (int64_t i = 0; i < c->parts; i++)
        if (max[i] > top || max[i] != max[i])
            top = max[i];
    for (int64_t i = 0; i < c->parts; i++)
        max[i] -= top;
    k->map(RV_MAP_EXP, max, max, c->parts);
    for (int64_t i = 0; i < c->parts; i++) {
        double term = sum[i] * max[i], next = total + term, taken = next - total;
        lost += (total - (next - taken)) + (term - taken);
        total = next;
    }
    total = lost == lost ? total + lost : total;
    for (int64_t i = 0; i < c->parts; i++) {
        sum[i] = c->a->log ? rv_log(total) : max[i] / total;
        max[i] = top;
    }
}

static rv_status run_parts(call *c, int threads)
{
    const rv_softmax_args *a = c->a;
    int64_t tasks;
    size_t bytes;
    if (rv_mul(a->rows, c->parts, &tasks) || rv_mul_size((size_t)tasks, 2 * sizeof(double), &bytes))
        return RV_ERR_NOMEM;
    c->max = malloc(bytes);
    if (!c->max)
        return RV_ERR_NOMEM;
    c->sum = c->max + tasks;
    rv_status status = rv_parallel_for(tasks, threads, sum_task, c, a->interrupted, a->context);
    if (status == RV_OK) {
        for (int64_t row = 0; row < a->rows; row++)
            join(c, row);
        status = rv_parallel_for(tasks, threads, finish_task, c, a->interrupted, a->context);
    }
    free(c->max);
    return status;
}

rv_status rv_softmax_run(const rv_softmax_args *a)
{
    int64_t elements, bytes;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->rows < 0 || a->n < 0 || rv_mul(a->rows, a->n, &elements) || rv_mul(elements, 8, &bytes))
        return RV_ERR_SHAPE;
    if (elements == 0)
        return RV_OK;
    int half = a->dtype == RV_F16 || a->dtype == RV_BF16;
    call c = {a, rv_kernels_get(a->dtype), half, (int64_t)rv_dtype_size(a->dtype), (a->n - 1) / RV_PART + 1, 0, NULL, NULL, NULL};
    /* elements <= INT64_MAX / 8 leaves room for the product */
    int threads = rv_threads_for(a->threads, elements, RV_THREAD_ELEMENTS, c.parts > 1 ? a->rows * c.parts : a->rows);
    if (half) {
        size_t room, row = (size_t)(c.parts > 1 ? RV_PART : a->n) * sizeof(float);
        if (rv_mul_size(row, (size_t)threads, &room) || !(c.room = malloc(room)))
            return RV_ERR_NOMEM;
    }
    rv_status status = RV_OK;
    if (c.parts > 1) {
        status = run_parts(&c, threads);
    } else {
        /* several pieces a thread, so that a slow core does not hold up the rest; whole calls where there is one */
        c.piece = threads > 1 ? a->rows / (4 * threads) + 1 : a->rows;
        if (a->n * c.piece > 8 * RV_THREAD_ELEMENTS)
            c.piece = 8 * RV_THREAD_ELEMENTS / a->n + 1;
        if (a->rows <= c.piece)
            rows_task(&c, 0, 0);
        else
            status = rv_parallel_for((a->rows - 1) / c.piece + 1, threads, rows_task, &c, a->interrupted, a->context);
    }
    free(c.room);
    return status;
}
