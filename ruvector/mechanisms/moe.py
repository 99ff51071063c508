"""Mixture of experts: the routing of tokens, and the layer of experts."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ruvector import _coerce, _moe
from ruvector._moe import top_k_gating
from ruvector._options import flag, number, one_of, probability
from ruvector._primitives import batched_dot_products, log_softmax, softmax
from ruvector._random import glorot, seed_of


class ExpertLoad(NamedTuple):
    """What the experts of a routing were asked for, and what they took.

    Attributes
    ----------
    capacity : int or None
        Assignments an expert takes at most; None for no limit.
    counts : ndarray of int64, shape (num_experts,)
        Assignments that each expert was asked for.
    kept : ndarray of bool, shape (..., top_k)
        Whether the assignment found its place; experts fill up in the order of the tokens, then of their choices.
    dropped : ndarray of int64
        The tokens, counted over the leading axes in C order, that lost at least one expert.
    """

    capacity: int | None
    counts: np.ndarray
    kept: np.ndarray
    dropped: np.ndarray


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts the tokens go to, and with what weights; unpacks as ``indices, weights``.

    Attributes
    ----------
    indices : ndarray of int64, shape (..., top_k)
        Experts of each token, largest logit first, of equal ones the lower index.
    weights : ndarray, shape (..., top_k)
        0 for an assignment that was dropped.
    logits : ndarray, shape (..., num_experts)
        What the gate gave, float32 or float64.
    capacity : int or None
        Assignments an expert takes at most.
    """

    indices: np.ndarray
    weights: np.ndarray
    logits: np.ndarray
    capacity: int | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.indices, self.weights))

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits over all experts, shape (..., num_experts)."""
        return softmax(self.logits)

    @functools.cached_property
    def load(self) -> ExpertLoad:
        """Counts of the experts, and the assignments that were dropped."""
        counts, _, _, kept = _grouped(self)
        dropped = np.flatnonzero(~kept.all(axis=1))
        return ExpertLoad(self.capacity, counts, kept.reshape(self.indices.shape), dropped)

    @property
    def fractions(self) -> np.ndarray:
        """Each expert's share of the assignments, before any is dropped; float64, shape (num_experts,)."""
        return self.load.counts / max(self.indices.size, 1)

    @property
    def load_balancing_loss(self) -> float:
        """As the function of that name; 1 where routing is uniform."""
        return load_balancing_loss(self.probabilities, self.indices)

    @property
    def z_loss(self) -> float:
        """As `router_z_loss`."""
        return router_z_loss(self.logits)


def _grouped(routing):
    """counts, starts, order and kept of `_moe.group`, over all tokens."""
    indices = routing.indices.reshape(-1, routing.indices.shape[-1])
    capacity = 2**62 if routing.capacity is None else routing.capacity
    return _moe.group(np.ascontiguousarray(indices), routing.logits.shape[-1], capacity)


def _experts(num_experts, top_k):
    """Both as integers in their ranges."""
    num_experts, top_k = number(num_experts, "num_experts", whole=True), number(top_k, "top_k", whole=True)
    if num_experts < 1:
        raise ValueError(f"num_experts must be at least 1, got {num_experts}")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be between 1 and num_experts {num_experts}, got {top_k}")
    return num_experts, top_k


def _capacity_factor(value):
    if value is None:
        return None
    value = number(value, "capacity_factor")
    if value <= 0:
        raise ValueError(f"capacity_factor must be positive, got {value}")
    return value


def _weighing(order, normalize):
    """The options of `top_k_gating`, checked."""
    return {
        "order": one_of(order, "order", ("softmax_topk", "topk_softmax")),
        "normalize": flag(normalize, "normalize"),
    }


def expert_capacity(num_tokens, num_experts, top_k=1, capacity_factor=1.25):
    """Assignments that an expert takes at most: ``ceil(top_k * num_tokens / num_experts * capacity_factor)``.

    Parameters
    ----------
    num_tokens : int
        At least 0.
    num_experts : int
    top_k : int, default 1
        Experts a token, from 1 to num_experts.
    capacity_factor : float, default 1.25
        1.0 leaves room for perfectly even routing and no more.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        For an option of the wrong type.
    ValueError
        For a number out of its range.

    Notes
    -----
    From Lepikhin et al. 2020, arXiv:2006.16668, and Fedus et al. 2021, arXiv:2101.03961.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.expert_capacity(512, 8, 2, 1.25)
    160
    """
    num_experts, top_k = _experts(num_experts, top_k)
    num_tokens = number(num_tokens, "num_tokens", whole=True)
    if num_tokens < 0:
        raise ValueError(f"num_tokens must be at least 0, got {num_tokens}")
    if capacity_factor is None:
        raise TypeError("capacity_factor must be a number, got None")
    # more than all is all: no factor is too large
    return math.ceil(min(top_k * num_tokens / num_experts * _capacity_factor(capacity_factor), 2.0**62))


def gate_weights(dim, num_experts=8, *, rng=None):
    """Weights of a router that has not been trained: what `moe_route` uses where no gate is given.

    Parameters
    ----------
    dim : int
        Width of the embeddings, at least 1.
    num_experts : int, default 8
    rng : numpy.random.Generator or seed, optional
        None: the seed 42.

    Returns
    -------
    ndarray, shape (dim, num_experts), float64

    Raises
    ------
    TypeError
        For an option of the wrong type.
    ValueError
        For a number out of its range.

    Notes
    -----
    Element i, in C order, is ``a * (2 * u - 1)`` with ``a = sqrt(6 / (dim + num_experts))`` (Glorot and Bengio 2010) and u the
    upper 53 bits of draw i of the generator SplitMix64, as a fraction. A seed gives the same weights on every machine, and in SQL.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.gate_weights(768).shape
    (768, 8)
    """
    dim, num_experts = number(dim, "dim", whole=True), number(num_experts, "num_experts", whole=True)
    for value, name in ((dim, "dim"), (num_experts, "num_experts")):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return _drawn_gate(dim, num_experts, seed_of(rng, _moe.GATE_SEED))


def _drawn_gate(dim, num_experts, seed):
    return glorot((dim, num_experts), dim + num_experts, seed)


class _Tokens(NamedTuple):
    """Embeddings as rows, in the type of the arithmetic, and what the results look like."""

    rows: np.ndarray
    lead: tuple[int, ...]
    dtype: np.dtype


def _tokens(embedding, gate, name="embedding"):
    """_Tokens and the gate, which takes part in NumPy's promotion if it is an array."""
    x = _coerce.array(embedding, name)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (..., dim) with dim at least 1, got {x.shape}")
    if gate is not None and not callable(gate):
        gate = _coerce.array(gate, "gate")
    dtype = _coerce._promote([a for a in (x, gate) if isinstance(a, np.ndarray)])
    return _Tokens(x.reshape(-1, x.shape[-1]).astype(_coerce.computed_in(dtype), copy=False), x.shape[:-1], dtype), gate


def _logits(tokens, gate, num_experts, seed):
    """What the gate says to the tokens, (tokens, num_experts)."""
    rows, shape = tokens.rows, (len(tokens.rows), num_experts)
    if callable(gate):
        logits = _coerce.array(gate(rows.astype(tokens.dtype, copy=False)), "gate(tokens)")
        if logits.shape != shape:
            raise ValueError(f"gate(tokens) must have shape (tokens, num_experts) = {shape}, got {logits.shape}")
        return logits.astype(rows.dtype, copy=False)
    shape = (rows.shape[1], num_experts)
    if gate is None:
        gate = _drawn_gate(*shape, seed)
    elif gate.shape != shape:
        raise ValueError(f"gate must have shape (dim, num_experts) = {shape}, got {gate.shape}")
    gate = gate.astype(rows.dtype, copy=False)
    # one token takes the core's own products, as it does in SQL: which sums a BLAS forms, no one says
    return batched_dot_products(rows[0], gate.T)[None] if len(rows) == 1 else _coerce.matmul(rows, gate)


def _jittered(tokens, jitter, rng):
    noise = rng.uniform(1 - jitter, 1 + jitter, tokens.rows.shape)
    with np.errstate(all="ignore"):
        return tokens._replace(rows=tokens.rows * noise.astype(tokens.rows.dtype))


def _routing(tokens, logits, top_k, capacity_factor, **weighing):
    indices, weights = top_k_gating(logits, top_k, **weighing)
    weights, capacity = weights.astype(tokens.dtype, copy=False), None
    if capacity_factor is not None:
        capacity = expert_capacity(*logits.shape, top_k, capacity_factor)
        weights[~_moe.group(indices, logits.shape[1], capacity)[3]] = 0
    shape = (*tokens.lead, top_k)
    return Routing(
        indices.reshape(shape), weights.reshape(shape), logits.reshape(*tokens.lead, logits.shape[1]), capacity
    )


def moe_route(
    embedding,
    num_experts=8,
    top_k=2,
    *,
    gate=None,
    order="softmax_topk",
    normalize=True,
    capacity_factor=None,
    jitter=0.0,
    training=False,
    rng=None,
):
    """Routes embeddings to experts: the `top_k` best of ``softmax(embedding @ gate)`` and their weights.

    Parameters
    ----------
    embedding : array_like, shape (dim,) or (..., dim)
    num_experts : int, default 8
    top_k : int, default 2
        Experts a token, from 1 to num_experts.
    gate : array_like, shape (dim, num_experts), or callable, optional
        The router's weights, or ``gate(tokens) -> logits`` from (tokens, dim) to (tokens, num_experts). None: `gate_weights`
        of that shape, the same in every process.
    order : {"softmax_topk", "topk_softmax"}, default "softmax_topk"
        Softmax over all experts, then the choice; or a softmax over the chosen ones.
    normalize : bool, default True
        Whether the weights of "softmax_topk" are divided by their sum.
    capacity_factor : float, optional
        An expert takes at most ``ceil(top_k * tokens / num_experts * capacity_factor)`` assignments, in the order of the
        tokens, then of their choices; the rest are dropped: weight 0, the token's other weights as they were. None: no limit.
    jitter : float, default 0.0
        In training, the router's input is multiplied by uniform numbers from [1 - jitter, 1 + jitter); less than 1.
    training : bool, default False
        Jitter works only when True.
    rng : numpy.random.Generator or seed, optional
        Needed by jitter.

    Returns
    -------
    Routing
        ``indices`` (..., top_k) of int64 and ``weights`` (..., top_k) in the inputs' dtype; it unpacks into these two. Further
        attributes, computed when asked for: ``logits``, ``probabilities``, ``load`` (counts of the experts, which assignments
        were kept, dropped tokens), ``fractions``, ``load_balancing_loss``, ``z_loss``.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For shapes that do not fit, a number out of its range (such as a `top_k` above num_experts), an unknown `order`, or
        jitter in training without an `rng`.

    See Also
    --------
    top_k_gating : from logits.
    MixtureOfExperts : the layer.

    Notes
    -----
    ``2 tokens dim num_experts`` operations, NumPy's matmul, and one pass over the logits. A token with a NaN logit has NaN
    weights and the experts 0, 1, ..., top_k - 1; other tokens are not touched.

    From Shazeer et al. 2017 [1]_, Lepikhin et al. 2020 [2]_ (capacity) and Fedus et al. 2021 [3]_ (capacity, jitter). GShard
    serves every token's first choice before any second one; here a token's choices stand together.

    References
    ----------
    .. [1] Shazeer et al., Outrageously Large Neural Networks, arXiv:1701.06538
    .. [2] Lepikhin et al., GShard, arXiv:2006.16668
    .. [3] Fedus et al., Switch Transformers, arXiv:2101.03961

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> indices, weights = ruvector.moe_route([1.0, 2.0, 3.0], 4, gate=np.eye(3, 4))
    >>> indices, weights.round(4)
    (array([2, 1]), array([0.7311, 0.2689]))
    >>> routing = ruvector.moe_route(np.ones((6, 3)), 3, 1, gate=np.eye(3), capacity_factor=1.0)
    >>> routing.load.counts, routing.load.dropped
    (array([6, 0, 0]), array([2, 3, 4, 5]))
    """
    num_experts, top_k = _experts(num_experts, top_k)
    capacity_factor, jitter, weighing = (
        _capacity_factor(capacity_factor),
        probability(jitter, "jitter"),
        _weighing(order, normalize),
    )
    noisy = flag(training, "training") and jitter > 0
    rng = _coerce.explicit_generator(rng, "jitter") if noisy else None
    tokens, gate = _tokens(embedding, gate)
    if noisy:
        tokens = _jittered(tokens, jitter, rng)
    logits = _logits(tokens, gate, num_experts, _moe.GATE_SEED)
    return _routing(tokens, logits, top_k, capacity_factor, **weighing)


def load_balancing_loss(probabilities, indices):
    """The auxiliary loss of the Switch Transformer, ``E * sum_e f_e P_e``: 1 where tokens spread evenly.

    Parameters
    ----------
    probabilities : array_like, shape (..., num_experts)
        Softmax of the router's logits.
    indices : array_like of int, shape (..., top_k)
        Experts of each token, before any assignment is dropped.

    Returns
    -------
    float
        f_e is expert e's share of the assignments, P_e the mean of its probability over the tokens, in float64.

    Raises
    ------
    TypeError
        For a dtype that is not real, or indices that are not integers.
    ValueError
        For shapes that do not fit, an index out of range, or no token.

    Notes
    -----
    O(tokens * num_experts). It is E where one expert gets all tokens for certain. From Fedus et al. 2021, arXiv:2101.03961,
    equations 4 to 6, there with one expert a token; f_e is a share of all assignments, so that even routing gives 1 for every
    top_k.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.load_balancing_loss(np.full((8, 4), 0.25), np.arange(8)[:, None] % 4)
    1.0
    """
    probabilities = _coerce.array(probabilities, "probabilities")
    indices = _coerce.whole_array(indices, "indices")
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must hold integers, got dtype {indices.dtype}")
    shapes = f"probabilities {probabilities.shape} and indices {indices.shape}"
    if probabilities.ndim < 1 or indices.ndim < 1 or probabilities.shape[:-1] != indices.shape[:-1]:
        raise ValueError(f"expected probabilities (..., num_experts) and indices (..., top_k), got {shapes}")
    if probabilities.size == 0 or indices.size == 0:
        raise ValueError(f"the loss needs at least one token, got {shapes}")
    num_experts = probabilities.shape[-1]
    if indices.min() < 0 or indices.max() >= num_experts:
        raise ValueError(f"indices must be between 0 and {num_experts - 1}, got {indices.min()} to {indices.max()}")
    mean = probabilities.reshape(-1, num_experts).mean(axis=0, dtype=np.float64)
    share = np.bincount(indices.ravel(), minlength=num_experts) / indices.size
    return float(num_experts * (share * mean).sum())


def router_z_loss(logits):
    """The z-loss of a router: the mean over tokens of ``log(sum(exp(logits)))`` squared.

    Parameters
    ----------
    logits : array_like, shape (..., num_experts)

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        If there is no token or no expert.

    Notes
    -----
    O(tokens * num_experts). It keeps logits small. From Zoph et al. 2022, ST-MoE, arXiv:2202.08906, equation 5.

    Examples
    --------
    >>> import ruvector
    >>> round(ruvector.router_z_loss([[0.0, 0.0]]), 6)  # log(2) squared
    0.480453
    """
    logits = _coerce.array(logits, "logits")
    if logits.ndim < 1 or logits.size == 0:
        raise ValueError(f"logits must have shape (..., num_experts) with at least one token, got {logits.shape}")
    logits = logits.reshape(-1, logits.shape[-1]).astype(_coerce.computed_in(logits.dtype), copy=False)
    largest = logits.argmax(axis=1)[:, None]
    # the largest element's log-softmax is -log(sum(exp(logits - max))): no digits are lost in the difference
    with np.errstate(all="ignore"):
        lse = np.take_along_axis(logits, largest, 1).astype(float) - np.take_along_axis(log_softmax(logits), largest, 1)
        return float(np.square(lse).mean())


class MixtureOfExperts:
    """A layer of experts of which each token uses a few: ``sum_i weight_i * expert_i(x)``.

    Parameters
    ----------
    num_experts : int, default 8
    top_k : int, default 2
        Experts a token, from 1 to num_experts.
    gate : array_like, shape (dim, num_experts), or callable, optional
        The router, as in `moe_route`. None: `gate_weights` of that shape.
    experts : sequence of num_experts callables, or array_like, shape (num_experts, dim, out), optional
        ``expert(tokens)`` maps (n, dim) to (n, out); weights multiply from the right, ``tokens @ experts[e]``. None makes a
        router without a layer.
    capacity_factor : float, optional
        Limits the assignments of an expert, as in `moe_route`.
    jitter : float, default 0.0
    order : {"softmax_topk", "topk_softmax"}, default "softmax_topk"
    normalize : bool, default True
    rng : numpy.random.Generator or seed, optional
        Draws the gate where none is given; None: the seed 42.

    Raises
    ------
    TypeError
        For an option of the wrong type.
    ValueError
        For a number out of its range, or experts that are not num_experts in number.

    Notes
    -----
    Tokens are gathered by expert, so that each expert works once on all of its tokens; a token's contributions are added in the
    order of its choices. The layer keeps no state: calls do not change it. From Shazeer et al. 2017, arXiv:1701.06538.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> layer = ruvector.MixtureOfExperts(3, 1, gate=np.eye(3), experts=[lambda x, e=e: x * 10**e for e in range(3)])
    >>> layer([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    array([[  1.,   0.,   0.],
           [  0.,   0., 100.]])
    """

    __slots__ = ("num_experts", "top_k", "gate", "experts", "capacity_factor", "jitter", "order", "normalize", "_seed")

    def __init__(
        self,
        num_experts=8,
        top_k=2,
        *,
        gate=None,
        experts=None,
        capacity_factor=None,
        jitter=0.0,
        order="softmax_topk",
        normalize=True,
        rng=None,
    ):
        self.num_experts, self.top_k = _experts(num_experts, top_k)
        if gate is not None and not callable(gate):
            gate = _coerce.array(gate, "gate")
            if gate.ndim != 2 or gate.shape[1] != self.num_experts:
                raise ValueError(
                    f"gate must have shape (dim, num_experts) = (dim, {self.num_experts}), got {gate.shape}"
                )
        self.gate = gate
        self.experts = None if experts is None else self._checked(experts)
        self.capacity_factor = _capacity_factor(capacity_factor)
        self.jitter = probability(jitter, "jitter")
        self.order, self.normalize = _weighing(order, normalize).values()
        self._seed = seed_of(rng, _moe.GATE_SEED)

    def _checked(self, experts):
        if isinstance(experts, Sequence) and any(callable(e) for e in experts):
            for i, expert in enumerate(experts):
                if not callable(expert):
                    raise TypeError(f"experts[{i}] must be callable like the others, got {type(expert).__name__}")
            experts = tuple(experts)
        else:
            experts = _coerce.array(experts, "experts")
            if experts.ndim != 3:
                raise ValueError(f"experts must have shape (num_experts, dim, out), got {experts.shape}")
        if len(experts) != self.num_experts:
            raise ValueError(f"experts must be num_experts = {self.num_experts} in number, got {len(experts)}")
        return experts

    def __repr__(self):
        return f"<MixtureOfExperts of {self.num_experts} experts, top_k={self.top_k}>"

    def top_k_gating(self, logits):
        """Experts and weights of logits, with this layer's options; see the function of that name.

        Parameters
        ----------
        logits : array_like, shape (..., num_experts)

        Returns
        -------
        indices, weights : ndarray, shape (..., top_k)
        """
        logits = _coerce.array(logits, "logits")
        if logits.ndim < 1 or logits.shape[-1] != self.num_experts:
            raise ValueError(
                f"logits must have shape (..., num_experts) = (..., {self.num_experts}), got {logits.shape}"
            )
        return top_k_gating(logits, self.top_k, order=self.order, normalize=self.normalize)

    def route(self, x, *, training=False, rng=None):
        """The routing of tokens x (..., dim), as `moe_route` returns it.

        Parameters
        ----------
        x : array_like, shape (dim,) or (..., dim)
        training : bool, default False
        rng : numpy.random.Generator or seed, optional
            Needed by jitter in training.

        Returns
        -------
        Routing
        """
        noisy = flag(training, "training") and self.jitter > 0
        rng = _coerce.explicit_generator(rng, "jitter") if noisy else None
        tokens, gate = _tokens(x, self.gate, "x")
        if noisy:
            tokens = _jittered(tokens, self.jitter, rng)
        logits = _logits(tokens, gate, self.num_experts, self._seed)
        return _routing(tokens, logits, self.top_k, self.capacity_factor, order=self.order, normalize=self.normalize)

    def forward(self, x, *, training=False, rng=None, return_routing=False):
        """The weighted sum of the experts' results.

        Parameters
        ----------
        x : array_like, shape (dim,) or (..., dim)
        training : bool, default False
            Jitter works only when True; it moves the router's input, not the experts'.
        rng : numpy.random.Generator or seed, optional
        return_routing : bool, default False

        Returns
        -------
        ndarray, shape (..., out)
            A token whose assignments were all dropped is 0.
        routing : Routing
            With `return_routing`: its `load` reports counts and dropped tokens, its `load_balancing_loss` the loss.

        Raises
        ------
        TypeError
            For a dtype that is not real.
        ValueError
            For shapes that do not fit, experts that return another number of rows, or a layer without experts.
        """
        if self.experts is None:
            raise ValueError("this MixtureOfExperts routes only; pass experts to compute with")
        return_routing = flag(return_routing, "return_routing")
        x = _coerce.array(x, "x")
        stacked = isinstance(self.experts, np.ndarray)
        if stacked and x.ndim and x.shape[-1] != self.experts.shape[1]:
            raise ValueError(
                f"x must have shape (..., {self.experts.shape[1]}), the width of the experts, got {x.shape}"
            )
        routing = self.route(x, training=training, rng=rng)
        _, starts, order, _ = _grouped(routing)
        dtype = _coerce._promote((x, self.experts) if stacked else (x,))
        tokens = x.reshape(-1, x.shape[-1])
        parts = self._apply(
            tokens.astype(_coerce.computed_in(dtype) if stacked else dtype, copy=False)[order // self.top_k], starts
        )
        if not stacked:
            dtype = _coerce._promote((x, *parts))
        working = _coerce.computed_in(dtype)
        rows = np.zeros((len(tokens) * self.top_k, parts[0].shape[-1]), working)
        rows[order] = np.concatenate(parts)
        weights = routing.weights.reshape(-1, self.top_k).astype(working, copy=False)
        out = np.zeros((len(tokens), rows.shape[-1]), working)
        with np.errstate(all="ignore"):
            for j in range(self.top_k):
                out += weights[:, j, None] * rows[j :: self.top_k]
        out = out.astype(dtype, copy=False).reshape(*x.shape[:-1], rows.shape[-1])
        return (out, routing) if return_routing else out

    __call__ = forward

    def _apply(self, tokens, starts):
        """Each expert that has some on its rows of the tokens, starts[e] to starts[e + 1]; the first on none if there are none."""
        parts = []
        for e in np.flatnonzero(np.diff(starts)).tolist() or [0]:
            rows, expert = tokens[starts[e] : starts[e + 1]], self.experts[e]
            if not callable(expert):
                parts.append(_coerce.matmul(rows, expert.astype(rows.dtype, copy=False)))
                continue
            part = _coerce.array(expert(rows), f"experts[{e}](tokens)")
            width = parts[0].shape[1] if parts else None
            if part.ndim != 2 or len(part) != len(rows) or width not in (None, part.shape[1]):
                want = f"({len(rows)}, {'out' if width is None else width})"
                raise ValueError(f"experts[{e}](tokens) must have shape {want}, got {part.shape}")
            parts.append(part)
        return parts
