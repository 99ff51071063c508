"""Interleaved comparison of graph attention with PyTorch Geometric, jax and NumPy: float32, 4 heads of width 16, 64 features.

    python bench/graph.py [--threads 1] [--seconds 10] [--small]

Ratios are the result: all sides alternate in one process, and each row shows the best and the median of its calls. Every timed
call is checked once. Edges come as a list; "sorted" has them as a CSRGraph. The process is bound to as many CPUs as threads.
"""

import argparse
import os
import statistics
import sys
import time

import numpy as np

HEADS, INPUTS, WIDTH = 4, 64, 16
SIZES = ((1000, 5000), (100_000, 1_000_000))


def numpy_gat(x, edge_index, w, a_src, a_dst):
    """Edges sorted by target, then one reduction a row."""
    order = np.argsort(edge_index[1], kind="stable")
    source, target = edge_index[0][order], edge_index[1][order]
    h = (x @ w.transpose(1, 0, 2).reshape(INPUTS, -1)).reshape(len(x), HEADS, WIDTH)
    logits = (h * a_src).sum(-1)[source] + (h * a_dst).sum(-1)[target]
    logits = np.where(logits > 0, logits, np.float32(0.2) * logits)
    rows, starts = np.unique(target, return_index=True)
    lengths = np.diff(np.append(starts, len(target)))
    p = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts), lengths, 0))
    p /= np.repeat(np.add.reduceat(p, starts), lengths, 0)
    out = np.zeros((len(x), HEADS, WIDTH), x.dtype)
    out[rows] = np.add.reduceat(h[source] * p[..., None], starts)
    return out.reshape(len(x), -1)


def jax_gat(x, edge_index, w, a_src, a_dst):
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None

    @jax.jit
    def attend(x, source, target, w, a_src, a_dst):
        h = (x @ w).reshape(-1, HEADS, WIDTH)
        logits = jax.nn.leaky_relu((h * a_src).sum(-1)[source] + (h * a_dst).sum(-1)[target], 0.2)
        p = jnp.exp(logits - jax.ops.segment_max(logits, target, len(x))[target])
        p = p / jax.ops.segment_sum(p, target, len(x))[target]
        return jax.ops.segment_sum(h[source] * p[..., None], target, len(x)).reshape(len(x), -1)

    w = w.transpose(1, 0, 2).reshape(INPUTS, -1)
    arrays = [jnp.asarray(a) for a in (x, *edge_index.astype(np.int32), w, a_src, a_dst)]
    return lambda: attend(*arrays).block_until_ready()


def pyg_gat(x, edge_index, w, a_src, a_dst, threads):
    try:
        import torch
        from torch_geometric.nn import GATConv
    except ImportError:
        return None
    torch.set_num_threads(threads)
    layer = GATConv(INPUTS, WIDTH, HEADS, add_self_loops=False, bias=False)
    with torch.no_grad():
        layer.lin.weight.copy_(torch.from_numpy(w.transpose(0, 2, 1).reshape(-1, INPUTS).copy()))
        layer.att_src.copy_(torch.from_numpy(a_src[None]))
        layer.att_dst.copy_(torch.from_numpy(a_dst[None]))
    x, edge_index = torch.from_numpy(x), torch.from_numpy(edge_index)

    def run():
        with torch.no_grad():
            return layer(x, edge_index)

    return run


def table(nodes, edges, threads, seconds):
    import ruvector

    rng = np.random.default_rng(0)
    x = rng.standard_normal((nodes, INPUTS), dtype=np.float32)
    w = rng.standard_normal((HEADS, INPUTS, WIDTH), dtype=np.float32) / 8
    a_src, a_dst = rng.standard_normal((2, HEADS, WIDTH), dtype=np.float32) / 4
    edge_index = rng.integers(0, nodes, (2, edges))
    arguments = x, edge_index, w, a_src, a_dst
    graph = ruvector.CSRGraph.from_coo(edge_index, nodes)
    matrix = w.transpose(1, 0, 2).reshape(INPUTS, -1)
    calls = {
        "ruvector": lambda: ruvector.gat(*arguments),
        "ruvector, sorted": lambda: ruvector.gat(x, graph, w, a_src, a_dst),
        "jax jit": jax_gat(*arguments),
        "PyG GATConv": pyg_gat(*arguments, threads),
        "NumPy": lambda: numpy_gat(*arguments),
    }
    calls = {name: call for name, call in calls.items() if call is not None}
    exact = numpy_gat(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in arguments))
    for name, call in calls.items():
        error = np.abs(np.asarray(call()) - exact).max()
        assert error < 1e-5, f"{name} is off by {error}"
    calls["the projection alone"] = lambda: x @ matrix
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["ruvector"]) < 5:
        # in another order every time: some leave threads behind that spin for a while
        for name in rng.permutation(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    print(f"\n{nodes} nodes, {edges} edges, threads: {threads}, {ruvector.isa()}")
    for name, t in times.items():
        ratio = min(t) / min(times["ruvector"])
        print(
            f"  {name:20s} best {min(t) * 1e6:10.1f} us  median {statistics.median(t) * 1e6:10.1f} us  {ratio:6.2f}x ruvector"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each table")
    parser.add_argument("--small", action="store_true", help="the small graph alone")
    options = parser.parse_args()
    if os.environ.get("RUVECTOR_BENCH_THREADS") != str(options.threads):
        # libraries read these when they are loaded: the process starts anew with them
        for name in ("OPENBLAS", "MKL", "OMP", "RUVECTOR"):
            os.environ[f"{name}_NUM_THREADS"] = str(options.threads)
        os.environ["RUVECTOR_BENCH_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    for nodes, edges in SIZES[: 1 if options.small else None]:
        table(nodes, edges, options.threads, options.seconds)


if __name__ == "__main__":
    main()
