"""What FlashInfer is told about a shape, checked without FlashInfer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.gpu_parts.flashinfer_peer import (
    FlashInferAbsentError,
    FlashInferCascade,
    Level,
    level,
    levels,
)
from benchmarks.gpu_parts.kernel import shapes
from benchmarks.peers.client import ROOT
from benchmarks.shapes import BLOCK, Shape
from shoal.attention import KVLayer, KVShape
from shoal.attention.reference import ReferenceAttention, merge
from shoal.work import SegmentWork

CHUNKS = Shape("chunks", segments=2, shared=50, users=3, rows=4, own=37)
DECODES = Shape("decodes", segments=2, shared=2 * BLOCK, users=2, rows=1, own=BLOCK)
ALONE = Shape("alone", segments=1, shared=0, users=1, rows=5, own=9)
HEADS, KV_HEADS, DIM = 4, 2, 8


def test_rows_pages_and_last_pages() -> None:
    shared, own = levels(CHUNKS)
    assert shared.rows.tolist() == [0, 12, 24]
    assert shared.pages.tolist() == [0, 2, 4]
    assert shared.last_page.tolist() == [18, 18]
    assert own.rows.tolist() == list(range(0, 25, 4))
    assert own.pages.tolist() == list(range(0, 13, 2))
    assert own.last_page.tolist() == [5] * 6


def test_a_last_page_may_be_full() -> None:
    shared, own = levels(DECODES)
    assert shared.last_page.tolist() == [BLOCK, BLOCK]
    assert shared.pages.tolist() == [0, 2, 4]
    assert own.last_page.tolist() == [BLOCK] * 4


def test_nothing_shared_is_one_level() -> None:
    (own,) = levels(ALONE)
    assert own.rows.tolist() == [0, 5]
    assert own.last_page.tolist() == [9]


@pytest.mark.parametrize("shape", [CHUNKS, DECODES, ALONE, *shapes()], ids=lambda s: s.name)
def test_pages_are_the_work_lists_slots(shape: Shape) -> None:
    works = [shape.work(causal) for causal in (False, True)]
    found = levels(shape)
    assert len(found) == sum(len(work) > 0 for work in works)
    for part, work in zip(found, [work for work in works if len(work)], strict=True):
        assert [array.dtype for array in vars(part).values()] == [np.int32] * 4
        assert np.array_equal(part.rows[:-1], work.row_first)
        assert np.array_equal(part.rows[1:], work.row_last)
        for entry in range(len(work)):
            assert np.array_equal(slots(part, entry), work.slots(entry))


@pytest.mark.parametrize("shape", [CHUNKS, DECODES, ALONE], ids=lambda s: s.name)
def test_the_levels_merged_are_the_attention(shape: Shape) -> None:
    """By FlashInfer's documentation: pages of a pool, the last level causal, then a merge."""
    torch.manual_seed(0)
    query = torch.randn(HEADS, shape.num_rows, DIM)
    keys, values = (torch.randn(shape.num_blocks, KV_HEADS, BLOCK, DIM) for _ in range(2))
    out = torch.zeros(shape.num_rows, HEADS, DIM)
    lse = torch.full((shape.num_rows, HEADS), -torch.inf)
    *above, last = levels(shape)
    merge(out, lse, *paged_attention(last, query, keys, values, causal=True))
    for part in above:
        merge(out, lse, *paged_attention(part, query, keys, values, causal=False))
    pool = KVLayer(kv_shape(shape), plain(keys), plain(values))
    expected = ReferenceAttention()(query, pool, shape.work(), DIM**-0.5)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def slots(part: Level, entry: int) -> np.ndarray:
    """The pool's slots of an entry's tokens, in order."""
    pages = part.page_ids[part.pages[entry] : part.pages[entry + 1]]
    every = pages[:, None].astype(np.int64) * BLOCK + np.arange(BLOCK)
    return every.reshape(-1)[: (len(pages) - 1) * BLOCK + part.last_page[entry]]


def paged_attention(
    part: Level, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Results [rows, heads, dim] and their log-sum-exps [rows, heads]."""
    out, lse = torch.empty(query.shape[1], HEADS, DIM), torch.empty(query.shape[1], HEADS)
    for entry in range(len(part.last_page)):
        rows = slice(*part.rows[entry : entry + 2].tolist())
        where = torch.from_numpy(slots(part, entry))
        k, v = (plain(t)[:, where].repeat_interleave(HEADS // KV_HEADS, 0) for t in (keys, values))
        scores = query[:, rows] @ k.transpose(1, 2) * DIM**-0.5
        if causal:
            n, tokens = scores.shape[1:]
            later = torch.arange(tokens) > torch.arange(tokens - n, tokens)[:, None]
            scores.masked_fill_(later, -torch.inf)
        lse[rows] = scores.logsumexp(-1).T
        out[rows] = (scores.softmax(-1) @ v).transpose(0, 1)
    return out, lse


def plain(pool: torch.Tensor) -> torch.Tensor:
    """[kv_heads, slots, dim] of a pool [blocks, kv_heads, block, dim]."""
    return pool.transpose(0, 1).reshape(KV_HEADS, -1, DIM)


def kv_shape(shape: Shape) -> KVShape:
    device = torch.device("cpu")
    return KVShape(KV_HEADS, DIM, DIM, shape.num_blocks, BLOCK, torch.float32, device)


def without_first(work: SegmentWork) -> SegmentWork:
    return replace(work, row_first=work.row_first[1:], row_last=work.row_last[1:])


def test_rows_without_an_item_are_refused() -> None:
    with pytest.raises(ValueError, match="divide all rows"):
        level(without_first(CHUNKS.work(True)))
    with pytest.raises(ValueError, match="divide all rows"):
        level(CHUNKS.work())


def test_without_a_device_it_says_so() -> None:
    pool = torch.zeros(DECODES.num_blocks, KV_HEADS, BLOCK, DIM)
    query = torch.zeros(HEADS, DECODES.num_rows, DIM)
    layer = KVLayer(kv_shape(DECODES), pool, pool)
    with pytest.raises(FlashInferAbsentError, match="not measured: FlashInfer needs a CUDA device"):
        FlashInferCascade(DECODES, query, layer, "auto")


@pytest.mark.skipif(importlib.util.find_spec("flashinfer") is not None, reason="it is installed")
def test_compiling_needs_the_package() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_parts.flashinfer_kernels"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No module named 'flashinfer'" in done.stderr
