"""Windows, chunks, soft-capping and sinks under Triton's interpreter, against the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shoal.attention import AttentionKind
from shoal.attention.triton import Capacity, Tiles, TritonAttention
from tests.attention.triton.test_attention_interpreted import SMALL, UPRIGHT, damaged
from tests.helpers.attention_work import (
    CPU,
    TOLERANCE,
    Case,
    dense_attention,
    one_segment,
    random_case,
    random_inputs,
)

WINDOWS = [1, 2, 16, 31, 32, 33, 64, 100]
ALL = AttentionKind(20, 2.0, torch.linspace(-6, 12, 4))


def check(
    backend: TritonAttention,
    case: Case,
    kind: AttentionKind,
    dtype: torch.dtype = torch.float32,
) -> None:
    """In a pool that is NaN wherever the case has no tokens."""
    query, keys, values = random_inputs(case, (4, 2), (16, 16), dtype)
    layer = damaged(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.75, kind)
    expected = dense_attention(case, query, keys, values, 0.75, kind)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("tiles", [SMALL, UPRIGHT])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("asks", ["window", "softcap", "sinks", "all", "chunk"])
def test_equals_dense_attention(tiles: Tiles, seed: int, asks: str) -> None:
    torch.manual_seed(seed)
    every = replace(ALL, window=WINDOWS[seed])
    kind = every if asks == "all" else AttentionKind(**{asks: getattr(every, asks)})
    if asks == "chunk":
        kind = replace(every, window=None, chunk=WINDOWS[seed])
    case = random_case(seed, block_size=[16, 32][seed % 2], scattered=True)
    check(TritonAttention(tiles), case, kind, [torch.float32, torch.float16][seed % 2])


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("window", [1, 100, 300, 700])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_segment_in_several_ranges(rows: int, window: int, chunked: bool) -> None:
    """Each row sees some of the ranges; its sink is added once."""
    torch.manual_seed(rows)
    backend = TritonAttention(SMALL, programs=16)
    kind = replace(ALL, window=None, chunk=window) if chunked else replace(ALL, window=window)
    check(backend, one_segment(rows, 1100, causal=True), kind)


@pytest.mark.parametrize("window", [40, 70, 200])
@pytest.mark.parametrize("chunked", [False, True])
def test_rows_of_a_chunk_that_see_different_ranges_alone(window: int, chunked: bool) -> None:
    """Early rows see only the first range, late ones only the last: nobody writes another's."""
    backend = TritonAttention(SMALL, programs=16)
    kind = AttentionKind(chunk=window) if chunked else AttentionKind(window)
    check(backend, one_segment(600, 600, causal=True), kind)


@pytest.mark.parametrize("kind", [AttentionKind(window=40), AttentionKind(chunk=90)])
def test_what_a_window_hides_is_not_read(kind: AttentionKind) -> None:
    case = one_segment(3, 500, causal=True)
    query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
    expected = dense_attention(case, query, keys, values, 0.25, kind)
    hidden = torch.from_numpy(case.work.slots(0, 0, 448))
    keys[:, hidden], values[:, hidden] = torch.nan, torch.nan
    backend = TritonAttention(SMALL)
    layer = damaged(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.25, kind)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


def test_fixed_buffers_serve_layers_of_several_kinds() -> None:
    """A layer with a window, one without, sinks on both: each at its own addresses."""
    backend = TritonAttention(SMALL)
    fixed = backend.fixed(Capacity(rows=100, blocks=400), CPU)
    kinds = replace(ALL, window=20), AttentionKind(sinks=ALL.sinks), AttentionKind(window=1)
    kinds += (AttentionKind(chunk=20),)
    addresses = set()
    for seed in (8, 1, 5, 8, 2):
        case = random_case(seed, block_size=16, scattered=True)
        query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
        layer = damaged(backend, case, keys, values)
        assert fixed.fill(case.work)
        rows = case.work.num_rows
        padded = torch.full((4, 100, 16), torch.nan)
        padded[:, :rows] = query
        for kind in kinds:
            out = backend(padded, layer, fixed, 0.75, kind)
            expected = dense_attention(case, query, keys, values, 0.75, kind)
            torch.testing.assert_close(out[:rows].double(), expected, atol=2e-5, rtol=0)
            assert torch.equal(out[rows:], torch.zeros_like(out[rows:]))
        addresses.add(tuple(tasks.counts.data_ptr() for tasks in fixed._tasks.values()))
    (each,) = addresses
    assert len(each) == len(kinds)


def test_a_small_softcap_of_small_scores() -> None:
    case = one_segment(2, 300, causal=True)
    query, keys, values = random_inputs(case, (2, 1), (16, 16), torch.float32)
    query *= 0.05
    kind, backend = AttentionKind(softcap=50.0), TritonAttention(SMALL)
    layer = damaged(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 1.0, kind)
    expected = dense_attention(case, query, keys, values, 1.0, kind)
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
