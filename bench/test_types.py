"""Every registered attention type on one shape: a new type is measured unasked."""

import numpy as np
import pytest

import ruvector

HEADS, LENGTH, DIM = 8, 512, 64


def inputs(name):
    """query, key and value, of the shapes that a type wants."""
    query, key, value = np.random.default_rng(0).standard_normal((3, HEADS, LENGTH, DIM), dtype=np.float32)
    if name == "self":
        return query, query, query
    if name == "grouped_query":  # 8 heads in the width of a query, 2 in that of a key
        return query, key[..., : DIM // 4].copy(), value[..., : DIM // 4].copy()
    if name == "multi_query":  # one head for all
        return query, key[..., : DIM // 8].copy(), value[..., : DIM // 8].copy()
    return query, key, value


@pytest.mark.parametrize("name", [record.name for record in ruvector.attention_types()])
def test_type(benchmark, name, isa, threads):
    attend, arrays = ruvector.get_attention(name), inputs(name)
    try:
        attend(*arrays)
    except (TypeError, ValueError) as needs:
        pytest.skip(f"needs more than query, key and value: {needs}")
    benchmark.group = f"types, {HEADS} x {LENGTH} x {DIM}"
    benchmark(attend, *arrays)
