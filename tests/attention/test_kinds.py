"""Windows, chunks, soft-capping and sinks: every kernel against the definition, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shoal.attention import AttentionBackend, AttentionKind
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

NATIVE = [isa.name for isa in available_isas()]
DTYPES = [torch.float32, torch.bfloat16]
WINDOWS = [1, 2, 16, 31, 32, 33, 64, 100]
"""Around a block of 32, below and above most of a case's segments, which lie up to 150 deep."""


def backend_named(name: str) -> AttentionBackend:
    if name == "reference":
        return ReferenceAttention()
    if name == "torch_cpu":
        return TorchCpuAttention()
    kernels = load_kernels()
    assert kernels is not None
    return NativeAttention(kernels, next(isa for isa in available_isas() if isa.name == name))


def random_sinks(heads: int) -> torch.Tensor:
    """From a sink that takes nearly nothing to one that takes nearly all."""
    return torch.linspace(-6, 12, heads)


@pytest.mark.parametrize(
    ("name", "dtype", "heads", "seed", "asks"),
    together(
        ["reference", "torch_cpu", *NATIVE],
        DTYPES,
        [(4, 4), (6, 2), (8, 1)],
        range(8),
        ["window", "softcap", "sinks", "all", "chunk"],
        strength=3,
    ),
)
def test_equals_dense_attention(
    name: str, dtype: torch.dtype, heads: tuple[int, int], seed: int, asks: str
) -> None:
    torch.manual_seed(seed)
    size = 32 if name in NATIVE else [1, 3, 16][seed % 3]
    dim = [16, 64, 8, 96, 32, 80, 128, 2][seed] if name in NATIVE else 16
    case = random_case(seed, block_size=size, scattered=seed % 2 == 0)
    query, keys, values = random_inputs(case, heads, (dim, dim), dtype)
    every = AttentionKind(WINDOWS[seed], 2.0, random_sinks(heads[0]))
    kind = every if asks == "all" else AttentionKind(**{asks: getattr(every, asks)})
    if asks == "chunk":
        kind = replace(every, window=None, chunk=WINDOWS[seed])
    backend, scale = backend_named(name), 3 * dim**-0.5
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), scale, kind)
    expected = dense_attention(case, query, keys, values, scale, kind)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtype", "size", "window", "split"),
    together(
        NATIVE,
        DTYPES,
        [(1, 5000), (257, 257), (300, 777), (40, 1100)],
        [1, 128, 600, 1024],
        [(1, False), (3, False), (3, True)],
        strength=3,
    ),
)
def test_long_segments(
    name: str, dtype: torch.dtype, size: tuple[int, int], window: int, split: tuple[int, bool]
) -> None:
    """Several chunks of keys, on one thread and on several."""
    (rows, tokens), (threads, chunked) = size, split
    torch.manual_seed(rows)
    case = one_segment(rows, tokens, causal=True)
    query, keys, values = random_inputs(case, (6, 2), (64, 64), dtype)
    backend, kind = backend_named(name), AttentionKind(window, 5.0, random_sinks(6))
    kind = replace(kind, window=None, chunk=window) if chunked else kind
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = backend(
            query, filled(backend, case, keys, values), backend.prepare(case.work, CPU), 0.125, kind
        )
    finally:
        torch.set_num_threads(before)
    expected = dense_attention(case, query, keys, values, 0.125, kind)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("name", NATIVE)
def test_sinks_are_added_once_to_keys_that_threads_share(name: str) -> None:
    case = one_segment(2, 20_000, causal=False)
    query, keys, values = random_inputs(case, (3, 1), (64, 64), torch.float32)
    backend, kind = backend_named(name), AttentionKind(softcap=5.0, sinks=random_sinks(3))
    assert isinstance(backend, NativeAttention)
    layer, before = filled(backend, case, keys, values), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        prepared = backend.prepare(case.work, CPU)
        out = backend(query, layer, prepared, 0.125, kind)
        assert backend.tasks(prepared)[1] >= 3
    finally:
        torch.set_num_threads(before)
    expected = dense_attention(case, query, keys, values, 0.125, kind)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[torch.float32], rtol=0)


@pytest.mark.parametrize("name", ["reference", "torch_cpu", *NATIVE])
@pytest.mark.parametrize("kind", [AttentionKind(window=40), AttentionKind(chunk=90)])
def test_what_a_window_hides_is_not_read(name: str, kind: AttentionKind) -> None:
    """Whole blocks outside it may hold anything."""
    case = one_segment(3, 500, causal=True)
    query, keys, values = random_inputs(case, (4, 2), (64, 64), torch.float32)
    expected = dense_attention(case, query, keys, values, 0.125, kind)
    hidden = torch.from_numpy(case.work.slots(0, 0, 448))
    keys[:, hidden], values[:, hidden] = torch.nan, torch.nan
    backend = backend_named(name)
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.125, kind)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["reference", "torch_cpu", *NATIVE])
def test_a_batch_serves_layers_of_several_kinds(name: str) -> None:
    """In turn, as a model's layers are; what was prepared is the same object."""
    case = random_case(3, block_size=32, scattered=True)
    query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
    backend = backend_named(name)
    layer, prepared = filled(backend, case, keys, values), backend.prepare(case.work, CPU)
    kinds = AttentionKind(8), AttentionKind(), AttentionKind(30), AttentionKind(1000)
    kinds += AttentionKind(chunk=30), AttentionKind(chunk=8)
    for kind in kinds * 2:
        out = backend(query, layer, prepared, 0.25, kind)
        expected = dense_attention(case, query, keys, values, 0.25, kind)
        torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["reference", "torch_cpu", *NATIVE])
def test_a_small_softcap_of_small_scores(name: str) -> None:
    """tanh(x) is about x there: what is lost by subtraction would show."""
    case = one_segment(2, 300, causal=True)
    query, keys, values = random_inputs(case, (2, 1), (64, 64), torch.float32)
    query *= 0.05
    kind = AttentionKind(softcap=50.0)
    backend = backend_named(name)
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 1.0, kind)
    expected = dense_attention(case, query, keys, values, 1.0, kind)
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["reference", *NATIVE])
def test_a_sink_takes_all_of_a_row_without_keys(name: str) -> None:
    case = random_case(0, block_size=32, scattered=False)
    query, keys, values = random_inputs(case, (2, 1), (8, 8), torch.float32)
    backend = backend_named(name)
    layer = filled(backend, case, keys, values)
    work = replace(case.work, kv_tokens=case.work.kv_tokens * 0, causal=case.work.causal & False)
    kind = AttentionKind(sinks=torch.zeros(2))
    out = backend(query, layer, backend.prepare(work, CPU), 1.0, kind)
    assert torch.equal(out, torch.zeros_like(out))
