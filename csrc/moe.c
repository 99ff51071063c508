/* Calls of row top-k and of what routes tokens to experts: checks, storage conversion, tasks. */
#include "kernels.h"
#include "scalar_math.h"
#include "sizes.h"
#include "thread.h"

#include <stdlib.h>
#include <string.h>

typedef struct topk_call {
    const rv_topk_args *a;
    const rv_kernels *k;
    float *room;            /* 16-bit storage: piece x (n + k) a worker */
    int64_t piece;          /* rows of a task */
} topk_call;

static void topk_task(void *context, int worker, int64_t task)
{
    const topk_call *c = context;
    const rv_topk_args *a = c->a;
    int64_t first = task * c->piece, rows = a->rows - first < c->piece ? a->rows - first : c->piece;
    const char *x = (const char *)a->x + first * a->x_stride;
    char *values = (char *)a->values + (size_t)(first * a->k) * rv_dtype_size(a->dtype);
    int64_t *indices = a->indices + first * a->k;
    if (a->dtype == RV_F32 || a->dtype == RV_F64) {
        c->k->topk(x, a->x_stride, rows, a->n, a->k, a->mode, values, indices);
        return;
    }
    float *wide = c->room + worker * c->piece * (a->n + a->k), *chosen = wide + c->piece * a->n;
    if (a->x_stride == 2 * a->n)
        c->k->widen(a->dtype, x, wide, rows * a->n);
    else
        for (int64_t r = 0; r < rows; r++)
            c->k->widen(a->dtype, x + r * a->x_stride, wide + r * a->n, a->n);
    c->k->topk(wide, a->n * (int64_t)sizeof *wide, rows, a->n, a->k, a->mode, chosen, indices);
    c->k->narrow(a->dtype, chosen, values, rows * a->k);
}

rv_status rv_topk_run(const rv_topk_args *a)
{
    int64_t elements, bytes;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->mode < RV_TOPK_VALUES || a->mode > RV_TOPK_SHARE || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->rows < 0 || a->n < 1 || rv_mul(a->rows, a->n, &elements) || rv_mul(elements, 16, &bytes))
        return RV_ERR_SHAPE;
    if (a->k < 1 || a->k > a->n)
        return RV_ERR_PARAM;
    if (a->rows == 0)
        return RV_OK;
    bytes = elements * (int64_t)rv_dtype_size(a->dtype);
    /* half a megabyte, or a quarter of a thread's share, so that a slow core does not hold up the rest; whole tiles */
    int64_t piece = RV_THREAD_BYTES / 2 / (bytes / a->rows) + 1;
    int threads = rv_threads_for(a->threads, bytes, RV_THREAD_BYTES, a->rows);
    if (threads > 1 && piece > a->rows / (4 * threads))
        piece = a->rows / (4 * threads) + 1;
    topk_call call = {a, rv_kernels_get(a->dtype), NULL, (piece + 63) / 64 * 64};
    if (a->dtype == RV_F16 || a->dtype == RV_BF16) {
        size_t room;
        int64_t most = 8192 / a->n + 1;     /* 32 KiB of widened rows stay in the first cache */
        call.piece = call.piece < most ? call.piece : most;
        if (rv_mul_size((size_t)call.piece * (size_t)(a->n + a->k), (size_t)threads * sizeof(float), &room) ||
            !(call.room = malloc(room)))
            return RV_ERR_NOMEM;
    }
    rv_status status = RV_OK;
    if (a->rows <= call.piece)
        topk_task(&call, 0, 0);
    else
        status = rv_parallel_for((a->rows - 1) / call.piece + 1, threads, topk_task, &call, a->interrupted, a->context);
    free(call.room);
    return status;
}

rv_status rv_expert_group(const int64_t *indices, int64_t tokens, int64_t k, int64_t experts, int64_t capacity, int64_t *counts,
                          int64_t *starts, int64_t *order, unsigned char *kept)
{
    int64_t n;
    if (tokens < 0 || k < 1 || experts < 1 || rv_mul(tokens, k, &n))
        return RV_ERR_SHAPE;
    if (capacity < 0)
        return RV_ERR_PARAM;
    for (int64_t i = 0; i < n; i++)
        if (indices[i] < 0 || indices[i] >= experts)
            return RV_ERR_PARAM;
    memset(counts, 0, (size_t)experts * sizeof *counts);
    for (int64_t i = 0; i < n; i++)
        kept[i] = counts[indices[i]]++ < capacity;
    int64_t at = 0;
    for (int64_t e = 0; e < experts; e++) {
        starts[e] = at;
        at += counts[e] < capacity ? counts[e] : capacity;
    }
    for (int64_t i = 0; i < n; i++)
        if (kept[i])
            order[starts[indices[i]]++] = i;
    /* each start has moved to the next */
    for (int64_t e = experts; e > 0; e--)
        starts[e] = starts[e - 1];
    starts[0] = 0;
    return RV_OK;
}
