"""Search by attention: a table by the weights of several heads, two tables against each other, and one stage after another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ruvector import _coerce

from ruvector._ranking import Scorer, aligned, best, choice_of, count_of, rank
from ruvector.index import AttentionIndex, SearchResult
from ruvector.mechanisms.graph import gat_search as gat_search

# The two stages of the usage guide.
STAGES = (MappingProxyType({"type": "scaled_dot", "keep": 100}), MappingProxyType({"type": "multi_head"}))


class Matches(NamedTuple):
    """What `match` found for each query, best first.

    Attributes
    ----------
    query_ids : ndarray, shape (m,)
    ids : ndarray, shape (m, k)
        Of documents.
    scores : ndarray, shape (m, k)
    weights : ndarray, shape (m, k), or None
    """

    query_ids: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    weights: np.ndarray | None


def _table(table, name):
    """Vectors (n, d) that the core reads where they lie, and what names their places."""
    if isinstance(table, AttentionIndex):
        return table.vectors, table._named
    table = _coerce.array(table, name)
    if table.ndim != 2 or table.shape[1] < 1:
        raise ValueError(f"{name} must have shape (n, d) with d at least 1, got {table.shape}")
    return _coerce.plain(table, table.dtype.newbyteorder("=")), lambda places: places


def mha_search(table, query, num_heads=8, k=10):
    """The rows of a table to which several heads of attention give most.

    Parameters
    ----------
    table : array_like, shape (n, d), or AttentionIndex
        A row's id is its number, or that of the index.
    query : array_like, shape (d,) or (..., d)
    num_heads : int, default 8
        From 1 to 1024; divides d.
    k : int, default 10
        At least 1; fewer are found in a smaller table.

    Returns
    -------
    ids : ndarray, shape (..., k)
    scores : ndarray, shape (..., k)
        The mean over heads of the weights in each head's softmax over the whole table, largest first, of equal ones the lower
        row. Rows that score NaN come last, with 0. float32, float64 for a table of that.

    Raises
    ------
    TypeError
        For arrays that are not real, or options that are not integers.
    ValueError
        For shapes that do not fit, such as a width that num_heads does not divide.

    See Also
    --------
    AttentionIndex : ranks by one score and reads the table once.

    Notes
    -----
    ``mean_h softmax_n(q_h . k_nh / sqrt(d / num_heads))``. A head that finds one row far better than the rest counts for more than
    in the mean of the products, which is what one head over all columns ranks by. O(n d) and n num_heads weights in memory.
    From Vaswani et al. 2017 [1]_.

    References
    ----------
    .. [1] Vaswani et al., Attention Is All You Need, arXiv:1706.03762

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ids, scores = ruvector.mha_search(np.eye(4), [4.0, 0.0, 0.0, 2.0], num_heads=2, k=2)
    >>> ids, scores.round(4)
    (array([0, 3]), array([0.495 , 0.3142]))
    """
    k, num_heads = count_of(k), count_of(num_heads, "num_heads")
    rows, named = _table(table, "table")
    scorer = Scorer("multi_head", rows.shape[1], {"num_heads": num_heads})
    queries, lead = scorer.queries(query, rows.dtype, "query")
    k = min(k, len(rows))
    ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), queries.dtype)
    for i in range(len(queries) if k else 0):
        pairs = scorer.scores(queries[i : i + 1], rows)
        weights = scorer.weights(queries[i : i + 1], rows, pairs)
        weights[np.isnan(pairs)] = np.nan
        scores[i : i + 1], ids[i : i + 1] = best(weights, k)
    scores[np.isnan(scores)] = 0
    return named(ids).reshape(*lead, k), scores.reshape(*lead, k)


def match(queries, documents, attention_type=None, *, k=10, weights="table", **params):
    """Cross attention between two tables: for each query the documents that it attends to most.

    Parameters
    ----------
    queries : array_like, shape (m, d), or AttentionIndex
    documents : array_like, shape (n, d), or AttentionIndex
        Ids are row numbers, or those of the index.
    attention_type : str or AttentionType, optional
        A type that has a pairwise score; that of `documents` when None, "scaled_dot" for an array.
    k : int or None, default 10
        Documents a query, at least 1; all when None.
    weights : {"table", "results", None}, default "table"
        Attention weights over all documents, over the k results, or none.
    **params
        The type's own parameters, and `scale`.

    Returns
    -------
    Matches
        query_ids (m,), ids, scores and weights (m, k); in the order of `AttentionIndex.search`.

    Raises
    ------
    UnknownAttentionType
        If no type has that name.
    TypeError, ValueError
        For arrays, shapes and options that do not fit.

    Notes
    -----
    O(m n d). The scores of a pair by inner products are the same bits in every table.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.retrieval import match
    >>> found = match([[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 3.0], [2.0, 0.0]], k=2)
    >>> for query, ids, scores in zip(found.query_ids, found.ids, found.scores):
    ...     print(query, ids, scores.round(3))
    0 [2 0] [1.414 0.707]
    1 [1 0] [4.243 1.414]
    """
    k, weights = None if k is None else count_of(k), choice_of(weights)
    asked, ask_named = _table(queries, "queries")
    rows, named = _table(documents, "documents")
    if attention_type is None:
        attention_type = documents.attention_type if isinstance(documents, AttentionIndex) else "scaled_dot"
    scorer = Scorer(attention_type, rows.shape[1], params)
    scorer.check(rows, "documents")
    asked, _ = scorer.queries(asked, rows.dtype)
    places, scores, shares = rank(scorer, asked, rows, len(rows) if k is None else k, weights)
    return Matches(ask_named(np.arange(len(asked))), named(places), scores, shares)


def _stages(stages, top_k, dim):
    """(scorer, rows kept) of each stage; the last keeps top_k."""
    if isinstance(stages, (str, Mapping)):
        raise TypeError(f"stages must be a sequence of stages, got {stages!r}")
    found = []
    for i, stage in enumerate(stages):
        name = f"stages[{i}]"
        if not isinstance(stage, Mapping):
            stage = {"type": stage}
        options = dict(stage)
        if "type" not in options:
            raise TypeError(f"{name} must have a type, got {stage!r}")
        kind, keep = options.pop("type"), options.pop("keep", None)
        found.append((Scorer(kind, dim, options), None if keep is None else count_of(keep, f"{name} keep")))
    if not found:
        raise ValueError("stages must hold at least one stage, got none")
    for i, (_, keep) in enumerate(found[:-1]):
        if keep is None:
            raise ValueError(f"stages[{i}] must have keep, the number of rows that it leaves to the next stage")
    if found[-1][1] is not None:
        raise ValueError(f"the last stage keeps top_k rows, got keep {found[-1][1]}")
    return [*found[:-1], (found[-1][0], top_k)]


def _order(scorer, query, rows, keep):
    """Places, scores and weights of the rows that a stage keeps: heads rank by their weights, equal ones by the score."""
    if not scorer.split:
        return [x[0] for x in rank(scorer, query, rows, keep, "table")]
    scores = scorer.scores(query, rows)
    weights = scorer.weights(query, rows, scores)[0]
    scores = scores[0]
    weights[np.isnan(scores)] = 0
    # lexsort puts NaN last, and is stable
    order = np.lexsort((-scores, -weights, np.isnan(scores)))[:keep]
    return order, scores[order], weights[order]


def rerank(query, embeddings, top_k=10, stages=STAGES):
    """The best rows for a query, each stage choosing among those that the one before left.

    Parameters
    ----------
    query : array_like, shape (d,)
    embeddings : array_like, shape (n, d), or AttentionIndex
        Ids are row numbers, or those of the index.
    top_k : int, default 10
        At least 1; fewer are found among fewer rows.
    stages : sequence, optional
        Of mappings ``{"type": name, "keep": rows, **parameters}`` or, for the last, a name or AttentionType. The types have a
        pairwise score; every stage but the last has `keep`, at least 1. The usage guide's when not given: ``scaled_dot`` keeps
        100, ``multi_head`` ranks them.

    Returns
    -------
    SearchResult
        ids, scores and weights, each (min(top_k, rows left),), in the last stage's order: its scores, and its attention weights
        over the rows that it was given.

    Raises
    ------
    UnknownAttentionType
        If no type has that name.
    TypeError, ValueError
        For arrays, shapes and options that do not fit; for stages without, or a last stage with, `keep`.

    Notes
    -----
    A stage ranks by its score; types of several heads by the mean of their heads' weights over the rows given, since the mean of
    their scores is the inner product again. Equal ones in the order of the stage before; rows that score NaN come last. The first
    stage is O(n d), the others cost what they keep.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.retrieval import rerank
    >>> embeddings = [[3.0, 0.0, 0.0, 2.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 9.0], [0.0, 1.0, 0.0, 0.0]]
    >>> stages = [{"type": "scaled_dot", "keep": 3}, {"type": "multi_head", "num_heads": 2}]
    >>> rerank([1.0, 1.0, 1.0, 0.0], embeddings, 2, stages).ids
    array([1, 0])
    """
    top_k = count_of(top_k, "top_k")
    rows, named = _table(embeddings, "embeddings")
    plan = _stages(stages, top_k, rows.shape[1])
    if np.ndim(query) != 1:
        raise ValueError(f"query must have shape ({rows.shape[1]},), got {np.shape(query)}")
    left = places = np.arange(len(rows))
    for i, (scorer, keep) in enumerate(plan):
        asked, _ = scorer.queries(query, rows.dtype, "query")
        if i:
            some = aligned((len(left), rows.shape[1]), rows.dtype)
            rows = np.take(rows, places, 0, out=some)
        scorer.check(rows, "embeddings")
        places, scores, weights = _order(scorer, asked, rows, keep)
        left = left[places]
    return SearchResult(named(left), scores, weights)
