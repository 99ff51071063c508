"""Linear attention: weights are products of features of queries and keys, so that sums over keys serve every query."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._options import flag, number
from ruvector._random import projection as drawn
from ruvector._registry import add_type, get_attention
from ruvector._scores import pair_scores
from ruvector._docstrings import documented

_MASK = """mask : array_like of bool, optional
        True = attend. Broadcasts to ``(..., 1, S)``: which keys are seen is the same for every query, since a mask that differs
        from query to query, or a bias, has no linear form.
    causal : bool, default False
        Query i of L sees keys ``j <= i + (S - L)``: the diagonal ends at the bottom right.
    """
_OUT = """out : ndarray, optional
        Where the result goes: its shape and dtype, any strides; may overlap the inputs."""
_FEATURES = """training : bool, default False
        With `rng`, features are drawn anew; not where `projection` gives them.
    rng : numpy.random.Generator or seed, optional
    """


def draw_features(num_features, dim, *, orthogonal=True, rng=None):
    """Random features for `performer_attention` and `random_feature_attention`: normal vectors, orthogonal in blocks.

    Parameters
    ----------
    num_features : int
        At least 1.
    dim : int
        Width of queries and keys.
    orthogonal : bool, default True
        Whether each `dim` consecutive rows are orthogonal. Every row is a standard normal vector either way; orthogonal ones
        spread better, and the estimates' variance is smaller.
    rng : numpy.random.Generator or seed, optional
        Where the features come from; the fixed ones that the attention types use when None.

    Returns
    -------
    ndarray, shape (num_features, dim), float64

    Raises
    ------
    TypeError, ValueError
        For options of the wrong type or out of their range.

    Notes
    -----
    ``2 num_features dim**2`` multiply-adds for orthogonal features. A seed gives the same bits on every machine: SplitMix64 [1]_, the
    polar method and Gram-Schmidt, from Choromanski et al. 2021 [2]_.

    References
    ----------
    .. [1] Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014
    .. [2] Choromanski et al., Rethinking Attention with Performers, arXiv:2009.14794

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> features = ruvector.draw_features(4, 4, rng=0)
    >>> products = features @ features.T
    >>> bool(np.abs(products - np.diag(np.diag(products))).max() < 1e-13)
    True
    """
    num_features, dim = number(num_features, "num_features", whole=True), number(dim, "dim", whole=True)
    for value, name in ((num_features, "num_features"), (dim, "dim")):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return drawn(num_features, dim, flag(orthogonal, "orthogonal"), rng)


def _documented(features):
    scale = """scale : float, optional
        {scale}
    """
    texts = {
        "": "",
        "performer": scale.format(scale="Positive factor on ``query . key``; ``1 / sqrt(d)`` when None.") + _FEATURES,
        "random_feature": scale.format(scale="Positive factor on the cosine; 1 when None.") + _FEATURES,
    }
    options = _MASK + texts[features] + _OUT
    return lambda function: documented(function, options)


@_documented("")
def linear_attention(query, key, value, feature_map="elu", *, mask=None, causal=False, out=None):
    """Attention with weights ``phi(query) . phi(key)``: ``phi(q) (sum_j phi(k_j) v_j^T) / (phi(q) . sum_j phi(k_j))``.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    feature_map : {"elu", "relu"}, default "elu"
        ``phi(x) = elu(x) + 1``, which is ``x + 1`` or ``exp(x)``, or ``max(x, 0)``.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 where a query sees no key, or has weight 0 for all that it sees.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a mask that has no linear form.

    See Also
    --------
    LinearState : the causal form, key by key.

    Notes
    -----
    ``2 (L + S) d dv`` operations; causal about ``2 S (d + 32) (d + dv)``; no memory that grows with L or S but at most 16 states of
    ``8 d dv`` bytes a head. Sums over keys are chains of 64, joined in float64 (pairs of float64 for float64): a result is off by at
    most ``(280 + d) u max|V|``, u being the unit roundoff, whatever the number of keys. In tests it is within a tenth of that.
    Features of keys below the least normal number (float32: x under -87) have fewer digits; queries may be of any size.

    Hidden keys and values may be anything. Results are the same to the bit for any number of threads, and a causal query's do not
    depend on later keys. From Katharopoulos et al. 2020 [1]_.

    References
    ----------
    .. [1] Katharopoulos et al., Transformers are RNNs, arXiv:2006.16236

    Examples
    --------
    >>> import ruvector
    >>> ruvector.linear_attention([[0.0], [1.0]], [[0.0], [1.0]], [[3.0], [0.0]])
    array([[1.],
           [1.]])
    >>> ruvector.linear_attention([[0.0], [1.0]], [[0.0], [1.0]], [[3.0], [0.0]], causal=True)
    array([[3.],
           [1.]])
    """
    return get_attention("linear", feature_map=feature_map, causal=causal)(query, key, value, mask=mask, out=out)


@_documented("performer")
def performer_attention(
    query,
    key,
    value,
    num_features=256,
    *,
    orthogonal=True,
    projection=None,
    mask=None,
    causal=False,
    scale=None,
    training=False,
    rng=None,
    out=None,
):
    """Softmax attention by positive random features (FAVOR+), ``phi(x)_f = exp(w_f . x - |x|^2 / 2) / sqrt(m)``.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_features : int, default 256
        m; from 1 to 65536.
    orthogonal : bool, default True
        Whether features are orthogonal in blocks of d.
    projection : array_like, shape (m, d), optional
        Features of its own, in place of `num_features` and `orthogonal`: see `draw_features`. Those that a fixed seed gives when
        None, which costs ``2 m d**2`` multiply-adds a call.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 for a query that sees no key.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a mask that has no linear form, or a `scale` that is not positive.

    See Also
    --------
    draw_features : features for `projection`.
    LinearState : the causal form, key by key.

    Notes
    -----
    Queries and keys are multiplied by ``sqrt(scale)``, ``d ** -0.25`` by default: weights are then unbiased estimates of softmax
    attention's, whose error falls as ``1 / sqrt(m)``; it grows with ``exp(scale |q + k|^2)``, so that logits beyond 2 or 3 need many
    features. ``2 (L + S) m (d + dv)`` operations; at most 16 states of ``8 m dv`` bytes a head.

    Exponents are kept relative to the largest one of each feature over the keys, and of each query: large inputs neither overflow
    nor vanish, and values that are all the same come back. Against exact arithmetic with the same features a result is off by at most
    ``(300 + m + 16 kappa) u max|V|``, kappa being the largest ``sqrt(scale) sum|w||x| + scale |x|^2 / 2``, for any number of keys. Results
    are the same to the bit for any number of threads, and a causal query's do not depend on later keys. From Choromanski et al. 2021
    [1]_.

    References
    ----------
    .. [1] Choromanski et al., Rethinking Attention with Performers, arXiv:2009.14794

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 100, 16)) / 2
    >>> exact = ruvector.scaled_dot_attention(query, key, value)
    >>> error = [np.abs(ruvector.performer_attention(query, key, value, m) - exact).mean() for m in (64, 4096)]
    >>> bool(error[1] < error[0] / 4)
    True
    """
    call = get_attention(
        "performer", num_features=num_features, orthogonal=orthogonal, projection=projection, causal=causal, scale=scale
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_documented("random_feature")
def random_feature_attention(
    query,
    key,
    value,
    num_features=64,
    *,
    orthogonal=False,
    projection=None,
    mask=None,
    causal=False,
    scale=None,
    training=False,
    rng=None,
    out=None,
):
    """Random feature attention: ``phi(x) = [sin(W x / |x|), cos(W x / |x|)]``, W normal, approximates softmax over cosines.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
        Only directions count: rows are divided by their length.
    value : array_like, shape (..., S, dv)
    num_features : int, default 64
        Rows of W, each giving a sine and a cosine; from 1 to 65536.
    orthogonal : bool, default False
        Whether rows are orthogonal in blocks of d, which the paper's are not.
    projection : array_like, shape (m, d), optional
        W of its own, in place of `num_features` and `orthogonal`: see `draw_features`. That of a fixed seed when None.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 for a query that sees no key.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a mask that has no linear form, or a `scale` that is not positive.

    See Also
    --------
    performer_attention : positive features, for vectors of any length.
    LinearState : the causal form, key by key.

    Notes
    -----
    ``sum_j (phi(q) . phi(k_j)) v_j / sum_j phi(q) . phi(k_j)`` with ``phi(x) = [sin(W x), cos(W x)] / sqrt(m)``, x of length 1:
    weights are estimates of ``exp(scale cos(q, k))`` up to a factor, W being multiplied by ``sqrt(scale)``; their error falls as
    ``1 / sqrt(m)``. They may be negative, and where a large `scale` makes the true weights small the divisor may come close to 0.
    ``4 (L + S) m (d / 2 + dv)`` operations; at most 16 states of ``16 m dv`` bytes a head. Against exact arithmetic with the same W
    a result is off by at most ``(300 + 2 m + 16 max|W x|) u max|V|`` times the number of keys seen over the sum of their weights
    (1 at the least). The gate of the paper is not part of this type. From Peng et al. 2021 [1]_.

    References
    ----------
    .. [1] Peng et al., Random Feature Attention, arXiv:2103.02143

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 50, 16))
    >>> unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key)]
    >>> exact = ruvector.scaled_dot_attention(*unit, value, scale=1.0)
    >>> error = [np.abs(ruvector.random_feature_attention(query, key, value, m) - exact).mean() for m in (64, 4096)]
    >>> bool(error[1] < error[0] / 2)
    True
    """
    call = get_attention(
        "random_feature",
        num_features=num_features,
        orthogonal=orthogonal,
        projection=projection,
        causal=causal,
        scale=scale,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


class LinearState:
    """Causal linear attention, key by key: a state of fixed size in place of a cache of keys and values.

    Parameters
    ----------
    head_dim : int
        Width of queries and keys.
    v_dim : int, optional
        Width of values; `head_dim` when None.
    attention_type : str or AttentionType, default "linear"
        Any of the types ``linear``, ``performer`` and ``random_feature``.
    batch : int or tuple of int, default ()
        The leading axes of all arrays: sequences, heads.
    dtype : dtype, default float32
        float32 or float64: of the arithmetic and of results.
    rng : numpy.random.Generator or seed, optional
        Where random features come from; the fixed ones when None.
    **params
        The type's own parameters, and `scale`.

    Attributes
    ----------
    length : int
        Keys seen so far, hidden ones included.
    nbytes : int
        Of the state.

    Raises
    ------
    TypeError, ValueError
        As in `get_attention`; for a type that has no such state, and sizes that are too large.

    See Also
    --------
    KVCache : softmax attention, whose memory grows with the keys.

    Notes
    -----
    ``8 m dv`` bytes for each head with m features (float64: 16), and O(m (d + dv)) operations a key and a query. Sums are carried in
    float64 (pairs of float64): the error bound is that of the batch form, for any number of keys and any division into calls. A
    state can be copied and pickled; its bytes mean the same on every instruction set. A call that is interrupted leaves it as it was.

    The gated recurrence of Peng et al. 2021, section 3.3, ``S_t = g_t S_(t-1) + (1 - g_t) phi(k_t) v_t``, is left out: its
    learned gate is a fourth input of every call.

    From Katharopoulos et al. 2020, Transformers are RNNs, arXiv:2006.16236.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 10, 4))
    >>> state = ruvector.LinearState(4, dtype=np.float64)
    >>> rows = [state.step(*row) for row in zip(query, key, value)]
    >>> bool(np.allclose(rows, ruvector.linear_attention(query, key, value, causal=True), rtol=0, atol=1e-14))
    True
    """

    __slots__ = ("_call", "_states", "batch", "dtype", "head_dim", "length", "v_dim")

    def __init__(
        self, head_dim, v_dim=None, attention_type="linear", *, batch=(), dtype=np.float32, rng=None, **params
    ):
        self.head_dim = number(head_dim, "head_dim", whole=True)
        self.v_dim = self.head_dim if v_dim is None else number(v_dim, "v_dim", whole=True)
        self.batch = tuple(
            number(n, "batch", whole=True) for n in (batch if isinstance(batch, (tuple, list)) else (batch,))
        )
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {self.dtype}")
        for size, name in ((self.head_dim, "head_dim"), (self.v_dim, "v_dim")):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if min(self.batch, default=0) < 0 or len(self.batch) > 8:
            raise ValueError(f"batch must be at most 8 sizes of at least 0, got {self.batch}")
        call = get_attention(attention_type, **params)
        if call.name not in _TYPES:
            raise ValueError(
                f"attention type {call.name!r} has no state of fixed size; those that have: {', '.join(_TYPES)}"
            )
        if "causal" in call.params:
            raise TypeError("LinearState has no option 'causal': attend sees all keys, step those up to its own")
        if call.name != "linear":
            given = call.params["projection"]
            if given is None:
                # drawn once, not by every call
                given = drawn(call.params["num_features"], self.head_dim, call.params["orthogonal"], rng)
                call = get_attention(call.name, **{**call.params, "projection": given})
            elif rng is not None:
                raise ValueError("rng draws features, and projection gives them: pass one of them")
            if given.ndim != 2 or given.shape[-1] != self.head_dim:
                _coerce.refuse_projection(given.shape, self.head_dim)
        elif rng is not None:
            raise TypeError("attention type 'linear' draws nothing: it takes no rng")
        self._call = call
        self.reset()

    def reset(self):
        """Forgets all keys; returns the state."""
        states = self._call._state(math.prod(self.batch), self.head_dim, self.v_dim, self.dtype == np.float64)
        if states is None:
            raise ValueError(f"a state of head_dim {self.head_dim} and v_dim {self.v_dim} is too large")
        self._states, self.length = states, 0
        return self

    @property
    def nbytes(self):
        """Bytes of the state."""
        return self._states.nbytes

    def _rows(self, x, name, width):
        """Rows (batch..., n, width) in the state's dtype, and whether a single one was given."""
        x = _coerce.array(x, name)
        single = x.ndim == len(self.batch) + 1
        shape = x.shape
        if single:
            x = x[..., None, :]
        if x.ndim != len(self.batch) + 2 or x.shape[:-2] != self.batch or x.shape[-1] != width:
            lead = "".join(f"{n}, " for n in self.batch)
            raise ValueError(
                f"{name} must have shape ({lead}n, {width}) or ({lead}{width}{'' if lead else ','}), got {shape}"
            )
        with np.errstate(over="ignore"):
            return _coerce.plain(x, self.dtype), single

    def _run(self, query, key, value, mask, causal, out):
        if key.shape[-2] != value.shape[-2]:
            raise ValueError(f"key and value must have the same number of rows: {key.shape[-2]} vs {value.shape[-2]}")
        # a call that is long enough to be interrupted works on a copy
        states = self._states.copy() if key.shape[-2] > 256 or query.shape[-2] > 256 else self._states
        result = self._call._advance(query, key, value, mask, states, causal, out)
        self._states = states
        self.length += key.shape[-2]
        return result

    def append(self, key, value, *, mask=None):
        """Adds keys and values.

        Parameters
        ----------
        key : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        value : array_like, shape (*batch, n, v_dim) or (*batch, v_dim)
        mask : array_like of bool, optional
            Broadcasts to ``(*batch, 1, n)``; keys where it is False are as if they were not there.

        Returns
        -------
        LinearState
            This state.
        """
        key, _ = self._rows(key, "key", self.head_dim)
        value, _ = self._rows(value, "value", self.v_dim)
        self._run(np.empty((*self.batch, 0, self.head_dim), self.dtype), key, value, mask, False, None)
        return self

    def attend(self, query, *, out=None):
        """What queries see in all keys so far.

        Parameters
        ----------
        query : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        out : ndarray, optional

        Returns
        -------
        ndarray, shape (*batch, n, v_dim) or (*batch, v_dim)
            0 where there are no keys.
        """
        query, single = self._rows(query, "query", self.head_dim)
        empty = (
            np.empty((*self.batch, 0, self.head_dim), self.dtype),
            np.empty((*self.batch, 0, self.v_dim), self.dtype),
        )
        return self._finish(query, *empty, None, single, out)

    def step(self, query, key, value, *, mask=None, out=None):
        """Adds keys, each seen by the query of its own position and those after it.

        Parameters
        ----------
        query, key : array_like, shape (*batch, n, head_dim), or (*batch, head_dim) for one
        value : array_like, shape (*batch, n, v_dim) or (*batch, v_dim)
        mask : array_like of bool, optional
            As in `append`.
        out : ndarray, optional

        Returns
        -------
        ndarray, shape (*batch, n, v_dim) or (*batch, v_dim)
            The rows that the causal batch form has there.
        """
        query, single = self._rows(query, "query", self.head_dim)
        key, _ = self._rows(key, "key", self.head_dim)
        value, _ = self._rows(value, "value", self.v_dim)
        if query.shape[-2] != key.shape[-2]:
            raise ValueError(f"query and key must have the same number of rows: {query.shape[-2]} vs {key.shape[-2]}")
        return self._finish(query, key, value, mask, single, out)

    def _finish(self, query, key, value, mask, single, out):
        if single and out is not None:
            _coerce.output(out, (*self.batch, self.v_dim), self.dtype, ())
            out[...] = self._run(query, key, value, mask, True, None)[..., 0, :]
            return out
        result = self._run(query, key, value, mask, True, out)
        return result[..., 0, :] if single else result

    def copy(self):
        """A state of its own with the same keys."""
        other = object.__new__(LinearState)
        other.__setstate__(self.__getstate__())
        return other

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def __getstate__(self):
        return {name: getattr(self, name) for name in self.__slots__ if name != "_states"} | {
            "_states": self._states.copy()
        }

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)

    def __len__(self):
        return self.length

    def __repr__(self):
        return (
            f"<LinearState {self._call.name}, head_dim {self.head_dim}, v_dim {self.v_dim}, batch {self.batch}, "
            f"{self.dtype}, {self.length} keys>"
        )


_TYPES = ("linear", "performer", "random_feature")


def _score(name):
    """The score of a type of the family, which C computes in double."""

    def score(query, key, **own):
        if query.ndim < 1 or key.ndim < 1:
            raise ValueError(f"query and key must have at least one axis, got shapes {query.shape} and {key.shape}")
        if query.shape[-1] != key.shape[-1]:
            raise ValueError(f"Query and key dimensions must match: {query.shape[-1]} vs {key.shape[-1]}")
        if query.shape[-1] < 1:
            raise ValueError(f"head_dim must be at least 1, got query {query.shape}, key {key.shape}")
        return pair_scores(get_attention(name, **{option: x for option, x in own.items() if x is not None}), query, key)

    return score


# Sums of products of features below which a pair is scored by itself: exponentials that vanish here have no digits left there.
_VANISHING = 1e-250


def _linear_table(query, key, *, scale, feature_map):
    def features(x):
        x = x.astype(float)
        over = np.maximum(x, 0)
        if feature_map == "relu":
            return over
        np.minimum(x, 0, out=x)
        # x + 1 above 0, exp(x) below
        return np.add(_primitives.exp(x, out=x), over, out=x)

    return _primitives.scores(features(query), features(key), 1.0)


def _projected(x, root, projection, num_features, orthogonal):
    """Rows (n, d) times a root of the scale, and their products with the features (n, m): no bit depends on another row."""
    x = x.astype(float) * root
    if projection is None:
        projection = drawn(num_features, x.shape[-1], orthogonal, None)
    return x, _primitives.scores(x, np.ascontiguousarray(projection), 1.0)


def _performer_table(query, key, *, scale, num_features, orthogonal, projection):
    root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    parts = []
    for x in (query, key):
        x, logs = _projected(x, root, projection, num_features, orthogonal)
        most = logs.max(-1)
        logs -= most[:, None]
        parts.append((_primitives.exp(logs, out=logs), most - (x * x).sum(-1) / 2))
    (q, q_log), (k, k_log) = parts
    total = _primitives.scores(q, k, 1 / q.shape[-1])
    score = _primitives.log(np.maximum(total, _VANISHING)) + q_log[:, None] + k_log
    rows, columns = np.nonzero(total < _VANISHING)
    if len(rows):
        own = {"num_features": num_features, "orthogonal": orthogonal, "projection": projection, "scale": scale}
        score[rows, columns] = _score("performer")(query[rows], key[columns], **own)
    return score


def _random_feature_table(query, key, *, scale, num_features, orthogonal, projection):
    root, parts = math.sqrt(1.0 if scale is None else scale), []
    for x in (query, key):
        x = x.astype(float)
        length = np.sqrt((x * x).sum(-1, keepdims=True))
        _, angles = _projected(x / np.where(length == 0, 1, length), root, projection, num_features, orthogonal)
        angles *= 1 / math.pi
        parts.append(np.concatenate([_primitives.cospi(angles), _primitives.sinpi(angles)], -1))
    return _primitives.scores(*parts, 1 / (parts[0].shape[-1] // 2))


_TABLES = {"linear": _linear_table, "performer": _performer_table, "random_feature": _random_feature_table}


def _register():
    for name in _TYPES:
        # performer's score is a logarithm
        add_type(name, score=_score(name), table=_TABLES[name], share=name != "performer")


_register()
