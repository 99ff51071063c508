"""Oracles of attention with a memory, one query and one state after another from the papers' definitions, in float64.

Arrays have no leading axes.
"""

import numpy as np
from reference import fixed_uniform


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attend(query, keys, values, bias, scale):
    """One query over lists of rows, some of which may be hidden by a bias of -inf."""
    shown = [j for j in range(len(keys)) if not np.isneginf(bias[j])]
    if not shown:
        return np.zeros(values[0].shape if len(values) else 0)
    logits = np.array([scale * (query @ keys[j]) + bias[j] for j in shown])
    return softmax(logits) @ np.array([values[j] for j in shown])


def compress(group, compression, conv):
    """Rows of a group, None where a state is hidden."""
    shown = [x for x in group if x is not None]
    if not shown:
        return None
    if compression == "max":
        return np.max(shown, 0)
    if compression == "mean":
        return np.mean(shown, 0)
    return sum(x @ w for x, w in zip(group, conv, strict=True) if x is not None)


def kernel(rate, width, seed):
    return np.sqrt(6 / ((rate + 1) * width)) * fixed_uniform(seed, (rate, width, width))


def compressive(
    query,
    key,
    value,
    *,
    segment_length=512,
    memory_length=512,
    compressed_length=512,
    rate=3,
    compression="mean",
    key_conv=None,
    value_conv=None,
    mask=None,
    scale=None,
):
    """`mask` (S,): which keys there are."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scale = 1 / np.sqrt(query.shape[1]) if scale is None else scale
    key_conv = kernel(rate, key.shape[1], 42) if key_conv is None else key_conv
    value_conv = kernel(rate, value.shape[1], 43) if value_conv is None else value_conv
    there = np.ones(len(key), bool) if mask is None else mask
    states = [(k, v) if seen else (None, None) for k, v, seen in zip(key, value, there, strict=True)]
    out, memory, compressed = np.zeros((len(query), value.shape[1])), [], []
    for position in range(len(states)):
        start = position - position % segment_length
        if position == start and start:
            memory += states[start - segment_length : start]
            while len(memory) - memory_length >= rate:
                group, memory = memory[:rate], memory[rate:]
                compressed.append(
                    (
                        compress([k for k, _ in group], compression, key_conv),
                        compress([v for _, v in group], compression, value_conv),
                    )
                )
            compressed = compressed[max(len(compressed) - compressed_length, 0) :]
        i = position - (len(key) - len(query))
        if i >= 0:
            seen = [s for s in compressed + memory + states[start : position + 1] if s[0] is not None]
            if seen:
                keys, values = zip(*seen, strict=True)
                out[i] = attend(query[i], keys, values, np.zeros(len(keys)), scale)
    return out


def feedback(query, key, value, *, layer_weights=(0.0, 0.0), w_key=None, w_value=None, mask=None, scale=None):
    """`mask` (L, S): added, or boolean."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scale = 1 / np.sqrt(query.shape[1]) if scale is None else scale
    a, b = softmax(np.asarray(layer_weights, float))
    w_key = np.eye(value.shape[1]) if w_key is None else w_key
    w_value = np.eye(value.shape[1]) if w_value is None else w_value
    bias = np.zeros((len(query), len(key)))
    if mask is not None:
        bias = np.where(mask, 0, -np.inf) if mask.dtype == bool else np.asarray(mask, float)
    ahead = len(key) - len(query)
    keys, values = list(key[: max(ahead, 0)]), list(value[: max(ahead, 0)])
    out = np.zeros((len(query), value.shape[1]))
    for i in range(len(query)):
        if i + ahead < 0:
            continue
        if keys:
            out[i] = attend(query[i], keys, values, bias[i], scale)
        t = i + ahead
        keys.append(a * key[t] + b * (out[i] @ w_key))
        values.append(a * value[t] + b * (out[i] @ w_value))
    return out


TYPES = {"compressive": compressive, "feedback": feedback}
