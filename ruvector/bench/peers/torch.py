"""PyTorch: torch.nn.functional.scaled_dot_product_attention, softmax, mv and dot under inference_mode; for sparse rows also by
chunks, and flex_attention, compiled, where there is a C++ compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ruvector.bench.peers import Peer
from ruvector.bench.problems import (
    Array,
    Attention,
    Blocks,
    Built,
    Cache,
    Call,
    Distance,
    Dot,
    Gating,
    Linear,
    Matvec,
    Patterned,
    Rowwise,
    Search,
    Softmax,
    Sparse,
    Window,
)

# Keys above which a dense mask is not tried: 9 s a call at 16384.
MOST_MASKED = 8192


def tensor(x: Array) -> torch.Tensor:
    """A tensor on a copy of the array, bfloat16 by way of its bits."""
    x = np.array(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def array(t: torch.Tensor) -> Array:
    """An array of the tensor's values."""
    return (t.double() if t.dtype == torch.bfloat16 else t).contiguous().numpy()


def stepper(problem: Cache, attend: Callable[..., Any]) -> Call:
    """Write into tensors with room to grow, then attend over the part that is full."""
    n = problem.keys
    grown = [tensor(np.concatenate([x, x[:, :, : problem.ROOM]], axis=2)) for x in (problem.key, problem.value)]
    keys, values = grown
    query, new_key, new_value = (
        tensor(x) for x in (problem.query, problem.new_key[:, :, 0], problem.new_value[:, :, 0])
    )
    at = n

    def start() -> None:
        nonlocal at
        at = n

    def step() -> Any:
        nonlocal at
        keys[:, :, at], values[:, :, at] = new_key, new_value
        at += 1
        return attend(query, keys[:, :, :at], values[:, :, :at])

    return Call(step, array, before=start, limit=problem.ROOM)


CHUNK = 128  # keys of a chunk of the causal form: faster than 64 and 256


def elu_features(x: torch.Tensor) -> torch.Tensor:
    """elu(x) + 1."""
    return torch.nn.functional.elu(x) + 1


def favor_features(projection: torch.Tensor, x: torch.Tensor, *, query: bool) -> torch.Tensor:
    """exp(w . x - |x|^2 / 2) less the largest exponent: of a query's, of all keys'."""
    x = x * x.shape[-1] ** -0.25
    exponents = x @ projection.T - (x * x).sum(-1, keepdim=True) / 2
    return torch.exp(exponents - exponents.amax(-1 if query else (-2, -1), keepdim=True))


def linear(phi_q: torch.Tensor, phi_k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Every query over all keys."""
    divisor = phi_q @ phi_k.sum(-2).unsqueeze(-1)
    return (phi_q @ (phi_k.transpose(-1, -2) @ v)) / divisor


def causal_linear(phi_q: torch.Tensor, phi_k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """In chunks: the products within one, and the sums over those before it."""
    phi_q, phi_k, v = (x.unflatten(-2, (-1, CHUNK)) for x in (phi_q, phi_k, v))
    sums = phi_k.transpose(-1, -2) @ v
    mass = phi_k.sum(-2)
    sums, mass = sums.cumsum(-3) - sums, mass.cumsum(-2) - mass
    scores = torch.tril(phi_q @ phi_k.transpose(-1, -2))
    divisor = scores.sum(-1, keepdim=True) + phi_q @ mass.unsqueeze(-1)
    return ((scores @ v + phi_q @ sums) / divisor).flatten(-3, -2)


def in_chunks(problem: Window) -> Call:
    """Chunks of the window's length, each over itself and the one before."""
    width = problem.window
    count = problem.length // width
    query, key, value = (tensor(x) for x in (problem.query, problem.key, problem.value))
    place = torch.arange(width)[:, None] + width
    other = torch.arange(2 * width)
    mask = (other <= place) & (other > place - width)
    first = mask & (other >= width)
    masks = torch.stack([first, *[mask] * (count - 1)])[None, None]

    def run() -> Any:
        def pairs(x: torch.Tensor) -> torch.Tensor:
            chunks = x.unflatten(2, (count, width))
            before = torch.cat([chunks[:, :, :1], chunks[:, :, :-1]], 2)
            return torch.cat([before, chunks], 3)

        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query.unflatten(2, (count, width)), pairs(key), pairs(value), attn_mask=masks).flatten(2, 3)

    return Call(run, array)


def flex(problem: Sparse, visible: Callable[..., torch.Tensor]) -> dict[str, Call]:
    """flex_attention as torch.compile makes it; nothing where it cannot."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    inputs = [tensor(x) for x in (problem.query, problem.key, problem.value)]
    mask = create_block_mask(visible, None, None, problem.length, problem.keys, device="cpu")
    compiled = torch.compile(flex_attention)
    try:
        compiled(*inputs, block_mask=mask)
    except Exception:  # noqa: BLE001 - whatever a missing or old compiler does
        return {}
    return {"torch:flex": Call(partial(compiled, *inputs, block_mask=mask), array)}


class Adapter(Peer):
    """PyTorch."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    @property
    def version(self) -> str:
        return torch.__version__

    def _attend(self, problem: Attention) -> Callable[..., Any]:
        options = {"is_causal": True} if problem.causal else {}
        if problem.grouped:
            options["enable_gqa"] = True
        return partial(torch.nn.functional.scaled_dot_product_attention, **options)

    def attention(self, problem: Attention) -> dict[str, Call]:
        inputs = [tensor(x) for x in (problem.query, problem.key, problem.value)]
        return {"torch": Call(partial(self._attend(problem), *inputs), array)}

    def built(self, problem: Built) -> dict[str, Call]:
        return self.attention(problem)

    def cache(self, problem: Cache) -> dict[str, Call]:
        return {"torch": stepper(problem, self._attend(problem))}

    def linear(self, problem: Linear) -> dict[str, Call]:
        q, k, v = (tensor(x) for x in (problem.query, problem.key, problem.value))
        attend = causal_linear if problem.causal else linear
        if problem.projection is None:
            return {"torch": Call(lambda: attend(elu_features(q), elu_features(k), v), array)}
        w = tensor(problem.projection.astype(problem.dtype))
        return {
            "torch": Call(lambda: attend(favor_features(w, q, query=True), favor_features(w, k, query=False), v), array)
        }

    def _masked(self, problem: Sparse) -> dict[str, Call]:
        if problem.keys > MOST_MASKED:
            return {}
        inputs = [tensor(x) for x in (problem.query, problem.key, problem.value)]
        return {"torch": Call(partial(self._attend(problem), *inputs, attn_mask=tensor(problem.mask())), array)}

    def window(self, problem: Window) -> dict[str, Call]:
        width = problem.window
        return {
            **self._masked(problem),
            "torch:chunk": in_chunks(problem),
            **flex(problem, lambda b, h, i, j: (j <= i) & (j > i - width)),
        }

    def blocks(self, problem: Blocks) -> dict[str, Call]:
        layout, block = tensor(problem.layout), problem.block
        return {**self._masked(problem), **flex(problem, lambda b, h, i, j: layout[i // block, j // block])}

    def pattern(self, problem: Patterned) -> dict[str, Call]:
        seen = tensor(problem.mask())
        return {**self._masked(problem), **flex(problem, lambda b, h, i, j: seen[i, j])}

    def rowwise(self, problem: Rowwise) -> dict[str, Call]:
        x, w, b = tensor(problem.x), tensor(problem.weight), tensor(problem.bias)
        functional, size = torch.nn.functional, (problem.terms,)
        call = {
            "layer_norm": lambda: functional.layer_norm(x, size, w, b),
            "rms_norm": lambda: functional.rms_norm(x, size, w, 1e-6),
            "gelu": lambda: functional.gelu(x),
            "silu": lambda: functional.silu(x),
        }[problem.group]
        return {"torch": Call(call, array)}

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"torch": Call(partial(torch.softmax, tensor(problem.x), -1), array)}

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        return {"torch": Call(partial(torch.mv, tensor(problem.matrix), tensor(problem.query)), array)}

    def dot(self, problem: Dot) -> dict[str, Call]:
        return {"torch": Call(partial(torch.dot, tensor(problem.query), tensor(problem.vector)), array)}

    def distance(self, problem: Distance) -> dict[str, Call]:
        points, keys = tensor(problem.points), tensor(problem.keys)

        def run() -> torch.Tensor:
            gaps = (1 - (points * points).sum(-1))[:, None] * (1 - (keys * keys).sum(-1))
            return torch.acosh(1 + 2 * torch.cdist(points, keys) ** 2 / gaps)

        return {"torch": Call(run, array)}

    def gating(self, problem: Gating) -> dict[str, Call]:
        logits = tensor(problem.logits)

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            chosen, indices = torch.topk(logits, problem.TOP)
            return indices, torch.softmax(chosen, -1)

        return {"torch": Call(run, problem.both)}

    def search(self, problem: Search) -> dict[str, Call]:
        queries, matrix = tensor(problem.queries), tensor(problem.matrix)

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            scores, ids = torch.topk(queries @ matrix.T, problem.TOP)
            return ids, scores

        return {"torch": Call(run, problem.both)}
