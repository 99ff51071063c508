# ruvector.h as Cython sees it. The family modules call through the rv_api capsule, so that csrc is linked once.
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "ruvector.h" nogil:
    ctypedef enum rv_status:
        RV_OK
        RV_ERR_SHAPE
        RV_ERR_PARAM
        RV_ERR_NOMEM
        RV_ERR_UNKNOWN
        RV_ERR_INTERRUPTED
        RV_ERR_POINT
        RV_ERR_INDEX

    ctypedef enum rv_dtype:
        RV_F32
        RV_F64
        RV_F16
        RV_BF16
        RV_I8

    ctypedef enum rv_map:
        RV_MAP_EXP
        RV_MAP_EXP2
        RV_MAP_LOG
        RV_MAP_TANH
        RV_MAP_ERF
        RV_MAP_ASINH
        RV_MAP_SINPI
        RV_MAP_COSPI
        RV_MAP_EXP2_FLUSH

    ctypedef enum rv_mask_kind:
        RV_MASK_NONE
        RV_MASK_BOOL
        RV_MASK_FLOAT

    enum:
        RV_MAX_BATCH_AXES

    int64_t RV_UNBOUNDED

    ctypedef int (*rv_interrupt)(void *) noexcept nogil

    ctypedef struct rv_dots_args:
        rv_dtype dtype
        const void *query
        const void *keys
        void *scores
        int64_t count, dim
        int64_t key_stride
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_scores_args:
        rv_dtype dtype
        const void *queries
        const void *keys
        void *scores
        int64_t query_count, key_count, dim
        int64_t query_stride, key_stride, score_stride
        double scale
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_softmax_args:
        rv_dtype dtype
        const void *x
        void *y
        int64_t rows, n
        int64_t x_stride, y_stride
        int log
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_norm_args:
        rv_dtype dtype
        const void *x
        const void *weight
        const void *bias
        void *y
        int64_t rows, n
        int64_t x_stride, y_stride
        int centre
        double eps
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef enum rv_activation:
        RV_GELU
        RV_GELU_TANH
        RV_SILU

    ctypedef struct rv_activation_args:
        rv_dtype dtype
        rv_activation f
        const void *x
        const void *up
        void *y
        int64_t rows, n
        int64_t x_stride, up_stride, y_stride
        int threads
        rv_interrupt interrupted
        void *context

    int RV_ENTMAX_MOST

    ctypedef struct rv_entmax_args:
        rv_dtype dtype
        double alpha
        const void *x
        void *y
        int64_t rows, n
        int64_t x_stride, y_stride
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef enum rv_topk_mode:
        RV_TOPK_VALUES
        RV_TOPK_SOFTMAX
        RV_TOPK_SHARE

    ctypedef struct rv_topk_args:
        rv_dtype dtype
        rv_topk_mode mode
        const void *x
        void *values
        int64_t *indices
        int64_t rows, n, k
        int64_t x_stride
        int threads
        rv_interrupt interrupted
        void *context

    enum:
        RV_GATE_SEED
        RV_PROJECTION_SEED

    ctypedef enum rv_geometry:
        RV_POINCARE
        RV_LORENTZ

    ctypedef struct rv_fault:
        int array
        int64_t row
        double norm
        double time, expected

    ctypedef struct rv_hyp_args:
        rv_geometry geometry
        rv_dtype dtype
        const void *a
        const void *b
        void *out
        int64_t a_count, b_count, dim
        int64_t a_stride, b_stride, out_stride
        int pairs, time
        double curvature
        rv_fault *fault
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_array:
        void *data
        int64_t *batch_stride
        int64_t head_stride
        int64_t row_stride

    ctypedef struct rv_kv_storage:
        rv_dtype dtype
        rv_array key_scale, value_scale

    ctypedef struct rv_rows_args:
        rv_dtype from_ "from"
        rv_dtype to
        int64_t batch, heads, rows, columns
        rv_array source, target, scales

    ctypedef struct rv_sparse:
        int gather
        int64_t block_q, block_k, lists
        const int64_t *starts
        const int32_t *blocks
        const int64_t *shared
        int64_t shared_count, shared_right

    ctypedef struct rv_attn_args:
        rv_dtype dtype
        const rv_kv_storage *storage
        int batch_axes
        int64_t *batch_shape
        int64_t heads, key_heads, value_heads
        int64_t q_len, kv_len, dim, v_dim
        rv_array query, key, value, out
        double *lse
        int weights
        double scale
        double softcap
        int64_t offset, left, right
        const rv_sparse *sparse
        rv_mask_kind mask_kind
        rv_array mask
        int64_t mask_col_stride
        const double *slopes
        int64_t *slopes_batch_stride
        int64_t slopes_head_stride
        int64_t block_q, block_kv
        double dropout
        uint64_t dropout_seed
        int64_t sequences
        const int64_t *query_starts
        const int64_t *key_starts
        const double *projection
        int64_t projection_rows
        uint64_t projection_seed
        double *state
        const double *numbers
        int64_t *numbers_batch_stride
        rv_fault *fault
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_csr_args:
        int wide
        const void *source
        const void *target
        int64_t edges, sources, targets
        int loops
        int32_t *starts
        int32_t *indices
        int32_t *order
        int64_t bad
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_gat_args:
        rv_dtype dtype
        int version
        int64_t heads, dim, v_dim
        int64_t targets, sources, edges
        const int32_t *starts
        const int32_t *ends
        const int32_t *indices
        const int32_t *order
        const void *query
        const void *key
        const void *value
        void *out
        int64_t query_stride, key_stride, value_stride, out_stride
        const void *a_target
        const void *a_source
        const void *edge
        int64_t edge_dim, edge_stride
        const void *w_edge
        const void *mask
        const void *bias
        void *weights
        int mean
        double slope, scale
        double dropout
        uint64_t dropout_seed
        int threads
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_param:
        const char *name
        const char *type
        double value
        double low, high
        const char *description

    ctypedef struct rv_type:
        const char *name
        const char *family
        int param_count
        const rv_param *params

    ctypedef struct rv_score_args:
        rv_dtype dtype
        const void *query
        const void *key
        void *scores
        int64_t count, query_dim, key_dim
        int64_t query_stride, key_stride
        double scale
        const double *projection
        int64_t projection_rows
        rv_fault *fault
        rv_interrupt interrupted
        void *context

    ctypedef struct rv_api:
        rv_status (*map_run)(rv_map, rv_dtype, const void *, void *, int64_t) noexcept nogil
        double (*map_ulp)(rv_map, rv_dtype) noexcept nogil
        rv_status (*dots_run)(const rv_dots_args *) noexcept nogil
        rv_status (*scores_run)(const rv_scores_args *) noexcept nogil
        rv_status (*softmax_run)(const rv_softmax_args *) noexcept nogil
        rv_status (*norm_run)(const rv_norm_args *) noexcept nogil
        rv_status (*activation_run)(const rv_activation_args *) noexcept nogil
        rv_status (*entmax_run)(const rv_entmax_args *) noexcept nogil
        rv_status (*draw_run)(uint64_t, double, double *, int64_t) noexcept nogil
        rv_status (*attn_run)(const rv_attn_args *) noexcept nogil
        rv_status (*rows_run)(const rv_rows_args *) noexcept nogil
        rv_status (*merge_run)(rv_dtype, const void **, const double **, int64_t, int64_t, int64_t, void *, double *) noexcept nogil
        rv_status (*hyp_run)(const rv_hyp_args *) noexcept nogil
        rv_status (*hyp_gaps)(const double *, int64_t, int64_t, int64_t, double, double *) noexcept nogil
        rv_status (*csr_build)(rv_csr_args *) noexcept nogil
        rv_status (*gat_run)(const rv_gat_args *) noexcept nogil
        const rv_type *(*type_at)(int) noexcept nogil
        rv_status (*type_lower)(int, const double *, double *, rv_attn_args *) noexcept nogil
        rv_status (*topk_run)(const rv_topk_args *) noexcept nogil
        rv_status (*expert_group)(const int64_t *, int64_t, int64_t, int64_t, int64_t, int64_t *, int64_t *, int64_t *, unsigned char *) noexcept nogil
        rv_status (*type_run)(int, const rv_attn_args *) noexcept nogil
        rv_status (*projection_draw)(uint64_t, int, int64_t, int64_t, double *) noexcept nogil
        int64_t (*linear_state)(int, const double *, int64_t, int64_t, int64_t, rv_dtype) noexcept nogil
        rv_status (*linear_begin)(int, const double *, int64_t, int64_t, int64_t, rv_dtype, int64_t, double *) noexcept nogil
        rv_status (*score_run)(int, const double *, const rv_score_args *) noexcept nogil
        rv_status (*heads_mean)(rv_dtype, const void *, int64_t, int64_t, int64_t, void *) noexcept nogil
