/* Walking the leading axes of attention arguments. Included by csrc only. */
#ifndef RV_BATCH_H
#define RV_BATCH_H

#include "ruvector.h"

/* Sum of index * stride over the batch axes, for the b-th element in C order. Axes are mostly 1, and a 64-bit division costs as
 * much as a row of keys. */
static inline int64_t rv_batch_offset(const rv_attn_args *a, const int64_t *stride, int64_t b)
{
    int64_t offset = 0;
    for (int i = a->batch_axes - 1; i >= 0; i--) {
        int64_t n = a->batch_shape[i];
        if (n == 1)
            continue;
        offset += b % n * stride[i];
        b /= n;
    }
    return offset;
}

/* Row `row` of head `head` of an array with `own` of the call's heads. */
static inline char *rv_batch_row(const rv_attn_args *a, const rv_array *x, int64_t own, int64_t b, int64_t head, int64_t row)
{
    return (char *)x->data + rv_batch_offset(a, x->batch_stride, b) + head / (a->heads / own) * x->head_stride
           + row * x->row_stride;
}

#endif
