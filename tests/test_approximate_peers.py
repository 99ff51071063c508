"""The types that approximate attention beside the modules of transformers, with random weights, and the package linformer."""

import warnings

import numpy as np
import pytest
import ruvector
from support import normal

pytestmark = pytest.mark.peer

LENGTH, WIDTH = 48, 16


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, which these peers run on, is not installed")


def module_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="transformers, the peer of this test, is not installed")
        return pytest.importorskip(f"transformers.models.{name}.modeling_{name}"), pytest.importorskip(
            f"transformers.models.{name}.configuration_{name}"
        )


def run(torch, module, x, *arguments):
    torch.manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        return module, module(torch.from_numpy(x[None]), *arguments)


def projected(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def test_nystrom_is_that_of_transformers(torch):
    modeling, config = module_of("nystromformer")
    for conv in (5, 33):
        torch.manual_seed(1)
        settings = config.NystromformerConfig(
            hidden_size=WIDTH,
            num_attention_heads=1,
            num_landmarks=8,
            segment_means_seq_len=LENGTH,
            conv_kernel_size=conv,
        )
        x = normal((LENGTH, WIDTH), np.float64, "peer x")
        module, (theirs, *_) = run(torch, modeling.NystromformerSelfAttention(settings), x)
        q, k, v = (projected(getattr(module, name), x) for name in ("query", "key", "value"))
        out = ruvector.nystrom_attention(q, k, v, 8, conv=module.conv.weight.detach().numpy().ravel())
        np.testing.assert_allclose(out, theirs[0].numpy(), rtol=0, atol=1e-10)


def test_expectation_of_yoso_is_that_of_transformers(torch):
    modeling, config = module_of("yoso")
    torch.manual_seed(2)
    settings = config.YosoConfig(
        hidden_size=WIDTH, num_attention_heads=1, use_expectation=True, hash_code_len=9, conv_window=None
    )
    x = normal((LENGTH, WIDTH), np.float64, "peer x")
    mask = np.arange(LENGTH) < 40
    shown = torch.from_numpy(np.where(mask, 0.0, -10000.0)[None])
    module, (theirs, *_) = run(torch, modeling.YosoSelfAttention(settings), x, shown)
    q, k, v = (projected(getattr(module, name), x) for name in ("query", "key", "value"))
    out = ruvector.hash_based_attention(q, k, v, tau=9, mask=mask)
    # hidden queries are no rows of theirs
    np.testing.assert_allclose(out[mask], theirs[0].numpy()[mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", (False, True))
def test_reformer_of_one_chunk_is_that_of_transformers(torch, causal):
    """Theirs of several chunks shows keys of other buckets and counts pairs once a round, which the paper's does not."""
    modeling, config = module_of("reformer")
    torch.manual_seed(3)
    settings = config.ReformerConfig(
        hidden_size=WIDTH, num_attention_heads=1, attention_head_size=WIDTH, is_decoder=causal, lsh_attn_chunk_length=64
    )
    x = normal((LENGTH, WIDTH), np.float64, "peer x")
    module, theirs = run(torch, modeling.LSHSelfAttention(settings), x)
    shared, value = projected(module.query_key, x), projected(module.value, x)
    out = ruvector.reformer_attention(shared, shared, value, causal=causal, scale=1.0)
    # their lengths have 1e-6 added to the mean of squares
    small = (shared**2).mean(-1).min()
    np.testing.assert_allclose(
        out, theirs.hidden_states[0].numpy(), rtol=0, atol=4e-6 / small * np.abs(shared).sum(-1).max()
    )


def test_linformer_is_that_of_the_package(torch):
    linformer = pytest.importorskip("linformer", reason="linformer, the peer of this test, is not installed")
    torch.manual_seed(4)
    x = normal((LENGTH, WIDTH), np.float64, "peer x")
    module, theirs = run(torch, linformer.LinformerSelfAttention(WIDTH, LENGTH, k=7, heads=1), x)
    q, k, v = (projected(getattr(module, name), x) for name in ("to_q", "to_k", "to_v"))
    e, f = (getattr(module, name).detach().numpy().T for name in ("proj_k", "proj_v"))
    out = ruvector.linformer_attention(q, k, v, key_projection=e, value_projection=f)
    np.testing.assert_allclose(projected(module.to_out, out), theirs[0].numpy(), rtol=0, atol=1e-12)
