"""Keys and values kept between the steps of a decoder."""

from __future__ import annotations

import numpy as np

from ruvector import _cache, _coerce
from ruvector._options import number

# What the C core takes as the width of a head, with room for products.
_MAX_WIDTH = (2**31 - 1) // 64
_DTYPES = "float32, float64, float16, bfloat16 or int8"


def _storage_dtype(dtype):
    """`dtype` as a NumPy dtype that a cache can store."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError('dtype "bfloat16" needs the package ml_dtypes: pip install ml_dtypes') from None
        dtype = ml_dtypes.bfloat16
    try:
        known = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        known = None
    if known is None or not (known.isnative and (known.char in "efdb" or _coerce.is_bfloat16(known))):
        raise TypeError(f"dtype must be {_DTYPES}, got {dtype!r}")
    return known


def _count(value, name, least):
    value = number(value, name, whole=True)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > 2**40:
        raise ValueError(f"{name} must be at most 2**40, got {value}")
    return value


class KVCache(_cache.Store):
    """Keys and values of the tokens so far, and attention over them.

    Parameters
    ----------
    num_kv_heads : int
        Heads of the keys and values.
    head_dim : int
        Width of keys and queries.
    v_dim : int, optional
        Width of values; `head_dim` when None.
    batch : int, default 1
        Sequences, all of one length.
    capacity : int, default 0
        Tokens to make room for at once; the cache grows as it needs.
    window : int, optional
        A query sees at most this many keys, the latest up to its own position. Older ones are evicted: held are the last
        `window` tokens and, until the next append, as many more as the last append brought, so that each of its queries has
        a whole window, and so that truncating it leaves one. Positions keep counting.
    dtype : dtype, default float32
        How keys and values are stored: float32, float64, float16, bfloat16 (also by that name), or int8 with a float32 scale
        for every token and head, ``max|row| / 127``.

    Attributes
    ----------
    length : int
        Tokens appended so far, evicted ones included: the position of the next one.
    capacity : int
        Tokens that the arrays have room for.
    nbytes : int
        Bytes of the arrays.
    keys, values : ndarray, shape (batch, num_kv_heads, len(cache), head_dim or v_dim)
        Read-only views of what is stored, valid until the next append; copies in float32 where that is int8.
    num_kv_heads, head_dim, v_dim, batch, window, dtype
        As given.

    Raises
    ------
    TypeError
        For a dtype that cannot be stored, and sizes that are not integers.
    ValueError
        For sizes below 1.
    MemoryError
        When there is no room for `capacity` tokens.

    Notes
    -----
    Arithmetic is float64 for a float64 cache and float32 for the others. The arrays are (batch, num_kv_heads, capacity, width)
    and start at a cache line. As with NumPy's arrays, one thread may change a cache while no other uses it.

    ``len(cache)`` is the number of tokens that a query can see: `length`, or `window` if that is less. int8 moves a key by at
    most ``max|row| / 254`` in each element, and a logit by at most ``scale * sum|query| * max|key| / 254``.

    Copies (``copy.copy``, `copy`) and pickles hold the tokens and nothing else.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> cache = ruvector.KVCache(num_kv_heads=2, head_dim=8)
    >>> prompt = rng.standard_normal((3, 8, 6, 8), dtype=np.float32)  # eight heads, six tokens
    >>> cache.append(prompt[1, :2], prompt[2, :2])
    >>> cache.attend(prompt[0]).shape
    (8, 6, 8)
    >>> query, key, value = rng.standard_normal((3, 8, 8), dtype=np.float32)  # one token more
    >>> cache.append(key[:2], value[:2])
    >>> cache.attend(query).shape, len(cache)
    ((8, 8), 7)
    """

    def __init__(self, num_kv_heads, head_dim, v_dim=None, *, batch=1, capacity=0, window=None, dtype=np.float32):
        num_kv_heads = _count(num_kv_heads, "num_kv_heads", 1)
        head_dim = _count(head_dim, "head_dim", 1)
        v_dim = head_dim if v_dim is None else _count(v_dim, "v_dim", 1)
        for width, name in ((head_dim, "head_dim"), (v_dim, "v_dim")):
            if width > _MAX_WIDTH:
                raise ValueError(f"{name} must be at most {_MAX_WIDTH}, got {width}")
        batch = _count(batch, "batch", 1)
        capacity = _count(capacity, "capacity", 0)
        window = 0 if window is None else _count(window, "window", 1)
        self._setup(num_kv_heads, head_dim, v_dim, batch, capacity, window, _storage_dtype(dtype))

    def __len__(self):
        return min(self._held, self.window or self._held)

    @property
    def nbytes(self):
        return sum(x.nbytes for x in self._arrays() if x is not None)

    @property
    def keys(self):
        return self._stored(self._keys, self._key_scales)

    @property
    def values(self):
        return self._stored(self._values, self._value_scales)

    def _arrays(self):
        return self._keys, self._values, self._key_scales, self._value_scales

    def _stored(self, array, scales):
        last = self._first + self._held
        tokens = slice(last - len(self), last)
        rows = array[:, :, tokens] if scales is None else array[:, :, tokens] * scales[:, :, tokens, None]
        rows.flags.writeable = False
        return rows

    def clear(self):
        """Forgets all tokens; the arrays stay.

        Examples
        --------
        >>> import numpy as np, ruvector
        >>> cache = ruvector.KVCache(1, 4)
        >>> cache.append(np.ones((1, 4)), np.ones((1, 4)))
        >>> cache.clear()
        >>> len(cache), cache.length
        (0, 0)
        """
        self._clear()

    def truncate(self, length):
        """Goes back to the first `length` tokens: what a rejected draft of speculative decoding needs.

        Parameters
        ----------
        length : int
            The new `length`. With a window, what has been evicted does not come back: all tokens of the last append can go
            without a loss.

        Raises
        ------
        TypeError
            When `length` is no integer.
        ValueError
            When it is negative, more than there are, or when no token before it is held any more.

        Examples
        --------
        >>> import numpy as np, ruvector
        >>> cache = ruvector.KVCache(1, 4)
        >>> cache.append(np.ones((1, 5, 4)), np.ones((1, 5, 4)))
        >>> cache.truncate(3)
        >>> len(cache)
        3
        """
        length = number(length, "length", whole=True)
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be from 0 to the {self.length} tokens there are, got {length}")
        evicted = self.length - self._held
        if 0 < length <= evicted:
            raise ValueError(f"length must be more than the {evicted} tokens that are evicted, or 0, got {length}")
        if length:
            self._cut(self.length - length)
        else:
            self._clear()

    def copy(self):
        """A cache of its own with the same tokens.

        Returns
        -------
        KVCache

        Examples
        --------
        >>> import numpy as np, ruvector
        >>> cache = ruvector.KVCache(1, 4)
        >>> fork = cache.copy()
        >>> fork.append(np.ones((1, 4)), np.ones((1, 4)))
        >>> len(cache), len(fork)
        (0, 1)
        """
        make, arguments = self.__reduce__()
        return make(*arguments)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        tokens = slice(self._first, self._first + self._held)
        arrays = tuple(None if x is None else x[:, :, tokens].copy() for x in self._arrays())
        options = {"batch": self.batch, "window": self.window, "dtype": self.dtype}
        return _rebuild, (
            type(self),
            (self.num_kv_heads, self.head_dim, self.v_dim),
            options,
            self.length,
            self._latest,
            arrays,
        )

    def __repr__(self):
        width = (
            f"head_dim={self.head_dim}"
            if self.v_dim == self.head_dim
            else f"head_dim={self.head_dim}, v_dim={self.v_dim}"
        )
        window = "" if self.window is None else f", window={self.window}"
        return (
            f"<{type(self).__name__} num_kv_heads={self.num_kv_heads}, {width}, batch={self.batch}{window}, dtype={self.dtype}: "
            f"{self.length} tokens, room for {self.capacity}, {self.nbytes} bytes>"
        )


def _rebuild(kind, sizes, options, length, latest, arrays):
    """A cache from what `KVCache.__reduce__` gives; ValueError for arrays that do not fit."""
    cache = kind(*sizes, **options)
    own = cache._arrays()
    length, latest = number(length, "length", whole=True), number(latest, "latest", whole=True)
    held = arrays[0].shape[2] if len(arrays) == 4 and np.ndim(arrays[0]) == 4 else -1
    for mine, theirs in zip(own, arrays):
        if mine is None and theirs is None:
            continue
        if (
            mine is None
            or theirs is None
            or theirs.dtype != mine.dtype
            or theirs.shape != (*mine.shape[:2], held, *mine.shape[3:])
        ):
            held = -1
    if not 0 <= latest <= held <= length or (held < length and cache.window is None):
        raise ValueError("these are not the parts of a KVCache")
    cache._load(length, latest, arrays)
    return cache


AttentionCache = KVCache
