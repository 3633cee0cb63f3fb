"""Every kernel against attention by its definition, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shoal.attention import AttentionBackend
from shoal.attention.native import NativeAttention
from shoal.attention.reference import ReferenceAttention
from shoal.attention.torch_cpu import TorchCpuAttention
from shoal.kernels import available_isas, load_kernels
from tests.helpers.attention_work import (
    CPU,
    TOLERANCE,
    dense_attention,
    filled,
    one_segment,
    random_case,
    random_inputs,
)
from tests.helpers.combinations import together


def native(isa_name: str) -> NativeAttention:
    kernels = load_kernels()
    assert kernels is not None, "the kernels must be built where the tests run"
    return NativeAttention(kernels, next(isa for isa in available_isas() if isa.name == isa_name))


PLAIN = {"reference": ReferenceAttention, "torch_cpu": TorchCpuAttention}
NATIVE = [isa.name for isa in available_isas()]


def known_format(name: str, dtype: torch.dtype, *_: Any) -> bool:
    """The C++ kernel knows bfloat16 and float32."""
    return name in PLAIN or dtype != torch.float16


def backend_named(name: str) -> AttentionBackend:
    return PLAIN[name]() if name in PLAIN else native(name)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dim", [64, 24])
def test_results_in_float32_are_those_that_would_be_rounded(name: str, dim: int) -> None:
    torch.manual_seed(dim)
    case = random_case(dim, block_size=32, scattered=True)
    query, keys, values = random_inputs(case, (6, 2), (dim, dim), torch.bfloat16)
    backend = native(name)
    layer = filled(backend, case, keys, values)
    prepared = backend.prepare(case.work, CPU)
    wide = backend(query, layer, prepared, 0.2, out_dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert torch.equal(wide.bfloat16(), backend(query, layer, prepared, 0.2))
    assert not torch.equal(wide.bfloat16().float(), wide)


@pytest.mark.parametrize(
    ("name", "dtype", "heads", "seed"),
    together(
        [*PLAIN, *NATIVE],
        list(TOLERANCE),
        [(4, 4), (6, 2), (8, 1)],
        range(8),
        strength=3,
        allowed=known_format,
    ),
)
def test_equals_dense_attention(
    name: str, dtype: torch.dtype, heads: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    size = 32 if name in NATIVE else [1, 3, 16][seed % 3]
    dim = [16, 64, 8, 96, 32, 80, 128, 2][seed] if name in NATIVE else 16
    case = random_case(seed, block_size=size, scattered=seed % 2 == 0)
    query, keys, values = random_inputs(case, heads, (dim, dim), dtype)
    backend, scale = backend_named(name), dim**-0.5
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), scale)
    expected = dense_attention(case, query, keys, values, scale)
    assert out.dtype == dtype
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("name", ["reference", *NATIVE])
def test_gives_zeros_to_a_row_without_keys(name: str) -> None:
    case = random_case(0, block_size=32, scattered=False)
    work = case.work
    query, keys, values = random_inputs(case, (2, 1), (8, 8), torch.float32)
    backend = backend_named(name)
    layer = filled(backend, case, keys, values)
    work.kv_tokens[:] = 0
    work.causal[:] = False
    out = backend(query, layer, backend.prepare(work, CPU), 1.0)
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtype", "size", "causal"),
    together(
        NATIVE,
        [torch.float32, torch.bfloat16],
        [(1, 5000), (3, 2049), (40, 1000), (257, 257), (300, 777)],
        [False, True],
        strength=3,
    ),
)
def test_long_segments(name: str, dtype: torch.dtype, size: tuple[int, int], causal: bool) -> None:
    rows, tokens = size
    torch.manual_seed(rows)
    case = one_segment(rows, tokens, causal=causal)
    query, keys, values = random_inputs(case, (6, 2), (64, 64), dtype)
    backend = native(name)
    out = backend(
        query, filled(backend, case, keys, values), backend.prepare(case.work, CPU), 0.125
    )
    expected = dense_attention(case, query, keys, values, 0.125)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_splits_keys_over_threads(name: str, dtype: torch.dtype) -> None:
    case = one_segment(2, 20_000, causal=False)
    query, keys, values = random_inputs(case, (3, 1), (64, 64), dtype)
    backend = native(name)
    layer = filled(backend, case, keys, values)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        prepared = backend.prepare(case.work, CPU)
        out = backend(query, layer, prepared, 0.125)
        tasks, parts = backend.tasks(prepared)
    finally:
        torch.set_num_threads(threads)
    assert tasks == parts >= 3
    expected = dense_attention(case, query, keys, values, 0.125)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_and_key_and_value_dims_that_differ(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    case = one_segment(70, 700, causal=True)
    query, keys, values = random_inputs(case, (4, 2), (32, 48), dtype)
    query *= 40
    backend = native(name)
    out = backend(query, filled(backend, case, keys, values), backend.prepare(case.work, CPU), 1.0)
    expected = dense_attention(case, query, keys, values, 1.0)
    # Scores of some hundreds: float32 itself errs by 1e-4 in the exponent.
    torch.testing.assert_close(out.double(), expected, atol=10 * TOLERANCE[dtype], rtol=1e-3)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_not_swallowed(name: str, dtype: torch.dtype) -> None:
    case = one_segment(4, 100, causal=False)
    query, keys, values = random_inputs(case, (2, 2), (64, 64), dtype)
    query[1, 2, 3] = torch.nan
    backend = native(name)
    out = backend(
        query, filled(backend, case, keys, values), backend.prepare(case.work, CPU), 0.125
    )
    lost = torch.zeros(4, 2, dtype=torch.bool)
    lost[2, 1] = True
    assert torch.equal(out.isnan().any(dim=-1), lost)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_damaged_earlier_occupant_leaves_no_trace(name: str, dtype: torch.dtype) -> None:
    case = one_segment(3, 65, causal=False)
    query, keys, values = random_inputs(case, (2, 2), (64, 64), dtype)
    backend = native(name)
    layer = filled(backend, case, keys, values)
    every = torch.arange(case.num_slots)
    nan = torch.full((2, case.num_slots, 64), torch.nan, dtype=dtype)
    backend.store(layer, every, nan, nan)
    slots = torch.from_numpy(case.work.slots(0))
    # As a run fills it: a chunk, then token by token.
    for part in (slots[:60], *slots[60:].split(1)):
        backend.store(layer, part, keys[:, part], values[:, part])
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.125)
    expected = dense_attention(case, query, keys, values, 0.125)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("name", NATIVE)
def test_reads_any_strides(name: str) -> None:
    """Queries and keys arrive as views of one fused product, rows outermost."""
    case = one_segment(30, 90, causal=True)
    fused = torch.randn(30, (4 + 2 + 2) * 64).bfloat16()
    query, key, value = (
        part.view(30, -1, 64).transpose(0, 1) for part in fused.split([256, 128, 128], dim=1)
    )
    _, keys, values = random_inputs(case, (4, 2), (64, 64), torch.bfloat16)
    backend = native(name)
    layer = filled(backend, case, keys, values)
    slots = torch.from_numpy(case.work.slots(0)[60:].copy())
    backend.store(layer, slots, key, value)
    keys[:, slots], values[:, slots] = key, value
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.125)
    expected = dense_attention(case, query, keys, values, 0.125)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[torch.bfloat16], rtol=0)
