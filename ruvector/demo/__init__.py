"""Semantic search over NumPy's docstrings with a real sentence encoder.

`ask` is what ``ruvector demo QUESTION`` prints: all-MiniLM-L6-v2 computed in
NumPy, every attention call in it and in the reranking through `ruvector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import ruvector
from ruvector.demo.cache import CorruptCacheError, cache_folder, cache_key, read_embeddings, write_embeddings
from ruvector.demo.corpus import Entry, numpy_docstrings
from ruvector.demo.encoder import MissingModelError, Progress, SentenceEncoder
from ruvector.demo.search import attention_weights, mutual_attention, shortlist

__all__ = [
    "Answer",
    "Entry",
    "Hit",
    "MissingModelError",
    "QueryError",
    "SentenceEncoder",
    "Stage",
    "ask",
    "numpy_docstrings",
]

# The length the model was trained with; its published limit is 256. With NumPy
# 2.4.6 one text in eleven is cut.
MAX_TOKENS = 128
SHORTLIST = 32

# Part of the cache key: raise it when the same texts would be embedded differently.
CACHE_FORMAT = "1"


class QueryError(ValueError):
    """A question that cannot be asked."""


@dataclass(frozen=True)
class Hit:
    """One result: `score` is its attention weight in the shortlist, `cosine` that of stage 1."""

    name: str
    score: float
    cosine: float
    summary: str


@dataclass(frozen=True)
class Stage:
    """One timed step of an answer."""

    name: str
    seconds: float
    detail: str


@dataclass
class Answer:
    """What `ask` found, and how."""

    query: str
    hits: list[Hit] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    shortlist: int = 0
    attention_calls: int = 0
    isa: str = ""
    threads: int = 0


def ask(
    query: str,
    *,
    top: int = 10,
    cache: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Find the NumPy functions whose docstrings answer a question.

    Parameters
    ----------
    query : str
        Plain English, cut to 128 tokens.
    top : int, default 10
        Number of results.
    cache : bool, default True
        Read and write the embeddings of the docstrings in the user's cache
        folder. They are keyed by the NumPy and ruvector versions, the model
        files and the texts.
    progress : callable, optional
        Called as ``progress(done, total)`` while the docstrings are encoded.
    note : callable, optional
        Called with a line of text before a long step, or about a cache that
        cannot be used.

    Returns
    -------
    Answer

    Raises
    ------
    MissingModelError
        If the weights or the packages that read them are not installed; the
        message says what to install.
    QueryError
        If the query holds no words or `top` is less than 1.
    """
    if top < 1:
        raise QueryError(f"top must be at least 1, got {top}")
    answer = Answer(query)

    with _timed(answer, "load model") as detail:
        encoder = SentenceEncoder.load(max_tokens=MAX_TOKENS)
        detail.append(f"all-MiniLM-L6-v2, {encoder.num_parameters / 1e6:.1f} M parameters, float32")

    with _timed(answer, "read docstrings") as detail:
        entries = numpy_docstrings()
        detail.append(f"{len(entries)} functions and classes of NumPy {np.__version__}")
    path, key = _cache_location(encoder, entries, note) if cache else (None, "")
    embeddings = None
    if path is not None:
        with _timed(answer, "read cache") as detail:
            embeddings = _read(path, key, (len(entries), encoder.dim), note)
            if embeddings is not None:
                detail.append(str(path))

    with _timed(answer, "tokenise") as detail:
        (query_ids,) = encoder.tokenize([query])
        if len(query_ids) <= 2:  # [CLS] and [SEP]
            raise QueryError(f"the query holds no words: {query!r}")
        corpus_ids = encoder.tokenize([entry.text for entry in entries]) if embeddings is None else []
        detail.append(f"{len(query_ids) + sum(map(len, corpus_ids)):,} tokens")

    if embeddings is None:
        kept = f", once; kept in {path}" if path else ""
        note(f"encoding {len(entries)} docstrings{kept}")
        with _timed(answer, "encode corpus") as detail:
            before = encoder.attention_calls
            embeddings = encoder.encode_ids(corpus_ids, progress)
            detail.append(f"{encoder.attention_calls - before} attention calls")
        if path is not None:
            _write(path, key, embeddings, note)

    with _timed(answer, "search") as detail:
        (query_tokens,) = encoder.encode_tokens([query_ids])
        rows, cosines = shortlist(encoder.pool(query_tokens), embeddings, max(SHORTLIST, top))
        detail.append(f"query against {len(entries)} embeddings")

    with _timed(answer, "rerank") as detail:
        lines = encoder.tokenize([f"{entries[row].name}: {entries[row].summary}" for row in rows])
        candidates = [tokens[1:-1] for tokens in encoder.encode_tokens(lines)]
        weights = attention_weights(mutual_attention(query_tokens[1:-1], candidates))
        order = np.argsort(-weights, kind="stable")[:top]
        detail.append(f"attention between the query and {len(rows)} summaries, both ways")

    for i in order:
        entry = entries[rows[i]]
        answer.hits.append(Hit(entry.name, float(weights[i]), float(cosines[i]), entry.summary))
    answer.shortlist = len(rows)
    answer.attention_calls = encoder.attention_calls + 2  # those of mutual_attention
    answer.isa, answer.threads = ruvector.isa(), ruvector.get_num_threads()
    return answer


@contextmanager
def _timed(answer: Answer, name: str) -> Iterator[list[str]]:
    """Record a stage, unless the block leaves its detail empty: then it came to nothing."""
    detail: list[str] = []
    start = time.perf_counter()
    yield detail
    if detail:
        answer.stages.append(Stage(name, time.perf_counter() - start, " ".join(detail)))


def _cache_location(
    encoder: SentenceEncoder, entries: list[Entry], note: Callable[[str], None]
) -> tuple[Path | None, str]:
    versions = [CACHE_FORMAT, ruvector.__version__, np.__version__, encoder.fingerprint, str(MAX_TOKENS)]
    key = cache_key(versions + [part for entry in entries for part in (entry.name, entry.text)])
    try:
        return cache_folder() / f"numpy-docstrings-{key[:16]}.npz", key
    except RuntimeError as error:  # no home folder
        note(f"no cache: {error}")
        return None, key


def _read(path: Path, key: str, shape: tuple[int, int], note: Callable[[str], None]) -> np.ndarray | None:
    try:
        return read_embeddings(path, key, shape)
    except CorruptCacheError as error:
        note(f"rebuilding the cache: {error}")
    except OSError as error:
        note(f"cannot read the cache: {error}")
    return None


def _write(path: Path, key: str, embeddings: np.ndarray, note: Callable[[str], None]) -> None:
    try:
        write_embeddings(path, key, embeddings)
    except OSError as error:
        note(f"cannot write the cache: {error}")
