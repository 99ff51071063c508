"""Oracle of axial attention, from its definition; the helpers are those of `reference`, to whose table of types it adds itself."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import reference
from reference import Expected, wide


@dataclass
class AxialExpected(Expected):
    """Two passes: `inner` is the error of the values of the second, averaged by its weights."""

    inner: np.ndarray
    extra: np.ndarray  # of the weights: those of the first pass

    def bound(self):
        """That of the second pass and of its merged states, and the errors that the values bring."""
        return super().bound() + reference.unit(self.dtype) * self.peak + self.inner


def axial(query, key, value, *, height=None, width=None, mode="sequential", mask=None, causal=False, scale=None):
    """y[p] = softmax over the row of p; z[p] = softmax over the column of p, of y. Causal: y of rows above whole, of p's own up to p."""
    kv_len = np.shape(key)[-2]
    columns = width or math.ceil(kv_len / height if height else math.sqrt(kv_len)) or 1
    if mode == "joint":
        return reference.seen_by(
            lambda p, j, *_: (p // columns == j // columns) | (p % columns == j % columns),
            query,
            key,
            value,
            mask,
            causal,
            scale,
        )
    query, single = reference.as_rows(query)
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    dtype = reference.common_dtype(query, key, value)
    q_len, offset = query.shape[-2], kv_len - query.shape[-2]
    p, j = np.arange(q_len)[:, None] + offset, np.arange(kv_len)
    row, column = p // columns == j // columns, p % columns == j % columns
    visible, bias = reference.split_mask(mask)
    if bias is not None:
        visible = ~np.isneginf(np.asarray(bias))
    visible = np.broadcast_to(visible, (*np.shape(visible)[:-2], q_len, kv_len))
    # queries that stand at a key, and those that see something of their row
    at = np.flatnonzero(p[:, 0] >= 0)
    shown = np.ones((*visible.shape[:-2], 1, kv_len), bool)
    shown[..., 0, p[at, 0]] = (visible & row).any(-1)[..., at]
    values, errors, firsts, keys, masks = [], [], [], [], []
    for seen, take in ((row & (j <= p), p == j), (row, column & (j < p))) if causal else ((row, column),):
        first = reference.attend(query, key, value, seen & visible, bias, scale)
        y = np.broadcast_to(wide(value, dtype), (*first.out.shape[:-2], kv_len, first.out.shape[-1])).copy()
        error, weights = np.zeros(y.shape), np.zeros((*first.weights.shape[:-2], kv_len, kv_len))
        weights[...] = np.eye(kv_len)
        inexact = dataclasses.replace(first, dtype=reference.unit_dtype(dtype)).bound()
        for to, given in ((y, first.out), (error, inexact), (weights, first.weights)):
            to[..., p[at, 0], :] = given[..., at, :]
        values.append(y)
        errors.append(error)
        firsts.append((first, weights))
        keys.append(np.asarray(key))
        masks.append(np.broadcast_to(take & visible & shown, (*visible.shape[:-2], q_len, kv_len)))
    times = len(values)
    values, errors = np.concatenate(values, -2), np.concatenate(errors, -2)
    # values that a query does not see may be anything, their errors too
    errors = np.where(np.isfinite(errors), errors, 0)
    bias = None if bias is None else np.tile(np.broadcast_to(bias, (*np.shape(bias)[:-2], q_len, kv_len)), times)
    second = reference.attend(
        query, np.concatenate(keys, -2), values, np.concatenate(masks, -1), bias, scale, dtype=dtype
    )
    down = np.split(second.weights, times, -1)
    weights = sum(c @ w for c, (_, w) in zip(down, firsts))
    logit = math.ceil(second.dim / 16) + 5 + 3
    kappa = max(np.max(first.kappa, initial=0) for first, _ in firsts)
    fields = {name.name: getattr(second, name.name) for name in dataclasses.fields(Expected)} | {
        "weights": weights,
        "visible": weights > 0,
    }
    extra = np.full(second.kappa.shape, 8 + 2 * logit * float(kappa) + kv_len / columns + 2)
    result = AxialExpected(**fields, inner=second.weights @ errors, extra=extra)
    if single:
        arrays = ("out", "peak", "weights", "visible", "inner")
        result = dataclasses.replace(
            result,
            **{n: getattr(result, n)[..., 0, :] for n in arrays},
            **{n: getattr(result, n)[..., 0] for n in ("lse", "kappa", "extra")},
        )
    return result


reference.TYPES["axial"] = axial
