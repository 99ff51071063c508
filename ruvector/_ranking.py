"""The k best rows of a table for queries: scores of any type, ties, NaN, weights. Index and retrieval stand on it."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._moe import top_k_gating, topk
from ruvector._options import number
from ruvector._registry import (
    AttentionType,
    get_attention,
    head_counts,
    offset_of,
    products_of,
    record_of,
    score_is_share,
    score_of,
    table_of,
    weighs_itself,
)
from ruvector._scores import attention_score, attention_scores, score_options

# Scores that are held at a time, and rows that a score function of Python sees at once: its temporaries have their width.
HELD = 1 << 22
SEEN = 1 << 14
WEIGHTS = ("table", "results")


def heads_that_fit(dim, num_heads):
    """ValueError unless num_heads divides the width."""
    if dim % num_heads:
        raise ValueError(f"Query dimension {dim} must be divisible by num_heads {num_heads}")


def count_of(k, name="k"):
    """An integer of at least 1."""
    k = number(k, name, whole=True)
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}")
    return k


def choice_of(weights):
    """``"table"``, ``"results"`` or None."""
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"weights must be 'table', 'results' or None, got {weights!r}")
    return weights


def aligned(shape, dtype):
    """An uninitialised array that starts on a cache line: vectors that lie on two lines take two loads, which halves products."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


class Scorer:
    """How a type scores queries with the rows of a table of a width: by products in the core, or by the type's own function."""

    __slots__ = (
        "type",
        "dim",
        "query_dim",
        "num_heads",
        "num_kv_heads",
        "inner",
        "factor",
        "softcap",
        "hyperbolic",
        "options",
        "offset",
        "weighs",
    )

    def __init__(self, attention_type, dim, params):
        call = score_options(attention_type, params)
        given = {**(attention_type.params if isinstance(attention_type, AttentionType) else {}), **params}
        self.type = AttentionType(call.name, **given)
        self.dim = dim
        self.options = {"scale": None, **{k: v for k, v in call.params.items() if k not in ("causal", "dropout")}}
        self.hyperbolic = record_of(call.name).family == "hyperbolic"
        self.weighs, self.offset, products = weighs_itself(call.name), offset_of(call.name), products_of(call.name)
        whole = call
        if products is not None:
            plain = products(**self.options)
            call = whole if plain is None else get_attention(plain)
        self.inner = score_of(call.name) is None
        own = call.params
        if self.inner:
            self.num_heads, self.num_kv_heads = head_counts(call.name, own)
        else:
            self.num_heads = own.get("num_heads", 1)
            self.num_kv_heads = own.get("num_kv_heads") or self.num_heads
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be divisible by num_kv_heads {self.num_kv_heads}")
        if self.num_heads == self.num_kv_heads:
            heads_that_fit(dim, self.num_heads)
        elif dim % self.num_kv_heads:
            raise ValueError(f"dim {dim} must be divisible by num_kv_heads {self.num_kv_heads}")
        self.query_dim = dim // self.num_kv_heads * self.num_heads
        scale = own.get("scale")
        # the mean over heads of scaled products is one product, scaled once more
        self.factor = (1 / math.sqrt(dim // self.num_kv_heads) if scale is None else scale) / self.num_heads
        self.softcap = own.get("softcap", 0.0)
        whole._fits(self.query_dim)

    def queries(self, queries, dtype, name="queries"):
        """Queries (m, width) in the type of the arithmetic on a table of `dtype`, and the axes before the last."""
        queries = _coerce.array(queries, name)
        if queries.ndim < 1:
            raise ValueError(f"{name} must have shape (..., {self.query_dim}), got {queries.shape}")
        if queries.shape[-1] != self.query_dim:
            raise ValueError(f"Query and key dimensions must match: {queries.shape[-1]} vs {self.query_dim}")
        rows = aligned((math.prod(queries.shape[:-1]), self.query_dim), _coerce.computed_in(dtype))
        with np.errstate(over="ignore"):
            rows[...] = queries.reshape(rows.shape)
        return rows, queries.shape[:-1]

    def scores(self, queries, rows):
        """Scores (m, n); of products the bits of a pair depend on nothing else."""
        if self.inner:
            shared = queries
            if self.num_heads > self.num_kv_heads:
                groups = self.num_kv_heads, self.num_heads // self.num_kv_heads, self.dim // self.num_kv_heads
                shared = queries.reshape(-1, *groups).sum(2, dtype=np.float64)
                shared = shared.reshape(-1, self.dim).astype(queries.dtype)
            scores = _primitives.scores(shared, rows, self.factor)
            if self.offset is not None:
                scores += self.offset(queries, **self.options)
            return self.softcap * np.tanh(scores / self.softcap) if self.softcap else scores
        scores = np.empty((len(queries), len(rows)), queries.dtype)
        table = table_of(self.type.name)
        if table is not None:
            with np.errstate(all="ignore"):
                for first in range(0, len(rows), SEEN):
                    pair = _coerce.pair(queries, rows[first : first + SEEN], "query", "key")
                    scores[:, first : first + SEEN] = table(*pair, **self.options)
            return scores
        for query, out in zip(queries, scores):
            for first in range(0, len(rows), SEEN):
                out[first : first + SEEN] = attention_score(query, rows[first : first + SEEN], self.type)
        return scores

    def check(self, rows, name):
        """ValueError for rows that are no points of a hyperbolic type's space."""
        if self.hyperbolic and len(rows):
            try:
                attention_score(rows, rows, self.type)
            except ValueError as error:
                raise ValueError(str(error).replace("query", name, 1)) from None

    def weights(self, queries, rows, scores):
        """Mean over heads of the weights (m, n), at equal positions; rows whose score is NaN are hidden."""
        if self.weighs:
            name, own = self.type.name, {k: v for k, v in self.options.items() if v is not None}
        else:
            name, own = "multi_head", {"num_heads": self.num_heads, "scale": self.factor * self.num_heads}
            if self.num_heads > self.num_kv_heads:
                name = "grouped_query"
                own["num_kv_heads"] = self.num_kv_heads
        weights, step = np.empty(scores.shape, scores.dtype), max(1, HELD // (len(rows) * self.num_heads))
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            hidden = np.isnan(scores[part])
            weights[part] = attention_scores(queries[part], rows, name, mask=~hidden if hidden.any() else None, **own)
        return weights

    @property
    def split(self):
        """Whether the weights are means over heads, so that they are no function of the scores."""
        return (self.inner or self.weighs) and self.num_heads > 1


def best(scores, k):
    """The k largest of each row and their places: ties by the lower place, NaN behind every number."""
    values, places = topk(scores, k)
    for i in np.flatnonzero(np.isnan(values[:, 0])):
        values[i], places[i] = topk(np.where(np.isnan(scores[i]), -np.inf, scores[i]), k)
        if not values[i, -1] > -np.inf:
            places[i] = np.argsort(-scores[i], kind="stable")[:k]
            values[i] = scores[i, places[i]]
    return values, places


def _weights_of(scorer, queries, rows, scores, values, places, weights):
    """Weights (m, k) of what `best` found: over the table or over the results; rows whose score is NaN have none."""
    if scorer.split or scorer.weighs:
        if weights == "table":
            return np.take_along_axis(scorer.weights(queries, rows, scores), places, -1)
        parts = [scorer.weights(queries[i : i + 1], rows[at], values[i : i + 1]) for i, at in enumerate(places)]
        return np.concatenate(parts)
    bad = np.isnan(scores)
    if bad.any():
        scores = np.where(bad, -np.inf, scores)
    if score_is_share(scorer.type.name):
        shares = np.where(np.isnan(values), 0, values.astype(np.float64))
        total = shares if weights == "results" else np.where(bad, 0, scores)
        with np.errstate(all="ignore"):
            return (shares / total.sum(-1, keepdims=True, dtype=np.float64)).astype(values.dtype)
    found = top_k_gating(scores, places.shape[-1], normalize=weights == "results")[1]
    found[~(values[:, 0] > -np.inf)] = 0
    return found


def rank(scorer, queries, rows, k, weights, only=None):
    """Places (m, at most k), scores and weights of the k best rows; `only`: of these rows, whose places are counted among them."""
    count = len(rows) if only is None else len(only)
    k, dtype = min(k, count), queries.dtype
    places = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), dtype)
    shares = np.empty((len(queries), k), dtype) if weights is not None else None
    if k == 0:
        return places, values, shares
    step = max(1, HELD // len(rows))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        scores = scorer.scores(queries[part], rows)
        if only is not None:
            scores = scores[:, only]
        values[part], places[part] = best(scores, k)
        if shares is not None:
            shares[part] = _weights_of(scorer, queries[part], rows, scores, values[part], places[part], weights)
    return places, values, shares
