"""JAX: jax.nn.dot_product_attention, jax.nn.softmax and a product, jitted."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Array, Attention, Call, Distance, Graph, Linear, Matvec, Softmax, Unsupported


def _restrict(threads: int) -> None:
    """XLA has as many threads as the process may use CPUs when it starts, and no option for another number."""
    if not hasattr(os, "sched_setaffinity"):
        if threads != os.cpu_count():
            raise Unsupported("its threads follow the CPUs of the process, which cannot be restricted on this system")
        return
    usable = sorted(os.sched_getaffinity(0))
    if threads > len(usable):
        raise Unsupported(f"its threads follow the CPUs of the process: {len(usable)}")
    os.sched_setaffinity(0, usable[:threads])


class Adapter(Peer):
    """JAX."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        _restrict(threads)
        import jax

        self.jax = jax

    @property
    def version(self) -> str:
        return str(self.jax.__version__)

    def _jitted(self, function: Callable[..., Any], *arrays: Array) -> Call:
        if arrays[0].dtype == np.float64:
            raise Unsupported("no float64 without a global switch")
        inputs = [self.jax.device_put(x) for x in arrays]
        try:
            compiled = self.jax.jit(function).lower(*inputs).compile()
        except Exception as error:  # its exceptions have no common class
            raise Unsupported((str(error).splitlines() or [repr(error)])[0][:150]) from error

        def run() -> Any:
            return compiled(*inputs).block_until_ready()

        return Call(run)

    def attention(self, problem: Attention) -> dict[str, Call]:
        arrays = [x.reshape((1,) * (4 - x.ndim) + x.shape) for x in (problem.query, problem.key, problem.value)]
        by_token = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in arrays]
        call = self._jitted(partial(self.jax.nn.dot_product_attention, is_causal=problem.causal), *by_token)
        precision = "half" if problem.dtype.name == "bfloat16" else "plain"
        return {"jax": call._replace(read=lambda out: np.asarray(out).transpose(0, 2, 1, 3), precision=precision)}

    def linear(self, problem: Linear) -> dict[str, Call]:
        jax, jnp = self.jax, self.jax.numpy
        if problem.causal:
            raise Unsupported("not one of its functions")

        def features(x: Any, *, query: bool) -> Any:
            if problem.projection is None:
                return jax.nn.elu(x) + 1
            x = x * problem.dim**-0.25
            exponents = x @ jnp.asarray(problem.projection, x.dtype).T - (x * x).sum(-1, keepdims=True) / 2
            return jnp.exp(exponents - exponents.max(-1 if query else (-2, -1), keepdims=True))

        def attend(q: Any, k: Any, v: Any) -> Any:
            phi_q, phi_k = features(q, query=True), features(k, query=False)
            return (phi_q @ (phi_k.swapaxes(-1, -2) @ v)) / (phi_q @ phi_k.sum(-2)[..., None])

        return {"jax": self._jitted(attend, problem.query, problem.key, problem.value)}

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"jax": self._jitted(self.jax.nn.softmax, problem.x)}

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        return {"jax": self._jitted(lambda q, k: k @ q, problem.query, problem.matrix)}

    def distance(self, problem: Distance) -> dict[str, Call]:
        np_ = self.jax.numpy

        def one(point: Any, keys: Any) -> Any:
            gaps = (1 - (point * point).sum()) * (1 - (keys * keys).sum(-1))
            return np_.arccosh(1 + 2 * ((keys - point) ** 2).sum(-1) / gaps)

        def many(points: Any, keys: Any) -> Any:
            a, b = (points * points).sum(-1), (keys * keys).sum(-1)
            squares = np_.maximum(a[:, None] + b - 2 * (points @ keys.T), 0)
            return np_.arccosh(1 + 2 * squares / ((1 - a)[:, None] * (1 - b)))

        if len(problem.points) == 1:
            return {"jax": self._jitted(one, problem.points[0], problem.keys)}
        return {"jax": self._jitted(many, problem.points, problem.keys)}

    def graph(self, problem: Graph) -> dict[str, Call]:
        jax, nodes = self.jax, len(problem.x)

        def attend(x: Any, source: Any, target: Any, w: Any, a_src: Any, a_dst: Any) -> Any:
            h = (x @ w).reshape(-1, problem.HEADS, problem.WIDTH)
            logits = jax.nn.leaky_relu((h * a_src).sum(-1)[source] + (h * a_dst).sum(-1)[target], 0.2)
            p = jax.numpy.exp(logits - jax.ops.segment_max(logits, target, nodes)[target])
            p = p / jax.ops.segment_sum(p, target, nodes)[target]
            return jax.ops.segment_sum(h[source] * p[..., None], target, nodes).reshape(nodes, -1)

        edges = problem.edge_index.astype(np.int32)
        return {"jax": self._jitted(attend, problem.x, *edges, problem.matrix, problem.a_src, problem.a_dst)}
