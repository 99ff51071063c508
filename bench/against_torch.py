"""Interleaved comparison with torch and NumPy: fused attention on one thread, and the cost of a call.

    python bench/against_torch.py [--seconds 5]

Ratios are the result: both sides alternate in one process, and each row shows the best and the median of its calls. Every
timed call is checked once against float64.
"""

import argparse
import statistics
import time

import numpy as np

import ruvector

try:
    import torch
except ImportError:
    torch = None


CALLS = 200  # of a short function between two readings of the clock


def interleave(calls, seconds):
    """{name: call} -> {name: sorted times}, the calls in turn until the time is up."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: sorted(t) for name, t in times.items()}


def exact(query, key, value, rows, causal):
    """Some rows of one head in float64."""
    q, k, v = (x[0, 0].astype(np.float64) for x in (query, key, value))
    logits = q[rows] @ k.T / np.sqrt(q.shape[1])
    if causal:
        logits[np.arange(len(k)) > np.asarray(rows)[:, None]] = -np.inf
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights @ v / weights.sum(1, keepdims=True)


def on(isa, call):
    def run():
        with ruvector.use_isa(isa):
            return call()

    return run


def attention_rows(shape, causal, seconds):
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, *shape), dtype=np.float32)
    calls = {
        f"ruvector {isa}": on(isa, lambda: ruvector.scaled_dot_product_attention(query, key, value, is_causal=causal))
        for isa in ruvector.isas()
        if isa != "scalar"
    }
    if torch is not None:
        tensors = [torch.from_numpy(x) for x in (query, key, value)]
        calls["torch"] = lambda: torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal)
    rows = [0, shape[2] // 2, shape[2] - 1]
    expected = exact(query, key, value, rows, causal)
    for name, call in calls.items():
        error = np.abs(np.asarray(call())[0, 0][rows] - expected).max()
        assert error < 1e-5, f"{name} is off by {error}"
    pairs = shape[1] * (shape[2] * (shape[2] + 1) / 2 if causal else shape[2] ** 2)
    times = interleave(calls, seconds)
    print(f"\nattention float32 {shape}{' causal' if causal else ''}, one thread")
    for name, t in times.items():
        ratio = f"{times['torch'][0] / t[0]:5.2f}x torch" if "torch" in times else ""
        flops = 4 * pairs * shape[3] / t[0] / 1e9
        print(f"  {name:16s} best {t[0] * 1e3:8.2f} ms  median {statistics.median(t) * 1e3:8.2f} ms  {flops:6.1f} GFLOP/s  {ratio}")


def repeated(call, count=CALLS):
    def run():
        for _ in range(count):
            call()

    return run


def overhead(seconds):
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 64), dtype=np.float32)
    key, value = rng.standard_normal((2, 10, 64), dtype=np.float32)
    a, b = rng.standard_normal((2, 768), dtype=np.float32)
    resolved = ruvector.get_attention("scaled_dot")
    calls = {
        "scaled_dot_product_attention, 1 x 10 x 64": lambda: ruvector.scaled_dot_product_attention(query, key, value),
        "get_attention('scaled_dot'), 1 x 10 x 64": lambda: resolved(query, key, value),
        "dot of 768": lambda: ruvector.dot(a, b),
        "np.dot of 768": lambda: np.dot(a, b),
        "an empty Python function": lambda: None,
    }
    if torch is not None:
        tensors = [torch.from_numpy(x) for x in (query, key, value)]
        calls["torch sdpa, 1 x 10 x 64"] = lambda: torch.nn.functional.scaled_dot_product_attention(*tensors)
    times = interleave({name: repeated(call) for name, call in calls.items()}, seconds)
    print("\ncost of a call")
    for name, t in times.items():
        print(f"  {name:42s} best {t[0] / CALLS * 1e9:7.0f} ns  median {statistics.median(t) / CALLS * 1e9:7.0f} ns")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each table")
    seconds = parser.parse_args().seconds
    if torch is None:
        print("torch is not installed: no ratios (pip install torch==2.13.0)")
    else:
        torch.set_num_threads(1)
    threads = ruvector.get_num_threads()
    ruvector.set_num_threads(1)
    for shape, causal in (((1, 8, 2048, 64), False), ((1, 8, 2048, 64), True), ((1, 8, 512, 64), False)):
        attention_rows(shape, causal, seconds)
    overhead(seconds)
    ruvector.set_num_threads(threads)


if __name__ == "__main__":
    main()
