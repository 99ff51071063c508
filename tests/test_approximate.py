"""The types that approximate attention: against the papers' definitions, where they are exact, and how their error falls."""

import math

import numpy as np
import pytest
import reference
import reference_approximate as oracle
import ruvector
import ruvector.cli
from ruvector.accuracy import approximations
from support import DTYPES, generator, normal, peak_allocation, same_bits

RECORDS = {record.name: record for record in ruvector.attention_types() if record.family == "approximate"}
LENGTHS = ((37, 37), (12, 41), (1, 33))


def drawn(rows, width, rng=None):
    return ruvector.draw_features(rows, width, orthogonal=False, rng=rng)


def start_of(count):
    return np.argsort(drawn(1, count)[0], kind="stable")


def e_f(keys, rank, seed="e"):
    return normal((rank, keys), np.float64, seed, scale=rank**-0.5)


def linformer_drawn(q, k, v, rank=256, shared=False, rng=None, scale=None):
    both = drawn(rank if shared else 2 * rank, len(k), rng) / math.sqrt(rank)
    return oracle.linformer(q, k, v, both[:rank], both[-rank:], scale)


def reformer(q, k, v, num_hashes=4, bucket_size=64, num_buckets=None, causal=False, scale=None, rng=None):
    n = len(q)
    chunk = min(bucket_size, n)
    buckets = num_buckets or (1 if chunk == n else 2 * -(-n // chunk))
    directions = drawn(num_hashes * max(buckets // 2, 1), q.shape[1], rng)
    return oracle.reformer(q, v, directions, num_hashes, chunk, buckets, causal, scale)


def routing(q, k, v, num_clusters=None, cluster_size=None, centroids=None, rng=None, **options):
    clusters = num_clusters or round(math.sqrt(len(k)))
    centroids = drawn(clusters, q.shape[1], rng) if centroids is None else centroids
    return oracle.routing(q, k, v, centroids, cluster_size or -(-len(k) // len(centroids)), **options)


def clustered(q, k, v, num_clusters=100, bits=63, iterations=10, top_k=32, scale=None, rng=None):
    start = start_of(len(q)) if rng is None else np.argsort(drawn(1, len(q), rng)[0], kind="stable")
    nearest = oracle.clusters_of(q, drawn(bits, q.shape[1], rng), num_clusters, start, iterations)
    return oracle.clustered(q, k, v, nearest, top_k, scale)


def hash_based(q, k, v, num_hashes=None, tau=8, normalize=True, causal=False, rng=None):
    if num_hashes is None:
        seen = np.tri(len(q), len(k), len(k) - len(q)) if causal else None
        return oracle.yoso(q, k, v, tau, normalize, seen)
    return oracle.yoso_sampled(q, k, v, drawn(num_hashes * tau, q.shape[1], rng), tau, normalize)


def nystrom(q, k, v, num_landmarks=64, pinv="iterative", iterations=6, conv=None, scale=None):
    return oracle.nystrom(q, k, v, num_landmarks, scale, None if pinv == "exact" else iterations, conv)


def product_key(q, k, v, num_heads=4, top_k=32, scale=None):
    return oracle.product_key(q, k, v, num_heads, top_k, scale)


def sinkhorn(q, k, v, iterations=5, scale=None):
    return oracle.sinkhorn(q, k, v, iterations, scale)


def sparse_sinkhorn(q, k, v, block_size=64, **options):
    return oracle.sparse_sinkhorn(q, k, v, block_size, **options)


CONV = np.array([0.25, -0.5, 1.0, 0.125, 0.75])
# Options, each alone beside the first, and what has the definition's result for them.
CASES = {
    "linformer": (
        linformer_drawn,
        ({"rank": 16}, {"rank": 5}, {"rank": 16, "shared": True}, {"rank": 16, "scale": 0.9}),
    ),
    "nystrom": (
        nystrom,
        (
            {"num_landmarks": 6},
            {"num_landmarks": 3},
            {"num_landmarks": 6, "pinv": "exact"},
            {"num_landmarks": 6, "iterations": 2},
            {"num_landmarks": 6, "scale": 0.9},
        ),
    ),
    "reformer": (
        reformer,
        (
            {"bucket_size": 6},
            {"bucket_size": 9},
            {"bucket_size": 6, "num_hashes": 1},
            {"bucket_size": 6, "num_buckets": 2},
            {"bucket_size": 6, "causal": True},
            {"bucket_size": 6, "scale": 0.9},
            {"bucket_size": 5, "num_buckets": 1},
            {},
        ),
    ),
    "routing": (
        routing,
        (
            {"num_clusters": 4},
            {"num_clusters": 2},
            {"num_clusters": 4, "cluster_size": 5},
            {"num_clusters": 4, "normalize": False},
            {"num_clusters": 4, "causal": True},
            {"num_clusters": 4, "scale": 0.9},
            {"centroids": e_f(16, 3)},
            {},
        ),
    ),
    "clustered": (
        clustered,
        (
            {"num_clusters": 5, "top_k": 4},
            {"num_clusters": 3, "top_k": 4},
            {"num_clusters": 5, "top_k": 0},
            {"num_clusters": 5, "top_k": 4, "bits": 9},
            {"num_clusters": 5, "top_k": 4, "iterations": 0},
            {"num_clusters": 5, "top_k": 4, "scale": 0.9},
        ),
    ),
    "hash_based": (
        hash_based,
        (
            {},
            {"tau": 3},
            {"normalize": False},
            {"causal": True},
            {"num_hashes": 40, "tau": 2},
            {"num_hashes": 7, "tau": 2},
            {"num_hashes": 7, "tau": 2, "normalize": False},
        ),
    ),
    "product_key": (
        product_key,
        (
            {"num_heads": 2, "top_k": 5},
            {"num_heads": 4, "top_k": 5},
            {"num_heads": 2, "top_k": 3},
            {"num_heads": 2, "top_k": 50},
            {"num_heads": 2, "top_k": 5, "scale": 0.9},
        ),
    ),
    "sparse_sinkhorn": (
        sparse_sinkhorn,
        (
            {"block_size": 8},
            {"block_size": 13},
            {"block_size": 8, "iterations": 0},
            {"block_size": 8, "temperature": 0.2},
            {"block_size": 8, "scale": 0.9},
            {"block_size": 8, "causal": True},
            {"block_size": 8, "causal": True, "iterations": 0},
            {},
        ),
    ),
    "sinkhorn": (
        sinkhorn,
        ({}, {"iterations": 1}, {"iterations": 2}, {"iterations": 4}, {"iterations": 21}, {"scale": 0.9}),
    ),
}


def arrays(name, q_len, kv_len, dtype, batch=()):
    width, v_width = 16, 5
    query, key = normal((*batch, q_len, width), dtype, "approx q"), normal((*batch, kv_len, width), dtype, "approx k")
    rows = kv_len
    if name == "reformer":
        query = key
    if name == "sparse_sinkhorn":
        query = normal((*batch, kv_len, width), dtype, "approx q")
    if name == "product_key":
        key, rows = key[..., :6, :], 36
    return query, key, normal((*batch, rows, v_width), dtype, "approx v")


def spread(name, q, k, v, exact, options):
    """How many roundings of the arithmetic a result can be off by, in units of the largest value.

    A logit, a sum of d products, is off by 2 u kappa; results by twice that and a few u max|V|.
    """
    q, k, v = oracle.wide(q, k, v)
    scale = options.get("scale") or 1 / math.sqrt(q.shape[-1] / (options.get("num_heads") or 1))
    peak, kappa = np.abs(v).max(initial=0), scale * (np.abs(q) @ np.abs(k).T).max(initial=0)
    if name == "linformer":
        rank = options["rank"]
        both = np.abs(drawn(2 * rank, len(k))) / math.sqrt(rank)
        # the products with E and F are sums of S terms
        most = scale * (np.abs(q) @ (both @ np.abs(k)).T).max(initial=0)
        return (10 + 8 * most + len(k) * (1 + 2 * most)) * (both @ np.abs(v)).max(initial=0)
    if name == "nystrom":
        most = 0
        for iterations in (None, options.get("iterations", 6)):
            _, z, right = oracle.nystrom_parts(q, k, v, options["num_landmarks"], options.get("scale"), iterations)
            size = np.abs(z).sum(1).max()
            most = max(most, (1 + size) * (peak + np.abs(z @ right).max()))
        return (16 + 16 * kappa) * (1 + most) * (1 + most / (peak + 1))
    if name == "routing":
        # a layer-normed row has length sqrt(d), and its components are off by d u
        return (16 + 8 * max(kappa, scale * q.shape[-1] * 4) + 8 * q.shape[-1]) * peak
    if name == "hash_based":
        # arccos is off by sqrt of a cosine's error where that is 1: random rows are far from it
        out = np.abs(v).sum()
        if not options.get("normalize", True):
            return 64 * out
        raw = HASHED(q, k, v, options)
        least = np.sqrt((raw * raw).sum(-1)).min(initial=math.inf)
        return 64 * out / min(1, least) if least > 0 else 64 * out
    if name == "sparse_sinkhorn":
        # before the balance rows of P can have sums of exp(logits), and those have errors of their own
        p = max(1, math.exp(kappa / 0.2)) if options.get("iterations") == 0 else 1
        return (16 + 16 * kappa) * peak * p * len(q)
    if name == "sinkhorn":
        return (10 + 8 * kappa) * (1 + options.get("iterations", 5)) * peak * max(1, len(q) / len(k))
    if name == "product_key":
        return (16 + 8 * kappa) * peak * options.get("num_heads", 4)
    return (16 + 12 * kappa) * peak


def HASHED(q, k, v, options):
    return hash_based(q, k, v, **{**options, "normalize": False})


def bound(name, dtype, q, k, v, exact, options):
    """What a result in this dtype may differ from the definition by."""
    limit = spread(name, q, k, v, exact, options) * reference.unit(
        np.dtype(np.float32 if dtype.itemsize <= 4 else dtype)
    )
    if dtype.itemsize == 2:
        limit = limit + 2 * reference.storage_unit(dtype) * np.abs(exact)
    return limit + np.zeros_like(exact)


def agrees(name, out, q, k, v, exact, options, what):
    assert out.dtype == q.dtype, what
    reference.within(out, exact, bound(name, q.dtype, q, k, v, exact, options), what)


def test_every_type_that_approximates_has_cases():
    assert set(RECORDS) == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_type_is_its_papers_under_every_name(isa, dtype_name, name):
    dtype, (expected, options) = DTYPES[dtype_name], CASES[name]
    function = getattr(ruvector, f"{name}_attention")
    for own in options:
        for q_len, kv_len in LENGTHS:
            q, k, v = arrays(name, q_len, kv_len, dtype)
            what = f"{name} {q_len} x {kv_len} {list(own)}"
            if "centroids" in own:
                own = {**own, "centroids": e_f(16, 3)}
            exact = expected(*oracle.wide(q, k, v), **own)
            out = ruvector.attention(q, k, v, name, **own)
            agrees(name, out, q, k, v, exact, own, what)
            for alias in (*RECORDS[name].aliases, name.upper()):
                assert same_bits(ruvector.attention(q, k, v, alias, **own), out), f"{what} {alias}"
            assert same_bits(function(q, k, v, **own), out), what


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_option_has_an_effect(name):
    _, options = CASES[name]
    q, k, v = arrays(name, 37, 37, np.float64)
    first = ruvector.attention(q, k, v, name, **options[0])
    for own in options[1:]:
        assert np.abs(ruvector.attention(q, k, v, name, **own) - first).max() > 1e-4, own


@pytest.mark.parametrize("name", sorted(CASES))
def test_leading_axes_single_queries_and_out(isa, name):
    """The same bits wherever in a batch, on however many threads."""
    expected, (own, *_) = CASES[name]
    q, k, v = arrays(name, 37, 37, np.float32, (2, 3))
    out = ruvector.attention(q, k, v, name, **own)
    assert out.shape == (2, 3, 37, 5)
    for at in np.ndindex(2, 3):
        assert same_bits(out[at], ruvector.attention(q[at], k[at], v[at], name, **own)), at
    threads = ruvector.get_num_threads()
    try:
        for count in (1, 2, 5):
            ruvector.set_num_threads(count)
            assert same_bits(out, ruvector.attention(q, k, v, name, **own)), count
    finally:
        ruvector.set_num_threads(threads)
    room = np.empty_like(out)
    assert ruvector.attention(q, k, v, name, out=room, **own) is room
    assert same_bits(room, out)
    if name in ("reformer", "sparse_sinkhorn"):
        return
    one = ruvector.attention(q[0, 0, 0], k[0, 0], v[0, 0], name, **own)
    assert one.shape == (5,)
    agrees(name, one[None], q[0, 0, :1], k[0, 0], v[0, 0], expected(q[0, 0, :1], k[0, 0], v[0, 0], **own), own, "one")
    wide = ruvector.attention(q, k[0, 0], v[0, 0], name, **own)
    for at in np.ndindex(2, 3):
        assert same_bits(wide[at], ruvector.attention(q[at], k[0, 0], v[0, 0], name, **own)), at


@pytest.mark.parametrize(
    "name", sorted(set(CASES) - {"reformer", "product_key", "linformer", "nystrom", "sparse_sinkhorn"})
)
def test_hidden_keys_are_as_if_they_were_not_there(isa, name):
    expected, (own, *_) = CASES[name]
    q, k, v = arrays(name, 20, 37, np.float32, (2,))
    mask = generator("hidden", name).random((2, 1, 37)) < 0.6
    dirty_k, dirty_v = (np.where(mask[:, 0, :, None], x, np.float32(np.nan)) for x in (k, v))
    out = ruvector.attention(q, dirty_k, dirty_v, name, mask=mask, **own)
    for n in range(2):
        kept = mask[n, 0]
        assert same_bits(out[n], ruvector.attention(q[n], k[n][kept], v[n][kept], name, **own)), n
        few = q[n], k[n][kept], v[n][kept]
        agrees(name, out[n], *few, expected(*few, **own), own, f"{n}")
    assert np.isfinite(out).all()
    assert (ruvector.attention(q, k, v, name, mask=np.zeros(37, bool), **own) == 0).all()
    assert (ruvector.attention(q, k[:, :0], v[:, :0], name, **own) == 0).all()


def test_hidden_positions_of_linformer_nystrom_and_reformer(isa):
    q, k, v = arrays("nystrom", 37, 37, np.float32)
    kept = generator("kept").random(37) < 0.7
    dirty = [np.where(kept[:, None], x, np.float32(np.nan)) for x in (q, k, v)]
    alone = [x[kept] for x in (q, k, v)]
    out = ruvector.nystrom_attention(*dirty, 6, mask=kept)
    own = {"num_landmarks": 6}
    agrees("nystrom", out[kept], *alone, nystrom(*alone, **own), own, "nystrom")
    out = ruvector.nystrom_attention(*dirty, 6, mask=kept, conv=CONV)
    shown = np.where(kept[:, None], v, 0)
    added = np.array([np.convolve(column, CONV[::-1], "same") for column in shown.T]).T
    # five products and a sum each, and the sum with the attention
    size = np.abs(CONV).sum() * np.abs(v).max() + np.abs(out[kept]).max()
    np.testing.assert_allclose(
        out[kept] - ruvector.nystrom_attention(*dirty, 6, mask=kept)[kept], added[kept], rtol=0, atol=8 * 2**-24 * size
    )
    out = ruvector.reformer_attention(dirty[0], dirty[0], dirty[2], bucket_size=6, mask=kept)
    own = {"bucket_size": 6}
    same = alone[0], alone[0], alone[2]
    agrees("reformer", out[kept], *same, reformer(*same, **own), own, "reformer")
    assert (out[~kept] == 0).all()
    out = ruvector.sparse_sinkhorn_attention(*dirty, 8, mask=kept)
    own = {"block_size": 8}
    agrees("sparse_sinkhorn", out[kept], *alone, sparse_sinkhorn(*alone, **own), own, "sparse_sinkhorn")
    assert (out[~kept] == 0).all()
    e, f = e_f(37, 8), e_f(37, 8, "f")
    out = ruvector.linformer_attention(q, *dirty[1:], mask=kept, key_projection=e, value_projection=f)
    exact = oracle.linformer(q, alone[1], alone[2], e[:, kept], f[:, kept])
    # sums of as many products as keys are left, in logits once more of d
    kappa = (np.abs(q) @ (np.abs(e[:, kept]) @ np.abs(alone[1])).T).max() / 4
    limit = (len(alone[1]) * (1 + 2 * kappa) + 10 + 8 * kappa) * (np.abs(f[:, kept]) @ np.abs(alone[2])).max()
    np.testing.assert_allclose(out, exact, rtol=0, atol=limit * 2**-24)


def test_hidden_slots_of_a_product_key_memory(isa):
    q, k, v = arrays("product_key", 9, 37, np.float32)
    for share in (0.5, 0.05, 0.0):
        mask = generator("slots", share).random(36) < share
        dirty = np.where(mask[:, None], v, np.float32(np.nan))
        out = ruvector.product_key_attention(q, k, dirty, 2, 5, mask=mask)
        exact = oracle.product_key(q, k, np.where(mask[:, None], v, 0), 2, 5, visible=mask)
        agrees("product_key", out, q, k, v, exact, {"num_heads": 2}, f"{share}")


def test_where_they_are_exact(isa):
    n = 24
    q, k, v = arrays("nystrom", n, n, np.float64)
    exact = oracle.dense(q, k, v)
    eye = np.eye(n)
    for options in ({"value_projection": eye}, {"shared": True}):
        np.testing.assert_allclose(
            ruvector.linformer_attention(q, k, v, key_projection=eye, **options), exact, rtol=0, atol=1e-13
        )
    condition = np.linalg.cond(oracle.nystrom_parts(q, k, v, n, None, None)[1])
    out = ruvector.nystrom_attention(q, k, v, n, pinv="exact")
    np.testing.assert_allclose(out, exact, rtol=0, atol=64 * n * condition * 2**-53)
    errors = [np.abs(ruvector.nystrom_attention(q, k, v, n, iterations=i) - exact).max() for i in (4, 8, 40)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 64 * n * condition * 2**-53
    np.testing.assert_allclose(ruvector.clustered_attention(q, k, v, n), exact, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ruvector.routing_attention(q, k, v, 1, normalize=False), exact, rtol=0, atol=1e-13)
    normed = oracle.dense(oracle.layer_norm(q), oracle.layer_norm(k), v)
    np.testing.assert_allclose(ruvector.routing_attention(q, k, v, 1), normed, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ruvector.sinkhorn_attention(q, k, v, 1), exact, rtol=0, atol=1e-13)
    others = oracle.dense(q, oracle.unit(q), v, seen=~np.eye(n, dtype=bool))
    for size in (n, 1000):
        np.testing.assert_allclose(ruvector.reformer_attention(q, q, v, bucket_size=size), others, rtol=0, atol=1e-13)
    before = np.tri(n, n, -1, dtype=bool)
    before[0, 0] = True
    causal = ruvector.reformer_attention(q, q, v, causal=True)
    np.testing.assert_allclose(causal, oracle.dense(q, oracle.unit(q), v, seen=before), rtol=0, atol=1e-13)
    slots = normal((36, 5), np.float64, "slots")
    every = np.array([np.r_[k[i, :8], k[j, 8:]] for i in range(6) for j in range(6)])
    out = ruvector.product_key_attention(q, k[:6], slots, 1, 36)
    np.testing.assert_allclose(out, oracle.dense(q, every, slots), rtol=0, atol=1e-13)


def test_sinkhorn_weights_are_doubly_stochastic():
    q, k, _ = arrays("sinkhorn", 12, 30, np.float64)
    weights = ruvector.attention_scores(q, k, "sinkhorn", iterations=301)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights.sum(0), 12 / 30, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(ruvector.attention_score(q, k[:12], "sinkhorn"), ruvector.attention_score(q, k[:12]))


def test_weights_of_hash_based_are_shares_of_its_sum():
    q, k, v = arrays("hash_based", 6, 9, np.float64)
    mask = np.arange(9) != 4
    for options in ({}, {"tau": 3}, {"mask": mask}, {"causal": True}, {"causal": True, "mask": mask}):
        weights = ruvector.attention_scores(q, k, "hash_based", **options)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-14)
        # the sum itself, but for its length
        sums = ruvector.attention(q, k, v, "hash_based", normalize=False, **options)
        np.testing.assert_allclose(weights @ v * (sums / (weights @ v))[:, :1], sums, rtol=1e-10)
        if "mask" in options:
            assert (weights[:, 4] == 0).all()
        if "causal" in options:
            assert (weights[np.arange(9) > np.arange(6)[:, None] + 3] == 0).all()
        one = ruvector.attention_scores(q[2], k, "hash_based", **{n: x for n, x in options.items() if n != "causal"})
        assert "causal" in options or np.allclose(one, weights[2], rtol=1e-13)
    chances = (1 - np.arccos(np.clip(unit_rows(q) @ unit_rows(k).T, -1, 1)) / np.pi) ** 8
    expected = chances / chances.sum(-1, keepdims=True)
    np.testing.assert_allclose(ruvector.attention_scores(q, k, "hash_based"), expected, rtol=1e-12)
    hidden = ruvector.attention_scores(q, k, "hash_based", mask=np.zeros(9, bool))
    assert (hidden == 0).all()


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_score_of_hash_based():
    q, k, _ = arrays("hash_based", 6, 6, np.float64)
    weights = oracle.yoso(q, k, np.eye(6), 5, False)
    np.testing.assert_allclose(ruvector.attention_score(q, k, "yoso", tau=5), np.diag(weights), rtol=1e-12, atol=0)


def test_blocks_are_sorted_as_logits_say():
    q, k, v = arrays("sparse_sinkhorn", 24, 24, np.float64)
    order = [2, 0, 1]
    logits = 60.0 * np.eye(3)[order]
    out = ruvector.sparse_sinkhorn_attention(q, k, v, 8, sort_logits=logits)
    np.testing.assert_allclose(out, oracle.sparse_sinkhorn(q, k, v, 8, sort_logits=logits), rtol=0, atol=1e-13)
    seen = np.kron(np.eye(3) + np.eye(3)[order], np.ones((8, 8))) > 0
    np.testing.assert_allclose(out, oracle.dense(q, k, v, seen=seen), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match=r"sort_logits must have shape \(3, 3\).*\(2, 2\)"):
        ruvector.sparse_sinkhorn_attention(q, k, v, 8, sort_logits=np.eye(2))
    with pytest.raises(ValueError, match="temperature must be positive, got 0.0"):
        ruvector.sparse_sinkhorn_attention(q, k, v, 8, temperature=0)


@pytest.mark.parametrize("name", ("hash_based", "sparse_sinkhorn"))
def test_nothing_later_has_a_part_in_causal_results(name):
    """Reformer's chunks and routing's clusters know where later positions are, as published."""
    own = {"block_size": 8} if name == "sparse_sinkhorn" else {}
    q, k, v = arrays(name, 45, 45, np.float64)
    out = ruvector.attention(q, k, v, name, causal=True, **own)
    for i in (0, 1, 7, 8, 9, 20, 23, 39, 40, 43):
        later = [np.vstack([x[: i + 1], normal(x[i + 1 :].shape, x.dtype, "later", i)]) for x in (q, k, v)]
        again = ruvector.attention(*later, name, causal=True, **own)
        assert same_bits(again[: i + 1], out[: i + 1]), i
        assert np.abs(again[i + 1 :] - out[i + 1 :]).max() > 1e-3


def test_sorted_blocks_of_causal_results_are_means_of_the_blocks_before():
    n, size = 40, 8
    q, k, _ = arrays("sparse_sinkhorn", n, n, np.float64)
    # with keys of nothing all that is seen weighs the same: the values tell which share of what block was sorted where
    v = np.kron(np.eye(n // size), np.ones((size, 1)))
    for iterations, logits in ((1, np.zeros((5, 5))), (2, normal((5, 5), np.float64, "sort"))):
        out = ruvector.sparse_sinkhorn_attention(
            q, 0 * k, v, size, sort_logits=logits, iterations=iterations, causal=True
        )
        shares = 2 * out[2 * size - 1 :: size] - np.eye(5)[1:]  # of the last queries, which see all of their blocks
        np.testing.assert_allclose(shares.sum(1), 1, rtol=0, atol=1e-14)
        np.testing.assert_allclose(np.triu(shares, 1), 0, rtol=0, atol=1e-15)
        assert (np.tril(shares)[np.tril_indices(4)] > 1e-4).all()
    # the one such matrix whose columns sum to 1, too, takes the block before
    out = ruvector.sparse_sinkhorn_attention(q, 0 * k, v, size, iterations=10000, causal=True)
    np.testing.assert_allclose(2 * out[2 * size - 1 :: size] - np.eye(5)[1:], np.eye(4, 5), rtol=0, atol=1e-3)


def test_convolution_of_each_head():
    q, k, v = arrays("nystrom", 21, 21, np.float64, (2, 3))
    kernels = normal((3, 5), np.float64, "kernels")
    plain = ruvector.nystrom_attention(q, k, v, 6)
    out = ruvector.nystrom_attention(q, k, v, 6, conv=kernels)
    for at in np.ndindex(2, 3):
        alone = oracle.nystrom(q[at], k[at], v[at], 6, conv=kernels[at[1]]) - oracle.nystrom(q[at], k[at], v[at], 6)
        np.testing.assert_allclose((out - plain)[at], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ("linformer", "reformer", "routing", "clustered", "hash_based"))
def test_a_seed_gives_the_same_bits_and_another_gives_others(name):
    expected, (own, *_) = CASES[name]
    own = {"num_hashes": 8, "tau": 2} if name == "hash_based" else own
    q, k, v = arrays(name, 37, 37, np.float64)
    fixed = ruvector.attention(q, k, v, name, **own)
    assert same_bits(fixed, ruvector.attention(q, k, v, name, **own))
    one, again, other = (ruvector.attention(q, k, v, name, rng=seed, **own) for seed in (1, 1, 2))
    assert same_bits(one, again)
    assert not same_bits(one, other)
    assert not same_bits(one, fixed)
    if name != "linformer":  # its bound has the projections of the fixed seed
        agrees(name, one, q, k, v, expected(q, k, v, rng=1, **own), own, name)


def test_errors_fall_as_the_papers_say():
    """Over several seeds of the data and of what is drawn: none grows but for noise, means of samples fall by the root."""
    seeds = range(3)
    falls = {}
    for sweeps in zip(*(approximations.sweeps(seed, seed) for seed in seeds)):
        name, option, _, _, numbers, _ = sweeps[0]
        errors = np.array([[approximations.error(call(m), exact) for m in numbers] for *_, exact, _, call in sweeps])
        mean, noise = np.sqrt((errors**2).mean(0)), errors.std(0, ddof=1) / math.sqrt(len(seeds))
        assert (mean[1:] <= mean[:-1] + 2 * np.hypot(noise[1:], noise[:-1])).all(), f"{name} {option}: {mean}"
        assert mean[-1] < mean[0] / 2.5, name
        if name in ("random_feature", "hash_based"):
            falls[name] = np.polyfit(np.log(numbers), np.log(mean), 1)[0]
    assert set(falls) == {"random_feature", "hash_based"}
    assert all(-0.6 < fall < -0.4 for fall in falls.values()), falls


def test_costs_of_every_approximation_and_what_goes_with_them(monkeypatch, capsys):
    costs = approximations.costs(512, 1)
    assert {c.name for c in costs} == set(RECORDS) | {"performer", "random_feature"}
    assert all(c.milliseconds > 0 and c.ratio > 0 and 0 <= c.error < 1 for c in costs), costs
    monkeypatch.setattr(approximations, "costs", lambda: costs)
    assert ruvector.cli.main(["accuracy", "--approximations", "--threads", "1", "--isa", "scalar"]) == 0
    shown = capsys.readouterr().out
    assert all(c.name in shown and f"{c.milliseconds:.1f}" in shown for c in costs)
    for more in (["--exhaustive"], ["--isa", "scalar", "--isa", "scalar"], ["--json", "x"], ["--function", "exp"]):
        assert ruvector.cli.main(["accuracy", "--approximations", *more]) == 2
        assert "goes with --threads and one --isa" in capsys.readouterr().err


LINEAR = {
    "linformer": {"rank": 16, "shared": True},
    "nystrom": {},
    "reformer": {},
    "routing": {"num_clusters": 32},
    "hash_based": {"num_hashes": 16},
    "sinkhorn": {"iterations": 3},
    "product_key": {"num_heads": 2, "top_k": 4},
}


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_nothing_of_the_size_of_all_pairs_is_held(name):
    peaks = []
    for n in (2048, 4096):
        q, k, v = arrays(name, n, n, np.float32)
        own = LINEAR[name]
        if name == "routing":
            own = {**own, "cluster_size": 64}
        peaks.append(peak_allocation(lambda: ruvector.attention(q, k, v, name, **own)))
    assert peaks[1] < 2.3 * peaks[0] + (1 << 17), f"{peaks}"
    assert peaks[1] < 4096 * 4096 * 4 / 4, f"{peaks}"


def test_update_of_centroids():
    centroids, q, k = (normal((n, 6), np.float64, "update", n) for n in (4, 50, 30))
    for decay in (0.0, 0.5, 0.999, 1.0):
        expected = decay * centroids
        for x in (q, k):
            for row in oracle.layer_norm(x):
                expected[np.argmax(centroids @ row)] += (1 - decay) / 2 * row
        out = ruvector.update_centroids(centroids, q, k, decay)
        np.testing.assert_allclose(out, oracle.unit(expected), rtol=0, atol=1e-13)
    far = np.vstack([centroids, -1e-9 * np.ones(6)])
    np.testing.assert_allclose(
        ruvector.update_centroids(far, q[:3] + 1, k[:0], 0.0)[-1], oracle.unit(far[-1]), rtol=0, atol=1e-15
    )
    with pytest.raises(ValueError, match="decay must be between 0 and 1, got 1.5"):
        ruvector.update_centroids(centroids, q, k, 1.5)
    with pytest.raises(ValueError, match="last axes must match"):
        ruvector.update_centroids(centroids, q[:, :5], k)


Q, K, V = arrays("linformer", 7, 7, np.float32)


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    (
        ("linformer", {"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        (
            "linformer",
            {"key_projection": np.ones((3, 6))},
            ValueError,
            r"key_projection must have shape \(rank, 7\).*\(3, 6\)",
        ),
        ("linformer", {"shared": True, "value_projection": np.ones((3, 7))}, ValueError, "value_projection"),
        (
            "linformer",
            {"key_projection": np.ones((3, 7)), "value_projection": np.ones((2, 7))},
            ValueError,
            "3 rows.* 2",
        ),
        ("linformer", {"causal": True}, TypeError, "no option 'causal'"),
        ("nystrom", {"causal": True}, TypeError, "no option 'causal'"),
        ("nystrom", {"conv": np.ones(4)}, ValueError, r"conv must have shape.*\(4,\)"),
        ("nystrom", {"pinv": "svd"}, ValueError, "pinv must be 'iterative' or 'exact', got 'svd'"),
        ("reformer", {"num_buckets": 3}, ValueError, "num_buckets must be 1 or even, got 3"),
        ("reformer", {"bucket_size": 4}, ValueError, "key must be equal to query"),
        ("routing", {"centroids": np.ones((2, 5))}, ValueError, r"centroids must have shape.*16.*\(2, 5\)"),
        ("clustered", {"causal": True}, TypeError, "no option 'causal'"),
        ("hash_based", {"num_hashes": 4, "causal": True}, ValueError, "causal goes with the expectation"),
        ("hash_based", {"scale": 1.0}, TypeError, "no option 'scale'"),
        ("hash_based", {"tau": 21}, ValueError, "tau must be between 1 and 20, got 21"),
        ("sinkhorn", {"causal": True}, TypeError, "no option 'causal'"),
        ("product_key", {"num_heads": 3}, ValueError, "Query dimension 16 must be divisible by 2 . num_heads = 6"),
        ("product_key", {}, ValueError, "49 rows, got shape"),
        ("product_key", {"causal": True}, TypeError, "no option 'causal'"),
    ),
)
def test_bad_input(name, options, error, text):
    with pytest.raises(error, match=text):
        ruvector.attention(Q, K, V, name, **options)


@pytest.mark.parametrize("name", sorted(CASES))
def test_bad_arrays_and_masks(name):
    q, k, v = arrays(name, 7, 7, np.float32)
    own = CASES[name][1][0]
    with pytest.raises(TypeError, match="no option 'dropout'"):
        ruvector.attention(q, k, v, name, dropout=0.5)
    with pytest.raises(ValueError, match="Query and key dimensions must match: 16 vs 15"):
        ruvector.attention(q, k[:, :15], v, name, **own)
    with pytest.raises(ValueError):
        ruvector.attention(q, k, v[:3], name, **own)
    with pytest.raises(ValueError, match="takes a boolean mask"):
        ruvector.attention(q, k, v, name, mask=np.zeros(len(v), np.float32), **own)
    with pytest.raises(ValueError, match="takes a mask over keys"):
        ruvector.attention(q, k, v, name, mask=np.ones((7, len(v)), bool), **own)
    with pytest.raises(ValueError, match="does not broadcast"):
        ruvector.attention(q, k, v, name, mask=np.ones(len(v) + 1, bool), **own)
    with pytest.raises(ValueError, match="at least 1|expected query"):
        ruvector.attention(np.float32(1), k, v, name, **own)
