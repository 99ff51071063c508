# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, cdivision=True
"""What KVCache does for every token: rows into its arrays, and the attention call over them. The rest is cache.py's."""
cimport numpy as cnp
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset
from cpython.pycapsule cimport PyCapsule_Import

from ruvector._api cimport *
from ruvector._arrays cimport (
    FEW_PRODUCTS, RV_DATA, RV_DIM, RV_NDIM, RV_STRIDE, new_array, plain_code, poll_signals, raise_for,
)

from ruvector import _coerce, _options

cnp.import_array()

cdef const rv_api *api = <const rv_api *>PyCapsule_Import("ruvector._ruvector_core.rv_api", 0)

# The type number that ml_dtypes gave bfloat16; -1 until an array of that type has been seen.
cdef int _coerce_bf16 = -1


def _learn_bfloat16(int number):
    global _coerce_bf16
    _coerce_bf16 = number


cdef class Store:
    """Keys and values (batch, heads, capacity, width) of which rows [first, first + held) are tokens."""
    cdef readonly int64_t num_kv_heads, head_dim, v_dim, batch
    cdef readonly int64_t length        # tokens ever appended: the next one's position
    cdef readonly int64_t capacity
    cdef readonly object dtype
    cdef readonly object _keys, _values, _key_scales, _value_scales
    cdef readonly int64_t _first, _held, _latest    # _latest: tokens of the last append that truncate has left
    cdef int64_t limit, least           # the window, 0 for none; the capacity asked for
    cdef int code

    def _setup(self, int64_t num_kv_heads, int64_t head_dim, int64_t v_dim, int64_t batch, int64_t capacity, int64_t limit, dtype):
        self.num_kv_heads, self.head_dim, self.v_dim, self.batch = num_kv_heads, head_dim, v_dim, batch
        self.limit = limit
        self.dtype = dtype
        self.code = code_of(dtype)
        self.replace(capacity, 0)
        self.least = capacity

    cdef int replace(self, int64_t capacity, int64_t keep) except -1:
        """Arrays of `capacity` rows in place of the present ones, with the last `keep` tokens."""
        cdef int64_t last = self._first + self._held
        shape = (self.batch, self.num_kv_heads, capacity)
        arrays = [_coerce.aligned((*shape, self.head_dim), self.dtype), _coerce.aligned((*shape, self.v_dim), self.dtype)]
        if self.code == RV_I8:
            arrays += [_coerce.aligned(shape, "float32"), _coerce.aligned(shape, "float32")]
        else:
            arrays += [None, None]
        if keep:
            for old, new in zip((self._keys, self._values, self._key_scales, self._value_scales), arrays):
                if new is not None:
                    new[:, :, :keep] = old[:, :, last - keep:last]
        self._keys, self._values, self._key_scales, self._value_scales = arrays
        self.capacity = capacity
        self._first = 0
        self._held = keep
        return 0

    cdef int64_t place(self, rv_array *to, object x, int64_t heads, int64_t width) noexcept:
        """Pointer and strides of rows (batch, heads, n, width), an axis of one token or a batch of one left out; n, or -1."""
        cdef int nd = RV_NDIM(x)
        cdef int batch = -1, head = 0, row = -1
        if nd == 0 or nd > 4 or RV_DIM(x, nd - 1) != width or (nd < 3 and self.batch != 1):
            return -1
        if nd == 4:
            batch, head, row = 0, 1, 2
        elif nd == 3 and (self.batch != 1 or RV_DIM(x, 0) != heads):
            batch, head = 0, 1
        elif nd == 3:
            row = 1
        elif nd == 1:
            head = -1
        if (RV_DIM(x, batch) if batch >= 0 else 1) != self.batch or (RV_DIM(x, head) if head >= 0 else 1) != heads:
            return -1
        to.data = RV_DATA(x)
        to.batch_stride[0] = RV_STRIDE(x, batch) if batch >= 0 else 0
        to.head_stride = RV_STRIDE(x, head) if head >= 0 else 0
        to.row_stride = RV_STRIDE(x, row) if row >= 0 else 0
        return RV_DIM(x, row) if row >= 0 else 1

    cdef object source(self, object x, str name):
        """`x` as an array whose rows rv_rows_run takes: float64 for a float64 cache, one of the others for the others."""
        cdef int code = plain_code(x, _coerce_bf16)
        if code >= 0 and (code == RV_F64) == (self.code == RV_F64):
            return x
        return _coerce.cache_rows(x, name, self.dtype)

    @property
    def window(self):
        return self.limit if self.limit else None

    def append(self, keys, values):
        """Appends the keys and values of one token or of many.

        Parameters
        ----------
        keys : array_like, shape (batch, num_kv_heads, n, head_dim), or (batch, num_kv_heads, head_dim) for one token
        values : array_like, shape (batch, num_kv_heads, n, v_dim), or (batch, num_kv_heads, v_dim) for one token
            The batch axis may be left out when `batch` is 1. Any real dtype; rounded to the cache's.

        Raises
        ------
        TypeError
            For a dtype that is not real.
        ValueError
            For shapes that do not fit; for NaN or inf where the cache stores int8.
        MemoryError
            When the cache cannot grow.

        Notes
        -----
        One pass over the new rows; when they do not fit, the arrays are replaced by larger ones, which costs O(1) a token
        over time. An append that fails leaves the cache as it was.

        Examples
        --------
        >>> import numpy as np, ruvector
        >>> cache = ruvector.KVCache(2, 4)
        >>> cache.append(np.ones((2, 5, 4)), np.ones((2, 5, 4)))  # five tokens
        >>> cache.append(np.ones((2, 4)), np.ones((2, 4)))  # one more
        >>> len(cache)
        6
        """
        cdef rv_rows_args k, v
        cdef int64_t n, keep, need, room, held = self._held
        cdef rv_status status
        cdef object k_rows = self.source(keys, "keys"), v_rows = self.source(values, "values")
        n = self.place(&k.source, k_rows, self.num_kv_heads, self.head_dim)
        if n < 0 or self.place(&v.source, v_rows, self.num_kv_heads, self.v_dim) != n:
            _coerce.refuse_cache_rows(self, k_rows, v_rows)
        if n == 0:
            return
        # with a window: as many as a first new token's window and, should all of them be truncated, a last old one's reach
        keep = min(held, self.limit) if self.limit else held
        need = keep + n
        before = None
        if self._first + held + n > self.capacity:
            before = (self._keys, self._values, self._key_scales, self._value_scales, self.capacity, self._first)
            if self.limit:
                room = max(self.limit + n + self.limit // 2 + 16, self.least)
            else:
                room = max(need, 2 * self.capacity, 16)
            self.replace(room, keep)
        self.fill(&k, k_rows, self._keys, self._key_scales, n)
        self.fill(&v, v_rows, self._values, self._value_scales, n)
        if <double>n * self.batch * self.num_kv_heads * (self.head_dim + self.v_dim) < FEW_PRODUCTS:
            status = api.rows_run(&k)
            if status == RV_OK:
                status = api.rows_run(&v)
        else:
            with nogil:
                status = api.rows_run(&k)
                if status == RV_OK:
                    status = api.rows_run(&v)
        if status != RV_OK:
            if before is not None:
                self._keys, self._values, self._key_scales, self._value_scales, self.capacity, self._first = before
                self._held = held
            _coerce.refuse_infinite(keys, values)
            raise_for(status)
        self._first += self._held - keep
        self._held = need
        self._latest = n
        self.length += n

    cdef void fill(self, rv_rows_args *a, object x, object into, object scales, int64_t n) noexcept:
        """The target behind the tokens held, and everything else of `a` but its source."""
        cdef int64_t at = self._first + self._held
        a.from_ = <rv_dtype>plain_code(x, _coerce_bf16)
        a.to = <rv_dtype>self.code
        a.batch, a.heads, a.rows = self.batch, self.num_kv_heads, n
        a.columns = RV_DIM(into, 3)
        a.target.data = <char *>RV_DATA(into) + at * RV_STRIDE(into, 2)
        a.target.batch_stride[0], a.target.head_stride = RV_STRIDE(into, 0), RV_STRIDE(into, 1)
        a.target.row_stride = RV_STRIDE(into, 2)
        if scales is not None:
            a.scales.data = <char *>RV_DATA(scales) + at * RV_STRIDE(scales, 2)
            a.scales.batch_stride[0], a.scales.head_stride = RV_STRIDE(scales, 0), RV_STRIDE(scales, 1)

    def attend(self, query, *, scale=None, softcap=0.0, alibi_slopes=None, return_lse=False, out=None):
        """Causal attention of the latest tokens' queries over the tokens held.

        Parameters
        ----------
        query : array_like, shape (batch, H, L, head_dim), or (batch, H, head_dim) for one token
            H is a multiple of `num_kv_heads`: consecutive query heads share keys and values. Query i of L stands at position
            ``length - L + i`` and sees the keys up to there. The batch axis may be left out when `batch` is 1. Rounded to
            float32 where it is wider than the cache's arithmetic.
        scale : float, optional
            Factor on the products; ``1 / sqrt(head_dim)`` when None.
        softcap : float, default 0.0
            Logits become ``softcap * tanh(logits / softcap)``; 0 leaves them.
        alibi_slopes : array_like, shape (H,) or (batch, H), optional
            Adds ``-slope * distance``.
        return_lse : bool, default False
            Also return the log-sum-exp of the logits.
        out : ndarray, optional
            Where the result goes: its shape and dtype, any strides.

        Returns
        -------
        ndarray, shape (batch, H, L, v_dim)
            The axes of `query`, and its dtype. Zeros where a query sees no key.
        lse : ndarray, shape (batch, H, L), float64
            With `return_lse`.

        Raises
        ------
        TypeError
            For a dtype that is not real, or an option of the wrong type.
        ValueError
            For shapes that do not fit, and options out of their range.

        Notes
        -----
        ``2 H L n (head_dim + v_dim)`` operations for n tokens; each key and value is read once for all heads that share it.
        Up to four queries a head run at the speed at which memory delivers keys and values. The error is that of
        `scaled_dot_product_attention` over the stored keys and values, and so are the bits where it computes in the same
        type.

        Examples
        --------
        >>> import numpy as np, ruvector
        >>> rng = np.random.default_rng(0)
        >>> cache = ruvector.KVCache(2, 4)
        >>> cache.append(*rng.standard_normal((2, 2, 5, 4)))
        >>> cache.attend(rng.standard_normal((8, 4))).shape
        (8, 4)
        """
        cdef rv_attn_args a
        cdef rv_kv_storage storage
        cdef int code = plain_code(query, _coerce_bf16), nd, i
        cdef int64_t heads, skip, n = self._held
        cdef cnp.npy_intp shape[4]
        cdef rv_status status
        cdef object given = None, result, written = None, lse = None
        # the arrays stay alive whatever another thread appends meanwhile
        cdef object keys = self._keys, values = self._values, key_scales = self._key_scales, value_scales = self._value_scales
        if code < 0 or (code == RV_F64) != (self.code == RV_F64):
            given, query = _coerce.cache_query(query, self.code == RV_F64)
            code = plain_code(query, _coerce_bf16)
        if return_lse is not False:
            return_lse = _options.flag(return_lse, "return_lse")
        memset(&a, 0, sizeof(a))
        nd = RV_NDIM(query)
        heads = self.query_heads(query)
        a.q_len = self.place(&a.query, query, heads, self.head_dim) if heads > 0 else -1
        if a.q_len < 0:
            _coerce.refuse_cache_query(self, query)
        a.dtype = <rv_dtype>code
        a.batch_axes = 1 if self.batch != 1 else 0
        a.batch_shape[0] = self.batch
        a.heads = heads
        a.key_heads = a.value_heads = self.num_kv_heads
        a.dim, a.v_dim = self.head_dim, self.v_dim
        # a window hides nothing that is left out here
        skip = max(n - (self.limit + a.q_len - 1), 0) if self.limit else 0
        a.kv_len = n - skip
        a.offset = a.kv_len - a.q_len
        a.left = self.limit - 1 if self.limit and a.q_len > 1 else RV_UNBOUNDED
        a.right = 0 if a.q_len > 1 else RV_UNBOUNDED
        self.rows(&a.key, keys, skip)
        self.rows(&a.value, values, skip)
        if self.code != code:
            memset(&storage, 0, sizeof(storage))
            storage.dtype = <rv_dtype>self.code
            if self.code == RV_I8:
                self.rows(&storage.key_scale, key_scales, skip)
                self.rows(&storage.value_scale, value_scales, skip)
            a.storage = &storage
        a.scale = 1 / sqrt(<double>self.head_dim) if scale is None else _options.number(scale, "scale")
        if softcap is not ZERO:
            a.softcap = _options.softcap_of(softcap)
        if alibi_slopes is not None:
            alibi_slopes = _options.float64_array(alibi_slopes, "alibi_slopes")
            self.place_slopes(&a, alibi_slopes)
        for i in range(nd - 1):
            shape[i] = RV_DIM(query, i)
        shape[nd - 1] = self.v_dim
        if out is None or given is not None:
            result = new_array(nd, shape, query)
            if out is not None:
                _coerce._check_output(out, tuple([shape[i] for i in range(nd)]), given)
                written = out
        else:
            result = _coerce.output(out, tuple([shape[i] for i in range(nd)]), query.dtype, (query, keys, values))
            written = out if result is not out else None
        self.place(&a.out, result, heads, self.v_dim)
        if return_lse:
            lse = cnp.PyArray_EMPTY(nd - 1, shape, cnp.NPY_FLOAT64, 0)
            a.lse = <double *>RV_DATA(lse)
        if <double>heads * self.batch * a.q_len * a.kv_len * (self.head_dim + self.v_dim) < FEW_PRODUCTS:
            status = api.attn_run(&a)
        else:
            a.interrupted = poll_signals
            with nogil:
                status = api.attn_run(&a)
        if status != RV_OK:
            raise_for(status)
        if written is not None:
            written[...] = result
            result = written
        elif given is not None:
            result = result.astype(given)
        return (result, lse) if return_lse else result

    cdef int64_t query_heads(self, object query) noexcept:
        """The size of query's axis of heads; -1 where that is none, or not to be told."""
        cdef int nd = RV_NDIM(query)
        cdef int64_t heads
        if nd == 4 or (nd == 3 and self.batch != 1):
            heads = RV_DIM(query, 1)
        elif nd == 3:
            heads = RV_DIM(query, 0)
            if heads == 1 and RV_DIM(query, 1) != 1:
                # one head, or a batch of one: only several key and value heads tell
                if self.num_kv_heads == 1:
                    return -1
                heads = RV_DIM(query, 1)
        elif nd == 2:
            heads = RV_DIM(query, 0)
        else:
            heads = 1
        return heads if heads % self.num_kv_heads == 0 else -1

    cdef void rows(self, rv_array *to, object x, int64_t skip) noexcept:
        """The tokens held but the first `skip`, in an array (batch, heads, capacity) or (batch, heads, capacity, width)."""
        to.data = <char *>RV_DATA(x) + (self._first + skip) * RV_STRIDE(x, 2)
        to.batch_stride[0], to.head_stride, to.row_stride = RV_STRIDE(x, 0), RV_STRIDE(x, 1), RV_STRIDE(x, 2)

    cdef int place_slopes(self, rv_attn_args *a, object slopes) except -1:
        """ALiBi slopes (heads,) or (batch, heads), float64 and C-contiguous."""
        cdef int nd = RV_NDIM(slopes)
        if nd > 2 or RV_DIM(slopes, nd - 1) not in (1, a.heads) or (nd == 2 and RV_DIM(slopes, 0) not in (1, self.batch)):
            _coerce.refuse_slopes(slopes, [self.batch], a.heads)
        a.slopes = <const double *>RV_DATA(slopes)
        a.slopes_head_stride = 0 if RV_DIM(slopes, nd - 1) == 1 else 1
        if nd == 2 and RV_DIM(slopes, 0) != 1:
            a.slopes_batch_stride[0] = RV_DIM(slopes, 1)
        return 0

    def _cut(self, int64_t n):
        """Forgets the last n of the tokens held."""
        self._held -= n
        self.length -= n
        self._latest = max(self._latest - n, 0)

    def _clear(self):
        self._first = self._held = self._latest = self.length = 0

    def _load(self, int64_t length, int64_t latest, arrays):
        """The tokens of `arrays` (keys, values, scales as they are stored) in place of all others."""
        cdef int64_t n = arrays[0].shape[2]
        self._clear()
        if n > self.capacity:
            self.replace(n, 0)
        for mine, new in zip((self._keys, self._values, self._key_scales, self._value_scales), arrays):
            if mine is not None:
                mine[:, :, :n] = new
        self._held, self.length, self._latest = n, length, latest


# The default 0.0 itself, to tell it apart without a comparison.
cdef object ZERO = Store.attend.__kwdefaults__["softcap"]


cdef int code_of(object dtype) except -1:
    return RV_I8 if dtype == "int8" else plain_code(_coerce.aligned((1,), dtype), _coerce_bf16)
