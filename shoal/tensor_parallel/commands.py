"""What rank 0 tells the other ranks, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from shoal.types import Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class Allocate:
    """Take memory for a layer's keys and values under a number; answered.

    Attributes:
        number: names the layer in later commands.
        shape: (kv_heads, key_dim, value_dim, num_blocks, block_size).
    """

    number: int
    shape: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Free:
    """Give the memory of layers back; not answered."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ForwardBatch:
    """Run a token batch; answered. Its columns follow as a broadcast between the devices.

    It is sent before every forward: its arrays are pickled as one, which takes a fifth of the time.

    Attributes:
        tokens: T, rows of the batch.
        rows: R, rows whose logits are wanted; None: all.
        layers: int64 [L], the numbers of the KV layers in use.
        work: who attends to what.
    """

    tokens: int
    rows: int | None
    layers: Int64Array
    work: SegmentWork

    @property
    def num_columns(self) -> int:
        """Numbers in the broadcast: token ids, positions and slots of T, and R rows."""
        return 3 * self.tokens + (self.rows or 0)

    def __reduce__(self) -> tuple[Callable[..., ForwardBatch], tuple[object, ...]]:
        work = self.work
        # By falling size of their numbers, so that each array begins where it may.
        arrays = (
            self.layers.astype(np.int64, copy=False),
            work.block_offsets.astype(np.int64, copy=False),
            work.blocks.astype(np.int32, copy=False),
            work.row_first.astype(np.int32, copy=False),
            work.row_last.astype(np.int32, copy=False),
            work.kv_tokens.astype(np.int32, copy=False),
            work.starts.astype(np.int32, copy=False),
            work.causal.astype(np.bool_, copy=False),
        )
        data = b"".join(np.ascontiguousarray(array).data for array in arrays)
        counts = (len(self.layers), len(work), len(work.blocks))
        return _forward_batch, (
            self.tokens,
            self.rows,
            counts,
            work.num_rows,
            work.block_size,
            data,
        )


def _forward_batch(
    tokens: int,
    rows: int | None,
    counts: tuple[int, int, int],
    num_rows: int,
    block_size: int,
    data: bytes,
) -> ForwardBatch:
    """The inverse of `ForwardBatch.__reduce__`; the arrays are new and may be written to."""
    num_layers, items, num_blocks = counts
    memory = bytearray(data)
    offset = 0

    def array(count: int, dtype: type[np.generic]) -> np.ndarray:
        nonlocal offset
        found = np.frombuffer(memory, dtype, count, offset)
        offset += found.nbytes
        return found

    layers = array(num_layers, np.int64)
    block_offsets = array(items + 1, np.int64)
    blocks = array(num_blocks, np.int32)
    row_first, row_last, kv_tokens, starts = (array(items, np.int32) for _ in range(4))
    work = SegmentWork(
        num_rows=num_rows,
        row_first=row_first,
        row_last=row_last,
        kv_tokens=kv_tokens,
        starts=starts,
        causal=array(items, np.bool_),
        block_offsets=block_offsets,
        blocks=blocks,
        block_size=block_size,
    )
    return ForwardBatch(tokens, rows, layers, work)


Command = Allocate | Free | ForwardBatch


class Outcome(IntEnum):
    """How a command went."""

    done = 0
    failed = 1
    """It raised; the rank is in step and goes on."""
    out_of_memory = 2
    """As `failed`, for want of device memory."""
    lost = 3
    """The rank cannot go on, and its process ends."""


@dataclass(frozen=True)
class Answer:
    """An outcome, and an error's text."""

    outcome: Outcome
    text: str = ""

    @classmethod
    def of(cls, error: BaseException, *, lost: bool = False) -> Answer:
        """The answer after an error."""
        text = f"{type(error).__name__}: {error}"
        if lost:
            return cls(Outcome.lost, text)
        memory = isinstance(error, torch.OutOfMemoryError)
        return cls(Outcome.out_of_memory if memory else Outcome.failed, text)
