"""Inputs for segment attention: a small forest of segments, rows that use it, paged KV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shoal.attention import PLAIN, AttentionBackend, AttentionKind, KVLayer, KVShape
from shoal.types import Int64Array
from shoal.work import SegmentWork

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""Largest absolute error against float64, unit-normal inputs."""


@dataclass
class Case:
    """A token batch over random segments, and each row's keys spelled out."""

    work: SegmentWork
    row_slots: list[np.ndarray]
    """In order of position: the last is the row's own."""
    num_slots: int


def random_case(seed: int, *, block_size: int, scattered: bool) -> Case:
    """Two-level segments, each with a few owners: prefill chunks and decodes, odd sizes."""
    rng = np.random.default_rng(seed)
    num_blocks = 400
    free = list(rng.permutation(num_blocks)) if scattered else list(range(num_blocks))[::-1]

    def segment(tokens: int) -> np.ndarray:
        return np.array([free.pop() for _ in range(-(-tokens // block_size))], dtype=np.int32)

    def slots(blocks: np.ndarray, tokens: int) -> np.ndarray:
        index = np.arange(tokens)
        return blocks[index // block_size].astype(np.int64) * block_size + index % block_size

    items: list[tuple[int, int, int, bool, np.ndarray, int]] = []
    row_slots: list[np.ndarray] = []

    def own_chunk(context: np.ndarray) -> None:
        rows = int(rng.choice([1, 1, 1, 2, 7, 16]))
        tokens = rows + int(rng.choice([0, 0, 1, 5, 33, 64]))
        blocks = segment(tokens)
        first = len(row_slots)
        items.append((first, first + rows, tokens, True, blocks, len(context)))
        keys = slots(blocks, tokens)
        row_slots.extend(
            np.concatenate([context, keys[: tokens - rows + row + 1]]) for row in range(rows)
        )

    def shared(tokens: int, context: np.ndarray, children: list) -> None:
        blocks = segment(tokens)
        first, start = len(row_slots), len(context)
        context = np.concatenate([context, slots(blocks, tokens)])
        for child in children:
            child(context)
        items.append((first, len(row_slots), tokens, False, blocks, start))

    nothing = np.zeros(0, dtype=np.int64)
    for _ in range(int(rng.integers(1, 4))):
        inner = [own_chunk] * int(rng.integers(0, 4))
        outer = [own_chunk] * int(rng.integers(0, 3))
        length = int(rng.choice([0, 1, 3, 15, 50]))
        outer.append(lambda c, i=inner, n=length: shared(n, c, i))
        shared(int(rng.choice([1, 8, 17, 100])), nothing, outer)
    own_chunk(nothing)
    order = rng.permutation(len(items))
    chosen = [items[i] for i in order]
    lengths = [len(i[4]) for i in chosen]
    work = SegmentWork(
        num_rows=len(row_slots),
        row_first=np.array([i[0] for i in chosen], dtype=np.int32),
        row_last=np.array([i[1] for i in chosen], dtype=np.int32),
        kv_tokens=np.array([i[2] for i in chosen], dtype=np.int32),
        starts=np.array([i[5] for i in chosen], dtype=np.int32),
        causal=np.array([i[3] for i in chosen], dtype=np.bool_),
        block_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        blocks=np.concatenate([i[4] for i in chosen]),
        block_size=block_size,
    )
    return Case(work, row_slots, num_blocks * block_size)


def dense_attention(
    case: Case,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    kind: AttentionKind = PLAIN,
) -> torch.Tensor:
    """Each row's softmax over all its keys at once, in float64: no segments, no merging."""
    heads, rows, _ = query.shape
    group = heads // keys.shape[0]
    out = torch.zeros(rows, heads, values.shape[2], dtype=torch.float64)
    for row, slots in enumerate(case.row_slots):
        seen = kind.window or len(slots)
        if kind.chunk is not None and len(slots):
            seen = (len(slots) - 1) % kind.chunk + 1
        at = torch.from_numpy(slots[-seen:] if len(slots) else slots)
        k = keys[:, at].double().repeat_interleave(group, dim=0)
        v = values[:, at].double().repeat_interleave(group, dim=0)
        scores = torch.einsum("hd,hsd->hs", query[:, row].double(), k) * scale
        if kind.softcap is not None:
            scores = kind.softcap * torch.tanh(scores / kind.softcap)
        if kind.sinks is not None:
            scores = torch.cat([scores, kind.sinks.double()[:, None]], dim=1)
        weights = torch.softmax(scores, dim=-1)[:, : len(at)]
        out[row] = torch.einsum("hs,hsd->hd", weights, v)
    return out


def random_inputs(
    case: Case, heads: tuple[int, int], dims: tuple[int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query = torch.randn(heads[0], case.work.num_rows, dims[0]).to(dtype)
    keys = torch.randn(heads[1], case.num_slots, dims[0]).to(dtype)
    values = torch.randn(heads[1], case.num_slots, dims[1]).to(dtype)
    return query, keys, values


def filled(
    backend: AttentionBackend, case: Case, keys: torch.Tensor, values: torch.Tensor
) -> KVLayer:
    """A pool that holds what `case` needs; its other slots were never written."""
    size = case.work.block_size
    shape = KVShape(
        len(keys), keys.shape[2], values.shape[2], case.num_slots // size, size, keys.dtype, CPU
    )
    layer = backend.allocate(shape)
    slots = torch.from_numpy(used_slots(case.work))
    backend.store(layer, slots, keys[:, slots], values[:, slots])
    return layer


def used_slots(work: SegmentWork) -> Int64Array:
    found = [work.slots(item) for item in range(len(work))]
    return np.unique(np.concatenate(found))


def one_segment(rows: int, tokens: int, *, causal: bool, scattered: bool = True) -> Case:
    """`rows` rows attend to one segment, all of it or causally to its end."""
    num_blocks = -(-tokens // 32) + 3
    order = np.random.default_rng(0).permutation(num_blocks) if scattered else np.arange(num_blocks)
    blocks = order[: -(-tokens // 32)].astype(np.int32)
    work = SegmentWork(
        num_rows=rows,
        row_first=np.array([0], np.int32),
        row_last=np.array([rows], np.int32),
        kv_tokens=np.array([tokens], np.int32),
        starts=np.array([0], np.int32),
        causal=np.array([causal]),
        block_offsets=np.array([0, len(blocks)], np.int64),
        blocks=blocks,
        block_size=32,
    )
    slots = work.slots(0)
    seen = [slots[: tokens - rows + row + 1] if causal else slots for row in range(rows)]
    return Case(work, seen, num_blocks * 32)
