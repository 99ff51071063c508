"""Attention by hyperbolic distances: the types poincare, lorentz and mixed_curvature."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _hyperbolic
from ruvector._attention import scaled_dot_product_attention
from ruvector._options import flag, nonzero
from ruvector._primitives import softmax
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import COMMON_OPTIONS, documented
from ruvector.mechanisms.hyperbolic import _BALL, _HYPERBOLOID, LEAST_CURVATURE, _gaps, _inside, _pair, _square
from ruvector.mechanisms.sparse import checked


def _documented(what):
    """Puts the common options into a docstring, with what the scale is for here."""
    usual = "Factor on the products; ``1 / sqrt(head_dim)`` when None."
    options = COMMON_OPTIONS.replace(usual, f"Factor on the {what}, an inverse temperature; 1 when None.")
    return lambda function: documented(function, options)


@_documented("distances")
def poincare_attention(
    query,
    key,
    value,
    curvature=1.0,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention in the Poincare ball: weights ``softmax(-scale * distance)``, values averaged to their gyromidpoint.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
        Points with ``c |x|^2 < 1``, the values in a ball of their own.
    curvature : float or array_like, default 1.0
        ``c = abs(curvature)``; not 0. An array broadcasts to the leading axes: ``(H,)`` gives each head its own.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        Points of the ball; the origin for a query that sees nothing.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a point on or outside the sphere that some query sees.

    Notes
    -----
    ``w_j = softmax_j(-scale * d(q, k_j))`` and ``m / (1 + sqrt(1 - c|m|^2))`` with ``m = sum_j w_j l_j v_j / sum_j w_j (l_j - 1)`` and
    ``l_j = 2 / (1 - c|v_j|^2)``, the gyromidpoint.

    ``2 L S (d + dv)`` operations, O(block) memory a thread. Distances are those of `hyperbolic_cdist`; softmax and averages
    are float64. A result is off by at most ``16 u kappa r`` and a rounding of its dtype, kappa being the largest logit and r the
    radius; in float64 also by ``(16 + 16 kappa) (2 + l) u r`` with ``l = 2 / (1 - c|v|^2)`` of the value next to the sphere.
    Hidden keys and values may be anything. From Gulcehre et al. 2019 [1]_, with the average of Shimizu et al. 2021,
    arXiv:2006.08210.

    References
    ----------
    .. [1] Gulcehre et al., Hyperbolic Attention Networks, arXiv:1805.09786

    Examples
    --------
    >>> import ruvector
    >>> keys, values = [[0.15, 0.0], [0.0, 0.5]], [[0.0, 0.8], [0.0, 0.0]]
    >>> ruvector.poincare_attention([0.1, 0.0], keys, values).round(4)
    array([0.    , 0.6335])
    """
    call = get_attention("poincare", curvature=curvature, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_documented("distances")
def lorentz_attention(
    query,
    key,
    value,
    curvature=1.0,
    *,
    space_only=False,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention on the hyperboloid: weights ``softmax(-scale * distance)``, values averaged to their Lorentz centroid.

    Parameters
    ----------
    query : array_like, shape (..., L, d + 1) or (d + 1,)
    key : array_like, shape (..., S, d + 1)
    value : array_like, shape (..., S, dv + 1)
        Points, time component first, as in `lorentz_distance`; the values on a hyperboloid of their own.
    curvature : float or array_like, default 1.0
        ``c = abs(curvature)``; not 0. An array broadcasts to the leading axes: ``(H,)`` gives each head its own.
    space_only : bool, default False
        Points, the result too, are given by their space-like part alone.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv + 1), or (dv + 1,) for a single query
        Points of the hyperboloid; its origin for a query that sees nothing.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a row that some query sees and that is no point.

    Notes
    -----
    ``w_j = softmax_j(-scale * d(q, k_j))`` and ``s / sqrt(-c <s, s>)`` with ``s = sum_j w_j v_j`` and the Minkowski product, the Lorentz
    centroid.

    ``2 L S (d + dv)`` operations, O(block) memory a thread. Distances are those of `lorentz_cdist`; softmax and averages are
    float64. Hidden keys and values may be anything. From Gulcehre et al. 2019 [1]_, with the average of Law et al. 2019 (PMLR
    97) and Chen et al. 2022, arXiv:2105.14686.

    References
    ----------
    .. [1] Gulcehre et al., Hyperbolic Attention Networks, arXiv:1805.09786

    Examples
    --------
    >>> import ruvector
    >>> keys, values = [[0.3], [2.0]], [[1.0, 0.0], [0.0, 1.0]]
    >>> ruvector.lorentz_attention([0.2], keys, values, space_only=True).round(4)
    array([0.6496, 0.2061])
    """
    call = get_attention(
        "lorentz", curvature=curvature, space_only=space_only, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _pair_distances(query, key, geometry, curvature, space_only):
    """Distances of pairs of points, with one curvature or one for each of the leading axes."""
    if not np.ndim(curvature):
        return _hyperbolic.distance(query, key, geometry, curvature, space_only, ("query", "key"))
    lead = _coerce._broadcast((query.shape[:-1], key.shape[:-1]), f"query {query.shape}, key {key.shape}")
    curvature = _each(curvature, lead)
    query, key = (np.broadcast_to(x, (*lead, x.shape[-1])) for x in (query, key))
    result = np.empty(lead, query.dtype)
    for one in np.unique(curvature):
        here = curvature == one
        result[here] = _hyperbolic.distance(query[here], key[here], geometry, one, space_only, ("query", "key"))
    return result


def _each(curvature, lead):
    """Curvatures for all leading axes."""
    try:
        return np.broadcast_to(curvature, lead)
    except ValueError:
        _coerce.refuse_numbers("curvature", np.shape(curvature), lead)


def _negative_distance(geometry):
    def score(query, key, *, curvature, scale, space_only=True):
        factor = -1.0 if scale is None else -scale
        result = _pair_distances(query, key, geometry, curvature, space_only)
        return result.dtype.type(factor) * result

    def table(query, key, *, curvature, scale, space_only=True):
        if np.ndim(curvature):
            return score(query[:, None], key, curvature=curvature, scale=scale, space_only=space_only)
        result = _hyperbolic.cdist(query, key, geometry, curvature, space_only, ("query", "key"))
        return np.multiply(result, result.dtype.type(-1.0 if scale is None else -scale), out=result)

    return {"score": score, "table": table}


# mixed_curvature -----------------------------------------------------------------------------------------------------


def _split(width, part, name):
    part = width // 2 if part < 0 else part
    if part > width:
        raise ValueError(f"{name} must be at most the width {width}, got {part}")
    return part


def _curvatures(curvature):
    curvature = nonzero(curvature, "curvature")
    if np.abs(curvature).min(initial=np.inf) < LEAST_CURVATURE:
        raise ValueError(f"curvature must be at least {LEAST_CURVATURE:.3g} in size, got {curvature}")
    return curvature


def _mixed_score(
    query, key, *, curvature, euclidean_dim, euclidean_weight, hyperbolic_weight, scale, value_euclidean_dim
):
    query, key, dtype = _pair(query, key, ("query", "key"))
    curvature = _curvatures(curvature)
    part = _split(query.shape[-1], euclidean_dim, "euclidean_dim")
    score = -euclidean_weight * _square(query[..., :part] - key[..., :part])[..., 0]
    if part < query.shape[-1]:
        distance = _pair_distances(query[..., part:], key[..., part:], _BALL, curvature, True)
        score = score - hyperbolic_weight * distance**2
    return ((1.0 if scale is None else scale) * score).astype(dtype)[()]


def _mixed_table(
    query, key, *, curvature, euclidean_dim, euclidean_weight, hyperbolic_weight, scale, value_euclidean_dim
):
    if np.ndim(curvature):
        own = {"euclidean_dim": euclidean_dim, "value_euclidean_dim": value_euclidean_dim, "scale": scale}
        own |= {"euclidean_weight": euclidean_weight, "hyperbolic_weight": hyperbolic_weight}
        return _mixed_score(query[:, None], key, curvature=curvature, **own)
    curvature = float(_curvatures(curvature))
    query, key, dtype = _pair(query[:, None], key, ("query", "key"))
    query, part = query[:, 0], _split(query.shape[-1], euclidean_dim, "euclidean_dim")
    score = np.empty((len(query), len(key)))
    for one, row in zip(query[:, :part], score):
        row[...] = _square(one - key[:, :part])[:, 0]
    score *= -euclidean_weight
    if part < query.shape[-1]:
        distance = _hyperbolic.cdist(query[:, part:], key[:, part:], _BALL, curvature, True, ("query", "key"))
        score -= hyperbolic_weight * distance**2
    return ((1.0 if scale is None else scale) * score).astype(dtype)


def _mixed_fits(width, /, curvature, euclidean_dim, **own):
    _curvatures(curvature)
    _split(width, euclidean_dim, "euclidean_dim")


# Logits of a piece: 2000 x 3000 x 32 take 98 ms of processor time with these, 112 with half, 247 with twice as many.
_PIECE = 1 << 15


class _Mixed:
    """A call in pieces: some of the leading indices, which have one curvature, and some of the rows."""

    def __init__(
        self, query, key, value, mask, causal, scale, curvature, euclidean_dim, euclidean_weight, hyperbolic_weight
    ):
        given = query.shape
        self.dtype = query.dtype
        query, mask, lead, self.single = checked(query, key, key if value is None else value, mask)
        self.length, self.count = query.shape[-2], key.shape[-2]
        self.causal, self.scale = causal, 1.0 if scale is None else scale
        self.weights = euclidean_weight, hyperbolic_weight
        self.part = _split(query.shape[-1], euclidean_dim, "euclidean_dim")
        self.curvature = _each(np.abs(_curvatures(curvature)), lead).ravel()
        self.shape = lead
        self.lead = lead or (1,)
        self.arrays = {
            name: (shape, np.broadcast_to(x, (*self.lead, *x.shape[-2:])))
            for name, shape, x in (("query", given, query), ("key", key.shape, key), ("value", np.shape(value), value))
            if x is not None
        }
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.length, self.count))
        # what a piece holds does not depend on the number of leading indices, nor on which others are with it
        self.rows = max(1, min(self.length, _PIECE // max(self.count, 1)))

    def units(self):
        """Curvatures and leading indices of one."""
        most = max(1, _PIECE // (self.rows * max(self.count, 1)))
        for c in np.unique(self.curvature).tolist():
            same = np.flatnonzero(self.curvature == c)
            for first in range(0, len(same), most):
                yield c, np.unravel_index(same[first : first + most], self.lead)

    def steps(self):
        return (slice(first, first + self.rows) for first in range(0, self.length, self.rows))

    def bias(self, at, rows):
        """0 or the mask's number where a key is seen, -inf where it is hidden; None where all are seen."""
        seen = None
        if self.causal:
            places = np.arange(self.length)[rows, None] + (self.count - self.length)
            seen = np.where(np.arange(self.count) > places, -np.inf, 0.0)
        if self.mask is None:
            return seen
        mask = self.mask[(*at, rows)]
        mask = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
        return mask if seen is None else np.where(seen == 0, mask, seen)

    def seen(self, at):
        """Which keys some row sees; None for all of them."""
        if self.mask is None:
            return None if self.length else np.zeros((len(at[0]), self.count), bool)
        seen = np.zeros((len(at[0]), self.count), bool)
        for rows in self.steps():
            seen |= (self.bias(at, rows) != -np.inf).any(-2)
        return seen

    def points(self, name, at, seen, part, c):
        """Float64 rows of an array, 0 where no query sees them; those with a part outside the ball are refused."""
        shape, whole = self.arrays[name]
        x = whole[at].astype(np.float64)
        if seen is not None:
            if name == "value":
                # the product with weights of 0 has a rule for what is hidden
                x[..., part:] = np.where(seen[..., None], x[..., part:], 0.0)
            else:
                x = np.where(seen[..., None], x, 0.0)
        bad = np.argwhere(_gaps(x[..., part:], c) <= 0) if part < x.shape[-1] else ()
        if len(bad):
            unit, row = bad[0]
            index = (*(axis[unit] for axis in at), row)
            _coerce.refuse_point(name, shape, index, np.linalg.norm(x[unit, row, part:]), 0, 0, False, c)
        return x

    def logits(self, at, c, seen):
        """Rows and their logits in float64, -inf where a key is hidden."""
        part, (flat, curved) = self.part, self.weights
        query, key = self.points("query", at, None, part, c), self.points("key", at, seen, part, c)
        q, k = query[..., :part], key[..., :part]
        if self.count:
            # far from the origin the expanded squares would cancel; the first key, since later ones are not seen by all
            first = np.where(np.isfinite(k[..., :1, :]), k[..., :1, :], 0.0)
            q, k = q - first, k - first
        squares = np.swapaxes(_square(k), -1, -2)
        for rows in self.steps():
            some = q[:, rows]
            with np.errstate(invalid="ignore"):
                score, products = _square(some) + squares, some @ np.swapaxes(k, -1, -2)
                products *= 2
                score -= products
                np.maximum(score, 0, out=score)
                score *= -flat
                if part < query.shape[-1]:
                    distances = _hyperbolic.cdist(
                        query[:, rows, part:], key[..., part:], _BALL, c, True, ("query", "key")
                    )
                    distances *= distances
                    distances *= curved
                    score -= distances
                score *= self.scale
                bias = self.bias(at, rows)
                if bias is not None:
                    score += bias
                    # what is hidden may be NaN, of a point that only other rows see
                    np.copyto(score, -np.inf, where=bias == -np.inf)
            yield rows, score

    def finish(self, result):
        result = result.reshape(*self.shape, *result.shape[-2:])
        return result[..., 0, :] if self.single else result


def _mixed_attention(query, key, value, *, mask, causal, scale, dropout, training, rng, value_euclidean_dim, **options):
    if value.ndim > 1 and value.shape[-1] < 1:
        raise ValueError(f"value must have at least one column, got {value.shape}")
    call = _Mixed(query, key, value, mask, causal, scale, **options)
    part = _split(value.shape[-1], value_euclidean_dim, "value_euclidean_dim")
    drop = dropout if training else 0.0
    rng = _coerce.explicit_generator(rng, "dropout") if drop else None
    # with dropout the midpoint is a ratio: the kept weights need not sum to 1
    least = 0 if drop else 1
    result = np.empty((*call.lead, call.length, value.shape[-1]), call.dtype)
    for c, at in call.units():
        seen = call.seen(at)
        values = call.points("value", at, seen, part, c)
        curved = values[..., part:]
        factor = 2 / _gaps(curved, c)[..., None]
        columns = np.concatenate([values[..., :part], factor * curved, factor - 1], -1)
        nothing = np.zeros((len(at[0]), call.count, 1))
        for rows, logits in call.logits(at, c, seen):
            none = np.zeros((*logits.shape[:-1], 1))
            out = scaled_dot_product_attention(none, nothing, columns, logits, drop, scale=0.0, rng=rng)
            space, time = out[..., part:-1], out[..., -1:]
            length = np.sqrt(c * _square(space))
            norm = np.sqrt(np.maximum((time - length) * (time + length), least))
            with np.errstate(invalid="ignore"):
                space = np.where(time + norm == 0, 0, space / (time + norm))
            result[(*at, rows)] = np.concatenate(
                [out[..., :part].astype(call.dtype), _inside(space, c, call.dtype)], -1
            )
    return call.finish(result)


def _mixed_weights(query, key, mask, *, causal, scale, value_euclidean_dim, **options):
    call = _Mixed(query, key, None, mask, causal, scale, **options)
    result = np.empty((*call.lead, call.length, call.count), call.dtype)
    for c, at in call.units():
        for rows, logits in call.logits(at, c, call.seen(at)):
            hidden = (logits == -np.inf).all(-1, keepdims=True)
            if logits.size:
                logits = softmax(np.where(hidden, 0, logits))
            result[(*at, rows)] = np.where(hidden, 0, logits).astype(call.dtype)
    return call.finish(result)


@_documented("squared distances")
def mixed_curvature_attention(
    query,
    key,
    value,
    curvature=1.0,
    *,
    euclidean_dim=-1,
    value_euclidean_dim=-1,
    euclidean_weight=1.0,
    hyperbolic_weight=1.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention in the product of a Euclidean space and a Poincare ball.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
        The first columns are Euclidean, the rest points of the ball with ``c |x|^2 < 1``.
    curvature : float or array_like, default 1.0
        ``c = abs(curvature)`` of the ball; not 0. An array broadcasts to the leading axes: ``(H,)`` gives each head its own.
    euclidean_dim : int, default -1
        Euclidean columns of query and key; -1 for half of them.
    value_euclidean_dim : int, default -1
        Euclidean columns of the values; -1 for half of them.
    euclidean_weight, hyperbolic_weight : float, default 1.0
        Factors on the squared distances, at least 0.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        The weighted mean of the Euclidean columns, the gyromidpoint of the others.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a point on or outside the sphere that some query sees.

    Notes
    -----
    Weights ``softmax(-scale * (euclidean_weight * |q_e - k_e|^2 + hyperbolic_weight * d_c(q_h, k_h)^2))``: in a product of
    spaces squared distances add, from Gu et al. 2019, Learning Mixed-Curvature Representations in Product Spaces (ICLR).
    ``2 L S (d + dv)`` operations in float64; queries go in blocks, so that memory holds a few times ``max(2 ** 15, S)`` logits
    and the values in float64.

    Examples
    --------
    >>> import ruvector
    >>> keys, values = [[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.8]]
    >>> ruvector.mixed_curvature_attention([0.9, 0.1], keys, values).round(4)
    array([0.8272, 0.2531])
    """
    call = get_attention(
        "mixed_curvature",
        curvature=curvature,
        euclidean_dim=euclidean_dim,
        value_euclidean_dim=value_euclidean_dim,
        euclidean_weight=euclidean_weight,
        hyperbolic_weight=hyperbolic_weight,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _register():
    add_type("poincare", **_negative_distance(_BALL))
    add_type("lorentz", **_negative_distance(_HYPERBOLOID))
    add_type(
        AttentionRecord(
            name="mixed_curvature",
            aliases=("product_space",),
            complexity="O(n\u00b2)",
            best_for="Data with flat and hierarchical parts",
            family="hyperbolic",
            parameters=(
                Parameter(
                    "curvature",
                    "nonzero",
                    1.0,
                    None,
                    None,
                    "c = |curvature| of the ball; an array: one for each of the leading axes",
                ),
                Parameter("euclidean_dim", "int", -1, -1, None, "leading Euclidean columns of query and key; -1: half"),
                Parameter("value_euclidean_dim", "int", -1, -1, None, "leading Euclidean columns of values; -1: half"),
                Parameter("euclidean_weight", "float", 1.0, 0, None, "factor on the squared Euclidean distance"),
                Parameter("hyperbolic_weight", "float", 1.0, 0, None, "factor on the squared hyperbolic distance"),
            ),
            reference="Gu et al. 2019, Learning Mixed-Curvature Representations in Product Spaces, ICLR",
        ),
        _mixed_attention,
        score=_mixed_score,
        table=_mixed_table,
        weights=_mixed_weights,
        fits=_mixed_fits,
    )


_register()
