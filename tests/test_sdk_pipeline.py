"""Pipelines: every stage and block against float64 with errors carried along, and PyTorch's layers with copied weights."""

import copy
import pickle

import numpy as np
import pytest
import reference
import reference_sdk as oracle
import ruvector
from ruvector import sdk
from support import generator, normal, same_bits

N = sdk.NormType
Pipeline = sdk.AttentionPipeline


def block_weights(dim=32, hidden=48, gated=False):
    """Weights of a block by name, of moderate size."""
    shapes = {f"w_{n}": (dim, dim) for n in "qkvo"} | {f"b_{n}": (dim,) for n in "qkvo"}
    feed = {"w_up": (dim, hidden), "w_down": (hidden, dim), "b_up": (hidden,), "b_down": (dim,)}
    if gated:
        feed |= {"w_gate": (dim, hidden), "b_gate": (hidden,)}
    attention = {n: normal(s, np.float32, "block", n, scale=0.3) for n, s in shapes.items()}
    feed = {n: normal(s, np.float32, "block", n, scale=0.3) for n, s in feed.items()}
    norms = [
        {
            "weight": 1 + normal(dim, np.float32, "norm", i, scale=0.2),
            "bias": normal(dim, np.float32, "bias", i, scale=0.2),
        }
        for i in range(2)
    ]
    return attention, feed, norms


def attend(x, keys, values, w, **options):
    """Projected multi-head attention and its bound; x, keys and values are oracles'."""
    projected = [oracle.linear(a, w[f"w_{n}"], w[f"b_{n}"]) for a, n in zip((x, keys, values), "qkv")]
    return oracle.linear(oracle.attention(reference.multi_head, *projected, **options), w["w_o"], w["b_o"])


def feed_forward(x, w):
    up = oracle.linear(x, w["w_up"], w["b_up"])
    if "w_gate" in w:
        hidden = oracle.multiply(oracle.silu(oracle.linear(x, w["w_gate"], w["b_gate"])), up)
    else:
        hidden = oracle.gelu(up)
    return oracle.linear(hidden, w["w_down"], w["b_down"])


def post_norm(attention, feed, norms, norm, activation="gelu"):
    first, second = norms
    return (
        Pipeline()
        .add_attention(sdk.multi_head(32, 4).weights(**attention).build())
        .add_residual()
        .add_norm(norm, **first)
        .add_feed_forward(sdk.FeedForward(**feed, activation=activation))
        .add_residual()
        .add_norm(norm, **second)
    )


def pre_norm(attention, feed, norms, norm, activation="gelu", causal=False):
    first, second = norms
    return (
        Pipeline()
        .add_norm(norm, **first)
        .add_attention(sdk.multi_head(32, 4).causal(causal).weights(**attention).build())
        .add_residual()
        .add_norm(norm, **second)
        .add_feed_forward(sdk.FeedForward(**feed, activation=activation))
        .add_residual()
    )


# Against float64 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2,)])
def test_post_norm_block(isa, lead):
    attention, feed, norms = block_weights()
    x = normal((*lead, 7, 32), np.float32, "x")
    e = oracle.exact(x)
    y = oracle.layer_norm(oracle.add(attend(e, e, e, attention, num_heads=4), e), **norms[0])
    y = oracle.layer_norm(oracle.add(feed_forward(y, feed), y), **norms[1])
    oracle.check(post_norm(attention, feed, norms, N.LayerNorm).run(x), y)


@pytest.mark.parametrize("causal", [False, True])
def test_pre_norm_block_of_rms_norms_and_swiglu(isa, causal):
    attention, feed, norms = block_weights(gated=True)
    norms = [{"weight": n["weight"]} for n in norms]
    x = normal((2, 7, 32), np.float32, "x")
    e = oracle.exact(x)
    n = oracle.rms_norm(e, **norms[0])
    y = oracle.add(attend(n, n, n, attention, num_heads=4, causal=causal), e)
    y = oracle.add(feed_forward(oracle.rms_norm(y, **norms[1]), feed), y)
    oracle.check(pre_norm(attention, feed, norms, N.RMSNorm, "swiglu", causal).run(x), y)


def test_keys_of_the_run_are_seen_as_they_are():
    """A norm in front is the query's; every stage of attention sees the same keys."""
    attention, feed, norms = block_weights()
    x, memory, values = (
        normal((7, 32), np.float32, "x"),
        normal((9, 32), np.float32, "k"),
        normal((9, 32), np.float32, "v"),
    )
    e, k, v = oracle.exact(x), oracle.exact(memory), oracle.exact(values)
    y = oracle.add(attend(oracle.layer_norm(e, **norms[0]), k, v, attention, num_heads=4), e)
    y = oracle.add(feed_forward(oracle.layer_norm(y, **norms[1]), feed), y)
    pipeline = pre_norm(attention, feed, norms, N.LayerNorm)
    oracle.check(pipeline.run(x, memory, values), y)
    oracle.check(pipeline.run(x[2], list(memory), list(values)), y[:, 2])
    assert same_bits(pipeline.run(x, memory), pipeline.run(x, memory, memory))
    twice = Pipeline().add_attention(sdk.scaled_dot(32).build()).add_attention(sdk.scaled_dot(32).build())
    attended = ruvector.attention(ruvector.attention(x, memory, values), memory, values)
    assert same_bits(twice.run(x, memory, values), attended)


@pytest.mark.parametrize("norm", N)
def test_norms(isa, norm):
    x = normal((3, 5, 33), np.float32, "x", scale=3.0)
    w, b = 1 + normal(33, np.float32, "w"), normal(33, np.float32, "b")
    affine = {"weight": w} | ({} if norm is N.RMSNorm else {"bias": b})
    pipeline = Pipeline().add_norm(norm, **affine, eps=1e-3)
    if norm is N.LayerNorm:
        expected = oracle.layer_norm(oracle.exact(x), **affine, eps=1e-3)
    elif norm is N.RMSNorm:
        expected = oracle.rms_norm(oracle.exact(x), **affine, eps=1e-3)
    else:
        expected = oracle.batch_norm(oracle.exact(x), 0.0, 1.0, **affine, eps=1e-3)
    oracle.check(pipeline.run(x), expected)
    oracle.check(pipeline.run(x[1, 2]), expected[:, 1, 2])
    assert not np.allclose(pipeline.run(x), Pipeline().add_norm(norm, **affine, eps=1.0).run(x), rtol=1e-4)
    by_name = Pipeline().add_norm(norm.name.upper(), **affine, eps=1e-3)
    assert same_bits(by_name.run(x), pipeline.run(x))


def test_batch_norm_in_training():
    first, second = (normal((4, 6, 5), np.float32, n, scale=2.0) + np.float32(3) for n in "ab")
    pipeline = Pipeline().add_norm(N.BatchNorm, momentum=0.25)
    stage = pipeline.stages[0]
    assert stage.running_mean is None
    mean, var = np.zeros(5), np.ones(5)
    for x in (first, second):
        rows = x.reshape(-1, 5).astype(np.float64)
        expected = oracle.batch_norm(oracle.exact(x), rows.mean(0), rows.var(0))
        oracle.check(pipeline.run(x, training=True), expected)
        mean += 0.25 * (rows.mean(0) - mean)
        var += 0.25 * (rows.var(0, ddof=1) - var)
        np.testing.assert_allclose(stage.running_mean, mean, rtol=1e-14)
        np.testing.assert_allclose(stage.running_var, var, rtol=1e-14)
    assert stage.batches == 2
    oracle.check(pipeline.run(first), oracle.batch_norm(oracle.exact(first), mean, var))
    assert stage.batches == 2
    oracle.check(pipeline.run(first[0, 0]), oracle.batch_norm(oracle.exact(first), mean, var)[:, 0, 0])
    given = Pipeline().add_norm(N.BatchNorm, running_mean=mean, running_var=var)
    assert same_bits(given.run(first), pipeline.run(first))
    # each pipeline has statistics of its own
    longer = pipeline.add_dropout(0.0)
    longer.run(second, training=True)
    assert (stage.batches, longer.stages[0].batches) == (2, 3)
    np.testing.assert_allclose(stage.running_mean, mean, rtol=1e-14)


def test_batch_norm_far_from_zero():
    x = (normal((64, 3), np.float32, "far") + np.float32(1e4)).astype(np.float32)
    rows = x.astype(np.float64)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    got = Pipeline().add_norm(N.BatchNorm).run(x, training=True)
    np.testing.assert_allclose(got, expected, rtol=2**-23, atol=1e-7)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "swiglu"])
def test_feed_forward(isa, activation):
    _, feed, _ = block_weights(gated=activation == "swiglu")
    layer = sdk.FeedForward(**feed, activation=activation)
    x = normal((5, 32), np.float32, "x")
    if activation == "gelu_tanh":
        hidden = x.astype(np.float64) @ feed["w_up"] + feed["b_up"]
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        np.testing.assert_allclose(layer(x), hidden @ feed["w_down"] + feed["b_down"], rtol=0, atol=2e-5)
        assert not same_bits(layer(x), sdk.FeedForward(**feed)(x))
    else:
        oracle.check(layer(x), feed_forward(oracle.exact(x), feed))
    assert layer(x).dtype == np.float32
    assert layer(x.astype(np.float64)).dtype == np.float64
    assert same_bits(Pipeline().add_feed_forward(layer).run(x), layer(x))


def test_drawn_feed_forward():
    layer = sdk.FeedForward.init(16, activation="swiglu")
    assert {n: a.shape for n, a in layer.weights.items()} == {"w_up": (16, 42), "w_down": (42, 16), "w_gate": (16, 42)}
    assert same_bits(layer.weights["w_up"], sdk.FeedForward.init(16, activation="swiglu").weights["w_up"])
    assert not np.array_equal(
        layer.weights["w_up"], sdk.FeedForward.init(16, activation="swiglu", rng=1).weights["w_up"]
    )
    assert sdk.FeedForward.init(16, dtype=np.float64).weights["w_up"].shape == (16, 64)
    assert sdk.FeedForward.init(16, 8, dtype=np.float64).weights["w_up"].dtype == np.float64


# Residuals -----------------------------------------------------------------------------------------------------------


def sources(pipeline):
    return pipeline._sources


def of(letters):
    """A, N, D, R, F: a pipeline of such stages."""
    add = {
        "A": lambda p: p.add_attention(sdk.scaled_dot(4).build()),
        "N": lambda p: p.add_norm(N.LayerNorm),
        "D": lambda p: p.add_dropout(0.1),
        "R": lambda p: p.add_residual(),
        "F": lambda p: p.add_feed_forward(sdk.FeedForward.init(4)),
        "C": lambda p: p.add_custom(np.negative),
    }
    pipeline = Pipeline()
    for letter in letters:
        pipeline = add[letter](pipeline)
    return pipeline


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("ADRN", {2: 0}),  # quick start
        ("NADRN", {3: 0}),  # custom layer
        ("ANR", {2: 0}),  # hybrid
        ("ANDRC", {3: 0}),  # creating pipelines
        ("ADRNFDRN", {2: 0, 6: 4}),  # post-norm: the norm's result
        ("NADRNFDR", {3: 0, 7: 4}),  # pre-norm: the residual's result
        ("ARFR", {1: 0, 3: 2}),
        ("ARNARNAR", {1: 0, 4: 3, 7: 6}),
        ("NANRNFNR", {3: 0, 7: 4}),
    ],
)
def test_residuals_add_the_input_of_their_sub_layer(letters, expected):
    assert sources(of(letters)) == expected
    for residual, source in expected.items():
        assert f"{residual}: residual, adds the input of {source}\n" in repr(of(letters))


def test_residuals_in_numbers():
    x = normal((5, 4), np.float64, "x")
    doubled = Pipeline().add_custom(lambda a: 2 * a)
    np.testing.assert_array_equal(doubled.add_residual().run(x), 3 * x)
    np.testing.assert_allclose(
        doubled.add_residual().add_custom(lambda a: 2 * a).add_residual().run(x), 9 * x, rtol=1e-15
    )
    norm = ruvector.layer_norm
    np.testing.assert_allclose(of("CRNCR").run(x), np.zeros_like(x), atol=1e-15)
    ln = norm(x)
    np.testing.assert_allclose(of("NCRNCR").run(x), (x - ln) - norm(x - ln), rtol=0, atol=1e-12)
    post = Pipeline().add_custom(np.square).add_residual().add_norm(N.LayerNorm).add_custom(np.negative).add_residual()
    np.testing.assert_allclose(post.run(x), np.zeros_like(x), atol=1e-15)


# Training ------------------------------------------------------------------------------------------------------------


def test_dropout_works_in_training_only():
    x = normal((64, 32), np.float32, "x")
    pipeline = Pipeline().add_dropout(0.3)
    assert same_bits(pipeline.run(x), x)
    out = pipeline.run(x, training=True, rng=2)
    dropped = out == 0
    assert 0.2 < dropped.mean() < 0.4
    np.testing.assert_allclose(out[~dropped], x[~dropped] / np.float32(0.7), rtol=1e-6)
    assert same_bits(out, pipeline.run(x, training=True, rng=2))
    assert not same_bits(out, pipeline.run(x, training=True, rng=3))
    twice = pipeline.add_dropout(0.3).run(x, training=True, rng=2)
    assert 0.4 < (twice == 0).mean() < 0.6, "stages draw one after the other"
    with pytest.raises(ValueError, match="rng"):
        pipeline.run(x, training=True)
    assert same_bits(Pipeline().add_dropout(0.0).run(x, training=True), x)
    layer = sdk.FeedForward.init(32, dropout=0.5)
    assert same_bits(layer(x), sdk.FeedForward.init(32)(x))
    assert not np.allclose(Pipeline().add_feed_forward(layer).run(x, training=True, rng=1), layer(x))
    attention = Pipeline().add_attention(sdk.multi_head(32, 4).dropout(0.5).build())
    assert not np.allclose(attention.run(x, training=True, rng=1), attention.run(x))


@pytest.mark.parametrize("make", [sdk.transformer_block, sdk.prenorm_transformer_block])
def test_blocks(make):
    attention = sdk.multi_head(32, 4).init().build()
    x = normal((6, 32), np.float32, "x")
    pre = make is sdk.prenorm_transformer_block
    block = make(attention, 0.1)
    manual = of("")
    if pre:
        manual = manual.add_norm(N.LayerNorm).add_attention(attention).add_dropout(0.1).add_residual()
    else:
        manual = manual.add_attention(attention).add_dropout(0.1).add_residual().add_norm(N.LayerNorm)
    assert same_bits(block.run(x), manual.run(x))
    assert repr(block) == repr(manual)
    assert same_bits(block.run(x, training=True, rng=1), manual.run(x, training=True, rng=1))
    assert not np.allclose(block.run(x, training=True, rng=1), block.run(x))
    feed = sdk.FeedForward.init(32)
    whole = make(attention, 0.1, feed_forward=feed, norm=N.RMSNorm)
    h = ruvector.rms_norm(x) if pre else x
    h = x + attention(h, h, h)
    h = h if pre else ruvector.rms_norm(h)
    h = h + feed(ruvector.rms_norm(h)) if pre else ruvector.rms_norm(h + feed(h))
    assert same_bits(whole.run(x), h)
    assert block.run(x[0], x, x).shape == (32,)


def test_custom_stages_take_lists_for_a_vector():
    pipeline = Pipeline().add_custom(lambda x: [max(v, 0.0) for v in x])
    out = pipeline.run(np.array([-1.0, 2.0], np.float32))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [0, 2])


# Values --------------------------------------------------------------------------------------------------------------


def test_pipelines_are_not_changed_by_their_methods():
    pipeline = Pipeline().add_norm(N.LayerNorm)
    longer = pipeline.add_dropout(0.1)
    assert (len(pipeline.stages), len(longer.stages)) == (1, 2)
    with pytest.raises(AttributeError, match="cannot be changed"):
        pipeline.stages = ()
    x = normal((3, 4), np.float32, "x")
    assert same_bits(Pipeline().run(x), x)
    assert Pipeline().run(x) is not x
    assert repr(Pipeline()) == "AttentionPipeline()"
    whole = of("NADRNFDR").add_norm(N.BatchNorm)
    whole.run(x, training=True, rng=1)
    for again in (pickle.loads(pickle.dumps(whole)), copy.deepcopy(whole), copy.copy(whole)):
        assert same_bits(again.run(x), whole.run(x))
        assert repr(again) == repr(whole)
    assert "custom negative" in repr(of("C"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_stays(dtype):
    x = normal((5, 32), dtype, "x")
    feed = sdk.FeedForward.init(32, dtype=dtype)
    block = sdk.transformer_block(sdk.multi_head(32, 4).build(), feed_forward=feed)
    assert block.run(x).dtype == dtype
    assert block.add_norm(N.BatchNorm).run(x, training=True, rng=0).dtype == dtype


def test_masks_reach_every_attention():
    x = normal((6, 32), np.float32, "x")
    mask = np.tri(6, dtype=bool)
    masked = of("").add_attention(sdk.multi_head(32, 4).build()).add_attention(sdk.multi_head(32, 4).build())
    causal = of("").add_attention(sdk.multi_head(32, 4).causal().build())
    causal = causal.add_attention(sdk.multi_head(32, 4).causal().build())
    np.testing.assert_allclose(masked.run(x, mask=mask), causal.run(x), rtol=0, atol=1e-6)


# PyTorch -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the peer of these tests, is not installed")


def parameters_of(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def builder_of(module, heads):
    """multi_head with the weights of a torch.nn.MultiheadAttention, whose matrices are (out, in)."""
    p = parameters_of(module)
    dim = module.embed_dim
    w = {f"w_{n}": p["in_proj_weight"][i * dim : (i + 1) * dim].T for i, n in enumerate("qkv")}
    b = {f"b_{n}": p["in_proj_bias"][i * dim : (i + 1) * dim] for i, n in enumerate("qkv")}
    return sdk.multi_head(dim, heads).weights(**w, **b, w_o=p["out_proj.weight"].T, b_o=p["out_proj.bias"])


@pytest.mark.peer
def test_torch_multihead_attention(torch):
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    with torch.no_grad():
        module.in_proj_bias.normal_()
        module.out_proj.bias.normal_()
    q, k, v = (
        normal((2, 7, 64), np.float32, "q"),
        normal((2, 9, 64), np.float32, "k"),
        normal((2, 9, 64), np.float32, "v"),
    )
    padded = np.zeros((2, 9), bool)
    padded[1, 6:] = True
    attention = builder_of(module, 4).build()
    w = dict(attention.weights)
    for hidden in (None, padded):
        with torch.no_grad():
            mask = None if hidden is None else torch.from_numpy(hidden)
            theirs = module(*map(torch.from_numpy, (q, k, v)), key_padding_mask=mask, need_weights=False)[0].numpy()
        mask = None if hidden is None else ~hidden[:, None, :]
        expected = attend(*map(oracle.exact, (q, k, v)), w, num_heads=4, mask=mask)
        oracle.check(attention(q, k, v, mask=mask), expected)
        np.testing.assert_allclose(theirs, expected[0], rtol=0, atol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_encoder_layer(torch, norm_first):
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 96, 0.1, "gelu", batch_first=True, norm_first=norm_first).eval()
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.endswith("bias") or "norm" in name:
                p.add_(0.2 * torch.randn_like(p))
    p = parameters_of(layer)
    attention = builder_of(layer.self_attn, 4).build()
    feed = {"w_up": p["linear1.weight"].T, "b_up": p["linear1.bias"], "w_down": p["linear2.weight"].T}
    feed["b_down"] = p["linear2.bias"]
    norms = [{"weight": p[f"norm{i}.weight"], "bias": p[f"norm{i}.bias"]} for i in (1, 2)]
    x = normal((2, 7, 64), np.float32, "x")
    with torch.no_grad():
        theirs = layer(torch.from_numpy(x)).numpy()
    e, w = oracle.exact(x), dict(attention.weights)
    layer_of = sdk.FeedForward(**feed, dropout=0.1)
    if norm_first:
        block = Pipeline().add_norm(N.LayerNorm, **norms[0]).add_attention(attention).add_dropout(0.1).add_residual()
        block = block.add_norm(N.LayerNorm, **norms[1]).add_feed_forward(layer_of).add_dropout(0.1).add_residual()
        n = oracle.layer_norm(e, **norms[0])
        y = oracle.add(attend(n, n, n, w, num_heads=4), e)
        y = oracle.add(feed_forward(oracle.layer_norm(y, **norms[1]), feed), y)
    else:
        block = Pipeline().add_attention(attention).add_dropout(0.1).add_residual().add_norm(N.LayerNorm, **norms[0])
        block = block.add_feed_forward(layer_of).add_dropout(0.1).add_residual().add_norm(N.LayerNorm, **norms[1])
        y = oracle.layer_norm(oracle.add(attend(e, e, e, w, num_heads=4), e), **norms[0])
        y = oracle.layer_norm(oracle.add(feed_forward(y, feed), y), **norms[1])
    oracle.check(block.run(x), y)
    np.testing.assert_allclose(theirs, y[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(block.run(x), theirs, rtol=0, atol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("norm", N)
def test_torch_norms(torch, norm):
    x = normal((4, 6, 48), np.float32, "x", scale=2.0) + np.float32(1)
    w, b = 1 + normal(48, np.float32, "w", scale=0.3), normal(48, np.float32, "b", scale=0.3)
    t = torch.from_numpy(x)
    if norm is N.BatchNorm:
        module = torch.nn.BatchNorm1d(48)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(w))
            module.bias.copy_(torch.from_numpy(b))
        pipeline = Pipeline().add_norm(norm, weight=w, bias=b)
        for part in (x, x[::-1] * 2):
            rows = torch.from_numpy(np.ascontiguousarray(part)).reshape(-1, 48)
            with torch.no_grad():
                theirs = module(rows).numpy().reshape(x.shape)
            np.testing.assert_allclose(pipeline.run(part, training=True), theirs, rtol=0, atol=1e-5)
        stage = pipeline.stages[0]
        np.testing.assert_allclose(stage.running_mean, module.running_mean.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stage.running_var, module.running_var.numpy(), rtol=1e-5)
        module.eval()
        with torch.no_grad():
            theirs = module(t.reshape(-1, 48)).numpy().reshape(x.shape)
        np.testing.assert_allclose(pipeline.run(x), theirs, rtol=0, atol=1e-5)
        return
    functional = torch.nn.functional
    if norm is N.LayerNorm:
        theirs = functional.layer_norm(t, (48,), torch.from_numpy(w), torch.from_numpy(b)).numpy()
        ours = Pipeline().add_norm(norm, weight=w, bias=b).run(x)
    else:
        theirs = functional.rms_norm(t, (48,), torch.from_numpy(w), 1e-6).numpy()
        ours = Pipeline().add_norm(norm, weight=w).run(x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_generators_pass_through_all_stages():
    x = normal((16, 32), np.float32, "x")
    block = sdk.transformer_block(sdk.multi_head(32, 4).dropout(0.2).build(), 0.2)
    a, b = generator("rng"), generator("rng")
    assert same_bits(block.run(x, training=True, rng=a), block.run(x, training=True, rng=b))
    assert not same_bits(block.run(x, training=True, rng=a), block.run(x, training=True, rng=generator("rng")))
