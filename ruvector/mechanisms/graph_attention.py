"""The attention types gat and gatv2: queries are targets, keys sources."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _graph
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, Parameter, add_type
from ruvector.csr import MOST_EDGES, graph_of
from ruvector.mechanisms.graph import _MOST_HEADS, _shaped


def _edges_seen(graph, q_len, kv_len, mask, causal, apart):
    """The edges (starts, ends, indices) that a call's rows see, and the terms of a floating mask.

    Without a graph all pairs; `apart`: no two rows share positions, so that each edge has a place of its own.
    """
    offset = kv_len - q_len
    if mask is None and graph is None and not apart:
        ends = np.arange(offset + 1, kv_len + 1).clip(0, kv_len) if causal else np.full(q_len, kv_len)
        return np.zeros(q_len, np.int32), ends.astype(np.int32), np.arange(kv_len, dtype=np.int32), None
    if mask is None and graph is not None and not causal:
        return graph.indptr, graph.indptr[1:], graph.indices, None
    if graph is None:
        if q_len * kv_len > MOST_EDGES:
            raise ValueError(f"{q_len} queries and {kv_len} keys have more than {MOST_EDGES} pairs; pass an edge_index")
        row, source = np.divmod(np.arange(q_len * kv_len), max(kv_len, 1))
    else:
        row, source = np.repeat(np.arange(q_len), np.diff(graph.indptr)), graph.indices
    seen, terms = np.ones(len(row), bool), None
    if mask is not None:
        terms = np.broadcast_to(mask, (q_len, kv_len))[row, source]
        if terms.dtype == bool:
            seen, terms = terms, None
        else:
            seen = terms != -np.inf
    if causal:
        seen &= source <= row + offset
    starts = np.zeros(q_len + 1, np.int32)
    np.cumsum(np.bincount(row[seen], minlength=q_len), out=starts[1:])
    return starts, starts[1:], source[seen].astype(np.int32), None if terms is None else terms[seen]


def _columns(x, at, of):
    width = x.shape[1] // of
    return x[:, at * width : (at + 1) * width]


def _rows(a, at, of):
    return None if a is None else a[at * len(a) // of : (at + 1) * len(a) // of]


class _Heads:
    """The arguments of a type's call: heads are slices of the last axis, leading axes a batch of graphs."""

    __slots__ = ("query", "key", "value", "lead", "single", "dtype", "num_heads", "graph", "mask", "head_mask")

    def __init__(self, query, key, value, mask, num_heads, edge_index):
        if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
            _coerce.refuse_axes(query, key, value)
        self.single = query.ndim == 1
        query = query[None] if self.single else query
        if query.shape[-1] != key.shape[-1] or query.shape[-1] < 1 or key.shape[-2] != value.shape[-2]:
            _coerce.refuse_shapes(query, key, value, False, False)
        for x, name in ((query, "Query"), (value, "Value")):
            if x.shape[-1] % num_heads:
                raise ValueError(f"{name} dimension {x.shape[-1]} must be divisible by num_heads {num_heads}")
        shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
        self.lead = _coerce._broadcast([x.shape[:-2] for x in (query, key, value)], shapes)
        self.dtype, self.num_heads = query.dtype, num_heads
        q_len, kv_len = query.shape[-2], key.shape[-2]
        compute = _coerce.computed_in(self.dtype)
        batch = math.prod(self.lead)
        arrays = (
            np.broadcast_to(x, (*self.lead, *x.shape[-2:])).reshape(batch, *x.shape[-2:]) for x in (query, key, value)
        )
        self.query, self.key, self.value = (_coerce.plain(x, np.dtype(compute)) for x in arrays)
        self.mask, self.head_mask = None, False
        if mask is not None:
            mask = _coerce.fit_mask(mask, self.lead, q_len, kv_len, self.single, num_heads)
            masks = mask.shape[-3]
            self.head_mask = masks > 1
            self.mask = np.broadcast_to(mask, (*self.lead, masks, q_len, kv_len)).reshape(batch, masks, q_len, kv_len)
        self.graph = None if edge_index is None else graph_of(edge_index, kv_len, q_len, False, False)

    def run(self, version, vectors, slope, scale, causal, dropout, seed, out, weights=None):
        """Into out (batch, L, dv) and, where they are wanted, dense weights (batch, L, S), summed over heads."""
        a_target, a_source = (None if a is None else np.ascontiguousarray(a, out.dtype) for a in vectors)
        q_len, kv_len = self.query.shape[1], self.key.shape[1]
        seen = None
        for b in range(len(out)):
            if seen is None or self.mask is not None:
                masks = [None] if self.mask is None else self.mask[b]
                seen = [_edges_seen(self.graph, q_len, kv_len, mask, causal, weights is not None) for mask in masks]
            for group, (starts, ends, indices, terms) in enumerate(seen):
                # a mask of each head's own hides edges from that head alone
                part = (group, self.num_heads) if self.head_mask else (0, 1)
                heads = self.num_heads // part[1]
                each = None if weights is None else np.empty((len(indices), heads), out.dtype)
                _graph.attend(
                    version,
                    heads,
                    _columns(self.query[b], *part),
                    _columns(self.key[b], *part),
                    _columns(self.value[b], *part),
                    _columns(out[b], *part),
                    starts,
                    ends,
                    indices,
                    None,
                    _rows(a_target, *part),
                    _rows(a_source, *part),
                    None,
                    None,
                    None if terms is None else np.ascontiguousarray(terms, out.dtype),
                    None,
                    each,
                    False,
                    slope,
                    scale,
                    dropout,
                    seed + b * self.num_heads + group,
                )
                if each is not None:
                    place = np.repeat(np.arange(q_len) * kv_len, ends - starts[:q_len]) + indices
                    weights[b] += np.bincount(place, each.sum(1), q_len * kv_len).reshape(q_len, kv_len)

    def shaped(self, x):
        x = x.reshape(*self.lead, *x.shape[1:]).astype(self.dtype, copy=False)
        return x[..., 0, :] if self.single else x


def _vector(a, name, num_heads, width, seed):
    """A vector of the logits, (num_heads, width): fixed draws when nobody gave one."""
    if a is None:
        return glorot((num_heads, width), num_heads + width, seed)
    _shaped(a, (num_heads, width), name)
    return a


# What the two types differ in: version, then (a_target, a_source) of their parameters for heads of `width`.


def _gat_vectors(num_heads, width, a_src, a_dst):
    return _vector(a_dst, "a_dst", num_heads, width, 2), _vector(a_src, "a_src", num_heads, width, 1)


def _gatv2_vectors(num_heads, width, a):
    return None, _vector(a, "a", num_heads, width, 2)


def _type(version, vectors):
    """What `add_type` asks of a type."""

    def prepare(query, key, value, mask, num_heads, edge_index, own):
        call = _Heads(query, key, value, mask, num_heads, edge_index)
        return call, vectors(num_heads, query.shape[-1] // num_heads, **own)

    def attend(
        query, key, value, *, mask, causal, scale, dropout, training, rng, num_heads, edge_index, negative_slope, **own
    ):
        call, pair = prepare(query, key, value, mask, num_heads, edge_index, own)
        dropout = dropout if training else 0.0
        seed = _coerce.dropout_seed(rng) if dropout else 0
        out = np.empty((len(call.query), call.query.shape[1], call.value.shape[2]), call.query.dtype)
        call.run(version, pair, negative_slope, 1.0 if scale is None else scale, causal, dropout, seed, out)
        return call.shaped(out)

    def score(query, key, *, scale, num_heads, edge_index, negative_slope, **own):
        if query.ndim < 1 or key.ndim < 1 or query.shape[-1] != key.shape[-1]:
            raise ValueError(f"Query and key dimensions must match: shapes {query.shape} and {key.shape}")
        width = query.shape[-1]
        if width % num_heads or width == 0:
            raise ValueError(f"Query dimension {width} must be divisible by num_heads {num_heads}")
        target, source = vectors(num_heads, width // num_heads, **own)
        q, k = (x.astype(np.float64).reshape(*x.shape[:-1], num_heads, -1) for x in (query, key))
        if version == 1:
            logits = (target * q).sum(-1) + (source * k).sum(-1)
            logits = np.where(logits > 0, logits, negative_slope * logits)
        else:
            sums = q + k
            logits = (source * np.where(sums > 0, sums, negative_slope * sums)).sum(-1)
        return (logits.mean(-1) * (1.0 if scale is None else scale)).astype(query.dtype)[()]

    def weights(query, keys, mask, *, causal, scale, num_heads, edge_index, negative_slope, **own):
        call, pair = prepare(query, keys, keys[..., :0], mask, num_heads, edge_index, own)
        sums = np.zeros((len(call.query), call.query.shape[1], call.key.shape[1]))
        out = np.empty((*sums.shape[:2], 0), call.query.dtype)
        call.run(version, pair, negative_slope, 1.0 if scale is None else scale, causal, 0.0, 0, out, sums)
        return call.shaped(sums / num_heads)

    def fits(width, /, **own):
        score(np.zeros(width), np.zeros(width), scale=None, **own)

    return {"fn": attend, "score": score, "weights": weights, "fits": fits}


_NUM_HEADS = Parameter(
    "num_heads", "int", 8, 1, _MOST_HEADS, "slices of the last axis that attend on their own; divides it"
)
_EDGES = Parameter(
    "edge_index",
    "graph",
    None,
    None,
    None,
    "edges, keys then queries, shape (2, E), or a CSRGraph; all pairs when None",
)
_SLOPE = Parameter("negative_slope", "float", 0.2, None, None, "of LeakyReLU, where its argument is not positive")


def _vector_parameter(name, what):
    text = f"what weighs {what}, shape (num_heads, head_dim); the fixed draws of a GATLayer when None"
    return Parameter(name, "array", None, None, None, text)


add_type(
    AttentionRecord(
        "gat",
        (),
        "O(E)",
        "Graph-structured data",
        "graph",
        (_NUM_HEADS, _EDGES, _vector_parameter("a_src", "keys"), _vector_parameter("a_dst", "queries"), _SLOPE),
        "Velickovic et al. 2018, Graph Attention Networks, arXiv:1710.10903",
    ),
    **_type(1, _gat_vectors),
)
add_type(
    AttentionRecord(
        "gatv2",
        (),
        "O(E)",
        "Graphs where each query ranks its keys by itself",
        "graph",
        (_NUM_HEADS, _EDGES, _vector_parameter("a", "their activated sum"), _SLOPE),
        "Brody et al. 2022, How Attentive are Graph Attention Networks?, arXiv:2105.14491",
    ),
    **_type(2, _gatv2_vectors),
)
