# Inline helpers of the family modules: which arrays kernels can read where they lie, and status codes as exceptions.
cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport int64_t

from ruvector._api cimport (
    RV_BF16, RV_ERR_INTERRUPTED, RV_ERR_NOMEM, RV_ERR_SHAPE, RV_F16, RV_F32, RV_F64, RV_OK, rv_status,
)


cdef extern from *:
    """
    #define RV_NDIM(a) PyArray_NDIM((PyArrayObject *)(a))
    #define RV_DIM(a, i) PyArray_DIM((PyArrayObject *)(a), i)
    #define RV_STRIDE(a, i) PyArray_STRIDE((PyArrayObject *)(a), i)
    #define RV_TYPENUM(a) PyArray_TYPE((PyArrayObject *)(a))
    #define RV_SIZE(a) PyArray_SIZE((PyArrayObject *)(a))
    #define RV_DATA(a) PyArray_DATA((PyArrayObject *)(a))
    #define RV_BEHAVED(a) PyArray_ISBEHAVED_RO((PyArrayObject *)(a))
    """
    int RV_NDIM(object)
    Py_ssize_t RV_DIM(object, int)
    Py_ssize_t RV_STRIDE(object, int)
    int RV_TYPENUM(object)
    Py_ssize_t RV_SIZE(object)
    void *RV_DATA(object)
    bint RV_BEHAVED(object)


# Calls with fewer products, or elements of rows, than this keep the interpreter's lock: taking it back costs more than they do.
cdef enum:
    FEW_PRODUCTS = 65536
    FEW_ELEMENTS = 4096


cdef inline Py_ssize_t item_size(int code) noexcept nogil:
    return 8 if code == RV_F64 else 4 if code == RV_F32 else 2


# The rows of an array with at least one axis, all axes but the last taken together.
cdef inline int64_t row_count(object x) noexcept:
    cdef int i
    cdef int64_t rows = 1
    for i in range(RV_NDIM(x) - 1):
        rows *= RV_DIM(x, i)
    return rows


# An array for a result, in the dtype of x, not filled in.
cdef inline object new_array(int nd, cnp.npy_intp *shape, object x):
    return cnp.PyArray_EMPTY(nd, shape, RV_TYPENUM(x), 0)


# The storage code of an ndarray whose rows kernels can read in place, -1 for everything else. bfloat16 has no type number
# before ml_dtypes registers one, so it is known here only by the number that _coerce has seen (`bf16`).
cdef inline int plain_code(object x, int bf16) noexcept:
    cdef int num, code, i, nd
    cdef Py_ssize_t item
    if not cnp.PyArray_CheckExact(x):
        return -1
    num = RV_TYPENUM(x)
    if num == cnp.NPY_FLOAT32:
        code = RV_F32
    elif num == cnp.NPY_FLOAT64:
        code = RV_F64
    elif num == cnp.NPY_FLOAT16:
        code = RV_F16
    elif num == bf16:
        code = RV_BF16
    else:
        return -1
    if not RV_BEHAVED(x):
        return -1
    nd = RV_NDIM(x)
    if nd == 0:
        return code
    item = item_size(code)
    if RV_STRIDE(x, nd - 1) != item and RV_DIM(x, nd - 1) > 1:
        # NumPy gives arrays without elements strides of 0
        return code if RV_SIZE(x) == 0 else -1
    for i in range(nd - 1):
        if RV_STRIDE(x, i) % item != 0:
            return -1
    return code


# Whether out has the layout of x, a C-contiguous array of storage `code`, can be written, and shares no byte with it.
cdef inline bint same_layout(object x, object out, int code, int bf16) noexcept:
    cdef int i
    if plain_code(out, bf16) != code or RV_NDIM(out) != RV_NDIM(x) or not cnp.PyArray_IS_C_CONTIGUOUS(out):
        return False
    for i in range(RV_NDIM(x)):
        if RV_DIM(out, i) != RV_DIM(x, i):
            return False
    cdef const char *a = <const char *>RV_DATA(x)
    cdef const char *b = <const char *>RV_DATA(out)
    cdef Py_ssize_t bytes = RV_SIZE(x) * item_size(code)
    return cnp.PyArray_ISWRITEABLE(out) and (a + bytes <= b or b + bytes <= a)


cdef extern from "Python.h":
    # declared without `except`: the exception a handler raised must stay set until raise_for returns to the caller
    int check_signals "PyErr_CheckSignals"()


cdef inline int poll_signals(void *context) noexcept with gil:
    return check_signals()


# Status codes as exceptions. Python has checked names and numbers before: what reaches this are sizes too large together.
cdef inline int raise_for(rv_status status) except -1:
    if status == RV_OK:
        return 0
    if status == RV_ERR_INTERRUPTED:
        if PyErr_Occurred() == NULL:
            raise RuntimeError("this call was lost: the process forked while other threads worked on it")
        return -1
    if status == RV_ERR_NOMEM:
        raise MemoryError("not enough memory for the working space of this call")
    if status == RV_ERR_SHAPE:
        raise ValueError("the shapes of the arguments do not fit each other, or their product overflows")
    raise ValueError("a parameter is out of its range")
