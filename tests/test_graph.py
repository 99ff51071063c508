"""Graph attention: GAT, GATv2, their layer and types, sorted edges, the search among in-neighbours."""

import itertools
import pickle

import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, DLPackOnly, generator, normal, peak_allocation, same_bits

CSRGraph, GATLayer = ruvector.CSRGraph, ruvector.GATLayer

# heads, width of a head: lanes are filled, half filled, straddled by heads, left over
SHAPES = (
    (1, 1),
    (1, 16),
    (1, 70),
    (2, 7),
    (3, 5),
    (4, 16),
    (5, 33),
    (8, 8),
    (8, 3),
    (16, 2),
    (17, 3),
    (2, 130),
    (4, 32),
)
# in-degrees around what a vector, a chain and a row in one go hold
DEGREES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 0, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 300, 0)


def graph_of(degrees, sources, *seed):
    """Edges in random order, target i with degrees[i] of them; sources come twice, and as their own targets."""
    rng = generator("graph", *seed)
    target = np.repeat(np.arange(len(degrees)), degrees)
    source = rng.integers(0, sources, len(target))
    order = rng.permutation(len(target))
    return np.stack([source[order], target[order]])


def random_graph(nodes, edges, *seed):
    """A few nodes without in-edges, edges that come twice, loops."""
    rng = generator("random graph", nodes, edges, *seed)
    targets = rng.permutation(nodes)[: max(1, nodes - nodes // 5)]
    edge_index = np.stack([rng.integers(0, nodes, edges), targets[rng.integers(0, len(targets), edges)]])
    edge_index[:, : edges // 10] = edge_index[:, edges - edges // 10 :]
    edge_index[0, edges // 2 : edges // 2 + edges // 10] = edge_index[1, edges // 2 : edges // 2 + edges // 10]
    return edge_index


def weights_of(version, heads, width, inputs, dtype, *seed):
    """What gat or gatv2 take behind the edges."""
    matrix = lambda name: normal((heads, inputs, width), dtype, name, *seed, scale=inputs**-0.5)
    vector = lambda name: normal((heads, width), dtype, name, *seed, scale=width**-0.5)
    return (matrix("w"), vector("a"), vector("b")) if version == 1 else (matrix("l"), matrix("r"), vector("a"))


def functions(version):
    return (ruvector.gat, reference.gat) if version == 1 else (ruvector.gatv2, reference.gatv2)


BOTH = pytest.mark.parametrize("version", (1, 2))


# Values --------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("heads", "width"), SHAPES)
def test_every_shape_and_degree(isa, dtype_name, dtype, version, heads, width):
    ours, oracle = functions(version)
    edge_index = graph_of(DEGREES, len(DEGREES), heads, width)
    x = normal((len(DEGREES), 6), dtype, "x")
    weights = weights_of(version, heads, width, 6, dtype, heads, width)
    expected = oracle(x, edge_index, *weights)
    out, (edges, alpha) = ours(x, edge_index, *weights, return_attention_weights=True)
    expected.check(out, f"{heads} x {width}")
    np.testing.assert_array_equal(edges, edge_index)
    assert alpha.dtype == dtype
    reference.within(alpha, expected.weights, expected.weights_bound, f"weights {heads} x {width}")
    assert same_bits(ours(x, edge_index, *weights), out), "the weights cost no bit"
    assert (out[np.array(DEGREES) == 0] == 0).all()


@pytest.mark.parametrize("dtype_name", ("float32", "float64"))
@BOTH
def test_hubs_are_as_exact_as_other_nodes(isa, dtype_name, version, threads):
    """100,000 edges into one node, and the degrees at which a row is split; the bound does not know the degree."""
    dtype, (ours, oracle) = DTYPES[dtype_name], functions(version)
    if dtype == np.float64 and not reference.LONG_IS_FAST:
        pytest.skip("a float64 oracle loses more in 100,000 additions than what it is to judge")
    degrees = (100_000, 3, 16383, 16384, 16385, 32768, 32769, 0)
    edge_index = graph_of(degrees, 50, "hub")
    x, heads, width = (normal((50, 6), dtype, "hub sources"), normal((8, 6), dtype, "hub targets")), 2, 9
    weights = weights_of(version, heads, width, 6, dtype, "hub")
    expected = oracle(x, edge_index, *weights)
    results = []
    for n in (1, 2, 3, 8):
        ruvector.set_num_threads(n)
        results.append(ours(x, edge_index, *weights, return_attention_weights=True))
    out, (_, alpha) = results[0]
    expected.check(out)
    reference.within(alpha, expected.weights, expected.weights_bound, "weights")
    for other, (_, beta) in results[1:]:
        assert same_bits(other, out)
        assert same_bits(beta, alpha)


def test_constant_features_come_back_from_a_hub(isa):
    """A plain sum of a million equal float32 terms is off by a hundredth."""
    edge_index = np.stack([np.arange(1_000_000) % 7, np.zeros(1_000_000, int)])
    x = np.full((7, 1), 0.1, np.float32)
    out = ruvector.gat(x, edge_index, np.ones((2, 1, 3), np.float32), *np.ones((2, 2, 3), np.float32))
    assert np.abs(out[0].astype(float) / np.float32(0.1) - 1).max() <= 8 * 2.0**-24


@BOTH
def test_large_logits_select_one_source(isa, dtype_name, dtype, version):
    """Differences of thousands: the largest logit takes all, in short rows and in hubs."""
    ours, _ = functions(version)
    for degree in (3, 40, 400):
        edge_index = np.stack([np.arange(degree), np.zeros(degree, int)])
        x = np.zeros((degree, 2), dtype)
        x[:, 0], x[degree // 2, 1] = np.arange(degree) % 11, 1
        w = np.eye(2, dtype=dtype)[None]
        large = np.array([[0, 3000]], dtype)
        weights = (w, large, np.zeros((1, 2), dtype)) if version == 1 else (w, w, large)
        out = ours(x, edge_index, *weights)
        np.testing.assert_array_equal(out[0], x[degree // 2])
        weights = (w, -large, np.zeros((1, 2), dtype)) if version == 1 else (w, w, -large)
        out = ours(x, edge_index, *weights, negative_slope=1.0)
        rest = np.delete(x[:, 0].astype(float), degree // 2).mean()
        assert abs(float(out[0, 0]) - rest) <= 16 * reference.storage_unit(dtype) * 10
        assert out[0, 1] == 0


@BOTH
def test_random_graphs(isa, version):
    """Many small graphs: every combination of sizes that a generator comes up with."""
    ours, oracle = functions(version)
    rng = generator("graphs", version)
    for case in range(60):
        nodes, edges = int(rng.integers(1, 40)), int(rng.integers(0, 300))
        heads, width, inputs = (int(rng.integers(1, n)) for n in (10, 20, 12))
        dtype = DTYPES[("float32", "float64")[case % 2]]
        edge_index = random_graph(nodes, edges, case)
        x, weights = normal((nodes, inputs), dtype, case), weights_of(version, heads, width, inputs, dtype, case)
        options = {
            "concat": bool(rng.integers(2)),
            "add_self_loops": bool(rng.integers(2)),
            "negative_slope": rng.normal(),
        }
        out = ours(x, edge_index, *weights, **options)
        oracle(x, edge_index, *weights, **options).check(out, f"{nodes} {edges} {heads} x {width} {options}")


# Options -------------------------------------------------------------------------------------------------------------


OPTIONS = (
    {},
    {"negative_slope": 0.9},
    {"negative_slope": -1.5},
    {"concat": False},
    {"add_self_loops": True},
    {"bias": True},
)


@BOTH
def test_options_have_their_effect(isa, dtype_name, dtype, version):
    ours, oracle = functions(version)
    nodes, heads, width = 31, 4, 12
    edge_index = random_graph(nodes, 150)
    x, weights = normal((nodes, 7), dtype, "x"), weights_of(version, heads, width, 7, dtype)
    edge_attr, w_edge = normal((150, 3), dtype, "edges"), normal((heads, 3, width), dtype, "w_edge")
    edge = {"edge_attr": edge_attr, "w_edge": w_edge}
    if version == 1:
        edge["a_edge"] = normal((heads, width), dtype, "a_edge")
    cases = [
        *OPTIONS,
        edge,
        {**edge, "add_self_loops": True},
        {**edge, "concat": False, "bias": True, "add_self_loops": True},
    ]
    seen = []
    for options in cases:
        if "bias" in options:
            options = {
                **options,
                "bias": normal(heads * width if options.get("concat", True) else width, dtype, "bias"),
            }
        expected = oracle(x, edge_index, *weights, **options)
        out, (edges, alpha) = ours(x, edge_index, *weights, return_attention_weights=True, **options)
        expected.check(out, f"{list(options)}")
        np.testing.assert_array_equal(edges, expected.edge_index)
        reference.within(alpha, expected.weights, expected.weights_bound, f"weights {list(options)}")
        seen.append(out.astype(float))
    for a, b in itertools.combinations(seen, 2):
        assert a.shape != b.shape or np.abs(a - b).max() > 0.01
    column = {**edge, "edge_attr": edge_attr[:, 0], "w_edge": w_edge[:, :1]}
    expected = oracle(x, edge_index, *weights, **column)
    expected.check(ours(x, edge_index, *weights, **column), "one feature for each edge")


@BOTH
def test_bipartite_graphs(isa, dtype_name, dtype, version):
    ours, oracle = functions(version)
    sources, targets = normal((23, 5), dtype, "sources"), normal((9, 4), dtype, "targets")
    edge_index = graph_of((0, 3, 40, 1, 0, 150, 2, 7, 9), 23, "bipartite")
    w_src, a, b = weights_of(1, 3, 8, 5, dtype)
    w_dst = normal((3, 4, 8), dtype, "w_dst")
    weights = ((w_src, w_dst), a, b) if version == 1 else (w_dst, w_src, a)
    for options in ({}, {"add_self_loops": True}):
        expected = oracle((sources, targets), edge_index, *weights, **options)
        out = ours((sources, targets), edge_index, *weights, **options)
        assert out.shape == (9, 24)
        expected.check(out, f"{options}")
        graph = CSRGraph.from_coo(edge_index, (23, 9))
        assert same_bits(ours((sources, targets), graph, *weights, **options), out)
    if version == 1:
        same = normal((9, 5), dtype, "same width")
        reference.gat((sources, same), edge_index, w_src, a, b).check(
            ruvector.gat((sources, same), edge_index, w_src, a, b), "one projection for both sides"
        )


def test_features_as_a_pair_of_the_same_nodes_are_a_bipartite_graph(isa):
    x = normal((12, 5), np.float32, "x")
    edge_index, weights = random_graph(12, 50), weights_of(1, 2, 4, 5, np.float32)
    assert same_bits(ruvector.gat((x, x.copy()), edge_index, *weights), ruvector.gat(x, edge_index, *weights))


@BOTH
def test_self_loops_replace_those_that_exist(isa, version):
    ours, _ = functions(version)
    edge_index = np.array([[0, 1, 1, 2, 2], [1, 1, 0, 2, 2]])
    x, weights = normal((4, 3), np.float32, "x"), weights_of(version, 2, 3, 3, np.float32)
    out, (edges, alpha) = ours(x, edge_index, *weights, add_self_loops=True, return_attention_weights=True)
    np.testing.assert_array_equal(edges, [[0, 1, 0, 1, 2, 3], [1, 0, 0, 1, 2, 3]])
    assert alpha.shape == (6, 2)
    np.testing.assert_array_equal(alpha[4:], 1)
    assert same_bits(ours(x, edges, *weights), out), "the same edges, given"


def test_isolated_nodes_give_zero_or_the_bias(isa, dtype_name, dtype):
    x, edge_index, bias = normal((5, 3), dtype, "x"), np.array([[0, 1], [1, 0]]), normal(8, dtype, "bias")
    for version in (1, 2):
        ours, _ = functions(version)
        weights = weights_of(version, 2, 4, 3, dtype)
        assert (ours(x, edge_index, *weights)[2:] == 0).all()
        np.testing.assert_array_equal(ours(x, edge_index, *weights, bias=bias)[2:], np.tile(bias, (3, 1)))
        mean = ours(x, edge_index, *weights, bias=bias[:4], concat=False)
        np.testing.assert_array_equal(mean[2:], np.tile(bias[:4], (3, 1)))


@BOTH
def test_empty_graphs(isa, dtype_name, dtype, version):
    ours, _ = functions(version)
    weights, none = weights_of(version, 2, 4, 3, dtype), np.empty((2, 0), np.int64)
    x = normal((5, 3), dtype, "x")
    for edges in (none, none.astype(np.int32), [[], []], CSRGraph.from_coo(none, 5)):
        out, (edge_index, alpha) = ours(x, edges, *weights, return_attention_weights=True)
        assert same_bits(out, np.zeros((5, 8), dtype))
        assert edge_index.shape == (2, 0)
        assert alpha.shape == (0, 2)
    assert ours(x[:0], none, *weights).shape == (0, 8)
    assert ours(x[:0], none, *weights, add_self_loops=True).shape == (0, 8)
    assert ours(x, none, *weights, add_self_loops=True).any(1).all()
    assert ours((x, x[:0]), none, *weights).shape == (0, 8)
    assert (ours((x[:0], x), none, *weights) == 0).all()


# What results do not depend on ---------------------------------------------------------------------------------------


@BOTH
def test_threads_do_not_change_a_bit(isa, dtype_name, dtype, version, threads):
    ours, _ = functions(version)
    nodes, heads, width = 3000, 4, 16
    edge_index = random_graph(nodes, 60_000, "threads")
    x, weights = normal((nodes, 8), dtype, "x"), weights_of(version, heads, width, 8, dtype)
    results = []
    for n in (1, 2, 3, 8):
        ruvector.set_num_threads(n)
        out, (_, alpha) = ours(x, edge_index, *weights, add_self_loops=True, return_attention_weights=True)
        results.append((out, alpha))
    for out, alpha in results[1:]:
        assert same_bits(out, results[0][0])
        assert same_bits(alpha, results[0][1])


@BOTH
def test_the_order_of_edges_matters_within_the_bound_alone(isa, dtype_name, dtype, version):
    ours, oracle = functions(version)
    edge_index = graph_of(DEGREES, len(DEGREES), "order")
    x, weights = normal((len(DEGREES), 6), dtype, "x"), weights_of(version, 4, 9, 6, dtype)
    expected = oracle(x, edge_index, *weights)
    for seed in range(3):
        order = generator("order", seed).permutation(edge_index.shape[1])
        expected.check(ours(x, edge_index[:, order], *weights))


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_a_row_does_not_depend_on_its_neighbours(isa, dtype_name, dtype, name):
    """Each target alone, and the targets in another order, to the bit. The types project nothing: a BLAS may not keep bits."""
    edge_index, count = graph_of(DEGREES, 11, "alone"), len(DEGREES)
    q, k, v = normal((count, 24), dtype, "q"), normal((11, 24), dtype, "k"), normal((11, 36), dtype, "v")
    together = ruvector.attention(q, k, v, name, num_heads=4, edge_index=edge_index)
    for i in range(count):
        mine = edge_index[0][edge_index[1] == i]
        alone = np.stack([mine, np.zeros_like(mine)])
        assert same_bits(ruvector.attention(q[i], k, v, name, num_heads=4, edge_index=alone), together[i]), i
    order = generator("nodes").permutation(count)
    moved = np.stack([edge_index[0], np.argsort(order)[edge_index[1]]])
    assert same_bits(ruvector.attention(q[order], k, v, name, num_heads=4, edge_index=moved), together[order])


def test_instruction_sets_agree_within_the_bound():
    edge_index = graph_of(DEGREES, len(DEGREES), "isas")
    x, weights = normal((len(DEGREES), 6), np.float32, "x"), weights_of(1, 4, 9, 6, np.float32)
    expected = reference.gat(x, edge_index, *weights)
    for name in ruvector.isas():
        with ruvector.use_isa(name):
            expected.check(ruvector.gat(x, edge_index, *weights), name)


# Bad numbers ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_nan_reaches_the_nodes_that_see_it_alone(isa, version, bad):
    """Along edges, and to the node itself if it has any; short rows, long rows, hubs."""
    ours, _ = functions(version)
    degrees = (*DEGREES, 20_000)
    edge_index = graph_of(degrees, 60, "nan")
    edge_index[0][edge_index[0] == 7] = 8
    edge_index[0, 5] = 7
    x = normal((60, 6), np.float32, "nan sources"), normal((len(degrees), 6), np.float32, "nan targets")
    weights = weights_of(version, 4, 5, 6, np.float32)
    clean = ours(x, edge_index, *weights)
    x[0][7] = bad
    out = ours(x, edge_index, *weights)
    hit = np.zeros(len(degrees), bool)
    hit[edge_index[1][edge_index[0] == 7]] = True
    assert hit.any()
    assert np.isnan(out[hit]).any(1).all()
    assert same_bits(out[~hit], clean[~hit])
    x[0][7] = 0
    clean = ours(x, edge_index, *weights)
    for node in (1, 12, len(degrees) - 1):
        targets = x[1].copy()
        targets[node] = np.nan
        out = ours((x[0], targets), edge_index, *weights)
        assert np.isnan(out[node]).all() == (degrees[node] > 0)
        assert same_bits(np.delete(out, node, 0), np.delete(clean, node, 0))


def test_bad_edge_features_reach_their_target_alone(isa):
    edge_index = random_graph(20, 90)
    x, (w, a, b) = normal((20, 4), np.float32, "x"), weights_of(1, 2, 5, 4, np.float32)
    edge = {"w_edge": normal((2, 3, 5), np.float32, "w_edge"), "a_edge": normal((2, 5), np.float32, "a_edge")}
    attr = normal((90, 3), np.float32, "attr")
    clean = ruvector.gat(x, edge_index, w, a, b, edge_attr=attr, **edge)
    attr[17, 1] = np.nan
    out = ruvector.gat(x, edge_index, w, a, b, edge_attr=attr, **edge)
    others = np.arange(20) != edge_index[1, 17]
    assert np.isnan(out[edge_index[1, 17]]).all()
    assert same_bits(out[others], clean[others])


def test_logits_beyond_the_range_give_nan_or_the_right_row(isa):
    """Never a finite wrong number; +inf is NaN, as in softmax."""
    edge_index = np.array([[0, 1, 2, 0, 1], [0, 0, 0, 1, 1]])
    x = np.array([[1.0], [2.0], [3.0]], np.float32)
    w, zero = np.ones((1, 1, 1), np.float32), np.zeros((1, 1), np.float32)
    for size in (1e37, 3e38, np.inf):
        out = ruvector.gat(x, edge_index, w, np.full((1, 1), size, np.float32), zero)
        assert np.isnan(out[0, 0]) or out[0, 0] == 3
        assert np.isnan(out[1, 0]) or out[1, 0] == 2
    assert np.isnan(ruvector.gat(x, edge_index, w, np.full((1, 1), np.inf, np.float32), zero)[:2]).all()
    low = ruvector.gat(x, edge_index, w, np.full((1, 1), -np.inf, np.float32), zero, negative_slope=1.0)
    assert np.isnan(low[:2]).all(), "all logits are -inf"
    many = np.stack([np.zeros(1000, int), np.zeros(1000, int)])
    assert np.isnan(ruvector.gat(x, many, w, np.full((1, 1), -np.inf, np.float32), zero, negative_slope=1.0)[0]).all()


# Inputs --------------------------------------------------------------------------------------------------------------


def test_edges_of_any_integer_type_and_layout(isa):
    edge_index = random_graph(30, 200)
    x, weights = normal((30, 5), np.float32, "x"), weights_of(1, 2, 6, 5, np.float32)
    expected = ruvector.gat(x, edge_index, *weights)
    spread = np.zeros((4, 400), np.int64)
    spread[1:3, ::2] = edge_index
    forms = [edge_index.astype(t) for t in "bBhHiIlLqQ"] + [
        edge_index.astype(">i4"),
        edge_index.astype(">i8"),
        np.asfortranarray(edge_index),
        np.ascontiguousarray(edge_index.T).T,
        spread[1:3, ::2],
        edge_index[:, ::-1].copy()[:, ::-1],
        edge_index.tolist(),
        tuple(map(tuple, edge_index)),
        DLPackOnly(edge_index),
        np.frombuffer(b"\0" + edge_index.tobytes(), np.uint8)[1:].view(np.int64).reshape(2, -1),
    ]
    for form in forms:
        assert same_bits(ruvector.gat(x, form, *weights), expected)


def test_features_and_weights_of_any_layout_and_type(isa, dtype_name, dtype):
    edge_index = random_graph(30, 200)
    x, weights = normal((30, 5), dtype, "x"), weights_of(1, 2, 6, 5, dtype)
    expected = ruvector.gat(x, edge_index, *weights)
    wide = np.zeros((60, 11), dtype)
    wide[::2, 1::2] = x
    locked = x.copy()
    locked.setflags(write=False)
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for form in (
        np.asfortranarray(x),
        wide[::2, 1::2],
        locked,
        odd,
        x.astype(dtype.newbyteorder()) if dtype.kind == "f" else x,
    ):
        assert same_bits(ruvector.gat(form, edge_index, *weights), expected)
    turned = [np.asfortranarray(w) for w in weights]
    assert same_bits(ruvector.gat(x, edge_index, *turned), expected)


def test_mixed_types_follow_promotion(isa):
    edge_index = random_graph(30, 200)
    x, weights = normal((30, 5), np.float32, "x"), weights_of(1, 2, 6, 5, np.float64)
    out = ruvector.gat(x, edge_index, *weights)
    assert out.dtype == np.float64
    reference.gat(x, edge_index, *weights).check(out)
    whole = np.arange(150).reshape(30, 5) % 7
    reference.gat(whole.astype(float), edge_index, *weights).check(ruvector.gat(whole, edge_index, *weights))
    assert ruvector.gat(x.astype(np.float16), edge_index, *(w.astype(np.float32) for w in weights)).dtype == np.float32


def test_inputs_stay_as_they_are(isa):
    edge_index = random_graph(30, 200)
    x, weights = normal((30, 5), np.float32, "x"), weights_of(1, 2, 6, 5, np.float32)
    copies = [a.copy() for a in (x, edge_index, *weights)]
    ruvector.gat(x, edge_index, *weights, add_self_loops=True)
    assert all(map(same_bits, (x, edge_index, *weights), copies))


@BOTH
def test_no_message_of_every_edge_is_held(version):
    """E x heads x out would be 205 MB; sorted edges and projections are 4."""
    ours, _ = functions(version)
    x, edge_index = normal((2000, 8), np.float32, "x"), random_graph(2000, 200_000)
    weights = weights_of(version, 8, 32, 8, np.float32)
    assert peak_allocation(lambda: ours(x, edge_index, *weights)) < 16 * 2**20


# Dropout -------------------------------------------------------------------------------------------------------------


@BOTH
def test_dropout_drops_coefficients_and_scales_the_others(isa, version, threads):
    ours, oracle = functions(version)
    degrees = (*DEGREES, 5000)
    edge_index = graph_of(degrees, 60, "dropout")
    x = normal((60, 6), np.float32, "drop sources"), normal((len(degrees), 6), np.float32, "drop targets")
    weights, options = weights_of(version, 4, 5, 6, np.float32), {"training": True, "rng": 3, "dropout": 0.4}
    plain = ours(x, edge_index, *weights)
    assert same_bits(ours(x, edge_index, *weights, dropout=0.4), plain)
    assert same_bits(ours(x, edge_index, *weights, dropout=0.4, rng=1), plain)
    assert same_bits(ours(x, edge_index, *weights, training=True), plain)
    expected = oracle(x, edge_index, *weights)
    out, (_, alpha) = ours(x, edge_index, *weights, return_attention_weights=True, **options)
    kept = alpha != 0
    assert abs(kept.mean() - 0.6) < 5 * np.sqrt(0.24 / kept.size)
    reference.within(
        alpha[kept] * np.float32(0.6), expected.weights[kept], 2 * expected.weights_bound[kept], "the kept ones"
    )
    w = weights[0] if version == 1 else weights[1]
    h = np.einsum("ni,hic->nhc", x[0].astype(float), w.astype(float))
    sums = np.zeros((len(degrees), 4, 5))
    np.add.at(sums, edge_index[1], alpha[..., None] * h[edge_index[0]])
    np.testing.assert_allclose(out, sums.reshape(len(degrees), -1), rtol=0, atol=1e-5)
    for n in (1, 2, 3):
        ruvector.set_num_threads(n)
        assert same_bits(ours(x, edge_index, *weights, **options), out)
    assert same_bits(ours(x, edge_index, *weights, **{**options, "rng": np.random.default_rng(3)}), out)
    assert not same_bits(ours(x, edge_index, *weights, **{**options, "rng": 4}), out)
    # heads and edges are dropped on their own
    assert all(not np.array_equal(kept[:, a], kept[:, b]) for a, b in itertools.combinations(range(4), 2))


def test_dropout_keeps_the_mean(isa):
    edge_index = random_graph(12, 80)
    x, weights = normal((12, 4), np.float32, "x"), weights_of(1, 2, 3, 4, np.float32)
    plain = reference.gat(x, edge_index, *weights)
    mean = np.mean([ruvector.gat(x, edge_index, *weights, dropout=0.5, training=True, rng=s) for s in range(400)], 0)
    h = np.einsum("ni,hic->nhc", x.astype(float), weights[0].astype(float))
    variance = np.zeros((12, 2, 3))
    np.add.at(variance, edge_index[1], plain.weights[..., None] ** 2 * h[edge_index[0]] ** 2 / 400)
    assert (np.abs(mean - plain.out) <= 6 * np.sqrt(variance).reshape(12, -1) + 1e-6).all()


# Sorted graphs -------------------------------------------------------------------------------------------------------


def test_sorting_is_stable_and_complete(threads):
    for nodes, edges in ((1, 0), (1, 5), (7, 30), (1000, 5000), (40, 400_000), (300_000, 400_000)):
        edge_index = generator("sort", nodes, edges).integers(0, nodes, (2, edges))
        order = np.argsort(edge_index[1], kind="stable")
        for n in (1, 2, 5):
            ruvector.set_num_threads(n)
            for dtype in (np.int32, np.int64):
                graph = CSRGraph.from_coo(edge_index.astype(dtype), nodes)
                np.testing.assert_array_equal(graph.indices, edge_index[0][order])
                np.testing.assert_array_equal(np.diff(graph.indptr), np.bincount(edge_index[1], minlength=nodes))
                np.testing.assert_array_equal(graph.edge_index, edge_index)
                assert graph.indptr.dtype == graph.indices.dtype == np.int32
        loops = graph.with_self_loops()
        expected, _ = reference.self_loops(edge_index, None, nodes)
        np.testing.assert_array_equal(loops.edge_index, expected)
        assert loops.num_edges == expected.shape[1]
        np.testing.assert_array_equal(loops.indices[loops.indptr[1:] - 1], np.arange(nodes))


def test_a_graph_is_the_edges_it_was_made_of(isa):
    edge_index = random_graph(30, 200)
    x, attr = normal((30, 5), np.float32, "x"), normal((200, 3), np.float32, "attr")
    for version in (1, 2):
        ours, _ = functions(version)
        weights = weights_of(version, 2, 6, 5, np.float32)
        edge = {"edge_attr": attr, "w_edge": normal((2, 3, 6), np.float32, "w_edge")}
        if version == 1:
            edge["a_edge"] = normal((2, 6), np.float32, "a_edge")
        graph = CSRGraph.from_coo(edge_index, 30)
        for options in ({}, edge, {"add_self_loops": True}, {**edge, "add_self_loops": True}):
            expected, (edges, alpha) = ours(x, edge_index, *weights, return_attention_weights=True, **options)
            out, (same_edges, same_alpha) = ours(x, graph, *weights, return_attention_weights=True, **options)
            assert same_bits(out, expected)
            assert same_bits(same_alpha, alpha)
            np.testing.assert_array_equal(same_edges, edges)
        looped = graph.with_self_loops()
        assert same_bits(ours(x, looped, *weights, **edge), ours(x, edge_index, *weights, add_self_loops=True, **edge))
        assert same_bits(ours(x, looped, *weights, add_self_loops=True), ours(x, looped, *weights)), "loops once"


def test_from_csr_is_the_sorted_list(isa):
    edge_index = random_graph(30, 200)
    graph = CSRGraph.from_coo(edge_index, 30)
    again = CSRGraph.from_csr(graph.indptr.astype(np.int64), graph.indices.tolist())
    x, weights = normal((30, 5), np.float32, "x"), weights_of(1, 2, 6, 5, np.float32)
    assert same_bits(ruvector.gat(x, again, *weights), ruvector.gat(x, graph, *weights))
    np.testing.assert_array_equal(again.edge_index, edge_index[:, np.argsort(edge_index[1], kind="stable")])
    assert again.num_nodes == 30
    assert CSRGraph.from_csr([0, 1], [4], (5, 1)).num_nodes == (5, 1)
    empty = CSRGraph.from_csr([0], np.empty(0, int))
    assert empty.num_nodes == empty.num_edges == 0


def test_graphs_are_values():
    edge_index = random_graph(30, 200)
    a, b = CSRGraph.from_coo(edge_index, 30), CSRGraph.from_coo(edge_index.astype(np.int32), (30, 30))
    assert a == b
    assert hash(a) == hash(b)
    assert a != CSRGraph.from_coo(edge_index, 31)
    assert a != a.with_self_loops()
    assert a.with_self_loops() == b.with_self_loops()
    assert a.with_self_loops().with_self_loops() == a.with_self_loops()
    assert a != "graph"
    for again in (pickle.loads(pickle.dumps(a)), pickle.loads(pickle.dumps(a.with_self_loops()))):
        assert again in (a, a.with_self_loops())
        assert not again.indices.flags.writeable
    assert "200 edges" in repr(a)
    assert "30" in repr(a)
    with pytest.raises(AttributeError):
        a.indices = b.indices
    with pytest.raises(ValueError, match="read-only"):
        a.indices[0] = 1000
    with pytest.raises(TypeError, match="from_coo"):
        CSRGraph()
    assert CSRGraph.from_coo([[0, 5], [2, 1]]).num_nodes == 6
    assert CSRGraph.from_coo(np.empty((2, 0), int)).num_nodes == 0


# The layer -----------------------------------------------------------------------------------------------------------


@BOTH
def test_layer_is_the_function_with_its_weights(isa, version):
    ours, _ = functions(version)
    edge_index = random_graph(30, 200)
    x, attr = normal((30, 5), np.float32, "x"), normal((200, 3), np.float32, "attr")
    for options in (
        {},
        {"concat": False},
        {"negative_slope": 0.5},
        {"add_self_loops": True},
        {"edge_features": 3},
        {"bias": False},
    ):
        layer = GATLayer(5, 4, num_heads=3, version=version, rng=1, **options)
        given = (attr,) if "edge_features" in options else ()
        others = {k: v for k, v in options.items() if k not in ("edge_features", "bias")}
        if given:
            others["edge_attr"] = attr
        out = layer(x, edge_index, *given)
        assert out.dtype == np.float32
        assert same_bits(out, ours(x, edge_index, **layer.weights, **others))
        assert out.shape == (30, 4 if options.get("concat") is False else 12)
        assert ("bias" in layer.weights) == options.get("bias", True)
        again = GATLayer.from_dict(layer.to_dict())
        assert same_bits(again(x, edge_index, *given), out)
        assert same_bits(pickle.loads(pickle.dumps(layer))(x, edge_index, *given), out)
        assert repr(again) == repr(layer)
        assert all(f"{k}={v!r}" in repr(layer) for k, v in options.items())
    weights = dict(layer.weights)
    same = GATLayer(5, 4, 3, version=version, bias=False, weights=weights)
    assert all(same_bits(same.weights[name], w) for name, w in weights.items())
    dropped = GATLayer(5, 4, 3, version=version, dropout=0.5, rng=1)
    assert not same_bits(dropped(x, edge_index, training=True, rng=2), dropped(x, edge_index))
    assert same_bits(dropped(x, edge_index, training=True, rng=2), dropped(x, edge_index, training=True, rng=2))
    weighed, (edges, alpha) = dropped(x, edge_index, return_attention_weights=True)
    assert same_bits(weighed, dropped(x, edge_index))
    assert alpha.shape == (200, 3)


@BOTH
def test_layer_draws_its_weights(version):
    layer = GATLayer(64, 32, num_heads=4, version=version, edge_features=8, rng=np.random.default_rng(5))
    for name, w in layer.weights.items():
        assert w.dtype == np.float32
        assert not w.flags.writeable
        if name == "bias":
            assert not w.any()
            continue
        fan = 4 + 32 if w.ndim == 2 else w.shape[1] + 4 * 32
        limit = np.sqrt(6 / fan)
        assert np.abs(w).max() <= limit
        assert np.abs(w).max() > 0.9 * limit
        assert abs(w.mean()) < 4 * limit / np.sqrt(3 * w.size)
        assert abs(w.std() / (limit / np.sqrt(3)) - 1) < 0.2
    assert len({w.tobytes() for w in layer.weights.values()}) == len(layer.weights)
    fixed = GATLayer(64, 32, num_heads=4, version=version, edge_features=8)
    again = GATLayer(64, 32, num_heads=4, version=version, edge_features=8)
    assert all(same_bits(fixed.weights[k], w) for k, w in again.weights.items())
    for seed, name in enumerate(n for n in fixed.weights if n != "bias"):
        w = fixed.weights[name]
        fan = 4 + 32 if w.ndim == 2 else w.shape[1] + 4 * 32
        assert same_bits(w, (reference.fixed_uniform(seed, w.shape) * np.sqrt(6 / fan)).astype(np.float32)), name
    assert GATLayer(4, 3, dtype=np.float64).weights["w"].dtype == np.float64
    vectors = fixed.attention_weights
    if version == 1:
        assert same_bits(vectors, np.concatenate([fixed.weights["a_src"], fixed.weights["a_dst"]], 1))
    else:
        assert vectors is fixed.weights["a"]


def test_layer_cannot_be_changed():
    layer = GATLayer(4, 3)
    with pytest.raises(AttributeError):
        layer.num_heads = 2
    with pytest.raises(ValueError, match="read-only"):
        layer.weights["w"][0] = 1


@pytest.mark.parametrize(("features", "edge_features", "heads"), ((64, 16, 4), (32, 8, 2), (16, 4, 1)))
def test_edge_featured_layer_keeps_the_width(isa, features, edge_features, heads):
    layer = GATLayer(features, features // heads, heads, edge_features=edge_features)
    x, attr = normal((9, features), np.float32, "x"), normal((20, edge_features), np.float32, "attr")
    assert layer(x, random_graph(9, 20), attr).shape == (9, features)


# The types -----------------------------------------------------------------------------------------------------------


def type_vectors(name, heads, width):
    vector = lambda seed: normal((heads, width), np.float64, "type vector", seed)
    return {"a_src": vector(1), "a_dst": vector(2)} if name == "gat" else {"a": vector(3)}


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_types_attend_along_edges(isa, dtype_name, dtype, name):
    oracle = reference.TYPES[name]
    for lead, q_len, kv_len in (((), 9, 30), ((2,), 12, 12), ((2, 3), 5, 8)):
        edge_index = graph_of(generator(q_len).integers(0, 20, q_len), kv_len, "type")
        q, k = normal((*lead, q_len, 24), dtype, "q"), normal((*lead, kv_len, 24), dtype, "k")
        v = normal((*lead, kv_len, 12), dtype, "v")
        options = {"num_heads": 4, "edge_index": edge_index, **type_vectors(name, 4, 6)}
        plain = oracle(q, k, v, **options)
        out = ruvector.attention(q, k, v, name, **options)
        reference.check(out, plain, f"{lead}")
        graph = CSRGraph.from_coo(edge_index, (kv_len, q_len))
        assert same_bits(ruvector.attention(q, k, v, name, **{**options, "edge_index": graph}), out)
        mask = generator("mask", q_len).random((q_len, kv_len)) < 0.7
        bias = np.where(mask, normal((q_len, kv_len), np.float32, "bias"), -np.inf).astype(np.float32)
        heads = generator("heads", q_len).random((*lead, 4, q_len, kv_len)) < 0.7
        changes = (
            {"mask": mask},
            {"mask": bias},
            {"causal": True},
            {"scale": -0.7},
            {"mask": heads},
            {"negative_slope": -0.5},
        )
        for change in (*changes, {"mask": heads, "causal": True}):
            result = ruvector.attention(q, k, v, name, **options, **change)
            expected = oracle(q, k, v, **options, **change)
            reference.check(result, expected, f"{lead} {list(change)}")
            assert (np.abs(result - plain.out) > 10 * plain.bound()).any(), f"{list(change)} changes nothing"


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_all_pairs_are_the_complete_graph(isa, name):
    q, k, v = (
        normal((2, 9, 16), np.float32, "q"),
        normal((2, 21, 16), np.float32, "k"),
        normal((2, 21, 24), np.float32, "v"),
    )
    pairs = np.stack([np.tile(np.arange(21), 9), np.repeat(np.arange(9), 21)])
    assert same_bits(ruvector.attention(q, k, v, name), ruvector.attention(q, k, v, name, edge_index=pairs))
    everything = np.ones((9, 21), bool)
    assert same_bits(ruvector.attention(q, k, v, name), ruvector.attention(q, k, v, name, mask=everything))


def test_type_gat_is_the_function_without_projection(isa):
    x = normal((30, 8), np.float32, "x")
    edge_index, (_, a, b) = random_graph(30, 200), weights_of(1, 2, 4, 8, np.float32)
    unit = np.eye(8, dtype=np.float32).reshape(8, 2, 4).transpose(1, 0, 2)
    function = ruvector.gat(x, edge_index, unit, a, b)
    assert same_bits(ruvector.attention(x, x, x, "gat", num_heads=2, edge_index=edge_index, a_src=a, a_dst=b), function)


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_hidden_edges_leave_no_trace(isa, name):
    q, k, v = normal((9, 16), np.float32, "q"), normal((21, 16), np.float32, "k"), normal((21, 24), np.float32, "v")
    mask = np.arange(21) < 15
    heads = np.broadcast_to(mask, (8, 9, 21)).copy()
    expected = ruvector.attention(q, k, v, name, mask=mask)
    each = ruvector.attention(q, k, v, name, mask=heads)
    k[15:], v[15:] = np.nan, np.inf
    assert same_bits(ruvector.attention(q, k, v, name, mask=mask), expected)
    assert same_bits(ruvector.attention(q, k, v, name, mask=heads), each)
    heads[3, 2, 16] = True
    out = ruvector.attention(q, k, v, name, mask=heads)
    assert np.isnan(out[2, 9:12]).all()
    out[2, 9:12] = each[2, 9:12]
    assert same_bits(out, each), "a head sees what the others do not"
    edges = np.stack([np.tile(np.arange(15), 9), np.repeat(np.arange(9), 15)])
    assert same_bits(ruvector.attention(q, k, v, name, edge_index=edges), expected)


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_weights_and_scores_of_the_types(isa, dtype_name, dtype, name):
    edge_index = graph_of((0, 4, 30, 1, 9), 12, "scores")
    q, k = normal((2, 5, 24), dtype, "q"), normal((2, 12, 24), dtype, "k")
    for options in ({}, {"mask": np.arange(12) % 3 > 0}, {"causal": True}):
        options = {"num_heads": 4, "edge_index": edge_index, **type_vectors(name, 4, 6), **options}
        expected = reference.Weights(reference.TYPES[name](q, k, np.ones((2, 12, 4), dtype), **options))
        reference.within(
            ruvector.attention_scores(q, k, name, **options), expected.exact, expected.bound, "edges twice count twice"
        )
    vectors = type_vectors(name, 4, 6)
    score = ruvector.attention_score(q[0], k[0, :5], name, num_heads=4, **vectors)
    assert score.dtype == dtype
    x, y = (a.astype(float).reshape(5, 4, 6) for a in (q[0], k[0, :5]))
    if name == "gat":
        exact = reference.leaky((x * vectors["a_dst"]).sum(-1) + (y * vectors["a_src"]).sum(-1), 0.2)
    else:
        exact = (reference.leaky(x + y, 0.2) * vectors["a"]).sum(-1)
    np.testing.assert_allclose(score.astype(float), exact.mean(-1), rtol=4 * reference.storage_unit(dtype), atol=1e-12)
    half = ruvector.attention_score(q[0, 0], k[0, 0], name, num_heads=4, scale=-0.5, **vectors)
    assert half == -0.5 * score[0]


@pytest.mark.parametrize("name", ("gat", "gatv2"))
def test_dropout_of_the_types(isa, name):
    q, k, v = (normal((2, 9, 16), np.float32, role) for role in "qkv")
    plain = ruvector.attention(q, k, v, name)
    assert same_bits(ruvector.attention(q, k, v, name, dropout=0.5), plain)
    out = ruvector.attention(q, k, v, name, dropout=0.5, training=True, rng=1)
    assert same_bits(ruvector.attention(q, k, v, name, dropout=0.5, training=True, rng=1), out)
    assert not same_bits(out, plain)
    assert not same_bits(out[0], ruvector.attention(q[1], k[1], v[1], name, dropout=0.5, training=True, rng=1))
    heads = np.ones((2, 8, 9, 9), bool)
    split = ruvector.attention(q, k, v, name, mask=heads, dropout=0.5, training=True, rng=1)
    assert not same_bits(split, plain)


def test_types_are_found_under_the_names_of_the_enum():
    for made, name in ((ruvector.AttentionType.GAT, "gat"), (ruvector.AttentionType.GATv2, "gatv2")):
        kind = made(num_heads=2)
        assert kind == ruvector.AttentionType(name, num_heads=2)
        q, k, v = (normal((5, 8), np.float32, role) for role in "qkv")
        assert same_bits(ruvector.attention(q, k, v, kind), ruvector.attention(q, k, v, name, num_heads=2))
    graph = CSRGraph.from_coo([[0, 1], [1, 0]])
    kinds = [
        ruvector.AttentionType.GAT(edge_index=edges) for edges in (graph, graph, [[0, 1], [1, 0]], [[0, 1], [1, 0]])
    ]
    assert kinds[0] == kinds[1]
    assert kinds[2] == kinds[3] != kinds[0]
    assert pickle.loads(pickle.dumps(kinds[0])) == kinds[0]
    resolved = ruvector.get_attention("gat", edge_index=graph)
    assert resolved == ruvector.get_attention(kinds[0])
    assert hash(resolved) == hash(ruvector.get_attention(kinds[0]))


# Search --------------------------------------------------------------------------------------------------------------


def search_oracle(nodes, edge_index, node, heads, k):
    sources = edge_index[0][edge_index[1] == node]
    x = reference.wide(nodes).reshape(len(nodes), heads, -1)
    logits = (x[sources] * x[node]).sum(-1) / np.sqrt(reference.wide(nodes).dtype.type(x.shape[-1]))
    p = np.exp(logits - logits.max(0, initial=-np.inf))
    p = (p / p.sum(0)).mean(1)
    scores = {int(i): p[sources == i].sum() for i in np.unique(sources)}
    best = sorted(scores, key=lambda i: (-scores[i], i))[:k]
    return best, [float(scores[i]) for i in best]


def test_search_ranks_the_in_neighbours(isa, dtype_name, dtype):
    nodes, edge_index = normal((40, 16), dtype, "nodes"), random_graph(40, 400)
    for node, heads, k in ((3, 4, 10), (7, 1, 3), (11, 16, 100), (20, 2, 1)):
        ids, scores = ruvector.gat_search(nodes, edge_index, node, heads, k)
        best, exact = search_oracle(nodes, edge_index, node, heads, len(nodes))
        assert ids.dtype == np.int64
        assert scores.dtype == dtype
        assert len(ids) == min(k, len(best))
        table = dict(zip(best, exact))
        unit = reference.storage_unit(dtype)
        assert all(abs(float(s) - table[i]) <= 200 * unit * table[i] for i, s in zip(ids.tolist(), scores))
        assert (np.diff(scores.astype(float)) <= 0).all()
        if not reference.is_half(dtype):
            assert ids.tolist() == best[:k]
        graph = CSRGraph.from_coo(edge_index, 40)
        assert all(map(same_bits, ruvector.gat_search(nodes, graph, node, heads, k), (ids, scores)))
    default = ruvector.gat_search(nodes, edge_index, 3)
    assert all(map(same_bits, default, ruvector.gat_search(nodes, edge_index, 3, num_heads=4, k=10)))


def test_search_breaks_ties_by_number_and_counts_edges(isa):
    nodes = np.ones((6, 4), np.float32)
    ids, scores = ruvector.gat_search(nodes, [[5, 3, 1, 3], [0, 0, 0, 0]], 0)
    assert ids.tolist() == [3, 1, 5]
    np.testing.assert_array_equal(scores, [0.5, 0.25, 0.25])
    ids, scores = ruvector.gat_search(nodes, [[5, 3, 1], [0, 0, 0]], 0, k=2)
    assert ids.tolist() == [1, 3]
    ids, scores = ruvector.gat_search(nodes, [[5, 3, 1], [0, 0, 0]], 4)
    assert len(ids) == len(scores) == 0


# Another library -----------------------------------------------------------------------------------------------------


@pytest.mark.peer
@BOTH
@pytest.mark.parametrize("edge_dim", (None, 3))
@pytest.mark.parametrize("add_self_loops", (False, True))
@pytest.mark.parametrize("concat", (True, False))
def test_parity_with_pytorch_geometric(isa, version, edge_dim, add_self_loops, concat):
    torch = pytest.importorskip("torch", reason="PyTorch, which the peer of this test needs, is not installed")
    conv = pytest.importorskip(
        "torch_geometric.nn", reason="PyTorch Geometric, the peer of this test, is not installed"
    )
    torch.manual_seed(1)
    heads, inputs, width = 4, 7, 6
    make = conv.GATConv if version == 1 else conv.GATv2Conv
    theirs = make(
        inputs, width, heads, concat=concat, add_self_loops=add_self_loops, edge_dim=edge_dim, negative_slope=0.3
    )
    theirs = theirs.double()
    torch.nn.init.normal_(theirs.bias)
    edge_index = random_graph(25, 150, "peer")
    x, attr = normal((25, inputs), np.float64, "x"), normal((150, 3), np.float64, "attr")
    numpy = lambda t: t.detach().numpy()
    matrix = lambda linear: numpy(linear.weight).reshape(heads, width, -1).transpose(0, 2, 1)
    options = {"bias": numpy(theirs.bias), "concat": concat, "add_self_loops": add_self_loops, "negative_slope": 0.3}
    if edge_dim:
        options |= {"edge_attr": attr, "w_edge": matrix(theirs.lin_edge)}
    if version == 1:
        weights = matrix(theirs.lin), numpy(theirs.att_src)[0], numpy(theirs.att_dst)[0]
        if edge_dim:
            options["a_edge"] = numpy(theirs.att_edge)[0]
    else:
        # biases of the projections are PyG's own; lin_l is that of the sources
        torch.nn.init.zeros_(theirs.lin_l.bias)
        torch.nn.init.zeros_(theirs.lin_r.bias)
        weights = matrix(theirs.lin_r), matrix(theirs.lin_l), numpy(theirs.att)[0]
    with torch.no_grad():
        given = (torch.from_numpy(attr),) if edge_dim else ()
        expected, (edges, alpha) = theirs(
            torch.from_numpy(x), torch.from_numpy(edge_index), *given, return_attention_weights=True
        )
    ours, _ = functions(version)
    out, (our_edges, our_alpha) = ours(x, edge_index, *weights, return_attention_weights=True, **options)
    np.testing.assert_array_equal(our_edges, edges.numpy())
    np.testing.assert_allclose(our_alpha, alpha.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=1e-12)
