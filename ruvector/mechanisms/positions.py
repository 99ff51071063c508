"""Rotary positions: the rotation of queries and keys, and the types that put it around the dense core."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _rotary
from ruvector._options import flag, number
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._rotary import RopeScaling
from ruvector._docstrings import documented
from ruvector.mechanisms._heads import HEADS, Call, fits_of, grouped, heads_of, plain_products, plain_score, score_heads


def rope(x, positions=None, *, base=10000.0, interleaved=False, rotary_dim=None, scaling=None):
    """Rotary position embedding: pairs of columns turn by an angle that grows with the position.

    Parameters
    ----------
    x : array_like, shape (..., L, d) or (d,)
        Queries or keys of one head.
    positions : array_like, shape (L,) or (..., L), optional
        Any finite numbers, broadcast to the axes of x but the last; 0 to L - 1 when None.
    base : float, default 10000.0
        At least 1: pair i of d / 2 turns by ``base ** (-2 i / d)`` radians a position.
    interleaved : bool, default False
        Pairs are columns ``(2 i, 2 i + 1)``, as in the paper and GPT-J; when False ``(i, i + d / 2)``, as in Llama and
        GPT-NeoX. The same but for a permutation of the columns, which weights of a model have in them.
    rotary_dim : int, optional
        Leading columns that turn, an even number from 2 to d; the rest stays. d when None.
    scaling : RopeScaling or mapping, optional
        Frequencies for long sequences, such as ``{"rope_type": "yarn", "factor": 4, ...}``: what model files call
        rope_scaling.

    Returns
    -------
    ndarray, shape of x
        In the dtype of x; integers become float64.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For shapes that do not fit, an odd number of columns to turn, positions that are not finite.

    See Also
    --------
    rope_attention : attention over rotated queries and keys.

    Notes
    -----
    ``(a, b) -> (a cos t - b sin t, a sin t + b cos t)`` with ``t = position * base ** (-2 i / d)``: the product of a rotated
    query and key depends on the distance of their positions alone. Angles are float64, so that in float32 a result is off by
    at most ``3.2 u |(a, b)|`` at any position up to a million, u being the unit roundoff; in float64 by
    ``(4 + 4 |position|) u |(a, b)|``, the rounding of the frequency. O(L d), float16 and bfloat16 by way of float32. From Su
    et al. 2021 [1]_.

    A decoder rotates each key once, before it goes into a `KVCache`, and each query at its own position.

    References
    ----------
    .. [1] Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.rope(np.ones(4), 1).round(4)
    array([-0.3012,  0.99  ,  1.3818,  1.0099])
    """
    x = _coerce.array(x, "x")
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., L, d) or (d,) with d at least 1, got {x.shape}")
    base, rotary_dim = _base(base), _whole_or_none(rotary_dim, "rotary_dim")
    interleaved, scaling = flag(interleaved, "interleaved"), None if scaling is None else RopeScaling.of(scaling)
    dim, places = _rotary_dim(rotary_dim, x.shape[-1]), _positions(positions, x.shape[:-1])
    length = float(places.max()) + 1 if places.size else 0
    radians, factor = _frequencies(dim, base, scaling, length)
    work = _coerce.computed_in(x.dtype)
    cos, sin = _rotary.tables(places, radians, work, factor)
    result = _rotary.rotate(_coerce.plain(x, work), cos, sin, interleaved)
    with np.errstate(over="ignore"):
        return result.astype(x.dtype.newbyteorder("="), copy=False)


def _base(base):
    base = number(base, "base")
    if base < 1:
        raise ValueError(f"base must be at least 1, got {base}")
    return base


def _whole_or_none(value, name):
    return None if value is None else number(value, name, whole=True)


def _rotary_dim(rotary_dim, width):
    """Columns to turn of a head of this width."""
    if rotary_dim is None:
        if width % 2:
            raise ValueError(
                f"head_dim must be even for its columns to turn in pairs, got {width}; rotary_dim turns some"
            )
        return width
    if rotary_dim % 2 or not 2 <= rotary_dim <= width:
        raise ValueError(f"rotary_dim must be an even number between 2 and head_dim {width}, got {rotary_dim}")
    return rotary_dim


def _positions(positions, shape):
    """Float64 positions that broadcast to the axes of rows."""
    if positions is None:
        return np.arange(shape[-1], dtype=np.float64) if shape else np.zeros(())
    given = _coerce.array(positions, "positions")
    if given.ndim > len(shape) or any(n not in (1, m) for n, m in zip(given.shape[::-1], shape[::-1])):
        raise ValueError(
            f"positions shape {given.shape} does not broadcast to {tuple(shape)}, the axes of x but the last"
        )
    places = given.astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(f"positions must be finite, got {places[~np.isfinite(places)][0]}")
    return places


def _frequencies(dim, base, scaling, length):
    if base == 1 and scaling is not None and scaling.rope_type == "yarn":
        raise ValueError("base must be larger than 1 for yarn, which looks for frequencies that differ, got 1.0")
    return _rotary.frequencies(dim, base, scaling, length)


def _turn(x, heads, turns, interleaved):
    """Rows of heads, their pairs multiplied by complex numbers (n, pairs)."""
    x = _coerce.plain(x, x.dtype)
    cos, sin = (part[:, None].astype(x.dtype) for part in (turns.real, turns.imag))
    return _rotary.rotate(heads_of(x, heads), cos, sin, interleaved).reshape(x.shape)


def _rope_pair(call, base, interleaved, rotary_dim, scaling):
    """Query and key, rotated: key j stands at j, query i of L at i + (S - L)."""
    dim = _rotary_dim(rotary_dim, call.head_dim)
    radians, factor = _frequencies(dim, base, scaling, call.kv_len)
    first = call.kv_len - call.q_len
    low = min(first, 0)
    turns = _rotary.turns(low, call.kv_len - low, radians)
    if factor != 1:
        turns *= factor
    query = _turn(call.query, call.num_heads, turns[first - low :], interleaved)
    return query, _turn(call.key, call.num_kv_heads, turns[-low:], interleaved)


def _rope_type(query, key, value, *, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng, **own):
    call = Call(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    query, key = _rope_pair(call, **own)
    return call.finish(call.attend(query, key, call.value, call.part(slice(None), None)))


def _rope_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = Call(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    query, key = _rope_pair(call, **own)
    return call.finish(call.weights(query, key, call.part(slice(None), None)))


def _rope_score(query, key, *, num_heads, num_kv_heads, scale, **own):
    """Rotations by one angle cancel; the factor of YaRN does not."""
    num_kv_heads = score_heads(query, key, num_heads, num_kv_heads)
    query, key = (
        rope(heads_of(x, n), np.zeros(()), **own).reshape(x.shape) for x, n in ((query, num_heads), (key, num_kv_heads))
    )
    return plain_score(query, key, num_heads, num_kv_heads, scale)


def _rope_products(*, num_heads, num_kv_heads, scale, base, interleaved, rotary_dim, scaling):
    factor = rope(np.ones(2), np.zeros(()), base=base, scaling=scaling)[0]
    return grouped(scale, num_heads, num_kv_heads) if factor == 1 else None


def _decay(distances, gamma, scale_base, dim):
    """zeta ** (distance / scale_base) of each pair, (n, dim / 2)."""
    zeta = (np.arange(0, dim, 2) / dim + gamma) / (1 + gamma)
    return np.exp(np.multiply.outer(distances / scale_base, np.log(zeta)))


def _xpos_blocks(call, base, interleaved, gamma, scale_base):
    """Rows, the number of keys they see, and query and key rotated for them.

    The two factors of a pair, zeta ** (p / scale_base) and its inverse, leave the range of float32 some 35,000 positions
    from where they are 1, so that place moves along: the middle of blocks in which zeta ** 4 is the least.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    dim = _rotary_dim(None, call.head_dim)
    radians, _ = _frequencies(dim, base, None, 0)
    first, most = call.kv_len - call.q_len, int(8 * scale_base)
    for rows, seen in call.row_blocks(most):
        start, count = first + rows.start, rows.stop - rows.start
        middle = start + (count - 1) / 2
        with np.errstate(all="ignore"):
            turns = _rotary.turns(start, count, radians)
            turns *= _decay(start + np.arange(count) - middle, gamma, scale_base, dim)
            query = _turn(call.query[..., rows, :], call.num_heads, turns, interleaved)
            turns = _rotary.turns(0, seen, radians)
            turns *= _decay(middle - np.arange(seen), gamma, scale_base, dim)
            key = _turn(call.key[..., :seen, :], call.num_kv_heads, turns, interleaved)
        yield rows, seen, query, key


def _xpos_type(query, key, value, *, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng, **own):
    call = Call(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    parts = [
        call.attend(query, key, call.value[..., :seen, :], call.part(rows, seen))
        for rows, seen, query, key in _xpos_blocks(call, **own)
    ]
    return call.finish(parts[0] if len(parts) == 1 else np.concatenate(parts, -2))


def _xpos_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = Call(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    parts = [call.weights(query, key, call.part(rows, seen)) for rows, seen, query, key in _xpos_blocks(call, **own)]
    return call.finish(parts[0] if len(parts) == 1 else np.concatenate(parts, -2))


def _xpos_score(query, key, *, num_heads, num_kv_heads, scale, base, interleaved, gamma, scale_base):
    """At one position rotations and factors cancel."""
    num_kv_heads = score_heads(query, key, num_heads, num_kv_heads)
    _rotary_dim(None, query.shape[-1] // num_heads)
    return plain_score(query, key, num_heads, num_kv_heads, scale)


@documented
def rope_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    base=10000.0,
    interleaved=False,
    rotary_dim=None,
    scaling=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention over queries and keys that are rotated by their positions.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
        Key j stands at position j, query i of L at ``i + (S - L)``.
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    base : float, default 10000.0
        At least 1, as in `rope`.
    interleaved : bool, default False
        Pairs are neighbours; when False, columns half a head apart.
    rotary_dim : int, optional
        Leading columns of each head that turn: even, at least 2, at most d; all when None.
    scaling : RopeScaling or mapping, optional
        Frequencies for long sequences; "dynamic" looks at S.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for heads of odd width where `rotary_dim` is not given.

    See Also
    --------
    rope : the rotation alone; a decoder's cache holds keys that it has rotated once.

    Notes
    -----
    ``softmax(scale * R(p) q_h . R(j) k_h) @ v_h`` for each head h, R(j) turning pair i by ``j * base ** (-2 i / d)``: logits
    depend on ``p - j`` alone. ``2 L S num_heads (d + dv)`` operations and O((L + S) num_heads d) for the rotations, which take
    memory for a second query and key. An output is off by at most ``u max|V| (8 + 21 kappa)``, kappa being
    ``scale * max sum |q_i| |k_i|`` over the pairs' lengths; in float64, frequencies round as well: see `rope`. From Su et al.
    2021 [1]_.

    References
    ----------
    .. [1] Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).random((3, 6, 16))
    >>> out = ruvector.rope_attention(query, key, value, num_heads=2, causal=True)
    >>> by_hand = ruvector.multi_head_attention(
    ...     *(np.hstack([ruvector.rope(x[:, :8]), ruvector.rope(x[:, 8:])]) for x in (query, key)), value, 2, causal=True
    ... )
    >>> bool(np.allclose(out, by_hand))
    True
    """
    call = get_attention(
        "rope",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        base=base,
        interleaved=interleaved,
        rotary_dim=rotary_dim,
        scaling=scaling,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def xpos_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    base=10000.0,
    interleaved=False,
    gamma=0.4,
    scale_base=512.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention with rotary positions whose products decay with the distance.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
        Key j stands at position j, query i of L at ``i + (S - L)``. d is even.
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    base : float, default 10000.0
        At least 1, as in `rope`.
    interleaved : bool, default False
        Pairs are neighbours, as in the paper's code; when False, columns half a head apart.
    gamma : float, default 0.4
        More than 0: the smaller, the faster the first pairs decay.
    scale_base : float, default 512.0
        At least 1: the distance over which pair i decays by zeta_i.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for heads of odd width.

    Notes
    -----
    Pair i of a rotated query at p and key at j is multiplied by ``zeta_i ** ((p - j) / scale_base)`` with
    ``zeta_i = (2 i / d + gamma) / (1 + gamma)``: ``softmax(scale * sum_i zeta_i ** ((p - j) / scale_base) R(p) q_i . R(j)
    k_i) @ v``. Made for causal attention: keys ahead of a query grow instead, to NaN in the end where they are seen.

    The two factors of a pair are taken from a place that moves along with the queries, so that sequences may have any
    length. ``2 L S num_heads (d + dv)`` operations, rotations of the keys for every ``8 * scale_base`` queries, and memory
    for a second query and key. Error as of `rope_attention`; in float64 the factors round as well. From Sun et al. 2022 [1]_.

    References
    ----------
    .. [1] Sun et al., A Length-Extrapolatable Transformer, arXiv:2212.10554

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).random((3, 6, 16))
    >>> ruvector.xpos_attention(query, key, value, num_heads=2, causal=True).shape
    (6, 16)
    """
    call = get_attention(
        "xpos",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        base=base,
        interleaved=interleaved,
        gamma=gamma,
        scale_base=scale_base,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _rope_fits(width, /, num_heads, num_kv_heads, **own):
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    _coerce.check_heads(num_heads, kv_heads, width, kv_heads)
    rope(np.zeros(width // num_heads), np.zeros(()), **own)


def _register():
    turning = (
        Parameter("base", "float", 10000.0, 1, None, "pair i turns by base^(-2i/d) radians a position"),
        Parameter("interleaved", "bool", False, 0, 1, "pairs are neighbouring columns; if not, half a head apart"),
    )
    add_type(
        AttentionRecord(
            name="rope",
            aliases=("rotary",),
            complexity="O(n\u00b2)",
            best_for="Language models, long contexts",
            family="position",
            parameters=(
                *HEADS,
                *turning,
                Parameter(
                    "rotary_dim", "int", None, 2, None, "leading columns of a head that turn, even; all when None"
                ),
                Parameter("scaling", "rope_scaling", None, None, None, "for long sequences: a RopeScaling or its keys"),
            ),
            reference="Su et al. 2021, RoFormer, arXiv:2104.09864",
        ),
        _rope_type,
        score=_rope_score,
        products=_rope_products,
        weights=_rope_weights,
        fits=_rope_fits,
    )
    add_type(
        AttentionRecord(
            name="xpos",
            aliases=(),
            complexity="O(n\u00b2)",
            best_for="Causal models, extrapolation to longer sequences",
            family="position",
            parameters=(
                *HEADS,
                *turning,
                Parameter("gamma", "float", 0.4, 0, None, "zeta_i = (2i/d + gamma) / (1 + gamma); positive"),
                Parameter(
                    "scale_base", "float", 512.0, 1, None, "products of pair i decay by zeta_i over this distance"
                ),
            ),
            reference="Sun et al. 2022, A Length-Extrapolatable Transformer, arXiv:2212.10554",
        ),
        _xpos_type,
        score=_xpos_score,
        products=plain_products,
        weights=_xpos_weights,
        fits=fits_of(_xpos_score),
    )


_register()
