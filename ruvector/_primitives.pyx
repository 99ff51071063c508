# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Dot products, softmax and the elementwise kernels: arrays to pointers and back."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport (
    FEW_ELEMENTS, RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, item_size, new_array, plain_code, poll_signals, raise_for, row_count,
    same_layout,
)

import numpy as np

from ruvector import _coerce

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *, cnp.dtype, object)

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)
cdef cnp.dtype FLOAT32 = np.dtype("float32")
cdef cnp.dtype FLOAT64 = np.dtype("float64")
cdef int bf16 = -1


def _learn_bfloat16(int number):
    global bf16
    bf16 = number


def dot(a, b):
    """Dot product over the last axis.

    Parameters
    ----------
    a, b : array_like, shapes (..., n)
        Real arrays; leading axes broadcast.

    Returns
    -------
    NumPy scalar, or ndarray of shape (...)
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        If the last axes differ or the leading ones do not broadcast.

    Notes
    -----
    O(n). float16 and bfloat16 are summed in float32. The error is at most
    ``(ceil(n / 16) + 5) * u * sum(abs(a * b))``, u the unit roundoff of the arithmetic.

    Examples
    --------
    >>> import ruvector
    >>> float(ruvector.dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))
    32.0
    """
    cdef rv_dots_args args
    cdef double result64
    cdef float result32
    cdef int code = plain_code(a, bf16)
    if code < 0 or plain_code(b, bf16) != code:
        a, b = _coerce.pair(a, b)
        code = plain_code(a, bf16)
    if RV_NDIM(a) != 1 or RV_NDIM(b) != 1 or RV_DIM(a, 0) != RV_DIM(b, 0) or code == RV_F16 or code == RV_BF16:
        a, b, shape = _coerce.dot_operands(a, b)
        return _rows(a, b, shape, code)
    args.dtype = <rv_dtype>code
    args.query = RV_DATA(a)
    args.keys = RV_DATA(b)
    args.count = 1
    args.dim = RV_DIM(a, 0)
    args.key_stride = 0
    args.threads = 1
    args.interrupted = NULL
    if code == RV_F32:
        args.scores = &result32
        raise_for(api.dots_run(&args))
        return PyArray_Scalar(&result32, FLOAT32, None)
    args.scores = &result64
    raise_for(api.dots_run(&args))
    return PyArray_Scalar(&result64, FLOAT64, None)


def batched_dot_products(query, keys):
    """Dot products of a query with each row of keys.

    Parameters
    ----------
    query : array_like, shape (..., d)
    keys : array_like, shape (..., n, d)
        Leading axes broadcast against the query's.

    Returns
    -------
    ndarray, shape (..., n)
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        If the widths differ, keys have fewer than two axes, or the leading axes do not broadcast.

    Notes
    -----
    O(n d), limited by the bandwidth at which keys can be read. Error as for `dot`.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.batched_dot_products([1.0, 2.0], [[3.0, 4.0], [5.0, 6.0]])
    array([11., 17.])
    """
    cdef int code = plain_code(query, bf16)
    if code < 0 or plain_code(keys, bf16) != code:
        query, keys = _coerce.pair(query, keys, "query", "keys")
        code = plain_code(query, bf16)
    if RV_NDIM(query) == 1 and RV_NDIM(keys) == 2 and RV_DIM(query, 0) == RV_DIM(keys, 1):
        return _rows(query, keys, (RV_DIM(keys, 0),), code)
    query, keys, shape = _coerce.dots_operands(query, keys)
    return _rows(query, keys, shape, code)


cdef object _rows(object query, object keys, tuple shape, int code):
    """query (lead..., d) against keys (lead..., n, d), both broadcast to the same lead; the result has `shape`."""
    cdef rv_dots_args args
    cdef rv_status status = RV_OK
    cdef object out = _coerce.empty(shape, query.dtype)
    cdef int lead = RV_NDIM(query) - 1, i
    cdef int64_t total = 1, at, rest, count = RV_DIM(keys, lead), item = item_size(code)
    cdef const char *q = <const char *>RV_DATA(query)
    cdef const char *k = <const char *>RV_DATA(keys)
    cdef char *o = <char *>RV_DATA(out)
    cdef int64_t sizes[32]
    cdef int64_t q_strides[32]
    cdef int64_t k_strides[32]
    for i in range(lead):
        sizes[i] = RV_DIM(query, i)
        q_strides[i] = RV_STRIDE(query, i)
        k_strides[i] = RV_STRIDE(keys, i)
        total *= sizes[i]
    memset(&args, 0, sizeof(args))
    args.dtype = <rv_dtype>code
    args.count = count
    args.dim = RV_DIM(query, lead)
    args.key_stride = RV_STRIDE(keys, lead) if count != 1 else 0
    args.interrupted = poll_signals
    with nogil:
        for at in range(total):
            args.query = q
            args.keys = k
            args.scores = o + at * count * item
            rest = at
            for i in range(lead - 1, -1, -1):
                args.query = <const char *>args.query + rest % sizes[i] * q_strides[i]
                args.keys = <const char *>args.keys + rest % sizes[i] * k_strides[i]
                rest //= sizes[i]
            status = api.dots_run(&args)
            if status != RV_OK:
                break
    raise_for(status)
    return out if RV_NDIM(out) else out[()]


def scores(queries, keys, double scale, *, out=None):
    """scale * (query . key) of every pair of queries (m, d), of the arithmetic's type, and keys (n, d): see rv_scores_run.

    The last axes of queries, and of `out`, (m, n) of their dtype, must be contiguous.
    """
    cdef rv_scores_args args
    cdef rv_status status
    if out is None:
        out = np.empty((RV_DIM(queries, 0), RV_DIM(keys, 0)), queries.dtype)
    if plain_code(keys, bf16) < 0:
        keys = _coerce.plain(_coerce.array(keys, "keys"), keys.dtype)
    memset(&args, 0, sizeof(args))
    args.dtype = <rv_dtype>plain_code(keys, bf16)
    args.queries = RV_DATA(queries)
    args.keys = RV_DATA(keys)
    args.scores = RV_DATA(out)
    args.query_count = RV_DIM(queries, 0)
    args.key_count = RV_DIM(keys, 0)
    args.dim = RV_DIM(keys, 1)
    args.query_stride = RV_STRIDE(queries, 0)
    args.key_stride = RV_STRIDE(keys, 0)
    args.score_stride = RV_STRIDE(out, 0)
    args.scale = scale
    args.interrupted = poll_signals
    with nogil:
        status = api.scores_run(&args)
    raise_for(status)
    return out


# How the kernels for rows make weights: softmax, its logarithm, or entmax of a given alpha.
cdef enum:
    ROWS_SOFTMAX
    ROWS_LOG
    ROWS_ENTMAX


cdef object _weigh(object x, object axis, object out, int how, double alpha):
    cdef int code = plain_code(x, bf16)
    # an out that is x itself, or has the same layout and shares no byte with x, is written where it lies
    if code < 0 or axis != -1 or RV_NDIM(x) < 1 or not cnp.PyArray_IS_C_CONTIGUOUS(x) or (
            out is not None and out is not x and not same_layout(x, out, code, bf16)):
        return _coerce.along_axis(lambda a, b: _run_rows(a, b, how, alpha), x, axis, out)
    if out is x and not cnp.PyArray_ISWRITEABLE(out):
        return _coerce.along_axis(lambda a, b: _run_rows(a, b, how, alpha), x, axis, out)
    return _run_rows(x, out, how, alpha)


cdef object _run_rows(object x, object out, int how, double alpha):
    """Weights over the last axis of a C-contiguous array, into out (C-contiguous, same shape and dtype; may be x)."""
    cdef rv_softmax_args args
    cdef rv_entmax_args entmax_args
    cdef int code = plain_code(x, bf16), nd = RV_NDIM(x)
    cdef rv_status status
    if out is None:
        out = new_array(nd, cnp.PyArray_DIMS(x), x)
    args.dtype = <rv_dtype>code
    args.x = RV_DATA(x)
    args.y = RV_DATA(out)
    args.n = RV_DIM(x, nd - 1)
    args.rows = row_count(x)
    args.x_stride = args.y_stride = args.n * item_size(code)
    args.log = how == ROWS_LOG
    args.threads = 0
    args.interrupted = poll_signals
    args.context = NULL
    if how == ROWS_ENTMAX:
        entmax_args.dtype, entmax_args.alpha, entmax_args.x, entmax_args.y = args.dtype, alpha, args.x, args.y
        entmax_args.rows, entmax_args.n = args.rows, args.n
        entmax_args.x_stride, entmax_args.y_stride = args.x_stride, args.y_stride
        entmax_args.threads, entmax_args.interrupted, entmax_args.context = 0, poll_signals, NULL
        with nogil:
            status = api.entmax_run(&entmax_args)
    elif args.rows * args.n < FEW_ELEMENTS:
        status = api.softmax_run(&args)
    else:
        with nogil:
            status = api.softmax_run(&args)
    raise_for(status)
    return out


def softmax(x, axis=-1, *, out=None):
    """Softmax, ``exp(x - max(x)) / sum(exp(x - max(x)))`` along an axis.

    Parameters
    ----------
    x : array_like
        Real array with at least one axis.
    axis : int, default -1
    out : ndarray, optional
        Where the result goes: the result's shape and dtype, any strides; may be `x`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        float64 for integers and booleans.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an `out` of another dtype.
    ValueError
        For an axis out of range, or an `out` that is read-only or of another shape.

    Notes
    -----
    O(size of x). Each weight is within ``4 + abs(x_i - max(x))`` units of roundoff of the exact one, and a row of any length
    sums to 1 within 8 units. A row that is all -inf, or holds NaN or +inf, is NaN.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.softmax([1.0, 2.0, 3.0, 4.0]).round(3)
    array([0.032, 0.087, 0.237, 0.644])
    """
    return _weigh(x, axis, out, ROWS_SOFTMAX, 1)


def log_softmax(x, axis=-1, *, out=None):
    """Logarithm of the softmax, ``x - max(x) - log(sum(exp(x - max(x))))`` along an axis.

    Parameters
    ----------
    x : array_like
        Real array with at least one axis.
    axis : int, default -1
    out : ndarray, optional
        Where the result goes: the result's shape and dtype, any strides; may be `x`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        float64 for integers and booleans.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an `out` of another dtype.
    ValueError
        For an axis out of range, or an `out` that is read-only or of another shape.

    Notes
    -----
    O(size of x). A row that is all -inf, or holds NaN or +inf, is NaN.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.log_softmax([0.0, 0.0]).round(4)
    array([-0.6931, -0.6931])
    """
    return _weigh(x, axis, out, ROWS_LOG, 1)


ENTMAX_MOST = RV_ENTMAX_MOST


def entmax(x, alpha=1.5, axis=-1, *, out=None):
    """Entmax, ``max((alpha - 1) x - t, 0) ** (1 / (alpha - 1))`` with the t that makes it sum to 1, along an axis.

    Between softmax (`alpha` 1) and sparsemax (2): for any `alpha` above 1 elements far below the largest get a weight of exactly 0.

    Parameters
    ----------
    x : array_like
        Real array with at least one axis.
    alpha : float, default 1.5
        From 1 to 16.
    axis : int, default -1
    out : ndarray, optional
        Where the result goes: the result's shape and dtype, any strides; may be `x`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        float64 for integers and booleans.

    Raises
    ------
    TypeError
        For a dtype that is not real, an `alpha` that is no number, or an `out` of another dtype.
    ValueError
        For an axis or an `alpha` out of range, or an `out` that is read-only or of another shape.

    See Also
    --------
    sparsemax : `alpha` 2.
    entmax_attention : attention with these weights.

    Notes
    -----
    O(size of x). `alpha` 1, 1.5 and 2 are exact: 1 is `softmax`; of 1.5 a weight p is within ``(4 sqrt(p) + 8 p + 8 u) u`` of the exact
    one, of 2 within ``(4 + 4 p) u``, u being the unit roundoff. Any other is found by bisection, up to some 40 steps over the elements
    within ``1 / (alpha - 1)`` of the largest (float64: 110); weights below ``2 ** (-126 / (alpha - 1))`` (float64: -1022) are not told from 0. A row sums to 1 within 8 units. A row that is all -inf, or holds NaN or
    +inf, is NaN. From Peters et al. 2019 [1]_ and Correia et al. 2019 [2]_.

    References
    ----------
    .. [1] Peters, Niculae and Martins, Sparse Sequence-to-Sequence Models, arXiv:1905.05702
    .. [2] Correia, Niculae and Martins, Adaptively Sparse Transformers, arXiv:1909.00015

    Examples
    --------
    >>> import ruvector
    >>> ruvector.entmax([1.0, 2.0, 3.0, 4.0]).round(4)
    array([0.    , 0.    , 0.1693, 0.8307])
    >>> ruvector.entmax([1.0, 2.0, 3.0, 4.0], alpha=1.25).round(4)
    array([0.0011, 0.0344, 0.2146, 0.75  ])
    """
    return _weigh(x, axis, out, ROWS_ENTMAX, _coerce.entmax_alpha(alpha, RV_ENTMAX_MOST))


def sparsemax(x, axis=-1, *, out=None):
    """Sparsemax, ``max(x - t, 0)`` with the t that makes it sum to 1, along an axis: the nearest point of the simplex.

    Parameters
    ----------
    x : array_like
        Real array with at least one axis.
    axis : int, default -1
    out : ndarray, optional
        Where the result goes: the result's shape and dtype, any strides; may be `x`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        float64 for integers and booleans.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an `out` of another dtype.
    ValueError
        For an axis out of range, or an `out` that is read-only or of another shape.

    See Also
    --------
    entmax : of any alpha.

    Notes
    -----
    O(size of x). A weight p is within ``(4 + 4 p) u`` of the exact one, u being the unit roundoff, and a row sums to 1 within 8 units. A
    row that is all -inf, or holds NaN or +inf, is NaN. From Martins and Astudillo 2016 [1]_.

    References
    ----------
    .. [1] Martins and Astudillo, From Softmax to Sparsemax, arXiv:1602.02068

    Examples
    --------
    >>> import ruvector
    >>> ruvector.sparsemax([1.0, 0.5, 0.0])
    array([0.75, 0.25, 0.  ])
    """
    return _weigh(x, axis, out, ROWS_ENTMAX, 2)


cdef object _map(rv_map f, object x, object out=None):
    cdef int code = plain_code(x, bf16)
    cdef object y
    cdef rv_status status
    cdef int64_t n
    if code != RV_F32 and code != RV_F64 or not cnp.PyArray_IS_C_CONTIGUOUS(x):
        x = _coerce.contiguous(x)
        code = plain_code(x, bf16)
    if out is not None and (out is not x or not cnp.PyArray_ISWRITEABLE(x)):
        raise ValueError("out must be x itself, C-contiguous, writeable and of float32 or float64")
    y = x if out is not None else new_array(RV_NDIM(x), cnp.PyArray_DIMS(x), x)
    n = cnp.PyArray_SIZE(x)
    cdef const void *src = RV_DATA(x)
    cdef void *dst = RV_DATA(y)
    with nogil:
        status = api.map_run(f, <rv_dtype>code, src, dst, n)
    raise_for(status)
    return y


def exp(x, *, out=None):
    """e^x, elementwise, through the active ISA's kernel; float32 or float64; in place where `out` is x."""
    return _map(RV_MAP_EXP, x, out)


def exp2(x):
    """2^x, elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_EXP2, x)


def log(x):
    """Natural logarithm, elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_LOG, x)


def tanh(x, *, out=None):
    """Hyperbolic tangent, elementwise, through the active ISA's kernel; float32 or float64; in place where `out` is x."""
    return _map(RV_MAP_TANH, x, out)


def erf(x):
    """Error function, elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_ERF, x)


def asinh(x):
    """Inverse hyperbolic sine, elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_ASINH, x)


def sinpi(x):
    """sin(pi x), elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_SINPI, x)


def cospi(x):
    """cos(pi x), elementwise, through the active ISA's kernel; float32 or float64."""
    return _map(RV_MAP_COSPI, x)


def exp2_flush(x):
    """2^x of x <= 1 as attention computes it, elementwise: 0 where that is below the least normal number."""
    return _map(RV_MAP_EXP2_FLUSH, x)


def ulp_bounds(dtype):
    """The bounds on the error of the elementwise functions in units in the last place: {name: bound}."""
    cdef rv_dtype code = RV_F64 if dtype == FLOAT64 else RV_F32
    return {
        "exp": api.map_ulp(RV_MAP_EXP, code),
        "exp2": api.map_ulp(RV_MAP_EXP2, code),
        "exp2_flush": api.map_ulp(RV_MAP_EXP2_FLUSH, code),
        "log": api.map_ulp(RV_MAP_LOG, code),
        "tanh": api.map_ulp(RV_MAP_TANH, code),
        "erf": api.map_ulp(RV_MAP_ERF, code),
        "asinh": api.map_ulp(RV_MAP_ASINH, code),
        "sinpi": api.map_ulp(RV_MAP_SINPI, code),
        "cospi": api.map_ulp(RV_MAP_COSPI, code),
    }


def draw(uint64_t seed, double limit, int64_t count):
    """float64 numbers that a seed fixes, uniform in [-limit, limit): see rv_draw_run."""
    cdef object x = np.empty(count, float)
    cdef double *data = <double *>RV_DATA(x)
    cdef rv_status status
    with nogil:
        status = api.draw_run(seed, limit, data, count)
    raise_for(status)
    return x


PROJECTION_SEED = RV_PROJECTION_SEED


def projection(uint64_t seed, bint orthogonal, int64_t rows, int64_t dim):
    """Random features, float64 (rows, dim): see rv_projection_draw."""
    cdef object x = np.empty((rows, dim), float)
    cdef double *data = <double *>RV_DATA(x)
    cdef rv_status status
    with nogil:
        status = api.projection_draw(seed, orthogonal, rows, dim, data)
    raise_for(status)
    return x
