"""The edge policy, one test a row: what happens without keys, without visible keys, with NaN, infinities and overflow."""

import numpy as np
import pytest
import reference
import ruvector
from support import TYPE_PARAMETERS, generator, normal, points, qkv, same_bits

sdpa = ruvector.scaled_dot_product_attention

# one query, few queries, tiles; fewer and more keys than a block; many keys, which may be split
SHAPES = ((1, 5), (1, 70), (3, 33), (40, 20), (70, 130), (1, 3000))
BAD = (np.nan, np.inf, -np.inf)


def each_case(dtype_name, batch=(2,), dim=16, v_dim=12):
    for q_len, kv_len in SHAPES:
        yield tuple(a.copy() for a in qkv(batch, q_len, kv_len, dim, v_dim, dtype_name, "edge"))


def nothing(out, lse):
    return (out == 0).all() and np.isneginf(lse).all() and not np.signbit(out.astype(np.float32)).any()


def test_a_row_without_visible_key_is_zero_with_log_sum_exp_minus_infinity(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        q_len, kv_len = q.shape[1], k.shape[1]
        row = q_len // 2
        keep = generator("keep").random((q_len, kv_len)) < 0.7
        keep[row] = False
        bias = np.where(keep, generator("bias").standard_normal(keep.shape), -np.inf).astype(np.float32)
        for mask in (keep, bias):
            expected = reference.scaled_dot_product_attention(q, k, v, mask)
            out, lse = sdpa(q, k, v, attn_mask=mask, return_lse=True)
            reference.check(out, expected)
            assert nothing(out[:, row], lse[:, row])
        for mask in (np.zeros(kv_len, bool), np.full(kv_len, -np.inf), np.zeros((q_len, 1), bool)):
            assert nothing(*sdpa(q, k, v, attn_mask=mask, return_lse=True)), mask.dtype
        # NaN everywhere does not make a row that sees nothing NaN
        poisoned = sdpa(q * np.nan, k * np.nan, v * np.nan, attn_mask=np.zeros(kv_len, bool), return_lse=True)
        assert nothing(*poisoned)


def test_a_row_outside_its_window_is_zero(isa, dtype_name):
    q, k, v = (a.copy() for a in qkv((2,), 60, 20, 16, 12, dtype_name, "window"))
    out, lse = sdpa(q, k, v, window=(5, 5), return_lse=True)
    assert nothing(out[:, 25:], lse[:, 25:])
    assert np.isfinite(lse[:, :25]).all()
    # aligned at the end, the first queries stand before the first key
    out = ruvector.attention(q, k, v, causal=True)
    assert (out[:, :40] == 0).all()
    reference.check(out, reference.scaled_dot(q, k, v, causal=True))
    assert nothing(*sdpa(q, k, v, attn_mask=np.arange(20) > 100, is_causal=True, return_lse=True))


def test_every_type_gives_zero_for_rows_without_visible_keys(isa):
    q, k, v = (a.copy() for a in qkv((2,), 9, 14, 32, 32, "float32", "types"))
    mask = generator("type mask").random((9, 14)) < 0.5
    mask[4] = False
    for name in reference.TYPES:
        if name in ("linear", "performer", "random_feature"):
            continue  # masks over keys alone: tests/test_linear.py
        key, value = (
            (k[..., :8], v[..., :8])
            if name == "grouped_query"
            else (k[..., :4], v)
            if name == "multi_query"
            else (k, v)
        )
        query, key, value = (points(name, x) for x in (q, key, value))
        parameters = TYPE_PARAMETERS.get(name, {})
        out = ruvector.attention(query, key, value, name, mask=mask, **parameters)
        assert (out[:, 4] == 0).all(), name
        assert np.isfinite(out).all(), name
        reference.check(out, reference.TYPES[name](query, key, value, mask=mask, **parameters), name)


def test_no_keys_give_zeros(isa, dtype_name, dtype):
    for q_len in (1, 30):
        q = normal((2, q_len, 8), dtype, "q")
        k, v = np.empty((2, 0, 8), dtype), np.empty((2, 0, 5), dtype)
        for options in ({}, {"is_causal": True}, {"attn_mask": np.empty((q_len, 0), bool)}, {"window": (1, 1)}):
            out, lse = sdpa(q, k, v, return_lse=True, **options)
            assert out.shape == (2, q_len, 5)
            assert out.dtype == dtype
            assert nothing(out, lse)
        for name in reference.TYPES:
            if name in (
                "multi_head",
                "grouped_query",
                "multi_query",
                "alibi",
                "gat",
                "gatv2",
                "rope",
                "xpos",
                "relative",
                "t5",
            ):
                continue
            out = ruvector.attention(points(name, q), k, v, name, **TYPE_PARAMETERS.get(name, {}))
            assert (out == 0).all(), name
        out = ruvector.multi_head_attention(q, k, np.empty((2, 0, 6), dtype), 2)
        np.testing.assert_array_equal(out, np.zeros((2, q_len, 6)))


def test_no_queries_give_an_empty_result(isa, dtype_name, dtype):
    q, k, v = np.empty((2, 0, 8), dtype), normal((2, 9, 8), dtype, "k"), normal((2, 9, 5), dtype, "v")
    for options in ({}, {"is_causal": True}, {"attn_mask": np.empty((0, 9), bool)}):
        out, lse = sdpa(q, k, v, return_lse=True, **options)
        assert out.shape == (2, 0, 5)
        assert out.dtype == dtype
        assert lse.shape == (2, 0)
    assert sdpa(q[:0], k[:0], v[:0]).shape == (0, 0, 5)
    assert sdpa(k[:0], k[:0], v[:0]).shape == (0, 9, 5)
    assert sdpa(q, k[:, :0], v[:, :0]).shape == (2, 0, 5)


def test_values_without_columns_give_no_columns(isa, dtype_name, dtype):
    out = sdpa(normal((2, 3, 8), dtype, "q"), normal((2, 9, 8), dtype, "k"), np.empty((2, 9, 0), dtype))
    assert out.shape == (2, 3, 0)


def test_a_head_dimension_of_zero_is_an_error(isa, dtype_name, dtype):
    arguments = np.empty((2, 3, 0), dtype), np.empty((2, 9, 0), dtype), np.ones((2, 9, 5), dtype)
    for call in (sdpa, ruvector.attention, ruvector.flash_attention, ruvector.partial_attention):
        with pytest.raises(ValueError, match=r"(?i)dim"):
            call(*arguments)


def test_a_row_of_the_smallest_finite_number_in_the_mask_is_the_mean_of_the_values(isa, dtype_name, dtype):
    """Finite numbers are not masks: the smallest absorbs the scores, which leaves all keys alike."""
    smallest = np.finfo(dtype if dtype == np.float64 else np.float32).min
    for q, k, v in each_case(dtype_name):
        kv_len = k.shape[1]
        mean = v.astype(np.longdouble).mean(1, keepdims=True)
        expected = np.broadcast_to(mean, (2, q.shape[1], 12))
        peak = np.abs(v.astype(float)).max(1, keepdims=True)
        bound = 8 * reference.unit(dtype) * peak + 3 * reference.storage_unit(dtype) * peak * reference.is_half(dtype)
        mask = np.full(kv_len, smallest)
        reference.within(sdpa(q, k, v, attn_mask=mask), expected, bound, "all smallest")
        # where other keys have ordinary biases, the smallest hides as well as -inf
        some = np.where(np.arange(kv_len) % 3 == 0, 0, smallest).astype(mask.dtype)
        hard = np.where(np.arange(kv_len) % 3 == 0, 0, -np.inf).astype(mask.dtype)
        reference.check(
            sdpa(q, k, v, attn_mask=some), reference.scaled_dot_product_attention(q, k, v, hard), "some smallest"
        )


@pytest.mark.parametrize("bad", BAD)
def test_bad_numbers_at_hidden_positions_never_reach_the_result(isa, dtype_name, bad):
    for q, k, v in each_case(dtype_name):
        q_len, kv_len = q.shape[1], k.shape[1]
        keep = np.arange(kv_len) % 4 != 1
        dirty_k, dirty_v = k.copy(), v.copy()
        dirty_k[:, ~keep] = bad
        dirty_v[:, ~keep] = bad
        full = np.broadcast_to(keep, (q_len, kv_len))
        bias = np.where(keep, 0.25, -np.inf).astype(np.float32)
        for mask in (keep, full, bias):
            clean, clean_lse = sdpa(q, k, v, attn_mask=mask, return_lse=True)
            reference.check(clean, reference.scaled_dot_product_attention(q, k, v, mask))
            for keys, values in ((dirty_k, v), (k, dirty_v), (dirty_k, dirty_v)):
                out, lse = sdpa(q, keys, values, attn_mask=mask, return_lse=True)
                assert same_bits(out, clean), f"{q_len} x {kv_len} {np.asarray(mask).dtype}"
                assert same_bits(lse, clean_lse)


@pytest.mark.parametrize("bad", BAD)
def test_bad_numbers_hidden_from_some_rows_reach_only_the_others(isa, dtype_name, bad):
    """Every second row sees the bad key, in one tile with rows that do not."""
    for q, k, v in each_case(dtype_name):
        q_len, kv_len = q.shape[1], k.shape[1]
        at = kv_len // 2
        keep = np.ones((q_len, kv_len), bool)
        keep[::2, at] = False
        dirty_k, dirty_v = k.copy(), v.copy()
        dirty_k[:, at] = bad
        dirty_v[:, at] = bad
        clean = sdpa(q, k, v, attn_mask=keep)
        out = sdpa(q, dirty_k, dirty_v, attn_mask=keep)
        assert same_bits(out[:, ::2], clean[:, ::2]), f"{q_len} x {kv_len}"
        out = sdpa(q, k, dirty_v, attn_mask=keep)
        assert same_bits(out[:, ::2], clean[:, ::2]), f"{q_len} x {kv_len}"
        assert not np.isfinite(out[:, 1::2].astype(float)).any()


def test_bad_numbers_behind_causality_and_windows_are_ignored(isa, dtype_name):
    n = 100
    q, k, v = (a.copy() for a in qkv((2,), n, n, 16, 12, dtype_name, "causal"))
    for bad in BAD:
        for options, hidden in (
            ({"is_causal": True}, lambda at: slice(0, at)),
            ({"window": (3, 0)}, lambda at: slice(0, at)),
            ({"window": (None, 0)}, lambda at: slice(0, at)),
            ({"window": (4, None)}, lambda at: slice(at + 5, n)),
        ):
            clean = sdpa(q, k, v, **options)
            for at in (1, 31, 64, 80):
                dirty_k, dirty_v = k.copy(), v.copy()
                dirty_k[:, at] = dirty_v[:, at] = bad
                out = sdpa(q, dirty_k, dirty_v, **options)
                rows = hidden(at)
                assert same_bits(out[:, rows].copy(), clean[:, rows].copy()), f"{bad} at {at} {options}"


def test_bad_numbers_of_another_sequence_are_ignored(isa, dtype_name, dtype):
    starts = np.array([0, 9, 26, 60])
    q, k, v = (normal((60, 2, 8), dtype, role) for role in "qkv")
    clean = ruvector.varlen_attention(q, k, v, starts, starts)
    for bad in BAD:
        dirty_k, dirty_v = k.copy(), v.copy()
        dirty_k[9:26] = dirty_v[9:26] = bad
        out = ruvector.varlen_attention(q, dirty_k, dirty_v, starts, starts)
        assert same_bits(out[:9], clean[:9])
        assert same_bits(out[26:], clean[26:])
        assert np.isnan(out[9:26]).all()


def test_nan_in_a_query_makes_its_row_nan_and_no_other(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        clean = sdpa(q, k, v)
        row = q.shape[1] // 2
        dirty = q.copy()
        dirty[1, row, 3] = np.nan
        out, lse = sdpa(dirty, k, v, return_lse=True)
        assert np.isnan(out[1, row]).all()
        assert np.isnan(lse[1, row])
        others = np.ones(out.shape[:2], bool)
        others[1, row] = False
        assert same_bits(out[others], clean[others])


def test_nan_in_a_visible_key_makes_the_rows_that_see_it_nan(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        at = k.shape[1] // 3
        dirty = k.copy()
        dirty[0, at, 2] = np.nan
        clean, out = sdpa(q, k, v), sdpa(q, dirty, v)
        assert np.isnan(out[0]).all()
        assert same_bits(out[1], clean[1])
        rows = q.shape[1]
        clean, out = sdpa(q, k, v, is_causal=True), sdpa(q, dirty, v, is_causal=True)
        assert np.isnan(out[0, min(at, rows) :]).all()
        assert same_bits(out[0, :at], clean[0, :at])


def test_nan_in_a_visible_value_makes_its_column_nan_in_the_rows_that_see_it(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        at = k.shape[1] - 1
        dirty = v.copy()
        dirty[0, at, 5] = np.nan
        out = sdpa(q, k, dirty)
        assert np.isnan(out[0, :, 5]).all()
        reference.check(out, reference.scaled_dot_product_attention(q, k, dirty))


def test_nan_in_a_float_mask_makes_its_row_nan(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        mask = np.zeros((q.shape[1], k.shape[1]), np.float32)
        clean = sdpa(q, k, v, attn_mask=mask)
        row = q.shape[1] - 1
        mask[row, k.shape[1] // 2] = np.nan
        out = sdpa(q, k, v, attn_mask=mask)
        assert np.isnan(out[:, row]).all()
        assert same_bits(out[:, :row], clean[:, :row])
        mask[row, k.shape[1] // 2] = np.inf
        out = sdpa(q, k, v, attn_mask=mask)
        assert np.isnan(out[:, row]).all()


def test_a_score_of_plus_infinity_is_nan_and_one_of_minus_infinity_is_ignored(isa, dtype_name):
    for q, k, v in each_case(dtype_name):
        at = k.shape[1] // 2
        dirty = k.copy()
        dirty[:, at, 3] = np.inf
        plus = q[..., 3] > 0
        out = sdpa(q, dirty, v)
        assert np.isnan(out[plus]).all()
        hidden = np.arange(k.shape[1]) != at
        expected = reference.scaled_dot_product_attention(q, k, v, hidden)
        bound = expected.bound()
        reference.within(out[~plus], expected.out[~plus], bound[~plus], "-inf")
        assert np.isfinite(out[~plus].astype(float)).all()


def selected(value, best):
    """The rows of `value` that one key each selects, and the bound where all other weights underflow: 8 u max|V|."""
    exact = np.take_along_axis(value, best[..., None], 1).astype(reference.wide_type(value.dtype))
    u = 8 * reference.unit(value.dtype)
    if reference.is_half(value.dtype):
        u += 3 * reference.storage_unit(value.dtype)
    return exact, u * np.abs(value.astype(float)).max(1, keepdims=True) * np.ones(exact.shape)


def test_large_scores_select_the_right_key(isa, dtype_name, dtype):
    if dtype_name == "float16":
        pytest.skip("1e15 is out of the range of float16")
    for q, k, v in each_case(dtype_name):
        q, k = (q.astype(np.float64) * 1e15).astype(dtype), (k.astype(np.float64) * 1e15).astype(dtype)
        best = (reference.wide(q) @ np.swapaxes(reference.wide(k), -1, -2)).argmax(-1)
        right, bound = selected(v, best)
        reference.within(sdpa(q, k, v), right, bound, f"{q.shape} {k.shape}")


def test_scores_beyond_the_range_give_nan_or_the_right_row_never_a_wrong_number(isa, dtype_name, dtype):
    if dtype_name == "float16":
        pytest.skip("products of float16 numbers fit into float32")
    if dtype_name == "float64" and not reference.LONG_IS_WIDER:
        pytest.skip("the oracle needs a type with a wider range than double")
    size = 1e25 if dtype_name != "float64" else 1e200
    for q, k, v in each_case(dtype_name):
        q, k = (q.astype(np.float64) * size).astype(dtype), (k.astype(np.float64) * size).astype(dtype)
        # long double holds 1e400
        best = (q.astype(np.longdouble) @ np.swapaxes(k.astype(np.longdouble), -1, -2)).argmax(-1)
        right, bound = selected(v, best)
        out = sdpa(q, k, v)
        nan = np.isnan(out).all(-1)
        reference.within(out[~nan], right[~nan], bound[~nan], f"{q.shape} {k.shape}")
        assert nan.shape == (2, q.shape[1])


def test_rows_whose_scores_all_overflow_to_minus_infinity_are_nan_not_zero(isa, dtype_name, dtype):
    """The keys are visible, so this is not a row without keys: zeros, PyTorch's answer, would be a wrong number."""
    for q, k, v in each_case(dtype_name):
        if dtype_name == "float16":
            # the range of float16 cannot overflow float32; infinite keys give the same scores
            q, k = np.abs(q), np.where(np.isfinite(k), -np.inf, k).astype(dtype)
        else:
            size = 1e25 if dtype_name == "bfloat16" or dtype_name == "float32" else 1e200
            q = (np.abs(q.astype(np.float64)) * size).astype(dtype)
            k = (-np.abs(k.astype(np.float64)) * size).astype(dtype)
        q = np.where(q == 0, dtype.type(1), q)
        k = np.where(k == 0, dtype.type(-1), k)
        half = np.arange(k.shape[1]) % 2 == 0
        for options in ({}, {"attn_mask": half}, {"attn_mask": np.where(half, 0, -np.inf).astype(np.float32)}):
            expected = reference.scaled_dot_product_attention(q, k, v, **options)
            out = sdpa(q, k, v, **options)
            nan = np.isnan(out).all(-1)
            if dtype_name == "float16":
                assert nan.all(), list(options)
            else:
                right, bound = selected(v, expected.weights.argmax(-1))
                reference.within(out[~nan], right[~nan], bound[~nan], f"{q.shape} {list(options)}")


def test_scores_that_overflow_for_some_keys_leave_the_others_right(isa, dtype_name, dtype):
    """A key whose score overflows to -inf has the weight 0 that the exact score has too."""
    if dtype_name == "float16":
        pytest.skip("products of float16 numbers fit into float32")
    size = 1e30 if dtype_name != "float64" else 1e250
    for q, k, v in each_case(dtype_name):
        # the query is positive, a far key negative: its score is beyond -max
        q = np.abs(q)
        far = np.arange(k.shape[1]) % 3 == 1
        dirty = k.copy()
        dirty[:, far] = (-np.abs(k[:, far].astype(np.float64)) * size).astype(dtype)
        scale = 1e10 if dtype_name != "float64" else 1e100
        small = (k.astype(np.float64) / scale).astype(dtype)
        dirty[:, ~far] = small[:, ~far]
        out = sdpa(q, dirty, v, scale=scale)
        expected = reference.scaled_dot_product_attention(q, small, v, ~far, scale=scale)
        reference.check(out, expected, f"{q.shape}")


def test_softmax_of_all_minus_infinity_is_nan(isa, dtype_name, dtype):
    for n in (1, 2, 7, 16, 33, 300):
        x = normal((4, n), dtype, "rows")
        x[1] = -np.inf
        for function in (ruvector.softmax, ruvector.log_softmax):
            y = function(x)
            assert np.isnan(y[1]).all()
            assert np.isfinite(y[[0, 2, 3]].astype(float)).all()
        assert np.isnan(ruvector.softmax(x[1])).all()


def test_softmax_of_nan_or_plus_infinity_is_nan_in_that_row_only(isa, dtype_name, dtype):
    for n in (2, 7, 16, 33, 300):
        for bad in (np.nan, np.inf):
            for at in (0, n // 2, n - 1):
                x = normal((3, n), dtype, "rows")
                clean = ruvector.softmax(x)
                x[1, at] = bad
                y = ruvector.softmax(x)
                assert np.isnan(y[1]).any()
                if np.isnan(bad):
                    assert np.isnan(y[1]).all()
                else:
                    assert np.isnan(y[1, at])
                assert same_bits(y[[0, 2]], clean[[0, 2]])


def test_softmax_of_one_minus_infinity_ignores_it(isa, dtype_name, dtype):
    for n in (2, 9, 33, 300):
        x = normal(n, dtype, "row")
        x[n // 2] = -np.inf
        p = ruvector.softmax(x)
        assert p[n // 2] == 0
        rest = np.delete(x, n // 2)
        reference.within(np.delete(p, n // 2), reference.softmax(rest), reference.softmax_bound(rest))
        assert np.isneginf(ruvector.log_softmax(x)[n // 2])


def test_lse_is_float64_and_right_where_exp_would_overflow(isa, dtype_name, dtype):
    q, k, v = (a.copy() for a in qkv((2,), 9, 30, 16, 12, dtype_name, "lse"))
    for scale in (1e-3, 40.0, 300.0):
        expected = reference.scaled_dot_product_attention(q, k, v, scale=scale)
        _, lse = sdpa(q, k, v, scale=scale, return_lse=True)
        assert lse.dtype == np.float64
        reference.within(lse, expected.lse.astype(np.float64), expected.lse_bound(), f"scale={scale}")
