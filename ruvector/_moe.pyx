# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""Row top-k and the routing of tokens to experts: arrays to pointers and back."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int64_t
from libc.string cimport memset

from ruvector._api cimport *
from ruvector._arrays cimport (
    FEW_ELEMENTS, RV_DATA, RV_DIM, RV_NDIM, item_size, new_array, plain_code, poll_signals, raise_for, row_count,
)

import numpy as np

from ruvector import _coerce, _options

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)
cdef int bf16 = -1

GATE_SEED = RV_GATE_SEED


def _learn_bfloat16(int number):
    global bf16
    bf16 = number


cdef tuple _top(object x, int64_t k, rv_topk_mode mode):
    """The k largest of the last axis of a C-contiguous array, 1 <= k <= its length: values or weights, indices."""
    cdef rv_topk_args args
    cdef rv_status status
    cdef int code = plain_code(x, bf16), nd = RV_NDIM(x), i
    cdef cnp.npy_intp shape[64]
    cdef object values, indices
    memset(&args, 0, sizeof(args))
    for i in range(nd - 1):
        shape[i] = RV_DIM(x, i)
    shape[nd - 1] = k
    indices = cnp.PyArray_EMPTY(nd, shape, cnp.NPY_INT64, 0)
    values = new_array(nd, shape, x)
    args.dtype = <rv_dtype>code
    args.mode = mode
    args.x = RV_DATA(x)
    args.values = RV_DATA(values)
    args.indices = <int64_t *>RV_DATA(indices)
    args.rows, args.n = row_count(x), RV_DIM(x, nd - 1)
    args.k = k
    args.x_stride = args.n * item_size(code)
    args.interrupted = poll_signals
    if args.rows * args.n < FEW_ELEMENTS:
        status = api.topk_run(&args)
    else:
        with nogil:
            status = api.topk_run(&args)
    raise_for(status)
    return values, indices


cdef inline bint _rows_in_place(object x):
    return plain_code(x, bf16) >= 0 and RV_NDIM(x) > 0 and cnp.PyArray_IS_C_CONTIGUOUS(x)


def topk(x, k, axis=-1):
    """The k largest elements along an axis, largest first, and where they stand.

    Parameters
    ----------
    x : array_like
        Real array with at least one axis.
    k : int
        From 1 to the length of that axis.
    axis : int, default -1

    Returns
    -------
    values : ndarray
        The shape of `x` with k elements along `axis`; its dtype (float64 for integers and booleans).
    indices : ndarray of int64
        Their positions along `axis`; of equal elements the one of lower index comes first. NaN ranks above every number.

    Raises
    ------
    TypeError
        For a dtype that is not real, or a `k` that is not an integer.
    ValueError
        For a `k` or an axis out of range.

    Notes
    -----
    One or two passes over `x` for k up to 16; O(n log k) at worst. A row's result does not depend on the others, nor on the
    number of threads.

    Examples
    --------
    >>> import ruvector
    >>> values, indices = ruvector.topk([[3.0, 1.0, 3.0, 2.0]], 3)
    >>> values, indices
    (array([[3., 3., 2.]]), array([[0, 2, 3]]))
    """
    cdef object values, indices, moved
    if type(k) is not int or axis != -1 or not _rows_in_place(x):
        x = _coerce.array(x, "x")
        moved = _coerce.rows_along(x, axis)
        k = _options.number(k, "k", whole=True)
    else:
        moved = x
    if not 1 <= k <= RV_DIM(moved, RV_NDIM(moved) - 1):
        raise ValueError(f"k must be between 1 and the length {RV_DIM(moved, RV_NDIM(moved) - 1)} of the axis, got {k}")
    values, indices = _top(moved, k, RV_TOPK_VALUES)
    return (values, indices) if axis == -1 else (np.moveaxis(values, -1, axis), np.moveaxis(indices, -1, axis))


def top_k_gating(logits, top_k=2, *, order="softmax_topk", normalize=True):
    """The experts that a router's logits choose for each token, and their weights.

    Parameters
    ----------
    logits : array_like, shape (..., num_experts)
    top_k : int, default 2
        Experts a token, from 1 to num_experts.
    order : {"softmax_topk", "topk_softmax"}, default "softmax_topk"
        Softmax over all experts, then the choice; or a softmax over the chosen ones.
    normalize : bool, default True
        Whether the weights of "softmax_topk" are divided by their sum, which makes them those of "topk_softmax". Those sum
        to 1 by themselves.

    Returns
    -------
    indices : ndarray of int64, shape (..., top_k)
        Largest logit first, of equal ones the lower index.
    weights : ndarray, shape (..., top_k)
        In the dtype of the logits (float64 for integers and booleans).

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For a `top_k` out of range, or an unknown `order`.

    See Also
    --------
    moe_route : from embeddings.

    Notes
    -----
    One pass over the logits for ``top_k <= 16``; only "softmax_topk" without `normalize` takes the exponential of all of them.
    A weight is within the bound of `softmax`. A token with a NaN logit has NaN weights and the experts 0, 1, ..., top_k - 1; where
    the largest logit is infinite the weights are NaN. Other tokens are not touched.

    From Shazeer et al. 2017 [1]_ (softmax over the chosen) and Fedus et al. 2021 [2]_ (the weights of the whole softmax).

    References
    ----------
    .. [1] Shazeer et al., Outrageously Large Neural Networks, arXiv:1701.06538
    .. [2] Fedus et al., Switch Transformers, arXiv:2101.03961

    Examples
    --------
    >>> import ruvector
    >>> indices, weights = ruvector.top_k_gating([1.0, 3.0, 2.0, 0.0])
    >>> indices, weights.round(4)
    (array([1, 2]), array([0.7311, 0.2689]))
    >>> ruvector.top_k_gating([1.0, 3.0, 2.0, 0.0], normalize=False)[1].round(4)
    array([0.6439, 0.2369])
    """
    cdef rv_topk_mode mode
    cdef object values, indices
    if type(top_k) is not int or normalize is not True or order != "softmax_topk" or not _rows_in_place(logits):
        logits = _coerce.rows_along(_coerce.array(logits, "logits"), -1, "logits")
        top_k = _options.number(top_k, "top_k", whole=True)
        normalize = _options.flag(normalize, "normalize")
        order = _options.one_of(order, "order", ("softmax_topk", "topk_softmax"))
    if not 1 <= top_k <= RV_DIM(logits, RV_NDIM(logits) - 1):
        raise ValueError(f"top_k must be between 1 and the {RV_DIM(logits, RV_NDIM(logits) - 1)} experts, got {top_k}")
    mode = RV_TOPK_SOFTMAX if normalize or order == "topk_softmax" else RV_TOPK_SHARE
    values, indices = _top(logits, top_k, mode)
    return indices, values


def group(indices, int64_t num_experts, int64_t capacity):
    """Assignments by expert, of C-contiguous int64 indices (tokens, k): counts, starts, order, kept; see rv_expert_group."""
    cdef int64_t tokens = RV_DIM(indices, 0), k = RV_DIM(indices, 1)
    cdef object counts = np.empty(num_experts, "int64"), starts = np.empty(num_experts + 1, "int64")
    cdef object order = np.empty(tokens * k, "int64"), kept = np.empty((tokens, k), bool)
    cdef const int64_t *source = <const int64_t *>RV_DATA(indices)
    cdef int64_t *counts_data = <int64_t *>RV_DATA(counts)
    cdef int64_t *starts_data = <int64_t *>RV_DATA(starts)
    cdef int64_t *order_data = <int64_t *>RV_DATA(order)
    cdef unsigned char *kept_data = <unsigned char *>RV_DATA(kept)
    cdef rv_status status
    with nogil:
        status = api.expert_group(source, tokens, k, num_experts, capacity, counts_data, starts_data, order_data, kept_data)
    raise_for(status)
    return counts, starts, order[: starts_data[num_experts]], kept
