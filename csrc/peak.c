/* The benchmark's roofs: the same loop on every thread. */
#include "peak.h"

#include "kernels.h"
#include "thread.h"

typedef struct peak_call {
    double (*products)(int64_t rounds, double *operations);
    double (*read)(const void *x, int64_t bytes, int64_t passes, double *read);
    const char *x;              /* NULL: products */
    int64_t part, repeats;
    double done[RV_MAX_THREADS];
} peak_call;

static void peak_task(void *context, int worker, int64_t task)
{
    peak_call *c = context;
    (void)worker;
    if (c->x)
        c->read(c->x + task * c->part, c->part, c->repeats, &c->done[task]);
    else
        c->products(c->repeats, &c->done[task]);
}

static rv_status run(peak_call *c, int threads, double *sum)
{
    rv_status status = rv_parallel_for(threads, threads, peak_task, c, NULL, NULL);
    if (status != RV_OK)
        return status;
    *sum = 0;
    for (int i = 0; i < threads; i++)
        *sum += c->done[i];
    return RV_OK;
}

static int possible(int64_t repeats, int threads) { return repeats >= 1 && threads >= 1 && threads <= RV_MAX_THREADS; }

rv_status rv_peak_fma(rv_dtype dtype, int64_t rounds, int threads, double *operations)
{
    if (!possible(rounds, threads))
        return RV_ERR_PARAM;
    const rv_kernels *k = rv_kernels_get(dtype);
    peak_call call = {.products = dtype == RV_BF16 ? k->peak_dot2 : k->peak_fma, .repeats = rounds};
    if ((dtype != RV_F32 && dtype != RV_F64 && dtype != RV_BF16) || !call.products)
        return RV_ERR_UNKNOWN;
    return run(&call, threads, operations);
}

rv_status rv_peak_read(const void *x, int64_t bytes, int64_t passes, int threads, double *read)
{
    if (!possible(passes, threads))
        return RV_ERR_PARAM;
    /* whole cache lines, so that no two threads share one */
    int64_t part = bytes / threads / 64 * 64;
    if (part < RV_PEAK_LEAST)
        return RV_ERR_SHAPE;
    peak_call call = {.read = rv_kernels_get(RV_F32)->peak_read, .x = x, .part = part, .repeats = passes};
    return run(&call, threads, read);
}
