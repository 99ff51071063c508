# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Normalisations of rows and activations: arrays to pointers and back."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport (
    FEW_ELEMENTS, RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, RV_TYPENUM, item_size, new_array, plain_code, poll_signals, raise_for,
    row_count, same_layout,
)

import numpy as np

from ruvector import _coerce, _options

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)
cdef int bf16 = -1


def _learn_bfloat16(int number):
    global bf16
    bf16 = number


cdef bint rows_of(object x, int64_t *stride) noexcept:
    """Whether an array that kernels can read is rows at one distance, in bytes."""
    cdef int i
    cdef int64_t rows = 1
    stride[0] = RV_DIM(x, RV_NDIM(x) - 1) * item_size(plain_code(x, bf16))
    for i in range(RV_NDIM(x) - 2, -1, -1):
        if RV_DIM(x, i) == 1:
            continue
        if rows == 1:
            stride[0] = RV_STRIDE(x, i)
        elif RV_STRIDE(x, i) != rows * stride[0]:
            return False
        rows *= RV_DIM(x, i)
    return True


cdef object source(object x, str name, int64_t *stride):
    """x with rows that kernels can read where they lie."""
    if plain_code(x, bf16) < 0:
        x = _coerce.array(x, name)
        x = _coerce.plain(x, x.dtype.newbyteorder("="))
    if RV_NDIM(x) == 0:
        raise ValueError(f"{name} must have at least one axis, got shape ()")
    if not rows_of(x, stride):
        x = _coerce.packed(x)
        rows_of(x, stride)
    return x


cdef object room(object out, object x, object other, int64_t *stride):
    """Where the result goes: out where kernels can write into it, x itself included, else a new array."""
    cdef int code = plain_code(x, bf16)
    cdef object result
    if out is not None:
        if out is x and out.flags.writeable and (other is None or not np.may_share_memory(out, other)):
            rows_of(out, stride)
            return out
        if other is None and cnp.PyArray_IS_C_CONTIGUOUS(x) and same_layout(x, out, code, bf16):
            rows_of(out, stride)
            return out
        result = _coerce.output(out, x.shape, x.dtype, (x, other))
        if rows_of(result, stride):
            return result
    result = new_array(RV_NDIM(x), cnp.PyArray_DIMS(x), x)
    rows_of(result, stride)
    return result


cdef object parameter(object value, str name, object x):
    """A weight or bias of a row as the kernels read it: contiguous, in the type of the arithmetic on x."""
    cdef int code = plain_code(x, bf16), wanted = cnp.NPY_FLOAT64 if code == RV_F64 else cnp.NPY_FLOAT32
    if cnp.PyArray_CheckExact(value) and RV_TYPENUM(value) == wanted and cnp.PyArray_IS_C_CONTIGUOUS(value):
        if RV_NDIM(value) == 1 and RV_DIM(value, 0) == RV_DIM(x, RV_NDIM(x) - 1) and cnp.PyArray_ISBEHAVED_RO(value):
            return value
    return _coerce.row(value, name, RV_DIM(x, RV_NDIM(x) - 1), _coerce.computed_in(x.dtype))


cdef object _norm(object x, object weight, object bias, object eps, object out, bint centre):
    cdef rv_norm_args args
    cdef rv_status status
    cdef object y
    memset(&args, 0, sizeof(args))
    x = source(x, "x", &args.x_stride)
    if weight is not None:
        weight = parameter(weight, "weight", x)
        args.weight = RV_DATA(weight)
    if bias is not None:
        bias = parameter(bias, "bias", x)
        args.bias = RV_DATA(bias)
    args.eps = eps if type(eps) is float else _options.number(eps, "eps")
    if not 0 <= args.eps < INFINITY:
        raise ValueError(f"eps must be at least 0 and finite, got {eps}")
    y = room(out, x, None, &args.y_stride)
    args.dtype = <rv_dtype>plain_code(x, bf16)
    args.x = RV_DATA(x)
    args.y = RV_DATA(y)
    args.n = RV_DIM(x, RV_NDIM(x) - 1)
    args.rows = row_count(x)
    args.centre = centre
    args.interrupted = poll_signals
    if args.rows * args.n < FEW_ELEMENTS:
        status = api.norm_run(&args)
    else:
        with nogil:
            status = api.norm_run(&args)
    raise_for(status)
    return given(y, out)


cdef object given(object y, object out):
    """The result, in out where there is one."""
    if out is None or y is out:
        return y
    out[...] = y
    return out


def layer_norm(x, weight=None, bias=None, *, eps=1e-5, out=None):
    """Layer normalisation over the last axis, ``(x - mean(x)) / sqrt(var(x) + eps) * weight + bias``.

    Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Real array with at least one axis.
    weight, bias : array_like, shape (n,), optional
        Converted to the type of the arithmetic: float64 for float64, float32 for the rest.
    eps : float, default 1e-5
        Added to the variance, which is the mean of the squared deviations; at least 0.
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
        If `x` has no axis, `weight` or `bias` is not as long as its last one, `eps` is negative or not finite, or `out` is
        read-only or of another shape.

    Notes
    -----
    O(size of x). With u the unit roundoff of the arithmetic, elements are within ``u * (6 * abs(y - bias) + abs(y))`` of the
    exact ones, in a row of any length, however far its mean is from zero: sums are kept in float64, those of float64 with twice
    its digits. A row with NaN or an infinity is NaN, as is a constant row where `eps` is 0.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.layer_norm([1.0, 2.0, 3.0, 4.0]).round(4)
    array([-1.3416, -0.4472,  0.4472,  1.3416])
    """
    return _norm(x, weight, bias, eps, out, True)


def rms_norm(x, weight=None, *, eps=1e-6, out=None):
    """Root mean square normalisation over the last axis, ``x / sqrt(mean(x**2) + eps) * weight``.

    Zhang and Sennrich 2019, arXiv:1910.07467.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Real array with at least one axis.
    weight : array_like, shape (n,), optional
        Converted to the type of the arithmetic: float64 for float64, float32 for the rest.
    eps : float, default 1e-6
        Added to the mean of the squares; at least 0.
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
        If `x` has no axis, `weight` is not as long as its last one, `eps` is negative or not finite, or `out` is read-only or
        of another shape.

    Notes
    -----
    O(size of x). Elements are within 4 units of roundoff of the exact ones, in a row of any length. A row with NaN or an
    infinity is NaN, as is a row of zeros where `eps` is 0.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.rms_norm([1.0, 2.0, 3.0, 4.0]).round(4)
    array([0.3651, 0.7303, 1.0954, 1.4606])
    """
    return _norm(x, weight, None, eps, out, False)


cdef object _activate(rv_activation f, object x, object up, object out):
    cdef rv_activation_args args
    cdef rv_status status
    cdef object y
    memset(&args, 0, sizeof(args))
    x = source(x, "x", &args.x_stride)
    if up is not None:
        up = source(up, "up", &args.up_stride)
        args.up = RV_DATA(up)
    y = room(out, x, up, &args.y_stride)
    args.dtype = <rv_dtype>plain_code(x, bf16)
    args.f = f
    args.x = RV_DATA(x)
    args.y = RV_DATA(y)
    args.n = RV_DIM(x, RV_NDIM(x) - 1)
    args.rows = row_count(x)
    args.interrupted = poll_signals
    if args.rows * args.n < FEW_ELEMENTS:
        status = api.activation_run(&args)
    else:
        with nogil:
            status = api.activation_run(&args)
    raise_for(status)
    return given(y, out)


def gelu(x, *, approximate="none", out=None):
    """Gaussian error linear unit, ``x * Phi(x)`` with the normal distribution function Phi.

    Hendrycks and Gimpel 2016, arXiv:1606.08415.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Real array with at least one axis.
    approximate : {"none", "tanh"}, default "none"
        "tanh": ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``, which some models were trained with.
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
        If `x` has no axis, `approximate` is neither word, or `out` is read-only or of another shape.

    Notes
    -----
    O(size of x). Within 7 units in the last place everywhere, the far negative tail included, where ``1 + erf`` has no digits
    left. The tanh form is within ``4 + 6 abs(x + 0.044715 * x**3)`` units. -0 at -infinity, the limit.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.gelu([-1.0, 0.0, 1.0]).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    approximate = _options.one_of(approximate, "approximate", ("none", "tanh"))
    return _activate(RV_GELU if approximate == "none" else RV_GELU_TANH, x, None, out)


def silu(x, *, out=None):
    """Sigmoid linear unit, ``x / (1 + exp(-x))``.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Real array with at least one axis.
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
        If `x` has no axis, or `out` is read-only or of another shape.

    Notes
    -----
    O(size of x). Within 3.3 units in the last place. -0 at -infinity, the limit.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.silu([-1.0, 0.0, 1.0]).round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    return _activate(RV_SILU, x, None, out)


def swiglu(gate, up, *, out=None):
    """Gate of SwiGLU feed-forward layers, ``silu(gate) * up`` in one pass.

    Shazeer 2020, arXiv:2002.05202.

    Parameters
    ----------
    gate, up : array_like, shape (..., n)
        Real arrays of one shape: two products, or the halves of one.
    out : ndarray, optional
        Where the result goes: the result's shape and dtype, any strides; may be an input.

    Returns
    -------
    ndarray, shape of `gate`
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real, or an `out` of another dtype.
    ValueError
        If the shapes differ or have no axis, or `out` is read-only or of another shape.

    Notes
    -----
    O(size of gate). Within 7.2 units in the last place: those of `silu`, doubled where the product passes a power of two.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.swiglu([-1.0, 0.0, 1.0], [2.0, 2.0, 2.0]).round(4)
    array([-0.5379,  0.    ,  1.4621])
    """
    if plain_code(gate, bf16) < 0 or plain_code(up, bf16) != plain_code(gate, bf16):
        gate, up = _coerce.pair(gate, up, "gate", "up")
    if gate.shape != up.shape or RV_NDIM(gate) == 0:
        raise ValueError(f"gate and up must have one shape with at least one axis, got {gate.shape} and {up.shape}")
    return _activate(RV_SILU, gate, up, out)
