/* Calls of the elementwise functions and dot products: checks, storage conversion, tasks. */
#include "kernels.h"
#include "sizes.h"
#include "thread.h"

#include <stdlib.h>
#include <string.h>

/* Elements converted at a time for 16-bit storage. */
#define RV_CHUNK 2048

size_t rv_dtype_size(rv_dtype dtype)
{
    return dtype == RV_F64 ? 8 : dtype == RV_F32 ? 4 : dtype == RV_I8 ? 1 : 2;
}

static int known(rv_dtype dtype) { return dtype >= RV_F32 && dtype <= RV_BF16; }

static int mappable(rv_map f, rv_dtype dtype)
{
    return f >= 0 && f < RV_MAP_COUNT && (dtype == RV_F32 || dtype == RV_F64);
}

double rv_map_ulp(rv_map f, rv_dtype dtype) { return mappable(f, dtype) ? rv_kernels_get(dtype)->map_ulp(f) : 0; }

rv_status rv_map_run(rv_map f, rv_dtype dtype, const void *x, void *y, int64_t n)
{
    if (!mappable(f, dtype))
        return RV_ERR_PARAM;
    if (n < 0)
        return RV_ERR_SHAPE;
    rv_kernels_get(dtype)->map(f, x, y, n);
    return RV_OK;
}

/* a . b for 16-bit storage: converted in chunks, sums joined in double. */
static double half_dot(const rv_kernels *k, rv_dtype dtype, const char *a, const char *b, int64_t n)
{
    float x[RV_CHUNK], y[RV_CHUNK];
    double sum = 0;
    for (int64_t i = 0; i < n; i += RV_CHUNK) {
        int64_t count = n - i < RV_CHUNK ? n - i : RV_CHUNK;
        k->widen(dtype, a + 2 * i, x, count);
        k->widen(dtype, b + 2 * i, y, count);
        sum += k->dot(x, y, count);
    }
    return sum;
}

/* Up to RV_DOTS_NEAR bytes four rows at once are best. A call that takes more than RV_DOTS_SECOND second-level caches finds most of
 * itself in the last one, past RV_DOTS_LAST of that in memory. Zen 5, float rows of 64 to 768, one thread: in memory 31 to 41 GB/s, at
 * 15 to 30 MB 36 to 69; below 2 MB asking ahead takes 20 % instead. */
#define RV_DOTS_NEAR ((int64_t)1 << 19)
#define RV_DOTS_SECOND 2
#define RV_DOTS_LAST 0.75
#define RV_CACHE_2 (1 << 20)            /* where the system does not tell */
#define RV_CACHE_3 (32 << 20)

static rv_reach reach_of(int64_t bytes)
{
    if (bytes <= RV_DOTS_NEAR)
        return RV_NEAR;
    int64_t second = rv_cpu_cache(2), last = rv_cpu_cache(3);
    if (bytes <= RV_DOTS_SECOND * (second > 0 ? second : RV_CACHE_2))
        return RV_SECOND_CACHE;
    return (double)bytes <= RV_DOTS_LAST * (double)(last > 0 ? last : RV_CACHE_3) ? RV_LAST_CACHE : RV_MEMORY;
}

typedef struct dots_call {
    const rv_dots_args *a;
    const rv_kernels *k;
    int64_t piece;
    rv_reach reach;
} dots_call;

static void dots_task(void *context, int worker, int64_t task)
{
    const dots_call *c = context;
    const rv_dots_args *a = c->a;
    int64_t first = task * c->piece, count = a->count - first < c->piece ? a->count - first : c->piece;
    const char *keys = (const char *)a->keys + first * a->key_stride;
    char *scores = (char *)a->scores + (size_t)first * rv_dtype_size(a->dtype);
    (void)worker;
    if (a->dtype == RV_F32 || a->dtype == RV_F64) {
        c->k->dots(a->query, keys, a->key_stride, count, a->dim, c->reach, scores);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float score = (float)half_dot(c->k, a->dtype, a->query, keys + i * a->key_stride, a->dim);
        c->k->narrow(a->dtype, &score, scores + 2 * i, 1);
    }
}

rv_status rv_dots_run(const rv_dots_args *a)
{
    int64_t bytes;
    if (!known(a->dtype) || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->count < 0 || a->dim < 0 || rv_mul(a->count, a->dim, &bytes) || rv_mul(bytes, 8, &bytes))
        return RV_ERR_SHAPE;
    dots_call call = {a, rv_kernels_get(a->dtype), a->count, RV_NEAR};
    bytes = a->count * a->dim * (int64_t)rv_dtype_size(a->dtype);
    int threads = rv_threads_for(a->threads, bytes, RV_THREAD_BYTES, a->count);
    if (a->count == 0)
        return RV_OK;
    call.reach = reach_of(bytes);
    if (threads == 1 && !(a->interrupted && bytes > 64 * RV_THREAD_BYTES)) {
        dots_task(&call, 0, 0);
        return RV_OK;
    }
    /* pieces of about a quarter of a thread's share, so that a slow core does not hold up the rest */
    call.piece = a->count / (4 * threads) + 1;
    if (bytes / a->count * call.piece > 16 * RV_THREAD_BYTES)
        call.piece = 16 * RV_THREAD_BYTES / (bytes / a->count) + 1;
    return rv_parallel_for((a->count + call.piece - 1) / call.piece, threads, dots_task, &call, a->interrupted, a->context);
}

/* Keys of a block stay in the second-level cache while all queries pass. */
#define RV_SCORES_BLOCK (256 << 10)

typedef struct scores_call {
    const rv_scores_args *a;
    const rv_kernels *k;
    int64_t item;               /* of queries and scores */
    int64_t piece, block;       /* keys of a task, and of a block */
    rv_reach reach;
    char *room;                 /* 16-bit storage: a block of converted keys a worker */
} scores_call;

/* The first query brings a block from afar as dots does, one stream at a time; for the rest it is near. */
static void scores_block(const scores_call *c, const char *keys, int64_t key_stride, int64_t count, rv_reach reach, char *scores)
{
    const rv_scores_args *a = c->a;
    c->k->dots(a->queries, keys, key_stride, count, a->dim, reach, scores);
    c->k->cross_dots((const char *)a->queries + a->query_stride, a->query_stride, a->query_count - 1, keys, key_stride, count, a->dim,
                     scores + a->score_stride, a->score_stride);
    for (int64_t j = 0; a->scale != 1 && j < a->query_count; j++) {
        if (c->item == 8) {
            double *row = (double *)(scores + j * a->score_stride);
            for (int64_t i = 0; i < count; i++)
                row[i] *= a->scale;
        } else {
            float *row = (float *)(scores + j * a->score_stride), scale = (float)a->scale;
            for (int64_t i = 0; i < count; i++)
                row[i] *= scale;
        }
    }
}

static void scores_task(void *context, int worker, int64_t task)
{
    const scores_call *c = context;
    const rv_scores_args *a = c->a;
    int64_t end = min64((task + 1) * c->piece, a->key_count);
    for (int64_t first = task * c->piece; first < end; first += c->block) {
        int64_t count = min64(end - first, c->block), stride = a->key_stride;
        const char *keys = (const char *)a->keys + first * stride;
        rv_reach reach = c->reach;
        if (c->room) {
            char *wide = c->room + worker * c->block * a->dim * c->item;
            for (int64_t i = 0; i < count; i++)
                c->k->widen(a->dtype, keys + i * stride, wide + i * a->dim * c->item, a->dim);
            keys = wide;
            stride = a->dim * c->item;
            reach = RV_NEAR;
        }
        scores_block(c, keys, stride, count, reach, (char *)a->scores + first * c->item);
    }
}

rv_status rv_scores_run(const rv_scores_args *a)
{
    int64_t bytes, work;
    if (!known(a->dtype) || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->query_count < 0 || a->key_count < 0 || a->dim < 0 || rv_mul(a->key_count, a->dim, &bytes) || rv_mul(bytes, 8, &bytes) ||
        rv_mul(a->query_count, a->dim, &work) || rv_mul(work, 8, &work) || rv_mul(a->key_count, a->query_count, &work) ||
        rv_mul(work, 8, &work))
        return RV_ERR_SHAPE;
    if (a->query_count == 0 || a->key_count == 0)
        return RV_OK;
    bytes = a->key_count * a->dim * (int64_t)rv_dtype_size(a->dtype);
    scores_call call = {.a = a, .k = rv_kernels_get(a->dtype), .item = a->dtype == RV_F64 ? 8 : 4, .reach = reach_of(bytes)};
    /* a pair of vectors in registers costs about half of reading one */
    if (rv_mul(bytes, a->query_count / 2 + 1, &work))
        work = INT64_MAX / 2;
    int threads = rv_threads_for(a->threads, work, RV_THREAD_BYTES, a->key_count);
    call.piece = threads == 1 ? a->key_count : a->key_count / (4 * threads) + 1;
    /* a few milliseconds, after which an interruption is noticed */
    call.piece = min64(call.piece, max64(1, 16 * RV_THREAD_BYTES / max64(1, work / a->key_count)));
    call.block = a->query_count == 1 && a->dtype <= RV_F64 ? call.piece
                                                           : min64(call.piece, RV_SCORES_BLOCK / (a->dim * call.item + 1) / 4 * 4 + 4);
    if (a->dtype > RV_F64) {
        size_t room;
        if (rv_mul_size((size_t)(call.block * a->dim * call.item), (size_t)threads, &room) || !(call.room = malloc(room + 1)))
            return RV_ERR_NOMEM;
    }
    rv_status status = rv_parallel_for((a->key_count - 1) / call.piece + 1, threads, scores_task, &call, a->interrupted, a->context);
    free(call.room);
    return status;
}

rv_status rv_draw_run(uint64_t seed, double limit, double *x, int64_t n)
{
    if (n < 0)
        return RV_ERR_SHAPE;
    for (int64_t i = 0; i < n; i++)
        x[i] = limit * ((double)(rv_mix(seed + RV_GOLDEN * ((uint64_t)i + 1)) >> 11) * 0x1p-52 - 1);
    return RV_OK;
}
