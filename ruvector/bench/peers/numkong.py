"""NumKong: dot, cdist, and dots_packed over a matrix packed beforehand; it sums float32 in float64, on one thread."""

from __future__ import annotations

from functools import partial

import numkong

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Call, Dot, Matvec


class Adapter(Peer):
    """NumKong."""

    @property
    def version(self) -> str:
        return str(numkong.__version__)

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        query, packed = problem.query[None], numkong.dots_pack(problem.matrix)
        return {
            "numkong": Call(partial(numkong.cdist, query, problem.matrix, "dot")),
            "numkong packed": Call(partial(numkong.dots_packed, query, packed)),
        }

    def dot(self, problem: Dot) -> dict[str, Call]:
        return {"numkong": Call(partial(numkong.dot, problem.query, problem.vector))}
