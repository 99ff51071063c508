# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Edge lists and graph attention: arrays to rv_csr_args and rv_gat_args. Python has checked every array."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport RV_DATA, RV_DIM, RV_STRIDE, RV_TYPENUM, poll_signals, raise_for

from ruvector import _coerce

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)


cdef inline object int32_array(cnp.npy_intp n):
    return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INT32, 0)


def sort(source, target, int64_t sources, int64_t targets, bint loops, bint numbered):
    """Edges by target: (indptr, indices, order), order None unless `numbered`. source and target: contiguous, int32 or int64."""
    cdef rv_csr_args a
    cdef rv_status status
    cdef object starts, indices, order = None
    memset(&a, 0, sizeof(a))
    a.wide = cnp.PyArray_ITEMSIZE(source) == 8
    a.source = RV_DATA(source)
    a.target = RV_DATA(target)
    a.edges = RV_DIM(source, 0)
    a.sources = sources
    a.targets = targets
    a.loops = loops
    cdef int64_t room = a.edges + (min(sources, targets) if loops else 0)
    starts = int32_array(targets + 1)
    indices = int32_array(room)
    a.starts = <int32_t *>RV_DATA(starts)
    a.indices = <int32_t *>RV_DATA(indices)
    if numbered:
        order = int32_array(room)
        a.order = <int32_t *>RV_DATA(order)
    a.interrupted = poll_signals
    with nogil:
        status = api.csr_build(&a)
    if status == RV_ERR_INDEX:
        _coerce.refuse_edge(source, target, a.bad, sources, targets)
    raise_for(status)
    cdef int64_t kept = a.starts[targets]
    if kept < room:
        indices = indices[:kept]
        if numbered:
            order = order[:kept]
    return starts, indices, order


cdef inline void *data_or_null(object x) noexcept:
    return NULL if x is None else RV_DATA(x)


def attend(int version, int64_t heads, query, key, value, out, starts, ends, indices, order, a_target, a_source, edge, w_edge,
           mask, bias, weights, bint mean, double slope, double scale, double dropout, uint64_t dropout_seed):
    """Graph attention into `out` and, where it is an array, `weights`; rows of all arrays are contiguous, of one dtype."""
    cdef rv_gat_args a
    cdef rv_status status
    memset(&a, 0, sizeof(a))
    a.dtype = RV_F64 if RV_TYPENUM(out) == cnp.NPY_FLOAT64 else RV_F32
    a.version = version
    a.heads = heads
    a.dim = RV_DIM(key, 1) // heads
    a.v_dim = RV_DIM(value, 1) // heads
    a.targets = RV_DIM(query, 0)
    a.sources = RV_DIM(key, 0)
    a.edges = RV_DIM(indices, 0)
    a.starts = <const int32_t *>RV_DATA(starts)
    a.ends = <const int32_t *>RV_DATA(ends)
    a.indices = <const int32_t *>RV_DATA(indices)
    a.order = <const int32_t *>data_or_null(order)
    a.query, a.query_stride = RV_DATA(query), RV_STRIDE(query, 0)
    a.key, a.key_stride = RV_DATA(key), RV_STRIDE(key, 0)
    a.value, a.value_stride = RV_DATA(value), RV_STRIDE(value, 0)
    a.out, a.out_stride = RV_DATA(out), RV_STRIDE(out, 0)
    a.a_target = data_or_null(a_target)
    a.a_source = RV_DATA(a_source)
    if edge is not None:
        a.edge, a.edge_stride, a.edge_dim = RV_DATA(edge), RV_STRIDE(edge, 0), RV_DIM(edge, 1)
    a.w_edge = data_or_null(w_edge)
    a.mask = data_or_null(mask)
    a.bias = data_or_null(bias)
    a.weights = data_or_null(weights)
    a.mean = mean
    a.slope = slope
    a.scale = scale
    a.dropout = dropout
    a.dropout_seed = dropout_seed
    a.interrupted = poll_signals
    with nogil:
        status = api.gat_run(&a)
    raise_for(status)
