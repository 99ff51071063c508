"""Patterns: their algebra, what they show, and attention over them against the dense kernel's oracle under their mask."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import reference
import ruvector
from ruvector import _runs
from ruvector import patterns as P
from support import DTYPES, generator, normal, peak_allocation, same_bits

FLOATS = ("float32", "float64")


def cells(length, keys, share, *seed):
    return generator("pattern", length, keys, *seed).random((length, keys)) < share


def cases(length, keys):
    """Patterns of every kind, and of every way in which they are computed."""
    rng = generator("patterns", length, keys)
    starts = np.concatenate([[0], np.cumsum(rng.integers(0, 5, length))])
    return {
        "local": P.local(9),
        "sliding": P.sliding(5),
        "strided": P.strided(),
        "strided 7": P.strided(7),
        "strided both ways": P.strided(4, bidirectional=True),
        "fixed": P.fixed(),
        "fixed 5": P.fixed(5, 2),
        "fixed both ways": P.fixed(4, 2, bidirectional=True),
        "dilated": P.dilated(6, 3),
        "dilated by 1": P.dilated(6, 1),
        "dilated far": P.dilated(6, 50),
        "global": P.global_tokens(2),
        "longformer": P.longformer(6, 2),
        "longformer, tokens": P.longformer(6, [1, 2, 4, keys - 1]),
        "sliding and global": P.sliding(4) | P.global_tokens([3]),
        "bigbird": P.bigbird(8, 3, 1, 1),
        "bigbird 5": P.bigbird(5, 1, 1, 1),
        "random blocks": P.random_blocks(4, 2),
        "axial": P.axial(),
        "axial, columns": P.axial(width=7),
        "blocks": P.blocks(rng.random((-(-length // 16), -(-keys // 8))) < 0.5, (16, 8)),
        "few cells": P.from_mask(cells(length, keys, 0.1)),
        "many cells": P.from_mask(cells(length, keys, 0.6)),
        "no cells": P.from_mask(np.zeros((length, keys), bool)),
        "csr": P.from_csr(starts, rng.integers(0, keys, starts[-1]), keys),
        "csr, runs": P.from_csr(np.arange(length + 1) * keys, np.tile(np.arange(keys), length), keys),
        "union": P.dilated(4, 3) | P.local(4),
        "union of blocks": P.bigbird(8, 1, 0, 1) | P.random_blocks(8, 1),
        "intersection": P.dilated(20, 3) & P.sliding(30),
        "intersection of windows": P.local(20) & P.sliding(7),
        "blocks in a window": P.bigbird(8, 3, 1, 1) & P.local(20),
        "bigbird by hand": P.local(10) | P.global_tokens(2) | P.random_blocks(4, 2),
        "bigbird by hand, causal window": P.random_blocks(3, 2) | P.sliding(7) | P.global_tokens([1, keys - 1]),
        "longformer by hand": P.union(P.local(4), P.global_tokens([3]), P.sliding(9), P.global_tokens([4])),
        "window and blocks": P.local(6) | P.blocks(rng.random((-(-length // 4), -(-keys // 3))) < 0.3, (4, 3)),
        "window and blocks of two sizes": P.random_blocks(5, 1) | P.local(3) | P.random_blocks(4, 1),
        "window and classes": P.local(5) | P.dilated(8, 3) | P.strided(6),
        "window, tokens and cells": P.global_tokens(1) | P.from_mask(cells(length, keys, 0.05)) | P.sliding(4),
        "blocks and tokens": P.random_blocks(4, 2) | P.global_tokens(2),
        "bigbird and tokens": P.global_tokens([1]) | P.bigbird(8, 3, 1, 1) | P.global_tokens([keys // 2]),
        "classes and tokens": P.strided() | P.global_tokens(2),
        "two sizes of blocks and tokens": P.random_blocks(4, 2) | P.global_tokens(2) | P.random_blocks(3, 1),
        "intersection with blocks": P.local(9) | (P.random_blocks(4, 3) & P.random_blocks(4, 4, rng=1)),
    }


NAMES = sorted(cases(20, 20))
SIZES = ((64, 64), (50, 50), (1, 33), (7, 45), (40, 25), (33, 64), (60, 6))


def causal_part(mask):
    length, keys = mask.shape[-2:]
    return mask & (np.arange(keys) <= np.arange(length)[:, None] + keys - length)


def check(pattern, arrays, what, causal=False, mask=None, **options):
    """Within the bound of states that are merged once, under the pattern's own mask."""
    query, key, value = arrays
    seen = P.to_mask(pattern, query.shape[-2], key.shape[-2])
    visible, bias = reference.split_mask(mask)
    expected = reference.attend(*arrays, (causal_part(seen) if causal else seen) & visible, bias, options.get("scale"))
    out = ruvector.sparse_attention(*arrays, pattern, causal=causal, mask=mask, **options)
    assert out.dtype == expected.dtype
    reference.within(out, expected.out, expected.merged_bound(), what)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_pattern_is_attention_under_its_mask(isa, dtype_name, dtype, name):
    for length, keys in SIZES:
        arrays = [
            normal((2, *shape), dtype, role, "patterns")
            for shape, role in (((length, 16), "q"), ((keys, 16), "k"), ((keys, 12), "v"))
        ]
        pattern = cases(length, keys)[name]
        for causal in (False, True):
            check(pattern, arrays, f"{name} {length} x {keys} causal={causal}", causal)


@pytest.mark.parametrize("name", NAMES)
def test_masks_and_scales_compose_with_a_pattern(isa, name):
    for dtype in (DTYPES[n] for n in FLOATS):
        for length, keys in ((40, 40), (9, 45)):
            arrays = [
                normal(shape, dtype, role, "compose")
                for shape, role in (((length, 8), "q"), ((keys, 8), "k"), ((keys, 5), "v"))
            ]
            mask = cells(length, keys, 0.6, "mask")
            bias = np.where(mask, normal((length, keys), np.float32, "bias"), -np.inf).astype(np.float32)
            pattern = cases(length, keys)[name]
            for causal, each in itertools.product((False, True), (mask, bias, mask[0], mask[:, :1])):
                check(pattern, arrays, f"{name} {length} x {keys} {each.dtype} {each.shape}", causal, each)
            check(pattern, arrays, f"{name} scale", scale=-0.9)


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_every_shape_where_blocks_do_not_line_up(isa, name):
    """Padding of each batch element, biases of each head, one number for all; S - L no multiple of a block."""
    heads, length, keys = 3, 41, 64
    arrays = [
        normal(shape, np.float32, role, "shapes")
        for shape, role in (((2, heads, length, 8), "q"), ((2, heads, keys, 8), "k"), ((heads, keys, 5), "v"))
    ]
    shapes = ((), (1,), (length, 1), (2, 1, 1, keys), (heads, 1, keys), (heads, length, keys), (2, 1, length, keys))
    pattern = cases(length, keys)[name]
    for shape in shapes:
        mask = generator("mask", *shape).random(shape) < 0.7
        bias = np.where(mask, normal((1, *shape), np.float32, "bias")[0], -np.inf).astype(np.float32)
        for each in (np.asarray(mask), bias):
            check(pattern, arrays, f"{name} {each.dtype} {shape}", mask=each)


def test_cost_does_not_grow_with_the_matrix(monkeypatch):
    """Forms of windows, classes and blocks are found without looking at pairs, whatever S - L is and whatever hides keys; those of
    unions without a matrix."""
    listed = ("local", "sliding", "strided", "strided both ways", "fixed", "fixed both ways", "dilated", "longformer", "bigbird",
              "bigbird 5", "random blocks", "axial", "axial, columns", "blocks", "union of blocks", "blocks in a window",
              "longformer by hand")  # fmt: skip
    for length, keys in ((64, 64), (41, 64), (64, 41)):
        arrays = [normal((n, 8), np.float32, role, "cost") for n, role in ((length, "q"), (keys, "k"), (keys, "v"))]
        padding = np.arange(keys) < keys - 9
        patterns = {name: cases(length, keys)[name] for name in listed}
        with monkeypatch.context() as change:
            change.setattr(P.Pattern, "_see", lambda *_: pytest.fail("looks at the matrix"))
            for name, pattern in cases(length, keys).items():
                if name not in listed:
                    ruvector.sparse_attention(*arrays, pattern)
            for kind in {type(p) for p in patterns.values()}:
                change.setattr(kind, "_runs", lambda *_: pytest.fail("looks at pairs"))
            for pattern in patterns.values():
                for causal, mask in itertools.product((False, True), (None, padding)):
                    ruvector.sparse_attention(*arrays, pattern, causal=causal, mask=mask)


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_blocks_at_the_edges_of_tiles(isa, dtype_name):
    """Blocks around lanes and tiles, lists of neighbours and of single blocks, last blocks that are short."""
    for size in (1, 2, 15, 16, 17, 47, 48, 49, 64, 100, 128):
        for length, keys in ((3 * size + 1, 4 * size - 1), (size, size), (2 * size, 5 * size)):
            if length > 400:
                continue
            arrays = [
                normal(shape, DTYPES[dtype_name], role, "edges")
                for shape, role in (((length, 24), "q"), ((keys, 24), "k"), ((keys, 17), "v"))
            ]
            layout = cells(-(-length // size), -(-keys // size), 0.5, size)
            for causal in (False, True):
                check(P.blocks(layout, size), arrays, f"blocks of {size}, {length} x {keys}", causal)


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_gathered_rows_of_every_length(isa, dtype_name):
    """Around the pieces that are copied and the runs that are not."""
    keys = 900
    rows = []
    for count in (0, 1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 513, 900):
        rng = generator("row", count)
        rows.append(np.sort(rng.choice(keys, count, replace=False)))
        rows.append(np.arange(keys - count, keys))
        half = np.arange(0, count, 2) if count < 500 else np.arange(0, 250, 2)
        rows.append(np.unique(np.concatenate([half, np.arange(400, 400 + min(count, 300))])))
    starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    pattern = P.from_csr(starts, np.concatenate(rows), keys)
    for shapes in (((len(rows), 33), (keys, 33), (keys, 9)), ((2, 3, len(rows), 8), (3, keys, 8), (2, 1, keys, 20))):
        arrays = [normal(shape, DTYPES[dtype_name], role, "gathered") for shape, role in zip(shapes, "qkv")]
        check(pattern, arrays, f"{shapes}")
        check(pattern, arrays, f"{shapes} mask", mask=cells(len(rows), keys, 0.5, "gathered"))


def test_layouts_of_each_head(isa):
    for shape in ((3,), (2, 3)):
        arrays = [normal((*shape, n, 16), np.float32, role, "heads") for n, role in ((70, "q"), (90, "k"), (90, "v"))]
        layout = generator("heads").random((3, 5, 6)) < 0.5
        for pattern in (
            P.blocks(layout, (16, 16)),
            P.blocks(layout, 16) | P.random_blocks(8, 2),
            P.blocks(layout, 16) & P.local(60),
            P.blocks(layout, 16) | P.global_tokens([3]),
            P.local(8) | P.blocks(layout, 16) | P.global_tokens(1),
            P.local(8) | P.dilated(9, 7) | P.blocks(layout, 16),
        ):
            out = check(pattern, arrays, f"layouts of 3 heads, {shape}")
            seen = P.to_mask(pattern, 70, 90)
            for h in range(3):
                one = [a[..., h, :, :] for a in arrays]
                expected = reference.attend(*one, seen[h])
                reference.within(out[..., h, :, :], expected.out, expected.merged_bound(), f"head {h}")
        out = check(P.blocks(layout, 16), arrays, "mask", mask=cells(70, 90, 0.5, "heads"))
        assert out.shape == (*shape, 70, 16)


@pytest.mark.parametrize("name", NAMES)
def test_causal_forms_never_see_the_future(isa, name):
    arrays = [normal((64, 8), np.float32, role, "future") for role in "qkv"]
    pattern = cases(64, 64)[name]
    out = ruvector.sparse_attention(*arrays, pattern, causal=True)
    for cut in (1, 20, 47, 63):
        key, value = arrays[1].copy(), arrays[2].copy()
        key[cut:], value[cut:] = 3 * normal((64 - cut, 8), np.float32, "other k"), np.nan
        assert same_bits(ruvector.sparse_attention(arrays[0], key, value, pattern, causal=True)[:cut], out[:cut])


@pytest.mark.parametrize("name", NAMES)
def test_hidden_positions_never_influence(isa, name):
    for length, keys in ((40, 40), (9, 45)):
        query, key, value = (
            normal((n, 8), np.float32, role, "hidden") for n, role in ((length, "q"), (keys, "k"), (keys, "v"))
        )
        pattern = cases(length, keys)[name]
        out = ruvector.sparse_attention(query, key, value, pattern)
        seen = P.to_mask(pattern, length, keys)
        for j, bad in itertools.product((0, keys // 2, keys - 1), (np.nan, np.inf)):
            spoiled, poison = value.copy(), key.copy()
            spoiled[j], poison[j] = bad, np.nan
            result = ruvector.sparse_attention(query, poison, spoiled, pattern)
            assert same_bits(result[~seen[:, j]], out[~seen[:, j]]), f"{name}: key {j}"
            assert np.isnan(result[seen[:, j]]).all(), f"{name}: key {j} is seen"


def test_rows_that_see_nothing_are_zeros(isa, dtype_name, dtype):
    arrays = [normal((n, 8), dtype, role, "nothing") for n, role in ((30, "q"), (20, "k"), (20, "v"))]
    mask = cells(30, 20, 0.4, "nothing")
    mask[::3] = False
    layout = np.eye(2, dtype=bool)
    layout[0] = False
    for pattern, empty in (
        (P.from_mask(mask), slice(0, 30, 3)),
        (P.blocks(layout, (16, 10)), slice(0, 16)),
        (P.sliding(3), slice(0, 10)),
    ):
        out = check(pattern, arrays, repr(pattern))
        assert (out[empty] == 0).all()
    none = ruvector.sparse_attention(arrays[0], arrays[1][:0], arrays[2][:0], P.local(3))
    assert none.shape == (30, 8)
    assert (none == 0).all()


def test_windows_as_long_as_the_sequence_are_full(isa, dtype_name, dtype):
    arrays = [normal((45, 16), dtype, role, "full") for role in "qkv"]
    full = reference.scaled_dot(*arrays)
    for pattern in (
        P.local(90),
        P.longformer(90),
        P.strided(1, bidirectional=True),
        P.fixed(45, bidirectional=True),
        P.axial(1),
        P.bigbird(64),
        P.dilated(90, 1),
    ):
        out = ruvector.sparse_attention(*arrays, pattern)
        reference.within(out, full.out, full.merged_bound(), repr(pattern))
    assert same_bits(ruvector.sparse_attention(*arrays, P.local(90)), ruvector.scaled_dot_product_attention(*arrays))


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_batch_or_threads(isa, threads, name):
    arrays = [normal((2, 3, 130, 16), np.float32, role, "threads") for role in "qkv"]
    pattern = cases(130, 130)[name]
    ruvector.set_num_threads(1)
    out = ruvector.sparse_attention(*arrays, pattern)
    assert same_bits(ruvector.sparse_attention(*(a[1, 2] for a in arrays), pattern), out[1, 2])
    for count in (2, 3):
        ruvector.set_num_threads(count)
        assert same_bits(ruvector.sparse_attention(*arrays, pattern), out)


def test_dropout_of_a_pattern_drops_weights_that_are_seen(isa):
    arrays = [normal((60, 8), np.float32, role, "dropout") for role in "qkv"]
    weights = np.eye(60, dtype=np.float32)
    for pattern in (P.local(20), P.strided(7), P.bigbird(8, 3, 1, 1)):
        seen = P.to_mask(pattern, 60)
        plain = ruvector.sparse_attention(*arrays[:2], weights, pattern)
        out = ruvector.sparse_attention(*arrays[:2], weights, pattern, dropout=0.25, training=True, rng=3)
        dropped = (out == 0) & seen
        assert 0.15 < dropped.sum() / seen.sum() < 0.35
        np.testing.assert_allclose(out[seen & ~dropped], plain[seen & ~dropped] / 0.75, rtol=1e-5)
        assert same_bits(
            out, ruvector.sparse_attention(*arrays[:2], weights, pattern, dropout=0.25, training=True, rng=3)
        )
        assert same_bits(plain, ruvector.sparse_attention(*arrays[:2], weights, pattern, dropout=0.25))
    with pytest.raises(ValueError, match="rng"):
        ruvector.sparse_attention(*arrays, dropout=0.25, training=True)


# What patterns show --------------------------------------------------------------------------------------------------


def test_what_each_pattern_shows():
    for length, keys in SIZES:
        p, j = np.arange(length)[:, None] + keys - length, np.arange(keys)
        root = max(1, round(keys**0.5))
        both = np.abs(p - j)
        tokens = np.isin(j, [0, 3]) | np.isin(p, [0, 3])
        expected = {
            P.local(7): both <= 3,
            P.sliding(7): (j > p - 7) & (j <= p),
            P.strided(): ((p - j < root) | ((p - j) % root == 0)) & (j <= p),
            P.strided(5, bidirectional=True): (both < 5) | (both % 5 == 0),
            P.fixed(6, 2): ((j // 6 == p // 6) | (j % 6 >= 4)) & (j <= p),
            P.fixed(6, 2, bidirectional=True): (j // 6 == p // 6) | (j % 6 >= 4),
            P.dilated(5, 3): (both <= 6) & (both % 3 == 0),
            P.global_tokens([3, 0]): tokens,
            P.longformer(4, [0, 3]): (both <= 2) | tokens,
            P.bigbird(5, 3, 1, 2): reference.bigbird_visible(5, 3, 1, 2)(p, j[None], length, keys),
            P.random_blocks(5, 2): reference.bigbird_visible(5, 0, 0, 2)(p, j[None], length, keys),
            P.axial(width=6): (p // 6 == j // 6) | (p % 6 == j % 6),
            P.strided(1): j <= p,
            P.strided(500, bidirectional=True): both < 500,
            P.dilated(6, 1): both <= 3,
            P.dilated(6, 50): (both <= 150) & (both % 50 == 0),
            P.global_tokens([]): np.zeros((length, keys), bool),
        }
        layout = cells(-(-length // 4), -(-keys // 7), 0.5, "shows")
        expected[P.blocks(layout, (4, 7))] = np.repeat(np.repeat(layout, 4, 0), 7, 1)[:length, :keys]
        for pattern, mask in expected.items():
            np.testing.assert_array_equal(P.to_mask(pattern, length, keys), mask, repr(pattern))


def test_union_intersection_and_density():
    for length, keys in ((30, 30), (12, 50)):
        for a, b in itertools.combinations(cases(length, keys).values(), 2):
            left, right = P.to_mask(a, length, keys), P.to_mask(b, length, keys)
            either, common = a | b, a & b
            np.testing.assert_array_equal(P.to_mask(either, length, keys), left | right)
            np.testing.assert_array_equal(P.to_mask(common, length, keys), left & right)
            shares = [P.density(x, length, keys) for x in (a, b, either, common)]
            np.testing.assert_allclose(shares[0] + shares[1], shares[2] + shares[3])
    three = [P.local(3), P.global_tokens(1), P.dilated(4, 2)]
    assert P.union(*three) == (three[0] | three[1]) | three[2]
    assert P.intersection(*three) == (three[0] & three[1]) & three[2]
    assert P.union(three[0]) is three[0]
    assert P.density(P.local(1), 0) == 0
    assert P.density(P.sliding(1), 8) == 1 / 8


def test_windows_wider_than_any_sequence():
    for huge in (2**40, 2**62, 2**63 - 1):
        assert P.to_mask(P.local(huge), 3, 5).all()
        assert P.density(P.local(huge) | P.global_tokens(1), 4) == 1
        assert P.to_mask(P.dilated(huge, 2), 2, 5).tolist() == [[False, True] * 2 + [False], [True, False] * 2 + [True]]


def test_unions_of_windows_tokens_and_blocks_take_no_matrix():
    """100,000 positions: the matrix would have 10 GB."""
    n = 100_000
    query, key, value = (normal((n, 4), np.float32, role, "long union") for role in "qkv")
    parts = P.local(12), P.global_tokens([0, 50_001]), P.random_blocks(64, 2)
    pattern = P.union(*parts)
    out = np.empty_like(value)
    assert peak_allocation(lambda: ruvector.sparse_attention(query, key, value, pattern, out=out)) < n * n / 100
    at, blocks = np.array([0, 1, 16, 47_777, 50_001, n - 1]), np.arange(n) // 64
    layout = parts[2]._layout(np.arange(-(-n // 64)), n)
    j = np.arange(n)
    seen = (
        (np.abs(at[:, None] - j) <= 6)
        | np.isin(j, [0, 50_001])
        | np.isin(at, [0, 50_001])[:, None]
        | layout[at // 64][:, blocks]
    )
    expected = reference.attend(query[at], key, value, seen)
    reference.within(out[at], expected.out, expected.merged_bound(), "rows of a long union")
    shares = [P.density(p, n) for p in (parts[0], parts[2], pattern)]
    assert abs(shares[0] - (13 * n - 42) / n**2) < 1e-15
    assert max(shares[:2]) < shares[2] < shares[0] + shares[1] + 4 / n


@pytest.mark.parametrize("piece", (1, 7, 300))
def test_forms_do_not_depend_on_the_pieces_they_are_made_in(piece, monkeypatch):
    for length, keys in ((40, 40), (7, 45), (40, 25)):
        arrays = [normal((n, 8), np.float32, role, "pieces") for n, role in ((length, "q"), (keys, "k"), (keys, "v"))]
        whole = [
            (ruvector.sparse_attention(*arrays, p), P.density(p, length, keys)) for p in cases(length, keys).values()
        ]
        with monkeypatch.context() as change:
            change.setattr(_runs, "PIECE", piece)
            for (name, pattern), (out, density) in zip(cases(length, keys).items(), whole, strict=True):
                assert same_bits(ruvector.sparse_attention(*arrays, pattern), out), name
                assert P.density(pattern, length, keys) == density == P.to_mask(pattern, length, keys).mean(), name


def test_runs_are_sets_of_pairs():
    """Unions, differences and intersections of runs that overlap, touch and come in any order."""
    for case in range(60):
        rng = generator("runs", case)
        count, keys = rng.integers(1, 6), rng.integers(1, 12)
        sets, masks = [], []
        for _ in range(3):
            row, first = rng.integers(0, count, 8), rng.integers(0, keys, 8)
            last = rng.integers(first, keys + 1)
            sets.append(_runs.spans(row, first, last, keys))
            mask = np.zeros((count, keys), bool)
            for i, a, b in zip(row, first, last):
                mask[i, a:b] = True
            masks.append(mask)
        a, b, c = masks
        for found, expected in (
            (_runs.merged(sets[0]), a),
            (_runs.merged(_runs.joined(*sets[:2]), sets[2]), (a | b) & ~c),
            (_runs.common(*sets[:2]), a & b),
            (_runs.of_matrix(a), a),
        ):
            np.testing.assert_array_equal(_runs.matrix(found, count, keys), expected)
            assert int((found[1] - found[0]).sum()) == expected.sum(), "disjoint"
            counts, indices = _runs.rows_of(_runs.merged(found), count, keys)
            np.testing.assert_array_equal(counts, expected.sum(1))
            np.testing.assert_array_equal(indices, np.nonzero(expected)[1])


def test_from_mask_and_from_csr_are_inverses_of_to_mask():
    mask = cells(20, 31, 0.3)
    assert P.to_mask(P.from_mask(mask), 20, 31).tolist() == mask.tolist()
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))])
    indices = np.nonzero(mask)[1]
    pattern = P.from_csr(starts, indices, 31)
    assert P.to_mask(pattern, 20, 31).tolist() == mask.tolist()
    shuffled = np.concatenate(
        [generator(i).permutation(np.repeat(row, 2)) for i, row in enumerate(np.split(indices, starts[1:-1]))]
    )
    assert P.from_csr(2 * starts, shuffled, 31) == pattern
    copied = mask.copy()
    bound = P.from_mask(copied)
    copied[:] = False
    assert P.to_mask(bound, 20, 31).tolist() == mask.tolist(), "a pattern has a copy of its own"


def test_patterns_are_values():
    for pattern in cases(20, 20).values():
        for again in (pickle.loads(pickle.dumps(pattern)), copy.copy(pattern), copy.deepcopy(pattern)):
            assert again == pattern
            assert hash(again) == hash(pattern)
        assert repr(pattern).startswith("<pattern ")
        with pytest.raises(AttributeError):
            pattern.anything = 1
    assert len(set(cases(20, 20).values())) == len(NAMES)
    assert P.local(4) != P.local(6)
    assert P.local(4) != "local"
    assert P.local(4) != P.dilated(4, 1)
    assert isinstance(P.local(4), ruvector.SparsePattern)
    assert P.random_blocks(rng=3) == P.random_blocks(rng=3) != P.random_blocks()
    with pytest.raises(TypeError, match="ruvector.patterns"):
        ruvector.SparsePattern()


def test_patterns_are_used_again_at_other_lengths(isa):
    pattern = P.longformer(6, 2)
    for n in (20, 33, 20, 40, 50, 60, 20):
        arrays = [normal((n, 8), np.float32, role, "again") for role in "qkv"]
        check(pattern, arrays, f"n={n}")
        check(pattern, arrays, f"n={n} causal", causal=True)


def test_the_type_takes_patterns(isa):
    arrays = [normal((40, 8), np.float32, role, "type") for role in "qkv"]
    pattern = P.sliding(5) | P.global_tokens(2)
    expected = ruvector.sparse_attention(*arrays, pattern)
    kind = ruvector.AttentionType.Sparse(pattern=pattern)
    assert same_bits(ruvector.attention(*arrays, kind), expected)
    assert same_bits(ruvector.get_attention("sparse", pattern=pattern)(*arrays), expected)
    assert pickle.loads(pickle.dumps(kind)) == kind
    assert not same_bits(ruvector.sparse_attention(*arrays), expected)
    layout = cells(3, 3, 0.6)
    out = ruvector.block_sparse_attention(*arrays, layout, 16)
    assert same_bits(out, ruvector.sparse_attention(*arrays, P.blocks(layout, 16)))
    reference.check(out, reference.block_sparse(*arrays, layout=layout, block_size=16))


# Windows of a sequence -----------------------------------------------------------------------------------------------


def test_sliding_attention_of_windows(isa, dtype_name, dtype):
    for n, size, stride in (
        (1000, 256, 128),
        (100, 30, 30),
        (100, 30, 7),
        (20, 30, 10),
        (31, 30, 1),
        (1, 1, 1),
        (0, 4, 2),
        (64, 16, 16),
    ):
        for lead in ((), (2,)):
            x = normal((*lead, n, 8), dtype, "windows")
            for options in ({}, {"causal": True}, {"scale": 0.9}):
                windows, starts, merged = ruvector.sliding_attention(x, size, stride, **options)
                expected = []
                while n and (not expected or expected[-1] + size < n):
                    expected.append(len(expected) * stride)
                assert starts.tolist() == expected
                assert len(windows) == len(expected)
                total, cover = np.zeros((*lead, n, 8)), np.zeros((n, 1))
                for start, window in zip(expected, windows):
                    part = x[..., start : start + size, :]
                    reference.check(
                        window, reference.scaled_dot(part, part, part, **options), f"{n} {size} {stride} {start}"
                    )
                    total[..., start : start + size, :] += window
                    cover[start : start + size] += 1
                assert merged.dtype == dtype
                assert merged.shape == x.shape
                assert (cover > 0).all()
                mean = total / np.maximum(cover, 1)
                reference.within(
                    merged, mean, 2 * reference.storage_unit(dtype) * np.abs(mean) + reference.smallest(dtype), "merged"
                )


def test_sliding_attention_of_the_guide():
    windows, starts, _ = ruvector.sliding_attention(normal((1000, 4), np.float32, "guide"))
    assert starts.tolist() == list(range(0, 769, 128))
    assert [len(w) for w in windows] == [256] * 6 + [232]


# Another library -----------------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES)
def test_patterns_against_torch(name):
    torch = pytest.importorskip("torch", reason="PyTorch, the peer of these tests, is not installed")
    for length, keys in ((96, 96), (40, 130)):
        arrays = [
            normal((1, 2, n, 32), np.float32, role, "torch") for n, role in ((length, "q"), (keys, "k"), (keys, "v"))
        ]
        pattern = cases(length, keys)[name]
        seen = P.to_mask(pattern, length, keys)
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.from_numpy, arrays), attn_mask=torch.from_numpy(seen)
        )
        some = seen.any(-1)
        np.testing.assert_allclose(
            ruvector.sparse_attention(*arrays, pattern)[..., some, :], theirs.numpy()[..., some, :], atol=2e-5
        )
