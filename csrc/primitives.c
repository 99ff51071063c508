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

rv_status rv_draw_run(uint64_t seed, double limit, double *x, int64_t n)
{
    if (n < 0)
        return RV_ERR_SHAPE;
    for (int64_t i = 0; i < n; i++)
        x[i] = limit * ((double)(rv_mix(seed + RV_GOLDEN * ((uint64_t)i + 1)) >> 11) * 0x1p-52 - 1);
    return RV_OK;
}
