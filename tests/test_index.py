"""AttentionIndex: what searches find, on every ISA and dtype, and how it changes."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference_search as reference
import ruvector
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ruvector import _primitives, _ranking
from support import DTYPES, bits, generator, normal, peak_allocation, same_bits

AttentionIndex = ruvector.AttentionIndex
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-24, "bfloat16": 2.0**-24}


def made(rows, *arguments, ids=None, **options):
    index = AttentionIndex(rows.shape[1], *arguments, dtype=rows.dtype, **options)
    index.add(rows, ids)
    return index


def tolerance(dtype_name, queries, rows, factor=1.0):
    """The bound of a product: a chain of 64 sums, folded, and two roundings of the scale."""
    terms = math.ceil(rows.shape[1] / 16) + 8
    size = np.abs(queries.astype(np.float64)) @ np.abs(rows.astype(np.float64)).T
    return terms * UNIT[dtype_name] * factor * size + np.finfo(np.float32).tiny


# Scores ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 7, 16, 33, 100, 768, 1025, 2100])
def test_scores_of_many_are_those_of_one_to_the_bit(isa, dtype_name, dtype, dim):
    """Whatever block of queries and keys a pair falls into; in 16-bit storage the arithmetic is float32."""
    wide = np.float64 if dtype_name == "float64" else np.float32
    for count in (1, 2, 3, 4, 5, 9, 131):
        keys = normal((count, dim), dtype, "keys", dim)
        queries = normal((8, dim), wide, "queries", dim)
        expected = np.stack([ruvector.batched_dot_products(q, keys.astype(wide)) for q in queries]) * wide(0.37)
        for many in (1, 2, 3, 4, 7, 8):
            assert same_bits(_primitives.scores(queries[:many], keys, 0.37), expected[:many]), (count, many)


def test_scores_of_a_large_table_do_not_depend_on_threads_or_place(isa, threads):
    """Blocks of keys from memory, several tasks."""
    keys, queries = normal((9000, 384), np.float32, "large"), normal((5, 384), np.float32, "few")
    ruvector.set_num_threads(1)
    alone = _primitives.scores(queries, keys, 1.0)
    for count in (2, 3):
        ruvector.set_num_threads(count)
        assert same_bits(_primitives.scores(queries, keys, 1.0), alone)
    assert same_bits(_primitives.scores(queries[3:4], keys[100:300], 1.0), alone[3:4, 100:300])
    assert same_bits(_primitives.scores(queries, keys[::3], 1.0), alone[:, ::3])


def test_scores_of_nothing():
    queries, keys = normal((3, 8), np.float32, "q"), normal((5, 8), np.float32, "k")
    assert _primitives.scores(queries[:0], keys, 1.0).shape == (0, 5)
    assert _primitives.scores(queries, keys[:0], 1.0).shape == (3, 0)


@pytest.mark.parametrize("name", ["scaled_dot", "flash_v2", "cross", "sliding_window", "causal", "self", "local"])
def test_search_of_one_head_is_the_definition(isa, dtype_name, dtype, name):
    rows, queries = normal((300, 65), dtype, "rows"), normal((4, 65), np.float32, "queries")
    for scale in (None, 0.7):
        found = made(rows, name, scale=scale).search(queries, 12)
        exact = reference.products(queries, rows, scale=scale)
        factor = 1 / math.sqrt(65) if scale is None else scale
        bound = tolerance(dtype_name, queries, rows, factor)
        at = np.take_along_axis(exact, found.ids, -1)
        assert (np.abs(found.scores - at) <= np.take_along_axis(bound, found.ids, -1)).all()
        best = np.take_along_axis(exact, reference.order(exact, 12), -1)
        assert (np.abs(found.scores - best) <= bound.max()).all()
        assert (np.diff(found.scores) <= 0).all()
        weights = np.take_along_axis(reference.softmax(exact), found.ids, -1)
        relative = 2 * bound.max() + 40 * UNIT[dtype_name]
        np.testing.assert_allclose(found.weights, weights, rtol=relative)
        assert found.scores.dtype == (np.float64 if dtype_name == "float64" else np.float32)


@pytest.mark.parametrize(
    ("name", "options", "heads", "kv_heads"),
    [
        ("multi_head", {"num_heads": 4}, 4, 4),
        ("alibi", {"num_heads": 2}, 2, 2),
        ("grouped_query", {"num_heads": 6, "num_kv_heads": 2}, 6, 2),
        ("multi_query", {"num_heads": 3}, 3, 1),
    ],
)
def test_types_of_several_heads(isa, name, options, heads, kv_heads):
    """The score is the mean over heads, the weights are the mean of the heads' weights."""
    rows, queries = normal((90, 24), np.float64, name), normal((5, 24 // kv_heads * heads), np.float64, name, "q")
    index = made(rows, name, **options)
    assert index.query_dim == queries.shape[1]
    exact = reference.products(queries, rows, heads, kv_heads)
    found = index.search(queries, 7)
    assert found.ids.tolist() == reference.order(exact, 7).tolist()
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, found.ids, -1), rtol=0, atol=1e-14)
    weights = reference.head_weights(queries, rows, heads, kv_heads)
    np.testing.assert_allclose(found.weights, np.take_along_axis(weights, found.ids, -1), rtol=1e-13)
    among = index.search(queries, 7, weights="results")
    for i, places in enumerate(found.ids):
        np.testing.assert_allclose(
            among.weights[i], reference.head_weights(queries[i : i + 1], rows[places], heads, kv_heads)[0], rtol=1e-13
        )
    seen = generator("seen").random(90) < 0.6
    filtered = index.search(queries, 3, filter=seen)
    weights = reference.head_weights(queries, rows[seen], heads, kv_heads)
    places = reference.order(exact[:, seen], 3)
    assert filtered.ids.tolist() == np.flatnonzero(seen)[places].tolist()
    np.testing.assert_allclose(filtered.weights, np.take_along_axis(weights, places, -1), rtol=1e-13)


@pytest.mark.parametrize("curvature", [1.0, -0.5])
def test_hyperbolic_distances(isa, curvature):
    rows, queries = (normal((n, 6), np.float64, "points", n) for n in (70, 3))
    rows, queries = (0.9 * x / (1 + np.linalg.norm(x, axis=-1, keepdims=True)) for x in (rows, queries))
    found = made(rows, "poincare", curvature=curvature).search(queries, 9)
    exact = reference.poincare(queries, rows, abs(curvature))
    assert found.ids.tolist() == reference.order(exact, 9).tolist()
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, found.ids, -1), rtol=1e-12)
    weights = reference.softmax(exact)
    np.testing.assert_allclose(found.weights, np.take_along_axis(weights, found.ids, -1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["poincare", "lorentz"])
def test_distances_of_a_table_are_those_of_pairs(isa, name, dtype):
    """To the bit, whatever queries and rows come together; longer than what a score function sees at once."""
    options = {"curvature": -0.7, "scale": 1.5, **({"space_only": True} if name == "lorentz" else {})}
    count = _ranking.SEEN + 33 if dtype == np.float32 else 133
    rows, queries = (normal((n, 19), np.float64, "table", n, scale=0.1).astype(dtype) for n in (count, 13))
    scorer = _ranking.Scorer(name, 19, options)
    wide = queries.astype(np.float64 if dtype == np.float64 else np.float32)
    found = scorer.scores(wide, rows)
    expected = [ruvector.attention_score(query, rows.astype(wide.dtype), name, **options) for query in wide]
    assert same_bits(found, np.array(expected))
    assert same_bits(scorer.scores(wide[3:4], rows[5:44]), found[3:4, 5:44])
    with pytest.raises(ValueError, match="curvature"):
        _ranking.Scorer(name, 19, {**options, "curvature": 0.0})
    each = _ranking.Scorer(name, 19, {**options, "curvature": np.linspace(0.5, 0.7, 40)})
    assert same_bits(each.scores(wide[:2], rows[:40])[1], each.scores(wide[1:2], rows[:40])[0])


def searchable():
    for record in ruvector.attention_types():
        own = {p.name for p in record.parameters}
        options = {"space_only": True} if record.name == "lorentz" else {"num_heads": 4} if "num_heads" in own else {}
        try:
            AttentionIndex(16, record.name, **options)
        except ValueError as error:
            assert "no pairwise score" in str(error)
        else:
            yield record.name, options


@pytest.mark.parametrize(("name", "options"), list(searchable()))
def test_every_type_with_a_score_is_searched_by_it(name, options):
    index = AttentionIndex(16, name, dtype=np.float64, **options)
    rows = normal((40, 16), np.float64, "of", name) * 0.1
    query = normal((index.query_dim,), np.float64, "for", name) * 0.1
    index.add(rows)
    found = index.search(query, 40)
    scores = ruvector.attention_score(query, rows, name, **options)
    np.testing.assert_allclose(found.scores, scores[found.ids], rtol=1e-11, atol=1e-13)
    assert sorted(found.ids.tolist()) == list(range(40))
    assert name == "sigmoid" or abs(found.weights.sum() - 1) < 1e-12
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(("name", "options"), list(searchable()))
def test_queries_of_every_type_do_not_depend_on_their_neighbours(dtype, name, options):
    """Many at once, one alone, rows in several pieces: the same bits."""
    index = AttentionIndex(16, name, dtype=dtype, **options)
    index.add((normal((60, 16), np.float64, "of", name) * 0.1).astype(dtype))
    queries = normal((3, 2, index.query_dim), np.float64, "for", name) * 0.1
    together = index.search(queries, 9)
    assert together.scores.dtype == (np.float64 if dtype == np.float64 else np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranking, "SEEN", 7)
        patch.setattr(_ranking, "HELD", 130)
        assert all(map(same_bits, index.search(queries, 9), together))
    for at in ((0, 0), (2, 1)):
        assert all(map(same_bits, index.search(queries[at], 9), (x[at] for x in together)))


# Of types with other parameters than those by which all are searched.
VARIANTS = [
    ("entmax", {"alpha": 1.2}),
    ("sigmoid", {"bias": -0.5}),
    ("cosine", {"tau": 0.7}),
    ("cosine", {"scale": 3.0}),
    ("additive", {"hidden": 5, "scale": 2.0}),
    ("hash_based", {"tau": 3}),
    ("linear", {"feature_map": "relu"}),
    ("performer", {"num_features": 9, "scale": 0.3}),
    ("performer", {"projection": normal((7, 16), np.float64, "projection")}),
    ("random_feature", {"num_features": 9, "scale": 0.3}),
    (
        "talking_heads",
        {"num_heads": 4, "w_logits": normal((4, 4), np.float64, "l"), "w_weights": normal((4, 4), np.float64, "w")},
    ),
    ("mixed_curvature", {"euclidean_dim": 5, "euclidean_weight": 0.3, "hyperbolic_weight": 2.0, "scale": 1.5}),
    ("mixed_curvature", {"euclidean_dim": 16}),
    ("mixed_curvature", {"euclidean_dim": 0, "curvature": -0.3}),
    ("grouped_query", {"num_heads": 8, "num_kv_heads": 4, "scale": 0.2}),
    ("rope", {"num_heads": 4, "num_kv_heads": 2, "base": 50.0}),
    (
        "rope",
        {"num_heads": 2, "scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    ("xpos", {"num_heads": 4, "num_kv_heads": 1, "scale": 0.4}),
    ("t5", {"num_heads": 2, "bias": normal((32, 2), np.float64, "bias"), "scale": 0.5}),
    ("relative", {"num_heads": 2, "num_kv_heads": 1, "max_distance": 3}),
    ("sparse", {"stride": 3, "scale": 0.9}),
    ("realformer", {"num_heads": 2, "scale": 0.9}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_parameters_of_every_type_shape_its_search(dtype, name, options):
    index = AttentionIndex(16, name, dtype=dtype, **options)
    rows = (normal((50, 16), np.float64, "of", name) * 0.2).astype(dtype)
    queries = normal((4, index.query_dim), np.float64, "for", name) * 0.2
    index.add(rows)
    found = index.search(queries, 50)
    work = np.float64 if dtype == np.float64 else np.float32
    own = {k: v for k, v in options.items() if v is not None}
    wide, given = rows.astype(np.float64), queries.astype(work).astype(np.float64)
    exact = np.stack([ruvector.attention_score(query, wide, name, **own) for query in given])
    loose = {"rtol": 1e-11, "atol": 1e-13} if dtype == np.float64 else {"rtol": 2e-5, "atol": 1e-6}
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, found.ids, -1), **loose)
    plain = AttentionIndex(16, name, dtype=dtype, **{k: v for k, v in options.items() if k.startswith("num_")})
    plain.add(rows)
    other = plain.search(queries, 50)
    # alpha and bias shape the weights alone; a base, a stride and distances do nothing where all positions are equal
    if set(options) - {"num_heads", "num_kv_heads", "base", "stride", "max_distance"}:
        changed = [np.abs(np.sort(a) - np.sort(b)).max() for a, b in zip(found[1:], other[1:])]
        assert max(changed) > 1e-4


def test_products_of_features_that_vanish_are_scored_in_pairs():
    """Far from each other, no feature of performer is large for both."""
    rows = np.array([[40.0, 0.0], [-40.0, 0.0], [0.0, 45.0], [0.1, 0.2]])
    index = made(rows, "performer", num_features=16)
    query = np.array([38.0, 1.0])
    found = index.search(query, 4)
    expected = ruvector.attention_score(query, rows, "performer", num_features=16)
    assert np.isfinite(expected).all() and expected.min() < -800
    np.testing.assert_allclose(found.scores, expected[found.ids], rtol=1e-12)


# How weights come about: by a function of their own of the scores, whatever stands around them ...
OWN_WEIGHTS = [
    ("entmax", {}),
    ("entmax", {"alpha": 1.3, "scale": 2.0}),
    ("sparsemax", {}),
    ("sigmoid", {}),
    ("sigmoid", {"bias": 0.5}),
    ("cosine", {}),
    ("additive", {}),
    ("hash_based", {}),
    ("talking_heads", {"num_heads": 4}),
    ("talking_heads", {"num_heads": 2, "w_logits": np.array([[1.0, 2.0], [0.5, -1.0]])}),
]
# ... or from several heads, at equal positions.
HEADED = [
    ("rope", {"num_heads": 4, "num_kv_heads": 2}, 4, 2, None),
    ("xpos", {"num_heads": 4}, 4, 4, None),
    ("t5", {"num_heads": 4}, 4, 4, 1.0),
    ("relative", {"num_heads": 2}, 2, 2, None),
    ("realformer", {"num_heads": 4}, 4, 4, None),
    ("adaptive_span", {"num_heads": 4}, 4, 4, None),
    ("alibi", {"num_heads": 4}, 4, 4, None),
]


@pytest.mark.parametrize(("name", "options"), OWN_WEIGHTS)
def test_weights_are_those_of_the_type(name, options):
    index = AttentionIndex(16, name, dtype=np.float64, **options)
    rows, queries = normal((60, 16), np.float64, "own", name), normal((3, 16), np.float64, "query", name) * 2
    rows[7] = np.nan
    index.add(rows)
    found = index.search(queries, 60)
    shown = np.arange(60) != 7
    weights = ruvector.attention_scores(queries, rows, name, mask=shown, **options)
    np.testing.assert_allclose(found.weights, np.take_along_axis(weights, found.ids, -1), rtol=1e-12, atol=1e-15)
    assert (found.ids[:, -1] == 7).all() and (found.weights[:, -1] == 0).all()
    few = index.search(queries, 5, weights="results")
    for one, ids, share in zip(queries, few.ids, few.weights):
        np.testing.assert_allclose(share, ruvector.attention_scores(one, rows[ids], name, **options), rtol=1e-12)
    seen = shown & (np.arange(60) % 3 > 0)
    part = index.search(queries, 60, filter=seen)
    weights = ruvector.attention_scores(queries, rows[seen], name, **options)
    places = np.searchsorted(np.flatnonzero(seen), part.ids)
    np.testing.assert_allclose(part.weights, np.take_along_axis(weights, places, -1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "options", "heads", "kv_heads", "scale"), HEADED)
def test_weights_of_heads_at_equal_positions(name, options, heads, kv_heads, scale):
    index = AttentionIndex(16, name, dtype=np.float64, **options)
    rows, queries = normal((60, 16), np.float64, "heads"), normal((3, index.query_dim), np.float64, "query") * 2
    index.add(rows)
    found = index.search(queries, 9)
    weights = reference.head_weights(queries, rows, heads, kv_heads, scale)
    np.testing.assert_allclose(found.weights, np.take_along_axis(weights, found.ids, -1), rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "performer", "random_feature"])
def test_weights_of_kernels_are_shares(name):
    index, rows = AttentionIndex(16, name, dtype=np.float64), normal((30, 16), np.float64, "k", name) * 0.3
    query = normal((16,), np.float64, "q", name) * 0.3
    index.add(rows)
    found = index.search(query, 30)
    np.testing.assert_allclose(found.weights, ruvector.attention_scores(query, rows, name)[found.ids], rtol=1e-9)
    among = index.search(query, 4, weights="results").weights
    np.testing.assert_allclose(among, found.weights[:4] / found.weights[:4].sum(), rtol=1e-12)


def test_softcap_shapes_the_score_and_keeps_the_order():
    rows, query = normal((50, 8), np.float64, "soft") * 4, normal((8,), np.float64, "cap") * 4
    plain, capped = made(rows).search(query, 50), made(rows, softcap=2.0).search(query, 50)
    np.testing.assert_allclose(capped.scores, 2 * np.tanh(plain.scores / 2), rtol=1e-14)
    np.testing.assert_allclose(capped.weights, reference.softmax(capped.scores), rtol=1e-13)


def test_parameters_of_an_attention_type_are_kept():
    index = AttentionIndex(8, ruvector.AttentionType.MultiHead(num_heads=2, scale=3.0))
    assert index.attention_type == ruvector.AttentionType.MultiHead(num_heads=2, scale=3.0)
    index.add(np.eye(8))
    assert index.search(np.eye(8)[0], 1).scores[0] == 1.5


# Order, NaN, ends ------------------------------------------------------------------------------------------------------


def test_ties_go_to_the_vector_added_first(isa):
    rows = np.repeat(normal((3, 20), np.float32, "tie"), 20, 0)
    index = made(rows)
    exact = reference.products(rows[25:26], rows)
    for k in (1, 5, 17, 60):
        assert index.search(rows[25], k).ids.tolist() == reference.order(np.round(exact, 5), k)[0].tolist()


def test_nan_ranks_behind_every_number(isa):
    rows = normal((40, 12), np.float32, "nan")
    rows[[0, 7, 39]] = np.nan
    rows[5, 2] = np.inf
    query = np.abs(normal((12,), np.float32, "positive"))
    query[2] = -1
    index = made(rows)
    found = index.search(query, 50)
    assert found.ids[-4:].tolist() == [5, 0, 7, 39]
    assert found.scores[-4] == -np.inf and np.isnan(found.scores[-3:]).all()
    assert (found.weights[-4:] == 0).all()
    numbers = [i for i in range(40) if i not in (0, 5, 7, 39)]
    expected = reference.softmax(reference.products(query[None], rows[numbers]))[0]
    np.testing.assert_allclose(found.weights[:-4], -np.sort(-expected), rtol=1e-5)
    assert index.search(query, 36).ids.tolist() == found.ids[:36].tolist()
    few = index.search(query, 3)
    assert few.ids.tolist() == found.ids[:3].tolist()
    assert same_bits(few.weights, found.weights[:3])
    heads = made(rows, "multi_head", 3).search(query, 40)
    assert heads.ids.tolist() == found.ids[:40].tolist()
    assert (heads.weights[-3:] == 0).all() and np.isfinite(heads.weights).all()


def test_a_query_that_is_nan_finds_the_first_ones_without_weight():
    found = made(normal((9, 4), np.float32, "all")).search(np.full(4, np.nan), 3)
    assert found.ids.tolist() == [0, 1, 2]
    assert np.isnan(found.scores).all() and (found.weights == 0).all()


def test_empty_index_large_k_and_shapes():
    index = AttentionIndex(6)
    for shape in ((6,), (3, 6), (2, 3, 6), (0, 6)):
        found = index.search(np.ones(shape), 4)
        assert found.ids.shape == found.scores.shape == found.weights.shape == (*shape[:-1], 0)
    index.add(normal((5, 6), np.float32, "few"))
    queries = normal((2, 3, 6), np.float32, "lead")
    found = index.search(queries, 100)
    assert found.ids.shape == (2, 3, 5)
    assert same_bits(index.search(queries[1, 2], 100).scores, found.scores[1, 2])
    assert index.search(np.ones((0, 6)), 4).ids.shape == (0, 4)
    assert index.search(np.ones(6), 2, weights=None).weights is None


def test_queries_do_not_depend_on_their_neighbours(isa, threads):
    rows, queries = normal((700, 96), np.float32, "n"), normal((33, 96), np.float32, "m")
    index = made(rows)
    together = index.search(queries, 20)
    for count in (1, 2):
        ruvector.set_num_threads(count)
        again = index.search(queries, 20)
        assert all(map(same_bits, again, together))
        for i in (0, 13, 32):
            assert all(map(same_bits, index.search(queries[i], 20), (x[i] for x in together)))


def test_many_queries_are_searched_in_parts(monkeypatch):
    rows, queries = normal((100, 8), np.float32, "rows"), normal((50, 8), np.float32, "part")
    index = made(rows, "multi_head", 2)
    whole = index.search(queries, 5)
    monkeypatch.setattr(_ranking, "HELD", 700)
    assert all(map(same_bits, index.search(queries, 5), whole))


# Filters ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("text", [False, True])
def test_filters_leave_what_they_say(share, text):
    rows, queries = normal((200, 16), np.float32, "filter"), normal((3, 16), np.float32, "by")
    ids = [f"id {i}" for i in range(200)] if text else np.arange(200)[::-1] * 3
    index = made(rows, ids=ids)
    seen = generator("filter", share).random(200) < share
    seen[3] = True
    expected = made(rows[seen], ids=[ids[i] for i in np.flatnonzero(seen)]).search(queries, 9)
    chosen = [ids[i] for i in generator("shuffle").permutation(np.flatnonzero(seen))]
    for filter in (seen, chosen, np.array(chosen), lambda each: np.isin(each, chosen)):
        found = index.search(queries, 9, filter=filter)
        assert found.ids.tolist() == expected.ids.tolist()
        assert same_bits(found.scores, expected.scores)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)


def test_filters_that_leave_nothing_or_all():
    index = made(normal((9, 4), np.float32, "x"))
    for nothing in ([], np.zeros(9, bool), lambda ids: ids < 0):
        assert index.search(np.ones(4), 3, filter=nothing).ids.shape == (0,)
    assert all(map(same_bits, index.search(np.ones(4), 3, filter=lambda ids: ids >= 0), index.search(np.ones(4), 3)))


# Changes ---------------------------------------------------------------------------------------------------------------


class Changes(RuleBasedStateMachine):
    """Random adds, updates and removes against a dict."""

    @initialize(text=st.booleans(), dtype=st.sampled_from(list(DTYPES)))
    def start(self, text, dtype):
        self.text, self.dtype = text, DTYPES[dtype]
        self.index, self.model, self.step = AttentionIndex(5, dtype=self.dtype), {}, 0

    def vectors(self, count):
        self.step += 1
        return normal((count, 5), np.float32, "step", self.step).astype(self.dtype)

    @rule(numbers=st.lists(st.integers(-60, 60), max_size=9, unique=True))
    def add(self, numbers):
        ids = [f"\u00e9{n}" if self.text else n for n in numbers]
        rows = self.vectors(len(ids))
        if any(each in self.model for each in ids):
            with pytest.raises(ValueError, match="must be new"):
                self.index.add(rows, ids)
            return
        assert self.index.add(rows, ids).tolist() == ids
        self.model.update(zip(ids, rows))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def update(self, data):
        ids = data.draw(st.lists(st.sampled_from(list(self.model)), max_size=5, unique=True))
        rows = self.vectors(len(ids))
        self.index.update(ids, rows)
        self.model.update(zip(ids, rows))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data):
        ids = data.draw(st.lists(st.sampled_from(list(self.model)), max_size=5, unique=True))
        self.index.remove(ids)
        for each in ids:
            del self.model[each]

    @precondition(lambda self: not self.text)
    @rule(count=st.integers(1, 4))
    def number(self, count):
        rows = self.vectors(count)
        start = max(self.model) + 1 if self.model else 0
        assert self.index.add(rows).tolist() == list(range(start, start + count))
        self.model.update(zip(range(start, start + count), rows))

    @invariant()
    def is_the_model(self):
        if not hasattr(self, "index"):
            return
        ids = list(self.model)
        assert list(self.index) == ids == self.index.ids.tolist()
        assert len(self.index) == len(ids) <= self.index.capacity
        rows = np.array(list(self.model.values()), self.dtype).reshape(-1, 5)
        assert same_bits(self.index.vectors, rows)
        for each in ids[:3]:
            assert each in self.index and same_bits(self.index[each], self.model[each])
        assert ("nowhere" if self.text else 1000) not in self.index
        query = normal((5,), np.float32, "query")
        found = self.index.search(query, 4)
        if ids:
            wide = rows.astype(np.float64 if self.dtype == np.float64 else np.float32)
            scores = ruvector.batched_dot_products(query.astype(wide.dtype), wide) * wide.dtype.type(1 / math.sqrt(5))
            places = reference.order(scores[None], 4)[0]
            assert found.ids.tolist() == [ids[i] for i in places]
            assert same_bits(found.scores, scores[places])
        else:
            assert found.ids.shape == (0,)


TestChanges = Changes.TestCase
TestChanges.settings = hypothesis.settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_a_refused_change_changes_nothing():
    index = made(normal((4, 3), np.float32, "kept"), ids=[1, 2, 3, 4])
    before, ids = index.vectors.copy(), index.ids
    ball = AttentionIndex(2, "poincare")
    ball.add([[0.1, 0.2]])
    for call in (
        lambda: index.add(np.ones((2, 3)), [9, 4]),
        lambda: index.add(np.ones((2, 3)), [9, 9]),
        lambda: index.update([1, 9], np.ones((2, 3))),
        lambda: index.update([1], np.ones((2, 3))),
        lambda: index.remove([1, 9]),
        lambda: index.add(np.ones((1, 3)), ["text"]),
        lambda: ball.add([[0.1, 0.1], [2.0, 2.0]]),
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            call()
    assert same_bits(index.vectors, before) and index.ids.tolist() == ids.tolist() and len(ball) == 1


def test_room_doubles_and_vectors_start_on_a_cache_line():
    index, moves = AttentionIndex(16), 0
    for i in range(1000):
        before = index.capacity
        index.add(np.full(16, i), i)
        moves += index.capacity != before
        assert index.vectors.ctypes.data % 64 == 0
    assert moves <= 11 and index.capacity < 2048
    fixed = AttentionIndex(16, capacity=500)
    fixed.add(np.ones((500, 16)))
    assert fixed.capacity == 500
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0] = 1


def test_removing_moves_rows_without_a_second_table():
    index = made(normal((20000, 64), np.float32, "move"))
    expected = index.vectors[1:].copy()
    assert peak_allocation(lambda: index.remove(0)) < index.vectors.nbytes / 2
    assert same_bits(index.vectors, expected)


def test_an_emptied_index_takes_the_other_kind_of_ids():
    index = made(np.eye(3), ids=[5, 6, 7])
    index.remove([7, 5, 6])
    assert index.add(np.eye(3), ["a", "b", "c"]).tolist() == ["a", "b", "c"]
    index.remove(["a", "b", "c"])
    assert index.add(np.eye(3)).tolist() == [0, 1, 2]


def test_heads_are_checked_for_types_without_them():
    assert AttentionIndex(768, "flash", 8, head_dim=96).attention_type.name == "flash_v2"
    assert AttentionIndex(768, "multi_head", head_dim=96).query_dim == 768
    assert "16 vectors of width 16" in repr(made(np.eye(16)))


def test_bytes_of_16_bit_storage():
    rows = normal((30, 8), np.float16, "half")
    index = made(rows)
    assert same_bits(index.vectors, rows) and bits(index[3]).tolist() == bits(rows[3]).tolist()
    assert index.search(rows[0].astype(np.float32), 3).scores.dtype == np.float32
