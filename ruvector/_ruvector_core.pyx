# cython: language_level=3, freethreading_compatible=True
"""The one module that links the C core: instruction sets, threads, the catalogue of types, and the table of entry points.

Its functions are thin; `ruvector.runtime` checks arguments and words the errors.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t


cdef extern from "ruvector.h" nogil:
    """
    extern const rv_api rv_api_table;
    #ifdef Py_LIMITED_API
    #define RV_STABLE_ABI 1
    #else
    #define RV_STABLE_ABI 0
    #endif
    """
    ctypedef enum rv_status:
        RV_OK
        RV_ERR_UNKNOWN

    ctypedef enum rv_dtype:
        RV_F32
        RV_F64
        RV_F16
        RV_BF16

    ctypedef struct rv_param:
        const char *name
        const char *type
        double value, low, high
        const char *description

    ctypedef struct rv_type:
        const char *name
        const char *aliases
        const char *complexity
        const char *best_for
        const char *family
        const char *reference
        int param_count
        const rv_param *params
        int shared

    ctypedef struct api_table "rv_api":
        pass

    const char *RV_VERSION
    const bint RV_STABLE_ABI
    const api_table rv_api_table
    const char *rv_isa_at(int i)
    const char *rv_isa_compiled_at(int i)
    const char *rv_isa_active()
    rv_status rv_isa_use(const char *name)
    rv_status rv_isa_init(const char **bad)
    const char *rv_cpu_brand()
    int64_t rv_cpu_cache(int level)
    int rv_threads_get()
    rv_status rv_threads_set(int n)
    const rv_type *rv_type_at(int i)


cdef extern from "thread.h" nogil:
    rv_status rv_threads_init(const char **bad)
    int rv_cpus_online()
    int rv_cpus_affinity()
    int rv_cpus_cgroup(const char *root)


cdef extern from "peak.h" nogil:
    rv_status rv_peak_fma(rv_dtype dtype, int64_t rounds, int threads, double *operations)
    rv_status rv_peak_read(const void *x, int64_t bytes, int64_t passes, int threads, double *read)


cdef str text(const char *s):
    return s.decode("utf-8")


def isa():
    """Name of the active instruction set."""
    return text(rv_isa_active())


def isas():
    """Names of the usable instruction sets, best first."""
    cdef int i = 0
    names = []
    while rv_isa_at(i) != NULL:
        names.append(text(rv_isa_at(i)))
        i += 1
    return tuple(names)


def compiled_isas():
    """Names of the instruction sets in this build, usable here or not, best first."""
    cdef int i = 0
    names = []
    while rv_isa_compiled_at(i) != NULL:
        names.append(text(rv_isa_compiled_at(i)))
        i += 1
    return tuple(names)


def isa_use(str name not None):
    """Makes a usable instruction set the active one, for the whole process."""
    cdef bytes raw = name.encode("utf-8")
    if b"\0" in raw or rv_isa_use(raw) != RV_OK:
        raise LookupError(name)


def get_num_threads():
    """Threads that a call may use."""
    return rv_threads_get()


def set_num_threads(int n):
    """Sets the threads that a call may use, for the whole process; n >= 1."""
    if rv_threads_set(n) != RV_OK:
        raise ValueError(n)


def cpu_brand():
    """The CPU's own name, "unknown" where the system does not tell."""
    return text(rv_cpu_brand())


def cpu_cache(int level):
    """Bytes of the data cache of level 1, 2 or 3; 0 when unknown."""
    return rv_cpu_cache(level)


def cpu_counts():
    """CPUs online, in the affinity mask, and allowed by the cgroup's quota (0: no limit)."""
    return rv_cpus_online(), rv_cpus_affinity(), rv_cpus_cgroup(b"")


def peak_fma(str dtype not None, int64_t rounds, int threads):
    """Runs independent multiply-adds of the active ISA on every thread at once; returns the floating-point operations.

    LookupError for a dtype that the ISA has no arithmetic in.
    """
    cdef double operations
    cdef rv_dtype code
    cdef rv_status status
    if dtype == "float32":
        code = RV_F32
    elif dtype == "float64":
        code = RV_F64
    elif dtype == "float16":
        code = RV_F16
    elif dtype == "bfloat16":
        code = RV_BF16
    else:
        raise LookupError(dtype)
    with nogil:
        status = rv_peak_fma(code, rounds, threads, &operations)
    if status == RV_ERR_UNKNOWN:
        raise LookupError(dtype)
    if status != RV_OK:
        raise ValueError((rounds, threads))
    return operations


def peak_read(buffer, int64_t passes, int threads):
    """Reads a part of a contiguous buffer on every thread at once, `passes` times; returns the bytes read."""
    cdef double read
    cdef Py_buffer view
    cdef rv_status status
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    with nogil:
        status = rv_peak_read(view.buf, view.len, passes, threads, &read)
    PyBuffer_Release(&view)
    if status != RV_OK:
        raise ValueError((passes, threads))
    return read


def version():
    """Version of the C core."""
    return text(RV_VERSION)


def stable_abi():
    """Whether this build uses the stable ABI (abi3)."""
    return bool(RV_STABLE_ABI)


def catalog():
    """Records of the types that C runs: dicts whose "parameters" are (name, type, default, low, high, description)."""
    cdef int i = 0, k
    cdef const rv_type *t
    cdef const rv_param *p
    rows = []
    while True:
        t = rv_type_at(i)
        if t == NULL:
            return tuple(rows)
        parameters = []
        for k in range(t.param_count):
            p = &t.params[k]
            parameters.append((text(p.name), text(p.type), p.value, p.low, p.high, text(p.description)))
        rows.append({
            "name": text(t.name),
            "aliases": tuple(text(t.aliases).split()),
            "complexity": text(t.complexity),
            "best_for": text(t.best_for),
            "family": text(t.family),
            "reference": text(t.reference),
            "parameters": tuple(parameters),
            "shared": bool(t.shared),
        })
        i += 1


cdef init():
    cdef const char *bad = NULL
    if rv_isa_init(&bad) != RV_OK:
        raise ImportError(
            f"RUVECTOR_ISA={bad.decode('utf-8', 'replace')!r} is not an instruction set that this machine can use: "
            f"choose from {', '.join(isas())}, or unset it"
        )
    if rv_threads_init(&bad) != RV_OK:
        raise ImportError(
            f"RUVECTOR_NUM_THREADS={bad.decode('utf-8', 'replace')!r} is not a positive integer: set one, or unset it"
        )


init()
rv_api = PyCapsule_New(<void *>&rv_api_table, "ruvector._ruvector_core.rv_api", NULL)
