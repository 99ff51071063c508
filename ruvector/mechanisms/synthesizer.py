"""Attention whose logits come from the query alone, or from nothing but the positions: Synthesizer."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._options import flag
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector.mechanisms.dense import Form, type_of
from ruvector.mechanisms.weights import _ONE, _described, softmax_rows

# Numbers that nobody gave are those of rv_draw_run with this seed and the ones after it.
_SEED = 42


def _shaped(x, name, shape, keys):
    """A matrix whose last axis is as long as the longest sequence, or fixed where `keys` is None."""
    if x.ndim != len(shape) or x.shape[:-1] != shape[:-1] or (x.shape != shape if keys is None else x.shape[-1] < keys):
        last = shape[-1] if keys is None else f"at least {keys}"
        expected = ", ".join(map(str, (*shape[:-1], last)))
        raise ValueError(f"{name} must have shape ({expected}{'' if len(shape) > 1 else ','}), got {x.shape}")
    return x


def _dense(call, max_length, w1, b1, w2, b2):
    width, keys = call.query.shape[-1], call.kv_len
    if w1 is None:
        hidden = width if w2 is None or w2.ndim < 1 else len(w2)
        w1 = glorot((width, hidden), width + hidden, _SEED)
    if w1.ndim != 2 or len(w1) != width:
        raise ValueError(f"w1 must have shape ({width}, hidden), got {w1.shape}")
    hidden = w1.shape[1]
    w2 = glorot((hidden, max_length), hidden + max_length, _SEED + 1) if w2 is None else w2
    _shaped(w2, "w2", (hidden, keys), keys)
    if b1 is not None:
        _shaped(b1, "b1", (hidden,), None)
    if b2 is not None:
        _shaped(b2, "b2", w2.shape[1:], None)
    scale, dtype = call.scale, call.query.dtype
    layer = _coerce.matmul(call.query, w1.astype(dtype))
    with np.errstate(all="ignore"):
        layer = np.maximum(layer if b1 is None else layer + b1.astype(dtype), 0)
    layer = np.broadcast_to(layer, (*call.lead, *layer.shape[-2:]))
    columns = np.ascontiguousarray(w2.T, dtype)
    b2 = None if b2 is None else (b2 * scale).astype(dtype)

    def logits(block):
        logits = _primitives.scores(layer[block.batch][block.rows], columns[block.keys], scale)[None]
        if b2 is not None:
            with np.errstate(all="ignore"):
                logits += b2[block.keys]
        return logits

    return Form(logits, softmax_rows)


def _random(call, max_length, table):
    ahead = call.kv_len - call.q_len
    if ahead < 0 and call.kv_len:
        raise ValueError(
            f"kind='random' has logits of positions from the first key on: {call.q_len} queries, {call.kv_len} keys"
        )
    table = glorot((max_length, max_length), 2 * max_length, _SEED + 2) if table is None else table
    if table.ndim != 2 or min(table.shape) < call.kv_len:
        raise ValueError(f"table must have shape (n, n) with n at least {call.kv_len}, got {table.shape}")
    # in the arithmetic's type once, not block by block
    table = (table[max(ahead, 0) : call.kv_len, : call.kv_len] * call.scale).astype(call.query.dtype)
    return Form(lambda block: table[None, block.rows, block.keys].copy(), softmax_rows)


def _synthesizer(call, kind, max_length, w1, b1, w2, b2, table):
    drawn = table is None if kind == "random" else w2 is None
    if drawn and call.kv_len > max_length:
        raise ValueError(f"max_length must be at least the number of keys, {call.kv_len}, got {max_length}")
    of_other = {"table": table} if kind == "dense" else {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    for name, x in of_other.items():
        if x is not None:
            raise ValueError(f"kind={kind!r} takes no {name}")
    return _dense(call, max_length, w1, b1, w2, b2) if kind == "dense" else _random(call, max_length, table)


@_described(_ONE)
def synthesizer_attention(
    query,
    key,
    value,
    kind="dense",
    *,
    max_length=1024,
    w1=None,
    b1=None,
    w2=None,
    b2=None,
    table=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention whose logits are no products: ``softmax(relu(query @ w1 + b1) @ w2 + b2) @ value``, or ``softmax(table) @ value``.

    Key j has the logit of column j; of a `table`, query i of L the row of its position, ``i + (S - L)``. Keys only say how many there are.

    Parameters
    ----------
    {arrays}
    kind : {"dense", "random"}, default "dense"
        The logits of a network on each query, or the same table for all.
    max_length : int, default 1024
        Columns, and rows of a table, of what is drawn: the longest sequence; from 1 to 65536. What is given has its own.
    w1 : array_like, shape (d, hidden), optional
        When None, numbers of SplitMix64, seed 42, uniform in ``+-sqrt(6 / (rows + columns))``, hidden as `w2` has it, or d.
    b1 : array_like, shape (hidden,), optional
        0 when None.
    w2 : array_like, shape (hidden, n), optional
        Drawn like `w1` with the seed 43 when None.
    b2 : array_like, shape (n,), optional
        0 when None.
    table : array_like, shape (n, n), optional
        Of "random" alone; drawn with the seed 44 when None.
    {common}

    {rest}
        ValueError for more keys than there are columns, for matrices of the other kind, and for more queries than keys with "random".

    Notes
    -----
    O(L S (hidden + dv)) time and O(S) memory besides the matrices; for "random" O(L S dv). It is slower than softmax attention at any
    length. The paper's mixtures are sums of logits: a `mask` of floats adds others. From Tay et al. 2021 [1]_.

    References
    ----------
    .. [1] Tay et al., Synthesizer: Rethinking Self-Attention in Transformer Models, arXiv:2005.00743

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, value = np.ones((2, 3)), np.array([[1.0], [0.0]])
    >>> ruvector.synthesizer_attention(x, x, value, "random", table=[[1.0, 0.0], [0.0, 0.0]]).round(4)
    array([[0.7311],
           [0.5   ]])
    """
    own = {"kind": kind, "max_length": max_length, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "table": table}
    call = get_attention("synthesizer", causal=causal, scale=scale, dropout=dropout, **own)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _register():
    array = ("array", None, None, None)
    add_type(
        AttentionRecord(
            "synthesizer",
            (),
            "O(n\u00b2)",
            "Sequences of one layout, whatever is in them",
            "weights",
            (
                Parameter("kind", "dense|random", "dense", None, None, "a network on each query, or a table"),
                Parameter("max_length", "int", 1024, 1, 65536, "columns of what is drawn"),
                Parameter("w1", *array, "(d, hidden); fixed when None"),
                Parameter("b1", *array, "(hidden,); 0 when None"),
                Parameter("w2", *array, "(hidden, n); fixed when None"),
                Parameter("b2", *array, "(n,); 0 when None"),
                Parameter("table", *array, "(n, n), of kind random; fixed when None"),
            ),
            "Tay et al. 2021, Synthesizer, arXiv:2005.00743",
        ),
        type_of(_synthesizer, unit_scale=True)["fn"],
    )


_register()
