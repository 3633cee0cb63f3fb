"""A state list made ready for a device: which rows are computed together, from which states.

Chunks of one row, most of them decodes, are one step of the recurrence for all of them at once.
Longer chunks are padded to the longest of a batch; a batch holds those that a function which works
in pieces of `_PIECE` tokens would pad to the same length anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from shoal.kernels import load_kernels
from shoal.kernels.recurrence import RecurrenceOps
from shoal.state_work import FROM_NOTHING, StateWork
from shoal.types import Int64Array

_PIECE = 64
_MOST_PADDED = 1 << 14
"""Tokens of a padded batch, unless one chunk alone has more."""


@dataclass(frozen=True)
class ChunkBatch:
    """B chunks computed together.

    Attributes:
        length: tokens of the longest.
        rows: int64 [n], their rows of the token batch, chunk after chunk.
        places: int64 [n], where each stands in the padded batch [B * length].
        source, target: int64 [B], state slots.
    """

    length: int
    rows: torch.Tensor
    places: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Values [T, ...] of a token batch's rows as [B, length, ...], zeros behind them."""
        if self.length == 1:
            return values[self.rows][:, None]
        shape = (len(self.source) * self.length, *values.shape[1:])
        batch = values.new_zeros(shape)
        batch[self.places] = values[self.rows]
        return batch.view(-1, self.length, *values.shape[1:])

    def store(self, values: torch.Tensor, into: torch.Tensor) -> None:
        """Write values [B, length, ...] into the rows of `into` [T, ...]."""
        into[self.rows] = values.flatten(0, 1)[self.places].to(into.dtype)


@dataclass(frozen=True)
class ConvRows:
    """The rows of a convolution over k tokens: each chunk's, behind the k - 1 that came before.

    Attributes:
        size: rows of the extended batch, E.
        own: int64 [T], where each row of the token batch stands in it.
        from_states: int64 [C * (k - 1)], where those stand that came before.
        source: int64 [C * (k - 1)], which entry of the states [slots + 1, k - 1] each is; -1 where
            it is a row of the batch.
        batch_rows: int64, for those with -1, the row of the token batch.
        tails: int64 [C * (k - 1)], the rows of the extended batch that are each chunk's new state.
    """

    size: int
    own: torch.Tensor
    from_states: torch.Tensor
    source: torch.Tensor
    from_rows: torch.Tensor
    batch_rows: torch.Tensor
    tails: torch.Tensor


class PreparedStates:
    """A token batch's state list on a device.

    Attributes:
        ops: the C++ kernels on this batch; None: there are none for the device.
        targets: int64 [C], the slot each chunk's end is written to.
        generated: bool [T], see `StateWork`.
    """

    def __init__(self, work: StateWork, num_slots: int, device: torch.device) -> None:
        """`num_slots`: of the states' memory, whose next slot is the state before a token."""
        self._work, self._device, self._num_slots = work, device, num_slots
        self._source = np.where(work.source == FROM_NOTHING, num_slots, work.source)
        self.targets = self._put(work.target)
        self.generated = torch.from_numpy(work.generated).to(device, non_blocking=True)
        kernels = load_kernels() if device.type == "cpu" else None
        self.ops = None if kernels is None else RecurrenceOps(kernels, work, self._source)
        self._conv: dict[int, ConvRows] = {}

    @cached_property
    def batches(self) -> list[ChunkBatch]:
        """Chunks computed together, in an order in which no source is read before it is written."""
        return [
            self._batch(chunks)
            for level in self._levels()
            for chunks in _together(self._work, level)
        ]

    def conv_rows(self, earlier: int) -> ConvRows:
        """For a convolution that reads `earlier` tokens before each."""
        if earlier not in self._conv:
            self._conv[earlier] = self._conv_rows(earlier)
        return self._conv[earlier]

    def _put(self, values: Int64Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device, non_blocking=True)

    def _levels(self) -> list[Int64Array]:
        level = self._work.level
        return [np.flatnonzero(level == each) for each in range(int(level.max(initial=-1)) + 1)]

    def _batch(self, chunks: Int64Array) -> ChunkBatch:
        work = self._work
        count, first = work.count[chunks], work.row_first[chunks]
        length = int(count.max())
        begins = np.cumsum(count) - count
        within = np.arange(int(count.sum())) - np.repeat(begins, count)
        return ChunkBatch(
            length,
            rows=self._put(np.repeat(first, count) + within),
            places=self._put(np.repeat(np.arange(len(chunks)) * length, count) + within),
            source=self._put(self._source[chunks]),
            target=self._put(work.target[chunks]),
        )

    def _conv_rows(self, earlier: int) -> ConvRows:
        work = self._work
        count, chunks = work.count, len(work.count)
        ends = np.cumsum(count + earlier)
        offset = np.arange(earlier)
        before = (ends - count - earlier)[:, None] + offset
        own = np.arange(work.num_rows) + np.repeat((np.arange(chunks) + 1) * earlier, count)
        entries, rows = self._history(earlier)
        from_rows = rows >= 0
        return ConvRows(
            size=int(ends[-1]) if chunks else 0,
            own=self._put(own),
            from_states=self._put(before[~from_rows]),
            source=self._put(entries[~from_rows]),
            from_rows=self._put(before[from_rows]),
            batch_rows=self._put(rows[from_rows]),
            tails=self._put(((ends - earlier)[:, None] + offset).ravel()),
        )

    def _history(self, earlier: int) -> tuple[Int64Array, Int64Array]:
        """What came before each chunk, [C, earlier]: entries of the states, and, where it was in
        this batch, rows of it (else -1)."""
        work = self._work
        entries = self._source[:, None] * earlier + np.arange(earlier)
        rows = np.full(entries.shape, -1, dtype=np.int64)
        writer = np.full(self._num_slots + 1, -1, dtype=np.int64)
        writer[work.target] = np.arange(len(work.target))
        for level in self._levels()[1:]:
            parent = writer[self._source[level]]
            # Token t of the parent's rows is what stands at its place; before them its own history.
            token = work.count[parent][:, None] - earlier + np.arange(earlier)
            inside = token >= 0
            older = np.minimum(token + earlier, earlier - 1), parent[:, None]
            entries[level] = np.where(inside, 0, entries[older[1], older[0]])
            begin = work.row_first[parent][:, None]
            rows[level] = np.where(inside, begin + token, rows[older[1], older[0]])
        return entries, rows


def _together(work: StateWork, chunks: Int64Array) -> list[Int64Array]:
    """Chunks of one level in batches."""
    count = work.count[chunks]
    batches = []
    for pieces in np.unique(np.where(count == 1, 0, -(-count // _PIECE))).tolist():
        some = chunks[np.where(count == 1, 0, -(-count // _PIECE)) == pieces]
        most = len(some) if pieces == 0 else max(1, _MOST_PADDED // (pieces * _PIECE))
        batches += [some[begin : begin + most] for begin in range(0, len(some), most)]
    return batches
