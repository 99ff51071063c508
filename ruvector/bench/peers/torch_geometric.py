"""PyTorch Geometric: GATConv."""

from __future__ import annotations

from functools import partial

import torch
import torch_geometric
from torch_geometric.nn import GATConv

from ruvector.bench.peers import Peer
from ruvector.bench.peers.torch import array, tensor
from ruvector.bench.problems import Call, Graph


class Adapter(Peer):
    """PyTorch Geometric."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    @property
    def version(self) -> str:
        return str(torch_geometric.__version__)

    def graph(self, problem: Graph) -> dict[str, Call]:
        layer = GATConv(problem.FEATURES, problem.WIDTH, problem.HEADS, add_self_loops=False, bias=False)
        layer.lin.weight.copy_(tensor(problem.matrix.T))
        layer.att_src.copy_(tensor(problem.a_src[None]))
        layer.att_dst.copy_(tensor(problem.a_dst[None]))
        return {"torch_geometric": Call(partial(layer, tensor(problem.x), tensor(problem.edge_index)), array)}
