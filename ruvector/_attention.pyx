# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Arrays to rv_attn_args and back. Defaults, texts and choices are functional.py's; conversions and errors _coerce.py's."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.math cimport NAN, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, RV_TYPENUM, item_size, plain_code, poll_signals, raise_for

from ruvector import _coerce

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)

# Calls with less work than this (products) keep the interpreter's lock: taking it back costs more than they do.
cdef enum:
    SMALL = 65536

cdef enum:
    MAX_PARAMS = 8


cdef inline int code_of(object x, object y, object z) except -2:
    """The storage code that three plain arrays share, -1 when they need conversion."""
    cdef int bf16 = _coerce_bf16
    cdef int code = plain_code(x, bf16)
    if code < 0 or plain_code(y, bf16) != code or plain_code(z, bf16) != code:
        return -1
    return code


# The type number that ml_dtypes gave bfloat16; -1 until an array of that type has been seen.
cdef int _coerce_bf16 = -1


def _learn_bfloat16(int number):
    global _coerce_bf16
    _coerce_bf16 = number


cdef inline Py_ssize_t lead_dim(object x, int lead, int own, int i) noexcept:
    """Size of leading axis i of `lead`, where x has the last `own` of them."""
    return 1 if i < lead - own else RV_DIM(x, i - (lead - own))


cdef inline int64_t lead_stride(object x, int lead, int own, int i) noexcept:
    if i < lead - own or RV_DIM(x, i - (lead - own)) == 1:
        return 0
    return RV_STRIDE(x, i - (lead - own))


cdef inline void place(rv_array *to, object x, int lead, int own, bint heads) noexcept:
    """Pointer and strides of x, whose last two axes are rows and columns; one axis is a single row."""
    cdef int i, batch = lead - 1 if heads and lead > 0 else lead
    to.data = RV_DATA(x)
    to.row_stride = 0
    to.head_stride = 0
    if RV_NDIM(x) > 1 and RV_DIM(x, RV_NDIM(x) - 2) != 1:
        to.row_stride = RV_STRIDE(x, RV_NDIM(x) - 2)
    for i in range(batch):
        to.batch_stride[i] = lead_stride(x, lead, own, i)
    if heads and lead > 0:
        to.head_stride = lead_stride(x, lead, own, lead - 1)


cdef int place_mask(rv_attn_args *a, object mask, bint head_axis, int code) except -1:
    """Strides of a mask that broadcasts to (batch..., heads, rows, columns)."""
    cdef int i, axis, own = RV_NDIM(mask), axes = a.batch_axes + head_axis + 2
    cdef int64_t size, want
    a.mask_kind = RV_MASK_BOOL if RV_TYPENUM(mask) == cnp.NPY_BOOL else RV_MASK_FLOAT
    a.mask.data = RV_DATA(mask)
    for i in range(own):
        axis = axes - own + i
        size = RV_DIM(mask, i)
        if axis < 0:
            want = 1
        elif axis < a.batch_axes:
            want = a.batch_shape[axis]
        elif head_axis and axis == a.batch_axes:
            want = a.heads
        else:
            want = a.q_len if axis == axes - 2 else a.kv_len
        if size != want and size != 1:
            return 1
        size = 0 if size == 1 else RV_STRIDE(mask, i)
        if axis < 0:
            continue
        if axis < a.batch_axes:
            a.mask.batch_stride[axis] = size
        elif head_axis and axis == a.batch_axes:
            a.mask.head_stride = size
        elif axis == axes - 2:
            a.mask.row_stride = size
        else:
            a.mask_col_stride = size
    return 0


cdef inline bint plain_mask(object mask, int code) noexcept:
    cdef int num, want = cnp.NPY_FLOAT64 if code == RV_F64 else cnp.NPY_FLOAT32
    cdef int i
    if not cnp.PyArray_CheckExact(mask):
        return False
    num = RV_TYPENUM(mask)
    if num == cnp.NPY_BOOL:
        return True
    if num != want or not cnp.PyArray_ISBEHAVED_RO(mask):
        return False
    for i in range(RV_NDIM(mask)):
        if RV_STRIDE(mask, i) % item_size(code if code == RV_F64 else RV_F32) != 0:
            return False
    return True


cdef object attend(rv_attn_args *a, object query, object key, object value, object mask, object slopes, object out,
                   bint return_lse, bint heads, bint enable_gqa, bint bottom_right, int type_index, const double *params,
                   double scale):
    """One call. `heads`: the last leading axis is a's head axis; otherwise every leading axis is batch and `type_index` may
    split columns into heads."""
    cdef int code = code_of(query, key, value)
    cdef int lead, q_lead, k_lead, v_lead, i, n
    cdef bint single
    cdef Py_ssize_t q_size, k_size, v_size, size, k_width, v_width, out_width
    cdef cnp.npy_intp shape[32]
    cdef double slope_room[1024]
    cdef rv_status status
    cdef object result, lse = None, written, given
    if code < 0:
        query, key, value = _coerce.inputs(query, key, value)
        code = code_of(query, key, value)
    single = RV_NDIM(query) == 1
    if RV_NDIM(query) < 1 or RV_NDIM(key) < 2 or RV_NDIM(value) < 2:
        _coerce.refuse_axes(query, key, value)
    q_lead = 0 if single else RV_NDIM(query) - 2
    k_lead = RV_NDIM(key) - 2
    v_lead = RV_NDIM(value) - 2
    lead = max(q_lead, k_lead, v_lead)
    if lead > RV_MAX_BATCH_AXES + heads:
        _coerce.refuse_axes(query, key, value)
    a.dtype = <rv_dtype>code
    a.batch_axes = lead - 1 if heads and lead > 0 else lead
    a.q_len = 1 if single else RV_DIM(query, q_lead)
    a.kv_len = RV_DIM(key, k_lead)
    a.dim = RV_DIM(query, RV_NDIM(query) - 1)
    k_width = RV_DIM(key, k_lead + 1)
    a.v_dim = v_width = RV_DIM(value, v_lead + 1)
    if RV_DIM(value, v_lead) != a.kv_len or a.dim < 1:
        _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
    for i in range(a.batch_axes):
        q_size = lead_dim(query, lead, q_lead, i)
        k_size = lead_dim(key, lead, k_lead, i)
        v_size = lead_dim(value, lead, v_lead, i)
        size = q_size if q_size != 1 else k_size if k_size != 1 else v_size
        if (q_size != size and q_size != 1) or (k_size != size and k_size != 1) or (v_size != size and v_size != 1):
            _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
        a.batch_shape[i] = size
        shape[i] = size
    a.heads = a.key_heads = a.value_heads = 1
    place(&a.query, query, lead, q_lead, heads)
    place(&a.key, key, lead, k_lead, heads)
    place(&a.value, value, lead, v_lead, heads)
    n = a.batch_axes
    if heads and lead > 0:
        q_size = lead_dim(query, lead, q_lead, lead - 1)
        k_size = lead_dim(key, lead, k_lead, lead - 1)
        v_size = lead_dim(value, lead, v_lead, lead - 1)
        size = q_size if q_size != 1 else k_size if k_size != 1 else v_size
        if enable_gqa:
            if k_size < 1 or v_size < 1 or q_size % k_size != 0 or q_size % v_size != 0:
                _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
            size = q_size
        elif (q_size != size and q_size != 1) or (k_size != size and k_size != 1) or (v_size != size and v_size != 1):
            _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
        a.heads = size
        a.key_heads = k_size if k_size > 0 else 1
        a.value_heads = v_size if v_size > 0 else 1
        shape[n] = size
        n += 1
    if type_index >= 0:
        if k_width != a.dim and _coerce_same_width(type_index):
            _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
        status = api.type_lower(type_index, params, slope_room, a)
        if status != RV_OK:
            _coerce.refuse_heads(type_index, [params[i] for i in range(api.type_at(type_index).param_count)],
                                 a.dim, k_width, v_width)
            raise_for(status)
    if type_index >= 0 and k_width != a.dim * a.key_heads:
        _coerce.refuse_key_width(k_width, a.key_heads, a.dim)
    if type_index < 0 and k_width != a.dim:
        _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
    if scale != scale:
        scale = 1 / sqrt(<double>a.dim)
    a.scale = scale
    if bottom_right:
        a.offset = a.kv_len - a.q_len
    if slopes is not None:
        place_slopes(a, slopes)

    if a.weights and a.heads > 1:
        shape[n] = a.heads
        n += 1
    out_width = a.kv_len if a.weights else a.v_dim * (a.heads if type_index >= 0 else 1)
    if not single:
        shape[n] = a.q_len
        n += 1
    shape[n] = out_width
    if out is None:
        if code == RV_F32 or code == RV_F64:
            result = cnp.PyArray_EMPTY(n + 1, shape, cnp.NPY_FLOAT32 if code == RV_F32 else cnp.NPY_FLOAT64, 0)
        else:
            result = _coerce.empty([shape[i] for i in range(n + 1)], query.dtype)
        written = None
    else:
        # `result` is out itself, or room whose contents go to out afterwards
        result = _coerce.output(out, tuple([shape[i] for i in range(n + 1)]), query.dtype, (query, key, value, mask))
        written = out if result is not out else None
    a.out.data = RV_DATA(result)
    a.out.row_stride = 0 if single else RV_STRIDE(result, n - 1)
    for i in range(a.batch_axes):
        a.out.batch_stride[i] = RV_STRIDE(result, i)
    if (heads and lead > 0) or (a.weights and a.heads > 1):
        a.out.head_stride = RV_STRIDE(result, a.batch_axes)
    if return_lse:
        lse = cnp.PyArray_EMPTY(n, shape, cnp.NPY_FLOAT64, 0)
        a.lse = <double *>RV_DATA(lse)
    if mask is not None:
        given = mask
        if single or not plain_mask(mask, code):
            mask = _coerce.mask(mask, code == RV_F64, single, "attn_mask" if type_index < 0 else "mask")
        if place_mask(a, mask, (heads and lead > 0) or (a.heads > 1 and RV_NDIM(mask) == a.batch_axes + 3), code) != 0:
            _coerce.refuse_mask(given, [a.batch_shape[i] for i in range(a.batch_axes)], a.heads if heads and lead > 0 else None,
                                None if single else a.q_len, a.kv_len, "attn_mask" if type_index < 0 else "mask")
    if a.heads * a.q_len * a.kv_len * (a.dim + a.v_dim) < SMALL and a.batch_axes == 0:
        status = api.attn_run(a)
    else:
        a.interrupted = poll_signals
        with nogil:
            status = api.attn_run(a)
    if status != RV_OK:
        raise_for(status)
    if written is not None:
        written[...] = result
        result = written
    return (result, lse) if return_lse else result


cdef bint _coerce_same_width(int type_index):
    """Types whose keys are as wide as their queries: all but those with heads of their own for keys."""
    cdef const rv_type *t = api.type_at(type_index)
    cdef int i
    for i in range(t.param_count):
        if t.params[i].name == b"num_kv_heads":
            return False
    return True


cdef int place_slopes(rv_attn_args *a, object slopes) except -1:
    """ALiBi slopes (heads,) or (batch..., heads), float64 and C-contiguous."""
    cdef int i, own = RV_NDIM(slopes), axes = a.batch_axes + 1, axis
    cdef int64_t size, stride
    for i in range(own):
        axis = axes - own + i
        size = RV_DIM(slopes, i)
        if axis < 0 or (size != 1 and size != (a.heads if axis == a.batch_axes else a.batch_shape[axis])):
            _coerce.refuse_slopes(slopes, [a.batch_shape[j] for j in range(a.batch_axes)], a.heads)
        stride = 0 if size == 1 else RV_STRIDE(slopes, i) // 8
        if axis == a.batch_axes:
            a.slopes_head_stride = stride
        else:
            a.slopes_batch_stride[axis] = stride
    a.slopes = <const double *>RV_DATA(slopes)
    return 0


cdef inline void clear(rv_attn_args *a) noexcept:
    memset(a, 0, sizeof(rv_attn_args))
    a.left = RV_UNBOUNDED
    a.right = RV_UNBOUNDED


def sdpa(query, key, value, mask, double scale, bint causal, bint enable_gqa, double softcap, int64_t left, int64_t right,
         slopes, int64_t offset, double dropout, uint64_t seed, bint return_lse, out):
    """scaled_dot_product_attention after its options are checked: scale NaN is the default, left and right -1 unbounded;
    query i stands at position i + offset."""
    cdef rv_attn_args a
    clear(&a)
    if left >= 0:
        a.left = left
    if right >= 0:
        a.right = right
    if causal:
        a.right = 0
    a.offset = offset
    a.softcap = softcap
    a.dropout = dropout
    a.dropout_seed = seed
    return attend(&a, query, key, value, mask, slopes, out, return_lse, True, enable_gqa, False, -1, NULL, scale)


def varlen(query, key, value, query_starts, key_starts, double scale, double softcap, int64_t left, int64_t right, slopes,
           bint return_lse, out):
    """varlen_attention after its checks: query (rows, heads, dim) and so on, starts int64 and C-contiguous."""
    cdef rv_attn_args a
    cdef int code = code_of(query, key, value)
    cdef rv_status status
    cdef object result, lse = None, written = None
    clear(&a)
    if left >= 0:
        a.left = left
    if right >= 0:
        a.right = right
    a.softcap = softcap
    a.scale = scale
    a.dtype = <rv_dtype>code
    a.q_len, a.heads, a.dim = RV_DIM(query, 0), RV_DIM(query, 1), RV_DIM(query, 2)
    a.kv_len, a.key_heads = RV_DIM(key, 0), RV_DIM(key, 1)
    a.value_heads, a.v_dim = RV_DIM(value, 1), RV_DIM(value, 2)
    shape = (a.q_len, a.heads, a.v_dim)
    if out is None:
        result = _coerce.empty(shape, query.dtype)
    else:
        result = _coerce.output(out, shape, query.dtype, (query, key, value))
        written = out if result is not out else None
    a.query.data, a.query.row_stride, a.query.head_stride = RV_DATA(query), RV_STRIDE(query, 0), RV_STRIDE(query, 1)
    a.key.data, a.key.row_stride, a.key.head_stride = RV_DATA(key), RV_STRIDE(key, 0), RV_STRIDE(key, 1)
    a.value.data, a.value.row_stride, a.value.head_stride = RV_DATA(value), RV_STRIDE(value, 0), RV_STRIDE(value, 1)
    a.out.data, a.out.row_stride, a.out.head_stride = RV_DATA(result), RV_STRIDE(result, 0), RV_STRIDE(result, 1)
    if return_lse:
        lse = _coerce.empty(shape[:2], "float64")
        a.lse = <double *>RV_DATA(lse)
    if slopes is not None:
        place_slopes(&a, slopes)
    a.sequences = RV_DIM(query_starts, 0) - 1
    a.query_starts = <const int64_t *>RV_DATA(query_starts)
    a.key_starts = <const int64_t *>RV_DATA(key_starts)
    if a.sequences > 0:
        a.interrupted = poll_signals
        with nogil:
            status = api.attn_run(&a)
        raise_for(status)
    if written is not None:
        written[...] = result
        result = written
    return (result, lse) if return_lse else result


def merge(outputs, lses, out, lse):
    """States (arrays of one dtype, C-contiguous, rows x columns) into out and lse."""
    cdef Py_ssize_t count = len(outputs), i
    cdef int code = plain_code(out, _coerce_bf16)
    cdef const void **output_rows
    cdef const double **lse_rows
    cdef int64_t rows = RV_DIM(out, 0), dim = RV_DIM(out, 1)
    cdef void *to = RV_DATA(out)
    cdef double *lse_to = <double *>RV_DATA(lse)
    cdef rv_status status
    output_rows = <const void **>malloc(2 * (count + 1) * sizeof(void *))
    if output_rows == NULL:
        raise MemoryError("not enough memory to merge the states")
    lse_rows = <const double **>(output_rows + count + 1)
    for i in range(count):
        output_rows[i] = RV_DATA(outputs[i])
        lse_rows[i] = <const double *>RV_DATA(lses[i])
    with nogil:
        status = api.merge_run(<rv_dtype>code, output_rows, lse_rows, count, rows, dim, to, lse_to)
    free(output_rows)
    raise_for(status)


cdef class CompiledType:
    """A type of the C catalogue with its parameters resolved: the part of `ruvector.Attention` that is called."""
    cdef int index
    cdef double params[8]
    cdef double scale, dropout
    cdef bint causal
    cdef object slopes

    def __cinit__(self, *args, **kwargs):
        self.scale = NAN

    cdef int arguments(self, rv_attn_args *a, bint training, object rng) except -1:
        clear(a)
        if self.causal:
            a.right = 0
        if self.dropout > 0 and training:
            a.dropout = self.dropout
            a.dropout_seed = _coerce.dropout_seed(rng)
        return 0

    def _bind(self, int index, params, scale, bint causal, double dropout, slopes):
        cdef int i
        self.index = index
        for i in range(len(params)):
            self.params[i] = params[i]
        self.scale = NAN if scale is None else scale
        self.causal = causal
        self.dropout = dropout
        self.slopes = slopes

    def __call__(self, query, key, value, *, mask=None, bint training=False, rng=None, out=None):
        cdef rv_attn_args a
        self.arguments(&a, training, rng)
        return attend(&a, query, key, value, mask, self.slopes, out, False, False, False, True, self.index, self.params,
                      self.scale)

    def _attend(self, query, key, value, mask, bint training, rng, out):
        """The call with its log-sum-exp."""
        cdef rv_attn_args a
        self.arguments(&a, training, rng)
        return attend(&a, query, key, value, mask, self.slopes, out, True, False, False, True, self.index, self.params,
                      self.scale)

    def _weights(self, query, keys, mask):
        """The attention weights, (batch..., heads, L, S), without the head axis when there is one head."""
        cdef rv_attn_args a
        clear(&a)
        if self.causal:
            a.right = 0
        a.weights = 1
        return attend(&a, query, keys, keys, mask, self.slopes, None, False, False, False, True, self.index, self.params,
                      self.scale)
