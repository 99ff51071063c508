"""Published models from their files: encoders of the BERT family, and GPT-2 and the Llama family, which decode with caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ruvector import _coerce, _options
from ruvector._rotary import RopeScaling
from ruvector.sdk.builder import AttentionBuilder, multi_head
from ruvector.sdk.layers import LayerNorm, RMSNorm, TransformerLayer
from ruvector.sdk.stages import FeedForward

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class _Names(NamedTuple):
    """How a family of encoders calls its settings and tensors."""

    width: str
    heads: str
    layers: str
    hidden: str
    activation: str
    layer: str
    query: str
    key: str
    value: str
    merge: str
    merge_norm: str
    up: str
    down: str
    down_norm: str
    prefix: str
    segments: bool
    heads_left_out: tuple[str, ...]


_BERT = _Names(
    width="hidden_size",
    heads="num_attention_heads",
    layers="num_hidden_layers",
    hidden="intermediate_size",
    activation="hidden_act",
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    merge="attention.output.dense",
    merge_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
    prefix="bert.",
    segments=True,
    heads_left_out=("cls.", "pooler.", "classifier.", "qa_outputs."),
)
_ENCODERS = {
    "bert": _BERT,
    "roberta": _BERT._replace(prefix="roberta.", heads_left_out=("lm_head.", "pooler.", "classifier.", "qa_outputs.")),
    "distilbert": _BERT._replace(
        width="dim",
        heads="n_heads",
        layers="n_layers",
        hidden="hidden_dim",
        activation="activation",
        layer="transformer.layer.{}.",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        merge="attention.out_lin",
        merge_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        down_norm="output_layer_norm",
        prefix="distilbert.",
        segments=False,
        heads_left_out=("vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
    ),
}
# Decoders with Llama's names: which of a layer's projections have a bias.
_LLAMAS = {"llama": (), "mistral": (), "qwen2": ("q", "k", "v")}
_KNOWN = (*_ENCODERS, "gpt2", *_LLAMAS)


def _parts(path):
    """The files of a model: one, or those that the index beside where it would be names."""
    index = path.with_name(f"{path.name}.index.json")
    if path.is_file() or not index.is_file():
        return [path]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [path.with_name(name) for name in names]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} does not name the files of a model: {error!r}") from None


def _read(path):
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            'ruvector.sdk.load reads files with safetensors, which the extra "sdk" installs, as does: pip install safetensors',
            name="safetensors",
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    except (AttributeError, TypeError) as error:
        if "bfloat16" not in str(error):
            raise ValueError(f"{path} holds a dtype that NumPy does not know: {error}") from None
        raise ImportError(
            f'{path} holds bfloat16, which needs ml_dtypes; the extra "bf16" installs it, as does: pip install ml_dtypes',
            name="ml_dtypes",
        ) from error


class _Tensors:
    """The tensors of a file by name: each is asked for with its shape, and what nobody asked for is an error."""

    def __init__(self, path, prefix, left_out):
        self.path = path
        found = {}
        for part in _parts(path):
            found |= _read(part)
        if any(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): x for name, x in found.items()}
        # indices and masks that older versions stored; the heads of training tasks
        self.found = {
            name: x for name, x in found.items() if x.dtype.kind not in "biu" and not name.startswith(left_out)
        }
        for name, x in self.found.items():
            if not _coerce.is_floating(x.dtype):
                raise ValueError(f"{path}: {name} has dtype {x.dtype}; expected float16, bfloat16, float32 or float64")
        wide = any(x.dtype == np.float64 for x in self.found.values())
        self.dtype = np.dtype(np.float64 if wide else np.float32)
        self.size = 0

    def take(self, name, *shape):
        if name not in self.found:
            raise ValueError(f"{self.path} has no tensor {name}")
        x = self.found.pop(name)
        if x.shape != shape:
            raise ValueError(f"{self.path}: {name} must have shape {shape}, got {x.shape}")
        self.size += x.size
        x = x.astype(self.dtype, copy=False)
        # layers keep read-only arrays without a copy
        x.setflags(write=False)
        return x

    def linear(self, name, rows, columns, bias=True):
        """w (in, out) and b, None without a bias, of a layer stored as (out, in)."""
        return self.take(f"{name}.weight", columns, rows).T, self.take(f"{name}.bias", columns) if bias else None

    def columns(self, name, rows, columns):
        """The same of one stored as (in, out)."""
        return self.take(f"{name}.weight", rows, columns), self.take(f"{name}.bias", columns)

    def norm(self, name, width, eps):
        return LayerNorm(self.take(f"{name}.weight", width), self.take(f"{name}.bias", width), eps=eps)

    def rms_norm(self, name, width, eps):
        return RMSNorm(self.take(f"{name}.weight", width), eps=eps)

    def end(self):
        if self.found:
            names = ", ".join(sorted(self.found))
            raise ValueError(f"{self.path} has tensors that this model does not use: {names}")


class _Settings:
    """The entries of config.json that a model needs."""

    def __init__(self, path, values):
        self.path, self.values = path, values

    def count(self, name, default=None):
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.path}: {name} must be a positive integer, got {value!r}")
        return value

    def number(self, name, default):
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"{self.path}: {name} must be a number of at least 0, got {value!r}")
        return float(value)

    def rotation(self):
        """base and scaling of `rope`, which newer files keep together."""
        keys = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {"rope_type": "default"}
        try:
            keys = dict(keys)
            base = keys.pop("rope_theta", self.values.get("rope_theta", 10000.0))
            scaling = RopeScaling.of(keys)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: rotary positions: {error}") from None
        if scaling.rope_type == "dynamic":
            raise ValueError(f"{self.path}: rope_type 'dynamic' turns keys anew with every length, which caches do not")
        return {"base": base, "scaling": None if scaling.rope_type == "default" else scaling}

    def activation(self, name):
        value = self.values.get(name)
        if value not in _ACTIVATIONS:
            raise ValueError(f"{self.path}: {name} must be one of {', '.join(_ACTIVATIONS)}, got {value!r}")
        return _ACTIVATIONS[value]

    def flag(self, name, default):
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} must be true or false, got {value!r}")
        return value

    def only(self, name, supported):
        value = self.values.get(name, supported)
        if value != supported:
            raise ValueError(f"{self.path}: {name} must be {supported!r}, got {value!r}")


def _token_ids(ids, vocabulary, most):
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
    if ids.ndim < 1 or not 1 <= ids.shape[-1] <= most:
        raise ValueError(f"ids must have shape (..., L) with L from 1 to {most}, got {ids.shape}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):
        bad = ids[(ids < 0) | (ids >= vocabulary)][0]
        raise IndexError(f"ids must be at least 0 and less than {vocabulary}, got {bad}")
    return ids


class Encoder:
    """Token ids to vectors: embeddings and a stack of transformer layers. Made by `load`.

    Attributes
    ----------
    width, num_heads, vocabulary_size, max_tokens, num_parameters : int
    layers : tuple of TransformerLayer

    Notes
    -----
    A vector does not depend on its batch beyond the rounding of the matrix products; padding never enters it.
    """

    def __init__(self, words, positions, segments, norm, layers, *, num_heads, first_position=0, num_parameters=0):
        self._words, self._positions, self._segments, self._norm = words, positions, segments, norm
        self._first = first_position
        self.layers = tuple(layers)
        self.num_heads, self.num_parameters = num_heads, num_parameters
        self.vocabulary_size, self.width = words.shape
        self.max_tokens = len(positions) - first_position

    def __call__(self, ids, mask=None, *, token_types=None):
        """The last layer's vectors.

        Parameters
        ----------
        ids : array_like of int, shape (..., L)
        mask : array_like of bool, shape (..., L), optional
            True where there is a token; what is False is not attended to. Tokens begin at the first position.
        token_types : array_like of int, shape (..., L), optional
            Segment of each token; 0 when None.

        Returns
        -------
        ndarray, shape (..., L, width)
            Vectors of places without a token mean nothing.
        """
        ids = _token_ids(ids, self.vocabulary_size, self.max_tokens)
        length = ids.shape[-1]
        x = self._words[ids]
        x += self._positions[self._first : self._first + length]
        if self._segments is None:
            if token_types is not None:
                raise ValueError("token_types are not used by this model")
        elif token_types is None:
            x += self._segments[0]
        else:
            kinds = np.asarray(token_types)
            if kinds.shape != ids.shape or kinds.dtype.kind not in "iu":
                raise ValueError(f"token_types must be integers of shape {ids.shape}, got {kinds.dtype} {kinds.shape}")
            if kinds.size and (kinds.min() < 0 or kinds.max() >= len(self._segments)):
                raise IndexError(f"token_types must be at least 0 and less than {len(self._segments)}")
            x += self._segments[kinds]
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != ids.shape:
                raise ValueError(f"mask must be boolean of shape {ids.shape}, got {mask.dtype} {mask.shape}")
            mask = None if mask.all() else mask[..., None, None, :]
        x = self._norm(x, out=x)
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x

    def __repr__(self):
        sizes = (
            f"width={self.width}, layers={len(self.layers)}, num_heads={self.num_heads}, max_tokens={self.max_tokens}"
        )
        return f"{type(self).__name__}({sizes})"


class Decoder:
    """A causal stack: token ids to logits of the token after each. Made by `load`.

    Attributes
    ----------
    width, num_heads, vocabulary_size, max_tokens, num_parameters : int
    layers : tuple of TransformerLayer
    """

    def __init__(self, words, positions, norm, layers, *, num_heads, max_tokens, head=None, num_parameters=0):
        self._words, self._positions, self._norm = words, positions, norm
        self._head = words if head is None else head
        self.layers = tuple(layers)
        self.num_heads, self.max_tokens, self.num_parameters = num_heads, max_tokens, num_parameters
        self.vocabulary_size, self.width = words.shape

    def caches(self, *, batch=1, capacity=0, dtype=None):
        """An empty `KVCache` for each layer; `dtype` that of the weights when None."""
        dtype = self._words.dtype if dtype is None else dtype
        return [layer.attention.cache(batch=batch, capacity=capacity, dtype=dtype) for layer in self.layers]

    def __call__(self, ids, caches=None):
        """Logits, of the same tokens whether they come at once or one after the other.

        Parameters
        ----------
        ids : array_like of int, shape (batch, L) or (L,)
        caches : list of KVCache, optional
            From `caches`: the tokens before these; theirs are appended.

        Returns
        -------
        ndarray, shape (batch, L, vocabulary_size), or (L, vocabulary_size)
        """
        start = 0
        if caches is not None:
            if len(caches) != len(self.layers):
                raise ValueError(f"caches must be {len(self.layers)}, one for each layer, got {len(caches)}")
            start = caches[0].length
        if start >= self.max_tokens:
            raise ValueError(f"the caches hold {start} tokens, as many as this model has positions")
        ids = _token_ids(ids, self.vocabulary_size, self.max_tokens - start)
        x = self._words[ids]
        if self._positions is not None:
            x += self._positions[start : start + ids.shape[-1]]
        for i, layer in enumerate(self.layers):
            x = layer(x, cache=None if caches is None else caches[i])
        x = self._norm(x, out=x)
        y = _coerce.matmul(x.reshape(-1, self.width), self._head.T)
        return y.reshape(*x.shape[:-1], self.vocabulary_size)

    def generate(self, ids, count):
        """The `count` tokens that follow, each the likeliest after those before it; of equal ones the lower.

        Parameters
        ----------
        ids : array_like of int, shape (batch, L) or (L,)
        count : int

        Returns
        -------
        ndarray of int64, shape (batch, count) or (count,)
        """
        count = _options.number(count, "count", whole=True)
        ids = _token_ids(ids, self.vocabulary_size, self.max_tokens)
        if not 0 <= count <= self.max_tokens - ids.shape[-1]:
            raise ValueError(f"count must be from 0 to {self.max_tokens - ids.shape[-1]}, got {count}")
        if ids.ndim > 2:
            raise ValueError(f"ids must have shape (batch, L) or (L,), got {ids.shape}")
        caches = self.caches(batch=ids.shape[0] if ids.ndim == 2 else 1, capacity=ids.shape[-1] + count)
        out = np.empty((*ids.shape[:-1], count), np.int64)
        for i in range(count):
            ids = self(ids, caches)[..., -1:, :].argmax(-1)
            out[..., i] = ids[..., 0]
        return out

    def __repr__(self):
        sizes = (
            f"width={self.width}, layers={len(self.layers)}, num_heads={self.num_heads}, max_tokens={self.max_tokens}"
        )
        return f"{type(self).__name__}({sizes})"


def load(path):
    """A published model from its folder: ``config.json`` and ``model.safetensors``, or the files that its index names.

    Parameters
    ----------
    path : path-like
        A folder, or a file with its ``config.json`` beside it.

    Returns
    -------
    Encoder or Decoder
        By the configuration's ``model_type``: bert, roberta and distilbert are encoders (post-norm, learned positions); gpt2,
        llama, mistral (its window too) and qwen2 are decoders. float64 where a tensor of the file is, else float32.

    Raises
    ------
    ImportError
        If safetensors is not installed, or ml_dtypes for a file with bfloat16.
    FileNotFoundError
        If a file is missing.
    ValueError
        If the configuration is of another model, or a tensor is missing, misshapen or unknown: the message names it. The
        heads of training tasks (``cls``, ``lm_head``, ``pooler``, ``classifier`` ...) are left out.

    Notes
    -----
    A forward pass is 2 operations a parameter and token, nearly all of them NumPy's matrix products. safetensors maps the file
    and copies the tensors out of it; float16 and bfloat16 (with the package ml_dtypes) become float32, in twice the memory.

    Examples
    --------
    >>> from ruvector import sdk
    >>> model = sdk.load("all-MiniLM-L6-v2")  # doctest: +SKIP
    >>> model  # doctest: +SKIP
    Encoder(width=384, layers=6, num_heads=12, max_tokens=512)
    >>> model([101, 7592, 102]).shape  # doctest: +SKIP
    (3, 384)
    """
    path = Path(path)
    if not (path.exists() or path.with_name(f"{path.name}.index.json").is_file()):
        raise FileNotFoundError(f"{path} does not exist; load takes a model's folder, or a file in it")
    file = path / "model.safetensors" if path.is_dir() else path
    place = file.parent / "config.json"
    if not place.is_file():
        raise FileNotFoundError(f"{place} does not exist; a model's folder holds it beside its tensors")
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in _KNOWN:
        raise ValueError(f"{place}: model_type must be one of {', '.join(_KNOWN)}, got {kind!r}")
    settings = _Settings(place, values)
    if kind == "gpt2":
        return _gpt2(file, settings)
    return _llama(file, settings, kind) if kind in _LLAMAS else _encoder(file, settings, kind)


def _encoder(file, settings, kind):
    names = _ENCODERS[kind]
    settings.only("position_embedding_type", "absolute")
    width, heads, hidden = (settings.count(name) for name in (names.width, names.heads, names.hidden))
    depth, vocabulary = settings.count(names.layers), settings.count("vocab_size")
    places = settings.count("max_position_embeddings")
    activation, eps = settings.activation(names.activation), settings.number("layer_norm_eps", 1e-12)
    # RoBERTa counts positions from the one after its padding's
    first = int(settings.number("pad_token_id", 1)) + 1 if kind == "roberta" else 0
    if width % heads:
        raise ValueError(f"{settings.path}: {names.width} {width} must be divisible by {names.heads} {heads}")
    tensors = _Tensors(file, names.prefix, names.heads_left_out)
    words = tensors.take("embeddings.word_embeddings.weight", vocabulary, width)
    positions = tensors.take("embeddings.position_embeddings.weight", places, width)
    segments = None
    if names.segments:
        segments = tensors.take("embeddings.token_type_embeddings.weight", settings.count("type_vocab_size"), width)
    norm = tensors.norm("embeddings.LayerNorm", width, eps)
    layers = []
    for i in range(depth):
        at = names.layer.format(i)
        (w_q, b_q), (w_k, b_k), (w_v, b_v), (w_o, b_o) = (
            tensors.linear(at + name, width, width) for name in (names.query, names.key, names.value, names.merge)
        )
        weights = {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o, "b_q": b_q, "b_k": b_k, "b_v": b_v, "b_o": b_o}
        attention = multi_head(width, heads).weights(**weights).build()
        w_up, b_up = tensors.linear(at + names.up, width, hidden)
        w_down, b_down = tensors.linear(at + names.down, hidden, width)
        network = FeedForward(w_up, w_down, b_up=b_up, b_down=b_down, activation=activation)
        norms = (tensors.norm(at + name, width, eps) for name in (names.merge_norm, names.down_norm))
        layers.append(TransformerLayer(attention, network, *norms))
    tensors.end()
    return Encoder(
        words, positions, segments, norm, layers, num_heads=heads, first_position=first, num_parameters=tensors.size
    )


def _gpt2(file, settings):
    for name, supported in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("tie_word_embeddings", True),
        ("add_cross_attention", False),
    ):
        settings.only(name, supported)
    width, heads, depth = settings.count("n_embd"), settings.count("n_head"), settings.count("n_layer")
    places, vocabulary = settings.count("n_positions"), settings.count("vocab_size")
    hidden = 4 * width if settings.values.get("n_inner") is None else settings.count("n_inner")
    activation, eps = settings.activation("activation_function"), settings.number("layer_norm_epsilon", 1e-5)
    if width % heads:
        raise ValueError(f"{settings.path}: n_embd {width} must be divisible by n_head {heads}")
    tensors = _Tensors(file, "transformer.", ("lm_head.",))
    for i in range(depth):  # masks of older versions, stored as numbers
        for name in (f"h.{i}.attn.bias", f"h.{i}.attn.masked_bias"):
            tensors.found.pop(name, None)
    words, positions = tensors.take("wte.weight", vocabulary, width), tensors.take("wpe.weight", places, width)
    layers = []
    for i in range(depth):
        at = f"h.{i}."
        w, b = tensors.columns(at + "attn.c_attn", width, 3 * width)
        w_o, b_o = tensors.columns(at + "attn.c_proj", width, width)
        (w_q, w_k, w_v), (b_q, b_k, b_v) = np.split(w, 3, axis=1), np.split(b, 3)
        weights = {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o, "b_q": b_q, "b_k": b_k, "b_v": b_v, "b_o": b_o}
        attention = multi_head(width, heads).causal().weights(**weights).build()
        w_up, b_up = tensors.columns(at + "mlp.c_fc", width, hidden)
        w_down, b_down = tensors.columns(at + "mlp.c_proj", hidden, width)
        network = FeedForward(w_up, w_down, b_up=b_up, b_down=b_down, activation=activation)
        norms = (tensors.norm(at + name, width, eps) for name in ("ln_1", "ln_2"))
        layers.append(TransformerLayer(attention, network, *norms, norm_first=True))
    norm = tensors.norm("ln_f", width, eps)
    tensors.end()
    return Decoder(words, positions, norm, layers, num_heads=heads, max_tokens=places, num_parameters=tensors.size)


def _llama(file, settings, kind):
    supported = {"hidden_act": "silu", "mlp_bias": False, "partial_rotary_factor": 1.0}
    if kind == "qwen2":
        supported["use_sliding_window"] = False
    for name, value in supported.items():
        settings.only(name, value)
    width, heads, depth = (settings.count(f) for f in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    hidden, vocabulary = settings.count("intermediate_size"), settings.count("vocab_size")
    places, kv_heads = settings.count("max_position_embeddings"), settings.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(
            f"{settings.path}: num_attention_heads {heads} must be divisible by num_key_value_heads {kv_heads}"
        )
    if settings.values.get("head_dim") is None and width % heads:
        raise ValueError(f"{settings.path}: hidden_size {width} must be divisible by num_attention_heads {heads}")
    inner, narrow = (n * settings.count("head_dim", width // heads) for n in (heads, kv_heads))
    eps, tied = settings.number("rms_norm_eps", 1e-6), settings.flag("tie_word_embeddings", False)
    biased = "qkvo" if settings.flag("attention_bias", False) else _LLAMAS[kind]
    rotation = settings.rotation()
    if kind == "mistral" and settings.values.get("sliding_window") is not None:
        builder = AttentionBuilder(width).sliding_window(settings.count("sliding_window"))
        builder = builder.num_heads(heads, kv_heads).rotate(**rotation)
    else:
        builder = AttentionBuilder(width).rope(heads, kv_heads, **rotation).causal()
    tensors = _Tensors(file, "model.", ("lm_head.",) if tied else ())
    for i in range(depth):  # frequencies that older versions stored
        tensors.found.pop(f"layers.{i}.self_attn.rotary_emb.inv_freq", None)
    words = tensors.take("embed_tokens.weight", vocabulary, width)
    layers = []
    for i in range(depth):
        at = f"layers.{i}."
        weights = {}
        for part, rows, columns in (
            ("q", width, inner),
            ("k", width, narrow),
            ("v", width, narrow),
            ("o", inner, width),
        ):
            found = tensors.linear(f"{at}self_attn.{part}_proj", rows, columns, part in biased)
            weights[f"w_{part}"], weights[f"b_{part}"] = found
        (w_gate, _), (w_up, _) = (tensors.linear(f"{at}mlp.{f}_proj", width, hidden, False) for f in ("gate", "up"))
        w_down, _ = tensors.linear(f"{at}mlp.down_proj", hidden, width, False)
        network = FeedForward(w_up, w_down, w_gate=w_gate, activation="swiglu")
        norms = (tensors.rms_norm(at + f, width, eps) for f in ("input_layernorm", "post_attention_layernorm"))
        layers.append(TransformerLayer(builder.weights(**weights).build(), network, *norms, norm_first=True))
    norm = tensors.rms_norm("norm", width, eps)
    head = None if tied else tensors.take("lm_head.weight", vocabulary, width)
    tensors.end()
    sizes = {"num_heads": heads, "max_tokens": places, "num_parameters": tensors.size}
    return Decoder(words, None, norm, layers, head=head, **sizes)
