/* A call of attention while it runs: what its tasks share. Included by csrc only. */
#ifndef RV_ATTN_RUN_H
#define RV_ATTN_RUN_H

#include "batch.h"
#include "kernels.h"
#include "sizes.h"

/* One sequence of the call; the only one where there are no sequences. */
typedef struct rv_segment {
    int64_t query_row, key_row, q_len, kv_len;
    int few;                    /* which kernel */
    int64_t tiles;              /* per head (tiled), or row sets per shared head (few, gathered) */
    int64_t splits, split_keys, first_key, last_key;    /* few: the range some row sees */
    int64_t task;               /* number of its first task */
    int64_t row;                /* rows (batch, head, query) before it, for lse and dropout draws */
} rv_segment;

typedef struct rv_run {
    const rv_attn_args *a;
    const rv_kernels *k;
    rv_attn_options options;
    rv_segment *segments, single;
    int64_t segment_count, batch, tasks;
    int64_t tile_q;
    int64_t share, sets_heads;  /* heads in a row that share keys and values; of those, how many one few-state takes */
    int tile_block, few_block;
    int gathers;                /* the one segment's rows gather their keys */
    int64_t block_q, block_tiles;   /* sparse: queries of a block, and its tiles; else 0 and all tiles */
    int64_t range_room;         /* sparse: most ranges of a tile */
    int widens;                 /* tiled: keys and values are converted to the type of the arithmetic, query and out too */
    int split_tasks;            /* few: splits of the single segment are tasks of their own */
    rv_dtype kv;                /* how key and value are stored */
    size_t item, kv_item, tile_bytes, scratch_bytes, state_bytes;
    char *scratch, *states;
    double task_ns;
    int64_t last_poll;
    int volatile stop;
} rv_run;

/* Divisors here are mostly 1, and a 64-bit division costs as much as a row of keys. */
static inline int64_t div64(int64_t a, int64_t b) { return b == 1 ? a : a / b; }
static inline int64_t mod64(int64_t a, int64_t b) { return b == 1 ? 0 : a % b; }

static inline int64_t rv_blocks_of(int64_t length, int64_t block) { return length / block + (length % block != 0); }

/* Rows before (batch, head) of the segment, in C order of (batch..., heads, q_len); varlen: of (q_len, heads). */
static inline int64_t rv_run_row(const rv_run *r, const rv_segment *s, int64_t batch, int64_t head, int64_t query)
{
    const rv_attn_args *a = r->a;
    if (a->sequences)
        return (s->query_row + query) * a->heads + head;
    return (batch * a->heads + head) * a->q_len + query;
}

/* Rows of scales of (batch, head). */
static inline const float *rv_scales_of(const rv_attn_args *a, const rv_array *scales, int64_t batch, int64_t head)
{
    return (const float *)((const char *)scales->data + rv_batch_offset(a, scales->batch_stride, batch) + head * scales->head_stride);
}

/* Asked between pieces of a task: another thread's interrupt, or, on the calling thread every RV_POLL_MS, the caller's. */
int rv_run_stopping(rv_run *r, int worker);

/* sparse.c: lists of key blocks and gathered keys. Room for the lists' ranges lies behind a tile's scratch. */
rv_status rv_sparse_check(const rv_attn_args *a);
int64_t rv_sparse_ranges(const rv_run *r, const rv_segment *s, int64_t head, int64_t block, int64_t position, int64_t rows,
                         int64_t first, int64_t last, rv_range *to);
/* Rows of one task, about. */
#define RV_GATHER_ROWS 16
size_t rv_gather_bytes(const rv_run *r);
void rv_gather_task(rv_run *r, const rv_segment *s, int worker, int64_t task);

/* attn_wide.c: tiles whose keys and values are converted to the type of the arithmetic. */
size_t rv_wide_bytes(const rv_run *r);
void rv_wide_tile(rv_run *r, rv_tile *t, int worker, int64_t batch, int64_t head, int64_t first, int64_t last);

#endif
