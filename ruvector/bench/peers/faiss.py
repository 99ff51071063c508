"""Faiss: its kernel of inner products, on one thread, pairwise_distances, which has many, and IndexFlatIP."""

from __future__ import annotations

from functools import partial

import faiss
import numpy as np

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Call, Matvec, Search


class Adapter(Peer):
    """Faiss."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        faiss.omp_set_num_threads(threads)

    @property
    def version(self) -> str:
        return str(faiss.__version__)

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        n, d = problem.matrix.shape
        out = np.empty(n, np.float32)
        pointers = (faiss.swig_ptr(x) for x in (out, problem.query, problem.matrix))
        kernel = partial(faiss.fvec_inner_products_ny, *pointers, d, n)
        pairwise = partial(faiss.pairwise_distances, problem.query[None], problem.matrix, faiss.METRIC_INNER_PRODUCT)
        return {"faiss kernel": Call(kernel, lambda _: out), "faiss": Call(pairwise)}

    def search(self, problem: Search) -> dict[str, Call]:
        index = faiss.IndexFlatIP(problem.terms)
        index.add(problem.matrix)
        return {"faiss": Call(partial(index.search, problem.queries, problem.TOP), lambda out: problem.both(out[::-1]))}
