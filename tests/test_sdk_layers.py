"""Transformer layers and models from files: float64 references, torch.nn with copied weights, and what is refused."""

import json
import textwrap

import numpy as np
import pytest
import ruvector
from ruvector import sdk
from support import check_python, generator, normal


def draw(shape, dtype, *seed):
    return normal(shape, dtype, *seed, scale=shape[0] ** -0.5 if len(shape) > 1 else 0.3)


def reference_attention(x, memory, w, heads, kv_heads, causal):
    """One sequence in float64, head by head."""
    q, k, v = (y @ w[f"w_{n}"] + w.get(f"b_{n}", 0) for y, n in ((x, "q"), (memory, "k"), (memory, "v")))
    d, dv, out = q.shape[1] // heads, v.shape[1] // kv_heads, []
    for h in range(heads):
        g = h // (heads // kv_heads)
        s = q[:, h * d : (h + 1) * d] @ k[:, g * d : (g + 1) * d].T / np.sqrt(d)
        if causal:
            s = np.where(np.tri(*s.shape, s.shape[1] - s.shape[0], dtype=bool), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        out.append(p / p.sum(-1, keepdims=True) @ v[:, g * dv : (g + 1) * dv])
    return np.concatenate(out, 1) @ w["w_o"] + w.get("b_o", 0)


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_equals_its_definition(heads, kv_heads, causal, cross, bias):
    width, memory_width, d, dv = 24, 20 if cross else 24, 5, 7
    w = {
        "w_q": draw((width, heads * d), np.float64, "q"),
        "w_k": draw((memory_width, kv_heads * d), np.float64, "k"),
        "w_v": draw((memory_width, kv_heads * dv), np.float64, "v"),
        "w_o": draw((heads * dv, 9), np.float64, "o"),
    }
    if bias:
        w |= {f"b_{n}": draw(w[f"w_{n}"].shape[1:], np.float64, "b", n) for n in "qkvo"}
    x = normal((3, 6, width), np.float64, "x")
    memory = normal((3, 8, memory_width), np.float64, "memory") if cross else x
    got = (
        sdk.AttentionBuilder(width)
        .grouped_query(heads, kv_heads)
        .causal(causal)
        .weights(**w)
        .build()(x, memory, memory)
    )
    for i in range(3):
        np.testing.assert_allclose(got[i], reference_attention(x[i], memory[i], w, heads, kv_heads, causal), atol=1e-13)


# Decoding through caches


DECODERS = {
    "multi_head": lambda: sdk.multi_head(24, 4).causal(),
    "scale": lambda: sdk.multi_head(24, 4).causal().scale(0.1),
    "softcap": lambda: sdk.AttentionBuilder(24).scaled_dot(softcap=0.5).causal(),
    "flash_v2": lambda: sdk.flash(24, 4).causal().num_heads(3),
    "grouped_query": lambda: sdk.AttentionBuilder(24).grouped_query(6, 2).causal(),
    "multi_query": lambda: sdk.AttentionBuilder(24).multi_query(6).causal(),
    "causal": lambda: sdk.AttentionBuilder(24).type("causal"),
    "rope": lambda: sdk.AttentionBuilder(24).rope(2, 1, base=100.0, rotary_dim=6, interleaved=True).causal(),
    "rotate": lambda: sdk.scaled_dot(24).num_heads(6, 2).rotate(50.0).causal(),
    "window": lambda: sdk.AttentionBuilder(24).sliding_window(4).num_heads(4, 2).rotate(50.0),
}


@pytest.mark.parametrize("steps", [[1] * 11, [5, 1, 3, 2]])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("kind", DECODERS)
def test_decoding_through_a_cache_equals_the_whole(kind, dtype, tolerance, steps):
    attention = DECODERS[kind]().init(3, dtype=dtype).build()
    x = normal((2, 11, 24), dtype, "x")
    whole, cache, at = attention(x, x, x), attention.cache(batch=2, dtype=dtype), 0
    for count in steps:
        part = x[:, at : at + count]
        got = attention(part, part, part, cache=cache)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, whole[:, at : at + count], rtol=0, atol=tolerance)
        at += count
    assert cache.length == at == 11
    alone = attention.cache(dtype=dtype)
    attention.compute(x[0, :10], x[0, :10], x[0, :10], cache=alone)
    np.testing.assert_allclose(
        attention(x[0, 10], x[0, 10:], x[0, 10:], cache=alone), whole[0, 10], rtol=0, atol=tolerance
    )


def test_each_option_of_a_decoder_has_its_effect():
    x = normal((11, 24), np.float64, "x")
    results = {
        kind: DECODERS[kind]().init(3, dtype=np.float64).build() for kind in ("multi_head", "scale", "rotate", "window")
    }
    results |= {
        "wide": sdk.AttentionBuilder(24)
        .sliding_window(5)
        .num_heads(4, 2)
        .rotate(50.0)
        .init(3, dtype=np.float64)
        .build()
    }
    found = [attention(x, x, x, cache=attention.cache(dtype=np.float64)) for attention in results.values()]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


def test_caches_that_do_not_fit_are_refused():
    x = np.ones((3, 24))
    causal = sdk.multi_head(24, 4).causal().build()
    window = sdk.AttentionBuilder(24).sliding_window(4).build()
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 8}
    for call, error, text in (
        (lambda: causal(x, x, x, cache=3), TypeError, "cache must be a KVCache, got int"),
        (
            lambda: causal(x, x, x, cache=ruvector.KVCache(4, 5)),
            ValueError,
            r"\(4, 6, 6\) and window None, got \(4, 5, 5\)",
        ),
        (lambda: window(x, x, x, cache=ruvector.KVCache(1, 24)), ValueError, "window 4, got .* and None"),
        (
            lambda: causal(x, x, x, cache=causal.cache(), mask=np.ones((3, 3), bool)),
            ValueError,
            "mask does not go with a cache",
        ),
        (lambda: causal.with_mask([True])(x, x, x, cache=causal.cache()), ValueError, "mask does not go with a cache"),
        (lambda: causal(x, x[:2], x[:2], cache=causal.cache()), ValueError, "of the same tokens"),
        (lambda: sdk.multi_head(24, 4).build().cache(), ValueError, "cache is for causal attention"),
        (
            lambda: sdk.linear(24, 8).causal().build().cache(),
            ValueError,
            "'performer' does not decode through a cache; causal, flash",
        ),
        (lambda: sdk.AttentionBuilder(24).rope(4, scaling=dynamic).causal().build().cache(), ValueError, "'dynamic'"),
    ):
        with pytest.raises(error, match=text):
            call()
    dropping = sdk.multi_head(24, 4).causal().dropout(0.1).build()
    with pytest.raises(ValueError, match="training with dropout"):
        dropping(x, x, x, cache=dropping.cache(), training=True, rng=0)
    cache = dropping.cache(dtype=np.float64)
    np.testing.assert_allclose(dropping(x, x, x, cache=cache), dropping(x, x, x), atol=1e-13)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "swiglu"])
def test_feed_forward_equals_its_definition(activation):
    w_up, w_gate, w_down = (draw(s, np.float64, i) for i, s in enumerate([(12, 30), (12, 30), (30, 10)]))
    b_up, b_down = draw((30,), np.float64, "up"), draw((10,), np.float64, "down")
    x = normal((2, 5, 12), np.float64, "x")
    up = x @ w_up + b_up
    hidden = {
        "gelu": lambda: ruvector.gelu(up),
        "gelu_tanh": lambda: ruvector.gelu(up, approximate="tanh"),
        "relu": lambda: np.where(up > 0, up, 0),
        "swiglu": lambda: ruvector.silu(x @ w_gate) * up,
    }[activation]()
    gate = w_gate if activation == "swiglu" else None
    layer = sdk.FeedForward(w_up, w_down, b_up=b_up, b_down=b_down, w_gate=gate, activation=activation)
    np.testing.assert_allclose(layer(x), hidden @ w_down + b_down, atol=1e-14)


# torch.nn with copied weights


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the peer of these tests, is not installed")


def numbers(t):
    return t.detach().numpy()


def attention_of(module, heads, causal=False):
    (w_q, w_k, w_v), (b_q, b_k, b_v) = (
        np.split(numbers(module.in_proj_weight), 3),
        np.split(numbers(module.in_proj_bias), 3),
    )
    w_o, b_o = numbers(module.out_proj.weight), numbers(module.out_proj.bias)
    weights = {"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": w_o.T, "b_q": b_q, "b_k": b_k, "b_v": b_v, "b_o": b_o}
    return sdk.multi_head(len(w_q), heads).causal(causal).weights(**weights).build()


def norm_of(module):
    return sdk.LayerNorm(numbers(module.weight), numbers(module.bias), eps=module.eps)


def network_of(module, activation):
    up, down = module.linear1, module.linear2
    return sdk.FeedForward(
        numbers(up.weight).T,
        numbers(down.weight).T,
        b_up=numbers(up.bias),
        b_down=numbers(down.bias),
        activation=activation,
    )


def shake(torch, module):
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p += torch.from_numpy(normal(tuple(p.shape), np.float32, "shake", i, scale=0.1))
    return module.eval()


@pytest.mark.peer
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_of_torch(torch, norm_first, activation):
    theirs = torch.nn.TransformerEncoderLayer(
        48, 4, 100, activation=activation, norm_first=norm_first, batch_first=True
    )
    theirs = shake(torch, theirs)
    ours = sdk.TransformerLayer(
        attention_of(theirs.self_attn, 4),
        network_of(theirs, activation),
        norm_of(theirs.norm1),
        norm_of(theirs.norm2),
        norm_first=norm_first,
    )
    x = normal((3, 11, 48), np.float32, "x")
    visible = generator("visible").random((3, 11)) < 0.7
    visible[:, 0] = True
    for mask in (None, visible):
        expected = theirs.double()(
            torch.from_numpy(x).double(), src_key_padding_mask=None if mask is None else torch.from_numpy(~mask)
        )
        theirs.float()
        got = ours(x, mask=None if mask is None else mask[:, None, None, :])
        assert got.dtype == np.float32
        seen = slice(None) if mask is None else mask
        np.testing.assert_allclose(got[seen], numbers(expected)[seen], atol=3e-6)


@pytest.mark.peer
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer_of_torch(torch, norm_first):
    theirs = torch.nn.TransformerDecoderLayer(32, 4, 64, norm_first=norm_first, batch_first=True)
    theirs = shake(torch, theirs)
    ours = sdk.TransformerLayer(
        attention_of(theirs.self_attn, 4, causal=True),
        network_of(theirs, "relu"),
        norm_of(theirs.norm1),
        norm_of(theirs.norm3),
        cross_attention=attention_of(theirs.multihead_attn, 4),
        cross_norm=norm_of(theirs.norm2),
        norm_first=norm_first,
    )
    x, memory = normal((2, 9, 32), np.float32, "x"), normal((2, 5, 32), np.float32, "memory")
    hidden = torch.triu(torch.ones(9, 9, dtype=torch.bool), 1)
    expected = theirs.double()(torch.from_numpy(x).double(), torch.from_numpy(memory).double(), tgt_mask=hidden)
    np.testing.assert_allclose(ours(x, memory), numbers(expected), atol=3e-6)


# Models from files


def write(folder, config, tensors):
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


def published(module):
    return {name: numbers(x) for name, x in module.state_dict().items()}


@pytest.fixture(scope="module")
def transformers(torch):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    return pytest.importorskip("transformers", reason="the peer of these tests is not installed")


def small(transformers, kind):
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=97, n_positions=40, n_embd=32, n_layer=3, n_head=4)
        return config, transformers.GPT2LMHeadModel(config)
    sizes = {"vocab_size": 97, "max_position_embeddings": 40}
    if kind == "distilbert":
        config = transformers.DistilBertConfig(**sizes, dim=32, n_heads=4, n_layers=3, hidden_dim=50)
        return config, transformers.DistilBertModel(config)
    sizes |= {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 50}
    if kind == "bert":
        config = transformers.BertConfig(**sizes)
        return config, transformers.BertModel(config)
    config = transformers.RobertaConfig(**sizes, pad_token_id=1)
    return config, transformers.RobertaModel(config)


@pytest.mark.peer
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_encoders_equal_those_of_transformers(torch, transformers, tmp_path, kind, prefix):
    config, theirs = small(transformers, kind)
    theirs = shake(torch, theirs)
    tensors = {(f"{kind}." if prefix else "") + name: x for name, x in published(theirs).items()}
    model = sdk.load(write(tmp_path / kind, config.to_dict(), tensors))
    ids = generator("ids").integers(2, 97, (3, 20))
    visible = np.arange(20) < np.array([[20], [13], [1]])
    ids[~visible] = 1
    options = (
        {} if kind == "distilbert" else {"token_types": generator("types").integers(0, 1 + (kind == "bert"), ids.shape)}
    )
    theirs = theirs.double()
    named = {} if kind == "distilbert" else {"token_type_ids": torch.from_numpy(options["token_types"])}
    expected = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy(visible).long(), **named)[0]
    got = model(ids, visible, **options)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[visible], numbers(expected)[visible], atol=1e-5)
    np.testing.assert_allclose(model(ids[0], **{k: v[0] for k, v in options.items()}), got[0], atol=1e-6)


LLAMAS = {
    "llama": {"num_key_value_heads": 2},
    "llama tied": {"tie_word_embeddings": True},
    "llama biases": {"num_key_value_heads": 1, "attention_bias": True, "head_dim": 10},
    "llama scaled": {
        "rope_parameters": {
            "rope_theta": 500.0,
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "mistral whole": {"sliding_window": None, "head_dim": 6},
    "qwen2": {"num_key_value_heads": 2},
    "qwen2 tied": {"tie_word_embeddings": True},
}


@pytest.mark.peer
@pytest.mark.parametrize("case", LLAMAS)
def test_llama_and_its_family_equal_those_of_transformers(torch, transformers, tmp_path, case):
    kind = case.split()[0]
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[kind]
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 50,
    }
    config = getattr(transformers, f"{name}Config")(
        **sizes, max_position_embeddings=40, attn_implementation="eager", **{"num_key_value_heads": 4, **LLAMAS[case]}
    )
    theirs = shake(torch, getattr(transformers, f"{name}ForCausalLM")(config))
    tensors = published(theirs)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    model = sdk.load(write(tmp_path / kind, config.to_dict(), tensors))
    ids = generator("ids").integers(0, 97, (2, 17))
    expected = numbers(theirs.double()(torch.from_numpy(ids))[0])
    got = model(ids)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    caches = model.caches(batch=2)
    assert caches[0].window == LLAMAS[case].get("sliding_window")
    for i in range(17):
        np.testing.assert_allclose(model(ids[:, i : i + 1], caches), got[:, i : i + 1], rtol=0, atol=1e-5)


@pytest.mark.peer
def test_gpt2_equals_that_of_transformers(torch, transformers, tmp_path):
    config, theirs = small(transformers, "gpt2")
    theirs = shake(torch, theirs)
    tensors = published(theirs)
    tensors.pop("lm_head.weight")  # tied
    model = sdk.load(write(tmp_path / "gpt2", config.to_dict(), tensors))
    ids = generator("ids").integers(0, 97, (2, 17))
    expected = theirs.double()(torch.from_numpy(ids))[0]
    np.testing.assert_allclose(model(ids), numbers(expected), atol=1e-5)


def gpt2(folder, seed=0):
    """A small GPT-2 with random weights, from a file."""
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    width, inner, shapes = 32, 128, {"wte.weight": (97, 32), "wpe.weight": (40, 32)}
    for i in range(3):
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            shapes |= {f"h.{i}.{name}.weight": (rows, columns), f"h.{i}.{name}.bias": (columns,)}
    norms = [f"h.{i}.ln_{j}" for i in range(3) for j in (1, 2)] + ["ln_f"]
    shapes |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    tensors = {name: draw(shape, np.float32, seed, name) for name, shape in shapes.items()}
    config = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 40, "vocab_size": 97}
    return write(folder, {**config, "activation_function": "gelu_new"}, tensors), config, tensors


@pytest.mark.parametrize("steps", [[1] * 12, [5, 1, 1, 3, 2], [11, 1]])
def test_decoding_through_caches_equals_the_full_forward(tmp_path, steps):
    model = sdk.load(gpt2(tmp_path / "model")[0])
    ids = generator("ids").integers(0, 97, (2, 12))
    full, caches, at = model(ids), model.caches(batch=2), 0
    for count in steps:
        part = model(ids[:, at : at + count], caches)
        np.testing.assert_allclose(part, full[:, at : at + count], atol=1e-5)
        at += count
    assert at == 12
    assert [cache.length for cache in caches] == [12] * 3


LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 50,
    "max_position_embeddings": 40,
}


def llama_tensors(bias=()):
    shapes = {"model.embed_tokens.weight": (97, 32), "lm_head.weight": (97, 32), "model.norm.weight": (32,)}
    for i in range(2):
        at = f"model.layers.{i}."
        for part, rows in (("q", 32), ("k", 16), ("v", 16), ("o", 32)):
            shapes[f"{at}self_attn.{part}_proj.weight"] = rows, 32
            if part in bias:
                shapes[f"{at}self_attn.{part}_proj.bias"] = (rows,)
        shapes |= {f"{at}mlp.{part}_proj.weight": (50, 32) for part in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (32, 50)}
        shapes |= {f"{at}{part}_layernorm.weight": (32,) for part in ("input", "post_attention")}
    return {name: draw(shape, np.float32, name) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind, change", [("llama", {}), ("mistral", {"sliding_window": 4}), ("qwen2", {})])
def test_the_family_of_llama_decodes_token_by_token(tmp_path, kind, change):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    tensors = llama_tensors("qkv" if kind == "qwen2" else "")
    model = sdk.load(write(tmp_path / kind, {**LLAMA, "model_type": kind, **change}, tensors))
    assert model.num_parameters == sum(x.size for x in tensors.values())
    ids = generator("ids").integers(0, 97, (2, 15))
    whole, caches = model(ids), model.caches(batch=2)
    for i in range(15):
        np.testing.assert_allclose(model(ids[:, i : i + 1], caches), whole[:, i : i + 1], rtol=0, atol=1e-5)
    # the last token sees the first where no window hides it: two layers of four tokens reach six back
    other = ids.copy()
    other[:, 0] += 1 - 2 * (other[:, 0] > 50)
    assert (np.abs(model(other)[:, -1] - whole[:, -1]).max() > 1e-4) == (kind != "mistral")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_weights_of_every_width(tmp_path, name):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    tensors = {k: x.astype(dtype) for k, x in llama_tensors().items()}
    ids = generator("ids").integers(0, 97, 9)
    got = sdk.load(write(tmp_path / "stored", LLAMA, tensors))(ids)
    own = np.float64 if name == "float64" else np.float32
    assert got.dtype == own
    # what is stored is read exactly
    plain = {k: x.astype(own) for k, x in tensors.items()}
    np.testing.assert_array_equal(got, sdk.load(write(tmp_path / "plain", LLAMA, plain))(ids))


def test_bfloat16_without_its_package_says_what_to_install(tmp_path):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    folder = write(tmp_path / "m", LLAMA, {k: x.astype(ml_dtypes.bfloat16) for k, x in llama_tensors().items()})
    for absent, text in (("ml_dtypes", 'the extra "bf16" installs'), ("safetensors", 'the extra "sdk" installs')):
        code = f"""
            import sys
            sys.modules[{absent!r}] = None
            from ruvector import sdk
            try:
                sdk.load({str(folder)!r})
            except ImportError as error:
                assert error.name == {absent!r}
                print(error)
        """
        assert text in check_python(textwrap.dedent(code))


def test_models_of_several_files(tmp_path):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    from safetensors.numpy import save_file

    folder, tensors = tmp_path / "model", llama_tensors()
    whole = sdk.load(write(folder, LLAMA, tensors))([1, 2, 3])
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, members in parts.items() for name in members}}))
    np.testing.assert_array_equal(sdk.load(folder)([1, 2, 3]), whole)
    (folder / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors does not exist"):
        sdk.load(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json does not name the files of a model"):
        sdk.load(folder)


def test_llamas_that_do_not_fit_are_refused_by_name(tmp_path):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    tensors = llama_tensors()
    for change, text in (
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias must be False, got True"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window must be False"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 must be divisible by num_key_value_heads 3"),
        ({"hidden_size": 30}, "hidden_size 30 must be divisible by num_attention_heads 4"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rotary positions: rope_type must be"),
        ({"rope_scaling": {"type": "linear"}}, "rotary positions: rope_type 'linear' needs factor"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 8}},
            "rope_type 'dynamic'",
        ),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, got None"),
        ({"attention_bias": True}, r"no tensor layers\.0\.self_attn\.q_proj\.bias"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a positive integer, got 0"),
        ({"num_hidden_layers": 1}, r"does not use: layers\.1\.input_layernorm"),
        ({"head_dim": 10}, r"q_proj\.weight must have shape \(40, 32\), got \(32, 32\)"),
    ):
        with pytest.raises(ValueError, match=text):
            sdk.load(write(tmp_path / "model", {**LLAMA, **change}, tensors))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype, text in (
        (np.complex64, r"norm\.weight has dtype complex64; expected float16"),
        (ml_dtypes.float8_e4m3fn, "holds a dtype that NumPy does not know: .*float8_e4m3fn"),
    ):
        other = {**tensors, "model.norm.weight": tensors["model.norm.weight"].astype(dtype)}
        with pytest.raises(ValueError, match=text):
            sdk.load(write(tmp_path / "model", LLAMA, other))


def test_generation_is_greedy(tmp_path):
    model = sdk.load(gpt2(tmp_path / "model")[0])
    start = generator("start").integers(0, 97, 4)
    ids = start.tolist()
    for _ in range(9):
        ids.append(int(model(np.array(ids))[-1].argmax()))
    assert model.generate(start, 9).tolist() == ids[4:]
    assert model.generate(np.stack([start, start]), 9).tolist() == [ids[4:]] * 2
    assert model.generate(start, 0).shape == (0,)
    with pytest.raises(ValueError, match="count must be from 0 to 36, got 37"):
        model.generate(start, 37)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    pytest.importorskip("safetensors", reason="models are read with safetensors")
    from safetensors.numpy import save_file

    folder, config, tensors = gpt2(tmp_path / "model")
    file = folder / "model.safetensors"

    def refused(changed, text):
        save_file(changed, file)
        with pytest.raises(ValueError, match=text):
            sdk.load(folder)

    refused({k: v for k, v in tensors.items() if k != "h.1.mlp.c_fc.bias"}, r"no tensor h\.1\.mlp\.c_fc\.bias")
    refused({**tensors, "h.7.extra": tensors["ln_f.bias"]}, r"does not use: h\.7\.extra")
    shorter = {**tensors, "h.0.ln_1.bias": tensors["h.0.ln_1.bias"][:-1].copy()}
    refused(shorter, r"h\.0\.ln_1\.bias must have shape \(32,\), got \(31,\)")
    file.write_bytes(b"\x10\x00\x00")
    with pytest.raises(ValueError, match="not a safetensors file"):
        sdk.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        sdk.load(folder)
    for change, text in (
        ({"model_type": "xlnet"}, "model_type must be one of bert, .*, got 'xlnet'"),
        ({"n_head": 5}, "n_embd 32 must be divisible by n_head 5"),
        ({"n_layer": 0}, "n_layer must be a positive integer, got 0"),
        ({"activation_function": "elu"}, "activation_function must be one of .*, got 'elu'"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon must be a number of at least 0, got -1"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings must be True, got False"),
    ):
        (folder / "config.json").write_text(json.dumps({"activation_function": "gelu_new", **config, **change}))
        with pytest.raises(ValueError, match=text):
            sdk.load(folder)
    for path, text in (
        (folder / "none", "none does not exist; load takes a model's folder"),
        (folder.parent, r"config\.json does not exist; a model's folder holds it"),
    ):
        with pytest.raises(FileNotFoundError, match=text):
            sdk.load(path)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        sdk.load(folder)


EYE = np.eye(4)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: sdk.LayerNorm(EYE), ValueError, "weight must have one axis"),
        (lambda: sdk.LayerNorm(EYE[0], EYE[0, :2]), ValueError, r"bias must have shape \(4,\), got \(2,\)"),
        (lambda: sdk.LayerNorm(EYE[0], eps=-1), ValueError, "eps must be at least 0, got -1"),
        (lambda: sdk.RMSNorm(EYE[0], eps=-1), ValueError, "eps must be at least 0, got -1"),
        (lambda: sdk.TransformerLayer(len, len, len, 3), TypeError, "feed_forward_norm must be callable, got 3"),
        (lambda: sdk.TransformerLayer(len, len, len, len, cross_norm=len), ValueError, "come together"),
        (lambda: sdk.TransformerLayer(len, len, len, len)(EYE, EYE), ValueError, "memory is not used"),
    ],
)
def test_layers_refuse_what_does_not_fit(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_models_refuse_ids_that_are_none(tmp_path):
    model = sdk.load(gpt2(tmp_path / "model")[0])
    for ids, error, text in (
        ([1.5], TypeError, "ids must be integers, got dtype float64"),
        ([97], IndexError, "ids must be at least 0 and less than 97, got 97"),
        ([-1], IndexError, "got -1"),
        (5, ValueError, r"ids must have shape \(\.\.\., L\) with L from 1 to 40, got \(\)"),
        ([1] * 41, ValueError, r"L from 1 to 40, got \(41,\)"),
    ):
        with pytest.raises(error, match=text):
            model(ids)
    with pytest.raises(ValueError, match="caches must be 3, one for each layer, got 1"):
        model([1], model.caches()[:1])
