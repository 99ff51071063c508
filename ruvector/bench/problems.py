"""The data of a row, the library's call, and the check of anybody's result against exact values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import ruvector
from ruvector import patterns
from ruvector.accuracy import exact
from ruvector.bench.rows import Row

Array = NDArray[Any]

SAMPLES = 12  # rows of a large result that are checked


class Call(NamedTuple):
    """What is timed, and how its result becomes an array."""

    run: Callable[[], Any]
    read: Callable[[Any], Array] = np.asarray
    precision: str = "plain"  # of `TOLERANCES`
    before: Callable[[], Any] | None = None  # not timed: the state that a block of calls starts from
    limit: int | None = None  # calls that one block may hold


class Unsupported(Exception):
    """A peer cannot do a row; the text says why."""


# What a result may be off by, by the class of the one who computed it; u is the unit of the arithmetic, n the length of
# the sums.
TOLERANCES: dict[str, tuple[str, Callable[[exact.Exact, float, int], Array]]] = {
    "bounded": (
        "the library's own bound: u max|V| (8 + 4 kappa) for attention, and 3 units of 16-bit storage",
        lambda truth, u, n: truth.bound,
    ),
    "plain": (
        "32 times its arithmetic part, and n / 64 units: the error of plain sums grows with their length",
        lambda truth, u, n: 32 * truth.arithmetic + n / 64 * u * truth.peak + truth.storage,
    ),
    "half": (
        "a quarter of its arithmetic part at the unit of bfloat16, in which logits or weights are kept",
        lambda truth, u, n: truth.arithmetic * (2.0**-8 / u / 4) + truth.storage,
    ),
}


class Check(NamedTuple):
    """The largest error of the checked elements, as a part of its tolerance; right when at most 1."""

    error: float
    share: float

    @property
    def right(self) -> bool:
        """Whether the result is within the tolerance everywhere."""
        return self.share <= 1


def dtype_of(name: str) -> np.dtype[Any]:
    """A dtype by name; bfloat16 needs ml_dtypes."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise Unsupported("ml_dtypes is not installed") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Problem(ABC):
    """A row's data, the same in every process."""

    terms: int  # of the longest sum

    def __init__(self, row: Row) -> None:
        self.row = row
        self.dtype = dtype_of(row.dtype)
        self.rng = np.random.default_rng(2026)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Independent normal numbers of the row's type."""
        if self.dtype == np.float64:
            return self.rng.standard_normal(shape) * scale
        x = self.rng.standard_normal(shape, dtype=np.float32)
        if scale != 1:
            x *= np.float32(scale)
        return x.astype(self.dtype, copy=False)

    @abstractmethod
    def ours(self) -> Call:
        """The library's own call."""

    @abstractmethod
    def truth(self) -> exact.Exact:
        """Exact values of the elements that `sample` takes."""

    @abstractmethod
    def sample(self, out: Array) -> Array:
        """The elements of a result that are checked."""

    def check(self, out: Array, precision: str) -> Check:
        """Compare a result with exact values; a wrong shape or a NaN is an infinite error."""
        truth = self.truth()
        try:
            got = exact.wide(self.sample(np.asarray(out)))
        except (IndexError, ValueError):
            return Check(np.inf, np.inf)
        if got.shape != truth.value.shape:
            return Check(np.inf, np.inf)
        with np.errstate(invalid="ignore"):
            error = np.abs(got - truth.value)
        error = np.where(np.isfinite(error), error, np.inf)
        tolerance = TOLERANCES[precision][1](truth, exact.unit(self.dtype), self.terms)
        return Check(float(error.max()), float((error / tolerance).max()))


class Attention(Problem):
    """query (1, heads, length, dim), key and value (1, key_heads, keys, dim); tiny ones without the first two axes.

    The logits' spread is 3, so that few keys carry a row: averaged over thousands of keys, a wrong result would hide in
    the tolerance of 16-bit types.
    """

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        s = row.sizes
        self.heads, self.key_heads, self.dim = s["heads"], s["key_heads"], s["dim"]
        self.length = s["length"]
        self.keys = self.terms = s["keys"]
        self.causal = bool(row.options.get("causal"))
        self.grouped = self.heads != self.key_heads
        lead = () if row.group == "tiny" else (1, self.heads)
        shared = lead and (1, self.key_heads)
        self.query = self.normal(*lead, self.length, self.dim, scale=3.0)
        self.key = self.normal(*shared, self.keys, self.dim)
        self.value = self.normal(*shared, self.keys, self.dim)
        picked = self.rng.integers(0, (self.heads, self.length), (SAMPLES, 2))
        self.rows = np.unique(np.concatenate([picked, [(0, 0), (self.heads - 1, self.length - 1)]]), axis=0)

    def ours(self) -> Call:
        options = {"is_causal": True} if self.causal else {}
        if self.grouped:
            options["enable_gqa"] = True
        attend = partial(ruvector.scaled_dot_product_attention, self.query, self.key, self.value, **options)
        return Call(attend, precision="bounded")

    def truth(self) -> exact.Exact:
        key, value = (x.reshape(self.key_heads, self.keys, self.dim) for x in (self.key, self.value))
        query = self.query.reshape(self.heads, self.length, self.dim)
        return exact.attention_rows(query, key, value, self.rows, causal=self.causal)

    def sample(self, out: Array) -> Array:
        return out.reshape(self.heads, self.length, self.dim)[self.rows[:, 0], self.rows[:, 1]]


class Cache(Attention):
    """A cache of `keys` keys and values: each call appends one more and attends to all with one query.

    A block of calls starts with a cache of `keys` entries and ends when it has grown by `ROOM`.
    """

    ROOM = 128

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.new_key = self.normal(1, self.key_heads, 1, self.dim)
        self.new_value = self.normal(1, self.key_heads, 1, self.dim)

    def ours(self) -> Call:
        cache: Any = None
        fresh = partial(
            getattr(ruvector, "KVCache"),  # noqa: B009 - the row exists only where it does
            self.key_heads,
            self.dim,
            capacity=self.keys + self.ROOM,
            dtype=self.dtype,
        )

        def start() -> None:
            nonlocal cache
            cache = fresh()
            cache.append(self.key, self.value)

        def step() -> Array:
            cache.append(self.new_key, self.new_value)
            return cache.attend(self.query)

        return Call(step, precision="bounded", before=start, limit=self.ROOM)

    def truth(self) -> exact.Exact:
        both = [np.concatenate(pair, axis=2)[0] for pair in ((self.key, self.new_key), (self.value, self.new_value))]
        return exact.attention_rows(self.query[0], *both, self.rows)


class Built(Attention):
    """One query of an attention that the SDK has built, whose heads are slices of the width; its peers have them as an axis."""

    def ours(self) -> Call:
        attention = ruvector.sdk.multi_head(self.heads * self.dim, self.heads).build()
        query, key, value = (
            np.ascontiguousarray(x[0].swapaxes(0, 1)).reshape(-1, self.heads * self.dim)
            for x in (self.query, self.key, self.value)
        )
        return Call(partial(attention.compute, query[0], key, value), precision="bounded")


class Linear(Problem):
    """query, key and value (1, heads, keys, dim) of unit variance; `projection` (features, dim) for the group "favor"."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        s = row.sizes
        self.heads, self.dim = s["heads"], s["dim"]
        self.keys = self.terms = s["keys"]
        self.causal = bool(row.options.get("causal"))
        self.query, self.key, self.value = (self.normal(1, self.heads, self.keys, self.dim) for _ in range(3))
        self.projection = ruvector.draw_features(s["features"], self.dim) if row.group == "favor" else None
        picked = self.rng.integers(0, (self.heads, self.keys), (SAMPLES, 2))
        self.rows = np.unique(np.concatenate([picked, [(0, 0), (self.heads - 1, self.keys - 1)]]), axis=0)

    def ours(self) -> Call:
        arrays = self.query, self.key, self.value
        if self.projection is None:
            return Call(partial(ruvector.linear_attention, *arrays, causal=self.causal), precision="bounded")
        attend = partial(ruvector.performer_attention, *arrays, projection=self.projection, causal=self.causal)
        return Call(attend, precision="bounded")

    def truth(self) -> exact.Exact:
        arrays = self.query[0], self.key[0], self.value[0]
        return exact.linear_rows(*arrays, self.rows, causal=self.causal, projection=self.projection)

    def sample(self, out: Array) -> Array:
        return out.reshape(self.heads, self.keys, self.dim)[self.rows[:, 0], self.rows[:, 1]]


class Sparse(Attention):
    """Attention over some of the keys: `visible` gives those of a query."""

    @abstractmethod
    def visible(self, row: int) -> Array:
        """The keys that a query sees, ascending."""

    def mask(self) -> Array:
        """What all queries see, as a matrix."""
        mask = np.zeros((self.length, self.keys), bool)
        for row in range(self.length):
            mask[row, self.visible(row)] = True
        return mask

    def truth(self) -> exact.Exact:
        parts = []
        for head, row in self.rows:
            seen = self.visible(int(row))
            one = self.query[0, head : head + 1, row : row + 1]
            key, value = (x[0][head : head + 1, seen] for x in (self.key, self.value))
            parts.append(exact.attention_rows(one, key, value, [(0, 0)]))
        return exact.Exact(
            *(np.concatenate([getattr(p, n) for p in parts]) for n in ("value", "arithmetic")),
            0.0,
            np.concatenate([p.peak for p in parts]),
        )


class Window(Sparse):
    """The last keys up to a query."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.window = row.sizes["window"]

    def visible(self, row: int) -> Array:
        return np.arange(max(0, row - self.window + 1), row + 1)

    def ours(self) -> Call:
        call = partial(ruvector.sliding_window_attention, self.query, self.key, self.value, self.window)
        return Call(call, precision="bounded")


class Blocks(Sparse):
    """As many blocks of keys for each block of queries, drawn at random."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.block = row.sizes["block"]
        count = self.keys // self.block
        order = self.rng.permuted(np.tile(np.arange(count), (self.length // self.block, 1)), axis=1)
        self.layout = np.zeros((self.length // self.block, count), bool)
        np.put_along_axis(self.layout, order[:, : row.sizes["blocks"]], True, 1)

    def visible(self, row: int) -> Array:
        return np.flatnonzero(np.repeat(self.layout[row // self.block], self.block))

    def ours(self) -> Call:
        pattern = patterns.blocks(self.layout, self.block)
        return Call(partial(ruvector.sparse_attention, self.query, self.key, self.value, pattern), precision="bounded")


class Patterned(Sparse):
    """The pattern that the row's group names: keys apart from each other, global tokens beside a window, or BigBird's blocks."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        s = row.sizes
        make: dict[str, Callable[[], Any]] = {
            "dilated": lambda: patterns.dilated(s["window"], s["step"]),
            "longformer": lambda: patterns.longformer(s["window"], s["tokens"]),
            "bigbird": lambda: patterns.bigbird(s["block"], s["near"], s["first"], s["random"]),
        }
        self.pattern = make[row.group]()

    def visible(self, row: int) -> Array:
        s, keys = self.row.sizes, np.arange(self.keys)
        if self.row.group == "dilated":
            return keys[(abs(keys - row) % s["step"] == 0) & (abs(keys - row) <= s["window"] // 2 * s["step"])]
        if self.row.group == "longformer":
            return keys[(abs(keys - row) <= s["window"] // 2) | (keys < s["tokens"]) | (row < s["tokens"])]
        # drawn: nobody else's definition to compare with
        return np.flatnonzero(patterns.to_mask(self.pattern, self.length, self.keys)[row])

    def mask(self) -> Array:
        return patterns.to_mask(self.pattern, self.length, self.keys)

    def ours(self) -> Call:
        return Call(
            partial(ruvector.sparse_attention, self.query, self.key, self.value, self.pattern), precision="bounded"
        )


class Softmax(Problem):
    """Rows of normal numbers."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.terms = row.sizes["columns"]
        self.x = self.normal(row.sizes["rows"], self.terms, scale=3.0)
        self.rows = np.unique(self.rng.integers(0, len(self.x), SAMPLES))

    def ours(self) -> Call:
        return Call(partial(ruvector.softmax, self.x), precision="bounded")

    def truth(self) -> exact.Exact:
        return exact.softmax_rows(self.x[self.rows])

    def sample(self, out: Array) -> Array:
        return out.reshape(self.x.shape)[self.rows]


class Matvec(Problem):
    """A query with each of n keys."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.terms = row.sizes["dim"]
        self.query = self.normal(self.terms)
        self.matrix = self.normal(row.sizes["keys"], self.terms)
        self.rows = np.unique(self.rng.integers(0, len(self.matrix), 50 * SAMPLES))

    def ours(self) -> Call:
        return Call(partial(ruvector.batched_dot_products, self.query, self.matrix), precision="bounded")

    def truth(self) -> exact.Exact:
        return exact.dots(self.query, self.matrix[self.rows])

    def sample(self, out: Array) -> Array:
        return out.reshape(len(self.matrix))[self.rows]


class Dot(Matvec):
    """Two vectors."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.vector = self.matrix[0]

    def ours(self) -> Call:
        return Call(partial(ruvector.dot, self.query, self.vector), precision="bounded")


class Distance(Problem):
    """Distances of points in the Poincare ball of curvature -1, at radii up to 0.9: one point with n, or m with n."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        s = row.sizes
        self.terms = s["dim"]
        self.points, self.keys = self._inside(s["points"], self.terms), self._inside(s["keys"], self.terms)
        self.pairs = self.rng.integers(0, (s["points"], s["keys"]), (50 * SAMPLES, 2))

    def _inside(self, count: int, dim: int) -> Array:
        x = self.normal(count, dim)
        radius = self.rng.uniform(0.1, 0.9, (count, 1)).astype(x.dtype)
        return x * (radius / np.linalg.norm(x, axis=-1, keepdims=True))

    def ours(self) -> Call:
        if len(self.points) == 1:
            return Call(partial(ruvector.hyperbolic_distance, self.points[0], self.keys), precision="bounded")
        return Call(partial(ruvector.hyperbolic_cdist, self.points, self.keys), precision="bounded")

    def truth(self) -> exact.Exact:
        return exact.poincare(self.points[self.pairs[:, 0]], self.keys[self.pairs[:, 1]])

    def sample(self, out: Array) -> Array:
        return out.reshape(len(self.points), len(self.keys))[self.pairs[:, 0], self.pairs[:, 1]]


class Hyperboloid(Problem):
    """Distances of points of the hyperboloid of curvature -1, time component first: one point with n, or m with n."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        s = row.sizes
        self.terms = s["dim"] + 1
        self.points, self.keys = (self._lifted(self.normal(s[n], s["dim"], scale=0.2)) for n in ("points", "keys"))
        self.pairs = self.rng.integers(0, (s["points"], s["keys"]), (50 * SAMPLES, 2))

    @staticmethod
    def _lifted(space: Array) -> Array:
        time = np.sqrt(1 + np.square(space, dtype=np.float64).sum(-1, keepdims=True)).astype(space.dtype)
        return np.concatenate([time, space], -1)

    def ours(self) -> Call:
        if len(self.points) == 1:
            return Call(partial(ruvector.lorentz_distance, self.points[0], self.keys), precision="bounded")
        return Call(partial(ruvector.lorentz_cdist, self.points, self.keys), precision="bounded")

    def truth(self) -> exact.Exact:
        return exact.lorentz(self.points[self.pairs[:, 0], 1:], self.keys[self.pairs[:, 1], 1:])

    def sample(self, out: Array) -> Array:
        return out.reshape(len(self.points), len(self.keys))[self.pairs[:, 0], self.pairs[:, 1]]


class Graph(Problem):
    """A GAT layer on a random graph whose edges come as a list; 64 features, 4 heads of width 16."""

    HEADS, FEATURES, WIDTH = 4, 64, 16

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        nodes, edges = row.sizes["nodes"], row.sizes["edges"]
        self.terms = self.FEATURES
        self.x = self.normal(nodes, self.FEATURES)
        self.w = self.normal(self.HEADS, self.FEATURES, self.WIDTH, scale=1 / 8)
        self.a_src, self.a_dst = self.normal(2, self.HEADS, self.WIDTH, scale=1 / 4)
        self.edge_index = self.rng.integers(0, nodes, (2, edges))
        self.rows = np.unique(self.rng.integers(0, nodes, SAMPLES))

    @property
    def matrix(self) -> Array:
        """All heads' projections, (features, heads * width)."""
        return self.w.transpose(1, 0, 2).reshape(self.FEATURES, -1)

    def ours(self) -> Call:
        attend = partial(ruvector.gat, self.x, self.edge_index, self.w, self.a_src, self.a_dst)
        return Call(attend, precision="bounded")

    def truth(self) -> exact.Exact:
        return exact.gat_rows(self.x, self.edge_index, self.w, self.a_src, self.a_dst, self.rows)

    def sample(self, out: Array) -> Array:
        return out.reshape(len(self.x), -1)[self.rows]


class Rowwise(Problem):
    """A normalisation or an activation, by the row's group, of normal numbers."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.group = row.group
        self.x = self.normal(row.sizes["rows"], row.sizes["columns"], scale=2.0)
        self.weight, self.bias = self.normal(1, row.sizes["columns"])[0], self.normal(1, row.sizes["columns"])[0]
        self.terms = row.sizes["columns"]
        self.rows = np.unique(self.rng.integers(0, len(self.x), SAMPLES))

    def ours(self) -> Call:
        more = {"layer_norm": (self.weight, self.bias), "rms_norm": (self.weight,)}.get(self.group, ())
        return Call(partial(getattr(ruvector, self.group), self.x, *more), precision="bounded")

    def truth(self) -> exact.Exact:
        x, w = exact.wide(self.x[self.rows]), exact.wide(self.weight)
        if self.group == "layer_norm":
            d = x - x.mean(-1, keepdims=True)
            core = d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-5) * w
            y, units = core + exact.wide(self.bias), 6 * np.abs(core)
        elif self.group == "rms_norm":
            y, units = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w, 0.0
        elif self.group == "gelu":
            y, units = x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2, 0.0
        else:
            y, units = x / (1 + np.exp(-x)), 0.0
        bound = exact.unit(self.dtype) * (units + 10 * np.abs(y)) + exact.smallest(self.dtype)
        return exact.Exact(y, bound, 0.0, np.abs(x) + np.abs(y))

    def sample(self, out: Array) -> Array:
        return out.reshape(self.x.shape)[self.rows]


class Gating(Problem):
    """The two largest logits of every token, in order, and their softmax."""

    TOP = 2

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.terms = self.TOP
        self.logits = self.normal(row.sizes["tokens"], row.sizes["experts"])
        self.rows = np.unique(self.rng.integers(0, len(self.logits), 50 * SAMPLES))

    def ours(self) -> Call:
        return Call(partial(ruvector.top_k_gating, self.logits, self.TOP), self.both, precision="bounded")

    def both(self, out: Any) -> Array:
        """(indices, weights) as the logits chosen and their weights, side by side."""
        indices, weights = (np.asarray(x) for x in out)
        return np.concatenate([np.take_along_axis(self.logits, indices, -1), weights], -1)

    def truth(self) -> exact.Exact:
        chosen = -np.sort(-self.logits[self.rows])[:, : self.TOP]
        weights = exact.softmax_rows(chosen)
        same = np.full(chosen.shape, exact.smallest(self.dtype))  # the largest themselves, not one like them
        return exact.Exact(
            np.concatenate([exact.wide(chosen), weights.value], -1),
            np.concatenate([same, weights.arithmetic], -1),
            0.0,
            np.concatenate([0 * same, weights.peak], -1),
        )

    def sample(self, out: Array) -> Array:
        return out[self.rows]


class Search(Problem):
    """The rows with the largest products with each query, in order, and these products."""

    TOP = 10

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.terms = row.sizes["dim"]
        self.queries = self.normal(row.sizes["queries"], self.terms)
        self.matrix = self.normal(row.sizes["keys"], self.terms)
        self.checked = np.arange(min(len(self.queries), 4))

    def ours(self) -> Call:
        index = ruvector.AttentionIndex(self.terms, scale=1.0, capacity=len(self.matrix))
        index.add(self.matrix)
        return Call(partial(index.search, self.queries, self.TOP, weights=None), lambda r: self.both(r[:2]), "bounded")

    def both(self, out: Any) -> Array:
        """(ids, scores) as the scores and the products of the rows that the ids name, side by side."""
        ids, scores = (np.asarray(x).reshape(len(self.queries), self.TOP) for x in out)
        named = [exact.wide(self.matrix[i]) @ exact.wide(q) for i, q in zip(ids, self.queries, strict=True)]
        return np.concatenate([scores, named], -1)

    def truth(self) -> exact.Exact:
        parts = []
        for query in self.queries[self.checked]:
            scores = np.concatenate([exact.wide(x) @ exact.wide(query) for x in np.array_split(self.matrix, 64)])
            top = exact.dots(query, self.matrix[np.argsort(-scores, kind="stable")[: self.TOP]])
            parts.append([np.tile(x, 2) for x in (top.value, top.arithmetic, top.peak)])
        value, arithmetic, peak = (np.stack(x) for x in zip(*parts, strict=True))
        return exact.Exact(value, arithmetic, 0.0, peak)

    def sample(self, out: Array) -> Array:
        return out[self.checked]


KINDS: dict[str, type[Problem]] = {
    "attention": Attention,
    "built": Built,
    "cache": Cache,
    "linear": Linear,
    "window": Window,
    "blocks": Blocks,
    "pattern": Patterned,
    "softmax": Softmax,
    "dot": Dot,
    "matvec": Matvec,
    "distance": Distance,
    "hyperboloid": Hyperboloid,
    "graph": Graph,
    "gating": Gating,
    "search": Search,
    "rowwise": Rowwise,
}


def make(row: Row) -> Problem:
    """The problem of a row."""
    return KINDS[row.kind](row)
