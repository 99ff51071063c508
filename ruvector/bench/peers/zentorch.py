"""zentorch, AMD's plug-in for PyTorch: its attention operator."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ruvector.bench.peers import Peer
from ruvector.bench.peers.torch import array, stepper, tensor
from ruvector.bench.problems import Array, Attention, Cache, Call, Unsupported


def _first(outputs: Any) -> Array:
    return array(outputs[0])


class Adapter(Peer):
    """zentorch."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        importlib.import_module("zentorch")

    @property
    def version(self) -> str:
        return importlib.metadata.version("zentorch")

    def _attend(self, problem: Attention) -> Callable[..., Any]:
        if problem.dtype.name not in ("float32", "bfloat16", "float16"):
            raise Unsupported(f"no {problem.dtype.name}")
        return partial(torch.ops.zentorch.zentorch_sdpa, is_causal=problem.causal)

    def attention(self, problem: Attention) -> dict[str, Call]:
        arrays = (problem.query, problem.key, problem.value)
        inputs = [tensor(x.reshape((1,) * (4 - x.ndim) + x.shape)) for x in arrays]
        return {"zentorch": Call(partial(self._attend(problem), *inputs), _first)}

    def cache(self, problem: Cache) -> dict[str, Call]:
        return {"zentorch": stepper(problem, self._attend(problem))._replace(read=_first)}
