"""Other libraries, an adapter each: what they call our rows' work, with their data laid out as they like it.

An adapter runs in a process of its own, started for one number of threads (`environment` before anything is imported).
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ruvector.bench.problems import (
    Attention,
    Blocks,
    Built,
    Cache,
    Call,
    Distance,
    Dot,
    Gating,
    Graph,
    Hyperboloid,
    Linear,
    Matvec,
    Patterned,
    Problem,
    Rowwise,
    Search,
    Softmax,
    Unsupported,
    Window,
)

__all__ = ["NAMES", "Peer", "Unsupported", "environment", "load"]

# Order of the columns. Each is a module of this package with a class `Adapter`.
NAMES = (
    "numpy",
    "torch",
    "zentorch",
    "onnxruntime",
    "openvino",
    "jax",
    "numba",
    "simsimd",
    "numkong",
    "faiss",
    "torch_geometric",
    "geoopt",
)


class Peer(ABC):
    """A library: a method for each kind of row that it can do, which returns calls by label."""

    threads: int

    def __init__(self, threads: int) -> None:
        """Import the library and make it use `threads` threads; ImportError or Unsupported where that cannot be."""
        self.threads = threads

    @property
    @abstractmethod
    def version(self) -> str:
        """The library's version."""

    def attention(self, problem: Attention) -> dict[str, Call]:
        """softmax(q . k / sqrt(d)) v."""
        raise Unsupported("not one of its functions")

    def built(self, problem: Built) -> dict[str, Call]:
        """Attention of several heads with one query."""
        raise Unsupported("not one of its functions")

    def cache(self, problem: Cache) -> dict[str, Call]:
        """Append a key and a value, then attend."""
        raise Unsupported("not one of its functions")

    def linear(self, problem: Linear) -> dict[str, Call]:
        """phi(q) (phi(k)^T v) over its divisor."""
        raise Unsupported("not one of its functions")

    def window(self, problem: Window) -> dict[str, Call]:
        """Attention over the last keys up to each query."""
        raise Unsupported("not one of its functions")

    def blocks(self, problem: Blocks) -> dict[str, Call]:
        """Attention over some blocks of keys."""
        raise Unsupported("not one of its functions")

    def pattern(self, problem: Patterned) -> dict[str, Call]:
        """Attention over the keys of a pattern."""
        raise Unsupported("not one of its functions")

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        """Over the last axis."""
        raise Unsupported("not one of its functions")

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        """A query with every row of a matrix."""
        raise Unsupported("not one of its functions")

    def dot(self, problem: Dot) -> dict[str, Call]:
        """Two vectors."""
        raise Unsupported("not one of its functions")

    def distance(self, problem: Distance) -> dict[str, Call]:
        """Distances in the Poincare ball."""
        raise Unsupported("not one of its functions")

    def hyperboloid(self, problem: Hyperboloid) -> dict[str, Call]:
        """Distances on the hyperboloid."""
        raise Unsupported("not one of its functions")

    def graph(self, problem: Graph) -> dict[str, Call]:
        """A layer of graph attention on a list of edges."""
        raise Unsupported("not one of its functions")

    def rowwise(self, problem: Rowwise) -> dict[str, Call]:
        """A normalisation or an activation."""
        raise Unsupported("not one of its functions")

    def gating(self, problem: Gating) -> dict[str, Call]:
        """The two best experts of every token and their weights."""
        raise Unsupported("not one of its functions")

    def search(self, problem: Search) -> dict[str, Call]:
        """The rows with the largest products with each query."""
        raise Unsupported("not one of its functions")

    def calls(self, problem: Problem) -> dict[str, Call]:
        """What does the problem's work, by label."""
        method: Callable[[Any], dict[str, Call]] = getattr(self, problem.row.kind)
        return method(problem)


def environment(threads: int) -> dict[str, str]:
    """Variables that libraries read once, when they are loaded."""
    names = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "VECLIB")
    suffixes = {"VECLIB": "MAXIMUM_THREADS"}
    count = {f"{name}_{suffixes.get(name, 'NUM_THREADS')}": str(threads) for name in names}
    # a peer runs the kernels that it chooses for this processor itself, whatever the caller's programs are held to
    own = {name: value for name, value in os.environ.items() if name not in {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}}
    return {**own, **count, "RUVECTOR_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}


def load(name: str, threads: int) -> Peer:
    """The adapter of a library."""
    adapter: type[Peer] = importlib.import_module(f"ruvector.bench.peers.{name}").Adapter
    return adapter(threads)
