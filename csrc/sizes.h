/* Checked size arithmetic: nonzero on overflow. Every product of caller-given sizes goes through here. */
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

#endif
