"""Attention over what is kept of the past: memories that are compressed, and memories of what the layers made."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector._options import flag, float64_array, number, one_of
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import COMMON_OPTIONS, documented
from ruvector.mechanisms import _rows
from ruvector.mechanisms._heads import Call

# Kernels that nobody gave are those of rv_draw_run with this seed and the one after it.
_SEED = 42
_COMPRESSIONS = ("mean", "max", "conv")


def _size(value, name, least):
    value = number(value, name, whole=True)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _dtype_of(dtype):
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def _batch_of(batch):
    return tuple(_size(n, "batch", 0) for n in (batch if isinstance(batch, (tuple, list)) else (batch,)))


class _Memory:
    """Arrays of a batch, of fixed dtype: how they are taken in and given back."""

    __slots__ = ()

    def _take(self, x, name, width):
        """Rows (*batch, n, width), and whether a single one was given."""
        x = _coerce.array(x, name)
        single, shape = x.ndim == len(self.batch) + 1, x.shape
        if single:
            x = x[..., None, :]
        if x.ndim != len(self.batch) + 2 or x.shape[:-2] != self.batch or x.shape[-1] != width:
            lead = "".join(f"{n}, " for n in self.batch)
            raise ValueError(
                f"{name} must have shape ({lead}n, {width}) or ({lead}{width}{'' if lead else ','}), got {shape}"
            )
        with np.errstate(over="ignore"):
            return _coerce.plain(x, self.dtype), single

    def _empty(self, width):
        return np.empty((*self.batch, 0, width), self.dtype)


class CompressiveMemory(_Memory):
    """The past of a sequence as keys and values, the older part of it compressed.

    States, a key and a value each, pass through two queues. When there are more than `memory_length` in the first, its oldest leave it
    `rate` at a time, and each such group becomes one state of the second, which keeps the latest `compressed_length`.

    Parameters
    ----------
    head_dim : int
        Width of queries and keys.
    v_dim : int, optional
        Width of values; `head_dim` when None.
    memory_length, compressed_length : int, default 512
        At least 0.
    rate : int, default 3
        States that become one; at least 1.
    compression : {"mean", "max", "conv"}, default "mean"
        Of each column of a group, or the convolution ``sum_t x_t @ conv[t]``.
    key_conv, value_conv : array_like, shape (rate, head_dim, head_dim) and (rate, v_dim, v_dim), optional
        Kernels of "conv". When None, numbers of SplitMix64, seeds 42 and 43, uniform in ``+-sqrt(6 / (rate * width + width))``.
    batch : int or tuple of int, default ()
        The leading axes of all arrays.
    dtype : dtype, default float32
        float32 or float64: of the arithmetic and of results.

    Attributes
    ----------
    keys, values : ndarray, shape (*batch, n, head_dim) and (*batch, n, v_dim)
        What is attended to: compressed states, then those of the memory.
    length, compressed : int
        States of the memory, and compressed ones.

    Raises
    ------
    TypeError, ValueError
        For sizes, dtypes and kernels other than these.

    Notes
    -----
    At most ``memory_length + rate - 1`` and `compressed_length` states; nothing depends on how the states were divided into calls of
    `append`. From Rae et al. 2020, Compressive Transformers for Long-Range Sequence Modelling, arXiv:1911.05507, whose memories are of
    a layer's inputs: "mean" and "conv" of those are the same of their projections, up to the kernel.

    Examples
    --------
    >>> import ruvector
    >>> memory = ruvector.CompressiveMemory(1, memory_length=1, rate=2, dtype="float64")
    >>> memory.append([[1.0], [3.0], [5.0]], [[10.0], [30.0], [50.0]]).values
    array([[20.],
           [50.]])
    """

    __slots__ = (
        "_convs",
        "_queues",
        "_seen",
        "batch",
        "compressed_length",
        "compression",
        "dtype",
        "head_dim",
        "memory_length",
        "rate",
        "v_dim",
    )

    def __init__(
        self,
        head_dim,
        v_dim=None,
        *,
        memory_length=512,
        compressed_length=512,
        rate=3,
        compression="mean",
        key_conv=None,
        value_conv=None,
        batch=(),
        dtype=np.float32,
    ):
        self.head_dim = _size(head_dim, "head_dim", 1)
        self.v_dim = self.head_dim if v_dim is None else _size(v_dim, "v_dim", 0)
        self.memory_length = _size(memory_length, "memory_length", 0)
        self.compressed_length = _size(compressed_length, "compressed_length", 0)
        self.rate = _size(rate, "rate", 1)
        self.compression = one_of(compression, "compression", _COMPRESSIONS)
        self.batch, self.dtype = _batch_of(batch), _dtype_of(dtype)
        kernels = []
        for i, (conv, name, width) in enumerate(
            ((key_conv, "key_conv", self.head_dim), (value_conv, "value_conv", self.v_dim))
        ):
            if self.compression != "conv":
                if conv is not None:
                    raise ValueError(f"compression={compression!r} takes no {name}")
                continue
            shape = (self.rate, width, width)
            conv = (
                glorot(shape, (self.rate + 1) * max(width, 1), _SEED + i) if conv is None else float64_array(conv, name)
            )
            if conv.shape != shape:
                raise ValueError(f"{name} must have shape (rate, width, width) = {shape}, got {conv.shape}")
            kernels.append(conv.astype(self.dtype))
        self._convs = kernels or (None, None)
        self.reset()

    def reset(self):
        """Forgets all states; returns the memory."""
        empty = self._empty(self.head_dim), self._empty(self.v_dim)
        # compressed states and those of the memory: keys, values, and which of them there are
        self._queues = [list(empty), list(empty)]
        self._seen = [np.empty((*self.batch, 0), bool) for _ in range(2)]
        return self

    @property
    def length(self):
        """States of the memory."""
        return self._seen[1].shape[-1]

    @property
    def compressed(self):
        """Compressed states."""
        return self._seen[0].shape[-1]

    @property
    def keys(self):
        """Keys of the compressed states and of the memory."""
        return np.concatenate([queue[0] for queue in self._queues], -2)

    @property
    def values(self):
        """Values of the compressed states and of the memory."""
        return np.concatenate([queue[1] for queue in self._queues], -2)

    def _compress(self, x, seen, conv):
        """Groups (*batch, groups, rate, width) as one row each; hidden states are none of them."""
        seen = seen[..., None]
        with np.errstate(all="ignore"):
            if self.compression == "max":
                return np.where(seen.any(-2), np.where(seen, x, -np.inf).max(-2), 0)
            x = np.where(seen, x, 0)
            if self.compression == "conv":
                return np.einsum("...tw,two->...o", x, conv, optimize=True)
            return x.sum(-2) / np.maximum(seen.sum(-2), 1).astype(x.dtype)

    def _keep(self, key, value, seen):
        arrays = [np.concatenate([old, new], -2) for old, new in zip(self._queues[1], (key, value), strict=True)]
        seen = np.concatenate([self._seen[1], seen], -1)
        groups = max(0, seen.shape[-1] - self.memory_length) // self.rate
        count, keep = groups * self.rate, self.compressed_length
        if groups and keep:
            old = seen[..., :count].reshape(*self.batch, groups, self.rate)
            for i in range(2):
                x = arrays[i][..., :count, :]
                new = self._compress(x.reshape(*self.batch, groups, self.rate, x.shape[-1]), old, self._convs[i])
                self._queues[0][i] = np.concatenate([self._queues[0][i], new.astype(self.dtype)], -2)[..., -keep:, :]
            self._seen[0] = np.concatenate([self._seen[0], old.any(-1)], -1)[..., -keep:]
        self._queues[1] = [x[..., count:, :] for x in arrays]
        self._seen[1] = seen[..., count:]

    def _states(self, key, value, mask):
        key, _ = self._take(key, "key", self.head_dim)
        value, _ = self._take(value, "value", self.v_dim)
        if key.shape[-2] != value.shape[-2]:
            raise ValueError(f"key and value must have the same number of rows: {key.shape[-2]} vs {value.shape[-2]}")
        shape = (*self.batch, key.shape[-2])
        if mask is None:
            return key, value, np.ones(shape, bool)
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask must be boolean (True = there), got dtype {mask.dtype}")
        try:
            return key, value, np.broadcast_to(mask, shape)
        except ValueError:
            raise ValueError(f"mask shape {mask.shape} does not broadcast to {shape}") from None

    def append(self, key, value, *, mask=None):
        """Adds states to the memory.

        Parameters
        ----------
        key : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        value : array_like, shape (*batch, n, v_dim) or (*batch, v_dim)
        mask : array_like of bool, optional
            Broadcasts to ``(*batch, n)``. States where it is False keep their place, are attended to by nobody and are no part of what
            their group becomes; a group without others is hidden as well.

        Returns
        -------
        CompressiveMemory
            This memory.
        """
        self._keep(*self._states(key, value, mask))
        return self

    def _attend(self, query, new, core, training, rng):
        arrays = [np.concatenate([self._queues[0][i], self._queues[1][i], new[i]], -2) for i in range(2)]
        seen = np.concatenate([*self._seen, new[2]], -1)
        mask = None if seen.all() else seen[..., None, :]
        return core(query, *arrays, mask=mask, training=training, rng=rng)

    def attend(self, query, *, scale=None):
        """What queries see in the memory: ``softmax(scale * query . keys) @ values``.

        Parameters
        ----------
        query : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        scale : float, optional
            ``1 / sqrt(head_dim)`` when None.

        Returns
        -------
        ndarray, shape (*batch, n, v_dim) or (*batch, v_dim)
            0 where there are no states.
        """
        query, single = self._take(query, "query", self.head_dim)
        nothing = self._empty(self.head_dim), self._empty(self.v_dim), np.empty((*self.batch, 0), bool)
        result = self._attend(query, nothing, get_attention("scaled_dot", scale=scale), False, None)
        return result[..., 0, :] if single else result

    def step(self, query, key, value, *, mask=None, scale=None):
        """A segment: its queries see compressed states, memory and the segment up to their own position, which is then appended.

        Parameters
        ----------
        query, key : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        value : array_like, shape (*batch, n, v_dim) or (*batch, v_dim)
        mask : array_like of bool, optional
            As in `append`.
        scale : float, optional
            ``1 / sqrt(head_dim)`` when None.

        Returns
        -------
        ndarray, shape (*batch, n, v_dim) or (*batch, v_dim)
        """
        query, single = self._take(query, "query", self.head_dim)
        new = self._states(key, value, mask)
        if query.shape[-2] != new[0].shape[-2]:
            raise ValueError(
                f"query and key must have the same number of rows: {query.shape[-2]} vs {new[0].shape[-2]}"
            )
        result = self._attend(query, new, get_attention("scaled_dot", scale=scale, causal=True), False, None)
        self._keep(*new)
        return result[..., 0, :] if single else result

    def __repr__(self):
        return (
            f"<CompressiveMemory {self.compression} of {self.rate}, head_dim {self.head_dim}, v_dim {self.v_dim}, batch {self.batch}, "
            f"{self.dtype}, {self.compressed} + {self.length} states>"
        )


def _compressive(
    query, key, value, *, mask, causal, scale, dropout, training, rng, segment_length, memory_length, compressed_length, rate,
    compression, key_conv, value_conv,
):  # fmt: skip
    call = _rows.Rows(query, key, value, mask, "compressive")
    rng = _coerce.explicit_generator(rng, "dropout") if dropout and flag(training, "training") else rng
    core = get_attention("scaled_dot", causal=True, scale=scale, dropout=dropout)
    (count, q_len), kv_len = call.query.shape[:2], call.key.shape[1]
    memory = CompressiveMemory(
        query.shape[-1],
        value.shape[-1],
        memory_length=memory_length,
        compressed_length=compressed_length,
        rate=rate,
        compression=compression,
        key_conv=key_conv,
        value_conv=value_conv,
        batch=(count,),
        dtype=call.query.dtype,
    )
    out = np.zeros((count, q_len, value.shape[-1]), call.query.dtype)
    seen = np.ones((count, kv_len), bool) if call.visible is None else call.visible
    ahead = kv_len - q_len
    for start in range(0, kv_len, segment_length):
        stop = min(start + segment_length, kv_len)
        new = call.key[:, start:stop], call.value[:, start:stop], seen[:, start:stop]
        rows = slice(max(start - ahead, 0), stop - ahead)
        if rows.stop > 0:
            out[:, rows] = memory._attend(call.query[:, rows], new, core, training, rng)
        memory._keep(*new)
    return call.finish(out)


def layer_shares(weights):
    """Softmax of the weights of layers."""
    e = np.exp(weights - weights.max())
    return e / e.sum()


class FeedbackMemory(_Memory):
    """The memory that all layers of a Feedback Transformer share: one vector a step, the weighted sum of what its layers made.

    ``m_t = sum_l softmax(weights)_l x_t[l]``, l counting the step's input and the output of each layer. Every layer of a later step
    attends to the keys ``m_t @ w_key`` and values ``m_t @ w_value``, which are made once.

    Parameters
    ----------
    dim : int
        Width of the layers' states.
    num_layers : int
        Layers, at least 1; a step has ``num_layers + 1`` states.
    weights : array_like, shape (num_layers + 1,), optional
        Learned; all alike when None.
    w_key, w_value : array_like, shape (dim, d) and (dim, dv), optional
        The identity when None.
    batch : int or tuple of int, default ()
        The leading axes of all arrays.
    dtype : dtype, default float32
        float32 or float64: of the arithmetic and of results.

    Attributes
    ----------
    keys, values : ndarray, shape (*batch, n, d) and (*batch, n, dv)
    length : int
        Steps so far.

    Raises
    ------
    TypeError, ValueError
        For sizes, dtypes and arrays other than these.

    Notes
    -----
    O(num_layers dim + dim (d + dv)) operations a step and O(n (d + dv)) a query over n steps. Steps come one after another: each layer
    needs what the top one made before. From Fan et al. 2020, Addressing Some Limitations of Transformers with Feedback Memory,
    arXiv:2002.09402.

    Examples
    --------
    >>> import ruvector
    >>> memory = ruvector.FeedbackMemory(2, 1, dtype="float64")
    >>> memory.append([[1.0, 0.0], [3.0, 2.0]]).values
    array([[2., 1.]])
    >>> memory.attend([1.0, 1.0])
    array([2., 1.])
    """

    __slots__ = ("_keys", "_shares", "_values", "_w_key", "_w_value", "batch", "dim", "dtype", "length", "num_layers")

    def __init__(self, dim, num_layers, *, weights=None, w_key=None, w_value=None, batch=(), dtype=np.float32):
        self.dim, self.num_layers = _size(dim, "dim", 1), _size(num_layers, "num_layers", 1)
        self.batch, self.dtype = _batch_of(batch), _dtype_of(dtype)
        weights = np.zeros(self.num_layers + 1) if weights is None else float64_array(weights, "weights")
        if weights.shape != (self.num_layers + 1,):
            raise ValueError(
                f"weights must have shape (num_layers + 1,) = ({self.num_layers + 1},), got {weights.shape}"
            )
        self._shares = layer_shares(weights).astype(self.dtype)
        projections = []
        for w, name in ((w_key, "w_key"), (w_value, "w_value")):
            w = None if w is None else float64_array(w, name)
            if w is not None and (w.ndim != 2 or len(w) != self.dim or not w.shape[1]):
                raise ValueError(f"{name} must have shape ({self.dim}, width), got {w.shape}")
            projections.append(None if w is None else w.astype(self.dtype))
        self._w_key, self._w_value = projections
        self.reset()

    def reset(self):
        """Forgets all steps; returns the memory."""
        widths = (self.dim if w is None else w.shape[1] for w in (self._w_key, self._w_value))
        self._keys, self._values = (np.empty((*self.batch, 16, width), self.dtype) for width in widths)
        self.length = 0
        return self

    @property
    def keys(self):
        """Keys of the steps so far."""
        return self._keys[..., : self.length, :]

    @property
    def values(self):
        """Values of the steps so far."""
        return self._values[..., : self.length, :]

    def append(self, states):
        """Adds a step.

        Parameters
        ----------
        states : array_like, shape (num_layers + 1, *batch, dim)
            What the layers made at this step, its input first.

        Returns
        -------
        FeedbackMemory
            This memory.
        """
        states = _coerce.array(states, "states")
        shape = (self.num_layers + 1, *self.batch, self.dim)
        if states.shape != shape:
            raise ValueError(f"states must have shape (num_layers + 1, *batch, dim) = {shape}, got {states.shape}")
        with np.errstate(all="ignore"):
            row = np.tensordot(self._shares, states.astype(self.dtype), 1)[..., None, :]
        if self.length == self._keys.shape[-2]:
            # twice as much room: a step copies two rows on average
            self._keys, self._values = (np.concatenate([x, x], -2) for x in (self._keys, self._values))
        for x, w in ((self._keys, self._w_key), (self._values, self._w_value)):
            x[..., self.length : self.length + 1, :] = row if w is None else _coerce.matmul(row, w)
        self.length += 1
        return self

    def attend(self, query, *, scale=None):
        """What queries of a step see in all steps before it: ``softmax(scale * query . keys) @ values``.

        Parameters
        ----------
        query : array_like, shape (*batch, n, d), or (*batch, d) for one
        scale : float, optional
            ``1 / sqrt(d)`` when None.

        Returns
        -------
        ndarray, shape (*batch, n, dv) or (*batch, dv)
            0 before the first step.
        """
        query, single = self._take(query, "query", self._keys.shape[-1])
        result = get_attention("scaled_dot", scale=scale)(query, self.keys, self.values)
        return result[..., 0, :] if single else result

    def __repr__(self):
        return f"<FeedbackMemory of {self.num_layers} layers, dim {self.dim}, batch {self.batch}, {self.dtype}, {self.length} steps>"


def _feedback(query, key, value, *, mask, causal, scale, dropout, training, rng, layer_weights, w_key, w_value):
    call = Call(query, key, value, mask, 1, 1, False, scale, dropout, training, rng)
    weights = np.zeros(2) if layer_weights is None else layer_weights
    if weights.shape != (2,):
        raise ValueError(
            f"layer_weights must have shape (2,), for the input and the layer's output, got {weights.shape}"
        )
    width, work = value.shape[-1], call.query.dtype
    for w, name, columns in ((w_key, "w_key", key.shape[-1]), (w_value, "w_value", width)):
        if w is None and columns != width:
            raise ValueError(
                f"without w_key, outputs are keys: values must be as wide as these, got key {key.shape}, value {value.shape}"
            )
        if w is not None and w.shape != (width, columns):
            raise ValueError(f"{name} must have shape {(width, columns)}, got {w.shape}")
    shares, ahead = layer_shares(weights).astype(work), call.kv_len - call.q_len
    queries, keys, values = (x.copy() for x in call.broadcast())
    out = np.zeros((*call.lead, call.q_len, width), work)
    core, projections = call.core, [None if w is None else w.astype(work) for w in (w_key, w_value)]
    for i in range(call.q_len):
        at, row = i + ahead, slice(i, i + 1)
        if at > 0:
            part = call.part(row, at)
            out[..., row, :] = core(
                queries[..., row, :],
                keys[..., :at, :],
                values[..., :at, :],
                mask=part,
                training=call.training,
                rng=call.rng,
            )
        if at >= 0:
            with np.errstate(all="ignore"):
                for memory, w in zip((keys, values), projections, strict=True):
                    made = out[..., row, :] if w is None else _coerce.matmul(out[..., row, :], w)
                    memory[..., at : at + 1, :] = shares[0] * memory[..., at : at + 1, :] + shares[1] * made
    return call.finish(out)


_RETURNS = """Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 for a query that sees no key."""


def _described(text):
    """Puts arrays and options into a docstring, without `causal`."""
    return lambda function: documented(function, text, returns=_RETURNS)


_KEY_MASK = """mask : array_like of bool, optional
        True = attend. Broadcasts to ``(..., 1, S)``: which keys there are. Hidden ones keep their place, and are no part of what their
        group becomes.
    """
_OPTIONS = COMMON_OPTIONS[: COMMON_OPTIONS.index("causal :")] + COMMON_OPTIONS[COMMON_OPTIONS.index("scale :") :]


@_described(_KEY_MASK + _OPTIONS[_OPTIONS.index("scale :") :])
def compressive_attention(
    query,
    key,
    value,
    segment_length=512,
    *,
    memory_length=512,
    compressed_length=512,
    rate=3,
    compression="mean",
    key_conv=None,
    value_conv=None,
    mask=None,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Causal attention over a sequence in segments whose past is kept for a while and compressed then.

    ``softmax(scale * query . [compressed; memory; segment]) @ [compressed; memory; segment]``: the keys from 0 on in segments of
    `segment_length`, each attended to up to the query's own position, ``i + (S - L)``, and appended to a `CompressiveMemory` after it.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    segment_length : int, default 512
        At least 1.
    memory_length, compressed_length : int, default 512
        States that are kept as they are, and compressed ones; at least 0.
    rate : int, default 3
        States that become one; at least 1.
    compression : {"mean", "max", "conv"}, default "mean"
        See `CompressiveMemory`.
    key_conv, value_conv : array_like, shape (rate, d, d) and (rate, dv, dv), optional
        Kernels of "conv", drawn when None.
    {common}

    {returns}

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for kernels of other shapes or without "conv". There is no `causal`: it always is.

    Notes
    -----
    O(L (segment_length + memory_length + compressed_length) (d + dv)) time. That of causal attention where nothing is evicted,
    ``S <= segment_length + memory_length``. From Rae et al. 2020 [1]_.

    References
    ----------
    .. [1] Rae et al., Compressive Transformers for Long-Range Sequence Modelling, arXiv:1911.05507

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.zeros((4, 1))
    >>> ruvector.compressive_attention(x, x, [[1.0], [3.0], [5.0], [8.0]], 1, memory_length=0, rate=2)[:, 0]
    array([1. , 2. , 3.5, 5. ])
    """
    own = {
        "memory_length": memory_length,
        "compressed_length": compressed_length,
        "rate": rate,
        "compression": compression,
    }
    own |= {"segment_length": segment_length, "key_conv": key_conv, "value_conv": value_conv}
    call = get_attention("compressive", scale=scale, dropout=dropout, **own)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described(_OPTIONS)
def feedback_attention(
    query,
    key,
    value,
    layer_weights=None,
    *,
    w_key=None,
    w_value=None,
    mask=None,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """One layer of a Feedback Transformer: each query attends to memories of what went into and came out of the steps before it.

    ``y_t = softmax(scale * query_t . k_{<t}) @ v_{<t}`` with ``k_t = a key_t + b y_t @ w_key`` and ``v_t = a value_t + b y_t @ w_value``,
    (a, b) the softmax of `layer_weights`: keys and values are the projections of the memory ``m_t = a x_t + b y_t``, of which those of
    the input x_t are given. Query i of L stands at ``t = i + (S - L)``; keys and values before the first query are memory as they are.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    layer_weights : array_like, shape (2,), optional
        Of the input and of the output; alike when None.
    w_key : array_like, shape (dv, d), optional
        The identity when None, which asks for dv = d.
    w_value : array_like, shape (dv, dv), optional
        The identity when None.
    {common}

    {returns}

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for matrices of other shapes. There is no `causal`: no step sees itself or a later one.

    Notes
    -----
    O(L S (d + dv)) time, one query after another, since each step needs the outputs before it: many times slower than causal attention.
    `FeedbackMemory` is that of several layers. From Fan et al. 2020 [1]_.

    References
    ----------
    .. [1] Fan et al., Addressing Some Limitations of Transformers with Feedback Memory, arXiv:2002.09402

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.zeros((3, 1))
    >>> ruvector.feedback_attention(x, x, [[2.0], [4.0], [9.0]])[:, 0]
    array([0.  , 1.  , 1.75])
    """
    call = get_attention(
        "feedback", layer_weights=layer_weights, w_key=w_key, w_value=w_value, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _register():
    array = ("array", None, None, None)
    add_type(
        AttentionRecord(
            "compressive",
            ("compressive_transformer",),
            "O(n*m)",
            "Very long sequences, segment by segment",
            "memory",
            (
                Parameter("segment_length", "int", 512, 1, None, "keys that come at a time"),
                Parameter("memory_length", "int", 512, 0, None, "states that are kept as they are"),
                Parameter("compressed_length", "int", 512, 0, None, "compressed states that are kept"),
                Parameter("rate", "int", 3, 1, None, "states that become one"),
                Parameter("compression", "|".join(_COMPRESSIONS), "mean", None, None, "how states become one"),
                Parameter("key_conv", *array, "(rate, d, d), of conv; fixed when None"),
                Parameter("value_conv", *array, "(rate, dv, dv), of conv; fixed when None"),
            ),
            "Rae et al. 2020, Compressive Transformers, arXiv:1911.05507",
        ),
        _compressive,
        lacks=("causal",),
    )
    add_type(
        AttentionRecord(
            "feedback",
            ("feedback_transformer",),
            "O(n\u00b2)",
            "Shallow models of sequences, step by step",
            "memory",
            (
                Parameter("layer_weights", *array, "(2,), of input and output; alike when None"),
                Parameter("w_key", *array, "(dv, d); the identity when None"),
                Parameter("w_value", *array, "(dv, dv); the identity when None"),
            ),
            "Fan et al. 2020, Feedback Memory, arXiv:2002.09402",
        ),
        _feedback,
        lacks=("causal",),
    )


_register()
