/* What attention.c hands to the attention kernels: one head's tile of queries, or a few queries that share keys and values.
 * Strides are in elements of the storage type unless they say bytes. */
#ifndef RV_ATTN_STATE_H
#define RV_ATTN_STATE_H

#include "ruvector.h"

/* Partial outputs are carried in the element type for at most this many keys before they join the wide accumulators. */
#define RV_CARRY_KEYS 256

/* Keys of one score block when the caller does not say. Each range ends at its last visible key, so that longer blocks waste
 * nothing at an edge; one thread, Zen 5, 2048 keys of width 64: 64 keys 228 GFLOP/s, 128 keys 233, 256 keys 236; with AVX2 118,
 * 123, 123. 128 needs half the scratch of 256. */
#define RV_TILE_KEYS 128

/* Queries that one few-kernel state holds, and the keys it reads before their values: two interleaved streams lose the
 * prefetcher. */
#define RV_FEW_ROWS 8
#define RV_FEW_KEYS 512

/* From this many queries a head is tiled; below, lanes of a tile would stand empty. */
#define RV_TILE_MIN_ROWS 5

/* Options that hold for every row of a call. */
typedef struct rv_attn_options {
    rv_dtype storage;                       /* of query and out; tile: of key and value too */
    rv_dtype kv;                            /* few: of key and value */
    int64_t ahead;                          /* few: bytes from what is read to what is fetched into cache; 0 = no fetching */
    int far;                                /* few: keys and values lie in the last cache or memory */
    int64_t kv_len, dim, v_dim;
    int block_keys;                         /* tile: 1 .. RV_CARRY_KEYS; few: 1 .. RV_FEW_KEYS */
    double scale, softcap;
    int64_t left, right;                    /* 0 .. RV_FAR */
    rv_mask_kind mask_kind;
    int64_t mask_row_bytes, mask_col_bytes;
    uint64_t dropout_seed, dropout_below;   /* weights whose 32-bit draw is below this are dropped; 0 = no dropout */
    double dropout_gain;                    /* 1 / (1 - p) */
} rv_attn_options;

/* A window side that reaches everywhere, with room for sums of positions. */
#define RV_FAR ((int64_t)1 << 60)

/* Keys [first, last) that a tile takes. Not `near`: whatever the window, up to a row's position + the shared keys' own limit. */
typedef struct rv_range {
    int64_t first, last;
    int near;
} rv_range;

typedef struct rv_tile {
    const rv_attn_options *options;
    const rv_range *ranges;                 /* NULL, or what is visible at all */
    int64_t range_count, shared_right;
    const char *query, *key, *value, *mask;
    char *out;
    double *lse;                            /* NULL when not wanted; row i's is lse[i * draw_step] */
    int64_t query_stride, key_stride, value_stride, out_stride;
    int rows;
    int64_t position;                       /* of row 0; row i stands at position + i */
    double slope;                           /* ALiBi */
    int64_t draw_row, draw_step;            /* row i is draw_row + i * draw_step in the count of lse and of rv_draw_row */
    char *scratch;
    int64_t done, carried;                  /* keys seen, and those not yet in the wide sums; kernel-owned */
} rv_tile;

typedef struct rv_few_row {
    const char *query, *mask;
    char *out;
    double *lse;
    int64_t position;
    double slope;
    int64_t draw_row;
} rv_few_row;

typedef struct rv_few {
    const rv_attn_options *options;
    const char *key, *value;
    int64_t key_stride, value_stride;       /* bytes */
    const float *key_scale, *value_scale;   /* RV_I8: of each row */
    int rows;
    rv_few_row row[RV_FEW_ROWS];
    char *state, *scratch;                  /* few_state() bytes to keep, few_scratch() bytes to work in */
} rv_few;

/* SplitMix64's finaliser (Steele, Lea, Flood 2014): the counter generator behind every draw of the library. */
static inline uint64_t rv_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Key of the draws of one query row: `row` counts rows over (batch, head, query) in C order. */
static inline uint64_t rv_draw_row(uint64_t seed, int64_t row)
{
    return rv_mix(seed + RV_GOLDEN * ((uint64_t)row + 1));
}

/* The 32-bit draw for key j of that row. */
static inline uint64_t rv_draw(uint64_t row_key, int64_t j)
{
    return rv_mix(row_key + RV_GOLDEN * ((uint64_t)j + 1)) >> 32;
}

#endif
