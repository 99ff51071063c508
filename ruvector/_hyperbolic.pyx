# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Hyperbolic distances: arrays to rv_hyp_args and back. What is public, and every check of an option, is in mechanisms."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int64_t
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, item_size, plain_code, poll_signals, raise_for

from ruvector import _coerce

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)
cdef int bf16 = -1


def _learn_bfloat16(int number):
    global bf16
    bf16 = number


cdef inline int64_t step(object x, int axis) noexcept:
    """Bytes to the next row; 0 on an axis that is not walked."""
    return RV_STRIDE(x, axis) if RV_DIM(x, axis) != 1 else 0


cdef object run(rv_hyp_args *args, object a, object b, object out, int own, named):
    """One C call for every index of the leading axes that a and b share; `own` axes of each, and of out, belong to the call.
    `named`: names and shapes of a and b as they were given, for messages."""
    cdef int lead = RV_NDIM(a) - own, i
    cdef int64_t total = 1, at, rest, index
    cdef int64_t sizes[32]
    cdef int64_t a_strides[32]
    cdef int64_t b_strides[32]
    cdef int64_t out_strides[32]
    cdef const char *a_data = <const char *>RV_DATA(a)
    cdef const char *b_data = <const char *>RV_DATA(b)
    cdef char *out_data = <char *>RV_DATA(out)
    cdef rv_status status = RV_OK
    cdef rv_fault fault
    for i in range(lead):
        sizes[i] = RV_DIM(a, i)
        a_strides[i] = RV_STRIDE(a, i)
        b_strides[i] = RV_STRIDE(b, i)
        out_strides[i] = RV_STRIDE(out, i)
        total *= sizes[i]
    args.fault = &fault
    args.interrupted = poll_signals
    with nogil:
        for at in range(total):
            args.a = a_data
            args.b = b_data
            args.out = out_data
            rest = at
            for i in range(lead - 1, -1, -1):
                index = rest % sizes[i]
                args.a = <const char *>args.a + index * a_strides[i]
                args.b = <const char *>args.b + index * b_strides[i]
                args.out = <char *>args.out + index * out_strides[i]
                rest //= sizes[i]
            status = api.hyp_run(args)
            if status != RV_OK:
                break
    if status == RV_ERR_POINT:
        where = []
        for i in range(lead - 1, -1, -1):
            where.append(at % sizes[i])
            at //= sizes[i]
        _coerce.refuse_point(*named[fault.array], (*reversed(where), fault.row), fault.norm, fault.time, fault.expected,
                             args.geometry == RV_LORENTZ, args.curvature)
    raise_for(status)
    return out


cdef void begin(rv_hyp_args *args, int code, int geometry, double curvature, bint time) noexcept:
    memset(args, 0, sizeof(rv_hyp_args))
    args.geometry = <rv_geometry>geometry
    args.dtype = <rv_dtype>code
    args.curvature = curvature
    args.time = time


def distance(a, b, int geometry, double curvature, bint space_only, names=("a", "b")):
    """Distances of points (..., d) that broadcast."""
    cdef rv_hyp_args args
    cdef int axis
    cdef bint time = geometry == RV_LORENTZ and not space_only
    a, b, shape, named = _coerce.point_operands(a, b, 1, time, names)
    cdef int code = plain_code(a, bf16)
    out = _coerce.empty(shape, a.dtype)
    begin(&args, code, geometry, curvature, time)
    if not shape:
        a, b, result = a[None], b[None], out[None]
    else:
        result = out
    axis = RV_NDIM(a) - 2
    args.dim = RV_DIM(a, axis + 1)
    args.a_stride = step(a, axis)
    args.b_stride = step(b, axis)
    args.a_count = args.b_count = RV_DIM(a, axis)
    args.out_stride = item_size(code)
    if args.a_stride == 0:
        args.a_count = min(args.a_count, 1)
    elif args.b_stride == 0:
        args.b_count = min(args.b_count, 1)
    else:
        args.pairs = 1
    run(&args, a, b, result, 2, named)
    return out if shape else out[()]


def cdist(a, b, int geometry, double curvature, bint space_only, names=("a", "b")):
    """Distances of every point of a (..., m, d) to every point of b (..., n, d)."""
    cdef rv_hyp_args args
    cdef int axis
    cdef bint time = geometry == RV_LORENTZ and not space_only
    a, b, shape, named = _coerce.point_operands(a, b, 2, time, names)
    cdef int code = plain_code(a, bf16)
    out = _coerce.empty(shape, a.dtype)
    begin(&args, code, geometry, curvature, time)
    axis = RV_NDIM(a) - 2
    args.dim = RV_DIM(a, axis + 1)
    args.a_count = RV_DIM(a, axis)
    args.b_count = RV_DIM(b, axis)
    args.a_stride = step(a, axis)
    args.b_stride = step(b, axis)
    args.out_stride = RV_STRIDE(out, axis)
    return run(&args, a, b, out, 2, named)


def gaps(x, double curvature):
    """1 - c |x|^2 of the rows of a C-contiguous float64 array (..., d)."""
    cdef int nd = RV_NDIM(x)
    cdef int64_t dim = RV_DIM(x, nd - 1), count
    cdef rv_status status
    out = _coerce.empty(x.shape[: nd - 1], x.dtype)
    count = out.size
    cdef const double *rows = <const double *>RV_DATA(x)
    cdef double *to = <double *>RV_DATA(out)
    with nogil:
        status = api.hyp_gaps(rows, dim * 8, count, dim, curvature, to)
    raise_for(status)
    return out
