"""KVCache against attention over plain arrays: every ISA, storage and option, growth, eviction, rollback, copies."""

import copy
import inspect
import math
import pickle
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, TIME_FACTOR, generator, normal, peak_allocation, same_bits

KVCache = ruvector.KVCache
STORAGE = (*DTYPES, "int8")
G, D, DV = 2, 24, 20


@pytest.fixture(params=STORAGE)
def storage(request):
    return request.param


def computed(storage):
    return reference.F64 if storage == "float64" else reference.F32


def rows(n, *seed, batch=1, heads=G, dim=D, v_dim=DV, dtype=np.float32):
    """keys and values (batch, heads, n, width)"""
    return (
        normal((batch, heads, n, dim), dtype, "cache keys", *seed),
        normal((batch, heads, n, v_dim), dtype, "cache values", *seed),
    )


def queries(heads, q_len, *seed, batch=1, dim=D, dtype=np.float32):
    return normal((batch, heads, q_len, dim), dtype, "cache queries", *seed)


def filled(storage, n, *seed, batch=1, heads=G, dim=D, v_dim=DV, **options):
    cache = KVCache(heads, dim, v_dim, batch=batch, dtype=storage, **options)
    cache.append(*rows(n, *seed, batch=batch, heads=heads, dim=dim, v_dim=v_dim))
    return cache


def contents(cache):
    """What a cache stores, exactly: codes times scales in float64."""
    if cache.dtype == np.int8:
        last = cache._first + cache._held
        tokens = slice(last - len(cache), last)
        return tuple(
            codes[:, :, tokens].astype(np.float64) * scales[:, :, tokens, None].astype(np.float64)
            for codes, scales in ((cache._keys, cache._key_scales), (cache._values, cache._value_scales))
        )
    return cache.keys, cache.values


def check(cache, query, what="", history=None, **options):
    """attend is within the bound of the definition over what the cache stores, or over `history`; returns the output."""
    keys, values = contents(cache) if history is None else history
    definition = {"slopes" if name == "alibi_slopes" else name: x for name, x in options.items()}
    kind = computed(cache.dtype.name)
    expected = reference.cache_attention(query, keys, values, kind, cache.window, **definition)
    out, lse = cache.attend(query, return_lse=True, **options)
    assert out.dtype == query.dtype, what
    bound = expected.bound()
    if out.dtype != kind:
        # as the bound of 16-bit storage has it; a float64 cache rounds once to the query's type
        bound = bound + 3 * reference.storage_unit(out.dtype) * expected.peak + reference.smallest(out.dtype)
    reference.within(out, expected.out, bound, what)
    assert lse.dtype == np.float64
    reference.within(lse, expected.lse, expected.lse_bound(), f"{what} lse")
    assert same_bits(cache.attend(query, **options), out), f"{what}: return_lse changes the output"
    return out


# Attention -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", (1, 2, 16, 17, 65, 513, 2049))
def test_attention_over_the_tokens_so_far(isa, storage, n):
    cache = filled(storage, n, "lengths")
    for heads, q_len in ((2, 1), (8, 1), (4, 3), (2, 4), (4, 5), (2, 50)):
        check(cache, queries(heads, q_len), f"{heads} heads, L={q_len} n={n}")


def test_every_width(isa, storage):
    for dim, v_dim in ((1, 1), (7, 9), (15, 17), (33, 8), (64, 64), (80, 96), (128, 127), (600, 5), (5, 600)):
        cache = filled(storage, 37, "widths", dim=dim, v_dim=v_dim)
        for heads, q_len in ((2, 1), (8, 1), (6, 2), (2, 20)):
            check(cache, queries(heads, q_len, dim=dim), f"d={dim} dv={v_dim} H={heads} L={q_len}")


def test_every_number_of_heads_that_share(isa, storage):
    for group in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16):
        cache = filled(storage, 45, "groups")
        check(cache, queries(G * group, 1), f"group of {group}")
        check(cache, queries(G * group, 2), f"group of {group}, two queries")


def test_result_has_the_dtype_of_the_query(isa, storage):
    cache = filled(storage, 30, "dtypes")
    for dtype in DTYPES.values():
        for q_len in (1, 9):
            query = queries(4, q_len, dtype=dtype)
            out = check(cache, query, f"{dtype} L={q_len}")
            if isa == "avx512bf16" and dtype == reference.BFLOAT16 and storage == "bfloat16" and q_len > 4:
                continue  # its tiles take products of pairs, with weights rounded to bfloat16
            # a query wider than the arithmetic is rounded first, a narrower one is exact
            kind = computed(storage)
            assert same_bits(cache.attend(query.astype(kind)).astype(dtype), out), f"{dtype} L={q_len}"
    integers = generator("integers").integers(-2, 3, (1, 4, 1, D))
    assert same_bits(cache.attend(integers), cache.attend(integers.astype(np.float64)))


def test_bits_are_those_of_plain_arrays(isa, storage):
    """The kernel is that of scaled_dot_product_attention, and 16-bit rows are exact in float32."""
    if storage == "int8":
        pytest.skip("no plain array has row scales")
    kind = computed(storage)
    for n, heads in ((1, 2), (40, 8), (700, 4), (5000, 4)):
        cache = filled(storage, n, "plain", dim=64, v_dim=64)
        for dtype in (kind, cache.dtype):
            keys, values = cache.keys.astype(dtype), cache.values.astype(dtype)
            for q_len in (1, 3, 5, 60):
                query = queries(heads, q_len, dim=64).astype(dtype)
                options = {"enable_gqa": True, "key_offset": q_len - n, "is_causal": True}
                plain = ruvector.partial_attention(query, keys, values, **options)
                out, lse = cache.attend(query, return_lse=True)
                assert same_bits(out, plain.output), f"{dtype} n={n} L={q_len}"
                assert same_bits(lse, plain.lse), f"{dtype} n={n} L={q_len}"
            query = queries(heads, 1, dim=64).astype(dtype)
            plain = ruvector.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
            assert same_bits(cache.attend(query), plain), f"{dtype} n={n}"


def test_decoding_step_by_step_is_the_prefill(isa, storage):
    keys, values = rows(70, "steps", batch=2)
    query = queries(4, 70, batch=2)
    whole = KVCache(G, D, DV, batch=2, dtype=storage)
    whole.append(keys, values)
    together = check(whole, query, "prefill")
    steps = KVCache(G, D, DV, batch=2, dtype=storage)
    for i in range(70):
        steps.append(keys[:, :, i], values[:, :, i])
        out = check(steps, query[:, :, i : i + 1], f"step {i}")
        assert same_bits(steps.attend(query[:, :, i]), out[:, :, 0])
        difference = np.abs(out[:, :, 0].astype(float) - together[:, :, i])
        assert (difference <= 1e-4).all()
    assert all(map(same_bits, contents(steps), contents(whole)))


OPTIONS = {
    "scale": {"scale": 0.3},
    "negative scale": {"scale": -0.2},
    "softcap": {"softcap": 0.7},
    "alibi_slopes": {"alibi_slopes": [0.1, 0.2, 0.4, 0.8]},
    "alibi_slopes by batch": {"alibi_slopes": np.arange(1.0, 9).reshape(2, 4) / 8},
    "one slope for all heads": {"alibi_slopes": [0.3]},
    "everything": {"scale": 0.4, "softcap": 1.5, "alibi_slopes": [0.1, 0.2, 0.4, 0.8]},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option_has_its_effect_and_no_other(isa, storage, option):
    cache = filled(storage, 53, "options", batch=2)
    for q_len in (1, 3, 20):
        query = queries(4, q_len, batch=2)
        out = check(cache, query, f"{option} L={q_len}", **OPTIONS[option])
        assert np.abs(out - cache.attend(query)).max() > 1e-3, f"{option} changes nothing"


def test_out_takes_any_strides_and_dtype_of_the_query(isa, storage):
    cache = filled(storage, 30, "out")
    for dtype in DTYPES.values():
        for q_len in (1, 9):
            query = queries(4, q_len, dtype=dtype)
            plain = cache.attend(query)
            room = np.full((1, q_len, 4, 2 * DV), 7, dtype)
            for out in (np.empty_like(plain), room.swapaxes(1, 2)[..., :DV], room.swapaxes(1, 2)[..., ::2]):
                assert cache.attend(query, out=out) is out
                assert same_bits(out.copy(), plain)


def test_the_axes_of_one_token_and_one_batch_may_be_left_out(isa, storage):
    keys, values = rows(3, "axes")
    query = queries(4, 1)
    caches = [KVCache(G, D, DV, dtype=storage) for _ in range(5)]
    caches[0].append(keys, values)
    caches[1].append(keys[0], values[0])
    for i in range(3):
        caches[2].append(keys[0, :, i], values[0, :, i])
        caches[3].append(keys[:, :, i], values[:, :, i])
        caches[4].append(keys[0, :, i], values[:, :, i : i + 1])
    for cache in caches:
        assert all(map(same_bits, contents(cache), contents(caches[0])))
        expected = cache.attend(query)
        assert expected.shape == (1, 4, 1, DV)
        for axes, shape in (((0, 2), (4, DV)), ((2,), (1, 4, DV)), ((0,), (4, 1, DV))):
            out, lse = cache.attend(query.squeeze(axes), return_lse=True)
            assert out.shape == shape and lse.shape == shape[:-1]
            assert same_bits(out.reshape(expected.shape), expected)
    cache = KVCache(1, D, DV, dtype=storage)
    cache.append(keys[0, 0, 0], values[0, 0, 0])
    assert same_bits(cache.attend(query[0, 0, 0]), cache.attend(query[:, :1])[0, 0, 0])


def test_one_key_head_needs_all_axes_where_they_would_be_ambiguous():
    cache = filled("float32", 5, "ambiguous", heads=1)
    query = queries(1, 4)
    check(cache, query, "one head, four queries")
    with pytest.raises(ValueError, match="ambiguous"):
        cache.attend(query[0])
    assert cache.attend(query[0, 0]).shape == (4, DV)  # four heads, one query
    assert cache.attend(queries(3, 4)[0]).shape == (3, 4, DV)
    pair = KVCache(1, D, DV)
    pair.append(*(x[0] for x in rows(5, "ambiguous", heads=1)))  # one head, five tokens
    assert len(pair) == 5


def test_queries_and_rows_of_any_layout(isa, storage):
    keys, values = rows(9, "layout", batch=2)
    query = queries(4, 3, batch=2)
    expected = filled(storage, 9, "layout", batch=2)
    assert same_bits(expected.attend(query), expected.attend(np.asfortranarray(query)))
    layouts = {
        "Fortran": np.asfortranarray,
        "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
        "by token": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
        "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
        "float64": lambda x: x.astype(np.float64),
        "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "list": lambda x: x.astype(np.float64).tolist(),
    }
    for name, layout in layouts.items():
        cache = KVCache(G, D, DV, batch=2, dtype=storage)
        cache.append(layout(keys), layout(values))
        assert all(map(same_bits, contents(cache), contents(expected))), name
        assert same_bits(cache.attend(layout(query)).astype(np.float32), expected.attend(query)), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_any_dtype_are_rounded_once(isa, storage, dtype):
    keys, values = (x.astype(DTYPES[dtype]) for x in rows(6, "rounding"))
    cache = KVCache(G, D, DV, dtype=storage)
    cache.append(keys, values)
    if storage == "int8":
        for x, codes, scales in (
            (keys, cache._keys, cache._key_scales),
            (values, cache._values, cache._value_scales),
        ):
            expected = reference.quantised(x)
            assert same_bits(codes[:, :, :6], expected[0])
            assert same_bits(scales[:, :, :6], expected[1])
    else:
        assert same_bits(cache.keys, keys.astype(DTYPES[storage]))
        assert same_bits(cache.values, values.astype(DTYPES[storage]))


def test_numbers_beyond_float16_become_infinite_without_a_warning(isa):
    keys, values = rows(3, "overflow")
    values[0, 1, 2, 3] = 1e6
    for dtype in (np.float32, np.float64):
        cache = KVCache(G, D, DV, dtype="float16")
        cache.append(keys.astype(dtype), values.astype(dtype))
        assert np.isposinf(cache.values[0, 1, 2, 3])
        assert np.isfinite(cache.values).sum() == values.size - 1


# Invariants ----------------------------------------------------------------------------------------------------------


def test_threads_batch_and_sharing_change_no_bit(isa, storage, threads):
    for n, q_len in ((90, 1), (90, 20), (5000, 2)):
        cache = filled(storage, n, "invariants", batch=3)
        query = queries(4, q_len, batch=3)
        ruvector.set_num_threads(1)
        expected, lse = cache.attend(query, return_lse=True)
        for count in (2, 3, 8):
            ruvector.set_num_threads(count)
            again = cache.attend(query, return_lse=True)
            assert same_bits(again[0], expected) and same_bits(again[1], lse), f"{count} threads, {n}, {q_len}"
        keys, values = rows(n, "invariants", batch=3)
        for b in range(3):
            alone = KVCache(G, D, DV, dtype=storage)
            alone.append(keys[b], values[b])
            assert same_bits(alone.attend(query[b]), expected[b]), f"batch {b}, {n}, {q_len}"
        repeated = KVCache(4, D, DV, batch=3, dtype=storage)
        repeated.append(np.repeat(keys, 2, axis=1), np.repeat(values, 2, axis=1))
        assert same_bits(repeated.attend(query), expected)


@pytest.mark.parametrize("kind", ("float32", "bfloat16", "int8"))
def test_caches_that_come_from_memory_have_the_bits_of_small_ones(isa, kind):
    """Rows are fetched ahead from some size on; nothing but time depends on it."""
    if kind == "bfloat16" and kind not in DTYPES:
        pytest.skip("needs ml_dtypes")
    if TIME_FACTOR > 1:
        pytest.skip("an emulator has no caches")
    n, heads = {"float32": 20000, "bfloat16": 40000, "int8": 80000}[kind], 4
    pattern = normal((1, heads, 997, 64), np.float32, "long cache")
    cache = KVCache(heads, 64, dtype=kind, capacity=n)
    for at in range(0, n, 997):
        part = pattern[:, :, : min(997, n - at)]
        cache.append(part + np.float32(at % 7), part[..., ::-1] - np.float32(at % 5))
    assert cache.nbytes > 40e6
    for group in (1, 4):
        query = queries(heads * group, 1, dim=64)
        out = cache.attend(query)
        for h in range(heads):
            one = KVCache(1, 64, dtype=kind, capacity=n)
            one._load(n, 0, [x if x is None else x[:, h : h + 1, :n] for x in cache._arrays()])
            mine = slice(h * group, (h + 1) * group)
            assert same_bits(one.attend(query[:, mine]), out[:, mine]), f"head {h} of {heads * group}"


def test_what_lies_behind_the_tokens_leaves_no_trace(isa):
    for storage in DTYPES:
        for n in (5, 64, 600):
            keys, values = rows(n, "behind")
            cache = KVCache(G, D, DV, dtype=storage)
            cache.append(keys, values)
            query = queries(4, 1), queries(4, 9)
            expected = [cache.attend(q) for q in query]
            cache.append(np.full((G, 70, D), np.nan), np.full((G, 70, DV), np.inf))
            cache.truncate(n)
            assert all(map(same_bits, [cache.attend(q) for q in query], expected)), f"{storage} {n}"


def test_nan_in_a_visible_token_reaches_the_queries_that_see_it(isa):
    for storage in DTYPES:
        keys, values = rows(20, "nan")
        values[0, 1, 7, 3] = np.nan
        cache = KVCache(G, D, DV, dtype=storage)
        cache.append(keys, values)
        for q_len in (4, 20):
            out = cache.attend(queries(2, q_len))
            seen = np.arange(20 - q_len, 20) >= 7
            assert (np.isnan(out[0, 1, :, 3]) == seen).all()
            assert np.isfinite(np.delete(out, 3, axis=-1)).all()


# Growth, eviction, rollback ------------------------------------------------------------------------------------------


def test_growth_keeps_the_tokens_and_doubles(storage):
    cache = KVCache(G, D, DV, batch=2, dtype=storage)
    assert (len(cache), cache.length, cache.capacity, cache.nbytes) == (0, 0, 0, 0)
    keys, values = rows(300, "growth", batch=2)
    whole = KVCache(G, D, DV, batch=2, dtype=storage, capacity=300)
    room = whole._keys
    whole.append(keys, values)
    assert whole._keys is room, "there was room"
    capacities = []
    for i in range(300):
        cache.append(keys[:, :, i], values[:, :, i])
        assert len(cache) == cache.length == i + 1 <= cache.capacity
        capacities.append(cache.capacity)
    assert all(map(same_bits, contents(cache), contents(whole)))
    assert len(set(capacities)) <= 2 + math.log2(300)
    assert cache.capacity < 2 * 300
    width = {"float32": 4, "float64": 8, "int8": 1}.get(storage, 2)
    scales = 8 if storage == "int8" else 0
    assert cache.nbytes == 2 * G * cache.capacity * ((D + DV) * width + scales)


def test_capacity_is_room_for_that_many_tokens(storage):
    cache = KVCache(G, D, DV, dtype=storage, capacity=100)
    assert cache.capacity == 100 and len(cache) == 0
    cache.append(*rows(100, "room"))
    assert cache.capacity == 100
    cache.append(*rows(1, "more"))
    assert cache.capacity >= 101


def test_nothing_appended_changes_nothing(storage):
    cache = filled(storage, 5, "nothing", window=3)
    before = pickle.dumps(cache)
    cache.append(*rows(0, "nothing"))
    assert pickle.dumps(cache) == before


@pytest.mark.parametrize("window", (1, 5, 16))
def test_window(isa, storage, window):
    """Exactly the definition over the whole history, whatever the pieces: of one token, around the window, above it."""
    pieces = (1, window, 1, 1, max(window - 1, 1), window + 1, 2, 3 * window + 2, 1, 7, 1, 40, 1, 1)
    keys, values = rows(sum(pieces), "window")
    history = KVCache(G, D, DV, dtype=storage)
    history.append(keys, values)
    exact = contents(history)
    slopes = {"alibi_slopes": [0.05, 0.1, 0.2, 0.4]}
    cache = KVCache(G, D, DV, window=window, dtype=storage)
    at = 0
    for n in pieces:
        cache.append(keys[:, :, at : at + n], values[:, :, at : at + n])
        at += n
        assert cache.length == at and len(cache) == min(at, window)
        first = max(at - window, 0)
        assert all(same_bits(mine, x[:, :, first:at]) for mine, x in zip(contents(cache), exact))
        past = tuple(x[:, :, :at] for x in exact)
        for q_len in sorted({1, min(n, 3), n}):
            query = queries(4, q_len)
            check(cache, query, f"L={q_len} after {at}", history=past)
            check(cache, query, f"ALiBi L={q_len} after {at}", history=past, **slopes)


def test_window_bounds_the_memory(storage):
    cache = KVCache(G, D, DV, window=32, dtype=storage)
    keys, values = rows(1, "bounded")
    capacities = set()
    for _ in range(500):
        cache.append(keys, values)
        capacities.add(cache.capacity)
    assert max(capacities) <= 2 * 32 + 16
    cache.append(*rows(1000, "prompt"))
    assert cache.capacity >= 1000
    for _ in range(100):
        cache.append(keys, values)
    assert cache.capacity <= 2 * 32 + 16, "the room of a long prompt is given back"
    assert (cache.length, len(cache)) == (1600, 32)


def test_window_wider_than_the_tokens_is_none(isa, storage):
    keys, values = rows(40, "wide")
    plain, wide = KVCache(G, D, DV, dtype=storage), KVCache(G, D, DV, window=40, dtype=storage)
    for cache in (plain, wide):
        cache.append(keys, values)
    for q_len in (1, 3, 40):
        assert same_bits(plain.attend(queries(4, q_len)), wide.attend(queries(4, q_len)))
    assert plain.window is None and wide.window == 40


@pytest.mark.parametrize("window", (None, 6))
def test_truncate_takes_back_a_draft(isa, storage, window):
    keys, values = rows(50, "draft")
    cache, straight = (KVCache(G, D, DV, window=window, dtype=storage) for _ in range(2))
    cache.append(keys[:, :, :20], values[:, :, :20])
    straight.append(keys[:, :, :20], values[:, :, :20])
    at = 20
    for accepted in (0, 1, 3, 4):
        draft = rows(4, "rejected", accepted)
        draft[0][:, :, :accepted] = keys[:, :, at : at + accepted]
        draft[1][:, :, :accepted] = values[:, :, at : at + accepted]
        cache.append(*draft)
        cache.truncate(at + accepted)
        straight.append(keys[:, :, at : at + accepted], values[:, :, at : at + accepted])
        at += accepted
        assert cache.length == straight.length == at and len(cache) == len(straight)
        assert all(map(same_bits, contents(cache), contents(straight)))
        for q_len in (1, max(accepted, 1)):
            assert same_bits(cache.attend(queries(4, q_len)), straight.attend(queries(4, q_len)))
    cache.truncate(at)
    assert cache.length == at
    cache.truncate(0)
    assert (len(cache), cache.length) == (0, 0)
    cache.append(keys, values)
    straight.clear()
    straight.append(keys, values)
    assert same_bits(cache.attend(queries(4, 1)), straight.attend(queries(4, 1)))


def test_truncate_refuses_what_is_evicted():
    cache = filled("float32", 20, "evicted", window=4)
    cache.append(*rows(1, "one more"))  # held are 4 + 1
    for length in (16, 5, 1):
        with pytest.raises(ValueError, match=f"16 tokens that are evicted.*got {length}"):
            cache.truncate(length)
    assert cache.length == 21
    cache.truncate(17)
    assert len(cache) == 1
    cache.truncate(0)
    assert cache.length == 0


def test_clear_keeps_the_room(storage):
    cache = filled(storage, 20, "clear", window=5)
    capacity, room = cache.capacity, cache._keys
    cache.clear()
    assert (len(cache), cache.length, cache.capacity) == (0, 0, capacity)
    cache.append(*rows(3, "after"))
    assert cache._keys is room
    assert all(map(same_bits, contents(cache), contents(filled(storage, 3, "after"))))


def test_an_empty_cache_gives_zeros(isa, storage):
    for cache in (KVCache(G, D, DV, dtype=storage), KVCache(G, D, DV, dtype=storage, capacity=10, window=4)):
        for q_len in (0, 1, 3, 30):
            out, lse = cache.attend(queries(4, q_len), return_lse=True)
            assert out.shape == (1, 4, q_len, DV) and (out == 0).all() and not np.signbit(out).any()
            assert np.isneginf(lse).all()


def test_queries_before_the_first_token_see_nothing(isa, storage):
    cache = filled(storage, 2, "early")
    for q_len in (4, 9):
        out = check(cache, queries(4, q_len), f"L={q_len}")
        assert (out[:, :, : q_len - 2] == 0).all() and (out[:, :, q_len - 2 :] != 0).all()


@st.composite
def histories(draw):
    step = st.one_of(
        st.tuples(st.just("append"), st.integers(0, 40)),
        st.tuples(st.just("back"), st.integers(0, 12)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("copy"), st.just(0)),
    )
    return {
        "storage": draw(st.sampled_from(STORAGE)),
        "window": draw(st.one_of(st.none(), st.integers(1, 30))),
        "capacity": draw(st.sampled_from((0, 7, 100))),
        "group": draw(st.integers(1, 5)),
        "steps": draw(st.lists(step, min_size=1, max_size=12)),
    }


@hypothesis.given(history=histories())
def test_any_history_is_attention_over_what_is_left(isa, history):
    """Against lists: the last append's tokens may go again, the rest is as if it had never been."""
    window = history["window"]
    cache = KVCache(G, D, DV, window=window, capacity=history["capacity"], dtype=history["storage"])
    past = KVCache(G, D, DV, dtype=history["storage"])
    latest = 0
    for i, (step, n) in enumerate(history["steps"]):
        if step == "append":
            new = rows(n, "history", i)
            cache.append(*new)
            past.append(*new)
            latest = n or latest
        elif step == "back":
            n = min(n, latest)
            cache.truncate(cache.length - n)
            past.truncate(past.length - n)
            latest -= n
        elif step == "clear":
            cache.clear()
            past.clear()
            latest = 0
        else:
            cache = cache.copy()
        assert cache.length == past.length
        assert len(cache) == min(past.length, window or past.length)
        exact = contents(past)
        for q_len in {1, max(latest, 1)}:
            check(cache, queries(G * history["group"], q_len), f"after {step} {n}, L={q_len}", history=exact)


# int8 ----------------------------------------------------------------------------------------------------------------


def test_codes_and_scales_are_the_definition(isa):
    rng = generator("codes")
    for dim in (1, 5, 64, 511, 512, 513, 1300):
        keys = (rng.standard_normal((1, 1, 40, dim)) * 10.0 ** rng.integers(-30, 30, (40, 1))).astype(np.float32)
        keys[0, 0, 3] = 0
        keys[0, 0, 4] = 1e-45  # less than a scale can be
        keys[0, 0, 5] = np.linspace(-190, 190, dim) * 1.4e-45
        keys[0, 0, 6] = np.float32(3.4e38)
        keys[0, 0, 7] = np.arange(dim) % 128 - 63.5  # ties: the scale is 1 wherever 127 is reached
        keys[0, 0, 7, 0] = 127
        keys[0, 0, 8] = -keys[0, 0, 9]
        cache = KVCache(1, dim, dtype="int8")
        cache.append(keys, -keys)
        codes, scales = reference.quantised(keys)
        assert same_bits(cache._keys[:, :, :40], codes)
        assert same_bits(cache._key_scales[:, :, :40], scales)
        assert same_bits(cache._values[:, :, :40], -codes)
        assert same_bits(cache.keys, codes * scales[..., None])
        assert np.abs(codes.astype(int)).max() <= 127
        exact = np.abs(keys.astype(np.longdouble) - codes.astype(np.longdouble) * scales[..., None])
        assert (exact <= scales[..., None].astype(np.longdouble) / 2).all()


def test_int8_error_is_within_its_bound(isa):
    """Against attention over the numbers that were appended, not over what is stored of them."""
    for n, heads, q_len, size in (
        (1, 2, 1, 1.0),
        (60, 8, 1, 1.0),
        (700, 4, 3, 0.5),
        (90, 4, 30, 1.0),
        (3000, 8, 1, 0.3),
    ):
        keys, values = rows(n, "int8", dim=64, v_dim=48)
        query = queries(heads, q_len, dim=64) * np.float32(size)
        cache = KVCache(G, 64, 48, dtype="int8")
        cache.append(keys, values)
        exact = reference.cache_attention(query, keys, values, reference.F32)
        moved = reference.quantisation_bound(query, keys, values, 0.125)
        arithmetic = reference.cache_attention(query, *contents(cache), reference.F32).bound()
        out = cache.attend(query)
        reference.within(out, exact.out, moved + arithmetic, f"n={n} L={q_len}")
        assert np.abs(out - exact.out).max() > 1e-5, "it does round"
        assert (moved < np.abs(values).max()).all(), "the bound says something"


def test_int8_takes_a_quarter_of_the_memory():
    small, large = (KVCache(8, 128, dtype=kind, capacity=1000) for kind in ("int8", "float32"))
    assert small.nbytes == large.nbytes / 4 * (1 + 4 / 128)
    room = np.ones((8, 1, 128), np.float32)
    small.append(room, room)
    assert peak_allocation(lambda: small.append(room, room)) < 10000


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_int8_refuses_what_it_cannot_hold_and_stays_as_it_was(bad):
    for at_values in (False, True):
        for n in (5, 100):  # without and with growth
            for window in (None, 4):
                cache = filled("int8", 7, "finite", window=window)
                before, capacity = pickle.dumps(cache), cache.capacity
                expected = cache.attend(queries(4, 7))
                new = rows(n, "not finite")
                new[at_values][0, 1, n - 1, 3] = bad
                name = "values" if at_values else "keys"
                where = f"got {bad} at (0, 1, {n - 1}, 3)"
                with pytest.raises(ValueError) as caught:
                    cache.append(*new)
                assert name in str(caught.value) and where in str(caught.value)
                assert pickle.dumps(cache) == before and cache.capacity == capacity
                assert same_bits(cache.attend(queries(4, 7)), expected)
    wide = np.full((G, D), 1e300)
    with pytest.raises(ValueError, match="1e[+]300"):
        KVCache(G, D, dtype="int8").append(wide, wide)


# The object ----------------------------------------------------------------------------------------------------------


def test_names_and_signatures():
    assert ruvector.AttentionCache is KVCache
    constructor = inspect.signature(KVCache)
    assert str(constructor).startswith(
        "(num_kv_heads, head_dim, v_dim=None, *, batch=1, capacity=0, window=None, dtype="
    )
    assert constructor.parameters["dtype"].default is np.float32
    attend = inspect.signature(KVCache.attend)
    assert list(attend.parameters) == ["self", "query", "scale", "softcap", "alibi_slopes", "return_lse", "out"]
    assert list(inspect.signature(KVCache.append).parameters) == ["self", "keys", "values"]


def test_dtype_by_any_name():
    for name, dtype in DTYPES.items():
        for spelling in (name, dtype, dtype.type):
            assert KVCache(1, 4, dtype=spelling).dtype == dtype
    for spelling in ("int8", np.int8, np.dtype("int8")):
        assert KVCache(1, 4, dtype=spelling).dtype == np.int8
    assert KVCache(1, 4).dtype == np.float32


def test_attributes_and_repr(storage):
    cache = filled(storage, 20, "repr", window=6, capacity=50)
    assert (cache.num_kv_heads, cache.head_dim, cache.v_dim, cache.batch) == (G, D, DV, 1)
    assert (cache.window, cache.length, len(cache), cache.capacity) == (6, 20, 6, 50)
    text = repr(cache)
    for part in ("KVCache", "num_kv_heads=2", "head_dim=24", "v_dim=20", "window=6", storage, "20 tokens", "50"):
        assert part in text
    assert KVCache(1, 8).v_dim == 8 and "window" not in repr(KVCache(1, 8))
    for name in ("num_kv_heads", "length", "capacity", "dtype", "keys", "nbytes", "window"):
        with pytest.raises(AttributeError):
            setattr(cache, name, 1)


def test_keys_and_values_are_read_only(storage):
    cache = filled(storage, 5, "views")
    for x, width in ((cache.keys, D), (cache.values, DV)):
        assert x.shape == (1, G, 5, width) and x.dtype == ("float32" if storage == "int8" else storage)
        with pytest.raises(ValueError, match="read-only"):
            x[...] = 0
    assert np.shares_memory(cache.keys, cache._keys) == (storage != "int8")
    view = cache.keys
    copied = view.copy()
    for _ in range(40):
        cache.append(*rows(1, "growing"))
    assert same_bits(view, copied), "growth leaves old views alone"


def test_what_is_appended_is_copied(isa, storage):
    keys, values = rows(5, "copied")
    cache = KVCache(G, D, DV, dtype=storage)
    cache.append(keys, values)
    expected = cache.attend(queries(4, 1))
    keys[:] = values[:] = 0
    assert same_bits(cache.attend(queries(4, 1)), expected)


def test_a_cache_appends_its_own_rows():
    for window in (None, 3):
        cache = filled("float32", 5, "own", window=window)
        expected = np.concatenate([cache.keys] * 8, axis=2)
        for _ in range(3):  # through growth
            cache.append(cache.keys, cache.values)
            if window:
                assert same_bits(cache.keys, expected[:, :, :3])
        if not window:
            assert same_bits(cache.keys, expected)


def every_copy(cache):
    yield "copy", cache.copy()
    yield "copy.copy", copy.copy(cache)
    yield "copy.deepcopy", copy.deepcopy(cache)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle {protocol}", pickle.loads(pickle.dumps(cache, protocol))


@pytest.mark.parametrize("window", (None, 6))
def test_copies_are_equal_and_independent(isa, storage, window):
    for n in (0, 3, 20):
        cache = filled(storage, n, "copies", window=window)
        if n:
            cache.append(*rows(2, "two"))
            cache.truncate(n + 1)
        expected = cache.attend(queries(4, 2)), cache.attend(queries(4, 1))
        for how, other in every_copy(cache):
            assert type(other) is KVCache
            for name in ("num_kv_heads", "head_dim", "v_dim", "batch", "window", "dtype", "length"):
                assert getattr(other, name) == getattr(cache, name), how
            assert len(other) == len(cache)
            assert same_bits(other.attend(queries(4, 2)), expected[0]), how
            other.append(*rows(30, "other"))
            assert same_bits(cache.attend(queries(4, 1)), expected[1]), how
            straight = KVCache(G, D, DV, window=window, dtype=storage)
            if n:
                straight.append(*rows(n, "copies"))
                straight.append(*(x[:, :, :1] for x in rows(2, "two")))
            straight.append(*rows(30, "other"))
            assert same_bits(other.attend(queries(4, 30)), straight.attend(queries(4, 30))), how


def test_a_pickle_holds_the_tokens_and_no_room():
    cache = KVCache(8, 64, capacity=100000)
    cache.append(*rows(3, "small", heads=8, dim=64, v_dim=64))
    assert len(pickle.dumps(cache)) < 20000


def test_parts_that_do_not_fit_are_refused():
    make, (kind, sizes, options, length, latest, arrays) = filled("float32", 5, "parts").__reduce__()
    keys, values, *scales = arrays
    bad = [
        (sizes, 4, latest, arrays),
        (sizes, 7, latest, arrays),
        (sizes, length, 6, arrays),
        (sizes, length, -1, arrays),
        (sizes, length, latest, arrays[:3]),
        (sizes, length, latest, (keys[:, :, :4], values, *scales)),
        (sizes, length, latest, (keys.astype(np.float64), values, *scales)),
        (sizes, length, latest, (keys, None, *scales)),
        (sizes, length, latest, (keys, values, keys[..., 0], None)),
        ((3, D, DV), length, latest, arrays),
    ]
    for sizes_, length_, latest_, arrays_ in bad:
        with pytest.raises(ValueError, match="not the parts of a KVCache"):
            make(kind, sizes_, options, length_, latest_, arrays_)
    assert len(make(kind, sizes, options, length, latest, arrays)) == 5


def test_a_subclass_keeps_its_kind():
    class Mine(KVCache):
        pass

    cache = Mine(1, 4)
    cache.append(np.ones((1, 4)), np.ones((1, 4)))
    assert type(cache.copy()) is Mine and "Mine" in repr(cache)


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_failed_append_leaves_the_cache_as_it_was(storage):
    keys, values = rows(4, "failed")
    bad = [
        (keys[..., 1:], values),
        (keys, values[..., 1:]),
        (keys, values[:, :, 1:]),
        (keys[:, :1], values),
        (keys[:, :1], values[:, :1]),
        (np.concatenate([keys, keys]), np.concatenate([values, values])),
        (keys[0, 0], values[0, 0]),
        (keys[None], values[None]),
        (keys, None),
        (keys.astype(complex), values),
    ]
    for window in (None, 3):
        cache = filled(storage, 16, "before", window=window)
        before, arrays, state = pickle.dumps(cache), cache._arrays(), (cache.capacity, cache.length, len(cache))
        for arguments in bad:
            with pytest.raises((ValueError, TypeError)):
                cache.append(*arguments)
            assert cache._arrays() == arrays or all(a is b for a, b in zip(cache._arrays(), arrays))
            assert (cache.capacity, cache.length, len(cache)) == state
        assert pickle.dumps(cache) == before


@pytest.mark.skipif(sys.maxsize < 2**40, reason="needs room for large sizes")
def test_no_memory_is_an_error_and_the_cache_stays_as_it_was(storage):
    with pytest.raises(MemoryError):
        KVCache(G, D, DV, dtype=storage, capacity=2**40)
    with pytest.raises(MemoryError):
        KVCache(2**40, 2**20, dtype=storage, batch=2**40, capacity=2**40)
    cache = filled(storage, 5, "memory")
    before = pickle.dumps(cache)
    dtype = np.float64 if storage == "float64" else np.float32
    many = np.lib.stride_tricks.as_strided(np.ones(64, dtype), (1, G, 2**42, D), (0, 0, 0, np.dtype(dtype).itemsize))
    with pytest.raises(MemoryError):
        cache.append(many, many[..., :DV])
    assert pickle.dumps(cache) == before
