"""The public functions of the dense core, one for each type that users call by name."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector._attention import scaled_dot_product_attention as scaled_dot_product_attention
from ruvector._docstrings import documented
from ruvector._options import flag
from ruvector._registry import get_attention
from ruvector._scores import attention_score as attention_score
from ruvector._scores import attention_scores as attention_scores
from ruvector._states import AttentionState as AttentionState
from ruvector._states import merge_states as merge_states
from ruvector._states import partial_attention as partial_attention
from ruvector._varlen import varlen_attention as varlen_attention


@documented
def attention(
    query, key, value, attention_type="scaled_dot", *, mask=None, training=False, rng=None, out=None, **params
):
    """Attention of any type of `attention_types`, by name.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
        Leading axes are batch axes and broadcast.
    attention_type : str or AttentionType, default "scaled_dot"
    mask : array_like, optional
        Broadcasts to ``(..., L, S)``. Boolean: True = attend. Floating: added to the logits; -inf hides. Types with heads
        also take ``(..., H, L, S)``.
    training : bool, default False
        Dropout works only when True.
    rng : numpy.random.Generator or seed, optional
        Needed by dropout.
    out : ndarray, optional
        Where the result goes.
    **params
        The type's own parameters, and `causal`, `scale`, `dropout`.

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    UnknownAttentionType
        If no type has that name.
    TypeError
        For an option the type does not have, or a dtype that is not real.
    ValueError
        For shapes that do not fit and values out of range.

    See Also
    --------
    get_attention : resolves the name once, for many calls.

    Notes
    -----
    Cost as `attention_types` states for each type.

    Examples
    --------
    >>> import ruvector
    >>> keys, values = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    >>> ruvector.attention([1.0, 0.0], keys, values, "scaled_dot").round(4)
    array([1.9907, 2.9907, 3.9907])
    """
    call = get_attention(attention_type, **params)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _project(x, weight, bias, name):
    """``x @ weight + bias`` with checks."""
    if weight is not None:
        weight = _coerce.array(weight, f"w_{name}")
        if weight.ndim != 2 or weight.shape[0] != x.shape[-1]:
            raise ValueError(f"w_{name} must have shape ({x.shape[-1]}, out), got {weight.shape}")
        x = np.matmul(x, weight)
    if bias is not None:
        bias = _coerce.array(bias, f"b_{name}")
        if bias.shape != (x.shape[-1],):
            raise ValueError(f"b_{name} must have shape ({x.shape[-1]},), got {bias.shape}")
        x = x + bias
    return x


@documented
def multi_head_attention(
    query,
    keys,
    values,
    num_heads,
    *,
    w_q=None,
    w_k=None,
    w_v=None,
    w_o=None,
    b_q=None,
    b_k=None,
    b_v=None,
    b_o=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention: slices of the last axis attend on their own and are concatenated.

    Parameters
    ----------
    query : array_like, shape (..., L, D) or (D,)
    keys : array_like, shape (..., S, D)
    values : array_like, shape (..., S, Dv)
    num_heads : int
        From 1 to 1024; divides D and Dv (after projection).
    w_q, w_k, w_v, w_o : array_like, shape (in, out), optional
        Projections ``x @ w`` of query, keys, values and of the concatenated heads; identity when None.
    b_q, b_k, b_v, b_o : array_like, shape (out,), optional
        Added after the projection.
    {common}

    Returns
    -------
    ndarray, shape (..., L, Dv), or (Dv,) for a single query

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For shapes that do not fit, such as a width that num_heads does not divide.

    Notes
    -----
    ``softmax(scale * Q_h @ K_h.T) @ V_h`` of the columns of each head h of ``Q = query @ w_q + b_q`` and so on, concatenated,
    ``@ w_o + b_o``. ``2 L S (D + Dv)`` operations and the projections, which are NumPy's matmul. From Vaswani et al. 2017 [1]_.

    References
    ----------
    .. [1] Vaswani et al., Attention Is All You Need, arXiv:1706.03762

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    >>> keys = [query, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]
    >>> values = [np.arange(1.0, 9.0), np.arange(8.0, 0.0, -1.0)]
    >>> ruvector.multi_head_attention(query, keys, values, 4).round(4)
    array([3.3117, 3.6512, 4.5   , 4.5   , 4.6698, 5.0093, 4.5   , 4.5   ])
    """
    call = get_attention("multi_head", num_heads=num_heads, causal=causal, scale=scale, dropout=dropout)
    training = flag(training, "training")
    query, keys, values = _coerce.plural(query, keys, values)
    if w_q is None and w_k is None and w_v is None and w_o is None and b_q is b_k is b_v is b_o is None:
        return call(query, keys, values, mask=mask, training=training, rng=rng, out=out)
    query, keys, values = _coerce.inputs(query, keys, values)
    if query.ndim < 1 or keys.ndim < 2 or values.ndim < 2:
        _coerce.refuse_axes(query, keys, values)
    query, keys, values = _project(query, w_q, b_q, "q"), _project(keys, w_k, b_k, "k"), _project(values, w_v, b_v, "v")
    if w_o is None and b_o is None:
        return call(query, keys, values, mask=mask, training=training, rng=rng, out=out)
    if w_o is not None and np.shape(w_o)[:1] != values.shape[-1:]:
        raise ValueError(f"w_o must have shape ({values.shape[-1]}, out), got {np.shape(w_o)}")
    result = _project(call(query, keys, values, mask=mask, training=training, rng=rng), w_o, b_o, "o")
    if out is None:
        return result
    _coerce._check_output(out, result.shape, result.dtype)
    out[...] = result
    return out


@documented
def flash_attention(
    query,
    keys,
    values,
    block_size=64,
    *,
    block_size_q=None,
    block_size_kv=None,
    mask=None,
    causal=False,
    scale=None,
    softcap=0.0,
    dropout=0.0,
    training=False,
    rng=None,
    return_lse=False,
    out=None,
):
    """Exact attention in blocks with an online softmax: no score matrix in memory.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    keys : array_like, shape (..., S, d)
    values : array_like, shape (..., S, dv)
    block_size : int, default 64
        Queries of a tile and keys of a score block: at least 1, at most what the kernel holds (its own tile; 256 keys). It
        moves rounding within the bound, and speed.
    block_size_q, block_size_kv : int, optional
        The same for queries and keys apart; 0 and None take `block_size`.
    {common}
    softcap : float, default 0.0
        Logits become ``softcap * tanh(logits / softcap)``; 0 leaves them.
    return_lse : bool, default False
        Also return the log-sum-exp of the logits.

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
    lse : ndarray, shape (..., L), float64
        With `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(softcap(scale * query @ keys.T)) @ values``: for each block of keys the running maximum, sum and output are
    scaled by ``exp(old maximum - new maximum)``. ``2 L S (d + dv)`` operations, O(block) memory a thread. From Dao 2023 [1]_;
    every kernel of the dense core works this way, `scaled_dot_product_attention` included.

    References
    ----------
    .. [1] Dao, FlashAttention-2, arXiv:2307.08691

    Examples
    --------
    >>> import ruvector
    >>> keys, values = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], [[10.0], [20.0], [30.0], [40.0]]
    >>> ruvector.flash_attention([1.0, 0.0], keys, values, 2).round(4)
    array([21.8668])
    """
    options = {"block_size": block_size, "causal": causal, "scale": scale, "softcap": softcap, "dropout": dropout}
    if block_size_q is not None:
        options["block_size_q"] = block_size_q
    if block_size_kv is not None:
        options["block_size_kv"] = block_size_kv
    call = get_attention("flash_v2", **options)
    training = flag(training, "training")
    query, keys, values = _coerce.plural(query, keys, values)
    if flag(return_lse, "return_lse"):
        return call._attend(query, keys, values, mask, training, rng, out)
    return call(query, keys, values, mask=mask, training=training, rng=rng, out=out)


@documented
def scaled_dot_attention(
    query,
    key,
    value,
    *,
    softcap=0.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Scaled dot-product attention with batch axes: ``softmax(scale * query @ key.T) @ value``.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    softcap : float, default 0.0
        Logits become ``softcap * tanh(logits / softcap)``; 0 leaves them.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``2 L S (d + dv)`` operations. From Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.scaled_dot_attention([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[1.0], [4.0]]).round(4)
    array([1.9907])
    """
    call = get_attention("scaled_dot", softcap=softcap, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def cross_attention(
    query, key, value, *, mask=None, causal=False, scale=None, dropout=0.0, training=False, rng=None, out=None
):
    """Attention of one sequence over another: queries from one source, keys and values from a second.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * query @ key.T) @ value``: ``2 L S (d + dv)`` operations. From Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> ruvector.cross_attention(rng.random((3, 4)), rng.random((9, 4)), rng.random((9, 2))).shape
    (3, 2)
    """
    call = get_attention("cross", causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def self_attention(x, *, mask=None, causal=False, scale=None, dropout=0.0, training=False, rng=None, out=None):
    """Attention of a sequence over itself: queries, keys and values are the rows of x.

    Parameters
    ----------
    x : array_like, shape (..., L, d)
    {common}

    Returns
    -------
    ndarray, shape (..., L, d)

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for an `x` with fewer than two axes.

    Notes
    -----
    ``softmax(scale * x @ x.T) @ x``: ``4 L L d`` operations. From Cheng et al. 2016, arXiv:1601.06733, and Vaswani et al. 2017,
    arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.self_attention(np.eye(3)).shape
    (3, 3)
    """
    x = _coerce.array(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x must have shape (..., L, d), got {x.shape}")
    call = get_attention("self", causal=causal, scale=scale, dropout=dropout)
    return call(x, x, x, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def causal_attention(query, key, value, *, mask=None, scale=None, dropout=0.0, training=False, rng=None, out=None):
    """Attention that never sees the future: query i of L sees keys ``j <= i + (S - L)``.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    mask : array_like, optional
        Broadcasts to ``(..., L, S)``; boolean or floating; composes with causality.
    scale : float, optional
    dropout : float, default 0.0
    training : bool, default False
    rng : numpy.random.Generator or seed, optional
    out : ndarray, optional

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * query @ key.T)``, the future hidden, ``@ value``. Blocks above the diagonal are skipped: about half of the
    ``2 L S (d + dv)`` operations of full attention. The decoder's attention of Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(3)
    >>> ruvector.causal_attention(x, x, x)[0]
    array([1., 0., 0.])
    """
    call = get_attention("causal", scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def grouped_query_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=2,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention whose query heads share fewer key and value heads.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, default 2
        From 1 to 1024; divides num_heads: consecutive query heads share one. 1 is multi-query attention.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * q_h @ k_g.T) @ v_g`` for each query head h and the head ``g = h * num_kv_heads // num_heads`` of keys and
    values. ``2 L S num_heads (d + dv)`` operations; for few queries each key and value row is read once per group. From
    Ainslie et al. 2023, arXiv:2305.13245.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> ruvector.grouped_query_attention(rng.random((5, 64)), rng.random((7, 16)), rng.random((7, 16))).shape
    (5, 64)
    """
    call = get_attention(
        "grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def multi_query_attention(
    query,
    key,
    value,
    num_heads=8,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention whose query heads share one key and value head.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_heads : int, default 8
        From 1 to 1024; divides the width of the query.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    See Also
    --------
    grouped_query_attention : some key and value heads instead of one.

    Notes
    -----
    ``softmax(scale * q_h @ key.T) @ value`` for each slice q_h of the query. ``2 L S num_heads (d + dv)`` operations; for few
    queries each key and value row is read once for all heads. From Shazeer 2019 [1]_.

    References
    ----------
    .. [1] Shazeer, Fast Transformer Decoding: One Write-Head is All You Need, arXiv:1911.02150

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> ruvector.multi_query_attention(rng.random((5, 64)), rng.random((7, 8)), rng.random((7, 6))).shape
    (5, 48)
    """
    call = get_attention("multi_query", num_heads=num_heads, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def alibi_attention(
    query,
    key,
    value,
    num_heads=8,
    *,
    slopes=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention with linear biases: ``-slope * abs(distance)`` is added to the logits of each head.

    Parameters
    ----------
    query : array_like, shape (..., L, D) or (D,)
    key : array_like, shape (..., S, D)
    value : array_like, shape (..., S, Dv)
    num_heads : int, default 8
        From 1 to 1024; divides D and Dv.
    slopes : array_like, shape (num_heads,) or (..., num_heads), optional
        ``2 ** (-8 * h / num_heads)`` for h = 1 ... num_heads when None.
    {common}

    Returns
    -------
    ndarray, shape (..., L, Dv), or (Dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * q_h . k_h - slope_h * abs(p - j)) @ v_h`` for each head h, query i of L standing at ``p = i + (S - L)``.
    ``2 L S (D + Dv)`` operations. From Press et al. 2022, arXiv:2108.12409.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.random.default_rng(0).random((5, 16))
    >>> ruvector.alibi_attention(x, x, x, causal=True).shape
    (5, 16)
    """
    call = get_attention("alibi", num_heads=num_heads, slopes=slopes, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def sliding_window_attention(
    query,
    key,
    value,
    window_size=256,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Causal attention over the last `window_size` positions.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    window_size : int, default 256
        At least 1: query i of L at position ``p = i + (S - L)`` sees keys ``p - window_size < j <= p``.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * query @ key.T)``, keys outside the window hidden, ``@ value``. O(L window_size (d + dv)): blocks outside
    the window are skipped. The window of Jiang et al. 2023, arXiv:2310.06825;
    `causal` changes nothing, since the window ends at the query.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(4)
    >>> ruvector.sliding_window_attention(x, x, x, 1)[2]
    array([0., 0., 1., 0.])
    """
    call = get_attention("sliding_window", window_size=window_size, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def local_attention(
    query,
    key,
    value,
    window_size=256,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention over a window centred on the query.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    window_size : int, default 256
        At least 1: query i of L at position ``p = i + (S - L)`` sees keys with ``abs(p - j) <= window_size // 2``.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * query @ key.T)``, keys outside the window hidden, ``@ value``. O(L window_size (d + dv)): blocks outside
    the window are skipped. The window of Beltagy et al. 2020, arXiv:2004.05150.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(4)
    >>> ruvector.local_attention(x, x, x, 1)[2]
    array([0., 0., 1., 0.])
    """
    call = get_attention("local", window_size=window_size, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)
