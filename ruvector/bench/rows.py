"""Every row of the benchmark with its goals: the one place where they are declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SHORT = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}

ATTENTION_PEERS = ("numpy", "torch", "zentorch", "onnxruntime", "openvino", "jax")
SOFTMAX_PEERS = ("numpy", "torch", "onnxruntime", "openvino", "jax", "numba")
DOT_PEERS = ("numpy", "torch", "simsimd", "numkong", "numba")
MATVEC_PEERS = ("numpy", "torch", "simsimd", "numkong", "faiss", "jax", "numba")
LINEAR_PEERS = ("numpy", "torch", "jax")
CACHE_PEERS = ("numpy", "torch", "zentorch", "onnxruntime")
DISTANCE_PEERS = ("numpy", "torch", "geoopt", "jax", "numba")
GRAPH_PEERS = ("numpy", "torch_geometric", "jax")
GATING_PEERS = ("numpy", "torch", "onnxruntime")
SEARCH_PEERS = ("numpy", "torch", "faiss")
SPARSE_PEERS = ("torch",)
HYPERBOLOID_PEERS = ("numpy", "geoopt", "numba")
ROWWISE_PEERS = ("numpy", "torch")


@dataclass(frozen=True)
class Goal:
    """What a row shall reach.

    Attributes
    ----------
    best : float or (float, float), optional
        Time of the best peer over ours; a pair for one thread and for several.
    torch : float, optional
        The same against PyTorch alone or, where that has no such function, PyTorch Geometric.
    peak : float, optional
        Least part of what the machine can do, of each ISA's own peak.
    """

    best: float | tuple[float, float] | None = None
    torch: float | None = None
    peak: float | None = None

    def best_for(self, threads: int) -> float | None:
        """The goal against the best peer with this number of threads."""
        return self.best[threads > 1] if isinstance(self.best, tuple) else self.best


@dataclass(frozen=True)
class Row:
    """One workload: what is computed, on what, beside whom, and how fast it shall be."""

    name: str
    group: str
    kind: str  # the class of `problems` that makes it
    sizes: Mapping[str, int]
    dtype: str = "float32"
    options: Mapping[str, bool] = field(default_factory=dict)
    goal: Goal = Goal()
    peers: tuple[str, ...] = ATTENTION_PEERS
    one_thread: bool = False  # too little work for a second one
    quick: bool = False  # part of --quick
    needs: str | None = None  # a public name without which the row does not exist
    work: tuple[float, float] | None = None  # operations (0: reading is the work) and bytes that `sizes` do not tell

    @property
    def reads(self) -> bool:
        """Whether reading the data is the work, not arithmetic on it."""
        return self.sizes.get("length", 1) == 1 if self.work is None else not self.work[0]

    @property
    def operations(self) -> float:
        """Floating-point operations of the products, those of masked-out pairs not counted; 0 for softmax, which has none."""
        s = self.sizes
        if self.work is not None:
            return self.work[0]
        if self.kind == "softmax":
            return 0.0
        if self.kind in ("dot", "matvec"):
            return 2.0 * s["keys"] * s["dim"]
        if self.kind == "linear":
            # sums over keys and products with them; for exponential features those of queries and keys too
            products = 4.0 * s["features"] * s["dim"] * (2 if self.group == "favor" else 1)
            return products * s["heads"] * s["keys"]
        pairs = s["length"] * s["keys"]
        if self.kind == "window":
            pairs = s["length"] * s["window"] - s["window"] * (s["window"] - 1) // 2
        elif self.kind == "blocks":
            pairs = s["length"] * s["block"] * s["blocks"]
        elif self.kind == "pattern":
            pairs = _pairs_of(self.group, s)
        if self.options.get("causal"):
            pairs -= s["length"] * (s["length"] - 1) // 2
        return 4.0 * s["heads"] * s["dim"] * pairs

    @property
    def bytes(self) -> float:
        """Bytes that must be read or written at least once."""
        s, item = self.sizes, {"float64": 8, "float32": 4}.get(self.dtype, 2)
        if self.work is not None:
            return self.work[1]
        if self.kind in ("attention", "built", "cache", "linear", "window", "blocks", "pattern"):
            return item * s["dim"] * (2 * s["key_heads"] * s["keys"] + 2 * s["heads"] * s["length"])
        if self.kind == "softmax":
            return 2.0 * item * s["rows"] * s["columns"]
        return item * s["dim"] * (s["keys"] + 1)

    @property
    def series(self) -> tuple[str, float]:
        """The curve that the row is a point of, and where on it."""
        s = self.sizes
        if self.kind in ("softmax", "graph", "gating", "rowwise"):
            return f"{self.group} {SHORT[self.dtype]}", float(math.prod(s.values()))
        grouped = f" {s['heads']}/{s['key_heads']} heads" if s.get("heads", 1) != s.get("key_heads", 1) else ""
        if self.options.get("causal") and self.kind == "linear":
            grouped += " causal"
        return f"{self.group} {SHORT[self.dtype]}{grouped} d={s['dim']}", s["keys"]

    @property
    def exists(self) -> bool:
        """Whether this version of the library can do it."""
        import ruvector

        return self.needs is None or hasattr(ruvector, self.needs)


def _pairs_of(group: str, s: Mapping[str, int]) -> int:
    """The pairs of a query and a key that a pattern shows, of as many queries as keys."""
    n = s["keys"]
    if group == "bigbird":
        blocks, total = n // s["block"], 0
        for b in range(blocks):
            near = {k for k in range(blocks) if abs(k - b) <= s["near"] // 2 or k < s["first"]}
            total += blocks if b < s["first"] else min(len(near) + s["random"], blocks)
        return total * s["block"] ** 2
    half, step = s["window"] // 2, s.get("step", 1)
    pairs = sum(n - step * abs(t) for t in range(-half, half + 1) if step * abs(t) < n)
    # global tokens see all and are seen by all; those pairs that the window has are not counted twice
    tokens = s.get("tokens", 0)
    near = 2 * sum(min(n, p + half + 1) - max(0, p - half) for p in range(tokens))
    both = sum(1 for p in range(tokens) for j in range(tokens) if abs(p - j) <= half)
    return pairs + 2 * n * tokens - tokens**2 - (near - both)


def _attention(
    group: str,
    heads: int,
    length: int,
    keys: int,
    dim: int,
    dtype: str = "float32",
    goal: Goal = Goal(),  # noqa: B008
    *,
    key_heads: int | None = None,
    causal: bool = False,
    peers: tuple[str, ...] = ATTENTION_PEERS,
    one_thread: bool = False,
    quick: bool = False,
    kind: str = "attention",
) -> Row:
    shared = key_heads or heads
    size = f"{heads}x{keys}x{dim}" if shared == heads else f"{heads}/{shared}x{keys}x{dim}"
    return Row(
        name=f"{group}-{SHORT[dtype]}-{size}",
        group=group,
        kind=kind,
        sizes={"heads": heads, "key_heads": shared, "length": length, "keys": keys, "dim": dim},
        dtype=dtype,
        options={"causal": causal},
        goal=goal,
        peers=peers,
        one_thread=one_thread,
        quick=quick,
        needs="KVCache" if kind == "cache" else None,
    )


def _dense() -> Iterable[Row]:
    """Self-attention, every pair and causal."""
    # NumPy and JAX hold the score matrix: 2.1 GB at 8192
    without = tuple(p for p in ATTENTION_PEERS if p not in ("numpy", "jax"))
    goals = {512: Goal(1.08, 1.25, 0.85), 1024: Goal(1.10, 1.35, 0.9), 2048: Goal(1.10, 1.35, 0.9)}
    causal = {512: Goal(2.0, 2.3), 1024: Goal(1.75, 1.85), 2048: Goal(1.45, 1.5)}
    for n in (512, 1024, 2048, 4096, 8192):
        heads, peers = 12 if n == 1024 else 8, without if n == 8192 else ATTENTION_PEERS
        dense, masked = goals.get(n, Goal(1.10, 1.35, 0.9)), causal.get(n, Goal(1.3, 1.4))
        yield _attention("dense", heads, n, n, 64, "float32", dense, peers=peers, quick=n == 512)
        yield _attention("causal", heads, n, n, 64, "float32", masked, causal=True, peers=peers, quick=n == 512)
    yield _attention("dense", 16, 2048, 2048, 128, "float32", Goal(1.06, 1.25, 0.9))
    yield _attention("causal", 16, 2048, 2048, 128, "float32", Goal(1.45, 1.5), causal=True)
    for n in (512, 2048):
        yield _attention("dense", 8, n, n, 64, "float64", Goal(None, 1.5, 0.8))
        yield _attention("causal", 8, n, n, 64, "float64", causal=True)
    half = {"bfloat16": (Goal(1.12, 2.2), Goal(1.4, 2.7)), "float16": (Goal(1.7, 1.7), Goal())}
    for dtype, (dense, masked) in half.items():
        for heads, n, dim in ((8, 512, 64), (8, 2048, 64), (8, 4096, 64), (16, 2048, 128)):
            quick = dtype == "bfloat16" and n == 512
            yield _attention("dense", heads, n, n, dim, dtype, dense, quick=quick)
            yield _attention("causal", heads, n, n, dim, dtype, masked, causal=True)
    yield _attention("causal", 32, 1024, 1024, 128, "float32", Goal(1.4, 1.65), key_heads=8, causal=True)


# What one query must reach, by type and keys; 4096 x 8 x 64 lies in the L3 cache, 32768 in memory.
_DECODE = {
    ("float32", 4096): Goal(1.6, 1.9),
    ("float32", 32768): Goal(1.25, 1.5),
    ("bfloat16", 32768): Goal(2.2, 9.0),
    ("float16", 32768): Goal(10.0, 10.0),
}
_DECODE_GROUPED = Goal(3.5, 6.0)


def _decode() -> Iterable[Row]:
    """One query: over arrays, and over a cache that grows by a key and value before each."""
    for group, kind, peers in (("decode", "attention", ATTENTION_PEERS), ("cache", "cache", CACHE_PEERS)):
        for dtype in ("float32", "bfloat16", "float16"):
            for keys in (4096, 32768):
                for dim in (64, 128):
                    goal, quick = _DECODE.get((dtype, keys), Goal()), (dtype, keys, dim) == ("float32", 4096, 64)
                    yield _attention(group, 8, 1, keys, dim, dtype, goal, peers=peers, quick=quick, kind=kind)
        for keys in (4096, 32768):
            yield _attention(group, 32, 1, keys, 128, "float32", _DECODE_GROUPED, key_heads=8, peers=peers, kind=kind)


def _sparse() -> Iterable[Row]:
    """A causal window, and blocks drawn at random; the goals are against the best of PyTorch's ways, and its masked one."""
    windows = {4096: Goal(2.4, 17.0), 16384: Goal(2.6)}
    blocks = {4096: (4, Goal(2.0, 4.5)), 16384: (8, Goal(2.0))}
    for n, goal in windows.items():
        sizes = {"heads": 8, "key_heads": 8, "length": n, "keys": n, "dim": 64, "window": 256}
        yield Row(
            name=f"window-f32-8x{n}x64-256",
            group="window",
            kind="window",
            sizes=sizes,
            goal=goal,
            peers=SPARSE_PEERS,
        )
    for n, (count, goal) in blocks.items():
        sizes = {"heads": 8, "key_heads": 8, "length": n, "keys": n, "dim": 64, "block": 128, "blocks": count}
        yield Row(
            name=f"blocks-f32-8x{n}x64-{count}of{n // 128}",
            group="blocks",
            kind="blocks",
            sizes=sizes,
            goal=goal,
            peers=SPARSE_PEERS,
            needs="sparse_attention",
        )


def _patterns() -> Iterable[Row]:
    """Patterns of which an eighth or less is seen; 0.63 of the peak is 70 % of what the dense kernel reaches."""
    for group, n, goal, own in (
        ("dilated", 4096, Goal(), {"window": 512, "step": 4}),
        ("longformer", 4096, Goal(), {"window": 512, "tokens": 16}),
        ("bigbird", 8192, Goal(None, None, 0.63), {"block": 128, "near": 3, "first": 1, "random": 4}),
    ):
        yield Row(
            name=f"{group}-f32-8x{n}x64",
            group=group,
            kind="pattern",
            sizes={"heads": 8, "key_heads": 8, "length": n, "keys": n, "dim": 64, **own},
            goal=goal,
            peers=SPARSE_PEERS,
            needs="sparse_attention",
        )


def _tiny() -> Iterable[Row]:
    """One query, few keys, one head: the cost of a call."""
    for keys in (10, 32, 128):
        for dim in (64, 128, 384, 768):
            goal = Goal()
            if keys == 10:
                goal = Goal(8.0, 15.0) if dim <= 128 else Goal(6.0, 6.0)
            elif (keys, dim) == (128, 768):
                goal = Goal(1.9, 2.3)
            quick = (keys, dim) in ((10, 64), (128, 768))
            yield _attention("tiny", 1, 1, keys, dim, "float32", goal, one_thread=True, quick=quick)


def _built() -> Iterable[Row]:
    """One query of an attention built by the SDK, whose checks add half a microsecond to the call of its type."""
    peers = ("numpy", "torch")
    yield _attention("built", 12, 1, 10, 64, peers=peers, one_thread=True, kind="built")


def _linear() -> Iterable[Row]:
    """Linear attention with elu features, also causal, and with the exponential ones of FAVOR+."""
    for group, keys, features, causal, goal in (
        ("linear", 4096, 64, False, Goal(1.9, 2.4)),
        ("linear", 65536, 64, False, Goal(3.3, 5.0)),
        ("linear", 4096, 64, True, Goal(3.2, 3.2)),
        ("favor", 4096, 256, False, Goal(5.0, 5.0)),
    ):
        yield Row(
            name=f"{group}{'-causal' if causal else ''}-f32-8x{keys}x64",
            group=group,
            kind="linear",
            sizes={"heads": 8, "key_heads": 8, "length": keys, "keys": keys, "dim": 64, "features": features},
            options={"causal": causal},
            goal=goal,
            peers=LINEAR_PEERS,
            quick=keys == 4096 and group == "linear" and not causal,
            needs="linear_attention",
        )


def _softmax() -> Iterable[Row]:
    goals = {
        (1, 1_000_000): Goal((1.5, 2.0), 2.5),
        (4096, 512): Goal(1.5, 2.2),
        (65536, 64): Goal(1.5, 2.2),
        (1, 1024): Goal(3.0, 3.0),
        (64, 1024): Goal(1.4, 2.0),
    }
    for (rows, columns), goal in goals.items():
        yield Row(
            name=f"softmax-f32-{rows}x{columns}",
            group="softmax",
            kind="softmax",
            sizes={"rows": rows, "columns": columns},
            goal=goal,
            peers=SOFTMAX_PEERS,
            quick=rows == 4096,
        )


def _dots() -> Iterable[Row]:
    yield Row(
        name="dot-f32-768",
        group="dot",
        kind="dot",
        sizes={"keys": 1, "dim": 768},
        goal=Goal(1.8, 9.0),
        peers=DOT_PEERS,
        one_thread=True,
        quick=True,
    )
    for keys in (10, 100, 1000, 10_000, 100_000):
        for dim in (64, 128, 384, 768):
            goal = Goal(1.4, 2.0) if keys <= 100 else Goal(1.12, 1.4)
            if keys == 100_000:
                goal = Goal((1.05, 1.5), 1.8) if dim >= 384 else Goal()
            yield Row(
                name=f"matvec-f32-{keys}x{dim}",
                group="matvec",
                kind="matvec",
                sizes={"keys": keys, "dim": dim},
                goal=goal,
                peers=MATVEC_PEERS,
                quick=(keys, dim) in ((100, 768), (10_000, 128)),
            )


def _distances() -> Iterable[Row]:
    """Points of the Poincare ball: one with many, and all pairs."""
    for points, keys, dim, goal in ((1, 100_000, 128, Goal(1.6, 15.0)), (1000, 1000, 64, Goal(1.7, 8.0))):
        yield Row(
            name=f"poincare-f32-{points}x{keys}x{dim}",
            group="poincare",
            kind="distance",
            sizes={"points": points, "keys": keys, "dim": dim},
            goal=goal,
            peers=DISTANCE_PEERS,
            needs="hyperbolic_distance",
            # the products that pairs are expanded into
            work=(2.0 * points * keys * dim if points > 1 else 0.0, 4.0 * dim * (keys + points) + 4.0 * points * keys),
        )


def _hyperboloid() -> Iterable[Row]:
    """Points of the hyperboloid, as those of the ball."""
    for points, keys, dim, goal in ((1, 100_000, 128, Goal(1.6)), (1000, 1000, 64, Goal(1.7))):
        yield Row(
            name=f"lorentz-f32-{points}x{keys}x{dim}",
            group="lorentz",
            kind="hyperboloid",
            sizes={"points": points, "keys": keys, "dim": dim},
            goal=goal,
            peers=HYPERBOLOID_PEERS,
            needs="lorentz_distance",
            work=(
                2.0 * points * keys * dim if points > 1 else 0.0,
                4.0 * (dim + 1) * (keys + points) + 4.0 * points * keys,
            ),
        )


def _graphs() -> Iterable[Row]:
    """A GAT layer, the projection and the sorting of edges included: 64 features, 4 heads of width 16."""
    for nodes, edges, goal in ((1000, 5000, Goal(3.0, 7.0)), (100_000, 1_000_000, Goal(9.0, 13.0))):
        yield Row(
            name=f"gat-f32-{nodes}x{edges}",
            group="gat",
            kind="graph",
            sizes={"nodes": nodes, "edges": edges},
            goal=goal,
            peers=GRAPH_PEERS,
            needs="gat",
            # features, the list of edges, a source row of 64 for each, results
            work=(0.0, 4.0 * 64 * nodes + 16.0 * edges + 4.0 * 64 * edges + 4.0 * 64 * nodes),
        )


def _gating() -> Iterable[Row]:
    """The two best experts of every token and their weights."""
    goals = {
        (512, 8): Goal(8.0, 15.0),
        (512, 64): Goal(6.0, 11.0),
        (512, 256): Goal(5.0, 11.0),
        (65536, 8): Goal(15.0, 30.0),
        (65536, 64): Goal(6.0, 15.0),
        (65536, 256): Goal(5.0, 8.0),
    }
    for (tokens, experts), goal in goals.items():
        yield Row(
            name=f"gating-f32-{tokens}x{experts}",
            group="gating",
            kind="gating",
            sizes={"tokens": tokens, "experts": experts},
            goal=goal,
            peers=GATING_PEERS,
            needs="top_k_gating",
            work=(0.0, 4.0 * tokens * experts + 2 * 12.0 * tokens),
        )


def _searches() -> Iterable[Row]:
    """The ten rows with the largest product with a query: reading the table, or, for many queries, products."""
    keys, dim = 100_000, 768
    for queries, goal in ((1, Goal(peak=0.85)), (100, Goal())):
        size = 4.0 * dim * (keys + queries)
        yield Row(
            name=f"search-f32-{queries}x{keys}x{dim}",
            group="search",
            kind="search",
            sizes={"queries": queries, "keys": keys, "dim": dim},
            goal=goal,
            peers=SEARCH_PEERS,
            needs="AttentionIndex",
            work=(2.0 * queries * keys * dim if queries > 1 else 0.0, size),
        )


def _rowwise() -> Iterable[Row]:
    """What stands between the products of a network."""
    for group in ("layer_norm", "rms_norm", "gelu", "silu"):
        for rows, columns in ((128, 384), (4096, 768)):
            yield Row(
                name=f"{group}-f32-{rows}x{columns}",
                group=group,
                kind="rowwise",
                sizes={"rows": rows, "columns": columns},
                peers=tuple(p for p in ROWWISE_PEERS if (group, p) != ("gelu", "numpy")),  # NumPy has no error function
                needs=group,
                work=(0.0, 8.0 * rows * columns),
            )


ROWS: tuple[Row, ...] = (
    *_dense(),
    *_decode(),
    *_sparse(),
    *_patterns(),
    *_tiny(),
    *_built(),
    *_linear(),
    *_softmax(),
    *_dots(),
    *_distances(),
    *_hyperboloid(),
    *_graphs(),
    *_gating(),
    *_searches(),
    *_rowwise(),
)

# What was tried where rows of a group fall short of their goals, and what bounds them (AMD Zen 5, one thread unless said).
TRIED: Mapping[str, str] = {
    "dense": (
        "Exponentials, sums and the change of layout take what the products leave. Left out: asking for tile rows ahead (0 to -8 %), "
        "2^(c s - m) in one fused step (+1 %, but a boolean mask then differs from the same additive one), the softmax of one block "
        "beside the products of the next (+1 to +2 % at width 64, -1 % at 128), scores by rows with an inner loop over the width "
        "(0 %), a shorter reduction of the exponent (0 %), blocks of 256 keys (+1 %, twice the scratch). float16 is converted and "
        "computed in float32; its goal was set beside torch."
    ),
    "causal": "Blocks that no query sees are skipped and only edges masked; for the rest see dense.",
    "decode": (
        "Reading keys and values is the work; the per cent are of a plain read. From memory rows are asked for 8 KiB ahead (16 KiB: 0 "
        "to -5 %), from afar they are read in halves (10 %). The goal for float16 was set beside "
        "torch."
    ),
    "cache": "As for decode; the cache adds one row a step.",
    "tiny": "With 10 keys of width 64 the call itself is most of the time; with more, reading rows from the nearest caches.",
    "softmax": (
        "exp within 1 unit is the work: 6 elements a nanosecond, the largest, the sum and the scaling included. Left out: asking for "
        "rows and results ahead (1 to 5 % from the last cache), chains of 16 sums in float32 (off by 8 units where one weight "
        "dominates its row)."
    ),
    "matvec": (
        "From memory rows are asked for 16 KiB ahead and read in halves: 40 GB/s instead of 31, a plain read 44. From the "
        "second-level cache asking ahead costs 20 %."
    ),
    "search": (
        "One query: as for matvec; the choice of ten takes 0.1 %. With two threads this shared machine reads 50 to 95 GB/s from memory "
        "by the hour, and a search 95 to 100 % of what is measured in the same minute. Many: sums of 12 pairs stay in registers, each to the bits of a pair "
        "alone, so that the load of a key for every product bounds it."
    ),
    "poincare": (
        "All pairs: the products are float64, near its peak, since sums in float32 are off by several units for points of "
        "equal components; differences in float32 would take as many steps."
    ),
    "lorentz": (
        "One with many: 11.3 ns a point of width 128, 3.5 of them for the sums over lanes, roots and logarithms. Sums are float64: 16 "
        "components take 4.4 cycles, most of them for widening, about as long as the last cache takes to deliver them. Left out: four "
        "points for each load of the row (0 to 4 %). numba's sums are float32. All pairs: differences in float64 take 1.2 of 1.8 ms, "
        "products and their checks took 1.4; NumPy's float32 product takes a third of that and is off by more units."
    ),
    "gat": "On the small graph NumPy's product with the weights takes about half of the time.",
    "linear": (
        "At 65,536 positions two threads take the processor time of one (83.4 and 83.7 ms) and, with both cores free, half of its time "
        "(43.9 of 85.6 ms, 1.95x; into a given array 42.2 of 83.8; causal 58.9 of 110.7): heads are shared out and no pass is serial, "
        "a fresh result costs 576 faults of huge pages (under 2 ms), and 537 MB in 43.9 ms are 12 GB/s where memory gives 43. A run "
        "with 1.0x shared the second core with other work."
    ),
    "favor": (
        "The products take 85 % of 21.9 ms: features 9.3 (231 GFLOP/s, the peak is 287), sums over keys 4.9 (217), rows of queries 4.3 "
        "(247). Exponents, the largest, powers and masses, over panels that the product has just left in the cache, take 12 %, "
        "exponentials most of it: fusing them into the product would save the loads and stores among them, by estimate less than 10 %; "
        "it was not built. At the peak the products alone would take 15.0 ms; 5x NumPy would be 13."
    ),
}

# Goals that belong to no single row.
TWO_THREADS = 1.9  # one thread's time over that of two, where one thread takes 20 ms or more over products
TWO_THREADS_FROM = 0.02
TINY_THREADS = 0.9  # the same where one thread takes less than 0.1 ms: no slower, within the noise of such short times
TINY_BELOW = 1e-4
OTHER_ISA_PEAK = (
    0.8  # part of its own peak that an ISA reaches which is not the best one here, in rows with a goal for the peak
)
GROWTH = 0.15  # what the fitted exponent of a type's cost may lie above that of its record
FIRST_CALL = 2.0  # time of a fresh process's first call over the steady one
EXTRA_BYTES_A_THREAD = 1 << 20  # memory beyond inputs and outputs


def by_name(name: str) -> Row | None:
    """The row of this name, None for one that another version had."""
    return next((row for row in ROWS if row.name == name), None)


def select(filters: Iterable[str] = (), *, quick: bool = False) -> list[Row]:
    """The rows that exist, whose name holds one of the texts (all, when there is none), or the quick ones."""
    texts = tuple(filters)
    return [
        row
        for row in ROWS
        if row.exists and (row.quick or not quick) and (not texts or any(text in row.name for text in texts))
    ]
