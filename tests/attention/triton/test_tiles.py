"""Which tiles a model and a batch get."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.attention.triton import TritonAttention
from shoal.attention.triton.launch_plan import rows_per_key
from shoal.attention.triton.tiles import choose_tiles, halves
from tests.helpers.attention_work import one_segment
from tests.helpers.hopper import SHARED_BYTES


@given(st.integers(1, 256))
def test_halves_hold_the_dimension_and_waste_little(dim: int) -> None:
    low, high = halves(dim)
    assert low + high >= dim
    for size in (low, high):
        assert size == 0 or (size >= 16 and size & (size - 1) == 0)
    assert low + high <= max(16, 1 << (dim - 1).bit_length())


@pytest.mark.parametrize(
    ("dim", "expected"), [(64, (64, 0)), (80, (64, 16)), (96, (64, 32)), (120, (128, 0))]
)
def test_halves(dim: int, expected: tuple[int, int]) -> None:
    assert halves(dim) == expected


def test_heavy_tiles_for_batches_that_fill_them() -> None:
    pair = choose_tiles(torch.bfloat16, 128, 128, SHARED_BYTES)
    assert pair.heavy.rows > pair.light.rows
    assert pair.choose(rows_per_key(one_segment(31, 500, causal=False).work, 4)) == pair.light
    assert pair.choose(rows_per_key(one_segment(32, 500, causal=False).work, 4)) == pair.heavy


def test_rows_per_key_of_no_keys() -> None:
    assert rows_per_key(one_segment(5, 0, causal=False).work, 4) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kilobytes", [99, 163, 227])
def test_tiles_of_latents_fit_the_device(dtype: torch.dtype, kilobytes: int) -> None:
    """The longest that the kernel takes."""
    dims = (320, 288) if dtype == torch.float32 else (576, 512)
    assert TritonAttention.knows(dtype, *dims, latent=True)
    assert not TritonAttention.knows(dtype, dims[0] + 1, dims[1], latent=True)
    tiles = choose_tiles(dtype, *dims, kilobytes << 10).light
    assert tiles.shared_bytes(*dims, dtype.itemsize) <= kilobytes << 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [8, 64, 80, 128, 200, 256])
@pytest.mark.parametrize("kilobytes", [99, 163, 227])
def test_tiles_fit_the_device(dtype: torch.dtype, dim: int, kilobytes: int) -> None:
    """Consumer GPUs, A100 and Hopper."""
    pair = choose_tiles(dtype, dim, dim, kilobytes << 10)
    for tiles in (pair.light, pair.heavy):
        assert tiles.shared_bytes(dim, dim, dtype.itemsize) <= kilobytes << 10
