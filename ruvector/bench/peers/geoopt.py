"""geoopt: the distance of its Poincare ball."""

from __future__ import annotations

from functools import partial

import geoopt
import torch

from ruvector.bench.peers import Peer
from ruvector.bench.peers.torch import array, tensor
from ruvector.bench.problems import Call, Distance, Hyperboloid


class Adapter(Peer):
    """geoopt."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    @property
    def version(self) -> str:
        return str(geoopt.__version__)

    def distance(self, problem: Distance) -> dict[str, Call]:
        points, keys = tensor(problem.points), tensor(problem.keys)
        ball = geoopt.PoincareBall()
        return {"geoopt": Call(partial(ball.dist, points[:, None], keys), array)}

    def hyperboloid(self, problem: Hyperboloid) -> dict[str, Call]:
        points, keys = tensor(problem.points), tensor(problem.keys)
        return {"geoopt": Call(partial(geoopt.Lorentz().dist, points[:, None], keys), array)}
