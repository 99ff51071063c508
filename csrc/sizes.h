/* Arithmetic of sizes. The checked functions return nonzero on overflow: every product of caller-given sizes goes through them. */
#ifndef RV_SIZES_H
#define RV_SIZES_H

#include <stddef.h>
#include <stdint.h>

/* a, b >= 0 */
static inline int rv_mul(int64_t a, int64_t b, int64_t *product)
{
    if (a != 0 && b > INT64_MAX / a)
        return 1;
    *product = a * b;
    return 0;
}

static inline int rv_mul_size(size_t a, size_t b, size_t *product)
{
    if (a != 0 && b > SIZE_MAX / a)
        return 1;
    *product = a * b;
    return 0;
}

static inline int rv_add_size(size_t a, size_t b, size_t *sum)
{
    if (b > SIZE_MAX - a)
        return 1;
    *sum = a + b;
    return 0;
}

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Whether a stride in bytes is whole elements; item is a power of two. */
static inline int multiple(int64_t stride, int64_t item) { return (stride & (item - 1)) == 0; }

#endif
