"""Means over the rows of prompts: what a shared segment's rows add up to is added up once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from shoal.cuda.transfers import Stage
from shoal.errors import InternalError
from shoal.planner import Plan
from shoal.scheduler import TokenBatch
from shoal.types import Int64Array, RequestTable

_KEPT = 3
"""Sums of which an owner's last are kept: two batches may be under way, and be undone."""

_Owner = tuple[bool, int]
"""A segment (True), or a slot of a running sequence (False), by its number."""


@dataclass(frozen=True)
class _Sum:
    """Of an owner's rows [0, end), float32 [width], of which the last chunk began at `first`."""

    first: int
    end: int
    rows: torch.Tensor


@dataclass(frozen=True)
class _Parts:
    """Which sums each sample adds up.

    Attributes:
        sample, part: int64, pairs; a part is a chunk of the batch, or C + its place in `known`.
        known: owners whose sums over all of their rows are needed.
    """

    sample: Int64Array
    part: Int64Array
    known: list[_Owner]


class MeanRows:
    """A prompt's vector is the mean of its rows; see `Pooler`."""

    def __init__(self, table: RequestTable, plan: Plan) -> None:
        self._plan = plan
        self._lengths = table.lengths
        self._users = plan.segment_users.astype(np.int64)
        """Of each segment, those that have not finished."""
        self._sums: dict[_Owner, list[_Sum]] = {}

    def rows(self, batch: TokenBatch) -> TokenBatch:
        """See `Pooler`: all."""
        return replace(batch, logit_rows=np.arange(batch.num_tokens))

    def plan(self, batch: TokenBatch, stage: Stage) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Pooler`."""
        chunks = batch.chunks
        parts = self._parts(batch)
        chunk_of_row = stage.put(np.repeat(np.arange(len(chunks)), chunks.count))
        sample, part = stage.put(parts.sample), stage.put(parts.part)
        requests = self._plan.sequence_request[batch.sample_sequences]
        lengths = stage.put(self._lengths[requests].astype(np.float32))

        def vectors(rows: torch.Tensor) -> torch.Tensor:
            width = rows.shape[1] if rows.ndim == 2 else self._width()
            sums = torch.zeros(len(chunks), width, device=lengths.device)
            if len(chunks):
                sums.index_add_(0, chunk_of_row, rows.float())
            self._add(batch, sums)
            if parts.known:
                known = torch.stack([self._sums[owner][-1].rows for owner in parts.known])
                sums = torch.cat([sums, known])
            total = sums.new_zeros(len(batch.sample_sequences), width)
            return total.index_add_(0, sample, sums[part]) / lengths[:, None]

        return vectors

    def collected(self, batch: TokenBatch) -> None:
        """See `Pooler`: sequences that have their vector need their sums no more."""
        for chunk in self._sampled_chunks(batch)[1].tolist():
            self._sums.pop(_owners(batch)[chunk], None)

    def finish(self, sequences: list[int]) -> None:
        """See `Pooler`: a segment's sum goes with its last user."""
        for sequence in sequences:
            for segment in self._plan.path(int(self._plan.sequence_segment[sequence])):
                self._users[segment] -= 1
                if self._users[segment] == 0:
                    self._sums.pop((True, segment), None)

    def _sampled_chunks(self, batch: TokenBatch) -> tuple[Int64Array, Int64Array]:
        """Samples whose last row is their own, and its chunk."""
        here = np.flatnonzero(batch.sample_logits < len(batch.logit_rows))
        rows = batch.logit_rows[batch.sample_logits[here]]
        chunk = np.searchsorted(batch.chunks.row_starts, rows, side="right") - 1
        own = batch.chunks.own[chunk]
        return here[own], chunk[own]

    def _parts(self, batch: TokenBatch) -> _Parts:
        samples, chunks = self._sampled_chunks(batch)
        first, owners = batch.chunks.first, _owners(batch)
        pairs: list[tuple[int, int]] = []
        known: dict[_Owner, int] = {}

        def place(owner: _Owner) -> int:
            return len(batch.chunks) + known.setdefault(owner, len(known))

        for sample, chunk in zip(samples.tolist(), chunks.tolist(), strict=True):
            pairs.append((sample, place(owners[chunk]) if first[chunk] else chunk))
        for sample, sequence in enumerate(batch.sample_sequences.tolist()):
            path = self._plan.path(int(self._plan.sequence_segment[sequence]))
            pairs += [(sample, place((True, segment))) for segment in path]
        columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return _Parts(columns[:, 0].copy(), columns[:, 1].copy(), list(known))

    def _add(self, batch: TokenBatch, sums: torch.Tensor) -> None:
        """Add a batch's chunks to their owners' sums.

        A chunk that is computed again, or its owner from the start, takes the place of what was.
        """
        whole = set(self._sampled_chunks(batch)[1].tolist())
        first, count = batch.chunks.first.tolist(), batch.chunks.count.tolist()
        for chunk, owner in enumerate(_owners(batch)):
            if chunk in whole and first[chunk] == 0:
                continue
            before = [each for each in self._sums.get(owner, []) if each.first < first[chunk]]
            end = before[-1].end if before else 0
            if end != first[chunk]:
                raise InternalError(f"rows from {end} on are missing in a sum")
            rows = before[-1].rows + sums[chunk] if before else sums[chunk].clone()
            found = _Sum(first[chunk], first[chunk] + count[chunk], rows)
            self._sums[owner] = [*before[1 - _KEPT :], found]

    def _width(self) -> int:
        """Of the sums there are: a batch without rows adds up those of earlier ones."""
        return len(next(iter(self._sums.values()))[-1].rows)


def _owners(batch: TokenBatch) -> list[_Owner]:
    """Of each chunk."""
    chunks = batch.chunks
    numbers = np.zeros(len(chunks), dtype=np.int64)
    numbers[chunks.shared], numbers[chunks.own] = chunks.segments, chunks.slots
    return list(zip(chunks.shared.tolist(), numbers.tolist(), strict=True))
