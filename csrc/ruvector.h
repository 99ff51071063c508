/* The C interface of ruvector: the only header that the Cython and SQL layers include.
 * No function prints, aborts, sets errno or jumps; outputs are untouched unless RV_OK or RV_ERR_INTERRUPTED, or where a function
 * says otherwise. */
#ifndef RUVECTOR_H
#define RUVECTOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RV_VERSION "0.1.0"

typedef enum rv_status {
    RV_OK = 0,
    RV_ERR_SHAPE,       /* sizes that do not fit each other, or whose product overflows */
    RV_ERR_PARAM,       /* a parameter out of its range */
    RV_ERR_NOMEM,
    RV_ERR_UNKNOWN,     /* a name that does not exist */
    RV_ERR_INTERRUPTED, /* args->interrupted returned nonzero; outputs are unspecified */
    RV_ERR_POINT,       /* a row that is no point of its space: args->fault says which */
    RV_ERR_INDEX        /* an index out of its range */
} rv_status;

/* Storage types. float16 and bfloat16 are stored only: arithmetic is float32. RV_I8 stores keys and values of caches and
 * nothing else: codes -127 .. 127, each row with a float32 scale, the number being code * scale. */
typedef enum rv_dtype { RV_F32 = 0, RV_F64 = 1, RV_F16 = 2, RV_BF16 = 3, RV_I8 = 4 } rv_dtype;

size_t rv_dtype_size(rv_dtype dtype);

/* ---- instruction sets (cpu.c) ------------------------------------------------------------------------------- */

/* The i-th ISA usable on this CPU, best first; NULL past the end. Names: "avx512bf16", "avx512", "avx2", "neon",
 * "scalar". */
const char *rv_isa_at(int i);
/* The i-th ISA compiled into this library, usable or not; NULL past the end. */
const char *rv_isa_compiled_at(int i);
/* The active ISA. */
const char *rv_isa_active(void);
/* Makes `name` the ISA of every later call in the process; RV_ERR_UNKNOWN when it is not usable here. */
rv_status rv_isa_use(const char *name);
/* Reads RUVECTOR_ISA once, at load: RV_ERR_UNKNOWN and *bad = its value when it names no usable ISA. */
rv_status rv_isa_init(const char **bad);
/* CPU brand string, "unknown" where the system does not tell. */
const char *rv_cpu_brand(void);
/* Size in bytes of the data cache of level 1, 2 or 3; 0 when unknown. */
int64_t rv_cpu_cache(int level);

/* ---- threads (thread.c) ------------------------------------------------------------------------------------- */

/* Threads a call may use: RUVECTOR_NUM_THREADS, else the CPUs of this process (affinity and cgroup quota). */
int rv_threads_get(void);
/* n >= 1; RV_ERR_PARAM otherwise. */
rv_status rv_threads_set(int n);

/* ---- primitives (primitives.c) ------------------------------------------------------------------------------ */

typedef enum rv_map {
    RV_MAP_EXP = 0, RV_MAP_EXP2, RV_MAP_LOG, RV_MAP_TANH, RV_MAP_ERF, RV_MAP_ASINH,
    RV_MAP_SINPI, RV_MAP_COSPI,     /* sin and cos of pi x */
    RV_MAP_EXP2_FLUSH,      /* attention's 2^x, x <= 1: results below the least normal number are 0 */
    RV_MAP_COUNT
} rv_map;

/* y[i] = f(x[i]), n contiguous elements of float32 or float64; x == y is allowed, partial overlap is not. */
rv_status rv_map_run(rv_map f, rv_dtype dtype, const void *x, void *y, int64_t n);
/* The bound on the error of f in units in the last place, the same on every ISA; 0 for what rv_map_run refuses. */
double rv_map_ulp(rv_map f, rv_dtype dtype);

/* Called by the calling thread between tasks; nonzero stops the call with RV_ERR_INTERRUPTED. */
typedef int (*rv_interrupt)(void *context);

/* scores[i] = query . keys[i]; rows `key_stride` bytes apart, each row contiguous; float16 and bfloat16 give that type.
 * count == 0 writes nothing; dim == 0 gives zeros. */
typedef struct rv_dots_args {
    rv_dtype dtype;
    const void *query;
    const void *keys;
    void *scores;
    int64_t count, dim;
    int64_t key_stride;     /* bytes */
    int threads;            /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_dots_args;
rv_status rv_dots_run(const rv_dots_args *args);

/* scores[j][i] = scale * (queries[j] . keys[i]), the product rounded before it is scaled: the bits of a pair depend on nothing else,
 * and are those of rv_dots_run for float32 and float64. `dtype` is the keys' storage; queries and scores are of the arithmetic's type,
 * float64 for RV_F64, float32 for the rest. Rows are contiguous, `*_stride` bytes apart; counts of 0 write nothing. */
typedef struct rv_scores_args {
    rv_dtype dtype;
    const void *queries, *keys;
    void *scores;
    int64_t query_count, key_count, dim;
    int64_t query_stride, key_stride, score_stride;
    double scale;
    int threads;
    rv_interrupt interrupted;
    void *context;
} rv_scores_args;
rv_status rv_scores_run(const rv_scores_args *args);

/* Softmax or log-softmax of `rows` rows of n contiguous elements, rows `*_stride` bytes apart; x == y is allowed.
 * A row of -inf only, or with NaN or +inf, is NaN, as the definition gives. */
typedef struct rv_softmax_args {
    rv_dtype dtype;
    const void *x;
    void *y;
    int64_t rows, n;
    int64_t x_stride, y_stride;     /* bytes */
    int log;                        /* nonzero: log-softmax */
    int threads;
    rv_interrupt interrupted;
    void *context;
} rv_softmax_args;
rv_status rv_softmax_run(const rv_softmax_args *args);

/* ---- what stands between the products of a network (layers.c) -------------------------------------------------- */

/* (x - mean) / sqrt(variance + eps) weight + bias of `rows` rows of n contiguous elements, rows `*_stride` bytes apart, the
 * variance being that of the n elements; with centre 0 x / sqrt(mean of x^2 + eps) weight + bias. weight and bias: n contiguous
 * elements of the arithmetic's type (float32 for 16-bit storage), or NULL. eps >= 0 and finite. x == y is allowed, other overlap
 * is not. A row with NaN or an infinity is NaN; so is one that is constant (zero without centre) where eps is 0. */
typedef struct rv_norm_args {
    rv_dtype dtype;
    const void *x, *weight, *bias;
    void *y;
    int64_t rows, n;
    int64_t x_stride, y_stride;     /* bytes */
    int centre;
    double eps;
    int threads;                    /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_norm_args;
rv_status rv_norm_run(const rv_norm_args *args);

/* x Phi(x); x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); x / (1 + exp(-x)). At -infinity each is its limit, -0. */
typedef enum rv_activation { RV_GELU = 0, RV_GELU_TANH, RV_SILU } rv_activation;

/* y = f(x), or f(x) * up where up is not NULL: `rows` rows of n contiguous elements, `*_stride` bytes apart. y may be x or up; other
 * overlap is not allowed. */
typedef struct rv_activation_args {
    rv_dtype dtype;
    rv_activation f;
    const void *x, *up;
    void *y;
    int64_t rows, n;
    int64_t x_stride, up_stride, y_stride;      /* bytes */
    int threads;                                /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_activation_args;
rv_status rv_activation_run(const rv_activation_args *args);

/* Entmax (entmax.c): p_i = max((alpha - 1) x_i - t, 0)^(1 / (alpha - 1)) with the t that makes the row sum to 1; alpha 1 is softmax, 2
 * sparsemax. 1 <= alpha <= RV_ENTMAX_MOST; 1, 1.5 and 2 are exact, the others found by bisection. Rows, strides and what gives NaN
 * as in rv_softmax_run. */
#define RV_ENTMAX_MOST 16
typedef struct rv_entmax_args {
    rv_dtype dtype;
    double alpha;
    const void *x;
    void *y;
    int64_t rows, n;
    int64_t x_stride, y_stride;     /* bytes */
    int threads;
    rv_interrupt interrupted;
    void *context;
} rv_entmax_args;
rv_status rv_entmax_run(const rv_entmax_args *args);

/* ---- top-k and routing to experts (moe.c) --------------------------------------------------------------------- */

typedef enum rv_topk_mode {
    RV_TOPK_VALUES = 0,     /* the elements themselves */
    RV_TOPK_SOFTMAX,        /* softmax over the k chosen: weights that sum to 1 */
    RV_TOPK_SHARE           /* their weights in the softmax of the whole row */
} rv_topk_mode;

/* The k largest elements of `rows` rows of n contiguous elements, largest first, and their indices; of equal elements that of
 * lower index first. values and indices are (rows, k) in C order. 1 <= k <= n.
 * Values: NaN ranks above every number. Weights: a row with NaN is NaN with indices 0, 1, ..., k - 1; where the largest element
 * is infinite the weights are NaN, as a softmax is. */
typedef struct rv_topk_args {
    rv_dtype dtype;
    rv_topk_mode mode;
    const void *x;
    void *values;
    int64_t *indices;
    int64_t rows, n, k;
    int64_t x_stride;       /* bytes */
    int threads;
    rv_interrupt interrupted;
    void *context;
} rv_topk_args;
rv_status rv_topk_run(const rv_topk_args *args);

/* The seed of a router that has no weights of its own: rv_draw_run with limit sqrt(6 / (dim + experts)). */
#define RV_GATE_SEED 42

/* Assignments grouped by expert. indices (tokens, k): the experts of each token. An expert takes at most `capacity`
 * assignments, in the order of tokens, then of their choices. counts[e]: how many ask for expert e; kept[a]: whether
 * assignment a of the tokens x k has its place; order: the numbers of those kept, by expert, expert e's from starts[e] on.
 * counts has `experts` elements, starts one more, kept and order tokens x k. RV_ERR_PARAM for an index outside [0, experts). */
rv_status rv_expert_group(const int64_t *indices, int64_t tokens, int64_t k, int64_t experts, int64_t capacity, int64_t *counts,
                          int64_t *starts, int64_t *order, unsigned char *kept);

/* n parameters that nobody gave, the same for a seed on every machine: uniform in [-limit, limit). x[i] = limit (2 u - 1) with
 * u the upper 53 bits of output i of SplitMix64 started at `seed`, as a fraction; 2 u - 1 is exact.
 * Seed s + k RV_GOLDEN gives x from its k-th element on. */
#define RV_GOLDEN 0x9e3779b97f4a7c15u
rv_status rv_draw_run(uint64_t seed, double limit, double *x, int64_t n);

/* ---- hyperbolic geometry (hyperbolic.c) ----------------------------------------------------------------------- */

/* The Poincare ball of radius 1/sqrt(c), and the upper sheet -x0^2 + |x|^2 = -1/c of the hyperboloid. */
typedef enum rv_geometry { RV_POINCARE = 0, RV_LORENTZ } rv_geometry;

/* Why a row is no point: its norm is not below the ball's radius, or not finite; or its time component is not the one that its
 * space-like part has on the hyperboloid. */
typedef struct rv_fault {
    int array;              /* 0, 1, ...: the input, in the order of the arguments */
    int64_t row;            /* counted over the axes of the call in C order */
    double norm;            /* of the space-like part */
    double time, expected;  /* both 0 where time is not at fault */
} rv_fault;

/* out[i][j] = the distance of a_i and b_j, or out[i] that of a_i and b_i when `pairs` (then a_count == b_count). Rows of dim
 * contiguous elements, `*_stride` bytes apart, a stride of 0 repeating one row; out rows are contiguous, `out_stride` apart.
 * `time`: rows start with a time component, which dim counts and which is only checked: it is computed again from the rest.
 * c = |curvature|. Within 1 unit in the last place for float32 and float64 points p with 1 - c|p|^2 >= 2^-70 (2^-50), or less than
 * 1e22 from the axis of the hyperboloid. NaN gives NaN. dim - time >= 1. RV_ERR_POINT leaves out unspecified. */
typedef struct rv_hyp_args {
    rv_geometry geometry;
    rv_dtype dtype;
    const void *a, *b;
    void *out;
    int64_t a_count, b_count, dim;
    int64_t a_stride, b_stride, out_stride;     /* bytes */
    int pairs, time;
    double curvature;
    rv_fault *fault;
    int threads;
    rv_interrupt interrupted;
    void *context;
} rv_hyp_args;
rv_status rv_hyp_run(const rv_hyp_args *args);

/* gaps[i] = 1 - c|p|^2 of row i, to a rounding: what is left to the sphere, <= 0 on and outside it. stride in bytes. */
rv_status rv_hyp_gaps(const double *rows, int64_t stride, int64_t count, int64_t dim, double curvature, double *gaps);

/* ---- attention (attention.c) -------------------------------------------------------------------------------- */

#define RV_MAX_BATCH_AXES 8
#define RV_UNBOUNDED INT64_MAX

typedef enum rv_mask_kind {
    RV_MASK_NONE = 0,
    RV_MASK_BOOL,       /* bytes; nonzero = attend */
    RV_MASK_FLOAT       /* compute type of the call (float32 for 16-bit storage), added to the logits; -inf hides */
} rv_mask_kind;

/* An array (batch..., heads, rows, columns) whose last axis is contiguous; strides in bytes, 0 repeats. */
typedef struct rv_array {
    void *data;
    int64_t batch_stride[RV_MAX_BATCH_AXES];
    int64_t head_stride;
    int64_t row_stride;
} rv_array;

/* How key and value are stored where it is not as the call's dtype: RV_F32, RV_F16, RV_BF16 or RV_I8, for calls of float32,
 * float16 or bfloat16. Scales (RV_I8 only) are finite floats, (batch..., heads, kv_len), those of a head contiguous: row_stride
 * is not used. */
typedef struct rv_kv_storage {
    rv_dtype dtype;
    rv_array key_scale, value_scale;
} rv_kv_storage;

/* Which keys the queries see, where it is not all of a window. Queries lie in blocks of block_q rows, keys in blocks of block_k, the
 * last of which may be short: block b of list h sees the key blocks `blocks[starts[h * q_blocks + b] .. starts[h * q_blocks + b + 1])`,
 * ascending and distinct; the window and the mask hide more of them. `gather`: blocks of 1, whose keys are copied together row by row.
 * `shared`: pairs first, last of ascending, disjoint, not empty key ranges that every query sees whatever its list and the sides of
 * the window, up to its position + shared_right; with starts NULL, beside all of the window. */
typedef struct rv_sparse {
    int gather;
    int64_t block_q, block_k;
    int64_t lists;                      /* 1, or the call's heads */
    const int64_t *starts;              /* [lists * q_blocks + 1]; NULL: no lists */
    const int32_t *blocks;
    const int64_t *shared;              /* [2 * shared_count]; not with gather */
    int64_t shared_count, shared_right;
} rv_sparse;

/* softmax(softcap(scale * Q K^T) + bias) V for every (batch, head).
 * query (batch..., heads, q_len, dim), key (batch..., key_heads, kv_len, dim), value (batch..., value_heads, kv_len, v_dim),
 * out (batch..., heads, q_len, v_dim); key_heads and value_heads divide heads, query head h reads head h / (heads / key_heads).
 * Query i stands at position i + offset; it sees key j when position - left <= j <= position + right and the mask allows it.
 * Hidden positions never influence the result, whatever key and value hold there. A query that sees no key gives zeros and
 * log-sum-exp -inf; NaN at a visible position makes that row NaN. No alignment beyond the element's is needed.
 * out must not overlap an input. q_len or batch 0: nothing is written. dim >= 1; kv_len 0: zeros. */
typedef struct rv_attn_args {
    rv_dtype dtype;                     /* of query and out, and of key and value without `storage` */
    const rv_kv_storage *storage;       /* or NULL; not with weights, dropout or sequences */
    int batch_axes;
    int64_t batch_shape[RV_MAX_BATCH_AXES];
    int64_t heads, key_heads, value_heads;
    int64_t q_len, kv_len, dim, v_dim;
    rv_array query, key, value, out;
    double *lse;                        /* NULL or (batch..., heads, q_len), C order */
    int weights;                        /* nonzero: out gets the attention weights (batch..., heads, q_len, kv_len); value, lse
                                           and dropout are not used */
    double scale;
    double softcap;                     /* 0 = none, else logits -> softcap * tanh(logits / softcap) */
    int64_t offset, left, right;        /* RV_UNBOUNDED = no limit */
    const rv_sparse *sparse;            /* or NULL; not with storage, weights or sequences. Gathered rows have no window, ALiBi or
                                           dropout. RV_ERR_INDEX: a block that is out of range or out of order */
    rv_mask_kind mask_kind;
    rv_array mask;
    int64_t mask_col_stride;            /* bytes */
    const double *slopes;               /* NULL or ALiBi slopes: logits - slope * |position - j| */
    int64_t slopes_batch_stride[RV_MAX_BATCH_AXES], slopes_head_stride;   /* elements */
    int64_t block_q, block_kv;          /* most queries of a tile, most keys of a score block; 0 = the kernel's own choice */
    double dropout;                     /* 0 <= p < 1: weights dropped by a counter generator keyed by dropout_seed */
    uint64_t dropout_seed;
    /* varlen: q_len and kv_len are the totals; sequence s is rows [query_starts[s], query_starts[s+1]) and so on, batch_axes
     * is 0, and positions and offset count inside a sequence, aligned to its end. */
    int64_t sequences;                  /* 0 = not varlen */
    const int64_t *query_starts, *key_starts;
    /* for types that are not softmax over dot products, see rv_type_run; ignored by rv_attn_run */
    const double *params;               /* the type's parameters in the order of its record */
    const double *numbers;              /* its "nonzero" parameter for each (batch, head) */
    int64_t numbers_batch_stride[RV_MAX_BATCH_AXES], numbers_head_stride;   /* elements */
    const double *projection;           /* NULL or random features, rows of dim numbers, contiguous */
    int64_t projection_rows;
    uint64_t projection_seed;           /* what they are drawn from where they are not given */
    double *state;                      /* NULL or the states of linear attention for each (batch, head), see rv_linear_state */
    rv_fault *fault;                    /* set with RV_ERR_POINT: array 0 query, 1 key, 2 value; row over (batch..., heads, rows) */
    int threads;                        /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_attn_args;
rv_status rv_attn_run(const rv_attn_args *args);

/* out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i): the softmax over the union of the states' keys.
 * states: count arrays of rows x dim contiguous elements, and count arrays of rows log-sum-exps.
 * Terms are added in the given order in float64. */
rv_status rv_merge_run(rv_dtype dtype, const void *const *outputs, const double *const *lses, int64_t count, int64_t rows,
                       int64_t dim, void *out, double *lse);

/* ---- rows of caches (cache.c) ------------------------------------------------------------------------------- */

/* Rows (batch, heads, rows, columns) of `source` into `target`, each row contiguous, the two not overlapping. RV_F64 goes to
 * RV_F64 alone; the others to each other and to RV_I8: scale = max|row| / 127 (rounded up where it is subnormal), codes =
 * row / scale rounded to nearest, ties to even; scale and codes 0 for a row of zeros. The codes are those of every ISA.
 * RV_ERR_PARAM also when a row for RV_I8 is not finite; rows before it are written then. */
typedef struct rv_rows_args {
    rv_dtype from, to;
    int64_t batch, heads, rows, columns;
    rv_array source, target;            /* one batch axis */
    rv_array scales;                    /* RV_I8: floats, those of a head contiguous; row_stride is not used */
} rv_rows_args;
rv_status rv_rows_run(const rv_rows_args *args);
/* ---- graphs (graph.c) ---------------------------------------------------------------------------------------- */

/* Sorts edges by their target, keeping their order in each row: row t of the result is indices[starts[t] .. starts[t + 1]),
 * the sources of t's edges. With `loops`, edges from a node to itself are left out, and the first min(sources, targets) rows
 * end with one. `order` gives the number of each sorted edge in the list: of those kept, loops after all others.
 * At most INT32_MAX nodes on a side, and edges. RV_ERR_INDEX: `bad` is the first edge with an end out of range; nothing else
 * that was written means anything then. */
typedef struct rv_csr_args {
    int wide;                       /* nodes are int64_t, else int32_t */
    const void *source, *target;    /* contiguous */
    int64_t edges, sources, targets;
    int loops;
    int32_t *starts;                /* [targets + 1] */
    int32_t *indices;               /* [edges], and min(sources, targets) more with loops */
    int32_t *order;                 /* NULL or as indices */
    int64_t bad;
    int threads;                    /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_csr_args;
rv_status rv_csr_build(rv_csr_args *args);

/* Graph attention: for every target i and head h, out_i = sum_j p_ij value_j over the edges j -> i, p the softmax over them of
 *   version 1    scale leaky(a_target . query_i + a_source . key_j + edge_ij) + mask_ij
 *   version 2    scale a_source . leaky(query_i + key_j + edge_ij w_edge) + mask_ij
 * with leaky(x) = x where positive, slope x elsewhere; then the mean over heads where it is wanted, and the bias.
 * query (targets, heads, dim), key (sources, heads, dim), value (sources, heads, v_dim), out (targets, heads, v_dim) or, with
 * `mean`, (targets, v_dim): rows contiguous, *_stride bytes apart. Row i's edges are the positions [starts[i], ends[i]) of
 * `indices`, which hold sources below `sources`: unchecked here. Rows may share positions. order[position] is the edge's number
 * in edge, mask and weights, less than `edges`; NULL: the position itself. A row without edges is 0 (and the bias); NaN comes
 * out where it goes in, along edges. float32 and float64 only; out must not overlap an input. */
typedef struct rv_gat_args {
    rv_dtype dtype;
    int version;
    int64_t heads, dim, v_dim;
    int64_t targets, sources, edges;    /* edges: the length of indices */
    const int32_t *starts, *ends, *indices, *order;
    const void *query, *key, *value;
    void *out;
    int64_t query_stride, key_stride, value_stride, out_stride;     /* bytes */
    const void *a_target, *a_source;    /* (heads, dim), contiguous; version 2 has no a_target */
    const void *edge;                   /* NULL; version 1: (edges, heads); version 2: (edges, edge_dim) */
    int64_t edge_dim, edge_stride;      /* version 2; bytes */
    const void *w_edge;                 /* version 2: (edge_dim, heads, dim), contiguous */
    const void *mask;                   /* NULL or (edges), finite */
    const void *bias;                   /* NULL or (heads, v_dim); with `mean`, (v_dim) */
    void *weights;                      /* NULL or (edges, heads): p, after dropout */
    int mean;
    double slope, scale;
    double dropout;                     /* 0 <= p < 1: weights dropped by a counter generator keyed by dropout_seed */
    uint64_t dropout_seed;
    int threads;                        /* 0 = rv_threads_get() */
    rv_interrupt interrupted;
    void *context;
} rv_gat_args;
rv_status rv_gat_run(const rv_gat_args *args);

/* ---- the catalogue of attention types that C runs (catalog.c, from attention.def) ---------------------------- */

typedef struct rv_param {
    const char *name;
    const char *type;           /* "int", "float", "bool", "array", or "nonzero": a number, or an array over the batch axes */
    double value;               /* default */
    double low, high;           /* inclusive range; -INFINITY and INFINITY for none */
    const char *description;
} rv_param;

typedef struct rv_type {
    const char *name;
    const char *aliases;        /* space-separated */
    const char *complexity;
    const char *best_for;
    const char *family;
    const char *reference;
    int param_count;
    const rv_param *params;
    int shared;                 /* keys and values have one head, whatever num_heads is */
} rv_type;

/* Rows in the order of the usage guide, then by family; NULL past the end. */
const rv_type *rv_type_at(int i);
/* Index by name or alias, case-insensitive; -1 when there is none. */
int rv_type_find(const char *name);
/* Lowers type `index` with its parameters (param_count values, in the order of the record) onto args, whose shapes describe
 * the plain inputs (batch..., rows, columns) with heads = 1: sets heads, window, slopes and so on, and scale where the type's
 * default is not 1 / sqrt(dim). RV_ERR_SHAPE when num_heads does not divide, RV_ERR_PARAM out of range. params, and slopes with
 * room for 1024 values, outlive the call to rv_type_run. */
rv_status rv_type_lower(int index, const double *params, double *slopes, rv_attn_args *args);
/* Runs lowered arguments by the type's engine: rv_attn_run, or that of its family.
 * poincare, lorentz: weights softmax(-scale * distance + bias), values averaged to the Moebius gyromidpoint or the Lorentz
 * centroid, in double. Rows are points as for rv_hyp_run, with a time component unless lorentz has space_only. Hidden keys and
 * values may be anything; a query that sees nothing gives the origin; RV_ERR_POINT for any other row that is no point. softcap,
 * slopes, lse, sequences and sparse must be unset.
 * linear, performer, random_feature: sum_j (phi(q) . phi(k_j)) v_j / sum_j phi(q) . phi(k_j), 0 where the divisor is. The mask is
 * boolean and the same for every query (row_stride 0), the window open or, for the causal form, closed at the query; scale is
 * positive where there are random features; weights, dropout, softcap, slopes, lse, sequences and sparse must be unset. */
rv_status rv_type_run(int index, const rv_attn_args *args);

#define RV_MAX_HEADS 1024

/* ---- scores of pairs (score.c) -------------------------------------------------------------------------------- */

/* scores[i] = what type `index` ranks key i by for query i, before any softmax and as if both stood at one position: scale
 * query . key, softcapped, the mean over heads (in double); -scale distance of hyperbolic types; phi(query) . phi(key) of linear, its
 * logarithm of performer, the mean cosine of random_feature (in double). Rows are contiguous, *_stride bytes apart, a stride of 0
 * repeating one; scores are contiguous. float32 and float64 only. RV_ERR_SHAPE: dimensions that do not fit each other or the heads. */
typedef struct rv_score_args {
    rv_dtype dtype;
    const void *query, *key;
    void *scores;
    int64_t count, query_dim, key_dim;
    int64_t query_stride, key_stride;   /* bytes */
    double scale;                       /* NAN: the type's own */
    const double *projection;           /* NULL or random features, rows of query_dim numbers, contiguous */
    int64_t projection_rows;
    rv_fault *fault;                    /* set with RV_ERR_POINT */
    rv_interrupt interrupted;
    void *context;
} rv_score_args;
rv_status rv_score_run(int index, const double *params, const rv_score_args *args);

/* out[i] = the mean over heads of weights[h stride + i], i < count, summed in double in the order of the heads; float32 and float64
 * only. */
rv_status rv_heads_mean(rv_dtype dtype, const void *weights, int64_t heads, int64_t stride, int64_t count, void *out);

/* ---- linear attention (linear.c) ------------------------------------------------------------------------------ */

/* What random features are drawn from where nobody gives a seed. */
#define RV_PROJECTION_SEED 42

/* Rows of independent standard normal numbers (Marsaglia's polar method over SplitMix64 started at `seed`), the same bits on every
 * machine. `orthogonal`: of every `dim` consecutive rows each keeps its length but loses its components along those before it,
 * the directions then being uniform among orthogonal ones (Choromanski et al. 2021). projection: rows x dim. */
rv_status rv_projection_draw(uint64_t seed, int orthogonal, int64_t rows, int64_t dim, double *projection);

/* Doubles of one state of linear attention of type `index` with these parameters: 0 where they are out of range or too large.
 * States begin with rv_linear_begin (count of them, one after the other). A call with args->state has its queries see the keys of the
 * state as well, and adds its own keys to it: those of a causal call in their order. q_len or kv_len may be 0. Only queries, keys
 * and values of the state's widths and arithmetic belong to it; the bytes are those of every ISA. */
int64_t rv_linear_state(int index, const double *params, int64_t projection_rows, int64_t dim, int64_t v_dim, rv_dtype dtype);
rv_status rv_linear_begin(int index, const double *params, int64_t projection_rows, int64_t dim, int64_t v_dim, rv_dtype dtype,
                          int64_t count, double *state);

/* What the Cython modules call, as one table, exported by capsule "ruvector._ruvector_core.rv_api". */
typedef struct rv_api {
    rv_status (*map_run)(rv_map, rv_dtype, const void *, void *, int64_t);
    double (*map_ulp)(rv_map, rv_dtype);
    rv_status (*dots_run)(const rv_dots_args *);
    rv_status (*scores_run)(const rv_scores_args *);
    rv_status (*softmax_run)(const rv_softmax_args *);
    rv_status (*norm_run)(const rv_norm_args *);
    rv_status (*activation_run)(const rv_activation_args *);
    rv_status (*entmax_run)(const rv_entmax_args *);
    rv_status (*draw_run)(uint64_t, double, double *, int64_t);
    rv_status (*attn_run)(const rv_attn_args *);
    rv_status (*rows_run)(const rv_rows_args *);
    rv_status (*merge_run)(rv_dtype, const void *const *, const double *const *, int64_t, int64_t, int64_t, void *, double *);
    rv_status (*hyp_run)(const rv_hyp_args *);
    rv_status (*hyp_gaps)(const double *, int64_t, int64_t, int64_t, double, double *);
    rv_status (*csr_build)(rv_csr_args *);
    rv_status (*gat_run)(const rv_gat_args *);
    const rv_type *(*type_at)(int);
    rv_status (*type_lower)(int, const double *, double *, rv_attn_args *);
    rv_status (*topk_run)(const rv_topk_args *);
    rv_status (*expert_group)(const int64_t *, int64_t, int64_t, int64_t, int64_t, int64_t *, int64_t *, int64_t *,
                              unsigned char *);
    rv_status (*type_run)(int, const rv_attn_args *);
    rv_status (*projection_draw)(uint64_t, int, int64_t, int64_t, double *);
    int64_t (*linear_state)(int, const double *, int64_t, int64_t, int64_t, rv_dtype);
    rv_status (*linear_begin)(int, const double *, int64_t, int64_t, int64_t, rv_dtype, int64_t, double *);
    rv_status (*score_run)(int, const double *, const rv_score_args *);
    rv_status (*heads_mean)(rv_dtype, const void *, int64_t, int64_t, int64_t, void *);
} rv_api;

#ifdef __cplusplus
}
#endif
#endif
