"""How the error of the types that approximate attention falls with what they spend, on clustered data.

512 positions in 16 runs of 32 that have a centre each: queries and keys of 32 columns and values of 16 are the centres and noise
of a quarter of their size. Errors are the root mean square of what differs from the exact result, by that of the exact result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import ruvector

LENGTH, RUNS, WIDTH, V_WIDTH, SEED = 512, 16, 32, 16, 0
# Of the table of times: runs are as long as those of the errors.
LONG_LENGTH, LONG_WIDTH = 8192, 64

_Array = NDArray[np.float64]


class Row(NamedTuple):
    """A type, what varies, what it is compared with, and (number, error) for each number."""

    name: str
    option: str
    exact: str
    errors: tuple[tuple[int, float], ...]


class Cost(NamedTuple):
    """A type with its options: milliseconds of a call, its share of exact attention's, and the error from `exact`."""

    name: str
    options: str
    exact: str
    milliseconds: float
    ratio: float
    error: float


def data(seed: int, length: int = LENGTH, width: int = WIDTH, v_width: int = V_WIDTH) -> tuple[_Array, _Array, _Array]:
    """Queries, keys and values in clusters."""
    rng = np.random.default_rng(seed)
    run = LENGTH // RUNS
    shapes = (width, width, v_width)
    centre, of_values = rng.standard_normal((length // run, width)), rng.standard_normal((length // run, v_width))
    rows = (
        np.repeat(x, run, 0) + rng.standard_normal((length, width)) / 4
        for x, width in zip((centre, centre, of_values), shapes)
    )
    query, key, value = rows
    return query, key, value


def error(result: _Array, exact: _Array) -> float:
    """Root mean square of the difference, relative."""
    return float(np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2)))


def pooling(rank: int, length: int = LENGTH) -> _Array:
    """The projection of Linformer that takes means of segments."""
    return np.kron(np.eye(rank), np.full((1, length // rank), rank / length))


def centroids(query: _Array, key: _Array) -> _Array:
    """Routing's centroids after some steps of Lloyd's from positions spread over the sequence."""
    found = query[:: LENGTH // RUNS]
    for _ in range(5):
        found = ruvector.update_centroids(found, query, key, 0.0)
    return found


def sweeps(
    seed: int = SEED, rng: int | None = None
) -> Iterator[tuple[str, str, str, _Array, tuple[int, ...], Callable[[int], Any]]]:
    """A type, its option, what is exact and its result, the numbers to try and the call with one.

    Data are of one seed, what types draw of the other."""
    query, key, value = data(seed)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key)]
    dense = ruvector.scaled_dot_attention(query, key, value)
    softmax = "softmax attention"

    yield (
        "performer",
        "num_features",
        softmax,
        dense,
        (16, 64, 256, 1024, 4096),
        (lambda m: ruvector.performer_attention(query, key, value, m, rng=rng)),
    )
    yield (
        "random_feature",
        "num_features",
        "softmax over cosines",
        ruvector.scaled_dot_attention(*unit, value, scale=1.0),
        (16, 64, 256, 1024, 4096),
        (lambda m: ruvector.random_feature_attention(query, key, value, m, rng=rng)),
    )
    yield (
        "linformer",
        "rank, means of segments",
        softmax,
        dense,
        (4, 16, 64, 256, 512),
        (lambda m: ruvector.linformer_attention(query, key, value, key_projection=pooling(m), shared=True)),
    )
    yield (
        "nystrom",
        "num_landmarks, 8 iterations",
        softmax,
        dense,
        (4, 16, 64, 256, 512),
        (lambda m: ruvector.nystrom_attention(query, key, value, m, iterations=8)),
    )
    yield (
        "nystrom",
        "iterations, 512 landmarks",
        softmax,
        dense,
        (4, 6, 8, 12),
        (lambda m: ruvector.nystrom_attention(query, key, value, LENGTH, iterations=m)),
    )
    others = ruvector.scaled_dot_attention(query, unit[0], value, scale=2.0, mask=~np.eye(LENGTH, dtype=bool))
    yield (
        "reformer",
        "num_hashes, scale 2",
        "softmax over other keys",
        others,
        (1, 2, 4, 8, 16),
        (lambda m: ruvector.reformer_attention(query, query, value, m, scale=2.0, rng=rng)),
    )
    means = centroids(query, key)
    yield (
        "routing",
        "cluster_size, 16 clusters",
        softmax,
        dense,
        (16, 32, 64, 128, 512),
        (lambda m: ruvector.routing_attention(query, key, value, centroids=means, cluster_size=m, normalize=False)),
    )
    yield (
        "clustered",
        "num_clusters",
        softmax,
        dense,
        (4, 16, 64, 256, 512),
        (lambda m: ruvector.clustered_attention(query, key, value, m, rng=rng)),
    )
    yield (
        "clustered",
        "top_k, 16 clusters",
        softmax,
        dense,
        (0, 16, 64, 256, 512),
        (lambda m: ruvector.clustered_attention(query, key, value, 16, top_k=m, rng=rng)),
    )
    expected = ruvector.hash_based_attention(query, key, value)
    yield (
        "hash_based",
        "num_hashes",
        "the expectation",
        expected,
        (4, 16, 64, 256, 1024),
        (lambda m: ruvector.hash_based_attention(query, key, value, m, rng=rng)),
    )
    side = 16  # halves of each set, from as many runs
    slots = np.concatenate(
        [
            np.repeat(key[:: LENGTH // side, : WIDTH // 2], side, 0),
            np.tile(key[:: LENGTH // side, WIDTH // 2 :], (side, 1)),
        ],
        -1,
    )
    yield (
        "product_key",
        "top_k, a head",
        "softmax over all slots",
        ruvector.scaled_dot_attention(query, slots, value[: side * side]),
        (4, 16, 64, 128, 256),
        (lambda m: ruvector.product_key_attention(query, key[:: LENGTH // side], value[: side * side], 1, m)),
    )
    limit = ruvector.sinkhorn_attention(query, key, value, 301)
    yield (
        "sinkhorn",
        "iterations",
        "301 iterations",
        limit,
        (1, 5, 21, 51, 101),
        (lambda m: ruvector.sinkhorn_attention(query, key, value, m)),
    )


def rows(seed: int = SEED, rng: int | None = None) -> list[Row]:
    """Measures every type."""
    return [
        Row(name, option, what, tuple((m, error(call(m), exact)) for m in numbers))
        for name, option, what, exact, numbers, call in sweeps(seed, rng)
    ]


def costs(length: int = LONG_LENGTH, repeats: int = 5) -> list[Cost]:
    """Times every type that approximates attention beside exact attention, with the scales that are published."""
    query, key, value = (x.astype(np.float32) for x in data(SEED, length, LONG_WIDTH, LONG_WIDTH))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key)]
    softmax, dense = "softmax attention", ruvector.scaled_dot_attention(query, key, value)
    others = ruvector.scaled_dot_attention(query, unit[0], value, mask=~np.eye(length, dtype=bool), scale=1.0)
    cosines = ruvector.scaled_dot_attention(*unit, value, scale=1.0)
    segments = pooling(min(256, length), length).astype(np.float32)
    means = query[:: round(length**0.5)]
    for _ in range(3):
        means = ruvector.update_centroids(means, query, key, 0.0)
    expected = ruvector.hash_based_attention(query, key, value)
    side = int(length**0.5)
    half, slots = key[: side * 16 : 16], value[: side * side]
    pairs = np.concatenate(
        [np.repeat(half[:, : LONG_WIDTH // 2], side, 0), np.tile(half[:, LONG_WIDTH // 2 :], (side, 1))], -1
    )
    of_pairs = ruvector.scaled_dot_attention(query, pairs, slots, scale=1.0)
    q, k, v = query, key, value
    found: tuple[tuple[str, dict[str, Any], tuple[Any, ...], str, Any], ...] = (
        ("performer", {}, (q, k, v), softmax, dense),
        ("random_feature", {}, (q, k, v), "softmax over cosines", cosines),
        ("linformer", {"key_projection": segments, "shared": True}, (q, k, v), softmax, dense),
        ("nystrom", {"num_landmarks": 256}, (q, k, v), softmax, dense),
        ("reformer", {"scale": 1.0}, (q, q, v), "softmax over other keys", others),
        ("routing", {"centroids": means, "normalize": False}, (q, k, v), softmax, dense),
        ("clustered", {}, (q, k, v), softmax, dense),
        ("hash_based", {"num_hashes": 32}, (q, k, v), "the expectation", expected),
        ("product_key", {"num_heads": 1, "scale": 1.0}, (q, half, slots), "softmax over all slots", of_pairs),
        ("sinkhorn", {}, (q, k, v), softmax, dense),
        ("sparse_sinkhorn", {}, (q, k, v), softmax, dense),
    )
    calls: list[Callable[[], Any]] = [
        lambda name=name, arrays=arrays, own=own: ruvector.attention(*arrays, name, **own)
        for name, own, arrays, *_ in found
    ]
    calls.append(lambda: ruvector.scaled_dot_attention(query, key, value))
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return [
        Cost(
            name,
            ", ".join(f"{k}={v}" if np.ndim(v) == 0 else f"{k} {np.shape(v)}" for k, v in own.items()),
            what,
            1e3 * best[i],
            best[i] / best[-1],
            error(call(), exact),
        )
        for i, ((name, own, _, what, exact), call) in enumerate(zip(found, calls))
    ]


def document() -> str:
    """The errors as a Markdown section."""
    lines = [
        "## Errors of approximations",
        "",
        f"On {LENGTH} positions in {RUNS} runs with a centre each, queries, keys and values being the centre and noise of a quarter of "
        "its size: the root mean square of the difference from what the third column names, relative, for each number that the "
        "second column names. What is below 1e-9 is written as exact.",
        "",
        "| type | what varies | compared with | errors |",
        "|---|---|---|---|",
    ]
    for row in rows():
        shown = ", ".join(f"{m}: {'exact' if e < 1e-9 else f'{e:.2g}'}" for m, e in row.errors)
        lines.append(f"| `{row.name}` | {row.option} | {row.exact} | {shown} |")
    return "\n".join([*lines, ""])
