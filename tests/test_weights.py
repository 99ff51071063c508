"""Types whose weights are no softmax of products, against their definitions, limits and other libraries."""

import numpy as np
import pytest
import reference
import reference_weights
import ruvector
from support import generator, normal, qkv, same_bits

W = {
    name: normal(shape, np.float64, name)
    for name, shape in (
        ("q", (32, 20)),
        ("k", (32, 20)),
        ("v", (20,)),
        ("h", (8, 8)),
        ("t", (64, 64)),
        ("w2", (20, 64)),
        ("b2", (64,)),
    )
}
CASES = {
    "entmax": [{}, {"alpha": 1.0}, {"alpha": 2.0}, {"alpha": 1.2}],
    "sparsemax": [{}],
    "sigmoid": [{}, {"bias": 0.5}],
    "cosine": [{}, {"tau": 1.0}],
    "additive": [{}, {"hidden": 7}, {"w_q": W["q"], "w_k": W["k"], "v": W["v"]}],
    "differential": [{}, {"lambda_init": 0.2}, {"norm": True}],
    "talking_heads": [
        {},
        {"num_heads": 4},
        {"w_logits": W["h"]},
        {"w_weights": W["h"]},
        {"w_logits": W["h"], "w_weights": W["h"].T},
    ],
}
CASES |= {
    "realformer": [{}, {"num_heads": 4}],
    "adaptive_span": [{}, {"span": [3.0]}, {"span": np.arange(8.0), "ramp": 4.0}, {"span": [3.0], "num_heads": 4}],
    "rezero": [{"alpha": 0.5}, {"alpha": -2.0}, {}],
    "fixup": [{}, {"multiplier": 0.3}, {"bias_in": 0.7}, {"bias_out": -0.4}],
}
CASES["synthesizer"] = [
    {"max_length": 80},
    {"max_length": 64},
    {"max_length": 64, "w1": W["q"]},
    {"w1": W["q"], "w2": W["w2"]},
    {"w1": W["q"], "w2": W["w2"], "b1": W["v"]},
    {"w1": W["q"], "w2": W["w2"], "b2": W["b2"]},
    {"w2": W["w2"]},
    {"kind": "random", "max_length": 64},
    {"kind": "random", "max_length": 45},
    {"kind": "random", "table": W["t"]},
]
# (batch, queries, keys)
LENGTHS = (((2,), 30, 30), ((), 60, 25), ((), 7, 45), ((2, 3), 3, 17))
RESIDUAL = ("rezero", "fixup")  # values as wide as queries, which come back where nothing is seen
RECORDS = {record.name: record for record in ruvector.attention_types() if record.name in CASES}


def arrays(name, *arguments):
    """Values narrower than queries but where a residual branch adds them."""
    batch, q_len, kv_len, dtype_name, *seed = arguments
    return qkv(batch, q_len, kv_len, 32, 32 if name in RESIDUAL else 24, dtype_name, *seed)


def check(out, answer, dtype, what):
    assert out.dtype == dtype
    reference.within(
        out, answer.out, np.maximum(answer.bound(np.dtype(dtype), 32), 1e-300) + np.zeros_like(answer.out), what
    )


def test_every_type_has_a_case():
    assert set(CASES) == set(RECORDS) == set(reference_weights.TYPES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_types_are_what_their_papers_define(isa, dtype_name, dtype, name):
    oracle, outputs = reference_weights.TYPES[name], []
    for own in CASES[name]:
        for batch, q_len, kv_len in LENGTHS:
            if own.get("kind") == "random" and q_len > kv_len:
                continue  # refused
            q, k, v = arrays(name, batch, q_len, kv_len, dtype_name, "weights")
            out = ruvector.attention(q, k, v, name, **own)
            check(out, oracle(q, k, v, **own), dtype, f"{name} {own} {q_len} x {kv_len}")
            for alias in (*RECORDS[name].aliases, name.upper()):
                assert same_bits(ruvector.attention(q, k, v, alias, **own), out)
            assert same_bits(getattr(ruvector, f"{name}_attention")(q, k, v, **own), out)
            first = (0,) * len(batch)
            one = ruvector.attention(q[first][-1], k[first], v[first], name, **own)
            assert one.shape == v.shape[-1:]
            atol = 0.05 if reference.is_half(dtype) else 1e-4
            np.testing.assert_allclose(one.astype(float), out[first][-1].astype(float), rtol=0, atol=atol)
        outputs.append(out.astype(float))
    for a, b in zip(outputs, outputs[1:]):
        assert np.abs(a - b).max() > 0.01, f"a parameter of {name} changes nothing"


@pytest.mark.parametrize("name", sorted(CASES))
def test_common_options(isa, name):
    oracle, own = reference_weights.TYPES[name], CASES[name][0]
    for q_len, kv_len in ((19, 19), (6, 41)):
        q, k, v = arrays(name, (2,), q_len, kv_len, "float32", "options")
        mask = generator(name, "mask").random((q_len, kv_len)) < 0.6
        mask[2] = False
        bias = generator(name, "bias").standard_normal((q_len, kv_len)).astype(np.float32)
        bias[0, 1:] = -np.inf
        plain = ruvector.attention(q, k, v, name, **own)
        for options in (
            {"mask": mask},
            {"mask": bias},
            {"mask": mask[3]},
            {"scale": 0.77},
            {"causal": True},
            {"causal": True, "mask": mask},
        ):
            out = ruvector.attention(q, k, v, name, **own, **options)
            check(out, oracle(q, k, v, **own, **options), np.float32, f"{name} {list(options)}")
            assert not same_bits(out, plain), options
            if options.get("mask") is mask:
                assert (out[:, 2] == (q[:, 2] if name in RESIDUAL else 0)).all()
        out = np.empty_like(plain)
        assert ruvector.attention(q, k, v, name, **own, out=out) is out
        assert same_bits(out, plain)
        dropped = [ruvector.attention(q, k, v, name, **own, dropout=0.5, training=True, rng=seed) for seed in (3, 3, 4)]
        assert same_bits(dropped[0], dropped[1])
        assert not same_bits(dropped[0], dropped[2])
        assert same_bits(ruvector.attention(q, k, v, name, **own, dropout=0.5), plain)
        mean = np.mean(
            [ruvector.attention(q, k, v, name, **own, dropout=0.3, training=True, rng=seed) for seed in range(300)], 0
        )
        assert np.abs(mean - plain).mean() < 0.1, "inverted scaling"
        with pytest.raises(ValueError, match="rng"):
            ruvector.attention(q, k, v, name, **own, dropout=0.5, training=True)


@pytest.mark.parametrize("name", sorted(CASES))
def test_hidden_keys_and_the_future_change_no_bit(isa, name):
    q, k, v = (x.copy() for x in arrays(name, (2,), 70, 75, "float32", "hidden"))
    causal = ruvector.attention(q, k, v, name, **CASES[name][0], causal=True)
    mask = np.ones(75, bool)
    mask[[3, 50]] = False
    masked = ruvector.attention(q, k, v, name, **CASES[name][0], mask=mask)
    k[:, 60:], v[:, 60:] = 3, -2
    assert same_bits(ruvector.attention(q, k, v, name, **CASES[name][0], causal=True)[:, :55], causal[:, :55])
    k, v = (x.copy() for x in arrays(name, (2,), 70, 75, "float32", "hidden")[1:])
    k[:, 3], v[:, 50], v[:, 3, 0] = np.nan, np.nan, np.inf
    np.testing.assert_allclose(
        ruvector.attention(q, k, v, name, **CASES[name][0], mask=mask), masked, rtol=0, atol=1e-5
    )
    v[0, 7, 2] = np.nan
    bad = np.isnan(ruvector.attention(q, k, v, name, **CASES[name][0], mask=mask, causal=True))
    assert bad[0, 2:].any(-1).all()
    assert not bad[0, :2].any()
    assert not bad[1].any()


@pytest.mark.parametrize("name", sorted(set(CASES) - {"differential", "synthesizer"}))
def test_scores(isa, name):
    q, k, v = qkv((), 9, 31, 32, 31, "float64", "scores")
    for own in CASES[name]:
        for options in ({}, {"causal": True}, {"scale": 0.4}):
            p = ruvector.attention_scores(q, k, name, **own, **options)
            some = np.ones((31, 32 if name in RESIDUAL else 8))
            expected = reference_weights.TYPES[name](q, k, some, **own, **options).weights
            np.testing.assert_allclose(p, expected, rtol=0, atol=1e-12)
        score = np.array([ruvector.attention_score(q[0], key, name, **own) for key in k])
        np.testing.assert_allclose(ruvector.attention_score(q[0], k, name, **own), score, rtol=0, atol=1e-13)
        if "w_weights" not in own and name not in ("talking_heads", "realformer", "adaptive_span"):
            p = ruvector.attention_scores(q[0], k, name, **own)
            assert (np.diff(p[np.argsort(score)]) >= -1e-15).all(), "a higher score has no smaller weight"


@pytest.mark.parametrize("name", ["differential", "synthesizer"])
def test_types_without_a_score_of_a_pair(name):
    with pytest.raises(ValueError, match=f"'{name}' has no pairwise score"):
        ruvector.attention_score(np.ones(8), np.ones(8), name)


def test_a_synthesizer_looks_at_no_key_and_at_its_position():
    q, k, v = qkv((2,), 9, 14, 32, 24, "float64", "synthesizer")
    for kind in ("dense", "random"):
        out = ruvector.synthesizer_attention(q, k, v, kind)
        assert same_bits(ruvector.synthesizer_attention(q, k * np.nan, v, kind), out)
        assert same_bits(ruvector.synthesizer_attention(q * 2, k, v, kind), out) == (kind == "random")
    causal = ruvector.synthesizer_attention(q, k, v, "random", table=W["t"], causal=True)
    last = ruvector.synthesizer_attention(q[:, 4:6], k[:, :11], v[:, :11], "random", table=W["t"], causal=True)
    np.testing.assert_allclose(last, causal[:, 4:6], rtol=0, atol=1e-14)
    # a table of products is attention
    products = q[0] @ k[0].T / np.sqrt(32)
    table = np.zeros((14, 14))
    table[5:] = products
    exact = ruvector.scaled_dot_attention(q[0], k[0], v[0])
    np.testing.assert_allclose(
        ruvector.synthesizer_attention(q[0], k[0], v[0], "random", table=table), exact, rtol=0, atol=1e-14
    )


def test_limits(isa):
    q, k, v = qkv((2,), 21, 37, 32, 24, "float64", "limits")
    close = {"rtol": 0, "atol": 1e-12}
    scaled = ruvector.scaled_dot_attention(q, k, v)
    np.testing.assert_allclose(ruvector.entmax_attention(q, k, v, 1), scaled, **close)
    np.testing.assert_allclose(ruvector.entmax_attention(q, k, v, 1 + 1e-9), scaled, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ruvector.entmax_attention(q, k, v, 2), ruvector.sparsemax_attention(q, k, v), **close)
    first = ruvector.scaled_dot_attention(q[..., :16], k[..., :16], v)
    assert same_bits(ruvector.differential_attention(q, k, v, 0), first)
    np.testing.assert_allclose(
        ruvector.talking_heads_attention(q, k, v, 4), ruvector.multi_head_attention(q, k, v, 4), **close
    )
    eye = np.eye(4)
    mixed = ruvector.talking_heads_attention(q, k, v, 4, w_logits=eye, w_weights=eye)
    np.testing.assert_allclose(mixed, ruvector.multi_head_attention(q, k, v, 4), **close)
    several = ruvector.multi_head_attention(q, k, v, 4)
    np.testing.assert_allclose(ruvector.realformer_attention(q, k, v, 4), several, **close)
    np.testing.assert_allclose(ruvector.adaptive_span_attention(q, k, v, 4, span=[37.0]), several, **close)
    near = ruvector.adaptive_span_attention(q, k, v, 4, span=[0.0], ramp=1.0)
    np.testing.assert_allclose(near, v[:, 16:], **close)
    square = qkv((2,), 21, 37, 32, 32, "float64", "limits")
    assert same_bits(ruvector.rezero_attention(*square), square[0])
    np.testing.assert_allclose(ruvector.rezero_attention(*square, 1.0), ruvector.fixup_attention(*square), **close)
    lengths = generator("lengths").random((2, 37, 1)) * 100 + 0.01
    np.testing.assert_allclose(
        ruvector.cosine_attention(q, k * lengths, v), ruvector.cosine_attention(q, k, v), **close
    )
    far = ruvector.cosine_attention(q * 1e200, k * 1e-300, v)
    np.testing.assert_allclose(far, ruvector.cosine_attention(q, k, v), **close)


def test_layers_of_realformer_carry_their_logits(isa):
    q, k, v = qkv((2,), 21, 37, 32, 24, "float64", "carried")
    first = ruvector.realformer_logits(q, k, 4)
    second = ruvector.realformer_logits(k[:, :21], k, 4, previous=first)
    heads = [np.moveaxis(x.reshape(2, -1, 4, 8), 2, 1) for x in (q + k[:, :21], k)]
    np.testing.assert_allclose(second, heads[0] @ heads[1].swapaxes(-1, -2) / np.sqrt(8), rtol=0, atol=1e-13)
    out = ruvector.realformer_attention(k[:, :21], k, v, 4, previous=first)
    np.testing.assert_allclose(out, ruvector.multi_head_attention(q + k[:, :21], k, v, 4), rtol=0, atol=1e-12)


def test_previous_logits_of_realformer(isa, dtype_name, dtype):
    oracle = reference_weights.TYPES["realformer"]
    for q_len, kv_len in ((21, 37), (5, 9)):
        q, k, v = qkv((2,), q_len, kv_len, 32, 24, dtype_name, "previous")
        plain = ruvector.realformer_attention(q, k, v, 4)
        for shape in ((2, 4, q_len, kv_len), (4, q_len, kv_len), (q_len, kv_len), (4, 1, kv_len)):
            own = {"num_heads": 4, "previous": normal(shape, np.float64, "previous")}
            for options in ({}, {"causal": True}, {"mask": np.arange(kv_len) % 3 != 1}):
                out = ruvector.attention(q, k, v, "realformer", **own, **options)
                check(out, oracle(q, k, v, **own, **options), dtype, f"{shape} {list(options)}")
            assert not same_bits(ruvector.attention(q, k, v, "realformer", **own), plain)


def test_spans_leave_out_the_keys_beyond_them(isa):
    """Lengths past a block of rows, heads of different spans, queries before the first key."""
    for q_len, kv_len, causal in (
        (300, 300, False),
        (300, 300, True),
        (90, 400, True),
        (400, 90, False),
        (400, 90, True),
    ):
        q, k, v = qkv((), q_len, kv_len, 32, 24, "float64", "spans")
        own = {"num_heads": 4, "span": [0.0, 7.5, 40.0, 1000.0], "ramp": 3.0}
        out = ruvector.attention(q, k, v, "adaptive_span", **own, causal=causal)
        answer = reference_weights.TYPES["adaptive_span"](q, k, v, **own, causal=causal)
        check(out, answer, np.float64, f"{q_len} x {kv_len} {causal}")
        if causal or q_len > kv_len:
            continue
        far = v.copy()
        far[200] = np.nan
        changed = ruvector.attention(q, k, far, "adaptive_span", **own)
        rows = np.isnan(changed).any(-1)
        assert rows.all(), "the last head sees all"
        assert not np.isnan(changed[:197, :6]).any()
        assert same_bits(changed[:150, :18].copy(), out[:150, :18].copy())


@pytest.mark.parametrize("name", sorted(set(CASES) - {"rezero", "fixup"}))
def test_threads_change_no_bit_and_blocks_join(isa, threads, name):
    own = {"w_logits": W["h"], "w_weights": W["h"].T} if name == "talking_heads" else CASES[name][0]
    own = {"max_length": 700} if name == "synthesizer" else own
    q, k, v = arrays(name, (), 650, 700, "float32", "threads")
    results = []
    for n in (1, 2, 3):
        ruvector.set_num_threads(n)
        results.append(ruvector.attention(q, k, v, name, **own, causal=True))
    assert all(same_bits(r, results[0]) for r in results)
    check(results[0], reference_weights.TYPES[name](q, k, v, **own, causal=True), np.float32, name)


def test_the_scale_of_fixup():
    assert ruvector.fixup_scale(100) == 0.1
    assert ruvector.fixup_scale(81, 3) == pytest.approx(1 / 3, rel=1e-15)
    for arguments, word in (((0,), "num_layers"), ((3, 1), "layers_per_branch")):
        with pytest.raises(ValueError, match=word):
            ruvector.fixup_scale(*arguments)


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("entmax", {"alpha": 0.9}, ("alpha", "0.9", "between 1 and 16")),
        ("cosine", {"tau": 0.0}, ("tau", "0.0")),
        ("additive", {"hidden": 0}, ("hidden", "0")),
        ("additive", {"w_q": np.ones((5, 4))}, ("w_q", "(32, 4)", "(5, 4)")),
        ("additive", {"v": np.ones(3)}, ("v must", "(64,)", "(3,)")),
        ("differential", {"lambda_init": 1.5}, ("lambda_init", "1.5")),
        ("rezero", {}, ("32", "24")),
        ("fixup", {}, ("32", "24")),
        ("realformer", {"previous": np.ones((2, 4))}, ("previous", "(8, 3, 5)", "(2, 4)")),
        ("adaptive_span", {"span": [-1.0]}, ("span", "-1")),
        ("adaptive_span", {"span": [1.0, 2.0]}, ("span", "(8,)", "(2,)")),
        ("adaptive_span", {"ramp": 0.0}, ("ramp", "0.001", "0.0")),
        ("synthesizer", {"kind": "sparse"}, ("kind", "'dense' or 'random'", "'sparse'")),
        ("synthesizer", {"max_length": 4}, ("max_length", "5", "4")),
        ("synthesizer", {"table": np.ones((9, 9))}, ("'dense'", "table")),
        ("synthesizer", {"kind": "random", "w1": np.ones((9, 9))}, ("'random'", "w1")),
        ("synthesizer", {"kind": "random", "table": np.ones((9, 4))}, ("table", "at least 5", "(9, 4)")),
        ("synthesizer", {"w1": np.ones((9, 9))}, ("w1", "(32, hidden)", "(9, 9)")),
        ("synthesizer", {"w2": np.ones((32, 4))}, ("w2", "(32, at least 5)", "(32, 4)")),
        ("synthesizer", {"b1": np.ones(4)}, ("b1", "(32,)", "(4,)")),
        ("synthesizer", {"b2": np.ones(4)}, ("b2", "(1024,)", "(4,)")),
        ("talking_heads", {"num_heads": 5}, ("32", "5")),
        ("talking_heads", {"w_logits": np.ones((4, 4))}, ("w_logits", "(8, 8)", "(4, 4)")),
    ],
)
def test_bad_parameters(name, own, words):
    q, k, v = qkv((), 3, 5, 32, 24, "float32")
    with pytest.raises(ValueError) as caught:
        ruvector.attention(q, k, v, name, **own)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.peer
def test_entmax_attention_against_the_entmax_package():
    torch, package = pytest.importorskip("torch"), pytest.importorskip("entmax")
    q, k, v = qkv((2,), 21, 37, 32, 24, "float64", "peer")
    logits = torch.tensor(q @ np.swapaxes(k, -1, -2) / np.sqrt(32))
    np.testing.assert_allclose(
        ruvector.entmax_attention(q, k, v), package.entmax15(logits, -1).numpy() @ v, rtol=0, atol=1e-9
    )


@pytest.mark.peer
def test_sigmoid_additive_and_talking_heads_against_torch():
    torch = pytest.importorskip("torch")
    q, k, v = (torch.tensor(x) for x in qkv((2,), 21, 37, 32, 24, "float64", "peer"))
    close = {"rtol": 0, "atol": 1e-12}
    logits = q @ k.mT / np.sqrt(32)
    np.testing.assert_allclose(ruvector.sigmoid_attention(q, k, v), torch.sigmoid(logits - np.log(37)) @ v, **close)
    w_q, w_k, w = (torch.tensor(W[name]) for name in ("q", "k", "v"))
    scores = torch.tanh((q @ w_q)[:, :, None] + (k @ w_k)[:, None]) @ w
    out = ruvector.additive_attention(q, k, v, w_q=W["q"], w_k=W["k"], v=W["v"])
    np.testing.assert_allclose(out, torch.softmax(scores, -1) @ v, **close)
    heads = [x.reshape(2, -1, 8, x.shape[-1] // 8).transpose(1, 2) for x in (q, k, v)]
    before, after = torch.tensor(W["h"]), torch.tensor(W["h"].T.copy())
    mixed = torch.softmax(torch.einsum("ab,naij->nbij", before, heads[0] @ heads[1].mT / 2), -1)
    weights = torch.einsum("ab,naij->nbij", after, mixed)
    out = ruvector.talking_heads_attention(q, k, v, w_logits=W["h"], w_weights=W["h"].T)
    np.testing.assert_allclose(out, (weights @ heads[2]).transpose(1, 2).reshape(2, 21, 24), **close)


@pytest.mark.peer
def test_differential_attention_against_torch():
    """The formula of the paper's code: two softmaxes, their difference, the norm of a head."""
    torch = pytest.importorskip("torch")
    q, k, v = qkv((2,), 21, 37, 32, 24, "float64", "peer")
    a, b = (
        torch.softmax(torch.tensor(q[..., s] @ np.swapaxes(k[..., s], -1, -2)) / 4, -1)
        for s in (slice(16), slice(16, 32))
    )
    head = torch.nn.functional.rms_norm((a - 0.3 * b) @ torch.tensor(v), (24,), eps=1e-5) * 0.7
    np.testing.assert_allclose(ruvector.differential_attention(q, k, v, 0.3, norm=True), head, rtol=0, atol=1e-10)


@pytest.mark.peer
def test_differential_attention_against_transformers():
    """A layer of DiffLlama of two heads, its projections the identity and its positions all 0."""
    torch = pytest.importorskip("torch")
    diffllama = pytest.importorskip("transformers.models.diffllama.modeling_diffllama")
    config = diffllama.DiffLlamaConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5, attn_implementation="eager"
    )
    layer = diffllama.DiffLlamaAttention(config, 0).double()
    x = normal((2, 21, 32), np.float64, "peer")
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj):
            projection.weight.copy_(torch.eye(32))
        layer.k_proj.weight.copy_(torch.tensor(W["q"] @ W["k"].T / 8))
        layer.lambda_q1.zero_()
        layer.lambda_q2.zero_()
        positions = torch.ones(2, 21, 16, dtype=torch.float64), torch.zeros(2, 21, 16, dtype=torch.float64)
        theirs = layer(torch.tensor(x), positions)[0].numpy()
        key = layer.k_proj(torch.tensor(x)).numpy()
    ours = ruvector.differential_attention(x, key, x, layer.lambda_init, norm=True)
    # its softmax is in float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.peer
def test_cosine_attention_against_transformers():
    """A window of Swin v2 of one head, whose biases of positions are all the same."""
    torch = pytest.importorskip("torch")
    swinv2 = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
    layer = swinv2.Swinv2SelfAttention(swinv2.Swinv2Config(), 32, 1, (4, 4)).double().eval()
    x = normal((2, 16, 32), np.float64, "peer")
    with torch.no_grad():
        for parameter in layer.continuous_position_bias_mlp.parameters():
            parameter.zero_()
        q, k, v = (part(torch.tensor(x)).numpy() for part in (layer.query, layer.key, layer.value))
        theirs = layer(torch.tensor(x))[0].numpy()
        # log(10) in float32
        tau = float(torch.exp(-layer.logit_scale))
    np.testing.assert_allclose(ruvector.cosine_attention(q, k, v, tau), theirs, rtol=0, atol=1e-12)
