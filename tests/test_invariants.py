"""What must hold between calls: bitwise where the promise is equality, within the bound where it is not."""

import ctypes
import itertools
import mmap
import platform
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, generator, normal, qkv, same_bits

sdpa = ruvector.scaled_dot_product_attention

# (batch, q_len, kv_len): tiled, few queries, few queries against many keys (split), a long row of tiles
SHAPES = (((2, 3), 70, 90), ((2, 3), 1, 90), ((1, 2), 2, 5000), ((1, 1), 700, 70))


def option_sets(q_len, kv_len, heads):
    mask = generator("invariant mask", q_len, kv_len).random((q_len, kv_len)) < 0.7
    return (
        {},
        {"is_causal": True},
        {"attn_mask": mask},
        {"window": (40, 3), "softcap": 1.2, "alibi_slopes": generator("slopes").random(heads)},
    )


def cases(dtype_name, dim=32, v_dim=24):
    for batch, q_len, kv_len in SHAPES:
        arrays = qkv(batch, q_len, kv_len, dim, v_dim, dtype_name, "invariants")
        for options in option_sets(q_len, kv_len, batch[-1]):
            yield arrays, options, f"{batch} {q_len} x {kv_len} {list(options)}"


def test_the_same_call_gives_the_same_bits(isa, dtype_name):
    for arrays, options, what in cases(dtype_name):
        first = sdpa(*arrays, return_lse=True, **options)
        again = sdpa(*(a.copy() for a in arrays), return_lse=True, **options)
        assert all(itertools.starmap(same_bits, zip(first, again, strict=True))), what


def test_the_number_of_threads_does_not_change_a_bit(isa, dtype_name, threads):
    for arrays, options, what in cases(dtype_name):
        results = []
        for n in (1, 2, 3, 8):
            ruvector.set_num_threads(n)
            assert ruvector.get_num_threads() == n
            results.append(sdpa(*arrays, return_lse=True, **options))
        for out, lse in results[1:]:
            assert same_bits(out, results[0][0]), what
            assert same_bits(lse, results[0][1]), what


def test_threads_do_not_change_the_other_functions(isa, threads):
    x = normal((300, 1000), np.float32, "rows")
    keys, query = normal((20000, 64), np.float32, "keys"), normal(64, np.float32, "query")
    q, k, v = qkv((), 600, 600, 32, 24, "float32")
    starts = [0, 100, 101, 350, 600]
    calls = {
        "softmax": lambda: ruvector.softmax(x),
        "log_softmax": lambda: ruvector.log_softmax(x),
        "dots": lambda: ruvector.batched_dot_products(query, keys),
        "dot": lambda: ruvector.dot(keys, query),
        "varlen": lambda: ruvector.varlen_attention(
            *(a.reshape(600, 4, -1) for a in (q, k, v)), starts, starts, causal=True
        ),
        "multi_head": lambda: ruvector.multi_head_attention(q, k, v, 4),
        "scores": lambda: ruvector.attention_scores(query, keys),
        "topk": lambda: ruvector.topk(keys, 5)[1],
        "gating": lambda: ruvector.top_k_gating(keys)[1],
        "moe": lambda: ruvector.moe_attention(q, k, v, 4),
        "merge": lambda: (
            ruvector.merge_states(
                [ruvector.partial_attention(q, k[:300], v[:300]), ruvector.partial_attention(q, k[300:], v[300:])]
            ).output
        ),
    }
    for name, call in calls.items():
        results = []
        for n in (1, 2, 3, 8):
            ruvector.set_num_threads(n)
            results.append(call())
        assert all(same_bits(r, results[0]) for r in results[1:]), name


def test_a_batch_element_does_not_depend_on_its_place_or_neighbours(isa, dtype_name):
    for q_len, kv_len in ((70, 90), (1, 90), (2, 5000)):
        q, k, v = qkv((5, 3), q_len, kv_len, 32, 24, dtype_name, "batch")
        for options in option_sets(q_len, kv_len, 3):
            together = sdpa(q, k, v, **options)
            for b in range(5):
                assert same_bits(sdpa(q[b], k[b], v[b], **options), together[b]), f"{b} of {q_len} x {kv_len}"
            order = [3, 0, 4, 4, 1]
            assert same_bits(sdpa(q[order], k[order], v[order], **options), together[order])


def test_heads_are_independent(isa, dtype_name):
    for q_len, kv_len in ((70, 90), (1, 5000)):
        q, k, v = qkv((2, 5), q_len, kv_len, 32, 24, dtype_name, "heads")
        slopes = generator("head slopes").random(5)
        for options in ({}, {"is_causal": True}, {"alibi_slopes": slopes}):
            together = sdpa(q, k, v, **options)
            for h in range(5):
                mine = {"alibi_slopes": slopes[h : h + 1]} if "alibi_slopes" in options else options
                one = sdpa(q[:, h : h + 1], k[:, h : h + 1], v[:, h : h + 1], **mine)
                assert same_bits(one, together[:, h : h + 1]), f"head {h}, {q_len} x {kv_len}"


def test_multi_head_is_one_attention_for_each_slice(isa, dtype_name):
    q, k, v = qkv((2,), 20, 33, 24, 36, dtype_name, "slices")
    out = ruvector.multi_head_attention(q, k, v, 3)
    for h in range(3):
        alone = ruvector.attention(q[..., 8 * h : 8 * h + 8], k[..., 8 * h : 8 * h + 8], v[..., 12 * h : 12 * h + 12])
        assert same_bits(out[..., 12 * h : 12 * h + 12].copy(), alone)


def test_grouped_heads_equal_repeated_keys_and_values(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    for heads, kv_heads, q_len, kv_len in (
        (8, 2, 70, 90),
        (8, 1, 1, 90),
        (6, 2, 1, 5000),
        (16, 4, 3, 300),
        (12, 2, 1, 33),
    ):
        q = normal((2, heads, q_len, 32), dtype, "gqa q")
        k, v = normal((2, kv_heads, kv_len, 32), dtype, "gqa k"), normal((2, kv_heads, kv_len, 24), dtype, "gqa v")
        repeated = [np.repeat(a, heads // kv_heads, axis=1) for a in (k, v)]
        for options in option_sets(q_len, kv_len, heads):
            grouped = sdpa(q, k, v, enable_gqa=True, **options)
            assert same_bits(grouped, sdpa(q, *repeated, **options)), (
                f"{heads}/{kv_heads} {q_len} x {kv_len} {list(options)}"
            )


def test_a_window_wider_than_the_keys_is_no_window(isa, dtype_name):
    for arrays, options, what in cases(dtype_name):
        if "window" in options:
            continue
        n = max(arrays[0].shape[-2], arrays[1].shape[-2])
        plain = sdpa(*arrays, **options)
        for window in ((n, n), (n, None), (None, n), (None, None), (10**12, 10**12)):
            assert same_bits(sdpa(*arrays, window=window, **options), plain), f"{what} {window}"
    q, k, v = qkv((), 20, 33, 16, 12, dtype_name)
    assert same_bits(ruvector.local_attention(q, k, v, window_size=200), ruvector.attention(q, k, v))
    assert same_bits(
        ruvector.sliding_window_attention(q, k, v, window_size=200), ruvector.attention(q, k, v, causal=True)
    )


def test_keys_appended_behind_a_mask_change_nothing(isa, dtype_name):
    for q_len, kv_len in ((1, 37), (33, 37), (1, 64), (40, 64), (2, 1000)):
        q, k, v = qkv((2,), q_len, kv_len, 32, 24, dtype_name, "appended")
        for extra in (1, 7, 27, 64, 513):
            more_k = np.concatenate([k, normal((2, extra, 32), k.dtype, "more k") * 5], 1)
            more_v = np.concatenate([v, normal((2, extra, 24), k.dtype, "more v") * 5], 1)
            bias = normal(kv_len, np.float32, "bias")
            for mask, hidden in ((bias, -np.inf), (np.arange(kv_len) % 5 != 2, False)):
                longer = np.concatenate([mask, np.full(extra, hidden, mask.dtype)])
                expected, expected_lse = sdpa(q, k, v, attn_mask=mask, return_lse=True)
                out, lse = sdpa(q, more_k, more_v, attn_mask=longer, return_lse=True)
                what = f"{q_len} x {kv_len} + {extra} {mask.dtype}"
                assert same_bits(out, expected), what
                assert same_bits(lse, expected_lse), what


def clear_of_zero(x):
    """Numbers that stay normal in float16 when they are scaled, so that scaling is exact."""
    return np.where(np.abs(x.astype(float)) < 2.0**-6, x.dtype.type(2.0**-6), x)


def test_a_power_of_two_passes_from_the_values_to_the_result(isa, dtype_name, dtype):
    for (q, k, v), options, what in cases(dtype_name):
        v = clear_of_zero(v)
        out = sdpa(q, k, v, **options)
        # where a float16 result is subnormal it has rounded on a coarser grid
        normal_range = (np.abs(out.astype(float)) > 2.0**-10) | (out == 0)
        for power in (-3, 1, 5):
            factor = dtype.type(2.0**power)
            scaled = sdpa(q, k, (v * factor).astype(dtype), **options)
            assert same_bits(scaled[normal_range], (out * factor).astype(dtype)[normal_range]), f"{what} {power}"


def test_a_power_of_two_moves_between_query_and_scale(isa, dtype_name, dtype):
    for (q, k, v), options, what in cases(dtype_name):
        q = clear_of_zero(q)
        out = sdpa(q, k, v, scale=0.3, **options)
        for power in (-4, 2, 6):
            other = (q * dtype.type(2.0**power)).astype(dtype)
            assert same_bits(sdpa(other, k, v, scale=0.3 * 2.0**-power, **options), out), f"{what} {power}"


def test_a_boolean_mask_is_an_additive_mask_of_zero_and_minus_infinity(isa, dtype_name):
    for arrays, _, what in cases(dtype_name):
        q_len, kv_len = arrays[0].shape[-2], arrays[1].shape[-2]
        mask = generator("0/-inf", q_len, kv_len).random((q_len, kv_len)) < 0.5
        mask[q_len // 2] = False
        for options in ({}, {"is_causal": True}):
            a = sdpa(*arrays, attn_mask=mask, return_lse=True, **options)
            b = sdpa(*arrays, attn_mask=np.where(mask, 0, -np.inf).astype(np.float32), return_lse=True, **options)
            assert same_bits(a[0], b[0]), what
            assert same_bits(a[1], b[1]), what


def test_the_future_does_not_reach_a_causal_row(isa, dtype_name):
    n = 150
    q, k, v = qkv((2,), n, n, 32, 24, dtype_name, "future")
    out = sdpa(q, k, v, is_causal=True)
    for at in (1, 15, 16, 17, 63, 64, 65, 100, 149):
        other_k, other_v = k.copy(), v.copy()
        other_k[:, at:] = normal((2, n - at, 32), k.dtype, "other k", at) * 9
        other_v[:, at:] = normal((2, n - at, 24), k.dtype, "other v", at) * 9
        changed = sdpa(q, other_k, other_v, is_causal=True)
        assert same_bits(changed[:, :at], out[:, :at]), at
        assert not np.isclose(changed[:, at:], out[:, at:]).all(-1).any(), at


def test_a_causal_row_is_attention_over_the_keys_so_far(isa, dtype_name):
    n = 70
    q, k, v = qkv((), n, n, 32, 24, dtype_name, "rows")
    out = sdpa(q, k, v, is_causal=True)
    for i in (0, 1, 7, 8, 15, 16, 31, 32, 47, 63, 64, 69):
        expected = reference.scaled_dot_product_attention(q[i : i + 1], k[: i + 1], v[: i + 1])
        reference.check(out[i : i + 1], expected, f"row {i}")
        reference.check(sdpa(q[i : i + 1], k[: i + 1], v[: i + 1]), expected, f"decode step {i}")


def test_the_order_of_the_keys_does_not_matter(isa, dtype_name):
    q, k, v = qkv((), 9, 333, 32, 24, dtype_name, "order")
    expected = reference.scaled_dot_product_attention(q, k, v)
    for seed in range(3):
        order = generator("order", seed).permutation(333)
        reference.check(sdpa(q, k[order], v[order]), expected)


def test_a_shift_of_all_scores_does_not_matter(isa, dtype_name):
    q, k, v = qkv((), 9, 100, 32, 24, dtype_name, "shift")
    expected = reference.scaled_dot_product_attention(q, k, v, np.full(100, 7.0))
    plain = reference.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(expected.out.astype(float), plain.out.astype(float), atol=1e-12)
    reference.check(sdpa(q, k, v, attn_mask=np.full(100, 7, np.float32)), expected)


def test_instruction_sets_agree_within_the_bound(dtype_name):
    results = {}
    for name in ruvector.isas():
        with ruvector.use_isa(name):
            assert ruvector.isa() == name
            results[name] = [sdpa(*arrays, **options) for arrays, options, _ in cases(dtype_name)]
    for i, (arrays, options, what) in enumerate(cases(dtype_name)):
        bound = 2 * reference.scaled_dot_product_attention(*arrays, **options).bound().astype(float)
        for a, b in itertools.combinations(results, 2):
            difference = np.abs(results[a][i].astype(float) - results[b][i].astype(float))
            assert (difference <= bound).all(), f"{a} and {b}: {what}"


# Random cases --------------------------------------------------------------------------------------------------------


@st.composite
def random_calls(draw):
    lengths = st.integers(1, 80)
    q_len, kv_len = draw(lengths), draw(st.one_of(lengths, st.integers(200, 700)))
    dim, v_dim = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    dtype = DTYPES[draw(st.sampled_from(tuple(DTYPES)))]
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    heads = kv_heads * group
    size = draw(st.sampled_from((0.1, 1.0, 4.0)))
    shapes = (heads, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, v_dim)
    arrays = tuple((rng.standard_normal(s) * f).astype(dtype) for s, f in zip(shapes, (size, 1, 1), strict=True))
    options = {"enable_gqa": True}
    if draw(st.booleans()):
        options["is_causal"] = True
    if draw(st.booleans()):
        bound = st.one_of(st.none(), st.integers(0, 90))
        options["window"] = (draw(bound), draw(bound))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from((0.3, 2.0, 50.0)))
    if draw(st.booleans()):
        options["alibi_slopes"] = rng.random(heads)
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from((0.0, 0.05, 1.0, -0.7)))
    kind = draw(st.sampled_from(("none", "bool", "float")))
    if kind != "none":
        shape = draw(
            st.sampled_from(((kv_len,), (q_len, kv_len), (q_len, 1), (heads, 1, kv_len), (heads, q_len, kv_len)))
        )
        mask = rng.random(shape) < draw(st.sampled_from((0.05, 0.5, 0.95)))
        options["attn_mask"] = mask if kind == "bool" else np.where(mask, rng.standard_normal(shape), -np.inf)
    return arrays, options


@hypothesis.given(call=random_calls())
def test_any_call_is_within_the_bound_and_independent_of_threads(isa, call):
    arrays, options = call
    expected = reference.scaled_dot_product_attention(*arrays, **options)
    out, lse = sdpa(*arrays, return_lse=True, **options)
    reference.check(out, expected, str(options))
    reference.within(lse, expected.lse.astype(float), expected.lse_bound(), "lse")
    before = ruvector.get_num_threads()
    try:
        ruvector.set_num_threads(3 if before != 3 else 2)
        assert same_bits(sdpa(*arrays, **options), out)
    finally:
        ruvector.set_num_threads(before)


@hypothesis.given(call=random_calls(), data=st.data())
def test_any_split_merges_to_the_whole(isa, call, data):
    (q, k, v), options = call
    for name in ("is_causal", "window", "alibi_slopes", "attn_mask"):
        options.pop(name, None)
    expected = reference.scaled_dot_product_attention(q, k, v, **options)
    cuts = sorted(data.draw(st.lists(st.integers(0, k.shape[-2]), max_size=5)))
    states = [
        ruvector.partial_attention(q, k[:, a:b], v[:, a:b], **options)
        for a, b in itertools.pairwise([0, *cuts, k.shape[-2]])
    ]
    order = data.draw(st.permutations(range(len(states))))
    merged = ruvector.merge_states([states[i] for i in order])
    reference.within(merged.output, expected.out, expected.merged_bound(), "merged")
    reference.within(merged.lse, expected.lse.astype(float), expected.lse_bound(), "lse")


# The floating-point environment --------------------------------------------------------------------------------------


@pytest.fixture
def control_register():
    """Reads MXCSR through five bytes of machine code: stmxcsr [rdi]; ret."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("reads MXCSR, which x86-64 Linux has")
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        pytest.skip("no executable memory allowed here")
    page.write(b"\x0f\xae\x1f\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    store = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(address)

    def read():
        word = ctypes.c_uint32()
        store(word)
        return word.value

    yield read


def every_kind_of_call():
    tiny = np.full((40, 16), 1e-42, np.float32)
    q, k, v = qkv((2,), 40, 70, 16, 12, "float32")
    sdpa(q * np.float32(30), k, v)
    sdpa(q[:, :1], k, v)
    sdpa(tiny, tiny, tiny)
    sdpa(q, np.full_like(k, np.nan), v)
    ruvector.softmax(np.array([0.0, -1000.0, -90.0], np.float32))
    ruvector.log_softmax(np.array([0.0, -1000.0], np.float32))
    ruvector.dot(tiny, tiny)
    ruvector.batched_dot_products(q[0, 0], k[0])


def test_the_control_register_is_untouched(isa, control_register):
    flags = 0x3F  # the sticky status bits, which arithmetic sets
    before = control_register() & ~flags
    assert before == 0x1F80
    every_kind_of_call()
    assert control_register() & ~flags == before


def test_subnormal_numbers_survive(isa):
    """No flush to zero: not in this thread afterwards, not inside a call."""
    every_kind_of_call()
    tiny = np.float32(1e-42)
    assert tiny * np.float32(0.5) > 0
    key = normal((5, 8), np.float32, "k")
    value = np.full((5, 3), tiny)
    for q_len in (1, 30):
        query = np.zeros((q_len, 8), np.float32)
        out = sdpa(query, key, value)
        # five equal weights of tiny numbers: each term rounds to a multiple of the smallest subnormal
        assert (np.abs(out.astype(float) - float(tiny)) <= 5 * 1.5e-45).all()
    weights = ruvector.softmax(np.array([0.0, -95.0, -100.0], np.float32))
    assert 0 < weights[2] < weights[1] < 1e-40
    assert ruvector.dot(np.float32([1e-42, 1e-42]), np.float32([1, 1])) == np.float32(1e-42) * 2


def test_numpy_error_states_are_untouched(isa):
    with np.errstate(all="raise"):
        every_kind_of_call()
        state = np.geterr()
        assert set(state.values()) == {"raise"}
        np.add(np.float32([1.0]), np.float32([2.0]))
        np.multiply(np.arange(1.0, 100.0), 3.0)
