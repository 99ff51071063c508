/* What hyperbolic.c and the hyperbolic kernels share. A block is up to RV_HYP_BLOCK points; for it there are a panel, the points
 * transposed as doubles, and wide arrays, opaque but for hyp_get and hyp_set: RV_HYP_WIDE elements each. */
#ifndef RV_HYP_STATE_H
#define RV_HYP_STATE_H

#include "ruvector.h"

#define RV_HYP_BLOCK 64
#define RV_HYP_WIDE (2 * RV_HYP_BLOCK)

/* Rows that hyp_sums takes at once. */
#define RV_HYP_ROWS 8

/* Rows of doubles are padded with zeros to a multiple of this. */
#define RV_HYP_PAD 16

/* A number as head + tail, the tail at most half a unit of the head. */
typedef struct rv_pair {
    double head, tail;
} rv_pair;

typedef struct rv_hyp {
    rv_geometry geometry;
    int64_t dim;                /* of the space-like part */
    rv_pair curvature;          /* c > 0 */
    rv_pair radius;             /* 1 / sqrt(c) */
} rv_hyp;

#endif
