"""mha_search, match and rerank against their definitions."""

import numpy as np
import pytest
import reference_search as reference
import ruvector
from ruvector.retrieval import gat_search, match, mha_search, rerank
from support import normal, same_bits


@pytest.mark.parametrize("heads", [1, 2, 4, 12])
def test_mha_search_ranks_by_the_mean_of_the_heads_weights(isa, heads):
    table, queries = normal((150, 24), np.float64, "table"), normal((2, 3, 24), np.float64, "query") * 3
    ids, scores = mha_search(table, queries, heads, 9)
    weights = reference.head_weights(queries.reshape(6, 24), table, heads)
    places = reference.order(weights, 9)
    assert ids.reshape(6, 9).tolist() == places.tolist()
    np.testing.assert_allclose(scores.reshape(6, 9), np.take_along_axis(weights, places, -1), rtol=1e-12)
    one = mha_search(table, queries[1, 2], num_heads=heads, k=9)
    assert same_bits(one[0], ids[1, 2]) and same_bits(one[1], scores[1, 2])
    index = ruvector.AttentionIndex(24, dtype=np.float64)
    index.add(table, [f"row {i}" for i in range(150)])
    assert mha_search(index, queries, heads, 9)[0].tolist() == [[[f"row {i}" for i in x] for x in y] for y in ids]


def test_the_number_of_heads_matters_to_mha_search():
    table, query = normal((60, 16), np.float64, "few"), normal((16,), np.float64, "query") * 4
    assert mha_search(table, query, 1)[0].tolist() != mha_search(table, query, 8)[0].tolist()
    default = mha_search(table, query)
    assert all(map(same_bits, default, mha_search(table, query, 8, 10)))
    weights = ruvector.attention_scores(query, table, "multi_head", num_heads=8)
    assert same_bits(default[1], weights[default[0]])


def test_mha_search_of_small_and_damaged_tables():
    table, query = normal((6, 8), np.float32, "small"), normal((8,), np.float32, "query")
    assert mha_search(table, query, 2, 99)[0].shape == (6,)
    assert mha_search(table[:0], query, 2)[0].shape == (0,)
    damaged = np.insert(table, 2, np.nan, 0)
    ids, scores = mha_search(damaged, query, 2)
    assert ids[-1] == 2 and scores[-1] == 0
    rest = mha_search(table, query, 2)
    assert (ids[:-1] - (ids[:-1] > 2)).tolist() == rest[0].tolist()
    np.testing.assert_allclose(scores[:-1], rest[1], rtol=1e-6)
    same = np.repeat(table[:1], 5, 0)
    assert mha_search(same, query, 4)[0].tolist() == [0, 1, 2, 3, 4]


def test_match_is_the_cross_attention_of_two_tables(isa):
    queries, documents = normal((7, 12), np.float64, "queries"), normal((80, 12), np.float64, "documents")
    exact = reference.products(queries, documents)
    found = match(queries, documents, k=5)
    places = reference.order(exact, 5)
    assert found.query_ids.tolist() == list(range(7)) and found.ids.tolist() == places.tolist()
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, places, -1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.weights, np.take_along_axis(reference.softmax(exact), places, -1), rtol=1e-13)
    for i, row in enumerate(found.ids):
        for j, score in zip(row, found.scores[i]):
            assert score == ruvector.attention_score(queries[i], documents[j])
    every = match(queries, documents, k=None)
    assert every.ids.shape == (7, 80)
    np.testing.assert_allclose(every.weights.sum(-1), 1, rtol=1e-13)
    np.testing.assert_allclose(match(queries, documents, k=5, weights="results").weights.sum(-1), 1, rtol=1e-13)
    assert match(queries, documents, weights=None).weights is None


def test_match_takes_indexes_and_types():
    queries, documents = ruvector.AttentionIndex(8), ruvector.AttentionIndex(8, "multi_head", 2)
    queries.add(normal((3, 8), np.float32, "q"), ["one", "two", "three"])
    documents.add(normal((20, 8), np.float32, "d"), np.arange(20) * 10)
    found = match(queries, documents, k=4)
    direct = documents.search(queries.vectors, 4)
    assert found.query_ids.tolist() == ["one", "two", "three"]
    assert all(map(same_bits, found[1:], direct))
    other = match(queries, documents, "scaled_dot", k=4, scale=2.0)
    expected = reference.products(queries.vectors, documents.vectors, scale=2.0)
    assert other.ids.tolist() == (reference.order(expected, 4) * 10).tolist()


def test_rerank_is_its_stages():
    rows, query = normal((400, 16), np.float64, "rows"), normal((16,), np.float64, "query") * 3
    found = rerank(query, rows, 6, [{"type": "scaled_dot", "keep": 40}, {"type": "multi_head", "num_heads": 4}])
    first = reference.order(reference.products(query[None], rows), 40)[0]
    weights = reference.head_weights(query[None], rows[first], 4)[0]
    best = np.argsort(-weights, kind="stable")[:6]
    assert found.ids.tolist() == first[best].tolist()
    np.testing.assert_allclose(found.weights, weights[best], rtol=1e-13)
    np.testing.assert_allclose(
        found.scores, reference.products(query[None], rows[first[best]], 4)[0], rtol=0, atol=1e-13
    )
    assert found.ids.tolist() != first[:6].tolist(), "the second stage changes the order"


def test_the_stages_of_the_usage_guide_are_the_default():
    rows, query = normal((300, 16), np.float32, "rows"), normal((16,), np.float32, "query") * 3
    spelled = [{"type": "scaled_dot", "keep": 100}, "multi_head"]
    assert all(map(same_bits, rerank(query, rows), rerank(query, rows, 10, spelled)))
    assert len(rerank(query, rows).ids) == 10


def test_rerank_by_other_types_of_an_index():
    index = ruvector.AttentionIndex(4, dtype=np.float64)
    rows = normal((90, 4), np.float64, "ball") * 0.2
    index.add(rows, [f"{i}" for i in range(90)])
    query = normal((4,), np.float64, "query") * 0.2
    stages = [{"type": "scaled_dot", "keep": 30}, {"type": "poincare", "curvature": 0.5, "keep": 9}, "cross"]
    found = rerank(query, index, 3, stages)
    left = reference.order(reference.products(query[None], rows), 30)[0]
    left = left[reference.order(reference.poincare(query[None], rows[left], 0.5), 9)[0]]
    left = left[reference.order(reference.products(query[None], rows[left]), 3)[0]]
    assert found.ids.tolist() == [str(i) for i in left]
    assert rerank(query, index, 200, ["scaled_dot"]).ids.shape == (90,)
    assert rerank(query, rows[:0], 5, ["cross"]).ids.shape == (0,)


def test_rerank_puts_nan_last():
    rows, query = normal((12, 8), np.float32, "rows"), normal((8,), np.float32, "query")
    rows[3] = np.nan
    found = rerank(query, rows, 12, [{"type": "scaled_dot", "keep": 12}, {"type": "multi_head", "num_heads": 2}])
    assert found.ids[-1] == 3 and np.isnan(found.scores[-1]) and found.weights[-1] == 0


def test_gat_search_is_found_here_too():
    assert gat_search is ruvector.gat_search


# The usage guide's examples, with tables as arrays ---------------------------------------------------------------------


def nearest(query, table, count):
    """``ORDER BY embedding <-> query LIMIT count``"""
    return np.argsort(((table.astype(float) - query) ** 2).sum(-1), kind="stable")[:count]


def test_document_reranking_of_the_usage_guide():
    table, query = normal((60, 768), np.float32, "documents"), normal((768,), np.float32, "query")
    documents = ruvector.AttentionIndex(768)
    documents.add(table, [f"title {i}" for i in range(60)])
    initial = nearest(query, table, 20)
    found = documents.search(query, 10, filter=[f"title {i}" for i in initial])
    scores = reference.products(query[None], table)[0]
    expected = sorted(initial, key=lambda i: -scores[i])[:10]
    assert found.ids.tolist() == [f"title {i}" for i in expected]
    np.testing.assert_allclose(found.scores, scores[expected], rtol=0, atol=1e-4)


def test_semantic_search_of_the_usage_guide():
    def semantic_search_with_attention(documents, query_embedding, num_results=10, num_heads=8):
        candidates = nearest(query_embedding, documents, num_results * 2)
        index = ruvector.AttentionIndex(documents.shape[1], "multi_head", num_heads)
        index.add(documents[candidates], candidates)
        return index.search(query_embedding, num_results)

    table, query = normal((80, 768), np.float32, "documents"), normal((768,), np.float32, "query")
    found = semantic_search_with_attention(table, query)
    scores = reference.products(query[None], table, 8)[0]
    expected = sorted(nearest(query, table, 20), key=lambda i: -scores[i])[:10]
    assert found.ids.tolist() == expected
    for i, score in zip(found.ids, found.scores):
        one = ruvector.attention_score(query, table[i], "multi_head", num_heads=8)
        np.testing.assert_allclose(score, one, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="Query dimension 768 must be divisible by num_heads 5"):
        semantic_search_with_attention(table, query, num_heads=5)


def test_query_document_matching_of_the_usage_guide():
    """Five nearest documents of each query by their relevance; with rows of one length the nearest are the most relevant."""
    queries, base = normal((6, 384), np.float32, "queries"), normal((90, 384), np.float32, "base")
    queries, base = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, base))
    found = match(queries, base, "cross", k=5)
    scores = reference.products(queries, base)
    for query, ids, relevance in zip(found.query_ids, found.ids, found.scores):
        assert ids.tolist() == nearest(queries[query], base, 5).tolist()
        np.testing.assert_allclose(relevance, scores[query, ids], rtol=0, atol=1e-7)
        assert relevance[0] == ruvector.attention_score(queries[query], base[ids[0]], "cross")
    with pytest.raises(ValueError, match="^Query and key dimensions must match: 768 vs 384$"):
        match(normal((2, 768), np.float32, "wide"), base, "cross")


def test_batch_processing_of_the_usage_guide():
    """Every query with every document, ordered by query and score."""
    queries, documents = normal((4, 64), np.float32, "queries"), normal((30, 64), np.float32, "documents")
    found = match(queries, documents, k=None)
    rows = [(q, d, s) for q, ids, line in zip(found.query_ids, found.ids, found.scores) for d, s in zip(ids, line)]
    assert len(rows) == 120
    expected = [(q, d, ruvector.attention_score(queries[q], documents[d])) for q in range(4) for d in range(30)]
    assert rows == sorted(expected, key=lambda row: (row[0], -row[2]))


def test_two_stages_of_the_usage_guide():
    documents, query = normal((400, 64), np.float64, "documents"), normal((64,), np.float64, "query") * 2
    first = reference.order(reference.products(query[None], documents), 100)[0]
    refined = reference.head_weights(query[None], documents[first], 8)[0]
    expected = first[np.argsort(-refined, kind="stable")[:10]]
    found = rerank(query, documents)
    assert found.ids.tolist() == expected.tolist()
    np.testing.assert_allclose(found.weights, np.sort(refined)[::-1][:10], rtol=1e-12)
    # the heads' weights over the stage's rows are those that the multi-head attention of the second stage mixes
    mixed = ruvector.attention_scores(query, documents[first], "multi_head", num_heads=8)
    np.testing.assert_allclose(np.sort(mixed)[::-1][:10], found.weights, rtol=1e-12)
