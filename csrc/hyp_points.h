/* Points of the hyperbolic spaces in blocks: what distances and attention share. Included by csrc only. */
#ifndef RV_HYP_POINTS_H
#define RV_HYP_POINTS_H

#include "double_pair.h"
#include "kernels.h"

enum {
    BLOCK = RV_HYP_BLOCK,
    ROWS = RV_HYP_ROWS,
    FEW = 4,            /* from this many points on either side on, the other side is transposed */
    PANELS = 4          /* transposed blocks of one task, which share the rows as doubles */
};

/* A thread should have this much work by the models of the two files; waking one costs about 5 us. */
#define THREAD_NS 40000.0

typedef struct rv_hyp_space {
    rv_hyp hyp;
    const rv_kernels *k;
    rv_dtype dtype, compute;    /* storage; what the kernels read */
    int64_t item, real;         /* bytes of an element of each */
    int64_t dim, pad;           /* of the space-like part; doubles of a padded row */
    int64_t skip;               /* bytes from the start of a row to its space-like part */
    rv_pair top;                /* sqrt(c) */
    double tolerance;           /* of a time component, relative */
} rv_hyp_space;

/* Room of one thread. */
typedef struct rv_hyp_room {
    char *a, *b;            /* rows of 16-bit storage widened: a block, and one for each panel */
    double *x;              /* a block of padded rows */
    double *panel;
    char *norms, *weights;  /* wide, for each panel */
    char *sums;             /* wide, for each row of hyp_sums */
    char *out;              /* distances of such rows to a block */
    size_t bytes;
} rv_hyp_room;

static inline int is_half(rv_dtype dtype) { return dtype == RV_F16 || dtype == RV_BF16; }

static inline size_t rv_hyp_place(char *base, char **to, size_t at, size_t bytes)
{
    *to = base ? base + at : NULL;
    return at + (bytes + 63) / 64 * 64;
}

static inline double rv_hyp_element(const rv_hyp_space *sp, const char *row, int64_t i)
{
    return sp->compute == RV_F64 ? ((const double *)row)[i] : (double)((const float *)row)[i];
}

void rv_hyp_space_of(rv_hyp_space *sp, rv_geometry geometry, rv_dtype dtype, int64_t dim, int time, double curvature);

/* dim is at most INT32_MAX / 64, so that these sums fit. */
rv_hyp_room rv_hyp_room_of(const rv_hyp_space *sp, int64_t dim, int panels, char *base);

/* Up to a block of points, given by the start of their rows, as contiguous rows of reals: where they lie, or in `to`. */
const char *rv_hyp_reals(const rv_hyp_space *sp, const char *rows, int64_t *stride, int count, char *to);

/* Panel, norms and weights of up to a block of points; returns as weigh does. */
int rv_hyp_weigh_panel(const rv_hyp_space *sp, const char *rows, int64_t rows_stride, const char *points, int64_t stride, int count,
                       double *panel, char *norms, char *weights, rv_fault *fault);

/* Distances of `rows` points x to a block, once sums and weights are there, to rows of reals; with `own`, of x_i to the i-th point
 * of the block, weights of x being there. */
void rv_hyp_finish(const rv_hyp_space *sp, const char *x, int64_t x_stride, int rows, const rv_pair *wx, const char *own,
                   const char *points, int64_t stride, int count, const char *sums, const char *weights, char *out,
                   int64_t out_stride);

#endif
