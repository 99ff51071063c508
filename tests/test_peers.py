"""Other libraries: results against theirs, error against float64 beside theirs, and their arrays as inputs."""

import numpy as np
import pytest
import reference
from support import DTYPES, generator, normal, peak_allocation, qkv, same_bits

import ruvector
from ruvector.accuracy import attention

pytestmark = pytest.mark.peer
sdpa = ruvector.scaled_dot_product_attention


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the peer of these tests, is not installed")


def to_torch(torch, x):
    """A tensor on the same memory; bfloat16 by way of its bits."""
    x = np.array(x)
    if x.dtype == reference.BFLOAT16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def from_torch(torch, t):
    t = t.detach().contiguous()
    if t.dtype == torch.bfloat16:
        return t.view(torch.int16).numpy().view(reference.BFLOAT16)
    return t.numpy()


def torch_attention(torch, q, k, v, mask=None, **options):
    if mask is not None and mask.dtype != bool:
        mask = mask.astype(q.dtype)
    attend = torch.nn.functional.scaled_dot_product_attention
    mask = None if mask is None else to_torch(torch, mask)
    with torch.no_grad():
        return from_torch(torch, attend(*(to_torch(torch, a) for a in (q, k, v)), attn_mask=mask, **options))


def random_case(rng, dtype):
    batch, kv_heads, group = rng.integers(1, 3), rng.integers(1, 4), rng.integers(1, 4)
    q_len, kv_len = rng.integers(1, 90), rng.integers(1, 150)
    dim, v_dim = rng.integers(1, 80), rng.integers(1, 80)
    q, k, v = (
        rng.standard_normal(shape).astype(dtype)
        for shape in (
            (batch, kv_heads * group, q_len, dim),
            (batch, kv_heads, kv_len, dim),
            (batch, kv_heads, kv_len, v_dim),
        )
    )
    options = {}
    kind = rng.choice(["none", "causal", "bool", "float", "padding"])
    shape = (batch, kv_heads * group, q_len, kv_len)
    if kind == "causal":
        options["is_causal"] = True
    elif kind == "bool":
        options["attn_mask"] = rng.random(shape) < 0.6
    elif kind == "float":
        options["attn_mask"] = np.where(rng.random(shape) < 0.6, rng.standard_normal(shape), -np.inf).astype(dtype)
    elif kind == "padding":
        options["attn_mask"] = np.broadcast_to(
            rng.random((batch, 1, 1, kv_len)) < 0.6, (batch, 1, q_len, kv_len)
        ).copy()
    if group > 1:
        options["enable_gqa"] = True
    if rng.random() < 0.3:
        options["scale"] = float(rng.uniform(0.01, 0.6))
    return q, k, v, options


@pytest.mark.parametrize("dtype_name", [d for d in DTYPES if d != "float16"])
def test_parity_with_torch_over_random_calls(isa, torch, dtype_name):
    """Both lie within the bound of the exact result, so they differ by no more than twice the bound."""
    dtype = DTYPES[dtype_name]
    rng = generator("torch", dtype_name)
    seen = set()
    for case in range(60):
        q, k, v, options = random_case(rng, dtype)
        expected = reference.scaled_dot_product_attention(q, k, v, **options)
        ours = sdpa(q, k, v, **options)
        mask = options.get("attn_mask")
        theirs = torch_attention(torch, q, k, v, mask, **{n: o for n, o in options.items() if n != "attn_mask"})
        what = f"{case}: {q.shape} {k.shape} {v.shape} {list(options)}"
        seen.add((bool(options.get("is_causal")), None if mask is None else mask.dtype.kind, "enable_gqa" in options))
        reference.check(ours, expected, f"{what}, against float64")
        reference.within(ours, theirs.astype(expected.out.dtype), 2 * expected.bound(), f"{what}, against torch")
    assert len(seen) >= 6


def test_the_oracle_agrees_with_torch_in_float64(torch):
    """The oracles of this suite are themselves checked: causal alignment, masks, grouped heads, empty rows."""
    rng = generator("oracle")
    for _ in range(60):
        q, k, v, options = random_case(rng, np.float64)
        mask = options.get("attn_mask")
        theirs = torch_attention(torch, q, k, v, mask, **{n: o for n, o in options.items() if n != "attn_mask"})
        ours = reference.scaled_dot_product_attention(q, k, v, **options).out.astype(float)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-13)


def test_ours_differs_from_torch_where_a_masked_value_is_nan(isa, torch):
    """torch spreads a NaN that is masked out, and gives 0 for a query row of NaN; ours does neither."""
    q, k, v = (a.copy() for a in qkv((1, 1), 4, 9, 8, 6, "float32"))
    v[..., 3, :] = np.nan
    mask = np.arange(9) != 3
    assert np.isfinite(sdpa(q, k, v, attn_mask=mask)).all()
    q[..., 2, :] = np.nan
    out = sdpa(q, k, v, attn_mask=mask)
    assert np.isnan(out[..., 2, :]).all()
    assert np.isfinite(np.delete(out, 2, -2)).all()


@pytest.mark.parametrize(
    "lengths", [(4096, 65536), pytest.param((1_000_000,), marks=pytest.mark.slow)], ids=["to 65536", "1000000"]
)
def test_error_against_float64_is_within_the_bound_and_below_that_of_torch(isa, torch, capsys, lengths):
    others = {"torch": attention.torch_attention()}
    rows = list(attention.error_rows(lengths, ["float32"], [isa], distributions=attention.ADVERSE, others=others))
    with capsys.disabled():
        print(f"\nerror / (u max|V|) against float64, float32, {isa} beside torch {torch.__version__}")
        print(f"{'keys':<26}{'n':>9}{'ruvector':>12}{'torch':>12}{'bound':>10}")
        for row in rows:
            ours, theirs = row.errors[isa], row.errors["torch"]
            print(f"{row.distribution:<26}{row.n:>9}{ours:>12.2f}{theirs:>12.1f}{row.bound:>10.1f}")
    for row in rows:
        assert row.shares[isa] <= 1, row
        assert row.errors[isa] < row.errors["torch"], row


# Their arrays --------------------------------------------------------------------------------------------------------


def test_torch_tensors_are_read_in_place(isa, torch):
    for dtype in (torch.float32, torch.float64, torch.float16):
        q, k, v = (
            torch.randn(2, n, 16, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (9, 20000, 20001)
        )
        v = v[:, 1:]
        arrays = [t.numpy() for t in (q, k, v)]
        out = sdpa(q, k, v)
        assert isinstance(out, np.ndarray)
        assert same_bits(out, sdpa(*arrays))
        assert peak_allocation(lambda q=q, k=k, v=v: sdpa(q, k, v)) < arrays[1].nbytes / 4
        assert same_bits(ruvector.softmax(q), ruvector.softmax(arrays[0]))


def test_strided_torch_views_are_right(isa, torch):
    x = torch.randn(2, 33, 4, 16, generator=torch.Generator().manual_seed(1))
    q = x.transpose(1, 2)
    k, v = q * 0.5 + 1, q.flip(-1)
    assert same_bits(sdpa(q, k, v), sdpa(*(np.ascontiguousarray(t.numpy()) for t in (q, k, v))))


def test_torch_bfloat16_tensors(isa, torch):
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    q, k, v = (normal((2, n, 16), reference.BFLOAT16, "bf16", n) for n in (9, 40, 41))
    v = v[:, 1:]
    tensors = [to_torch(torch, a) for a in (q, k, v)]
    out = sdpa(*tensors)
    assert out.dtype == reference.BFLOAT16
    assert same_bits(out, sdpa(q, k, v))


def test_a_tensor_that_requires_grad_is_a_clear_error(isa, torch):
    q, k, v = (torch.randn(3, 4) for _ in range(3))
    for position, name in enumerate(("query", "key", "value")):
        tensors = [q, k, v]
        tensors[position] = tensors[position].clone().requires_grad_()
        with pytest.raises(TypeError, match=rf"(?s)(?=.*{name})(?=.*detach)"):
            sdpa(*tensors)
    with pytest.raises(TypeError, match="detach"):
        ruvector.softmax(q.clone().requires_grad_())


def test_jax_arrays_are_read_in_place(isa):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    q, k, v = qkv((2,), 9, 20000, 16, 8, "float32")
    arrays = [jax.numpy.asarray(a) for a in (q, k, v)]
    assert same_bits(sdpa(*arrays), sdpa(q, k, v))
    assert peak_allocation(lambda: sdpa(*arrays)) < k.nbytes / 4
    half = [jax.numpy.asarray(a, jax.numpy.bfloat16) for a in (q, k, v)]
    assert same_bits(sdpa(*half), sdpa(*(np.asarray(a) for a in half)))


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("name", ("linear", "performer", "random_feature"))
def test_linear_attention_equals_its_formula_in_torch(isa, torch, name, causal):
    """In float64, from the papers: features, their products, the mask, the quotient."""
    q, k, v = (
        torch.from_numpy(normal((2, 130, width), np.float64, "linear", role))
        for role, width in (("q", 16), ("k", 16), ("v", 10))
    )
    w = torch.from_numpy(ruvector.draw_features(40, 16))
    options = {} if name == "linear" else {"projection": w.numpy()}
    out = ruvector.attention(q, k, v, name, causal=causal, **options)
    if name == "linear":
        phi = [torch.nn.functional.elu(x) + 1 for x in (q, k)]
    elif name == "performer":
        phi = [torch.exp(x @ w.T - (x * x).sum(-1, keepdim=True) / 2) for x in (q / 2, k / 2)]
    else:
        unit = [torch.nn.functional.normalize(x, dim=-1) @ w.T for x in (q, k)]
        phi = [torch.cat([torch.sin(x), torch.cos(x)], -1) for x in unit]
    weights = phi[0] @ phi[1].transpose(-1, -2)
    weights = torch.tril(weights) if causal else weights
    expected = (weights @ v / weights.sum(-1, keepdim=True)).numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-10 if name == "random_feature" else 1e-12)
