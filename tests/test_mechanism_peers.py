"""Patterns, positions, routers and linear attention beside the modules of transformers, local-attention and performer-pytorch, with
random weights."""

import numpy as np
import pytest
from support import generator, normal

import ruvector
from ruvector import patterns

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, which these peers run on, is not installed")


@pytest.fixture
def modeling(torch):
    """The module and the configuration class of a model of transformers."""
    pytest.importorskip("transformers", reason="transformers, the peer of this test, is not installed")

    def load(name):
        return pytest.importorskip(f"transformers.models.{name}.modeling_{name}")

    return load


def drawn(torch, module, name):
    """The module in float64 with random weights and biases."""
    module = module.double().eval()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(torch.from_numpy(normal(tuple(p.shape), np.float64, name, i, scale=0.4)))
    return module


def projected(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def heads_of(x, heads):
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def merged(x):
    return np.swapaxes(x, -2, -3).reshape(*x.shape[:-3], x.shape[-2], -1)


# Patterns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", (False, True))
def test_block_sparse_attention_of_a_bigbird_layout_is_that_of_transformers(isa, torch, modeling, padded, monkeypatch):
    """Its layout made explicit: its first and last blocks are global, its random blocks are the ones that it drew."""
    big_bird = modeling("big_bird")
    heads, size, count, width = 3, 8, 12, 24
    config = big_bird.BigBirdConfig(
        hidden_size=width, num_attention_heads=heads, block_size=size, num_random_blocks=2, max_position_embeddings=128
    )
    layer = drawn(torch, big_bird.BigBirdBlockSparseAttention(config, seed=5), "bigbird").train()
    chosen = []
    draw = layer._bigbird_block_rand_mask_with_head
    monkeypatch.setattr(
        layer, "_bigbird_block_rand_mask_with_head", lambda **given: chosen.append(draw(**given)) or chosen[-1]
    )
    x = normal((2, size * count, width), np.float64, "bigbird x")
    visible = np.arange(size * count) < np.array([[size * count], [size * count - 11 if padded else size * count]])
    given = torch.from_numpy(visible.astype(float))
    blocked, band, row, column = big_bird.BigBirdModel.create_masks_for_block_sparse_attn(given, size)
    state = np.random.get_state()  # it seeds NumPy's global generator
    try:
        with torch.no_grad():
            theirs, _ = layer(torch.from_numpy(x), band, row, column, blocked, blocked)
    finally:
        np.random.set_state(state)
    layout = np.zeros((heads, count, count), bool)
    layout[:, [0, -1]] = layout[:, :, [0, -1]] = True
    for i in range(1, count - 1):
        layout[:, i, i - 1 : i + 2] = True
        layout[np.arange(heads)[:, None], i, np.array(chosen[0])[:, i - 1]] = True
    assert not layout.all()
    assert (layout[0] != layout[1]).any()
    q, k, v = (heads_of(projected(getattr(layer, name), x), heads) for name in ("query", "key", "value"))
    out = merged(ruvector.block_sparse_attention(q, k, v, layout, size, mask=visible[:, None, None, :]))
    # hidden queries are no rows of theirs
    np.testing.assert_allclose(out[visible], theirs.numpy()[visible], rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", ((), (0,), (0, 7, 40)), ids=str)
def test_longformer_is_that_of_transformers(isa, torch, modeling, tokens):
    longformer = modeling("longformer")
    heads, length, window = 2, 64, 16
    config = longformer.LongformerConfig(
        hidden_size=24, num_attention_heads=heads, attention_window=[window], attention_probs_dropout_prob=0.0
    )
    layer = drawn(torch, longformer.LongformerSelfAttention(config, 0), "longformer")
    x = normal((1, length, 24), np.float64, "longformer x")
    shared = np.isin(np.arange(length), tokens)[None]
    with torch.no_grad():
        (theirs,) = layer(
            torch.from_numpy(x),
            attention_mask=torch.from_numpy(np.where(shared, 10000.0, 0.0)),
            is_index_masked=torch.zeros(1, length, dtype=torch.bool),
            is_index_global_attn=torch.from_numpy(shared),
            is_global_attn=bool(tokens),
        )
    local = [heads_of(projected(getattr(layer, name), x), heads) for name in ("query", "key", "value")]
    # their softmax is float32: each weight is off by a few units, of logits up to the largest
    largest = np.abs(local[0]).max() * np.abs(local[1]).max() * 12
    tolerance = (8 + 2 * largest) * 2.0**-24 * np.abs(local[2]).max()
    out = (
        merged(ruvector.longformer_attention(*local, window, tokens))
        if tokens
        else merged(ruvector.local_attention(*local, window))
    )
    np.testing.assert_allclose(out[~shared], theirs.numpy()[~shared], rtol=0, atol=tolerance)
    if tokens:
        # queries of global tokens have projections of their own, and see everything
        own = [heads_of(projected(getattr(layer, f"{name}_global"), x), heads) for name in ("query", "key", "value")]
        out = merged(ruvector.longformer_attention(*own, window, tokens))
        largest = np.abs(own[0]).max() * np.abs(own[1]).max() * 12
        np.testing.assert_allclose(
            out[shared], theirs.numpy()[shared], rtol=0, atol=(8 + 2 * largest) * 2.0**-24 * np.abs(own[2]).max()
        )


@pytest.mark.parametrize("window", (1, 5, 16, 100))
def test_sliding_windows_are_those_of_mistral(torch, modeling, window):
    modeling("mistral")
    masking = pytest.importorskip("transformers.masking_utils")
    sees = masking.sliding_window_causal_mask_function(window)
    rows, columns = torch.arange(40)[:, None], torch.arange(40)[None]
    theirs = sees(0, 0, rows, columns).numpy()
    np.testing.assert_array_equal(patterns.to_mask(patterns.sliding(window), 40), theirs)
    sees = masking.sliding_window_bidirectional_mask_function(window)
    np.testing.assert_array_equal(patterns.to_mask(patterns.local(2 * window), 40), sees(0, 0, rows, columns).numpy())


# Positions -----------------------------------------------------------------------------------------------------------


def test_interleaved_rope_is_that_of_cohere(torch, modeling):
    cohere = modeling("cohere")
    config = cohere.CohereConfig(hidden_size=96, num_attention_heads=3, max_position_embeddings=256)
    x = normal((2, 3, 100, 32), np.float32, "cohere")
    given = torch.from_numpy(x)
    cos, sin = cohere.CohereRotaryEmbedding(config)(given, torch.arange(100)[None])
    theirs, _ = cohere.apply_rotary_pos_emb(given, given, cos, sin)
    base = config.rope_parameters["rope_theta"]
    # their angles are float32: off by up to 100 units, of pairs no longer than 1.5 times the largest element
    np.testing.assert_allclose(
        ruvector.rope(x, base=base, interleaved=True),
        theirs.numpy(),
        rtol=0,
        atol=208 * 2.0**-24 * np.abs(x).max() * 1.5,
    )


@pytest.mark.parametrize("scale_base", (16.0, 512.0))
@pytest.mark.parametrize("causal", (False, True))
def test_xpos_is_that_of_local_attention(isa, torch, scale_base, causal):
    """Its decay starts from the middle of the keys, ours from the middle of the queries: products have no place to start from."""
    rotary = pytest.importorskip(
        "local_attention.rotary", reason="local-attention, the peer of this test, is not installed"
    )
    heads, dim = 3, 16
    for q_len, kv_len in ((70, 70), (9, 70)):
        q, k = (normal((2, heads, n, dim), np.float64, role, "xpos") for role, n in (("q", q_len), ("k", kv_len)))
        v = normal((2, heads, kv_len, 10), np.float64, "v", "xpos")
        embedding = rotary.SinusoidalEmbeddings(dim, scale_base=scale_base, use_xpos=True).double()
        given = [torch.from_numpy(x) for x in (q, k, v)]
        turned = rotary.apply_rotary_pos_emb(*given[:2], *embedding(given[1]))
        seen = torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len) if causal else None
        theirs = torch.nn.functional.scaled_dot_product_attention(*turned, given[2], attn_mask=seen).numpy()
        out = ruvector.xpos_attention(*map(merged, (q, k, v)), heads, scale_base=scale_base, causal=causal)
        # its frequencies and factors are rounded to float32: angles are off by up to 70 units, powers of factors by ten
        logits = (np.abs(turned[0].numpy()) @ np.abs(np.swapaxes(turned[1].numpy(), -1, -2))).max() / np.sqrt(dim)
        bound = 2 * (2 * 70 + 2 * 10) * 2.0**-24 * logits * np.abs(v).max()
        np.testing.assert_allclose(out, merged(theirs), rtol=0, atol=bound)
        assert scale_base < 100 or bound < 1e-3
        plain = ruvector.rope_attention(*map(merged, (q, k, v)), heads, causal=causal)
        assert np.abs(out - plain).max() > 2 * bound, "the decay is seen"


def test_relative_keys_are_those_of_wav2vec2_bert(isa, torch, modeling):
    """Shaw's embeddings of clipped distances, beside the keys alone."""
    bert = modeling("wav2vec2_bert")
    heads, reach = 4, 5
    config = bert.Wav2Vec2BertConfig(
        hidden_size=32,
        num_attention_heads=heads,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=reach,
        right_max_position_embeddings=reach,
        attention_dropout=0.0,
    )
    config._attn_implementation = "eager"
    layer = drawn(torch, bert.Wav2Vec2BertSelfAttention(config), "relative")
    x = normal((2, 70, 32), np.float64, "relative x")
    with torch.no_grad():
        theirs, _ = layer(torch.from_numpy(x))
    q, k, v = (projected(getattr(layer, f"linear_{name}"), x) for name in "qkv")
    table = layer.distance_embedding.weight.detach().numpy()
    out = ruvector.relative_attention(q, k, v, heads, max_distance=reach, key_embedding=table)
    np.testing.assert_allclose(projected(layer.linear_out, out), theirs.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", (4, 6, 8))
def test_alibi_is_that_of_bloom(isa, torch, modeling, heads):
    bloom = modeling("bloom")
    bias = bloom.build_alibi_tensor(torch.ones(1, 60), heads, torch.double)
    q, k, v = (normal((60, heads * 8), np.float64, role, "bloom") for role in "qkv")
    split = [torch.from_numpy(np.ascontiguousarray(heads_of(x, heads))) for x in (q, k, v)]
    future = torch.triu(torch.full((60, 60), -torch.inf, dtype=torch.double), 1)
    theirs = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=bias + future)
    # theirs between powers of two is an interpolation that the paper's text does not have
    slopes = None if heads in (4, 8) else bloom._get_alibi_slopes(heads, "cpu").numpy()
    out = ruvector.alibi_attention(q, k, v, heads, slopes=slopes, causal=True)
    # their slopes are float32, powers that are off by a few units
    np.testing.assert_allclose(out, merged(theirs.numpy()), rtol=0, atol=60 * 8 * 2.0**-24 * np.abs(v).max())


# Routers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "normalize"), (("Qwen2Moe", False), ("Qwen2Moe", True), ("Qwen3Moe", True), ("GptOss", None)), ids=str
)
def test_routers_are_those_of_transformers(isa, torch, modeling, name, normalize):
    gpt_oss = name == "GptOss"
    module = modeling({"Qwen2Moe": "qwen2_moe", "Qwen3Moe": "qwen3_moe", "GptOss": "gpt_oss"}[name])
    make = getattr(module, f"{name}TopKRouter", None)
    if make is None:
        pytest.skip(f"this transformers has no {name}TopKRouter")
    config = getattr(module, f"{name}Config")(
        hidden_size=40,
        num_experts_per_tok=3,
        **({"num_local_experts": 12} if gpt_oss else {"num_experts": 12, "norm_topk_prob": normalize}),
    )
    router = drawn(torch, make(config), name)
    x = normal((50, 40), np.float64, name, "x")
    with torch.no_grad():
        _, scores, indices = router(torch.from_numpy(x))
    weight = router.weight.detach().numpy().T
    if gpt_oss:
        bias = router.bias.detach().numpy()
        routing = ruvector.moe_route(x, 12, 3, gate=lambda tokens: tokens @ weight + bias, order="topk_softmax")
    else:
        routing = ruvector.moe_route(x, 12, 3, gate=weight, normalize=normalize)
    np.testing.assert_array_equal(routing.indices, indices.numpy())
    # Qwen's probabilities pass through float32
    np.testing.assert_allclose(routing.weights, scores.numpy(), rtol=1e-12 if gpt_oss else 1e-6)


# Linear attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", (16, 40, 64))
def test_favor_is_that_of_performer_pytorch(isa, torch, features):
    performer = pytest.importorskip(
        "performer_pytorch.performer_pytorch", reason="performer-pytorch, the peer of this test, is not installed"
    )
    q, k, v = (
        torch.from_numpy(normal((1, 2, n, width), np.float64, "favor", role))
        for role, n, width in (("q", 70, 16), ("k", 90, 16), ("v", 90, 10))
    )
    projection = ruvector.draw_features(features, 16)
    # its constant that is added to every feature is left out
    given = {"projection_matrix": torch.from_numpy(projection), "eps": 0.0}
    features_of = [performer.softmax_kernel(x, is_query=i == 0, **given) for i, x in enumerate((q, k))]
    theirs = performer.linear_attention(*features_of, v)
    out = ruvector.performer_attention(q, k, v, projection=projection)
    np.testing.assert_allclose(out, theirs.numpy(), rtol=0, atol=1e-11)


def test_the_features_of_performer_pytorch_give_the_same_attention_for_its_own_projection(isa, torch):
    performer = pytest.importorskip(
        "performer_pytorch.performer_pytorch", reason="performer-pytorch, the peer of this test, is not installed"
    )
    torch.manual_seed(int(generator("its projection").integers(2**31)))
    matrix = performer.gaussian_orthogonal_random_matrix(48, 16, scaling=0).double()
    q, k, v = (torch.from_numpy(normal((3, n, 16), np.float64, "its own", n)) for n in (30, 41, 42))
    v = v[:, 1:]
    phi = [
        performer.softmax_kernel(x[None], is_query=i == 0, projection_matrix=matrix, eps=0.0)
        for i, x in enumerate((q, k))
    ]
    theirs = performer.linear_attention(*phi, v[None])[0]
    out = ruvector.performer_attention(q, k, v, projection=matrix.numpy())
    np.testing.assert_allclose(out, theirs.numpy(), rtol=0, atol=1e-11)
