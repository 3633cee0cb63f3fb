"""Attention over latents by the Triton kernels, under the interpreter, against the definition."""

from __future__ import annotations

import pytest
import torch

from shoal.attention.latent import Expansion, LatentAttention
from shoal.attention.triton import Tiles, TritonAttention
from tests.attention.test_latent import latent_pool
from tests.attention.triton.test_attention_interpreted import SMALL, UPRIGHT, dense_lse
from tests.helpers.attention_work import (
    CPU,
    TOLERANCE,
    dense_attention,
    one_segment,
    random_case,
    random_inputs,
)


@pytest.mark.parametrize("tiles", [SMALL, UPRIGHT], ids=["sideways", "upright"])
@pytest.mark.parametrize(
    ("heads", "rank", "rope", "dtype"),
    [
        (4, 512, 64, torch.float16),
        (3, 256, 32, torch.float32),
        (5, 40, 6, torch.float32),
        (33, 32, 2, torch.float32),
    ],
)
def test_values_within_keys(
    tiles: Tiles, heads: int, rank: int, rope: int, dtype: torch.dtype
) -> None:
    """In a pool that is NaN wherever the case has no tokens."""
    torch.manual_seed(rank)
    backend, case = TritonAttention(tiles), random_case(3, block_size=16, scattered=True)
    query, keys, _ = random_inputs(case, (heads, 1), (rank + rope, rank), dtype)
    layer = latent_pool(backend, case, keys, rank)
    assert layer.values.data_ptr() == layer.keys.data_ptr()
    prepared, scale = backend.prepare(case.work, CPU), (rank + rope) ** -0.5
    expected = dense_attention(case, query, keys, keys[..., :rank], scale)
    out = backend(query, layer, prepared, scale)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    found, lse = backend.partial(query, layer, prepared, scale)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    expected_lse = dense_lse(case, query, keys, scale)
    torch.testing.assert_close(lse.double(), expected_lse, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_long_segment_in_several_ranges(rows: int) -> None:
    """Parts are merged."""
    backend, case = TritonAttention(SMALL, programs=16), one_segment(rows, 700, causal=True)
    query, keys, _ = random_inputs(case, (4, 1), (40, 32), torch.float32)
    layer = latent_pool(backend, case, keys, 32)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.2)
    expected = dense_attention(case, query, keys, keys[..., :32], 0.2)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("least_rows", [float("inf"), 8, 0])
def test_both_ways(least_rows: float) -> None:
    case = random_case(1, block_size=32, scattered=True)
    heads, plain, rope, rank, value_dim = 5, 12, 8, 24, 10
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(heads, plain + value_dim, rank, generator=generator) * rank**-0.5
    expansion = Expansion(weight[:, :plain], weight[:, plain:])
    query, _, _ = random_inputs(case, (heads, 1), (plain + rope, 1), torch.float32)
    latents = torch.randn(1, case.num_slots, rank + rope, generator=generator)
    backend = TritonAttention(SMALL)
    layer = latent_pool(backend, case, latents, rank)
    mixed = LatentAttention(backend, least_rows)
    found = mixed.attend(query, layer, mixed.prepare(case.work, CPU), 0.2, expansion)
    expected = dense_attention(case, query, *expansion.expand(latents[0]), 0.2)
    torch.testing.assert_close(found.double(), expected, atol=5e-5, rtol=0)
