"""The types that approximate attention beside modules of transformers and small packages, with random weights.

The samples of transformers' YOSO need its CUDA kernels (and its hashes written in Python give queries those of the keys), so that
its expectation alone is compared.
"""

import warnings

import numpy as np
import pytest
import reference_approximate as oracle
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


@pytest.mark.parametrize("landmarks", (4, 12))
def test_nystrom_of_several_heads_is_that_of_transformers(torch, landmarks):
    modeling, config = module_of("nystromformer")
    torch.manual_seed(5)
    settings = config.NystromformerConfig(
        hidden_size=3 * WIDTH,
        num_attention_heads=3,
        num_landmarks=landmarks,
        segment_means_seq_len=LENGTH,
        conv_kernel_size=7,
    )
    x = normal((LENGTH, 3 * WIDTH), np.float64, "peer heads")
    layer = modeling.NystromformerSelfAttention(settings)
    # otherwise the largest sum of all heads scales the start of each
    layer.init_option = "exact"
    module, (theirs, *_) = run(torch, layer, x)
    q, k, v = (
        projected(getattr(module, name), x).reshape(LENGTH, 3, WIDTH).swapaxes(0, 1)
        for name in ("query", "key", "value")
    )
    out = ruvector.nystrom_attention(q, k, v, landmarks, conv=module.conv.weight.detach().numpy().reshape(3, 7))
    np.testing.assert_allclose(out.swapaxes(0, 1).reshape(LENGTH, -1), theirs[0].numpy(), rtol=0, atol=1e-10)


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


def identity_of(torch, layer):
    with torch.no_grad():
        layer.query_key.weight.copy_(torch.eye(WIDTH))
        layer.value.weight.copy_(torch.flip(torch.eye(WIDTH), (0,)))
    return layer


def reformer_chunks(torch, x, buckets, chunk, causal):
    """Theirs over chunks in the order of one round of buckets; values are the columns in reverse."""
    modeling, config = module_of("reformer")
    settings = config.ReformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=1,
        attention_head_size=WIDTH,
        is_decoder=causal,
        lsh_attn_chunk_length=chunk,
        num_hashes=1,
        num_buckets=4,
    )
    layer = identity_of(torch, modeling.LSHSelfAttention(settings))
    _, theirs = run(torch, layer, x, None, None, torch.from_numpy(buckets.astype(np.int64))[None, None])
    return theirs.hidden_states[0].numpy()


def reformer_bound(x):
    """Their lengths have 1e-6 added to the mean of squares, which logits feel by half of its share."""
    small = (x**2).mean(-1).min()
    return 4e-6 / small * np.abs(x).sum(-1).max()


@pytest.mark.parametrize("causal", (False, True))
def test_chunks_of_reformer_are_those_of_transformers(torch, causal):
    x = normal((LENGTH, WIDTH), np.float64, "peer chunks")
    theirs = reformer_chunks(torch, x, np.zeros(LENGTH), 8, causal)
    out = ruvector.reformer_attention(x, x, x[:, ::-1], 1, 8, num_buckets=1, causal=causal, scale=1.0)
    # theirs shows the last chunk to the first where that is not later, the paper's nothing
    rows = slice(0 if causal else 8, None)
    np.testing.assert_allclose(out[rows], theirs[rows], rtol=0, atol=reformer_bound(x))
    assert causal or np.abs(out[:8] - theirs[:8]).max() > 0.01


def test_buckets_of_reformer_are_those_of_transformers(torch):
    """Theirs shows other buckets in the chunk before: here those are later ones, which causal hides, but for the first's."""
    directions = ruvector.draw_features(2, WIDTH, orthogonal=False)
    planned = np.repeat([3, 2, 1, 0], LENGTH // 4)
    centres = np.concatenate([directions, -directions])[planned]
    x = centres + normal((LENGTH, WIDTH), np.float64, "peer buckets", scale=0.3)
    assert [oracle.lsh_bucket(row, directions) for row in x] == list(planned)
    theirs = reformer_chunks(torch, x, planned, 6, True)
    out = ruvector.reformer_attention(x, x, x[:, ::-1], 1, 6, num_buckets=4, causal=True, scale=1.0)
    rows = np.r_[:36, 42:48]
    np.testing.assert_allclose(out[rows], theirs[rows], rtol=0, atol=reformer_bound(x))


def test_linformer_is_that_of_the_package(torch):
    linformer = pytest.importorskip("linformer", reason="linformer, the peer of this test, is not installed")
    torch.manual_seed(4)
    x = normal((LENGTH, WIDTH), np.float64, "peer x")
    module, theirs = run(torch, linformer.LinformerSelfAttention(WIDTH, LENGTH, k=7, heads=1), x)
    q, k, v = (projected(getattr(module, name), x) for name in ("to_q", "to_k", "to_v"))
    e, f = (getattr(module, name).detach().numpy().T for name in ("proj_k", "proj_v"))
    out = ruvector.linformer_attention(q, k, v, key_projection=e, value_projection=f)
    np.testing.assert_allclose(projected(module.to_out, out), theirs[0].numpy(), rtol=0, atol=1e-12)


def test_product_key_is_that_of_product_key_memory(torch):
    package = pytest.importorskip("product_key_memory", reason="product-key-memory, this test's peer, is not installed")
    torch.manual_seed(6)
    heads, halves, half = 3, 9, 8
    x = normal((LENGTH, WIDTH), np.float64, "peer x")
    module, theirs = run(torch, package.PKM(WIDTH, heads=heads, num_keys=halves, topk=5, dim_head=half), x)
    asked = projected(module.to_queries, x).reshape(LENGTH, 2, heads, half)
    with torch.no_grad():
        asked = module.norm(torch.from_numpy(asked)).numpy()
    query = asked.transpose(0, 2, 1, 3).reshape(LENGTH, -1)
    # theirs (heads, halves, 2, half), ours a row for each half number
    key = module.keys.detach().numpy().transpose(1, 0, 2, 3).reshape(halves, -1)
    slots = module.values.weight.detach().numpy()
    out = ruvector.product_key_attention(query, key, slots, heads, 5, scale=1.0)
    np.testing.assert_allclose(out, theirs[0].numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("causal", (False, True))
def test_routing_is_that_of_routing_transformer(torch, causal):
    package = pytest.importorskip(
        "routing_transformer.routing_transformer", reason="routing-transformer, the peer of this test, is not installed"
    )
    torch.manual_seed(7)
    clusters, size, heads = 5, 12, 2
    # theirs gives clusters unit rows, ours layer-normed ones: rows of mean 0 are in the same order in both
    q, k, v = (normal((heads, LENGTH, WIDTH), np.float64, "peer", name) for name in "qkv")
    q, k = (x - x.mean(-1, keepdims=True) for x in (q, k))
    module = package.KmeansAttention(clusters, size, heads, WIDTH, causal=causal).double().eval()
    module.kmeans.initted.fill_(True)
    # no learned keys and values, which their causal clusters have
    module.num_mem_kv = 0
    module.mem_key = module.mem_value = torch.nn.Parameter(torch.zeros(heads, clusters, 0, WIDTH))
    with torch.no_grad():
        theirs, _ = module(*(torch.from_numpy(x[None]) for x in (q, k, v)))
    means = module.kmeans.means.numpy()
    for h in range(heads):
        out = ruvector.routing_attention(
            q[h], k[h], v[h], centroids=means[h], cluster_size=size, normalize=False, causal=causal
        )
        # where a cluster shows nothing theirs takes the mean of what is hidden
        first = np.argsort(-means[h] @ oracle.unit(k[h]).T, -1)[:, :size].min(-1).max() if causal else 0
        assert first < LENGTH // 2
        # theirs divides by the number of clusters and 1e-5
        np.testing.assert_allclose(out[first:], theirs[0, h, first:].numpy(), rtol=0, atol=1e-5 * np.abs(v).max())


def test_sinkhorn_balance_is_that_of_sinkhorn_transformer(torch):
    """Their module takes sorted keys for values, so that the matrix which sorts is compared."""
    package = pytest.importorskip(
        "sinkhorn_transformer.sinkhorn_transformer",
        reason="sinkhorn-transformer, the peer of this test, is not installed",
    )
    blocks, size = 6, 8
    logits = normal((blocks, blocks), np.float64, "peer sort")
    q = normal((LENGTH, WIDTH), np.float64, "peer x")
    # with keys of nothing the own block and the sorted one weigh the same
    value = np.kron(np.eye(blocks), np.ones((size, 1)))
    for iterations in (1, 7, 8):
        theirs = package.sinkhorn_sorting_operator(torch.from_numpy(logits[None] / 0.75), iterations)[0].numpy()
        options = {"iterations": iterations, "temperature": 0.75, "sort_logits": logits}
        out = ruvector.sparse_sinkhorn_attention(q, 0 * q, value, size, **options)
        np.testing.assert_allclose(2 * out[::size] - np.eye(blocks), theirs, rtol=0, atol=1e-14)
