"""SimSIMD: dot and cdist; the latter has threads of its own."""

from __future__ import annotations

from functools import partial

import simsimd

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Call, Dot, Matvec


class Adapter(Peer):
    """SimSIMD."""

    @property
    def version(self) -> str:
        return str(simsimd.__version__)

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        # without `out`, whose use loses a reference to None a call and so ends the process (6.5.16)
        run = partial(simsimd.cdist, problem.query[None], problem.matrix, "dot", threads=self.threads)
        return {"simsimd": Call(run)}

    def dot(self, problem: Dot) -> dict[str, Call]:
        return {"simsimd": Call(partial(simsimd.dot, problem.query, problem.vector))}
