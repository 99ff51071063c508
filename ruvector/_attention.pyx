# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Arrays to rv_attn_args and back. Defaults, texts and choices are functional.py's; conversions and errors _coerce.py's."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.math cimport NAN, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport (
    FEW_PRODUCTS, RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, RV_TYPENUM, item_size, new_array, plain_code, poll_signals, raise_for,
)

from ruvector import _coerce, _options

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)

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


cdef int place_mask(rv_attn_args *a, object mask, bint head_axis) except -1:
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


cdef object attend(rv_attn_args *a, object query, object key, object value, object mask, object array, object out,
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
    cdef rv_fault fault
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
        status = api.type_lower(type_index, params, slope_room, a)
        if status != RV_OK:
            _coerce.refuse_heads(type_index, [params[i] for i in range(api.type_at(type_index).param_count)],
                                 a.dim, v_width)
            raise_for(status)
    # a type's heads are slices of the width, those of scaled_dot_product_attention an axis
    if k_width != (a.dim * a.key_heads if type_index >= 0 else a.dim):
        if type_index >= 0 and a.key_heads != a.heads:
            _coerce.refuse_key_width(k_width, a.key_heads, a.dim)
        _coerce.refuse_shapes(query, key, value, heads, enable_gqa)
    if scale != scale:
        scale = a.scale if a.scale != 0 else 1 / sqrt(<double>a.dim)
    a.scale = scale
    if bottom_right:
        a.offset = a.kv_len - a.q_len
    if array is not None:
        if a.numbers != NULL:
            place_numbers(a, array, array_name(type_index))
        elif array_name(type_index) == "projection":
            if RV_NDIM(array) != 2 or RV_DIM(array, 1) != a.dim or RV_DIM(array, 0) < 1:
                _coerce.refuse_projection(array.shape, a.dim)
            a.projection = <const double *>RV_DATA(array)
            a.projection_rows = RV_DIM(array, 0)
        else:
            place_slopes(a, array)

    if a.weights and a.heads > 1:
        shape[n] = a.heads
        n += 1
    out_width = a.kv_len if a.weights else a.v_dim * (a.heads if type_index >= 0 else 1)
    if not single:
        shape[n] = a.q_len
        n += 1
    shape[n] = out_width
    if out is None:
        result = new_array(n + 1, shape, query)
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
        if place_mask(a, mask, (heads and lead > 0) or (a.heads > 1 and RV_NDIM(mask) == a.batch_axes + 3)) != 0:
            _coerce.refuse_mask(given, [a.batch_shape[i] for i in range(a.batch_axes)], a.heads if heads and lead > 0 else None,
                                None if single else a.q_len, a.kv_len, "attn_mask" if type_index < 0 else "mask")
        if type_index >= 0 and api.type_at(type_index).family == b"linear" and (
                a.mask_kind != RV_MASK_BOOL or a.mask.row_stride != 0):
            _coerce.refuse_mask_of_rows(given, a.mask_kind == RV_MASK_BOOL, api.type_at(type_index).name.decode())
    a.fault = &fault
    # in double: broadcast axes can be long enough for the product to overflow
    if a.state == NULL and <double>a.heads * a.q_len * a.kv_len * (a.dim + a.v_dim) < FEW_PRODUCTS and a.batch_axes == 0:
        status = api.type_run(type_index, a) if type_index >= 0 else api.attn_run(a)
    else:
        a.interrupted = poll_signals
        with nogil:
            status = api.type_run(type_index, a) if type_index >= 0 else api.attn_run(a)
    if status == RV_ERR_POINT:
        refuse_point(a, type_index, query, key, value)
    if status == RV_ERR_SHAPE and a.numbers != NULL:
        _coerce.refuse_widths(query, value)
    if status != RV_OK:
        raise_for(status)
    if written is not None:
        written[...] = result
        result = written
    return (result, lse) if return_lse else result


cdef object array_name(int type_index):
    """The name of a type's array parameter; None for a call of no type."""
    cdef const rv_type *t = api.type_at(type_index)
    cdef int i
    if t == NULL:
        return None
    for i in range(t.param_count):
        if t.params[i].type == b"nonzero" or t.params[i].type == b"array":
            return t.params[i].name.decode()


cdef int place_numbers(rv_attn_args *a, object array, name) except -1:
    """An array over the batch axes, float64 and C-contiguous, in place of a type's one number."""
    cdef int i, own = RV_NDIM(array), axis
    cdef int64_t size
    for i in range(own):
        axis = a.batch_axes - own + i
        size = RV_DIM(array, i)
        if axis < 0 or (size != 1 and size != a.batch_shape[axis]):
            _coerce.refuse_numbers(name, array.shape, [a.batch_shape[j] for j in range(a.batch_axes)])
        a.numbers_batch_stride[axis] = 0 if size == 1 else RV_STRIDE(array, i) // 8
    a.numbers = <const double *>RV_DATA(array)
    return 0


cdef int refuse_point(rv_attn_args *a, int type_index, query, key, value) except -1:
    """The error of a row that is no point of the type's space."""
    cdef int which = a.fault.array, i
    cdef int64_t rows = a.kv_len if which else a.q_len, at = a.fault.row // rows
    given = (query, key, value)[which]
    index = [a.fault.row % rows]
    for i in range(a.batch_axes - 1, -1, -1):
        index.append(at % a.batch_shape[i])
        at //= a.batch_shape[i]
    _coerce.refuse_point(("query", "key", "value")[which], given.shape, tuple(index[::-1]), a.fault.norm, a.fault.time,
                         a.fault.expected, api.type_at(type_index).name == b"lorentz",
                         a.numbers[number_at(a, a.fault.row // rows)])
    return 0


cdef int64_t number_at(rv_attn_args *a, int64_t batch) noexcept:
    cdef int i
    cdef int64_t at = 0
    for i in range(a.batch_axes - 1, -1, -1):
        at += batch % a.batch_shape[i] * a.numbers_batch_stride[i]
        batch //= a.batch_shape[i]
    return at


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


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
                                 enable_gqa=False, softcap=0.0, window=None, alibi_slopes=None, return_lse=False, rng=None,
                                 out=None):
    """Softmax attention, ``softmax(softcap(scale * query @ key.T) + bias) @ value``.

    Parameters
    ----------
    query : array_like, shape (..., H, L, d), (L, d) or (d,)
    key : array_like, shape (..., H, S, d)
    value : array_like, shape (..., H, S, dv)
        Leading axes broadcast. float16 and bfloat16 are computed in float32; integers and booleans become float64; mixed
        dtypes follow NumPy's promotion. Rows that are contiguous are read where they lie, whatever the other strides.
    attn_mask : array_like, optional
        Broadcasts to ``(..., H, L, S)``. Boolean: True = attend. Floating: added to the logits; -inf hides.
    dropout_p : float, default 0.0
        Share of weights dropped, the rest scaled by ``1 / (1 - dropout_p)``; needs `rng`.
    is_causal : bool, default False
        Query i sees keys ``j <= i``: the diagonal starts at the top left, as in torch.
    scale : float, optional
        Factor on the products; ``1 / sqrt(d)`` when None.
    enable_gqa : bool, default False
        Key and value heads divide the query's; consecutive query heads share one.
    softcap : float, default 0.0
        Logits become ``softcap * tanh(logits / softcap)``; 0 leaves them.
    window : (int or None, int or None), optional
        Query i sees keys from ``i - left`` to ``i + right``; None leaves a side open.
    alibi_slopes : array_like, shape (H,) or (..., H), optional
        Adds ``-slope * abs(i - j)``.
    return_lse : bool, default False
        Also return the log-sum-exp of the logits.
    rng : numpy.random.Generator or seed, optional
        Source of dropout.
    out : ndarray, optional
        Where the result goes: its shape and dtype, any strides; may overlap the inputs.

    Returns
    -------
    ndarray, shape (..., H, L, dv)
        In the inputs' dtype; ``(dv,)`` for a single query.
    lse : ndarray, shape (..., H, L), float64
        With `return_lse`.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For shapes that do not fit, and options out of their range.

    Notes
    -----
    ``2 L S (d + dv)`` operations a head, those of hidden blocks skipped; less than 1 MiB of working space a thread at any
    length. Against exact arithmetic each output is off by at most ``u * max|V| * (8 + 4 kappa)``, where u is the unit
    roundoff and kappa ``scale * max sum |q||k| + max|bias|``: independent of the number of keys.

    Hidden positions never influence the result, NaN and inf in key and value included; NaN at a visible position makes that
    row NaN. A row that sees no key is 0, its log-sum-exp -inf. Results are the same to the bit for any number of threads and
    any place in a batch.

    The mechanism is that of Vaswani et al. 2017 [1]_, in blocks with an online softmax as in [2]_.

    References
    ----------
    .. [1] Vaswani et al., Attention Is All You Need, arXiv:1706.03762
    .. [2] Dao, FlashAttention-2, arXiv:2307.08691

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 2, 8, 5, 64), dtype=np.float32)
    >>> ruvector.scaled_dot_product_attention(query, key, value, is_causal=True).shape
    (2, 8, 5, 64)
    """
    cdef rv_attn_args a
    clear(&a)
    if is_causal is not False and _options.flag(is_causal, "is_causal"):
        a.right = 0
    if enable_gqa is not False:
        enable_gqa = _options.flag(enable_gqa, "enable_gqa")
    if return_lse is not False:
        return_lse = _options.flag(return_lse, "return_lse")
    if softcap is not ZERO:
        a.softcap = _options.softcap_of(softcap)
    if window is not None:
        limit(&a, window)
    if alibi_slopes is not None:
        alibi_slopes = _options.float64_array(alibi_slopes, "alibi_slopes")
    if dropout_p is not ZERO:
        a.dropout = _options.probability(dropout_p, "dropout_p")
        if a.dropout > 0:
            a.dropout_seed = _coerce.dropout_seed(rng)
    return attend(&a, query, key, value, attn_mask, alibi_slopes, out, return_lse, True, enable_gqa, False, -1, NULL,
                  NAN if scale is None else _options.number(scale, "scale"))


# The default 0.0 itself, to tell it apart without a comparison.
cdef object ZERO = scaled_dot_product_attention.__defaults__[1]


cdef int limit(rv_attn_args *a, object window) except -1:
    """The window (left, right) on top of what causality has set."""
    cdef int64_t left, right
    left, right = _options.window_of(window)
    if left >= 0:
        a.left = left
    if right >= 0 and right < a.right:
        a.right = right
    return 0


def partial(query, key, value, mask, double scale, bint causal, bint enable_gqa, double softcap, window, slopes, int64_t offset):
    """partial_attention after its options are checked: query i stands at position i + offset."""
    cdef rv_attn_args a
    clear(&a)
    if causal:
        a.right = 0
    if window is not None:
        limit(&a, window)
    a.offset = offset
    a.softcap = softcap
    return attend(&a, query, key, value, mask, slopes, None, True, True, enable_gqa, False, -1, NULL, scale)


def sparse(query, key, value, mask, double scale, double softcap, window, int64_t offset, blocks, shared, bint return_lse, out):
    """A pattern's part after its checks: query i stands at position i + offset. blocks: None or (gather, block_q, block_k,
    lists, starts int64, blocks int32); shared: None or (int64 pairs, right)."""
    cdef rv_attn_args a
    cdef rv_sparse s
    clear(&a)
    memset(&s, 0, sizeof(s))
    limit(&a, window)
    a.offset = offset
    a.softcap = softcap
    if blocks is not None:
        s.gather, s.block_q, s.block_k, s.lists = blocks[0], blocks[1], blocks[2], blocks[3]
        s.starts = <const int64_t *>RV_DATA(blocks[4])
        s.blocks = <const int32_t *>RV_DATA(blocks[5])
        a.sparse = &s
    if shared is not None:
        s.shared = <const int64_t *>RV_DATA(shared[0])
        s.shared_count = RV_DIM(shared[0], 0)
        s.shared_right = RV_UNBOUNDED if shared[1] is None else shared[1]
        a.sparse = &s
    return attend(&a, query, key, value, mask, None, out, return_lse, True, False, False, -1, NULL, scale)


def varlen(query, key, value, query_starts, key_starts, double scale, bint causal, double softcap, window, slopes,
           bint return_lse, out):
    """varlen_attention after its checks: query (rows, heads, dim) and so on, starts int64 and C-contiguous."""
    cdef rv_attn_args a
    cdef int code = code_of(query, key, value)
    cdef rv_status status
    cdef object result, lse = None, written = None
    clear(&a)
    if causal:
        a.right = 0
    if window is not None:
        limit(&a, window)
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


def heads_mean(weights, out):
    """The mean over heads of float32 or float64 weights (batch, heads, count) into out (batch, count), both C-contiguous."""
    cdef int64_t batch = RV_DIM(weights, 0), heads = RV_DIM(weights, 1), count = RV_DIM(weights, 2), at
    cdef rv_dtype dtype = <rv_dtype>plain_code(weights, -1)
    cdef int64_t item = 8 if dtype == RV_F64 else 4
    for at in range(batch):
        raise_for(api.heads_mean(dtype, <const char *>RV_DATA(weights) + at * heads * count * item, heads, count, count,
                                 <char *>RV_DATA(out) + at * count * item))


cdef class CompiledType:
    """A type of the C catalogue with its parameters resolved: the part of `ruvector.Attention` that is called."""
    cdef int index
    cdef double params[MAX_PARAMS]
    cdef double scale, dropout
    cdef bint causal, draws
    cdef object array

    def __cinit__(self, *args, **kwargs):
        self.scale = NAN

    cdef int arguments(self, rv_attn_args *a, bint training, object rng) except -1:
        clear(a)
        if self.causal:
            a.right = 0
        if self.dropout > 0 and training:
            a.dropout = self.dropout
            a.dropout_seed = _coerce.dropout_seed(rng)
        a.projection_seed = RV_PROJECTION_SEED
        if training and rng is not None:
            if self.draws:
                a.projection_seed = _coerce.generator(rng).integers(2**63)
        return 0

    def _bind(self, int index, params, scale, bint causal, double dropout, array):
        cdef int i
        self.index = index
        for i in range(len(params)):
            self.params[i] = params[i]
        self.scale = NAN if scale is None else scale
        self.causal = causal
        self.dropout = dropout
        self.array = array
        # features that nobody gave
        self.draws = array is None and array_name(index) == "projection"

    def __call__(self, query, key, value, *, mask=None, bint training=False, rng=None, out=None):
        cdef rv_attn_args a
        self.arguments(&a, training, rng)
        return attend(&a, query, key, value, mask, self.array, out, False, False, False, True, self.index, self.params,
                      self.scale)

    def _attend(self, query, key, value, mask, bint training, rng, out):
        """The call with its log-sum-exp."""
        cdef rv_attn_args a
        self.arguments(&a, training, rng)
        return attend(&a, query, key, value, mask, self.array, out, True, False, False, True, self.index, self.params,
                      self.scale)

    def _weights(self, query, keys, mask):
        """The attention weights, (batch..., heads, L, S), without the head axis when there is one head."""
        cdef rv_attn_args a
        clear(&a)
        if self.causal:
            a.right = 0
        a.weights = 1
        return attend(&a, query, keys, keys, mask, self.array, None, False, False, False, True, self.index, self.params,
                      self.scale)

    def _score(self, query, key):
        """Scores of pairs of plain float32 or float64 arrays of one dtype, (lead..., d) and (lead..., key width)."""
        cdef rv_score_args args
        cdef rv_status status = RV_OK
        cdef int lead = RV_NDIM(query) - 1, i
        cdef int64_t total = 1, at, rest
        cdef object out = _coerce.empty((<object>query).shape[:lead], query.dtype)
        cdef const char *q = <const char *>RV_DATA(query)
        cdef const char *k = <const char *>RV_DATA(key)
        cdef char *o = <char *>RV_DATA(out)
        cdef int64_t sizes[32]
        cdef int64_t q_strides[32]
        cdef int64_t k_strides[32]
        memset(&args, 0, sizeof(args))
        args.dtype = <rv_dtype>plain_code(query, -1)
        args.query_dim, args.key_dim = RV_DIM(query, lead), RV_DIM(key, lead)
        args.scale = self.scale
        args.count = 1
        if lead > 0:
            args.count = RV_DIM(query, lead - 1)
            args.query_stride, args.key_stride = RV_STRIDE(query, lead - 1), RV_STRIDE(key, lead - 1)
        for i in range(lead - 1):
            sizes[i], q_strides[i], k_strides[i] = RV_DIM(query, i), RV_STRIDE(query, i), RV_STRIDE(key, i)
            total *= sizes[i]
        if self.array is not None and array_name(self.index) == "projection":
            if RV_NDIM(self.array) != 2 or RV_DIM(self.array, 1) != args.query_dim or RV_DIM(self.array, 0) < 1:
                _coerce.refuse_projection(self.array.shape, args.query_dim)
            args.projection = <const double *>RV_DATA(self.array)
            args.projection_rows = RV_DIM(self.array, 0)
        args.interrupted = poll_signals
        with nogil:
            for at in range(total):
                args.query = q
                args.key = k
                args.scores = o + at * args.count * (8 if args.dtype == RV_F64 else 4)
                rest = at
                for i in range(lead - 2, -1, -1):
                    args.query = <const char *>args.query + rest % sizes[i] * q_strides[i]
                    args.key = <const char *>args.key + rest % sizes[i] * k_strides[i]
                    rest //= sizes[i]
                status = api.score_run(self.index, self.params, &args)
                if status != RV_OK:
                    break
        raise_for(status)
        return out if lead > 0 else out[()]

    def _state(self, int64_t count, int64_t dim, int64_t v_dim, double_):
        """States of linear attention that have seen nothing: float64 (count, size), or None where sizes are too large."""
        cdef rv_dtype dtype = RV_F64 if double_ else RV_F32
        cdef int64_t rows = RV_DIM(self.array, 0) if self.array is not None else 0
        cdef int64_t size = api.linear_state(self.index, self.params, rows, dim, v_dim, dtype)
        cdef object states
        if size == 0:
            return None
        states = _coerce.empty((count, size), "float64")
        raise_for(api.linear_begin(self.index, self.params, rows, dim, v_dim, dtype, count, <double *>RV_DATA(states)))
        return states

    def _advance(self, query, key, value, mask, states, bint causal, out):
        """A call that continues from states, one for each (batch...) in C order, and leaves them after its keys."""
        cdef rv_attn_args a
        self.arguments(&a, False, None)
        a.right = 0 if causal else RV_UNBOUNDED
        a.state = <double *>RV_DATA(states)
        return attend(&a, query, key, value, mask, self.array, out, False, False, False, True, self.index, self.params,
                      self.scale)
