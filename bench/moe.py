"""Interleaved comparison of expert gating (top-k and softmax) with onnxruntime, torch and NumPy.

    python bench/moe.py [--seconds 2] [--threads 1] [--top-k 2]

Ratios are the result: all sides alternate in one process. Every row is checked once: the logits chosen, weights to 1e-5.
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
try:
    import onnx
    import onnxruntime
except ImportError:
    onnxruntime = None


def interleave(calls, seconds):
    """{name: call} -> {name: sorted times of one call}, the calls in turn until the time is up; short ones 20 times a turn."""
    times = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        times[name] = [time.perf_counter() - start]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, call in calls.items():
            repeat = 20 if times[name][0] < 3e-4 else 1
            call()  # the caches are its own again
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: sorted(t) for name, t in times.items()}


def onnx_session(top_k, threads):
    """TopK, then Softmax over the chosen."""
    kinds, helper = onnx.TensorProto, onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("TopK", ["x", "k"], ["chosen", "indices"], axis=-1),
            helper.make_node("Softmax", ["chosen"], ["weights"], axis=-1),
        ],
        "gating",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["tokens", "experts"])],
        [
            helper.make_tensor_value_info("indices", kinds.INT64, ["tokens", top_k]),
            helper.make_tensor_value_info("weights", kinds.FLOAT, ["tokens", top_k]),
        ],
        [helper.make_tensor("k", kinds.INT64, [1], [top_k])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def numpy_gating(logits, top_k):
    indices = np.argpartition(logits, -top_k, -1)[:, -top_k:]
    chosen = np.take_along_axis(logits, indices, -1)
    order = np.argsort(-chosen, -1)
    indices, chosen = np.take_along_axis(indices, order, -1), np.take_along_axis(chosen, order, -1)
    weights = np.exp(chosen - chosen[:, :1])
    return indices, weights / weights.sum(-1, keepdims=True)


def torch_gating(logits, top_k):
    chosen, indices = torch.topk(logits, top_k)
    return indices, torch.softmax(chosen, -1)


def row(tokens, experts, top_k, threads, seconds):
    logits = np.random.default_rng(experts).standard_normal((tokens, experts), dtype=np.float32)
    calls = {"ruvector": lambda: ruvector.top_k_gating(logits, top_k)}
    if onnxruntime is not None:
        session = onnx_session(top_k, threads)
        calls["onnxruntime"] = lambda: session.run(None, {"x": logits})
    if torch is not None:
        tensor = torch.from_numpy(logits)
        calls["torch"] = lambda: torch_gating(tensor, top_k)
    calls["numpy"] = lambda: numpy_gating(logits, top_k)
    expected = numpy_gating(logits.astype(float), top_k)
    for name, call in calls.items():
        indices, weights = (np.asarray(a) for a in call())
        chosen, best = (np.take_along_axis(logits, i, -1) for i in (indices, expected[0]))
        assert (chosen == best).all() and np.abs(weights - expected[1]).max() < 1e-5, name
    times = interleave(calls, seconds)
    print(f"\n{tokens} tokens, {experts} experts")
    for name, t in times.items():
        best, median = t[0] * 1e6, statistics.median(t) * 1e6
        print(f"  {name:12s} {best:10.1f} us ({median:10.1f})  {t[0] / times['ruvector'][0]:6.1f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--top-k", type=int, default=2)
    options = parser.parse_args()
    ruvector.set_num_threads(options.threads)
    if torch is not None:
        torch.set_num_threads(options.threads)
    print(f"top-{options.top_k} gating, float32, {options.threads} thread(s), {ruvector.isa()}: best (median), ratio of the best")
    for tokens in (512, 65536):
        for experts in (8, 64, 256):
            row(tokens, experts, options.top_k, options.threads, options.seconds)


if __name__ == "__main__":
    main()
