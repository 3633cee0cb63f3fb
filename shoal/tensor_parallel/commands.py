"""What the first process tells the others: a header of int64 numbers, then arrays, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from shoal.errors import InternalError
from shoal.types import Int64Array
from shoal.work import SegmentWork


class Kind(IntEnum):
    """The first number of a message."""

    stop = 0
    allocate = 1
    free = 2
    forward = 3


@dataclass(frozen=True)
class Stop:
    """End."""


@dataclass(frozen=True)
class Allocate:
    """Take memory for a layer's keys and values under a number; answered.

    Attributes:
        number: names the layer in later messages.
        shape: (kv_heads, key_dim, value_dim, num_blocks, block_size).
    """

    number: int
    shape: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Free:
    """Give the memory of layers back; not answered."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forward:
    """Run a token batch; answered. Its columns follow as a broadcast between the devices.

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


Message = Stop | Allocate | Free | Forward


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case Stop():
            return _numbers(Kind.stop)
        case Allocate(number, shape):
            return _numbers(Kind.allocate, number, *shape)
        case Free(numbers):
            return _numbers(Kind.free, *numbers)
        case Forward(tokens, rows, layers, work):
            sizes = (len(layers), work.num_rows, len(work), len(work.blocks), work.block_size)
            header = _numbers(Kind.forward, tokens, -1 if rows is None else rows, *sizes)
            # By falling size of their numbers, so that each array begins where it may.
            columns = (
                layers.astype(np.int64, copy=False),
                work.block_offsets.astype(np.int64, copy=False),
                work.blocks.astype(np.int32, copy=False),
                work.row_first.astype(np.int32, copy=False),
                work.row_last.astype(np.int32, copy=False),
                work.kv_tokens.astype(np.int32, copy=False),
                work.causal.astype(np.bool_, copy=False),
            )
            return header + b"".join(column.tobytes() for column in columns)


def decode(data: bytes) -> Message:
    """The inverse of `encode`; the arrays are new and may be written to."""
    whole = np.frombuffer(bytearray(data), dtype=np.uint8)
    kind = int(whole[:8].view(np.int64)[0])
    if kind == Kind.forward:
        return _forward(whole)
    numbers = whole.view(np.int64)[1:].tolist()
    match kind:
        case Kind.stop:
            return Stop()
        case Kind.allocate:
            number, *shape = numbers
            return Allocate(number, tuple(shape))
        case Kind.free:
            return Free(tuple(numbers))
    raise InternalError(f"a message between processes begins with {kind}, which is no kind")


def _forward(whole: np.ndarray) -> Forward:
    header = whole[: 8 * 8].view(np.int64).tolist()
    tokens, rows, num_layers, num_rows, items, num_blocks, block_size = header[1:]
    place = 8 * 8

    def column(count: int, dtype: type[np.generic]) -> np.ndarray:
        nonlocal place
        first, place = place, place + count * np.dtype(dtype).itemsize
        return whole[first:place].view(dtype)

    layers = column(num_layers, np.int64)
    block_offsets = column(items + 1, np.int64)
    blocks = column(num_blocks, np.int32)
    row_first, row_last, kv_tokens = (column(items, np.int32) for _ in range(3))
    work = SegmentWork(
        num_rows=num_rows,
        row_first=row_first,
        row_last=row_last,
        kv_tokens=kv_tokens,
        causal=column(items, np.bool_),
        block_offsets=block_offsets,
        blocks=blocks,
        block_size=block_size,
    )
    return Forward(tokens, None if rows < 0 else rows, layers, work)


def _numbers(*numbers: int) -> bytes:
    return np.array(numbers, dtype=np.int64).tobytes()
