/* What linear.c and the kernels of linear attention share. */
#ifndef RV_LINEAR_STATE_H
#define RV_LINEAR_STATE_H

#include "ruvector.h"

/* Features and columns of values are padded with zeros to a multiple of this, on every ISA: so that a state is the same bytes
 * on all of them. */
#define RV_LINEAR_PAD 16

/* Features that are worked on at once. */
#define RV_LINEAR_PANEL 64

/* Keys of a block, and of a chunk of the causal form, at most; queries of a block. */
#define RV_LINEAR_ROWS 64

/* Sums over keys are carried in the element type for this many at most before they join the wide sums. */
#define RV_LINEAR_CARRY 256

typedef enum rv_feature_map {
    RV_MAP_OF_ELU = 0,          /* elu(x) + 1 */
    RV_MAP_OF_RELU,             /* max(x, 0) */
    RV_MAP_OF_WEIGHTS,          /* exp(w . x - |x|^2 / 2) for every row w of the projection */
    RV_MAP_OF_ANGLES            /* sin and cos of w . x / |x| */
} rv_feature_map;

typedef struct rv_linear {
    rv_feature_map map;
    rv_dtype storage;
    int64_t dim, v_dim;
    int64_t parts;              /* features are `parts` times `width`, each padded to `pad` */
    int64_t width, pad;
    int64_t v_pad;
    /* NULL, or the projection with the scale and the base of the exponent in it, [panel][dim][RV_LINEAR_PANEL] of the element type:
     * rows further apart would share few sets of the cache, 30 to 24 ms for 8 heads x 4096 x 64 and 256 features */
    const void *projection;
    double norm;                /* RV_MAP_OF_WEIGHTS: what |x|^2 is multiplied by */
} rv_linear;

/* A state, in doubles: the sums over keys of phi(k) and of phi(k) v^T. Feature f of RV_MAP_OF_WEIGHTS is 2^-top[f] times its
 * value, top[f] an integer that is at least the exponent of most keys. Tails (double arithmetic only) are what sums lost. */
typedef struct rv_linear_sums {
    double *top;                /* [parts * pad] */
    double *mass, *mass_tail;   /* [parts * pad] */
    double *sums, *sums_tail;   /* [parts * pad][v_pad] */
} rv_linear_sums;

static inline rv_linear_sums rv_linear_sums_at(const rv_linear *l, double *state)
{
    int64_t features = l->parts * l->pad;
    int tails = l->storage == RV_F64;
    rv_linear_sums s;
    s.top = state;
    s.mass = s.top + features;
    s.mass_tail = s.mass + (tails ? features : 0);
    s.sums = s.mass_tail + features;
    s.sums_tail = s.sums + (tails ? features * l->v_pad : 0);
    return s;
}

/* Doubles of a state; at most 2^62, for sizes that linear.c has checked. */
static inline int64_t rv_linear_state_size(const rv_linear *l)
{
    int64_t features = l->parts * l->pad, tails = l->storage == RV_F64 ? 2 : 1;
    return features * (1 + tails * (1 + l->v_pad));
}

/* Elements of a view: a state's top, mass and sums rounded to the element type. */
static inline int64_t rv_linear_view_size(const rv_linear *l) { return l->parts * l->pad * (2 + l->v_pad); }

/* Rows of one (batch, head); strides in bytes. The mask, NULL for none, has a byte for each key. */
typedef struct rv_linear_rows {
    const char *query, *key, *value, *mask;
    char *out;
    int64_t query_stride, key_stride, value_stride, out_stride, mask_stride;
} rv_linear_rows;

#endif
