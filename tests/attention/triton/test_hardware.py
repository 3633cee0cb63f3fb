"""The Triton kernels on a GPU: real sizes, every number format; collected only where there is one.

The same contract as under the interpreter, at the tiles of the table, and what only a device can
show: bfloat16, CUDA graphs, batches in flight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shoal.attention import KVShape, select_backend
from shoal.attention.reference import ReferenceAttention
from shoal.attention.triton import Capacity, TritonAttention
from shoal.work import SegmentWork
from tests.helpers.attention_work import TOLERANCE, random_case

CUDA = torch.device("cuda")


def decode_batch(
    rng: np.random.Generator, prefixes: int, degree: int, prefix: int, own: int, chunk: int = 0
) -> SegmentWork:
    """Groups of `degree` decoding rows on a shared prefix each, one prefilling chunk at the end."""
    rows = prefixes * degree
    shared_blocks, own_lengths = -(-prefix // 32), rng.integers(1, 2 * own, rows)
    lengths = [np.full(prefixes, prefix), own_lengths]
    first = [np.arange(prefixes) * degree, np.arange(rows)]
    last = [np.arange(1, prefixes + 1) * degree, np.arange(1, rows + 1)]
    causal = [np.zeros(prefixes, bool), np.ones(rows, bool)]
    starts = [np.zeros(prefixes), np.full(rows, prefix)]
    if chunk:
        for column, value in (
            (lengths, chunk + 100),
            (first, rows),
            (last, rows + chunk),
            (starts, 0),
        ):
            column.append(np.array([value]))
        causal.append(np.ones(1, bool))
    tokens = np.concatenate(lengths)
    counts = -(-tokens // 32)
    assert counts[0] == shared_blocks
    blocks = rng.permutation(int(counts.sum())).astype(np.int32)
    return SegmentWork(
        num_rows=rows + chunk,
        row_first=np.concatenate(first).astype(np.int32),
        row_last=np.concatenate(last).astype(np.int32),
        kv_tokens=tokens.astype(np.int32),
        starts=np.concatenate(starts).astype(np.int32),
        causal=np.concatenate(causal),
        block_offsets=np.concatenate([[0], np.cumsum(counts)]),
        blocks=blocks,
        block_size=32,
    )


def compare(
    work: SegmentWork, heads: tuple[int, int], dim: int, dtype: torch.dtype, num_blocks: int
) -> None:
    """Triton against the reference in float32 on the same numbers, pool by pool."""
    generator = torch.Generator(CUDA).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=CUDA, generator=generator).to(dtype)

    query = normal(heads[0], work.num_rows, dim)
    slots = torch.arange(num_blocks * 32, device=CUDA)
    key, value = normal(heads[1], len(slots), dim), normal(heads[1], len(slots), dim)
    found = []
    for backend, number in ((TritonAttention(), dtype), (ReferenceAttention(), torch.float32)):
        shape = KVShape(heads[1], dim, dim, num_blocks, 32, number, CUDA)
        layer = backend.allocate(shape)
        backend.store(layer, slots, key.to(number), value.to(number))
        prepared = backend.prepare(work, CUDA)
        found.append(backend(query.to(number), layer, prepared, dim**-0.5).float())
    torch.testing.assert_close(found[0], found[1], atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads", [(8, 8), (32, 8), (14, 2), (16, 1)])
def test_decodes_and_a_chunk(dtype: torch.dtype, dim: int, heads: tuple[int, int]) -> None:
    work = decode_batch(np.random.default_rng(0), 5, 40, 3000, 200, chunk=700)
    compare(work, heads, dim, dtype, int(work.blocks.max()) + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 100_000, 50), (1, 256, 16_384, 128), (64, 4, 1024, 64)])
def test_few_and_many_rows(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    work = decode_batch(np.random.default_rng(1), *shape)
    compare(work, (32, 8), 128, dtype, int(work.blocks.max()) + 1)


@pytest.mark.parametrize("seed", range(10))
def test_any_forest(seed: int) -> None:
    case = random_case(seed, block_size=32, scattered=True)
    compare(case.work, (14, 2), 64, torch.bfloat16, case.num_slots // 32)


def test_replays_in_a_graph() -> None:
    """Captured once, replayed for other batches of other sizes: what `fill` is for."""
    rng = np.random.default_rng(2)
    works = [
        decode_batch(rng, *shape) for shape in ((2, 60, 500, 90), (1, 8, 90, 20), (7, 18, 64, 300))
    ]
    num_blocks = max(int(work.blocks.max()) for work in works) + 1
    shape = KVShape(8, 128, 128, num_blocks, 32, torch.bfloat16, CUDA)
    backend = TritonAttention()
    layer = backend.allocate(shape)
    for pool in (layer.keys, layer.values):
        pool.normal_()
    query = torch.randn(32, 128, 128, device=CUDA, dtype=torch.bfloat16)
    fixed = backend.fixed(Capacity(rows=128, blocks=num_blocks), CUDA)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        assert fixed.fill(works[0])
        backend(query, layer, fixed, 0.1)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            out = backend(query, layer, fixed, 0.1)
        for work in works:
            query.normal_()
            assert fixed.fill(work)
            graph.replay()
            expected = torch.zeros_like(out)
            rows = query[:, : work.num_rows]
            expected[: work.num_rows] = backend(rows, layer, backend.prepare(work, CUDA), 0.1)
            torch.testing.assert_close(out, expected)


def test_many_batches_in_flight() -> None:
    """Host buffers are not overwritten before they are copied, however far the host runs ahead."""
    rng = np.random.default_rng(3)
    works = [decode_batch(rng, 3, int(rng.integers(1, 30)), 400, 60) for _ in range(50)]
    num_blocks = max(int(work.blocks.max()) for work in works) + 1
    backend = TritonAttention()
    layer = backend.allocate(KVShape(2, 64, 64, num_blocks, 32, torch.float16, CUDA))
    layer.keys.normal_()
    layer.values.normal_()
    query = torch.randn(8, 100, 64, device=CUDA, dtype=torch.float16)

    def run(work: SegmentWork) -> torch.Tensor:
        return backend(query[:, : work.num_rows], layer, backend.prepare(work, CUDA), 0.1)

    expected = []
    for work in works:
        expected.append(run(work))
        torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    found = [run(work) for work in works]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_is_chosen_on_cuda() -> None:
    assert select_backend(torch.bfloat16, CUDA, [(8, 128, 128)]).name == "triton"


def test_partial_of_halves_merges_to_the_whole() -> None:
    work = decode_batch(np.random.default_rng(4), 4, 30, 2000, 100)
    backend = TritonAttention()
    layer = backend.allocate(
        KVShape(8, 128, 128, int(work.blocks.max()) + 1, 32, torch.bfloat16, CUDA)
    )
    layer.keys.normal_()
    layer.values.normal_()
    query = torch.randn(32, work.num_rows, 128, device=CUDA, dtype=torch.bfloat16)
    parts = []
    for chosen in (work.causal, ~work.causal):
        some = replace(work, kv_tokens=np.where(chosen, work.kv_tokens, 0).astype(np.int32))
        parts.append(backend.partial(query, layer, backend.prepare(some, CUDA), 0.1))
    (out, lse), (other, other_lse) = parts
    total = torch.logaddexp(lse, other_lse)
    merged = out * (lse - total).exp()[..., None] + other * (other_lse - total).exp()[..., None]
    whole, whole_lse = backend.partial(query, layer, backend.prepare(work, CUDA), 0.1)
    torch.testing.assert_close(merged, whole, atol=1e-2, rtol=0)
    torch.testing.assert_close(total, whole_lse, atol=1e-3, rtol=1e-4)
