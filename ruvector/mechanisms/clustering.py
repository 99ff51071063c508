"""Attention inside clusters, routing, and by the means of clusters, clustered."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce
from ruvector._attention import scaled_dot_product_attention as attend
from ruvector._moe import topk
from ruvector._options import number
from ruvector._primitives import softmax
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import documented
from ruvector.mechanisms import _rows


def _layer_norm(x):
    """Rows less their mean, divided by their deviation; constant rows become 0."""
    x = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((x * x).mean(-1, keepdims=True))
    return x / np.where(deviation > 0, deviation, 1)


def _centroids(given, count, width, own, dtype):
    """Directions of the clusters (C, d)."""
    if given is None:
        return _rows.unit(_rows.normal(own, count, width, dtype))
    if given.ndim != 2 or given.shape[-1] != width:
        raise ValueError(
            f"centroids must have shape (num_clusters, {width}), as wide as the queries, got {given.shape}"
        )
    return _rows.unit(given.astype(dtype))


def _members(x, centroids, count):
    """The `count` rows of each centroid's largest products, ascending: (N, C, count)."""
    return np.sort(topk(centroids @ np.swapaxes(x, -1, -2), count)[1], -1)


def _routing(
    query, key, value, *, mask, causal, scale, dropout, training, rng, num_clusters, cluster_size, centroids, normalize
):
    call = _rows.Rows(query, key, value, mask, "routing")
    length, keys, width = call.query.shape[1], call.key.shape[1], call.query.shape[-1]
    factor, own = _rows.scale_of(scale, width), _rows.seed(rng)

    def run(q, k, v, places):
        clusters = num_clusters or max(1, round(math.sqrt(len(places))))
        means = _centroids(centroids, clusters, width, own, q.dtype)
        with np.errstate(all="ignore"):
            normal = _layer_norm(q), _layer_norm(k)
            q, k = normal if normalize else (q, k)
            size = cluster_size or -(-len(places) // len(means))
            of_keys = _members(normal[1], means, min(size, len(places)))
            of_queries = _members(normal[0], means, min(-(-size * length // len(places)), length))
            seen = None
            if causal:
                seen = places[of_keys][:, :, None] <= of_queries[..., None] + (keys - length)
            found = attend(
                _rows.take(q, of_queries), _rows.take(k, of_keys), _rows.take(v, of_keys), seen, scale=factor
            )
        # the mean over the clusters that show a query something: sorted by query, summed, divided
        flat = (of_queries + np.arange(len(q))[:, None, None] * length).ravel()
        shown = np.ones(flat.shape, bool) if seen is None else seen.any(-1).ravel()
        order = np.argsort(flat, kind="stable")
        rows, first = np.unique(flat[order], return_index=True)
        often = np.add.reduceat(shown[order], first, dtype=v.dtype)
        out = np.zeros((len(q) * length, v.shape[-1]), v.dtype)
        out[rows] = np.add.reduceat(found.reshape(-1, v.shape[-1])[order], first, axis=0)
        out[rows] /= np.maximum(often, 1)[:, None]
        return out.reshape(len(q), length, -1)

    return call.apply(run)


def update_centroids(centroids, query, key, decay=0.999):
    """Centroids of `routing_attention` after they have seen queries and keys: a step of spherical k-means.

    Parameters
    ----------
    centroids : array_like, shape (C, d)
    query : array_like, shape (..., L, d)
    key : array_like, shape (..., S, d)
    decay : float, default 0.999
        From 0 to 1: the share of the old centroids. 0 is Lloyd's step, 1 changes nothing but lengths.

    Returns
    -------
    ndarray, shape (C, d), float64
        Of length 1. A cluster that nothing belongs to keeps its centroid.

    Raises
    ------
    TypeError, ValueError
        For arrays that do not fit, and a `decay` out of its range.

    Notes
    -----
    ``c = decay c + (1 - decay) / 2 (sum q_i + sum k_j)`` over the layer-normed queries and keys whose largest product
    is that with c (the first of several), then divided by its length; O(C (L + S) d). From Roy et al. 2021,
    arXiv:2003.05997.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.update_centroids([[1.0, 0.0], [0.0, 1.0]], [[5.0, 1.0]], [[1.0, 5.0]], decay=0.0).round(3)
    array([[ 0.707, -0.707],
           [-0.707,  0.707]])
    """
    decay = number(decay, "decay")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be between 0 and 1, got {decay}")
    centroids, query, key = (
        _coerce.array(x, name).astype(np.float64)
        for x, name in ((centroids, "centroids"), (query, "query"), (key, "key"))
    )
    if centroids.ndim != 2 or {centroids.shape[-1]} != {x.shape[-1] if x.ndim else 0 for x in (query, key)}:
        raise ValueError(f"the last axes must match: centroids {centroids.shape}, query {query.shape}, key {key.shape}")
    rows = _layer_norm(np.concatenate([x.reshape(-1, x.shape[-1]) for x in (query, key)]))
    nearest = (rows @ centroids.T).argmax(-1)
    sums = (nearest == np.arange(len(centroids))[:, None]).astype(np.float64) @ rows
    moved = decay * centroids + (1 - decay) / 2 * sums
    return _rows.unit(np.where(np.bincount(nearest, minlength=len(centroids))[:, None] > 0, moved, centroids))


def _hamming_means(signs, clusters, own, iterations):
    """K-means of rows of +-1 under the Hamming distance, from rows that are drawn: the cluster of each row, (N, L)."""
    count = signs.shape[1]
    start = np.argsort(_rows.normal(own, 1, count, np.float64)[0], kind="stable")[: min(clusters, count)]
    centres = signs[:, np.sort(start)]
    nearest = _nearest(signs, centres)
    for _ in range(iterations):
        means = _rows.means(signs, *_rows.grouped(nearest, centres.shape[1]))
        # bits that are drawn, and clusters that are empty, stay
        centres = np.where(means == 0, centres, np.sign(means))
        before, nearest = nearest, _nearest(signs, centres)
        if np.array_equal(before, nearest):
            break
    return nearest, centres.shape[1]


def _nearest(signs, centres):
    """The first centre of the least Hamming distance for each row, (N, L)."""
    out = np.empty(signs.shape[:2], np.int64)
    for n in range(len(signs)):
        for rows in _rows.steps(signs.shape[1], centres.shape[1]):
            out[n, rows] = (signs[n, rows] @ centres[n].T).argmax(-1)
    return out


def _clustered(
    query, key, value, *, mask, causal, scale, dropout, training, rng, num_clusters, bits, iterations, top_k
):
    call = _rows.Rows(query, key, value, mask, "clustered")
    factor, own = _rows.scale_of(scale, call.query.shape[-1]), _rows.seed(rng)
    planes = _rows.normal(own, bits, call.query.shape[-1], call.query.dtype)

    def run(q, k, v, places):
        with np.errstate(all="ignore"):
            signs = np.where(q @ planes.T > 0, 1, -1).astype(np.float32)
            nearest, count = _hamming_means(signs, num_clusters, own, iterations)
            means = _rows.means(q, *_rows.grouped(nearest, count))
            if top_k == 0:
                return _rows.take(attend(means, k, v, scale=factor), nearest)
            weights = softmax((means * q.dtype.type(factor)) @ np.swapaxes(k, -1, -2))
            most, at = topk(weights, min(top_k, len(places)))
            np.put_along_axis(weights, at, 0, -1)
            rest, share = weights @ v, most.sum(-1)
        counts = np.full(nearest.shape, at.shape[-1])
        exact = _rows.gathered(q, k, v, _rows.take(np.sort(at, -1), nearest), counts, factor)
        return _rows.take(share, nearest)[..., None] * exact + _rows.take(rest, nearest)

    return call.apply(run)


def routing_attention(
    query,
    key,
    value,
    num_clusters=None,
    *,
    cluster_size=None,
    centroids=None,
    normalize=True,
    mask=None,
    causal=False,
    scale=None,
    rng=None,
    out=None,
):
    """Attention inside clusters: each centroid takes the queries and the keys that are closest to it.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_clusters : int, optional
        At least 1; the rounded square root of S when None. Centroids that are given have their own number.
    cluster_size : int, optional
        Keys of a cluster, at least 1, and ``L / S`` times as many queries; S over the number of clusters when None.
    centroids : array_like, shape (C, d), optional
        Their directions count: see `update_centroids`. Normal numbers when None.
    normalize : bool, default True
        Attend over the layer-normed queries and keys that clusters are made of, as published; when False over those
        given.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        The mean over the clusters that took the query, with `causal` of those that show it a key; 0 where there is
        none.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for centroids of another width.

    See Also
    --------
    update_centroids : learns the centroids.

    Notes
    -----
    ``softmax(scale * q . k) v`` over the keys of a cluster for its queries. O(C (L + S) d) to find the clusters and ``2
    C w w' (d + dv)`` operations for w queries and w' keys of each: O(n sqrt(n)) in all by default. From Roy et al.
    2021, arXiv:2003.05997.

    With `causal` no later value has a part in a result, but later positions have one in which cluster takes which
    position, as published. Published decoders give the queries as keys too, and half of the heads of a layer attend
    inside a window.

    Faster than exact attention from about n = 1024 (one core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> ruvector.routing_attention(query, key, value, 4).shape
    (100, 8)
    """
    options = {"cluster_size": cluster_size, "centroids": centroids, "normalize": normalize}
    call = get_attention("routing", num_clusters=num_clusters, causal=causal, scale=scale, **options)
    return call(query, key, value, mask=mask, rng=rng, out=out)


def clustered_attention(
    query, key, value, num_clusters=100, *, bits=63, iterations=10, top_k=32, mask=None, scale=None, rng=None, out=None
):
    """Attention of the means of clusters of queries, improved where they look the most.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_clusters : int, default 100
        At least 1.
    bits : int, default 63
        Random hyperplanes by which queries are hashed, from 1 to 4096.
    iterations : int, default 10
        Of k-means under the Hamming distance, 0 or more.
    top_k : int, default 32
        Keys of a cluster's largest weights, 0 or more, among which each query shares their sum by its own products; 0
        for none.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`. There is no `causal`: a mean has no position.

    Notes
    -----
    ``softmax(scale * c . k) v`` for the mean c of the query's cluster; with `top_k` the weights of those keys are ``m
    softmax(scale * q . k)`` over them, m being what they have together. Exact where each query is a cluster. ``2 C S (d
    + dv)`` operations, at most ``2 iterations C L bits`` for the clusters, and ``2 L top_k (d + dv)`` on keys that are
    gathered; C S weights are held. From Vyas et al. 2020, arXiv:2007.04825.

    Faster than exact attention from about n = 4096 (100 clusters, one core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 50, 8))
    >>> own = ruvector.clustered_attention(query, key, value, 50)
    >>> bool(np.allclose(own, ruvector.scaled_dot_attention(query, key, value)))
    True
    """
    options = {"bits": bits, "iterations": iterations, "top_k": top_k, "scale": scale}
    return get_attention("clustered", num_clusters=num_clusters, **options)(
        query, key, value, mask=mask, rng=rng, out=out
    )


documented(routing_attention, _rows.MASK + _rows.CAUSAL + _rows.SCALE + _rows.RNG + _rows.OUT)
documented(clustered_attention, _rows.MASK + _rows.SCALE + _rows.RNG + _rows.OUT)


def _register():
    add_type(
        AttentionRecord(
            "routing",
            ("routing_transformer",),
            "O(n\u221an)",
            "Long sequences on several subjects",
            "approximate",
            (
                Parameter("num_clusters", "int", None, 1, None, "the rounded square root of the keys when None"),
                Parameter("cluster_size", "int", None, 1, None, "keys of a cluster; keys / clusters when None"),
                Parameter("centroids", "array", None, None, None, "directions (clusters, d); normal when None"),
                Parameter("normalize", "bool", True, None, None, "layer-normed queries and keys attend"),
            ),
            "Roy et al. 2021, Routing Transformers, arXiv:2003.05997",
        ),
        _routing,
        lacks=("dropout",),
    )
    add_type(
        AttentionRecord(
            "clustered",
            ("fast_clustered",),
            "O(n*C)",
            "Many queries that ask alike",
            "approximate",
            (
                Parameter("num_clusters", "int", 100, 1, None, "means that attend for the queries"),
                Parameter("bits", "int", 63, 1, 4096, "hyperplanes that queries are hashed by"),
                Parameter("iterations", "int", 10, 0, None, "of k-means"),
                Parameter("top_k", "int", 32, 0, None, "keys that each query weighs itself; 0 for none"),
            ),
            "Vyas et al. 2020, Fast Transformers with Clustered Attention, arXiv:2007.04825",
        ),
        _clustered,
        lacks=("causal", "dropout"),
    )


_register()
