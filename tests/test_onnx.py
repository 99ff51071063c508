"""The node tests of the ONNX operator Attention (opsets 23 to 25), through a small adapter: Y comes from ruvector."""

import importlib
import warnings
from unittest import mock

import numpy as np
import pytest
import reference
import ruvector

onnx = pytest.importorskip("onnx", reason="the conformance cases are in the onnx package")

COUNT = 93


def collect():
    """Every case that is one Attention node: (name, opset, attributes, names of inputs and outputs, data, rtol, atol)."""
    with warnings.catch_warnings():
        # generators may overflow and divide by zero on purpose
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        # the generators of one operator instead of all two hundred: seconds less, and the same cases
        only = importlib.import_module
        with mock.patch.object(node, "import_recursive", lambda package: only(f"{package.__name__}.attention")):
            found = node.collect_testcases("Attention")
    cases = {}
    for case in found:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type != "Attention":
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
        cases[case.name] = (attributes, list(nodes[0].input), list(nodes[0].output), case)
    return cases


CASES = collect()


def split(x, heads):
    """(B, L, H d) -> (B, H, L, d), a view."""
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def onnx_attention(
    attend,
    Q,
    K,
    V,
    attn_mask=None,
    past_key=None,
    past_value=None,
    nonpad_kv_seqlen=None,
    *,
    scale=None,
    is_causal=0,
    q_num_heads=None,
    kv_num_heads=None,
    softcap=0.0,
    left_window_size=-1,
    right_window_size=-1,
    qk_matmul_output_mode=0,
    softmax_precision=None,
):
    """The operator on top of `attend`, which has the signature of scaled_dot_product_attention.

    The cache is concatenated and qk_matmul_output computed by NumPy. A sequence that is padded is cut to its length. ONNX
    counts positions from the end of what the cache holds; the top-left counting of `attend` says the same with a window.
    """
    flat = Q.ndim == 3
    if flat:
        Q, K, V = split(Q, q_num_heads), split(K, kv_num_heads), split(V, kv_num_heads)
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        K, V = np.concatenate([past_key, K], 2), np.concatenate([past_value, V], 2)
    batch, heads, q_len, _ = Q.shape
    kv_len = K.shape[2]
    if attn_mask is not None and attn_mask.shape[-1] < kv_len:
        hidden = False if attn_mask.dtype == bool else -np.inf
        missing = [(0, 0)] * (attn_mask.ndim - 1) + [(0, kv_len - attn_mask.shape[-1])]
        attn_mask = np.pad(attn_mask, missing, constant_values=hidden)
    left = None if left_window_size < 0 else left_window_size
    right = None if right_window_size < 0 else right_window_size
    if is_causal:
        right = 0 if right is None else min(right, 0)

    rows, logits = [], np.full((batch, heads, q_len, kv_len), -np.inf)
    for b in range(batch):
        used = kv_len if nonpad_kv_seqlen is None else int(nonpad_kv_seqlen[b])
        offset = past if nonpad_kv_seqlen is None else used - q_len
        mask = None
        if attn_mask is not None:
            mask = attn_mask[b if attn_mask.shape[0] > 1 else 0] if attn_mask.ndim == 4 else attn_mask
            mask = mask[..., :used]
        window, causal = (left, right), False
        if left is None and right == 0 and offset == 0:
            window, causal = None, True
        elif left is None and right is None:
            window = None
        else:
            # query i stands at i + offset: the window moves, as far as one with sizes >= 0 can
            moved = (None if left is None else left - offset, None if right is None else right + offset)
            if min(x for x in moved if x is not None) >= 0:
                window = moved
            else:
                window = None
                seen = reference.positions(q_len, used, offset, left, right)
                if mask is None or mask.dtype == bool:
                    mask = seen if mask is None else seen & mask
                else:
                    mask = np.where(seen, mask, mask.dtype.type(-np.inf))
        options = {"attn_mask": mask, "is_causal": causal, "scale": scale, "softcap": softcap, "window": window}
        k, v = K[b, :, :used], V[b, :, :used]
        rows.append(attend(Q[b], k, v, enable_gqa=heads != k.shape[0], **options))
        logits[b, ..., :used] = scores(Q[b], k, qk_matmul_output_mode, **options)
    Y = np.stack(rows)
    if flat:
        Y = np.swapaxes(Y, 1, 2).reshape(batch, q_len, -1)
    return Y, K, V, logits.astype(Q.dtype)


def scores(q, k, mode, attn_mask, is_causal, scale, softcap, window):
    """qk_matmul_output: 0 scaled, 1 capped, 2 with bias, 3 weights."""
    q, k = q.astype(np.float64), np.repeat(k.astype(np.float64), q.shape[0] // k.shape[0], 0)
    with np.errstate(all="ignore"):
        s = q @ np.swapaxes(k, 1, 2) * (scale or q.shape[-1] ** -0.5)
        if softcap and mode >= 1:
            s = softcap * np.tanh(s / softcap)
        if mode < 2:
            return s
        seen = reference.positions(*s.shape[1:], 0, *(window or (None, 0 if is_causal else None)))
        visible, bias = reference.split_mask(attn_mask)
        s = np.where(seen & visible, s + (0 if bias is None else bias.astype(np.float64)), -np.inf)
        if mode == 2:
            return s
        e = np.exp(s - np.maximum(s.max(-1, keepdims=True), -1e300))
        return e / np.maximum(e.sum(-1, keepdims=True), 1e-300)


def numpy_attention(query, key, value, **options):
    result = reference.scaled_dot_product_attention(query, key, value, **options)
    return result.out.astype(query.dtype)


def run_case(name, attend):
    attributes, inputs, outputs, case = CASES[name]
    assert len(case.data_sets) == 1
    given, expected = case.data_sets[0]
    given = iter(given)
    # an input without a name is absent, and so is its data
    arrays = [next(given) if i else None for i in inputs]
    assert next(given, None) is None
    results = onnx_attention(attend, *arrays, **attributes)
    half = reference.is_half(arrays[0].dtype)
    compared = 0
    for result, exact in zip((r for r, o in zip(results, outputs, strict=False) if o), expected, strict=True):
        assert result.dtype == exact.dtype
        assert result.shape == exact.shape
        rtol, atol = (1e-2, 1e-2) if half else (case.rtol, case.atol)
        np.testing.assert_allclose(result.astype(np.float64), exact.astype(np.float64), rtol=rtol, atol=atol)
        compared += 1
    assert compared == len([o for o in outputs if o]) >= 1


def test_the_suite_has_all_its_cases():
    assert len(CASES) == COUNT
    dtypes = [str(case.data_sets[0][0][0].dtype) for *_, case in CASES.values()]
    assert {d: dtypes.count(d) for d in set(dtypes)} == {"float32": 82, "float16": 6, "bfloat16": 5}


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_is_right_with_a_numpy_attention(name):
    """A case that fails below and passes here is a fault of the kernel, not of the adapter."""
    run_case(name, numpy_attention)


@pytest.mark.parametrize("name", CASES)
def test_attention_node(isa, name):
    run_case(name, ruvector.scaled_dot_product_attention)


def test_every_case_takes_its_result_from_ruvector():
    """Y of each case is what the kernel returned, and every case calls it."""
    for name in CASES:
        calls = []

        def attend(*arrays, calls=calls, **options):
            calls.append(ruvector.scaled_dot_product_attention(*arrays, **options))
            return calls[-1]

        run_case(name, attend)
        assert calls, name
        assert all(np.isfinite(c.astype(np.float64)).all() for c in calls), name
