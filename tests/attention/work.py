"""Inputs for segment attention: a small forest of segments, rows that use it, paged KV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shoal.work import SegmentWork


@dataclass
class Case:
    """A token batch over random segments, and each row's keys spelled out."""

    work: SegmentWork
    row_slots: list[np.ndarray]
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

    items: list[tuple[int, int, int, bool, np.ndarray]] = []
    row_slots: list[np.ndarray] = []

    def own_chunk(context: np.ndarray) -> None:
        rows = int(rng.choice([1, 1, 1, 2, 7, 16]))
        tokens = rows + int(rng.choice([0, 0, 1, 5, 33, 64]))
        blocks = segment(tokens)
        first = len(row_slots)
        items.append((first, first + rows, tokens, True, blocks))
        keys = slots(blocks, tokens)
        row_slots.extend(
            np.concatenate([context, keys[: tokens - rows + row + 1]]) for row in range(rows)
        )

    def shared(tokens: int, context: np.ndarray, children: list) -> None:
        blocks = segment(tokens)
        first = len(row_slots)
        context = np.concatenate([context, slots(blocks, tokens)])
        for child in children:
            child(context)
        items.append((first, len(row_slots), tokens, False, blocks))

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
    lengths = [len(blocks) for *_, blocks in chosen]
    work = SegmentWork(
        num_rows=len(row_slots),
        row_first=np.array([i[0] for i in chosen], dtype=np.int32),
        row_last=np.array([i[1] for i in chosen], dtype=np.int32),
        kv_tokens=np.array([i[2] for i in chosen], dtype=np.int32),
        causal=np.array([i[3] for i in chosen], dtype=np.bool_),
        block_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        blocks=np.concatenate([i[4] for i in chosen]),
        block_size=block_size,
    )
    return Case(work, row_slots, num_blocks * block_size)


def dense_attention(
    case: Case, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:
    """Each row's softmax over all its keys at once, in float64: no segments, no merging."""
    heads, rows, _ = query.shape
    group = heads // keys.shape[0]
    out = torch.zeros(rows, heads, values.shape[2], dtype=torch.float64)
    for row, slots in enumerate(case.row_slots):
        at = torch.from_numpy(slots)
        k = keys[:, at].double().repeat_interleave(group, dim=0)
        v = values[:, at].double().repeat_interleave(group, dim=0)
        scores = torch.einsum("hd,hsd->hs", query[:, row].double(), k) * scale
        out[row] = torch.einsum("hs,hsd->hd", torch.softmax(scores, dim=-1), v)
    return out
